//! What a client span tells, and what goes downstream with it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Server, Traced, answer, assert_error, at_once, attributes, exporter, number, status, text};
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use reqwest::Method;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use trace_core::otlp::OwnedValue;
use trace_core::sampler::AnySampler;
use trace_core::{Baggage, Context, Propagator, SpanKind, Tracer};
use trace_reqwest::reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use trace_reqwest::{KnownMethods, QueryRedaction, TraceMiddleware, UrlTemplate};

fn client(tracer: Tracer) -> ClientWithMiddleware {
    trace_reqwest::builder(reqwest::Client::builder()).tracer(tracer).build().unwrap()
}

fn retrying(tracer: Tracer) -> ClientWithMiddleware {
    trace_reqwest::builder(reqwest::Client::builder()).tracer(tracer).with(retry()).build().unwrap()
}

fn retry() -> RetryTransientMiddleware<ExponentialBackoff> {
    let policy = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(1), Duration::from_millis(2))
        .build_with_max_retries(3);
    RetryTransientMiddleware::new_with_policy(policy)
}

#[tokio::test]
async fn a_request_has_every_attribute_of_the_conventions() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let url = server.url("/items/7");
    let parent = traced.tracer().span("caller").start();
    let caller = parent.span_context().unwrap();
    parent.run(client(traced.tracer()).get(&url).send()).await.unwrap();

    let span = traced.span().await;
    assert_eq!(span.name, "GET");
    assert_eq!(span.kind, SpanKind::Client);
    assert_eq!((span.trace_id, span.parent_span_id), (caller.trace_id(), Some(caller.span_id())));
    assert_eq!((&*span.scope_name, &*span.scope_version), ("trace-reqwest", env!("CARGO_PKG_VERSION")));
    assert_error(&span, None);
    let port = OwnedValue::I64(server.address.port().into());
    assert_eq!(
        attributes(&span),
        [
            ("http.request.method", "GET".into()),
            ("http.response.status_code", OwnedValue::I64(200)),
            ("network.peer.address", "127.0.0.1".into()),
            ("network.peer.port", port.clone()),
            ("network.protocol.version", "1.1".into()),
            ("server.address", "127.0.0.1".into()),
            ("server.port", port),
            ("url.full", url.as_str().into()),
        ]
    );
    let seen = &server.seen()[0];
    assert_eq!(seen.parent(), (span.trace_id, span.span_id));
    assert!(seen.header("traceparent").unwrap().ends_with("-03"));
    assert_eq!((seen.header("tracestate"), seen.header("baggage")), (None, None));
}

#[tokio::test]
async fn http2_is_told_as_version_2() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let client = reqwest::Client::builder().http2_prior_knowledge();
    let client = trace_reqwest::builder(client).tracer(traced.tracer()).build().unwrap();
    client.get(server.url("/")).send().await.unwrap();
    let span = traced.span().await;
    assert_eq!(text(&span, "network.protocol.version"), Some("2"));
    assert_eq!(text(&span, "network.peer.address"), Some("127.0.0.1"));
}

#[tokio::test]
async fn a_method_that_nobody_knows_is_other() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let client = client(traced.tracer());
    for method in ["BREW", "get"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        client.request(method, server.url("/")).with_extension(UrlTemplate("/pot")).send().await.unwrap();
    }
    for (span, original) in traced.client_spans().await.iter().zip(["BREW", "get"]) {
        assert_eq!(span.name, "HTTP /pot");
        assert_eq!(text(span, "http.request.method"), Some("_OTHER"));
        assert_eq!(text(span, "http.request.method_original"), Some(original));
    }
}

#[tokio::test]
async fn the_known_methods_can_be_chosen() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let client = trace_reqwest::builder(reqwest::Client::builder())
        .known_methods(KnownMethods::only(["BREW"]))
        .tracer(traced.tracer())
        .build()
        .unwrap();
    client.request(Method::from_bytes(b"BREW").unwrap(), server.url("/")).send().await.unwrap();
    client.get(server.url("/")).send().await.unwrap();
    let spans = traced.client_spans().await;
    assert_eq!([&*spans[0].name, &*spans[1].name], ["BREW", "HTTP"]);
}

