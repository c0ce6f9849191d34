//! What does a span cost the thread that makes it?

use std::hint::black_box;

use fastrace::local::LocalSpan;
use fastrace::prelude::{Span as FastraceSpan, SpanContext as FastraceContext};
use opentelemetry::trace::{Span as _, SpanKind, TraceContextExt, Tracer as _, TracerProvider as _};
use opentelemetry::{Context as SdkContext, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use trace_core::{Scope, Tracer, semconv};
use tracing::field::Empty;

use crate::exporters::{self, Sampled};
use crate::harness::{Bench, Case, Clock, Collector, Entry, Ratio, Subject};

pub(crate) const BENCH: Bench = Bench {
    name: "span",
    question: "What does a span cost the thread that makes it, and until it is sent?",
    cases: &[
        Case {
            name: "root with 10 attributes",
            spans: 1,
            added_to: None,
            entries: &[
                Entry::new("trace-core", |collector| root_ours(collector, Sampled::Yes)),
                Entry::new("fastrace", |collector| root_fastrace(collector, Sampled::Yes)),
                Entry::new("opentelemetry_sdk", |collector| root_sdk(collector, Sampled::Yes)),
                Entry::new("tracing-opentelemetry", |collector| root_tracing(collector, Sampled::Yes)),
                Entry::new("trace-core, two threads", |c| root_ours(c, Sampled::Yes)).on_threads(2),
                Entry::new("fastrace, two threads", |c| root_fastrace(c, Sampled::Yes)).on_threads(2),
                Entry::new("opentelemetry_sdk, two threads", |c| root_sdk(c, Sampled::Yes)).on_threads(2),
            ],
            ratios: &[
                Ratio::new("trace-core", "fastrace", 0.35),
                Ratio::new("trace-core", "opentelemetry_sdk", 0.35),
                Ratio::new("trace-core", "opentelemetry_sdk", 0.1).by(Clock::Process),
                Ratio::new("trace-core", "fastrace", 0.1).by(Clock::Process),
                Ratio::new("trace-core, two threads", "trace-core", 1.1),
                Ratio::shown("fastrace, two threads", "fastrace"),
                Ratio::shown("opentelemetry_sdk, two threads", "opentelemetry_sdk"),
            ],
        },
        Case {
            name: "root and 10 children with 3 attributes each",
            spans: 11,
            added_to: None,
            entries: &[
                Entry::new("trace-core", tree_ours),
                Entry::new("fastrace", tree_fastrace),
                Entry::new("opentelemetry_sdk", tree_sdk),
                Entry::new("tracing-opentelemetry", tree_tracing),
            ],
            ratios: &[
                Ratio::new("trace-core", "fastrace", 0.5),
                Ratio::new("trace-core", "fastrace", 0.2).by(Clock::Process),
            ],
        },
        Case {
            name: "root with 10 attributes, not sampled",
            spans: 1,
            added_to: None,
            entries: &[
                Entry::new("trace-core", |collector| root_ours(collector, Sampled::No)),
                Entry::new("fastrace", |collector| root_fastrace(collector, Sampled::No)),
                Entry::new("opentelemetry_sdk", |collector| root_sdk(collector, Sampled::No)),
                Entry::new("opentelemetry_sdk, attributes if recording", root_sdk_if_recording),
                Entry::new("tracing-opentelemetry", |collector| root_tracing(collector, Sampled::No)),
            ],
            ratios: &[
                Ratio::new("trace-core", "fastrace", 0.15),
                Ratio::new("trace-core", "opentelemetry_sdk", 0.15),
                Ratio::new("trace-core", "tracing-opentelemetry", 0.15),
                Ratio::shown("trace-core", "opentelemetry_sdk, attributes if recording"),
            ],
        },
    ],
    sections: None,
};

/// What an HTTP server knows of a request. What a framework has as a constant is one here; the rest belongs to the
/// request, so that a tracer that keeps values has to copy it.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    method: &'static str,
    scheme: &'static str,
    protocol_version: &'static str,
    path: &'a str,
    route: &'a str,
    server_address: &'a str,
    server_port: u16,
    client_address: &'a str,
    user_agent: &'a str,
    status: u16,
}

const NAME: &str = "GET /items/{id}";

