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
use trace_core::{EncodedAttributes, Key, SpanKind, Tracer, Value, semconv};
use tracing::Level;

use crate::exporters::{self, Sampled};
use crate::harness::{Bench, Case, Collector, Entry, Ratio, Subject};
use crate::least::{encoded, tell};

pub(crate) const BENCH: Bench = Bench {
    name: "client",
    question: "What does tracing add to a `GET` by reqwest that is made inside a span, until the response is read? On loopback, the \
               server is in another process, and client and connection work on one thread; *to socket* varies there by more than \
               tracing takes. Without a network, the innermost middleware of reqwest-middleware answers at once, which leaves what \
               the layers themselves cost, exactly; there is no connection then whose address a span could tell. *identity* is what \
               reqwest-middleware needs for any middleware, and a part of what trace-reqwest and reqwest-tracing add. *a constant \
               header* is one that is there in advance, and is added to each request by hand. *a ready span and its header* is a \
               bound of what any middleware takes that traces: it never looks at a request, and its span tells as much as \
               trace-reqwest's, by our pipeline, but encoded in advance. fastrace-reqwest makes no span: it sends on the `traceparent` of \
               the current one, as a header that is added to each request by hand, without a middleware. reqwest-tracing's span, by default, has no `url.full`; tower-otel's has every header.",
    cases: &[
        Case {
            name: "loopback, sampled",
            spans: 1,
            added_to: Some(REQWEST),
            entries: &[
                Entry::new(REQWEST, reqwest_alone),
                Entry::new(MIDDLEWARE, middleware_alone),
                Entry::new(CONSTANT, constant_header),
                Entry::new(READY, ready_span),
                Entry::new(OURS, |collector| ours(collector, Sampled::Yes)),
                Entry::new(FASTRACE, |collector| fastrace(collector, Sampled::Yes)),
                Entry::new(REQWEST_TRACING, |collector| reqwest_tracing(collector, Sampled::Yes)),
                Entry::new(TOWER_OTEL, |collector| tower_otel(collector, Sampled::Yes)),
            ],
            ratios: &[
                Ratio::new(OURS, FASTRACE, 0.6),
                Ratio::shown(READY, FASTRACE),
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
                Entry::new(READY, answered_ready_span),
                Entry::new(OURS, |collector| answered_ours(collector, Sampled::Yes)),
                Entry::new(FASTRACE, |collector| answered_fastrace(collector, Sampled::Yes)),
                Entry::new(REQWEST_TRACING, |c| answered_reqwest_tracing(c, Sampled::Yes)),
                Entry::new(TOWER_OTEL, |collector| answered_tower_otel(collector, Sampled::Yes)),
            ],
            ratios: &[
                Ratio::new(OURS, FASTRACE, 0.6),
                Ratio::shown(READY, FASTRACE),
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
const READY: &str = "a ready span and its header";
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

fn ready_span(collector: &Collector) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    exporters::stand_in_ours(tracer);
    let client = reqwest::Client::builder().redirect(Policy::none()).retry(retry::never()).build();
    let client = ClientBuilder::new(client.expect("reqwest can set itself up"))
        .with(ReadySpan::new(tracer, true))
        .build();
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

fn answered_ready_span(collector: &Collector) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    exporters::stand_in_ours(tracer);
    let client = answering(ClientBuilder::new(reqwest::Client::new()).with(ReadySpan::new(tracer, false)));
    answered(move |url| client.get(url).send().map(served)).drained_by(move || exporters::drain_ours(tracer))
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const CONSTANT_TRACEPARENT: HeaderValue =
    HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");

/// A middleware that waits for the response, and does nothing.
struct Identity;

/// The least middleware that traces: its span tells what was encoded in advance, and the request of the span.
struct ReadySpan {
    tracer: Tracer,
    /// What is known of a request.
    request: &'static [EncodedAttributes],
    /// And of the response.
    response: &'static [EncodedAttributes],
}

impl ReadySpan {
    /// For calls that go through a connection, or are answered at once.
    fn new(tracer: Tracer, connection: bool) -> Self {
        let (host, port) = if connection { ("127.0.0.1", 43181) } else { ("items.example.com", 8080) };
        let url = format!("http://{host}:{port}/items/3419");
        let mut response: Vec<(Key<'_>, Value<'_>)> = vec![
            (semconv::HTTP_RESPONSE_STATUS_CODE, 200.into()),
            (semconv::NETWORK_PROTOCOL_VERSION, "1.1".into()),
        ];
        if connection {
            response.push((semconv::NETWORK_PEER_ADDRESS, host.into()));
            response.push((semconv::NETWORK_PEER_PORT, port.into()));
        }
        let request = [
            (semconv::HTTP_REQUEST_METHOD, "GET".into()),
            (semconv::SERVER_ADDRESS, host.into()),
            (semconv::SERVER_PORT, port.into()),
            (semconv::URL_FULL, url.as_str().into()),
        ];
        Self { tracer, request: encoded(&request), response: encoded(&response) }
    }
}

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

impl Middleware for ReadySpan {
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
        let mut span = self.tracer.span("GET").kind(SpanKind::Client).start();
        self.tracer.propagator().inject(span.context(), request.headers_mut());
        tell(&mut span, self.request);
        let call = next.run(request, extensions);
        Box::pin(async move {
            let result = call.await;
            tell(&mut span, self.response);
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
    use std::time::Duration;

    use super::*;
    use crate::harness;

    #[tokio::test]
    async fn the_bound_tells_what_the_middleware_tells() {
        let collector = trace_core::testing::Collector::start().await.unwrap();
        let endpoint = format!("{}/v1/traces", collector.http_endpoint());
        let tracer = exporters::ours(&harness::Collector { endpoint }, Sampled::Yes);
        let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let router = axum::Router::new().fallback(async || "");
        tokio::spawn(async { axum::serve(server, router).await });
        let bound =
            |connection| ClientBuilder::new(reqwest::Client::new()).with(ReadySpan::new(tracer, connection));
        let clients = [
            (traced(tracer), format!("http://127.0.0.1:{port}/items/3419")),
            (bound(true).build(), format!("http://127.0.0.1:{port}/items/3419")),
            (
                answering(ClientBuilder::from_client(traced(tracer))),
                "http://items.example.com:8080/items/3419".to_owned(),
            ),
            (answering(bound(false)), "http://items.example.com:8080/items/3419".to_owned()),
        ];
        let mut told = Vec::new();
        for (calls, (client, url)) in (1..).zip(&clients) {
            assert_eq!(client.get(url).send().await.unwrap().status(), 200);
            let spans = collector.wait_for_spans(calls, Duration::from_secs(20)).await.unwrap();
            let span = spans.last().unwrap();
            let mut attributes = span.attributes.clone();
            attributes.sort_by(|one, other| one.0.cmp(&other.0));
            told.push((span.name.clone(), span.kind, attributes));
        }
        assert_eq!(told[2], told[3]);
        // The port is another one each time.
        let keys =
            |told: &(_, _, Vec<(String, _)>)| told.2.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&told[0]), keys(&told[1]));
    }

    #[test]
    fn the_innermost_middleware_answers_at_once() {
        let client = answering(ClientBuilder::new(reqwest::Client::new()));
        let response = client.get("http://items.example.com:8080/items/3419").send().now_or_never();
        let response = response.unwrap().unwrap();
        assert_eq!((response.status().as_u16(), response.url().path()), (200, "/items/3419"));
    }
}
