//! How a pipeline is set up: plain values, and where they come from.
//!
//! A [`Config`] is all that a pipeline needs to know, as plain public fields with their defaults. It can be
//! written in code, and everything in it can be set from outside by the [environment variables of
//! OpenTelemetry](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/), and a few
//! of our own for what those do not know, with no rebuild. A bad value never stops a service: it is put down in a [`Report`], and the default is used.
//!
//! ```
//! use trace_core::config::{Config, ExporterConfig};
//!
//! let environment = [("OTEL_TRACES_EXPORTER", "console"), ("OTEL_BSP_SCHEDULE_DELAY", "soon")];
//! let (config, reports) = Config::from_lookup(
//!     |name| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
//!     environment.iter().map(|(name, _)| name.into()),
//! );
//!
//! assert!(matches!(config.exporter, ExporterConfig::Console));
//! assert_eq!(
//!     reports[0].to_string(),
//!     r#"OTEL_BSP_SCHEDULE_DELAY="soon": expected milliseconds, a whole number from 1 to 2147483647; using the default, 5000"#,
//! );
//! ```
//!
//! # The variables
//!
//! An empty value is no value. Choices and `true` may be written in upper or lower case; white space around a
//! value does not matter. A time-out of 0 means no time-out. Of a pair such as
//! `OTEL_EXPORTER_OTLP_{TRACES_,}TIMEOUT` the one for traces takes precedence, as a whole.
//!
//! | variable | default | sets |
//! |---|---|---|
//! | `OTEL_SDK_DISABLED` | `false` | [`Config::disabled`] |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | – | [`Config::resource`] |
//! | `OTEL_PROPAGATORS` | `tracecontext,baggage` | [`Config::propagators`]; also `none` |
//! | `OTEL_TRACES_EXPORTER` | `otlp` | [`Config::exporter`]; also `console`, `none` |
//! | `OTEL_TRACES_SAMPLER` | `parentbased_always_on` | [`Config::sampler`]; also `always_on`, `always_off`, `traceidratio`, `parentbased_always_off`, `parentbased_traceidratio` |
//! | `OTEL_TRACES_SAMPLER_ARG` | `1` | the ratio of the `traceidratio` samplers, from 0 to 1 |
//! | `OTEL_BSP_SCHEDULE_DELAY` | `5000` ms | [`BatchConfig::schedule_delay`] |
//! | `OTEL_BSP_EXPORT_TIMEOUT` | `30000` ms | [`BatchConfig::export_timeout`] |
//! | `OTEL_BSP_MAX_QUEUE_SIZE` | bounded by bytes | [`BatchConfig::max_queue_spans`] |
//! | `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` | bounded by bytes | [`BatchConfig::max_batch_spans`] |
//! | `OTEL_{SPAN_,}ATTRIBUTE_COUNT_LIMIT` | `128` | [`SpanLimits::attribute_count`] |
//! | `OTEL_{SPAN_,}ATTRIBUTE_VALUE_LENGTH_LIMIT` | no limit | [`SpanLimits::attribute_value_length`] |
//! | `OTEL_SPAN_EVENT_COUNT_LIMIT` | `128` | [`SpanLimits::event_count`] |
//! | `OTEL_SPAN_LINK_COUNT_LIMIT` | `128` | [`SpanLimits::link_count`] |
//! | `OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT`, `OTEL_ATTRIBUTE_COUNT_LIMIT` | `128` | [`SpanLimits::event_attribute_count`] |
//! | `OTEL_LINK_ATTRIBUTE_COUNT_LIMIT`, `OTEL_ATTRIBUTE_COUNT_LIMIT` | `128` | [`SpanLimits::link_attribute_count`] |
//! | `OTEL_EXPORTER_OTLP_{TRACES_,}PROTOCOL` | `http/protobuf` | [`OtlpConfig::protocol`]; also `grpc` |
//! | `OTEL_EXPORTER_OTLP_{TRACES_,}ENDPOINT` | see there | [`OtlpConfig::endpoint`] |
//! | `OTEL_EXPORTER_OTLP_{TRACES_,}HEADERS` | – | [`OtlpConfig::headers`] |
//! | `OTEL_EXPORTER_OTLP_{TRACES_,}TIMEOUT` | `10000` ms | [`OtlpConfig::timeout`] |
//! | `OTEL_EXPORTER_OTLP_{TRACES_,}COMPRESSION` | `none` | [`OtlpConfig::compression`]; also `gzip` |
//! | `OTEL_EXPORTER_OTLP_{TRACES_,}INSECURE` | `false` | [`OtlpConfig::insecure`] |
//! | `OTEL_EXPORTER_OTLP_{TRACES_,}CERTIFICATE` | – | [`OtlpConfig::certificate`] |
//! | `OTEL_EXPORTER_OTLP_{TRACES_,}CLIENT_KEY`, `_CLIENT_CERTIFICATE` | – | [`OtlpConfig::client_key`], [`OtlpConfig::client_certificate`] |
//! | `TRACE_CORE_MEMORY_BYTES_MAX` | `16777216` | [`Config::memory_bytes_max`] |
//! | `TRACE_CORE_SPOOL_DIRECTORY` | – | [`Config::spool`], [`SpoolConfig::directory`] |
//! | `TRACE_CORE_SPOOL_BYTES_MAX` | `268435456` | [`SpoolConfig::bytes_max`]; without a directory it has no effect |
//!
//! Any other variable whose name starts with `OTEL_` or `TRACE_CORE_` is reported as not supported, unless it concerns
//! metrics, logs or another language only, or Kubernetes sets it for a service whose name starts with `otel`.