/// Of values that the compiler does not know.
pub(crate) fn request() -> Request<'static> {
    black_box(Request {
        method: "GET",
        scheme: "https",
        protocol_version: "1.1",
        path: "/items/3419",
        route: "/items/{id}",
        server_address: "items.example.com",
        server_port: 8443,
        client_address: "203.0.113.195",
        user_agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        status: 200,
    })
}

static SCOPE: Scope = Scope::new("benches", env!("CARGO_PKG_VERSION"));

fn root_ours(collector: &Collector, sampled: Sampled) -> Subject {
    let tracer = exporters::ours(collector, sampled);
    Subject::new(move || drop(start_ours(tracer, request())))
        .drained_by(move || exporters::drain_ours(tracer))
}

pub(crate) fn start_ours(tracer: Tracer, request: Request<'_>) -> trace_core::Span {
    let mut span = tracer.span(NAME).kind(trace_core::SpanKind::Server).scope(&SCOPE).start();
    if let Some(mut attributes) = span.attributes() {
        attributes.set(semconv::HTTP_REQUEST_METHOD, request.method);
        attributes.set(semconv::URL_SCHEME, request.scheme);
        attributes.set(semconv::NETWORK_PROTOCOL_VERSION, request.protocol_version);
        attributes.set(semconv::URL_PATH, request.path);
        attributes.set(semconv::HTTP_ROUTE, request.route);
        attributes.set(semconv::SERVER_ADDRESS, request.server_address);
        attributes.set(semconv::SERVER_PORT, request.server_port);
        attributes.set(semconv::CLIENT_ADDRESS, request.client_address);
        attributes.set(semconv::USER_AGENT_ORIGINAL, request.user_agent);
    }
    // It is known later.
    span.set_attribute(semconv::HTTP_RESPONSE_STATUS_CODE, request.status);
    span
}

fn tree_ours(collector: &Collector) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    let unit = move || {
        start_ours(tracer, request()).in_scope(|| {
            for rows in 0..10 {
                let builder =
                    trace_core::span("SELECT orders").kind(trace_core::SpanKind::Client).scope(&SCOPE);
                let mut child = builder.start();
                if let Some(mut attributes) = child.attributes() {
                    attributes.set(semconv::DB_SYSTEM_NAME, "postgresql");
                    attributes.set(semconv::DB_COLLECTION_NAME, "orders");
                    attributes.set(semconv::DB_RESPONSE_RETURNED_ROWS, rows);
                }
                drop(child);
            }
        });
    };
    Subject::new(unit).drained_by(move || exporters::drain_ours(tracer))
}

fn root_fastrace(collector: &Collector, sampled: Sampled) -> Subject {
    exporters::fastrace(collector);
    let sampled = sampled == Sampled::Yes;
    Subject::new(move || drop(start_fastrace(sampled, request()))).drained_by(fastrace::flush)
}

