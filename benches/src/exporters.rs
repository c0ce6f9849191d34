//! How each tracer is set up: as its documentation says, with the batching exporter that it recommends, OTLP over HTTP
//! to the local collector.

use std::borrow::Cow;
use std::mem;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use fastrace::prelude::{Span as FastraceSpan, SpanContext as FastraceContext};
use fastrace_opentelemetry::OpenTelemetryReporter;
use opentelemetry::InstrumentationScope;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Compression, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use trace_core::Tracer;
use trace_core::config::{ExporterConfig, OtlpConfig};
use trace_core::sampler::{AnySampler, ParentBased};
use tracing::{Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layered, SubscriberExt};

use crate::harness::Collector;

const SERVICE: &str = "benches";

/// The span that calls are made in.
const CALLER: &str = "GET /orders/{id}";

/// How old a process is before a request comes, at the least: by then this workspace's clock is calibrated. All spans of a trace read
/// the one that its first span found.
const SETTLE: Duration = Duration::from_millis(100);

/// Long enough for any collector on the same host.
const DRAIN: Duration = Duration::from_secs(5);

/// What is decided for a trace that begins here; one that came from elsewhere is sampled as its caller said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sampled {
    Yes,
    No,
}

/// The tracers that have a pipeline of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Ours,
    Sdk,
    Fastrace,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Ours, Self::Fastrace, Self::Sdk];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "trace-core",
            Self::Sdk => "opentelemetry_sdk",
            Self::Fastrace => "fastrace",
        }
    }

    /// As a child process is told.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Sdk => "sdk",
            Self::Fastrace => "fastrace",
        }
    }
}

/// This workspace's tracer with everything else by default.
pub(crate) fn ours(collector: &Collector, sampled: Sampled) -> Tracer {
    let mut otlp = OtlpConfig::default();
    otlp.endpoint = collector.endpoint.parse().expect("the runner's address is one");
    let builder = Tracer::builder().service_name(SERVICE).exporter(ExporterConfig::Otlp(otlp));
    let traces = match sampled {
        Sampled::Yes => builder,
        Sampled::No => builder.sampler(ParentBased::new(AnySampler::AlwaysOff)),
    }
    .build();
    let tracer = traces.tracer();
    // The process ends by the end of `main`: there is nothing to flush then.
    mem::forget(traces);
    tracer
}

/// Sends what waits.
pub(crate) fn drain_ours(tracer: Tracer) {
    tracer.blocking_flush(DRAIN).expect("the local collector takes everything");
}

/// OpenTelemetry's SDK with everything else by default: 2 048 spans in the queue, 512 in a batch.
pub(crate) fn sdk(collector: &Collector, sampled: Sampled) -> SdkTracerProvider {
    let here = match sampled {
        Sampled::Yes => Sampler::AlwaysOn,
        Sampled::No => Sampler::AlwaysOff,
    };
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(here)))
        .with_resource(resource())
        .with_batch_exporter(sdk_exporter(collector))
        .build();
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    opentelemetry::global::set_tracer_provider(provider.clone());
    provider
}

/// Sends what waits.
pub(crate) fn drain_sdk(provider: &SdkTracerProvider) {
    provider.force_flush().expect("the local collector takes everything");
}

/// `tracing` with nothing but the layer of `tracing-opentelemetry`, without what it adds to the spans of its own accord.
/// What is returned sends what waits.
pub(crate) fn tracing(collector: &Collector, sampled: Sampled) -> impl Fn() + Sync + 'static {
    let provider = sdk(collector, sampled);
    let layer = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_tracer(provider.tracer(SERVICE));
    listen(registry().with(layer));
    move || drain_sdk(&provider)
}

/// The same with OpenTelemetry 0.32, for the peers that have not left it.
pub(crate) fn tracing_0_32(collector: &Collector, sampled: Sampled) -> impl Fn() + Sync + 'static {
    use opentelemetry_0_32::trace::TracerProvider as _;
    use opentelemetry_otlp_0_32::{Protocol, SpanExporter, WithExportConfig as _};
    use opentelemetry_sdk_0_32::Resource;
    use opentelemetry_sdk_0_32::propagation::TraceContextPropagator;
    use opentelemetry_sdk_0_32::trace::{Sampler, SdkTracerProvider};

    let here = match sampled {
        Sampled::Yes => Sampler::AlwaysOn,
        Sampled::No => Sampler::AlwaysOff,
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&collector.endpoint)
        .build()
        .expect("the runner's address is one");
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(here)))
        .with_resource(Resource::builder().with_service_name(SERVICE).build())
        .with_batch_exporter(exporter)
        .build();
    opentelemetry_0_32::global::set_text_map_propagator(TraceContextPropagator::new());
    opentelemetry_0_32::global::set_tracer_provider(provider.clone());
    let layer = tracing_opentelemetry_0_33::layer()
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_tracer(provider.tracer(SERVICE));
    listen(registry().with(layer));
    move || provider.force_flush().expect("the local collector takes everything")
}

