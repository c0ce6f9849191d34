//! Whom the exporter trusts, and how it proves who it is, by both protocols.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::testing::Collector;
use trace_core::{FlushError, Tracer, Traces};

const LONG: Duration = Duration::from_secs(60);

#[cfg(feature = "grpc")]
const PROTOCOLS: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];
#[cfg(not(feature = "grpc"))]
const PROTOCOLS: [Protocol; 1] = [Protocol::HttpProtobuf];

/// Somebody who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn identity(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        Identity { certificate, key }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }
}

/// A directory that goes away.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trace-core-tls-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A collector that speaks TLS, as `localhost`.
struct SecureCollector {
    collector: Collector,
    protocol: Protocol,
    port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl SecureCollector {
    /// If `clients` is given, only whom it has signed may come in.
    fn new(protocol: Protocol, server: &Identity, clients: Option<&Authority>) -> Self {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider)
                    .build()
                    .unwrap(),
            ),
            None => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::try_from(server.key.serialize_der()).unwrap();
        let certificate = CertificateDer::from(server.certificate.der().to_vec());
        let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
        let collector = Collector::start_blocking().unwrap();
        let (alpn, behind) = match protocol {
            Protocol::Grpc => ("h2", collector.grpc_address()),
            _ => ("http/1.1", collector.http_address()),
        };
        config.alpn_protocols = vec![alpn.into()];
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(terminate(listener, TlsAcceptor::from(Arc::new(config)), behind));
        Self { collector, protocol, port, _runtime: runtime }
    }

    fn config(&self) -> OtlpConfig {
        let path = if self.protocol == Protocol::Grpc { "" } else { "/v1/traces" };
        let mut config = OtlpConfig::new(self.protocol);
        config.endpoint = format!("https://localhost:{}{path}", self.port).parse().unwrap();
        config
    }
}

/// Takes TLS off, and passes on what is in it.
async fn terminate(listener: TcpListener, tls: TlsAcceptor, behind: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let tls = tls.clone();
        tokio::spawn(async move {
            let mut inside = tls.accept(stream).await?;
            let mut outside = TcpStream::connect(behind).await?;
            tokio::io::copy_bidirectional(&mut inside, &mut outside).await
        });
    }
}

fn pipeline(config: OtlpConfig) -> Traces {
    Tracer::builder()
        .exporter(ExporterConfig::Otlp(config))
        .configure(|config| config.batch.schedule_delay = LONG)
        .try_build()
        .unwrap()
}

#[track_caller]
fn assert_exports(config: OtlpConfig, collector: &Collector) {
    let traces = pipeline(config);
    let id = traces.span("work").start().span_context().unwrap().span_id();
    assert_eq!(traces.blocking_shutdown(LONG), Ok(()), "{}", traces.stats());
    assert_eq!(collector.span_ids(), [id]);
    collector.clear();
}

/// The shutdown comes before the attempts end, and nothing has left.
#[track_caller]
fn assert_does_not_export(config: OtlpConfig, collector: &Collector) {
    let traces = pipeline(config);
    drop(traces.span("work").start());
    assert_eq!(traces.blocking_shutdown(Duration::from_millis(300)), Err(FlushError::Timeout));
    while traces.stats().queued > 0 {
        std::thread::yield_now();
    }
    // With TLS 1.3 a client is turned away after it has begun to send.
    assert_eq!(traces.stats().dropped.total(), 1, "{}", traces.stats());
    assert!(collector.requests().is_empty());
}

#[test]
fn a_collector_is_trusted_by_the_certificate_of_its_authority_only() {
    let files = Files::new("authority");
    let (ours, foreign) = (Authority::new(), Authority::new());
    let ca = files.write("ca.pem", &ours.0.pem());
    for protocol in PROTOCOLS {
        let secure = SecureCollector::new(protocol, &ours.identity("localhost"), None);
        let mut config = secure.config();
        assert_does_not_export(config.clone(), &secure.collector);
        config.certificate = Some(ca.clone());
        assert_exports(config.clone(), &secure.collector);
        config.certificate = Some(files.write("foreign.pem", &foreign.0.pem()));
        assert_does_not_export(config, &secure.collector);

        let other_name = SecureCollector::new(protocol, &ours.identity("elsewhere"), None);
        let mut config = other_name.config();
        config.certificate = Some(ca.clone());
        assert_does_not_export(config, &other_name.collector);
    }
}

#[test]
fn the_exporter_proves_who_it_is_where_that_is_asked_for() {
    let files = Files::new("client");
    let (servers, clients) = (Authority::new(), Authority::new());
    let client = clients.identity("orders");
    let ca = files.write("ca.pem", &servers.0.pem());
    let certificate = files.write("client.pem", &client.certificate.pem());
    let key = files.write("client.key", &client.key.serialize_pem());
    for protocol in PROTOCOLS {
        let secure = SecureCollector::new(protocol, &servers.identity("localhost"), Some(&clients));
        let mut config = secure.config();
        config.certificate = Some(ca.clone());
        assert_does_not_export(config.clone(), &secure.collector);
        config.client_certificate = Some(certificate.clone());
        config.client_key = Some(key.clone());
        assert_exports(config, &secure.collector);
    }
}

#[test]
fn a_certificate_that_comes_late_or_is_renewed_is_found_without_a_restart() {
    let files = Files::new("late");
    let (ours, old) = (Authority::new(), Authority::new());
    for protocol in PROTOCOLS {
        let secure = SecureCollector::new(protocol, &ours.identity("localhost"), None);
        let mut config = secure.config();
        let path = files.0.join(format!("{protocol}.pem").replace('/', "-"));
        config.certificate = Some(path.clone());
        let traces = pipeline(config);
        drop(traces.span("work").start());
        // No file, then one that does not help, then one that does.
        assert_eq!(traces.blocking_flush(Duration::from_millis(50)), Err(FlushError::Timeout));
        std::fs::write(&path, old.0.pem()).unwrap();
        assert_eq!(traces.blocking_flush(Duration::from_millis(500)), Err(FlushError::Timeout));
        std::fs::write(&path, ours.0.pem()).unwrap();
        assert_eq!(traces.blocking_shutdown(LONG), Ok(()));
        assert_eq!(secure.collector.span_ids().len(), 1);
    }
}

#[test]
fn a_certificate_that_is_wrong_in_any_way_costs_its_spans_alone_and_a_right_one_is_trusted() {
    let files = Files::new("wrong");
    let (ours, foreign) = (Authority::new(), Authority::new());
    let ca = files.write("ca.pem", &ours.0.pem());
    let expired = {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        Identity { certificate: params.signed_by(&key, &ours.0).unwrap(), key }
    };
    let cases = [
        (ours.identity("localhost"), true),
        (foreign.identity("localhost"), false),
        (ours.identity("elsewhere"), false),
        (expired, false),
    ];
    for (identity, is_right) in cases {
        let collector = Collector::builder()
            .tls(identity.certificate.pem(), identity.key.serialize_pem())
            .start_blocking()
            .unwrap();
        for protocol in PROTOCOLS {
            let mut config = OtlpConfig::new(protocol);
            config.endpoint = match protocol {
                Protocol::Grpc => collector.grpc_endpoint(),
                _ => format!("{}/v1/traces", collector.http_endpoint()),
            }
            .parse()
            .unwrap();
            config.certificate = Some(ca.clone());
            if is_right {
                assert_exports(config, &collector);
            } else {
                assert_does_not_export(config, &collector);
            }
        }
    }
}

#[test]
fn what_is_no_certificate_is_an_error_of_the_collector() {
    let error = Collector::builder().tls("no certificate", "no key").start_blocking().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