pub(crate) fn start_fastrace(sampled: bool, request: Request<'_>) -> FastraceSpan {
    let span = FastraceSpan::root(NAME, FastraceContext::random().sampled(sampled)).with_properties(|| {
        [
            ("span.kind", "server".into()),
            ("http.request.method", request.method.into()),
            ("url.scheme", request.scheme.into()),
            ("network.protocol.version", request.protocol_version.into()),
            ("url.path", request.path.to_owned().into()),
            ("http.route", request.route.to_owned().into()),
            ("server.address", request.server_address.to_owned().into()),
            ("server.port", request.server_port.to_string().into()),
            ("client.address", request.client_address.to_owned().into()),
            ("user_agent.original", std::borrow::Cow::Owned::<'static, str>(request.user_agent.to_owned())),
        ]
    });
    span.add_property(|| ("http.response.status_code", request.status.to_string()));
    span
}

fn tree_fastrace(collector: &Collector) -> Subject {
    exporters::fastrace(collector);
    let unit = || {
        let root = start_fastrace(true, request());
        let _current = root.set_local_parent();
        for rows in 0..10 {
            let _child = LocalSpan::enter_with_local_parent("SELECT orders").with_properties(|| {
                [
                    ("span.kind", "client".into()),
                    ("db.system.name", "postgresql".into()),
                    ("db.collection.name", "orders".into()),
                    ("db.response.returned_rows", std::borrow::Cow::from(rows.to_string())),
                ]
            });
        }
    };
    Subject::new(unit).drained_by(fastrace::flush)
}

fn root_sdk(collector: &Collector, sampled: Sampled) -> Subject {
    let (tracer, drain) = sdk(collector, sampled);
    Subject::new(move || drop(start_sdk(&tracer, request()))).drained_by(drain)
}

/// What code that knows of sampling does: nothing is made before it is known that somebody wants it.
fn root_sdk_if_recording(collector: &Collector) -> Subject {
    let (tracer, drain) = sdk(collector, Sampled::No);
    let unit = move || {
        let builder = tracer.span_builder(NAME).with_kind(SpanKind::Server);
        let mut span = tracer.build_with_context(builder, &SdkContext::new());
        if span.is_recording() {
            span.set_attributes(sdk_attributes(request()));
        }
    };
    Subject::new(unit).drained_by(drain)
}

fn sdk(collector: &Collector, sampled: Sampled) -> (SdkTracer, impl Fn() + Sync + 'static) {
    let provider = exporters::sdk(collector, sampled);
    (provider.tracer("benches"), move || exporters::drain_sdk(&provider))
}

pub(crate) fn start_sdk(tracer: &SdkTracer, request: Request<'_>) -> opentelemetry_sdk::trace::Span {
    let builder =
        tracer.span_builder(NAME).with_kind(SpanKind::Server).with_attributes(sdk_attributes(request));
    let mut span = tracer.build_with_context(builder, &SdkContext::new());
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(request.status)));
    span
}

fn sdk_attributes(request: Request<'_>) -> Vec<KeyValue> {
    // With room for the status, which is known later.
    let mut attributes = Vec::with_capacity(10);
    attributes.extend([
        KeyValue::new("http.request.method", request.method),
        KeyValue::new("url.scheme", request.scheme),
        KeyValue::new("network.protocol.version", request.protocol_version),
        KeyValue::new("url.path", request.path.to_owned()),
        KeyValue::new("http.route", request.route.to_owned()),
        KeyValue::new("server.address", request.server_address.to_owned()),
        KeyValue::new("server.port", i64::from(request.server_port)),
        KeyValue::new("client.address", request.client_address.to_owned()),
        KeyValue::new("user_agent.original", request.user_agent.to_owned()),
    ]);
    attributes
}

fn tree_sdk(collector: &Collector) -> Subject {
    let (tracer, drain) = sdk(collector, Sampled::Yes);
    let unit = move || {
        let context = SdkContext::new().with_span(start_sdk(&tracer, request()));
        for rows in 0..10 {
            let builder = tracer.span_builder("SELECT orders").with_kind(SpanKind::Client).with_attributes([
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.collection.name", "orders"),
                KeyValue::new("db.response.returned_rows", rows),
            ]);
            drop(tracer.build_with_context(builder, &context));
        }
    };
    Subject::new(unit).drained_by(drain)
}

fn root_tracing(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing(collector, sampled);
    Subject::new(|| drop(start_tracing(request()))).drained_by(drain)
}

fn start_tracing(request: Request<'_>) -> tracing::Span {
    let span = tracing::info_span!(
        parent: None,
        "request",
        otel.name = NAME,
        otel.kind = "server",
        http.request.method = request.method,
        url.scheme = request.scheme,
        network.protocol.version = request.protocol_version,
        url.path = request.path,
        http.route = request.route,
        server.address = request.server_address,
        server.port = request.server_port,
        client.address = request.client_address,
        user_agent.original = request.user_agent,
        http.response.status_code = Empty,
    );
    span.record("http.response.status_code", request.status);
    span
}

fn tree_tracing(collector: &Collector) -> Subject {
    let drain = exporters::tracing(collector, Sampled::Yes);
    let unit = || {
        start_tracing(request()).in_scope(|| {
            for rows in 0..10 {
                let child = tracing::info_span!(
                    "SELECT orders",
                    otel.kind = "client",
                    db.system.name = "postgresql",
                    db.collection.name = "orders",
                    db.response.returned_rows = rows,
                );
                drop(child);
            }
        });
    };
    Subject::new(unit).drained_by(drain)
}
