//! What does a layer add to the spans and events that a service makes by `tracing`?

use std::hint::black_box;

use fastrace::prelude::{Span as FastraceSpan, SpanContext as FastraceContext};
use fastrace_tracing::FastraceCompatLayer;
use opentelemetry::trace::TracerProvider as _;
use tracing::field::Empty;
use tracing_subscriber::layer::SubscriberExt;

use crate::exporters::{self, Sampled};
use crate::harness::{Bench, Case, Collector, Entry, Ratio, Subject};

pub(crate) const BENCH: Bench = Bench {
    name: "bridge",
    question: "What does a layer add to the spans and events that a service makes by `tracing`? The first row is what `tracing` \
               itself costs: a registry that nobody listens to. Every span is entered once. The layers send what the code \
               says and nothing of their own accord, such as a span's place in the source, its thread or its target; but in \
               the last case each is as it comes. The layer of fastrace makes a root by itself where there is none; *below a \
               fastrace root* is as its documentation has it, which is one span more.",
    cases: &[
        Case {
            name: "root with 10 attributes",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare(request)),
                Entry::new(OURS, |collector| ours(collector, request)),
                Entry::new(TRACING, |collector| tracing_opentelemetry(collector, request)),
                Entry::new(FASTRACE, |collector| fastrace(collector, request)),
                Entry::new(FASTRACE_BELOW, |collector| fastrace_below_a_root(collector, request)),
            ],
            ratios: RATIOS,
        },
        Case {
            name: "root and 10 children with 3 attributes each",
            spans: 11,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare(request_with_queries)),
                Entry::new(OURS, |collector| ours(collector, request_with_queries)),
                Entry::new(TRACING, |collector| tracing_opentelemetry(collector, request_with_queries)),
                Entry::new(FASTRACE, |collector| fastrace(collector, request_with_queries)),
                Entry::new(FASTRACE_BELOW, |collector| {
                    fastrace_below_a_root(collector, request_with_queries)
                }),
            ],
            ratios: RATIOS,
        },
        Case {
            name: "span with an attribute and 2 events",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare(order_with_events)),
                Entry::new(OURS, |collector| ours(collector, order_with_events)),
                Entry::new(TRACING, |collector| tracing_opentelemetry(collector, order_with_events)),
                Entry::new(FASTRACE, |collector| fastrace(collector, order_with_events)),
                Entry::new(FASTRACE_BELOW, |collector| fastrace_below_a_root(collector, order_with_events)),
            ],
            ratios: RATIOS,
        },
        Case {
            name: "root with 10 attributes, and what the layers add of their own accord",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare(request)),
                Entry::new(OURS, ours_as_it_comes),
                Entry::new(TRACING, tracing_opentelemetry_as_it_comes),
                Entry::new(FASTRACE, fastrace_as_it_comes),
            ],
            ratios: RATIOS,
        },
    ],
    sections: None,
};

const BARE: &str = "tracing alone";
const OURS: &str = "trace-core";
const TRACING: &str = "tracing-opentelemetry";
const FASTRACE: &str = "fastrace-tracing";
const FASTRACE_BELOW: &str = "fastrace-tracing, below a fastrace root";

const RATIOS: &[Ratio] = &[Ratio::shown(OURS, TRACING), Ratio::shown(OURS, FASTRACE)];

/// The span of a request, as a middleware makes it by hand, with what the compiler does not know. It has neither
/// `otel.name` nor `otel.kind`, which are no more than two attributes to a layer that does not know them.
fn request() {
    serve(|| ());
}

fn serve(handler: impl FnOnce()) {
    let span = tracing::info_span!(
        "GET /items/{id}",
        http.request.method = black_box("GET"),
        url.scheme = black_box("https"),
        network.protocol.version = black_box("1.1"),
        url.path = black_box("/items/3419"),
        http.route = black_box("/items/{id}"),
        server.address = black_box("items.example.com"),
        server.port = black_box(8443_i64),
        client.address = black_box("203.0.113.195"),
        user_agent.original =
            black_box("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        http.response.status_code = Empty,
    );
    span.in_scope(handler);
    span.record("http.response.status_code", black_box(200_i64));
}

fn request_with_queries() {
    serve(|| (0..10).for_each(query));
}

#[tracing::instrument(
    name = "SELECT orders",
    skip_all,
    fields(
        db.system.name = "postgresql",
        db.collection.name = black_box("orders"),
        db.response.returned_rows = rows,
    )
)]
fn query(rows: i64) {
    black_box(rows);
}

fn order_with_events() {
    tracing::info_span!("process order", order.id = black_box(3419_i64)).in_scope(|| {
        tracing::info!(items = black_box(3_i64), "order read");
        tracing::info!(carrier = black_box("by sea"), "order sent");
    });
}

/// What `tracing` costs when nobody listens to what it keeps.
fn bare(unit: fn()) -> Subject {
    exporters::listen(exporters::registry());
    Subject::new(unit)
}

fn ours(collector: &Collector, unit: fn()) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    let layer = trace_core::bridge::tracing::layer().tracer(tracer).location(false).target(false);
    exporters::listen(exporters::registry().with(layer));
    Subject::new(unit).drained_by(move || exporters::drain_ours(tracer))
}

fn ours_as_it_comes(collector: &Collector) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    exporters::listen(exporters::registry().with(trace_core::bridge::tracing::layer().tracer(tracer)));
    Subject::new(request).drained_by(move || exporters::drain_ours(tracer))
}

fn tracing_opentelemetry(collector: &Collector, unit: fn()) -> Subject {
    let drain = exporters::tracing(collector, Sampled::Yes);
    Subject::new(unit).drained_by(drain)
}

fn tracing_opentelemetry_as_it_comes(collector: &Collector) -> Subject {
    let provider = exporters::sdk(collector, Sampled::Yes);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("benches"));
    exporters::listen(exporters::registry().with(layer));
    Subject::new(request).drained_by(move || exporters::drain_sdk(&provider))
}

fn fastrace(collector: &Collector, unit: fn()) -> Subject {
    listen_by_fastrace(collector);
    Subject::new(unit).drained_by(fastrace::flush)
}

fn fastrace_below_a_root(collector: &Collector, unit: fn()) -> Subject {
    listen_by_fastrace(collector);
    let below_a_root = move || {
        let root = FastraceSpan::root("benches", FastraceContext::random());
        let _current = root.set_local_parent();
        unit();
    };
    Subject::new(below_a_root).drained_by(fastrace::flush)
}

fn listen_by_fastrace(collector: &Collector) {
    exporters::fastrace(collector);
    let layer = FastraceCompatLayer::new().with_location(false).with_threads(false);
    exporters::listen(exporters::registry().with(layer));
}

fn fastrace_as_it_comes(collector: &Collector) -> Subject {
    exporters::fastrace(collector);
    exporters::listen(exporters::registry().with(FastraceCompatLayer::new()));
    Subject::new(request).drained_by(fastrace::flush)
}
