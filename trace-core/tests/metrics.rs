//! What a pipeline counts, as a collector of metrics sees it: the SDK of OpenTelemetry is the judge.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::testing::{Behaviour, Collector};
use trace_core::{Tracer, Traces};

/// Longer than any test takes, so that what happens is not due to a timer.
const LONG: Duration = Duration::from_secs(60);

#[cfg(feature = "grpc")]
const PROTOCOLS: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];
#[cfg(not(feature = "grpc"))]
const PROTOCOLS: [Protocol; 1] = [Protocol::HttpProtobuf];

/// A meter, and what it was told.
struct Metrics {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl Metrics {
    fn of(traces: &Traces) -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).with_interval(LONG * 60).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        traces.observe(&provider.meter("test"));
        Self { provider, exporter }
    }

    /// The values now, by name and attributes, but for the component's name and the server's port, which differ from run
    /// to run; of a histogram the count.
    fn collect(&self) -> BTreeMap<String, i64> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let mut values = BTreeMap::new();
        for collected in self.exporter.get_finished_metrics().unwrap() {
            for metric in collected.scope_metrics().flat_map(|scope| scope.metrics()) {
                let mut insert = |attributes: Vec<&KeyValue>, value: i64| {
                    let mut shown: Vec<String> = attributes
                        .iter()
                        .filter(|pair| !["otel.component.name", "server.port"].contains(&pair.key.as_str()))
                        .map(|pair| format!("{}={}", pair.key, pair.value))
                        .collect();
                    shown.sort();
                    let name = format!("{} {} {}", metric.name(), metric.unit(), shown.join(" "));
                    assert_eq!(values.insert(name, value), None);
                };
                match metric.data() {
                    AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                        assert!(sum.is_monotonic());
                        sum.data_points()
                            .for_each(|at| insert(at.attributes().collect(), at.value().cast_signed()));
                    }
                    AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                        assert!(!sum.is_monotonic());
                        sum.data_points().for_each(|at| insert(at.attributes().collect(), at.value()));
                    }
                    AggregatedMetrics::U64(MetricData::Gauge(gauge)) => {
                        gauge
                            .data_points()
                            .for_each(|at| insert(at.attributes().collect(), at.value().cast_signed()));
                    }
                    AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                        for at in histogram.data_points() {
                            assert!(at.bounds().eq(trace_core::OPERATION_BOUNDS_SECONDS));
                            insert(at.attributes().collect(), at.count().cast_signed());
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        values
    }
}

fn pipeline(collector: &Collector, protocol: Protocol) -> Traces {
    let endpoint = match protocol {
        Protocol::Grpc => collector.grpc_endpoint(),
        _ => format!("{}/v1/traces", collector.http_endpoint()),
    };
    let mut otlp = OtlpConfig::new(protocol);
    otlp.endpoint = endpoint.parse().unwrap();
    otlp.timeout = LONG;
    let builder = Tracer::builder().exporter(ExporterConfig::Otlp(otlp)).configure(|config| {
        config.batch.schedule_delay = LONG;
        config.batch.export_timeout = LONG;
        config.batch.max_queue_spans = Some(20);
        // One at a time, so that the bound of the queue is not what makes batches.
        config.batch.max_batch_spans = Some(10);
    });
    builder.build()
}

