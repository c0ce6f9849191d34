//! What reaches a collector, and what does not, over real sockets.

use std::collections::HashSet;
use std::time::Duration;

use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::testing::Collector;
use trace_core::{SpanId, Tracer, Traces};

fn pipeline(endpoint: &str) -> Traces {
    let mut otlp = OtlpConfig::new(Protocol::HttpProtobuf);
    otlp.endpoint = format!("{endpoint}/v1/traces").parse().unwrap();
    Tracer::builder().exporter(ExporterConfig::Otlp(otlp)).build()
}

#[test]
fn spans_reach_the_collector() {
    let collector = Collector::start_blocking().unwrap();
    let traces = pipeline(&collector.http_endpoint());
    let ids: HashSet<SpanId> = (0..1000)
        .map(|i| {
            let span = traces.span("work").attribute("i", i);
            span.span_context().unwrap().span_id()
        })
        .collect();
    traces.blocking_shutdown(Duration::from_secs(5)).unwrap();
    let stats = traces.stats();
    println!("{stats}");
    let received: HashSet<SpanId> = collector.spans().iter().map(|s| s.span_id).collect();
    assert_eq!(received, ids);
    assert!(stats.is_balanced());
}