mod env;
mod report;
mod resolver;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, Uri};

use crate::resource::Resource;
use crate::sampler::AnySampler;

pub use report::{ConfigError, Report};
pub use resolver::Resolver;

/// What a time-out of 0 stands for: no limit, in practice the longest time that a 32-bit number of
/// milliseconds holds (24.8 days), as the specification allows.
pub const NO_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// The memory that a pipeline uses by default, in bytes.
const MEMORY_BYTES_MAX: usize = 16 << 20;

/// All that a pipeline needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// No span is recorded or sent; contexts are still passed on. Default: `false`.
    pub disabled: bool,
    /// Who is speaking. Default: [`Resource::detect`].
    pub resource: Resource,
    /// How the context travels, in the order in which headers are read. Default: `tracecontext`, `baggage`.
    pub propagators: Vec<PropagatorName>,
    /// Where finished spans go. Default: OTLP.
    pub exporter: ExporterConfig,
    /// Which spans are recorded. Default: all that no caller decided against (`parentbased_always_on`).
    pub sampler: AnySampler,
    /// When and in what portions spans leave.
    pub batch: BatchConfig,
    /// How large one span may grow.
    pub limits: SpanLimits,
    /// The bound of all memory that a pipeline uses, in bytes: live spans, finished ones, batches in flight.
    /// Default: 16 MiB, some 40 000 spans.
    /// Of a larger bound than some 3 GiB, no more than 2 GiB are used for finished spans.
    pub memory_bytes_max: usize,
    /// Where spans that cannot be sent wait on disk. Default: nowhere. It serves exporters of OTLP only.
    pub spool: Option<SpoolConfig>,
}

/// A bounded buffer on disk for spans that cannot be sent: while the collector is away for longer than memory lasts, at a
/// shutdown, and over the death of the process.
///
/// A batch is written when all attempts to send it have failed, when a quarter of the memory for finished spans waits and
/// the collector does not take any, and when a shutdown's time is nearly over. What is on disk is sent before what is in
/// memory, the oldest first, as soon as the collector accepts again, and by the next start that is given the directory.
/// It is tried until the collector accepts or rejects it. A collector may get a batch twice, if it did not answer the first
/// time or the process was killed.
///
/// Nothing is read or written on a thread that serves requests.
///
/// ```
/// use trace_core::Tracer;
/// use trace_core::config::SpoolConfig;
///
/// let builder = Tracer::builder().configure(|config| {
///     let mut spool = SpoolConfig::new("/var/spool/traces");
///     spool.bytes_max = 1 << 30;
///     config.spool = Some(spool);
/// });
/// ```
///
/// # Data loss
/// When the directory is full the oldest spans are dropped. A disk that cannot be used is reported, and spans are dropped
/// as they would be without it; a damaged file is dropped. Each is counted by a reason of its own
/// ([`DropReason`](crate::DropReason)). A power cut may cost what was written in its last seconds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpoolConfig {
    /// The directory; it is made if it is missing, for this user alone. Several pipelines and processes may be given the
    /// same one: each keeps its files apart, and a start takes over what was left by processes that are gone.
    pub directory: PathBuf,
    /// The most that one pipeline's files take on disk, in bytes, counted in blocks of 4 KiB. At least 1 MiB is of use,
    /// because a batch takes nearly as much. Default: 256 MiB.
    pub bytes_max: u64,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) faults: crate::export::spool::faults::DiskFaults,
}