#[test]
fn every_metric_of_the_convention_has_its_attributes_and_the_value_of_the_counter() {
    for protocol in PROTOCOLS {
        let collector = Collector::start_blocking().unwrap();
        let traces = pipeline(&collector, protocol);
        let metrics = Metrics::of(&traces);
        let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let from = |caller: String| traces.propagator().extract(&HashMap::from([("traceparent", caller)]));
        let (remote, not_sampled) = (from(caller.to_owned()), from(caller.replace("-01", "-00")));

        // Of each answer one batch: accepted, accepted in part, refused; and one that is under way.
        traces.span("served").parent(&remote).start().in_scope(|| trace_core::span("child").start().end());
        traces.span("served").parent(&not_sampled).start().end();
        traces.blocking_flush(LONG).unwrap();
        collector.behave_once(Behaviour::PartialSuccess { rejected: 1, message: String::new() });
        traces.span("root").start().end();
        traces.span("root").start().end();
        let _ = traces.blocking_flush(LONG);
        collector.behave_once(Behaviour::rejecting());
        traces.span("root").start().end();
        let _ = traces.blocking_flush(LONG);
        collector.behave(Behaviour::Hang);
        let live = traces.span("live").start();
        traces.span("root").start().end();
        let _ = traces.blocking_flush(Duration::from_millis(1));
        let start = Instant::now();
        while traces.stats().in_flight == 0 {
            assert!(start.elapsed() < LONG, "{}", traces.stats());
            std::thread::yield_now();
        }
        // The queue holds twenty, one of which is being sent.
        for _ in 0..22 {
            traces.span("root").start().end();
        }

        let (kind, ok, refused) = match protocol {
            Protocol::Grpc => (
                "otlp_grpc_span_exporter",
                "rpc.status_code=OK",
                "error.type=INVALID_ARGUMENT O rpc.status_code=INVALID_ARGUMENT",
            ),
            _ => (
                "otlp_http_span_exporter",
                "http.response.status_code=200",
                "error.type=400 http.response.status_code=400 O",
            ),
        };
        let ok = if protocol == Protocol::Grpc { format!("O {ok}") } else { format!("{ok} O") };
        let values = metrics.collect();
        let started = "otel.sdk.span.started {span} otel.span.parent.origin";
        let expected: BTreeMap<String, i64> = [
            ("otel.sdk.span.live {span} otel.span.sampling_result=RECORD_AND_SAMPLE".to_owned(), 1),
            (format!("{started}=none otel.span.sampling_result=RECORD_AND_SAMPLE"), 27),
            (format!("{started}=none otel.span.sampling_result=DROP"), 0),
            (format!("{started}=local otel.span.sampling_result=RECORD_AND_SAMPLE"), 1),
            (format!("{started}=local otel.span.sampling_result=DROP"), 0),
            (format!("{started}=remote otel.span.sampling_result=RECORD_AND_SAMPLE"), 1),
            (format!("{started}=remote otel.span.sampling_result=DROP"), 1),
            ("otel.sdk.processor.span.queue.size {span} P".to_owned(), 19),
            ("otel.sdk.processor.span.queue.capacity {span} P".to_owned(), 20),
            ("otel.sdk.processor.span.processed {span} P".to_owned(), 6),
            ("otel.sdk.processor.span.processed {span} error.type=queue_full P".to_owned(), 3),
            ("otel.sdk.exporter.span.inflight {span} O S".to_owned(), 1),
            ("otel.sdk.exporter.span.exported {span} O S".to_owned(), 3),
            ("otel.sdk.exporter.span.exported {span} error.type=rejected O S".to_owned(), 2),
            (format!("otel.sdk.exporter.operation.duration s {ok} S"), 2),
            (format!("otel.sdk.exporter.operation.duration s {refused} S"), 1),
            ("trace_core.span.shed {span} P".to_owned(), 0),
        ]
        .into_iter()
        .map(|(name, value)| {
            let name = name
                .replace(" P", " otel.component.type=batching_span_processor")
                .replace(" O", &format!(" otel.component.type={kind}"))
                .replace(" S", " server.address=127.0.0.1");
            (name, value)
        })
        .collect();
        for (name, value) in &expected {
            assert_eq!(values.get(name), Some(value), "{protocol}: {name} in {values:#?}");
        }
        let others: Vec<_> = values.iter().filter(|(name, _)| !expected.contains_key(*name)).collect();
        let [(health, 1), (limit, most), (usage, taken)] = others[..] else { panic!("{others:?}") };
        assert!(health.starts_with("trace_core.health "), "{health}");
        assert!(limit.starts_with("trace_core.memory.limit By ") && *most == 14 << 20, "{limit} {most}");
        assert!(usage.starts_with("trace_core.memory.usage By ") && 0 < *taken && taken < most, "{usage}");
        live.end();
        let _ = traces.blocking_shutdown(Duration::ZERO);
    }
}

#[test]
fn a_batch_that_is_lost_while_it_is_sent_is_the_exporters_loss_and_one_that_waited_the_processors() {
    let collector = Collector::start_blocking().unwrap();
    let traces = pipeline(&collector, Protocol::HttpProtobuf);
    let metrics = Metrics::of(&traces);
    collector.behave(Behaviour::Hang);
    for _ in 0..15 {
        traces.span("root").start().end();
    }
    let _ = traces.blocking_flush(Duration::from_millis(1));
    let start = Instant::now();
    while collector.requests().is_empty() {
        assert!(start.elapsed() < LONG, "{}", traces.stats());
        std::thread::yield_now();
    }
    let _ = traces.blocking_shutdown(Duration::ZERO);
    let values = metrics.collect();
    let value = |name: &str, error: &str| {
        let found = values.iter().find(|(metric, _)| metric.starts_with(name) && metric.contains(error));
        found.map(|(_, value)| *value)
    };
    let stats = traces.stats();
    let sent = value("otel.sdk.exporter.span.exported", "error.type=outcome_unknown");
    let waited = value("otel.sdk.processor.span.processed", "error.type=already_shutdown");
    assert_eq!((sent, waited), (Some(10), Some(5)), "{stats} {values:#?}");
    assert_eq!(value("otel.sdk.exporter.operation.duration", "error.type=already_shutdown"), Some(1));
    assert_eq!(value("trace_core.health", ""), Some(1));
}

#[test]
fn a_tracer_that_records_nothing_has_nothing_to_tell() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).with_interval(LONG * 60).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    Tracer::disabled().observe(&provider.meter("test"));
    provider.force_flush().unwrap();
    let finished = exporter.get_finished_metrics().unwrap();
    assert!(finished.iter().all(|collected| collected.scope_metrics().next().is_none()), "{finished:?}");
}
