//! What does tracing add to a call that reqwest makes?

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Extensions, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Request, Response, ResponseBuilderExt, Url, retry};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_tracing::TracingMiddleware;
use tokio::runtime::{self, Runtime};
use tower::{Layer, ServiceExt, service_fn};
use tower_otel::trace::HttpLayer;
use trace_core::{SpanKind, Tracer};
use tracing::Level;

use crate::exporters::{self, Sampled};
use crate::harness::{Bench, Case, Collector, Entry, Ratio, Subject};

pub(crate) const BENCH: Bench = Bench {
    name: "client",
    question: "What does tracing add to a `GET` by reqwest that is made inside a span, until the response is read? On loopback, the \
               server is in another process, and client and connection work on one thread; *to socket* varies there by more than \
               tracing takes. Without a network, the innermost middleware of reqwest-middleware answers at once, which leaves what \
               the layers themselves cost, exactly; there is no connection then whose address a span could tell. *identity* is what \
               reqwest-middleware needs for any middleware, and a part of what trace-reqwest and reqwest-tracing add. *a constant \
               header* is one that is there in advance, and is added to each request by hand; *and an empty span* is a middleware \
               that adds it, and makes a span that tells nothing: a bound of what any middleware takes that traces. fastrace-reqwest \
               makes no span: it sends on the `traceparent` of the current one, as a header that is added to each request by hand, \
               without a middleware. reqwest-tracing's span, by default, has no `url.full`; tower-otel's has every header.",
    cases: &[
        Case {
            name: "loopback, sampled",
            spans: 1,
            added_to: Some(REQWEST),
            entries: &[
                Entry::new(REQWEST, reqwest_alone),
                Entry::new(MIDDLEWARE, middleware_alone),
                Entry::new(CONSTANT, constant_header),
                Entry::new(EMPTY, empty_span),
                Entry::new(OURS, |collector| ours(collector, Sampled::Yes)),
                Entry::new(FASTRACE, |collector| fastrace(collector, Sampled::Yes)),
                Entry::new(REQWEST_TRACING, |collector| reqwest_tracing(collector, Sampled::Yes)),
                Entry::new(TOWER_OTEL, |collector| tower_otel(collector, Sampled::Yes)),
            ],
            ratios: &[
                Ratio::new(OURS, FASTRACE, 0.6),
                Ratio::shown(EMPTY, FASTRACE),
                Ratio::shown(OURS, REQWEST_TRACING),
                Ratio::shown(OURS, TOWER_OTEL),
            ],
        },
        Case {
            name: "without a network, sampled",
            spans: 1,
            added_to: Some(ANSWERED),
            entries: &[
                Entry::new(ANSWERED, |_| answered_alone()),
                Entry::new(IDENTITY, |_| answered_identity()),
                Entry::new(CONSTANT, |_| answered_constant_header()),
                Entry::new(EMPTY, answered_empty_span),
                Entry::new(OURS, |collector| answered_ours(collector, Sampled::Yes)),
                Entry::new(FASTRACE, |collector| answered_fastrace(collector, Sampled::Yes)),
                Entry::new(REQWEST_TRACING, |c| answered_reqwest_tracing(c, Sampled::Yes)),
                Entry::new(TOWER_OTEL, |collector| answered_tower_otel(collector, Sampled::Yes)),
            ],
            ratios: &[
                Ratio::new(OURS, FASTRACE, 0.6),
                Ratio::shown(EMPTY, FASTRACE),
                Ratio::shown(OURS, REQWEST_TRACING),
                Ratio::shown(OURS, TOWER_OTEL),
            ],
        },
        Case {
            name: "without a network, not sampled",
            spans: 1,
            added_to: Some(ANSWERED),
            entries: &[
                Entry::new(ANSWERED, |_| answered_alone()),
                Entry::new(OURS, |collector| answered_ours(collector, Sampled::No)),
                Entry::new(FASTRACE, |collector| answered_fastrace(collector, Sampled::No)),
                Entry::new(REQWEST_TRACING, |c| answered_reqwest_tracing(c, Sampled::No)),
                Entry::new(TOWER_OTEL, |collector| answered_tower_otel(collector, Sampled::No)),
            ],
            ratios: &[
                Ratio::shown(OURS, FASTRACE),
                Ratio::shown(OURS, REQWEST_TRACING),
                Ratio::shown(OURS, TOWER_OTEL),
            ],
        },
    ],
    sections: None,
};

