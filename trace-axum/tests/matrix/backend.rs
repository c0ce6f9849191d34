//! What can be wrong on the other side: a collector, the network before it, its name, its certificate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use trace_core::config::{OtlpConfig, Protocol};
use trace_core::testing::{Behaviour, Collector, Names, Proxy, Traffic};

pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];

/// A thing that goes wrong, and what may come of it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) arrives: Arrives,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Behaves(Behaviour),
    Flaps,
    /// The collector changes its address, and its name with it.
    Moves,
    Network(Traffic),
    /// A name that the system's own resolver does not find.
    NoSuchHost,
    NameFails,
    NameHangs,
    Certificate(Wrong),
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wrong {
    Authority,
    Name,
    Expired,
}

/// How many of the spans the collector gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrives {
    All,
    Nothing,
    /// It depends on who is faster.
    Some,
}

/// Every fault, nothing wrong at the front.
pub(crate) fn faults() -> Vec<Fault> {
    let behaves = |name, behaviour, arrives| Fault { name, kind: Kind::Behaves(behaviour), arrives };
    let network = |name, traffic, arrives| Fault { name, kind: Kind::Network(traffic), arrives };
    let of = |name, kind, arrives| Fault { name, kind, arrives };
    let ms = Duration::from_millis;
    let mut faults = vec![
        behaves("healthy", Behaviour::Accept, Arrives::All),
        behaves("answers late", Behaviour::Delay(ms(40)), Arrives::Some),
        behaves("refuses connections", Behaviour::Refuse, Arrives::Nothing),
        behaves("resets connections", Behaviour::Reset, Arrives::Nothing),
        behaves("accepts and reads nothing", Behaviour::Freeze, Arrives::Nothing),
        behaves("reads and never answers", Behaviour::Hang, Arrives::Nothing),
        behaves("answers a byte a second", Behaviour::Drip(ms(1_000)), Arrives::Some),
        behaves("closes before the answer", Behaviour::BreakOff { after_bytes: 0 }, Arrives::Some),
        behaves("closes in mid-answer", Behaviour::BreakOff { after_bytes: 15 }, Arrives::Some),
        behaves("garbage", Behaviour::Garbage { bytes: 300 }, Arrives::Nothing),
        behaves("a gigabyte of garbage", Behaviour::Garbage { bytes: 1 << 30 }, Arrives::Nothing),
        behaves("a gigabyte in a good answer", Behaviour::Flood { bytes: 1 << 30 }, Arrives::Some),
        behaves(
            "partial success",
            Behaviour::PartialSuccess { rejected: 2, message: "too old".to_owned() },
            Arrives::Some,
        ),
        behaves("429 with a pause", Behaviour::throttled(ms(1_000)), Arrives::Nothing),
        behaves("429 without a pause", Behaviour::fail(429, 8), Arrives::Nothing),
        of("flaps at random", Kind::Flaps, Arrives::Some),
        of("changes its address", Kind::Moves, Arrives::Some),
        of("no such host", Kind::NoSuchHost, Arrives::Nothing),
        of("the name fails", Kind::NameFails, Arrives::Nothing),
        of("the name server hangs", Kind::NameHangs, Arrives::Nothing),
        of("TLS, wrong authority", Kind::Certificate(Wrong::Authority), Arrives::Nothing),
        of("TLS, wrong name", Kind::Certificate(Wrong::Name), Arrives::Nothing),
        of("TLS, expired", Kind::Certificate(Wrong::Expired), Arrives::Nothing),
        network("a slow network", Traffic::Delayed(ms(20)), Arrives::Some),
        network("a network that loses", Traffic::Lossy { percent: 10, seed: 1 }, Arrives::Some),
        network("a partition", Traffic::Stalled, Arrives::Nothing),
        network("a partition of the answers", Traffic::OneWay, Arrives::Some),
        network("a cut network", Traffic::Cut, Arrives::Nothing),
    ];
    // Each error of gRPC, beside one of HTTP.
    let errors = [
        ("499, CANCELLED", 499, 1),
        ("500, UNKNOWN", 500, 2),
        ("400, INVALID_ARGUMENT", 400, 3),
        ("504, DEADLINE_EXCEEDED", 504, 4),
        ("404, NOT_FOUND", 404, 5),
        ("409, ALREADY_EXISTS", 409, 6),
        ("403, PERMISSION_DENIED", 403, 7),
        ("412, FAILED_PRECONDITION", 412, 9),
        ("408, ABORTED", 408, 10),
        ("416, OUT_OF_RANGE", 416, 11),
        ("501, UNIMPLEMENTED", 501, 12),
        ("413, INTERNAL", 413, 13),
        ("503, UNAVAILABLE", 503, 14),
        ("502, DATA_LOSS", 502, 15),
        ("401, UNAUTHENTICATED", 401, 16),
    ];
    faults.extend(
        errors.map(|(name, http, grpc)| behaves(name, Behaviour::fail(http, grpc), Arrives::Nothing)),
    );
    faults
}

