//! The layer for `tracing` where it serves the whole process, down to the wire.
//!
//! One test, because a process has one global subscriber.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use tracing::{Instrument, debug, field, info, info_span, instrument};
use tracing_subscriber::prelude::*;

use trace_core::bridge::tracing::layer;
use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::testing::Collector;
use trace_core::{Context, FutureExt, Tracer, Traces};

/// By gRPC, where it is built in: the library that speaks HTTP/2 makes `tracing` spans of its own.
fn pipeline(collector: &Collector) -> Traces {
    let (protocol, endpoint) = if cfg!(feature = "grpc") {
        (Protocol::Grpc, collector.grpc_endpoint())
    } else {
        (Protocol::HttpProtobuf, format!("{}/v1/traces", collector.http_endpoint()))
    };
    let mut otlp = OtlpConfig::new(protocol);
    otlp.endpoint = endpoint.parse().unwrap();
    Tracer::builder().exporter(ExporterConfig::Otlp(otlp)).build()
}

/// Makes spans and events of the span that it is recorded on, while it is formatted.
struct Chatty;

impl fmt::Debug for Chatty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        info!("formatted");
        tracing::Span::current().record("touched", true);
        Context::current().span().set_attribute("touched natively", true);
        info_span!("formatting").in_scope(|| debug!("inside"));
        f.write_str("chatty")
    }
}

#[instrument(fields(recorded = field::Empty, touched = field::Empty))]
async fn handle(tracer: Tracer) {
    tracing::Span::current().record("recorded", field::debug(Chatty));
    info!(value = ?Chatty, "event");
    tracer.span("native").run(query(1)).await;
    let carried = async { info_span!("carried").in_scope(|| ()) };
    tokio::spawn(carried.in_current_context()).await.unwrap();
    let instrumented = async { tokio::task::yield_now().await };
    tokio::spawn(instrumented.instrument(info_span!("instrumented", created = ?Chatty))).await.unwrap();
}

#[instrument]
async fn query(order: u32) {
    tokio::task::yield_now().await;
}

#[test]
fn what_a_process_does_is_one_trace_and_what_its_exporter_does_is_none() {
    let collector = Collector::start_blocking().unwrap();
    let traces = pipeline(&collector);
    // Everything of every library: what carries the spans is instrumented as well.
    tracing_subscriber::registry().with(layer().tracer(traces.tracer())).init();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for _ in 0..3 {
        runtime.block_on(handle(traces.tracer()));
        traces.blocking_flush(Duration::from_secs(10)).unwrap();
    }
    drop(runtime);
    traces.blocking_shutdown(Duration::from_secs(10)).unwrap();

    let spans = collector.spans();
    let names: HashSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let expected = ["handle", "formatting", "native", "query", "carried", "instrumented"];
    assert_eq!(names, HashSet::from(expected));
    let stats = traces.stats();
    assert!(stats.is_balanced(), "{stats}");
    // Of each trace one of each, but three of what a value makes that is formatted three times.
    assert_eq!(stats.started, 3 * (5 + 3), "{stats}");
    assert_eq!(spans.len(), 3 * (5 + 3));

    let by_id: HashMap<_, _> = spans.iter().map(|span| (span.span_id, span)).collect();
    for span in &spans {
        let parent = span.parent_span_id.map(|id| by_id[&id]);
        assert!(parent.is_none_or(|parent| parent.trace_id == span.trace_id));
        let expected = match span.name.as_str() {
            "handle" => None,
            "query" => Some("native"),
            _ => Some("handle"),
        };
        assert_eq!(parent.map(|parent| parent.name.as_str()), expected, "{}", span.name);
        if span.name == "handle" {
            for key in ["recorded", "touched", "touched natively"] {
                assert!(span.attribute(key).is_some(), "{key}");
            }
            assert_eq!(span.events.iter().filter(|event| event.name == "formatted").count(), 3);
            assert_eq!(span.events.iter().filter(|event| event.name == "event").count(), 1);
        }
    }
}