const REQWEST: &str = "reqwest";
const MIDDLEWARE: &str = "reqwest-middleware, with none";
const ANSWERED: &str = "reqwest-middleware, answered at once";
const IDENTITY: &str = "identity";
const CONSTANT: &str = "a constant header";
const EMPTY: &str = "a constant header and an empty span";
const OURS: &str = "trace-reqwest";
const FASTRACE: &str = "fastrace-reqwest, no span";
const REQWEST_TRACING: &str = "reqwest-tracing";
const TOWER_OTEL: &str = "tower-otel";

/// A client that makes one call for each unit of work, to the server that the collector is too: it answers any request
/// with 200 and nothing more.
fn calling<R>(collector: &Collector, call: impl Fn(Url) -> R + Sync + 'static) -> Subject
where
    R: Future<Output = Response>,
{
    let runtime = runtime();
    let url = Url::parse(&collector.endpoint)
        .and_then(|collector| collector.join("/items/3419"))
        .expect("the runner's address is one");
    Subject::new(move || {
        runtime.block_on(async {
            let response = call(url.clone()).await;
            debug_assert_eq!(response.status(), 200);
            response.bytes().await.expect("the server is well");
            // Otherwise the connection would not be back in its pool when the next call looks for one.
            tokio::task::yield_now().await;
        });
    })
}

/// All work on the thread that waits for it.
fn runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("there are descriptors left")
}

fn reqwest_alone(collector: &Collector) -> Subject {
    let client = reqwest::Client::new();
    calling(collector, move |url| client.get(url).send().map(served))
}

/// What the stack of reqwest-middleware costs that trace-reqwest and reqwest-tracing live in.
fn middleware_alone(collector: &Collector) -> Subject {
    let client = ClientBuilder::new(reqwest::Client::new()).build();
    calling(collector, move |url| client.get(url).send().map(served))
}

/// What it costs to send a header that is there already.
fn constant_header(collector: &Collector) -> Subject {
    let client = reqwest::Client::new();
    calling(collector, move |url| {
        client.get(url).header(TRACEPARENT, CONSTANT_TRACEPARENT).send().map(served)
    })
}

fn empty_span(collector: &Collector) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    exporters::stand_in_ours(tracer);
    let client = reqwest::Client::builder().redirect(Policy::none()).retry(retry::never()).build();
    let client = ClientBuilder::new(client.expect("reqwest can set itself up")).with(EmptySpan).build();
    calling(collector, move |url| client.get(url).send().map(served))
        .drained_by(move || exporters::drain_ours(tracer))
}

fn ours(collector: &Collector, sampled: Sampled) -> Subject {
    let tracer = exporters::ours(collector, sampled);
    exporters::stand_in_ours(tracer);
    let client = traced(tracer);
    calling(collector, move |url| client.get(url).send().map(served))
        .drained_by(move || exporters::drain_ours(tracer))
}

fn traced(tracer: Tracer) -> ClientWithMiddleware {
    let builder = trace_reqwest::builder(reqwest::Client::builder()).tracer(tracer);
    builder.build().expect("reqwest can set itself up")
}

fn fastrace(collector: &Collector, sampled: Sampled) -> Subject {
    exporters::fastrace(collector);
    exporters::stand_in_fastrace(sampled);
    let client = reqwest::Client::new();
    calling(collector, move |url| {
        client.get(url).headers(fastrace_reqwest::traceparent_headers()).send().map(served)
    })
    .drained_by(::fastrace::flush)
}

/// With its default span, which has no `url.full`.
fn reqwest_tracing(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing_0_32(collector, sampled);
    exporters::stand_in_tracing();
    let client = ClientBuilder::new(reqwest::Client::new()).with(TracingMiddleware::default()).build();
    calling(collector, move |url| client.get(url).send().map(served)).drained_by(drain)
}

fn tower_otel(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing(collector, sampled);
    exporters::stand_in_tracing();
    let client = reqwest::Client::new();
    let service = HttpLayer::client(Level::INFO).layer(client.clone());
    calling(collector, move |url| {
        let request = client.get(url).build().expect("a valid request");
        service.clone().oneshot(request).map(served)
    })
    .drained_by(drain)
}

/// A client that makes one call for each unit of work, and is answered without being sent anywhere.
fn answered<R>(call: impl Fn(Url) -> R + Sync + 'static) -> Subject
where
    R: Future<Output = Response>,
{
    let url = Url::parse("http://items.example.com:8080/items/3419").expect("it is one");
    Subject::new(move || {
        let Some(response) = call(url.clone()).now_or_never() else {
            unreachable!("the answer is there");
        };
        debug_assert_eq!(response.status(), 200);
    })
}

/// The innermost middleware.
fn answer<'a>(
    request: Request,
    _: &'a mut Extensions,
    _: Next<'a>,
) -> BoxFuture<'a, reqwest_middleware::Result<Response>> {
    let response = http::Response::builder().url(request.url().clone()).body("");
    let response = Response::from(response.expect("a valid response"));
    Box::pin(std::future::ready(Ok(response)))
}