/// A format in which the context travels in headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PropagatorName {
    /// `traceparent` and `tracestate`: [W3C Trace Context](https://www.w3.org/TR/trace-context-2/).
    TraceContext,
    /// `baggage`: [W3C Baggage](https://www.w3.org/TR/baggage/).
    Baggage,
}

/// Where finished spans go.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "a pipeline has one, read when it starts")]
pub enum ExporterConfig {
    /// To a collector, by the OpenTelemetry protocol.
    Otlp(OtlpConfig),
    /// To the terminal, each finished trace as a tree.
    Console,
    /// Nowhere.
    None,
}

/// How a collector is reached.
/// [Specification](https://opentelemetry.io/docs/specs/otel/protocol/exporter/)
#[derive(Clone)]
#[non_exhaustive]
pub struct OtlpConfig {
    /// The protocol. Default: HTTP with protobuf.
    pub protocol: Protocol,
    /// The address that requests go to, complete with scheme and, for HTTP, path.
    /// Default: `http://localhost:4318/v1/traces`, or `http://localhost:4317` for gRPC.
    ///
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is used as it is. `OTEL_EXPORTER_OTLP_ENDPOINT` is a base
    /// address: for HTTP `/v1/traces` is added to its path, with or without a slash at its end. For gRPC the
    /// scheme may be missing: then it is `https`, or `http` if [`insecure`](Self::insecure) is set.
    ///
    /// It is called directly: no proxy of the environment is used, and no redirect is followed.
    pub endpoint: Uri,
    /// Headers of every request, such as an API key. Default: none.
    ///
    /// In the environment they are written `name=value,name=value`, with percent-encoded values. Headers that
    /// belong to the protocol (`content-type` and the like) are refused. The values are marked sensitive:
    /// they show neither in `Debug` nor in a report.
    pub headers: HeaderMap,
    /// The time for one attempt to send one batch. Default: 10 s.
    pub timeout: Duration,
    /// How a request's body is compressed. Default: not.
    pub compression: Compression,
    /// For gRPC, and only for an endpoint that names no scheme: whether to speak without TLS. Default:
    /// `false`.
    pub insecure: bool,
    /// A PEM file with the certificates that a collector is trusted by, instead of the system's. Default:
    /// none.
    pub certificate: Option<PathBuf>,
    /// A PEM file with the key by which this process proves who it is. Default: none.
    pub client_key: Option<PathBuf>,
    /// A PEM file with the certificates that belong to [`client_key`](Self::client_key). Default: none.
    pub client_certificate: Option<PathBuf>,
    /// Who knows the address of the endpoint's host. Default: the system.
    pub resolver: Resolver,
}

/// A way to carry OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// `http/protobuf`: protobuf bodies over HTTP.
    HttpProtobuf,
    /// `grpc`.
    Grpc,
}

/// How a request's body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
}

/// When and in what portions spans leave.
/// [Specification](https://opentelemetry.io/docs/specs/otel/trace/sdk/#batching-processor)
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchConfig {
    /// The longest time a finished span waits for others before a batch is made, at least 1 ms. Default: 5 s.
    pub schedule_delay: Duration,
    /// The most finished spans that wait, at least 1. Default: `None`, which leaves the bound to
    /// [`Config::memory_bytes_max`] (the specification's 2 048 spans lose half of a burst).
    pub max_queue_spans: Option<usize>,
    /// The most spans in a batch, at least 1. Default: `None`, which makes batches by bytes (the
    /// specification's 512 spans cost nearly twice as much to send).
    pub max_batch_spans: Option<usize>,
    /// The time for all attempts to send one batch; then its spans are dropped, or written to the
    /// [spool](Config::spool). Default: 30 s.
    pub export_timeout: Duration,
}

