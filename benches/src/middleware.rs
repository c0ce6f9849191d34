//! What does a tracing layer add to a request that axum serves?

use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::response::Response;
use axum::routing::get;
use axum_otel::{AxumOtelOnFailure, AxumOtelOnResponse, AxumOtelSpanCreator};
use http::{Request, header};
use http_body::Body as _;
use opentelemetry_instrumentation_tower::http::server as otel_tower;
use tower::Service;
use tower::layer::util::Identity;
use tracing::Level;

use crate::exporters::{self, Sampled};
use crate::harness::{Bench, Case, Collector, Entry, Ratio, Subject};
use crate::least::LeastLayer;

pub(crate) const BENCH: Bench = Bench {
    name: "middleware",
    question: "What does a tracing layer add to `GET /items/{id}`, served by an axum router in process, from the request's head to \
               the end of the response's body? The caller's address is known, and the caller sent a `traceparent` unless it is said \
               otherwise. The router is as axum has it when it serves: with its state. All requests name the same server, as those \
               to a service mostly do: trace-axum has its address from the request before. The layers do not do the same. \
               *attributes* tells how much a span says, and those of tower-otel are in part the headers of request and response, all \
               of which it records. The spans of trace-axum and axum-otel end with the response's body, the others at its head. \
               axum-otel adds an event to the span, and is at opentelemetry 0.32. tower-http makes a `tracing` span for a subscriber \
               that is not there: it continues no trace, and sends nothing. *identity* is what axum itself needs for any layer, and \
               a part of all that follow. *a ready span* is a bound: a layer that never looks at the request, makes nothing current, \
               and sends the same attributes each time, encoded in advance, by our pipeline. With *the request read* it continues the \
               caller's trace, and looks up and checks what it would have to tell, but makes nothing of it.",
    cases: &[
        Case {
            name: "sampled",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare(Caller::Sampled)),
                Entry::new(IDENTITY, |_| identity(Caller::Sampled)),
                Entry::new(LEAST, |collector| least(collector, |layer| layer)),
                Entry::new(READING, |collector| least(collector, LeastLayer::reading)),
                Entry::new(OURS, |collector| ours(collector, Caller::Sampled)),
                Entry::new(TOWER_HTTP, |_| tower_http(Caller::Sampled)),
                Entry::new(FASTRACE_AXUM, |collector| fastrace_axum(collector, Caller::Sampled)),
                Entry::new(INSTRUMENTATION_TOWER, |collector| {
                    instrumentation_tower(collector, Caller::Sampled)
                }),
                Entry::new(AXUM_TRACING, |collector| axum_tracing_opentelemetry(collector, Caller::Sampled)),
                Entry::new(TOWER_OTEL, |collector| tower_otel(collector, Caller::Sampled)),
                Entry::new(AXUM_OTEL, |collector| axum_otel(collector, Caller::Sampled)),
            ],
            ratios: &[
                Ratio::new(OURS, TOWER_HTTP, 1.2),
                Ratio::new(OURS, FASTRACE_AXUM, 0.5),
                Ratio::new(OURS, INSTRUMENTATION_TOWER, 0.35),
                Ratio::new(OURS, AXUM_TRACING, 0.15),
                Ratio::shown(OURS, TOWER_OTEL),
                Ratio::shown(OURS, AXUM_OTEL),
            ],
        },
        Case {
            name: "sampled, without a parent",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare(Caller::None)),
                Entry::new(IDENTITY, |_| identity(Caller::None)),
                Entry::new(OURS, |collector| ours(collector, Caller::None)),
                Entry::new(TOWER_HTTP, |_| tower_http(Caller::None)),
                Entry::new(FASTRACE_AXUM, |collector| fastrace_axum(collector, Caller::None)),
                Entry::new(INSTRUMENTATION_TOWER, |collector| instrumentation_tower(collector, Caller::None)),
                Entry::new(AXUM_TRACING, |collector| axum_tracing_opentelemetry(collector, Caller::None)),
                Entry::new(TOWER_OTEL, |collector| tower_otel(collector, Caller::None)),
                Entry::new(AXUM_OTEL, |collector| axum_otel(collector, Caller::None)),
            ],
            ratios: &[
                Ratio::shown(OURS, TOWER_HTTP),
                Ratio::shown(OURS, FASTRACE_AXUM),
                Ratio::shown(OURS, INSTRUMENTATION_TOWER),
                Ratio::shown(OURS, AXUM_TRACING),
                Ratio::shown(OURS, TOWER_OTEL),
                Ratio::shown(OURS, AXUM_OTEL),
            ],
        },
        Case {
            name: "not sampled",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare(Caller::NotSampled)),
                Entry::new(IDENTITY, |_| identity(Caller::NotSampled)),
                Entry::new(OURS, |collector| ours(collector, Caller::NotSampled)),
                Entry::new(TOWER_HTTP, |_| tower_http(Caller::NotSampled)),
                Entry::new(FASTRACE_AXUM, |collector| fastrace_axum(collector, Caller::NotSampled)),
                Entry::new(INSTRUMENTATION_TOWER, |collector| {
                    instrumentation_tower(collector, Caller::NotSampled)
                }),
                Entry::new(AXUM_TRACING, |collector| {
                    axum_tracing_opentelemetry(collector, Caller::NotSampled)
                }),
                Entry::new(TOWER_OTEL, |collector| tower_otel(collector, Caller::NotSampled)),
                Entry::new(AXUM_OTEL, |collector| axum_otel(collector, Caller::NotSampled)),
            ],
            ratios: &[
                Ratio::new(OURS, TOWER_HTTP, 0.6),
                Ratio::shown(OURS, FASTRACE_AXUM),
                Ratio::shown(OURS, INSTRUMENTATION_TOWER),
                Ratio::shown(OURS, AXUM_TRACING),
                Ratio::shown(OURS, TOWER_OTEL),
                Ratio::shown(OURS, AXUM_OTEL),
            ],
        },
    ],
    sections: None,
};

