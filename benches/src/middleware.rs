//! What does a tracing layer add to a request that axum serves?

use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::response::Response;
use axum::routing::get;
use http::{Request, header};
use http_body::Body as _;
use opentelemetry_instrumentation_tower::http::server as otel_tower;
use tower::Service;
use tower::layer::util::Identity;

use crate::exporters::{self, Sampled};
use crate::harness::{Bench, Case, Collector, Entry, Ratio, Subject};

pub(crate) const BENCH: Bench = Bench {
    name: "middleware",
    question: "What does a tracing layer add to `GET /items/{id}`, served by an axum router in process, from the request's head to the \
               end of the response's body? The caller sent a `traceparent`, and its address is known.",
    cases: &[
        Case {
            name: "sampled",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare(Sampled::Yes)),
                Entry::new("identity", |_| identity(Sampled::Yes)),
                Entry::new(OURS, |collector| ours(collector, Sampled::Yes)),
                Entry::new(TOWER_HTTP, |_| tower_http(Sampled::Yes)),
                Entry::new(FASTRACE_AXUM, |collector| fastrace_axum(collector, Sampled::Yes)),
                Entry::new(INSTRUMENTATION_TOWER, |c| instrumentation_tower(c, Sampled::Yes)),
                Entry::new(AXUM_TRACING, |c| axum_tracing_opentelemetry(c, Sampled::Yes)),
            ],
            ratios: &[
                Ratio::new(OURS, TOWER_HTTP, 1.2),
                Ratio::new(OURS, FASTRACE_AXUM, 0.5),
                Ratio::new(OURS, INSTRUMENTATION_TOWER, 0.35),
                Ratio::new(OURS, AXUM_TRACING, 0.15),
            ],
        },
        Case {
            name: "not sampled",
            spans: 1,
            added_to: Some(BARE),
            entries: &[
                Entry::new(BARE, |_| bare(Sampled::No)),
                Entry::new(OURS, |collector| ours(collector, Sampled::No)),
                Entry::new(TOWER_HTTP, |_| tower_http(Sampled::No)),
                Entry::new(FASTRACE_AXUM, |collector| fastrace_axum(collector, Sampled::No)),
                Entry::new(INSTRUMENTATION_TOWER, |c| instrumentation_tower(c, Sampled::No)),
                Entry::new(AXUM_TRACING, |c| axum_tracing_opentelemetry(c, Sampled::No)),
            ],
            ratios: &[Ratio::new(OURS, TOWER_HTTP, 0.6)],
        },
    ],
    sections: None,
};

const BARE: &str = "bare router";
const OURS: &str = "trace-axum";
const TOWER_HTTP: &str = "tower-http, nobody listening";
const FASTRACE_AXUM: &str = "fastrace-axum";
const INSTRUMENTATION_TOWER: &str = "opentelemetry-instrumentation-tower";
const AXUM_TRACING: &str = "axum-tracing-opentelemetry";

async fn item(Path(_id): Path<u64>) -> &'static str {
    "an item"
}

fn router() -> Router {
    Router::new().route("/items/{id}", get(item))
}

/// A request as hyper hands it over, by a caller that decided about sampling.
fn request(sampled: Sampled) -> Request<Body> {
    let traceparent = match sampled {
        Sampled::Yes => "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        Sampled::No => "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
    };
    Request::builder()
        .uri("/items/3419?page=2")
        .header(header::HOST, "items.example.com:8443")
        .header(header::USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header(header::ACCEPT, "application/json")
        .header("traceparent", traceparent)
        .extension(ConnectInfo(SocketAddr::from(([203, 0, 113, 195], 51234))))
        .body(Body::empty())
        .expect("all parts are valid")
}

/// A router that serves one request for each unit of work.
///
/// The request is made there and then, as a copy of a ready one, and what it costs is that of the bare router too: requests that
/// were made ahead would lie in memory that no cache holds any more, and so would all that is allocated where they were.
fn serving(router: Router, sampled: Sampled) -> Subject {
    let (head, _) = request(sampled).into_parts();
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

fn bare(sampled: Sampled) -> Subject {
    serving(router(), sampled)
}

/// What axum itself needs for any layer.
fn identity(sampled: Sampled) -> Subject {
    serving(router().layer(Identity::new()), sampled)
}

fn ours(collector: &Collector, sampled: Sampled) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    let layer = trace_axum::TraceLayer::new().tracer(tracer);
    serving(router().layer(layer), sampled).drained_by(move || exporters::drain_ours(tracer))
}

fn tower_http(sampled: Sampled) -> Subject {
    serving(router().layer(tower_http::trace::TraceLayer::new_for_http()), sampled)
}

fn fastrace_axum(collector: &Collector, sampled: Sampled) -> Subject {
    exporters::fastrace(collector);
    serving(router().layer(fastrace_axum::FastraceLayer::default()), sampled).drained_by(fastrace::flush)
}

/// Traces alone: its metrics are another question.
fn instrumentation_tower(collector: &Collector, sampled: Sampled) -> Subject {
    let provider = exporters::sdk(collector, Sampled::Yes);
    let layer = otel_tower::LayerBuilder::builder().with_metrics(false).build().expect("a valid layer");
    serving(router().layer(layer), sampled).drained_by(move || exporters::drain_sdk(&provider))
}

fn axum_tracing_opentelemetry(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing(collector, Sampled::Yes);
    let layer = axum_tracing_opentelemetry::middleware::OtelAxumLayer::default();
    serving(router().layer(layer), sampled).drained_by(drain)
}
