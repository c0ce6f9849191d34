//! The collector's side of TLS: a certificate of the test's own, as good or as bad as the test wants it.
//!
//! Certificates come as PEM, so that whoever tests needs no crate that makes them. Without the feature `tls` there is
//! none, and the type has no value.

#[cfg(feature = "tls")]
mod enabled {
    use std::io;
    use std::sync::Arc;

    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsAcceptor;

    use crate::testing::Protocol;
    use crate::testing::line::Stream;

    #[derive(Clone)]
    pub(in crate::testing) struct Tls(TlsAcceptor);

    impl Tls {
        pub(in crate::testing) fn new(certificate: &str, key: &str, protocol: Protocol) -> io::Result<Self> {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(invalid)?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(invalid)?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(invalid)?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(invalid)?;
            let alpn = match protocol {
                Protocol::Http => "http/1.1",
                Protocol::Grpc => "h2",
            };
            config.alpn_protocols = vec![alpn.into()];
            Ok(Self(TlsAcceptor::from(Arc::new(config))))
        }

        pub(in crate::testing) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
            Ok(Stream::Tls(Box::new(self.0.accept(stream).await?)))
        }
    }

    fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

#[cfg(not(feature = "tls"))]
mod disabled {
    use std::convert::Infallible;
    use std::io;

    use tokio::net::TcpStream;

    use crate::testing::Protocol;
    use crate::testing::line::Stream;

    #[derive(Clone)]
    pub(in crate::testing) struct Tls(Infallible);

    impl Tls {
        pub(in crate::testing) fn new(_: &str, _: &str, _: Protocol) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in crate::testing) async fn accept(&self, _: TcpStream) -> io::Result<Stream> {
            match self.0 {}
        }
    }
}

#[cfg(not(feature = "tls"))]
pub(super) use self::disabled::Tls;
#[cfg(feature = "tls")]
pub(super) use self::enabled::Tls;