/// The other side with one fault, and how it is reached.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) collector: Collector,
    pub(crate) otlp: OtlpConfig,
    names: Names,
    moves: bool,
    _network: Option<Proxy>,
}

/// Where there is a name, it is this one.
pub(crate) const NAME: &str = "collector.test";

impl Backend {
    pub(crate) fn new(fault: &Fault, protocol: Protocol) -> Self {
        let mut builder = Collector::builder();
        if let Kind::Certificate(wrong) = fault.kind {
            let (certificate, key) = PKI.get_or_init(make_pki).server(wrong);
            builder = builder.tls(certificate, key);
        }
        let collector = builder.start_blocking().unwrap();
        let mut otlp = OtlpConfig::new(protocol);
        let address = match protocol {
            Protocol::Grpc => collector.grpc_address(),
            _ => collector.http_address(),
        };
        let names = Names::new();
        let mut network = None;
        let mut host = address.to_string();
        match &fault.kind {
            Kind::Behaves(behaviour) => collector.behave(behaviour.clone()),
            Kind::Flaps => collector.play(Behaviour::flapping(FLAPS_SEED, Duration::from_millis(20))),
            Kind::Network(traffic) => {
                let proxy = Proxy::start_blocking(address).unwrap();
                proxy.set(*traffic);
                host = proxy.address().to_string();
                network = Some(proxy);
            }
            Kind::NoSuchHost => host = "collector.invalid:4318".to_owned(),
            Kind::Moves | Kind::NameFails | Kind::NameHangs => {
                host = format!("{NAME}:{}", address.port());
                otlp.resolver = names.resolver();
                match fault.kind {
                    Kind::NameHangs => names.hang(NAME),
                    Kind::NameFails => names.fail(NAME),
                    _ => names.point(NAME, address.ip()),
                }
            }
            Kind::Certificate(_) => {
                host = format!("localhost:{}", address.port());
                otlp.certificate = Some(PKI.get_or_init(make_pki).authority_file.clone());
            }
        }
        let scheme = if matches!(fault.kind, Kind::Certificate(_)) { "https" } else { "http" };
        let path = if protocol == Protocol::Grpc { "" } else { "/v1/traces" };
        otlp.endpoint = format!("{scheme}://{host}{path}").parse().unwrap();
        Self { collector, otlp, names, moves: matches!(fault.kind, Kind::Moves), _network: network }
    }

    /// What happens in the middle of the work.
    pub(crate) fn midway(&self) {
        if self.moves {
            // One of its own: a port that one collector left may be given to another, which will move too.
            static NEXT: AtomicU8 = AtomicU8::new(1);
            let address = IpAddr::V4(Ipv4Addr::new(127, 0, 1, NEXT.fetch_add(1, Ordering::Relaxed)));
            self.collector.move_to(address).unwrap();
            self.names.point(NAME, address);
        }
    }
}

/// Any will do; it is told here, so that a failure can be seen again.
const FLAPS_SEED: u64 = 4;

/// Who signs certificates, and whom the exporter trusts.
struct Pki {
    ours: CertifiedIssuer<'static, KeyPair>,
    foreign: CertifiedIssuer<'static, KeyPair>,
    authority_file: PathBuf,
}

static PKI: OnceLock<Pki> = OnceLock::new();

fn make_pki() -> Pki {
    let authority = || {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let ours = authority();
    let authority_file = std::env::temp_dir().join(format!("trace-axum-matrix-{}.pem", std::process::id()));
    std::fs::write(&authority_file, ours.pem()).unwrap();
    Pki { ours, foreign: authority(), authority_file }
}

impl Pki {
    /// A certificate and its key, in PEM.
    fn server(&self, wrong: Wrong) -> (String, String) {
        let name = if matches!(wrong, Wrong::Name) { "elsewhere" } else { "localhost" };
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if matches!(wrong, Wrong::Expired) {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let authority = if matches!(wrong, Wrong::Authority) { &self.foreign } else { &self.ours };
        (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
    }
}

/// Removes what was written for the certificates.
pub(crate) fn clean_up() {
    if let Some(pki) = PKI.get() {
        let _ = std::fs::remove_file(&pki.authority_file);
    }
}

/// For a service without a name.
pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}