fn answering(builder: ClientBuilder) -> ClientWithMiddleware {
    builder.with(answer).build()
}

fn answered_alone() -> Subject {
    let client = answering(ClientBuilder::new(reqwest::Client::new()));
    answered(move |url| client.get(url).send().map(served))
}

/// What reqwest-middleware itself needs for any middleware that is there until the response is.
fn answered_identity() -> Subject {
    let client = answering(ClientBuilder::new(reqwest::Client::new()).with(Identity));
    answered(move |url| client.get(url).send().map(served))
}

fn answered_constant_header() -> Subject {
    let client = answering(ClientBuilder::new(reqwest::Client::new()));
    answered(move |url| client.get(url).header(TRACEPARENT, CONSTANT_TRACEPARENT).send().map(served))
}

fn answered_empty_span(collector: &Collector) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    exporters::stand_in_ours(tracer);
    let client = answering(ClientBuilder::new(reqwest::Client::new()).with(EmptySpan));
    answered(move |url| client.get(url).send().map(served)).drained_by(move || exporters::drain_ours(tracer))
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const CONSTANT_TRACEPARENT: HeaderValue =
    HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");

/// A middleware that waits for the response, and does nothing.
struct Identity;

/// The least middleware that traces: a header that is there already, and a span that tells nothing.
struct EmptySpan;

// By hand, with one box for each, and the request in none: `async_trait` and middlewares that are functions have two boxes.

impl Middleware for Identity {
    fn handle<'a, 'b, 'c, 'd>(
        &'a self,
        request: Request,
        extensions: &'b mut Extensions,
        next: Next<'c>,
    ) -> BoxFuture<'d, reqwest_middleware::Result<Response>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        let call = next.run(request, extensions);
        #[expect(
            clippy::redundant_async_block,
            reason = "its box is what any middleware needs that waits for a response"
        )]
        Box::pin(async move { call.await })
    }
}

impl Middleware for EmptySpan {
    fn handle<'a, 'b, 'c, 'd>(
        &'a self,
        mut request: Request,
        extensions: &'b mut Extensions,
        next: Next<'c>,
    ) -> BoxFuture<'d, reqwest_middleware::Result<Response>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        request.headers_mut().insert(TRACEPARENT, CONSTANT_TRACEPARENT);
        let span = trace_core::span("GET").kind(SpanKind::Client).start();
        let call = next.run(request, extensions);
        Box::pin(async move {
            let result = call.await;
            drop(span);
            result
        })
    }
}

fn answered_ours(collector: &Collector, sampled: Sampled) -> Subject {
    let tracer = exporters::ours(collector, sampled);
    exporters::stand_in_ours(tracer);
    let client = answering(ClientBuilder::from_client(traced(tracer)));
    answered(move |url| client.get(url).send().map(served)).drained_by(move || exporters::drain_ours(tracer))
}

fn answered_fastrace(collector: &Collector, sampled: Sampled) -> Subject {
    exporters::fastrace(collector);
    exporters::stand_in_fastrace(sampled);
    let client = answering(ClientBuilder::new(reqwest::Client::new()));
    answered(move |url| client.get(url).headers(fastrace_reqwest::traceparent_headers()).send().map(served))
        .drained_by(::fastrace::flush)
}

fn answered_reqwest_tracing(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing_0_32(collector, sampled);
    exporters::stand_in_tracing();
    let client = answering(ClientBuilder::new(reqwest::Client::new()).with(TracingMiddleware::default()));
    answered(move |url| client.get(url).send().map(served)).drained_by(drain)
}

/// The layer is made for a plain client: here, what it goes around is one that is answered, and is called as the others are.
fn answered_tower_otel(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing(collector, sampled);
    exporters::stand_in_tracing();
    let client: &'static ClientWithMiddleware =
        Box::leak(Box::new(answering(ClientBuilder::new(reqwest::Client::new()))));
    let service = HttpLayer::client(Level::INFO).layer(service_fn(|request| client.execute(request)));
    answered(move |url| {
        let request = client.get(url).build().expect("a valid request");
        service.clone().oneshot(request).map(served)
    })
    .drained_by(drain)
}

fn served<E: std::error::Error>(result: Result<Response, E>) -> Response {
    result.expect("the server is well")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_middleware_answers_at_once() {
        let client = answering(ClientBuilder::new(reqwest::Client::new()));
        let response = client.get("http://items.example.com:8080/items/3419").send().now_or_never();
        let response = response.unwrap().unwrap();
        assert_eq!((response.status().as_u16(), response.url().path()), (200, "/items/3419"));
    }
}