#[tokio::test]
async fn a_template_names_the_span() {
    const LONG: &str = "/a-path-with-very-many-letters/a-path-with-very-many-letters/a-path-with-very-many-letters/\
                        a-path-with-very-many-letters/a-path-with-very-many-letters/{id}";
    let traced = Traced::start();
    let server = Server::ok().await;
    let client = client(traced.tracer());
    for template in ["/items/{id}", LONG] {
        client.post(server.url("/items/7")).with_extension(UrlTemplate(template)).send().await.unwrap();
    }
    for (span, template) in traced.client_spans().await.iter().zip(["/items/{id}", LONG]) {
        assert_eq!(span.name, format!("POST {template}"));
        assert_eq!(text(span, "url.template"), Some(template));
    }
}

#[tokio::test]
async fn a_status_of_400_and_more_is_an_error() {
    let traced = Traced::start();
    let codes = [200, 204, 304, 399, 400, 404, 429, 500, 503, 599];
    let server = Server::start(move |_, before| status(codes[before])).await;
    let client = client(traced.tracer());
    for code in codes {
        assert_eq!(client.get(server.url("/")).send().await.unwrap().status(), code);
    }
    for (span, code) in traced.client_spans().await.iter().zip(codes) {
        assert_eq!(number(span, "http.response.status_code"), Some(i64::from(code)));
        assert_error(span, (code >= 400).then_some(&*code.to_string()));
    }
}

#[tokio::test]
async fn each_attempt_is_a_span_that_the_server_can_tell_apart() {
    let traced = Traced::start();
    let server = Server::start(|_, before| status(if before < 2 { 503 } else { 200 })).await;
    let client = retrying(traced.tracer());
    let parent = traced.tracer().span("caller").start();
    let caller = parent.span_context().unwrap();
    let response = parent.run(client.post(server.url("/pay")).body("7 €").send()).await.unwrap();
    assert_eq!(response.status(), 200);

    let spans = traced.client_spans().await;
    assert_eq!(spans.len(), 3);
    let seen = server.seen();
    for (span, seen) in spans.iter().zip(&seen) {
        assert_eq!((span.trace_id, span.parent_span_id), (caller.trace_id(), Some(caller.span_id())));
        assert_eq!(seen.parent(), (span.trace_id, span.span_id));
        assert_eq!(seen.body, "7 €");
    }
    let resends: Vec<_> = spans.iter().map(|span| number(span, "http.request.resend_count")).collect();
    assert_eq!(resends, [None, Some(1), Some(2)]);
    let errors: Vec<_> = spans.iter().map(|span| text(span, "error.type")).collect();
    assert_eq!(errors, [Some("503"), Some("503"), None]);
}

#[tokio::test]
async fn each_call_counts_its_own_attempts() {
    let traced = Traced::start();
    let server = Server::start(|_, before| status(if before % 2 == 0 { 503 } else { 200 })).await;
    let client = retrying(traced.tracer());
    // Even if somebody uses the same extensions twice.
    let mut extensions = http::Extensions::new();
    for _ in 0..2 {
        let request = client.get(server.url("/")).build().unwrap();
        client.execute_with_extensions(request, &mut extensions).await.unwrap();
    }
    let spans = traced.client_spans().await;
    let resends: Vec<_> = spans.iter().map(|span| number(span, "http.request.resend_count")).collect();
    assert_eq!(resends, [None, Some(1), None, Some(1)]);
}