/// How large one span may grow; what is beyond is counted in the span, and not kept.
/// [Specification](https://opentelemetry.io/docs/specs/otel/trace/sdk/#span-limits)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpanLimits {
    /// The most attributes of a span. Default: 128.
    pub attribute_count: usize,
    /// The most characters of an attribute's text, in spans, events and links alike. Default: no limit but
    /// the one of the span, 64 KiB.
    pub attribute_value_length: Option<usize>,
    /// The most events of a span. Default: 128.
    pub event_count: usize,
    /// The most links of a span. Default: 128.
    pub link_count: usize,
    /// The most attributes of one event. Default: 128.
    pub event_attribute_count: usize,
    /// The most attributes of one link. Default: 128.
    pub link_attribute_count: usize,
}

impl Config {
    /// What the environment of this process says, and what is wrong with it. It never fails.
    pub fn from_env() -> (Self, Vec<Report>) {
        Self::from_lookup(|name| std::env::var_os(name), std::env::vars_os().map(|(name, _)| name))
    }

    /// What an environment says, and what is wrong with it.
    ///
    /// `lookup` gives the value of a variable; `names` are those of all variables that are set, so that the
    /// ones that are not supported can be reported.
    pub fn from_lookup(
        lookup: impl Fn(&str) -> Option<OsString>,
        names: impl IntoIterator<Item = OsString>,
    ) -> (Self, Vec<Report>) {
        env::read(&lookup, names)
    }
}

impl SpoolConfig {
    /// A spool in this directory, of 256 MiB.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            bytes_max: 256 << 20,
            #[cfg(any(test, feature = "testing"))]
            faults: crate::export::spool::faults::DiskFaults::default(),
        }
    }

    /// A spool on a disk that misbehaves on command.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_faults(mut self, faults: crate::export::spool::faults::DiskFaults) -> Self {
        self.faults = faults;
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            disabled: false,
            resource: Resource::detect(),
            propagators: vec![PropagatorName::TraceContext, PropagatorName::Baggage],
            exporter: ExporterConfig::default(),
            sampler: AnySampler::default(),
            batch: BatchConfig::default(),
            limits: SpanLimits::default(),
            memory_bytes_max: MEMORY_BYTES_MAX,
            spool: None,
        }
    }
}

impl PropagatorName {
    /// The name that `OTEL_PROPAGATORS` knows it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TraceContext => "tracecontext",
            Self::Baggage => "baggage",
        }
    }
}

impl fmt::Display for PropagatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Default for ExporterConfig {
    fn default() -> Self {
        Self::Otlp(OtlpConfig::default())
    }
}

impl OtlpConfig {
    /// A collector that is reached by this protocol at its default address, on this host.
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            endpoint: match protocol {
                Protocol::HttpProtobuf => Uri::from_static("http://localhost:4318/v1/traces"),
                Protocol::Grpc => Uri::from_static("http://localhost:4317"),
            },
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(10),
            compression: Compression::None,
            insecure: false,
            certificate: None,
            client_key: None,
            client_certificate: None,
            resolver: Resolver::system(),
        }
    }
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self::new(Protocol::HttpProtobuf)
    }
}

impl fmt::Debug for OtlpConfig {
    /// Without the values of headers, or a password or query in the endpoint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpConfig")
            .field("protocol", &self.protocol)
            .field("endpoint", &report::redact_address(&self.endpoint.to_string()))
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("timeout", &self.timeout)
            .field("compression", &self.compression)
            .field("insecure", &self.insecure)
            .field("certificate", &self.certificate)
            .field("client_key", &self.client_key)
            .field("client_certificate", &self.client_certificate)
            .field("resolver", &self.resolver)
            .finish()
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HttpProtobuf => "http/protobuf",
            Self::Grpc => "grpc",
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
        })
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            schedule_delay: Duration::from_millis(5_000),
            max_queue_spans: None,
            max_batch_spans: None,
            export_timeout: Duration::from_millis(30_000),
        }
    }
}

impl Default for SpanLimits {
    fn default() -> Self {
        Self {
            attribute_count: 128,
            attribute_value_length: None,
            event_count: 128,
            link_count: 128,
            event_attribute_count: 128,
            link_attribute_count: 128,
        }
    }
}

#[cfg(test)]
mod tests;
