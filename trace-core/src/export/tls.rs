//! Whom to trust, and how to prove who we are: one set-up of rustls for HTTP and gRPC.
//!
//! The cryptography is ring's, whatever other provider the process has installed, so that nothing has to be.

#[cfg(feature = "tls")]
mod enabled {
    use std::path::Path;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, RootCertStore};
    use rustls_platform_verifier::BuilderVerifierExt;

    use crate::config::OtlpConfig;
    use crate::export::retry::{Problem, ProblemKind};

    /// The set-up for an endpoint. Reads files; not for a thread that must not wait.
    ///
    /// An endpoint without TLS needs no certificates, and none are read.
    pub(crate) fn client_config(config: &OtlpConfig) -> Result<ClientConfig, Problem> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| setup(format!("TLS: {error}")))?;
        if config.endpoint.scheme_str() != Some("https") {
            return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
        }
        let builder = match &config.certificate {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| setup(format!("{}: {error}", path.display())))?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder
                .with_platform_verifier()
                .map_err(|error| setup(format!("the system's certificates: {error}")))?,
        };
        match (&config.client_key, &config.client_certificate) {
            (Some(key_path), Some(path)) => {
                let key = PrivateKeyDer::from_pem_file(key_path)
                    .map_err(|error| setup(format!("{}: {error}", key_path.display())))?;
                builder
                    .with_client_auth_cert(certificates(path)?, key)
                    .map_err(|error| setup(format!("{}: {error}", path.display())))
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }

    fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
        let problem = |text: &str| setup(format!("{}: {text}", path.display()));
        let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| problem(&error.to_string()))?;
        if certificates.is_empty() { Err(problem("no certificate in it")) } else { Ok(certificates) }
    }

    fn setup(detail: String) -> Problem {
        Problem::new(ProblemKind::Setup, detail)
    }
}

#[cfg(feature = "tls")]
pub(crate) use enabled::client_config;

use super::retry::{Problem, ProblemKind};
use crate::config::OtlpConfig;

/// Whether this build can reach the endpoint.
pub(crate) fn check(config: &OtlpConfig) -> Result<(), Problem> {
    if cfg!(feature = "tls") || config.endpoint.scheme_str() != Some("https") {
        return Ok(());
    }
    let detail = "an https endpoint needs the feature `tls` of trace-core";
    Err(Problem::new(ProblemKind::Setup, detail))
}