#[tokio::test]
async fn around_a_retry_there_is_one_span_for_all_attempts() {
    let traced = Traced::start();
    let server = Server::start(|_, before| status(if before < 2 { 503 } else { 200 })).await;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(TraceMiddleware::new().tracer(traced.tracer()))
        .with(retry())
        .build();
    client.get(server.url("/")).send().await.unwrap();
    let span = traced.span().await;
    assert_error(&span, None);
    assert!(server.seen().iter().all(|seen| seen.parent().1 == span.span_id));
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn inside_a_retry_of_a_stack_of_ones_own_attempts_are_counted_too() {
    let traced = Traced::start();
    let server = Server::start(|_, before| status(if before < 1 { 503 } else { 200 })).await;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(retry())
        .with(TraceMiddleware::new().tracer(traced.tracer()))
        .build();
    client.get(server.url("/")).send().await.unwrap();
    let spans = traced.client_spans().await;
    let resends: Vec<_> = spans.iter().map(|span| number(span, "http.request.resend_count")).collect();
    assert_eq!(resends, [None, Some(1)]);
}

#[tokio::test]
async fn tracestate_and_baggage_travel_along() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let mut headers = http::HeaderMap::new();
    headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
    headers.insert("tracestate", "vendor=a,other=b".parse().unwrap());
    headers.insert("baggage", "tenant.id=acme".parse().unwrap());
    let caller = Propagator::default().extract(&headers);
    let client = client(traced.tracer());
    caller.in_scope(|| traced.tracer().span("served").run(client.get(server.url("/")).send())).await.unwrap();

    let span = traced.span().await;
    let seen = &server.seen()[0];
    assert_eq!(span.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(seen.parent(), (span.trace_id, span.span_id));
    assert_eq!(seen.header("tracestate"), Some("vendor=a,other=b"));
    assert_eq!(seen.header("baggage"), Some("tenant.id=acme"));
    assert_eq!(span.trace_state, "vendor=a,other=b");
}

#[tokio::test]
async fn headers_of_another_trace_are_replaced() {
    let traced = Traced::start();
    let server = Server::ok().await;
    client(traced.tracer())
        .get(server.url("/"))
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01")
        .header("tracestate", "vendor=a")
        .send()
        .await
        .unwrap();
    let span = traced.span().await;
    let seen = &server.seen()[0];
    assert_eq!(seen.parent(), (span.trace_id, span.span_id));
    assert_eq!(seen.header("tracestate"), None);
}

#[tokio::test]
async fn nothing_secret_is_exported() {
    // The collector is an ordinary server here, so that every byte can be looked at.
    let collector = Server::ok().await;
    let traces = Tracer::builder().exporter(exporter(&collector.url(""))).build();
    let server = Server::start(|seen, before| match before {
        0 => common::redirect(302, "/next?token=s3cret-2#s3cret-3"),
        1 => answer(500, &[("x-token", "s3cret-4")]),
        _ => panic!("{seen:?}"),
    })
    .await;
    let client = client(traces.tracer());
    let url = format!("http://me:s3cret-5@{}/items?key=s3cret-6&page=2#s3cret-7", server.address);
    // A request that is not made by the client's own methods keeps its name and password in the URL.
    let mut request = reqwest::Request::new(Method::POST, url.parse().unwrap());
    request.headers_mut().insert("authorization", "Bearer s3cret-8".parse().unwrap());
    request.headers_mut().insert("cookie", "s3cret-9".parse().unwrap());
    *request.body_mut() = Some("s3cret-10".into());
    client.execute(request).await.unwrap();
    // Its error's text has the whole URL.
    let refused = "http://127.0.0.1:1/?key=s3cret-11";
    assert!(client.get(refused).send().await.unwrap_err().to_string().contains("s3cret-11"));

    traces.flush(common::SOON).await.unwrap();
    let bytes: Vec<u8> = collector.seen().iter().flat_map(|seen| seen.body.to_vec()).collect();
    let exported = String::from_utf8_lossy(&bytes);
    assert!(exported.contains("REDACTED:REDACTED@127.0.0.1"), "{exported}");
    assert!(exported.contains("/items?key=REDACTED&page=REDACTED"));
    assert!(exported.contains("/next?token=REDACTED"));
    assert!(exported.contains("http://127.0.0.1:1/?key=REDACTED"));
    assert!(!exported.contains("s3cret"), "{exported}");
}

#[tokio::test]
async fn values_of_harmless_keys_can_be_kept() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let client = trace_reqwest::builder(reqwest::Client::builder())
        .redact_query(QueryRedaction::all_but(["page"]))
        .tracer(traced.tracer())
        .build()
        .unwrap();
    client.get(server.url("/?page=2&key=4711")).send().await.unwrap();
    assert_eq!(text(&traced.span().await, "url.full"), Some(&*server.url("/?page=2&key=REDACTED")));
}