pub(crate) const BARE: &str = "bare router";
pub(crate) const IDENTITY: &str = "identity";
pub(crate) const OURS: &str = "trace-axum";
const LEAST: &str = "a ready span";
const READING: &str = "a ready span, the request read";
const TOWER_HTTP: &str = "tower-http, nobody listening";
const FASTRACE_AXUM: &str = "fastrace-axum";
const INSTRUMENTATION_TOWER: &str = "opentelemetry-instrumentation-tower";
const AXUM_TRACING: &str = "axum-tracing-opentelemetry";
const TOWER_OTEL: &str = "tower-otel";
const AXUM_OTEL: &str = "axum-otel";

/// What the request's sender says of its trace. Every stack samples what begins in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Sampled,
    NotSampled,
    /// There is no trace: one begins here.
    None,
}

async fn item(Path(_id): Path<u64>) -> &'static str {
    "an item"
}

pub(crate) fn router() -> Router {
    Router::new().route("/items/{id}", get(item))
}

/// A request as hyper hands it over.
pub(crate) fn request(caller: Caller) -> Request<Body> {
    let request = Request::builder()
        .uri("/items/3419?page=2")
        .header(header::HOST, "items.example.com:8443")
        .header(header::USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header(header::ACCEPT, "application/json")
        .extension(ConnectInfo(SocketAddr::from(([203, 0, 113, 195], 51234))));
    let request = match caller {
        Caller::Sampled => {
            request.header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        }
        Caller::NotSampled => {
            request.header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")
        }
        Caller::None => request,
    };
    request.body(Body::empty()).expect("all parts are valid")
}

/// A router that serves one request for each unit of work, as all of axum's ways to serve one have it: its state is there, so
/// that its layers are not made anew for each request.
///
/// The request is made there and then, as a copy of a ready one, and what it costs is that of the bare router too: requests that
/// were made ahead would lie in memory that no cache holds any more, and so would all that is allocated where they were.
fn serving(router: Router, caller: Caller) -> Subject {
    let router: Router = router.with_state(());
    let (head, _) = request(caller).into_parts();
    Subject::new(move || serve(router.clone(), Request::from_parts(head.clone(), Body::empty())))
}

/// Does what hyper does with a request, up to the end of the response's body.
fn serve(mut router: Router, request: Request<Body>) {
    let mut task = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(response)) = pin!(router.call(request)).poll(&mut task) else {
        unreachable!("the handler waits for nothing, and cannot fail");
    };
    let response: Response = response;
    debug_assert_eq!(response.status(), 200);
    let mut body = pin!(response.into_body());
    while !body.is_end_stream() {
        let Poll::Ready(frame) = body.as_mut().poll_frame(&mut task) else {
            unreachable!("the body is there");
        };
        if frame.is_none() {
            break;
        }
    }
}

fn bare(caller: Caller) -> Subject {
    serving(router(), caller)
}

/// What axum itself needs for any layer.
fn identity(caller: Caller) -> Subject {
    serving(router().layer(Identity::new()), caller)
}

fn ours(collector: &Collector, caller: Caller) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    let layer = trace_axum::TraceLayer::new().tracer(tracer);
    serving(router().layer(layer), caller).drained_by(move || exporters::drain_ours(tracer))
}

fn least(collector: &Collector, change: fn(LeastLayer) -> LeastLayer) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    serving(router().layer(change(LeastLayer::new(tracer, "203.0.113.195"))), Caller::Sampled)
        .drained_by(move || exporters::drain_ours(tracer))
}

fn tower_http(caller: Caller) -> Subject {
    serving(router().layer(tower_http::trace::TraceLayer::new_for_http()), caller)
}

fn fastrace_axum(collector: &Collector, caller: Caller) -> Subject {
    exporters::fastrace(collector);
    serving(router().layer(fastrace_axum::FastraceLayer::default()), caller).drained_by(fastrace::flush)
}

/// Without its metrics, which are another question.
fn instrumentation_tower(collector: &Collector, caller: Caller) -> Subject {
    let provider = exporters::sdk(collector, Sampled::Yes);
    let layer = otel_tower::LayerBuilder::builder().with_metrics(false).build().expect("a valid layer");
    serving(router().layer(layer), caller).drained_by(move || exporters::drain_sdk(&provider))
}

fn axum_tracing_opentelemetry(collector: &Collector, caller: Caller) -> Subject {
    let drain = exporters::tracing(collector, Sampled::Yes);
    let layer = axum_tracing_opentelemetry::middleware::OtelAxumLayer::default();
    serving(router().layer(layer), caller).drained_by(drain)
}

fn tower_otel(collector: &Collector, caller: Caller) -> Subject {
    let drain = exporters::tracing(collector, Sampled::Yes);
    let layer = tower_otel::trace::HttpLayer::server(Level::INFO);
    serving(router().layer(layer), caller).drained_by(drain)
}

fn axum_otel(collector: &Collector, caller: Caller) -> Subject {
    let drain = exporters::tracing_0_32(collector, Sampled::Yes);
    let layer = tower_http_0_6::trace::TraceLayer::new_for_http()
        .make_span_with(AxumOtelSpanCreator::new().level(Level::INFO))
        .on_response(AxumOtelOnResponse::new().level(Level::INFO))
        .on_failure(AxumOtelOnFailure::new());
    serving(router().layer(layer), caller).drained_by(drain)
}