/// What every subscriber is made of: a registry, and a filter as a service has it in production.
///
/// The filter lets pass what is of the level `INFO`, and the spans of axum- and tonic-tracing-opentelemetry, which are of
/// the level `TRACE` and have a target by which their documentation enables them. It is asked once for each place in
/// the source. Without it the `DEBUG` events of tower-http would become events of axum-otel's spans.
pub(crate) fn registry() -> Layered<Targets, Registry> {
    let filter = Targets::new().with_default(LevelFilter::INFO).with_target("otel::tracing", Level::TRACE);
    Registry::default().with(filter)
}

/// Makes this the subscriber of the process.
pub(crate) fn listen(subscriber: impl Subscriber + Send + Sync) {
    tracing::subscriber::set_global_default(subscriber).expect("it is the only one");
}

/// fastrace with its OpenTelemetry reporter.
pub(crate) fn fastrace(collector: &Collector) {
    let scope = InstrumentationScope::builder(SERVICE).build();
    let reporter = OpenTelemetryReporter::new(sdk_exporter(collector), Cow::Owned(resource()), scope);
    fastrace::set_reporter(reporter, fastrace::collector::Config::default());
}

/// Has the calling thread stand in a span from here on, as a request stands in its server's span while it makes calls. What that
/// span costs is not theirs; it never ends.
pub(crate) fn stand_in_ours(tracer: Tracer) {
    thread::sleep(SETTLE);
    let span = tracer.span(CALLER).start();
    mem::forget(span.context().clone().attach());
    mem::forget(span);
}

/// See [`stand_in_ours`].
pub(crate) fn stand_in_fastrace(sampled: Sampled) {
    let span = FastraceSpan::root(CALLER, FastraceContext::random().sampled(sampled == Sampled::Yes));
    mem::forget(span.set_local_parent());
    mem::forget(span);
}

/// See [`stand_in_ours`].
pub(crate) fn stand_in_tracing() {
    mem::forget(tracing::info_span!(parent: None, "request", otel.name = CALLER).entered());
}

/// How spans are carried to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) protocol: Protocol,
    pub(crate) gzip: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

/// This workspace's tracer by another wire than the default's, and with batches of at most so many spans instead of so many
/// bytes.
pub(crate) fn ours_by(collector: &Collector, wire: Wire, batch_spans: Option<usize>) -> Tracer {
    let mut otlp = OtlpConfig::new(match wire.protocol {
        Protocol::Http => trace_core::config::Protocol::HttpProtobuf,
        Protocol::Grpc => trace_core::config::Protocol::Grpc,
    });
    otlp.endpoint = collector.endpoint.parse().expect("the runner's address is one");
    if wire.gzip {
        otlp.compression = trace_core::config::Compression::Gzip;
    }
    let traces = Tracer::builder()
        .service_name(SERVICE)
        .exporter(ExporterConfig::Otlp(otlp))
        .configure(|config| config.batch.max_batch_spans = batch_spans)
        .build();
    let tracer = traces.tracer();
    std::mem::forget(traces);
    tracer
}

/// OpenTelemetry's SDK by another wire than the default's, and with batches of so many spans. For gRPC a runtime of tokio must be
/// entered.
pub(crate) fn sdk_by(collector: &Collector, wire: Wire, batch_spans: Option<usize>) -> SdkTracerProvider {
    let exporter = sdk_exporter_by(collector, wire);
    let builder = SdkTracerProvider::builder().with_resource(resource());
    let builder = match batch_spans {
        None => builder.with_batch_exporter(exporter),
        Some(spans) => {
            // As many again come while a batch is sent.
            let config = BatchConfigBuilder::default()
                .with_max_export_batch_size(spans)
                .with_max_queue_size(2 * spans);
            let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config.build());
            builder.with_span_processor(processor.build())
        }
    };
    builder.build()
}

/// fastrace by another wire than the default's. For gRPC a runtime of tokio must be entered.
pub(crate) fn fastrace_by(collector: &Collector, wire: Wire) {
    let scope = InstrumentationScope::builder(SERVICE).build();
    let reporter =
        OpenTelemetryReporter::new(sdk_exporter_by(collector, wire), Cow::Owned(resource()), scope);
    fastrace::set_reporter(reporter, fastrace::collector::Config::default());
}

fn sdk_exporter(collector: &Collector) -> SpanExporter {
    sdk_exporter_by(collector, Wire { protocol: Protocol::Http, gzip: false })
}

fn sdk_exporter_by(collector: &Collector, wire: Wire) -> SpanExporter {
    let built = match wire.protocol {
        Protocol::Http => {
            let exporter = SpanExporter::builder()
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_endpoint(&collector.endpoint);
            let exporter = if wire.gzip { exporter.with_compression(Compression::Gzip) } else { exporter };
            exporter.build()
        }
        Protocol::Grpc => {
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(&collector.endpoint);
            let exporter = if wire.gzip { exporter.with_compression(Compression::Gzip) } else { exporter };
            exporter.build()
        }
    };
    built.expect("the runner's address is one")
}

fn resource() -> Resource {
    Resource::builder().with_service_name(SERVICE).build()
}