#[tokio::test]
async fn a_connection_that_is_used_again_is_known_by_its_address() {
    let traced = Traced::start();
    let server = Server::start(|_, _| status(204)).await;
    let client = client(traced.tracer());
    for _ in 0..3 {
        client.get(server.url("/")).send().await.unwrap();
    }
    let seen = server.seen();
    assert!(seen.iter().all(|request| request.peer == seen[0].peer), "one connection");
    let spans = traced.client_spans().await;
    assert_eq!(spans.len(), 3);
    for span in &spans {
        assert_eq!(number(span, "network.peer.port"), Some(i64::from(server.address.port())));
        assert_eq!(number(span, "http.request.resend_count"), None);
    }
}

#[tokio::test]
async fn a_request_that_is_not_sampled_still_has_ids_of_its_own() {
    let traced = Traced::with(|builder| builder.sampler(AnySampler::AlwaysOff));
    let server = Server::start(|_, before| status(if before == 0 { 503 } else { 200 })).await;
    retrying(traced.tracer()).get(server.url("/")).send().await.unwrap();
    assert_eq!(traced.spans().await, []);
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.header("traceparent").unwrap().ends_with("-02")));
    assert_ne!(seen[0].parent(), seen[1].parent());
}

#[tokio::test]
async fn where_tracing_is_disabled_the_caller_is_passed_on() {
    let server = Server::ok().await;
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut headers = http::HeaderMap::new();
    headers.insert("traceparent", header.parse().unwrap());
    let caller = Propagator::default().extract(&headers);
    let client = client(Tracer::disabled());
    let _guard = caller.attach();
    client.get(server.url("/")).send().await.unwrap();
    assert_eq!(server.seen()[0].header("traceparent"), Some(header));
}

#[tokio::test]
async fn without_a_tracer_of_its_own_a_client_uses_that_of_its_caller() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let client = trace_reqwest::client();
    let caller = traced.tracer().span("caller").start();
    let id = caller.span_context().unwrap().span_id();
    caller.run(client.get(server.url("/")).send()).await.unwrap();
    assert_eq!(traced.span().await.parent_span_id, Some(id));
}

#[tokio::test]
async fn what_reqwest_does_for_a_request_is_inside_its_span() {
    struct Resolver(SocketAddr, Mutex<Vec<Context>>);

    impl Resolve for &'static Resolver {
        fn resolve(&self, _: Name) -> Resolving {
            self.1.lock().unwrap().push(Context::current());
            let address = self.0;
            Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) })
        }
    }

    let traced = Traced::start();
    let server = Server::ok().await;
    let resolver: &'static Resolver = Box::leak(Box::new(Resolver(server.address, Mutex::default())));
    let client = reqwest::Client::builder().dns_resolver(Arc::new(resolver)).no_proxy();
    let client = trace_reqwest::builder(client).tracer(traced.tracer()).build().unwrap();
    let url = format!("http://shop.example:{}/", server.address.port());
    client.get(url).send().await.unwrap();
    let span = traced.span().await;
    assert_eq!(text(&span, "server.address"), Some("shop.example"));
    assert_eq!(text(&span, "network.peer.address"), Some("127.0.0.1"));
    let context = resolver.1.lock().unwrap().pop().unwrap();
    assert_eq!(context.span_context().unwrap().span_id(), span.span_id);
    assert_eq!(Context::current().span_context(), None, "and nothing else is");
}

#[tokio::test]
async fn baggage_without_a_trace_travels_too() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let mut baggage = Baggage::new();
    baggage.insert("tenant.id", "acme").unwrap();
    let client = client(traced.tracer());
    let context = Context::current().with_baggage(baggage);
    {
        let _guard = context.attach();
        client.get(server.url("/")).send().await.unwrap();
    }
    assert_eq!(server.seen()[0].header("baggage"), Some("tenant.id=acme"));
}

#[tokio::test]
async fn the_address_of_an_ipv6_server_has_no_brackets() {
    let Ok(server) = Server::start_at("[::1]:0", |_, _| status(200)).await else {
        // This machine has no IPv6.
        return;
    };
    let traced = Traced::start();
    client(traced.tracer()).get(server.url("/")).send().await.unwrap();
    let span = traced.span().await;
    assert_eq!(text(&span, "server.address"), Some("::1"));
    assert_eq!(text(&span, "network.peer.address"), Some("::1"));
}

#[tokio::test]
async fn the_span_ends_at_the_head() {
    let traced = Traced::start();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let receiver = Mutex::new(Some(receiver));
    let server = Server::start(move |_, _| {
        let receiver = receiver.lock().unwrap().take().unwrap();
        let frames = futures_util::stream::unfold(receiver, async |mut receiver| {
            Some((Ok::<_, std::io::Error>(Frame::data(receiver.recv().await?)), receiver))
        });
        http::Response::new(BodyExt::boxed_unsync(StreamBody::new(frames.boxed())))
    })
    .await;
    let response = client(traced.tracer()).get(server.url("/")).send().await.unwrap();
    // The body has not begun, and the span is over.
    assert_eq!(number(&traced.span().await, "http.response.status_code"), Some(200));
    sender.send(Bytes::from_static(b"late")).unwrap();
    drop(sender);
    assert_eq!(response.text().await.unwrap(), "late");
    assert_eq!(traced.client_spans().await.len(), 1);
}

#[tokio::test]
async fn requests_at_once_are_siblings() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let client = client(traced.tracer());
    let parent = traced.tracer().span("caller").start();
    let caller = parent.span_context().unwrap();
    let requests = (0..16).map(|i| client.get(server.url(&format!("/{i}"))).send());
    let responses = parent.run(futures_util::future::join_all(requests)).await;
    assert!(responses.iter().all(Result::is_ok));
    let spans = traced.client_spans().await;
    assert_eq!(spans.len(), 16);
    for span in &spans {
        assert_eq!(span.parent_span_id, Some(caller.span_id()));
        let path = text(span, "url.full").unwrap().rsplit('/').next().unwrap();
        let seen = server.seen().into_iter().find(|seen| seen.path[1..] == *path).unwrap();
        assert_eq!(seen.parent().1, span.span_id);
    }
}

#[tokio::test]
async fn a_url_that_is_not_http_is_no_request() {
    let traced = Traced::start();
    let error = client(traced.tracer()).get("data:text/plain,s3cret").send().await.unwrap_err();
    assert!(error.is_builder());
    assert_eq!(traced.spans().await, []);
}

#[tokio::test]
async fn a_span_of_a_middleware_is_the_parent_of_what_it_runs_and_a_child_of_what_runs_it() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let tracer = traced.tracer();
    let around = || {
        at_once(move |request, extensions, next| {
            Box::pin(async move { tracer.span("around").start().run(next.run(request, extensions)).await })
        })
    };
    let builder = || trace_reqwest::builder(reqwest::Client::builder()).tracer(traced.tracer());
    let above = builder().with(around()).build().unwrap();
    let below = ClientBuilder::from_client(client(traced.tracer())).with(around()).build();
    for (client, is_above) in [(above, true), (below, false)] {
        client.get(server.url("/")).send().await.unwrap();
        let spans = traced.spans().await;
        let of = |name: &str| spans.iter().rfind(|span| &*span.name == name).unwrap();
        let (around, call) = (of("around"), of("GET"));
        let (parent, child) = if is_above { (around, call) } else { (call, around) };
        assert_eq!(child.parent_span_id, Some(parent.span_id));
        assert_eq!(parent.parent_span_id, None);
    }
}
