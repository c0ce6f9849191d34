//! Redirects are followed above the spans, as reqwest follows them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{self, Poll};
use std::time::Duration;

use common::{Call, SOON, Server, Traced, answer, assert_error, at_once, number, redirect, status, text};
use http::Extensions;
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue};
use reqwest::{Body, Method, Request, Response, ResponseBuilderExt};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use trace_reqwest::reqwest_middleware::{self, ClientBuilder, ClientWithMiddleware, Middleware, Next};
use trace_reqwest::{Builder, UrlTemplate};

fn builder(traced: &Traced) -> Builder {
    trace_reqwest::builder(reqwest::Client::builder()).tracer(traced.tracer())
}

fn client(traced: &Traced) -> ClientWithMiddleware {
    builder(traced).build().unwrap()
}

#[tokio::test]
async fn each_hop_is_a_span() {
    let traced = Traced::start();
    let server = Server::start(|seen, _| match &*seen.path {
        "/a/old" => redirect(302, "new?k=v#part"),
        "/a/new?k=v" => redirect(307, "/end"),
        _ => status(200),
    })
    .await;
    let parent = traced.tracer().span("caller").start();
    let caller = parent.span_context().unwrap();
    let call = client(&traced).get(server.url("/a/old")).with_extension(UrlTemplate("/a/{name}")).send();
    let response = parent.run(call).await.unwrap();
    assert_eq!(response.url().as_str(), server.url("/end"));

    let spans = traced.client_spans().await;
    let told: Vec<_> = spans
        .iter()
        .map(|span| {
            assert_eq!((span.trace_id, span.parent_span_id), (caller.trace_id(), Some(caller.span_id())));
            assert_error(span, None);
            (
                &*span.name,
                text(span, "url.full").unwrap(),
                number(span, "http.response.status_code").unwrap(),
                number(span, "http.request.resend_count"),
            )
        })
        .collect();
    let [old, new, end] = [server.url("/a/old"), server.url("/a/new?k=REDACTED"), server.url("/end")];
    assert_eq!(
        told,
        [("GET /a/{name}", &*old, 302, None), ("GET", &*new, 307, Some(1)), ("GET", &*end, 200, Some(2)),]
    );
    for (span, seen) in spans.iter().zip(server.seen()) {
        assert_eq!(seen.parent(), (span.trace_id, span.span_id));
    }
}

/// What the end of a redirect saw: method, body, and the headers that speak of a body.
async fn follow(
    code: u16,
    method: Method,
    body: Option<Body>,
) -> (u16, Vec<(Method, String, Option<String>)>) {
    let traced = Traced::start();
    let server =
        Server::start(move |seen, _| if seen.path == "/" { redirect(code, "/end") } else { status(200) })
            .await;
    let mut request = client(&traced).request(method, server.url("/"));
    if let Some(body) = body {
        request = request.header("content-type", "text/plain").header("content-language", "de").body(body);
    }
    let response = request.send().await.unwrap();
    let seen = server.seen().into_iter().map(|seen| {
        let body = String::from_utf8(seen.body.to_vec()).unwrap();
        assert_eq!(seen.header("content-type").is_some(), seen.header("content-language").is_some());
        let content_type = seen.header("content-type").map(str::to_owned);
        (seen.method, body, content_type)
    });
    (response.status().as_u16(), seen.collect())
}

#[tokio::test]
async fn methods_and_bodies_change_as_the_standard_says() {
    use Method as M;
    for (code, before, after) in [
        (301, M::GET, M::GET),
        (301, M::POST, M::GET),
        (301, M::PUT, M::PUT),
        (301, M::HEAD, M::HEAD),
        (302, M::POST, M::GET),
        (302, M::DELETE, M::DELETE),
        (303, M::GET, M::GET),
        (303, M::POST, M::GET),
        (303, M::PUT, M::GET),
        (303, M::HEAD, M::HEAD),
        (307, M::POST, M::POST),
        (307, M::GET, M::GET),
        (308, M::POST, M::POST),
        (308, M::PATCH, M::PATCH),
    ] {
        let has_body = !matches!(before, M::GET | M::HEAD);
        let (status, seen) = follow(code, before.clone(), has_body.then(|| Body::from("the body"))).await;
        assert_eq!(status, 200);
        let keeps_body = has_body && before == after;
        let told = |sent: bool| {
            if sent { ("the body".to_owned(), Some("text/plain".to_owned())) } else { (String::new(), None) }
        };
        let ((body, content_type), (next_body, next_content_type)) = (told(has_body), told(keeps_body));
        assert_eq!(seen, [(before, body, content_type), (after, next_body, next_content_type)], "{code}");
    }
}

#[tokio::test]
async fn a_stream_is_sent_once() {
    let stream = || Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>("the body")]));
    let (status, seen) = follow(307, Method::POST, Some(stream())).await;
    assert_eq!((status, seen.len()), (307, 1), "the redirect is the answer");
    let (status, seen) = follow(303, Method::POST, Some(stream())).await;
    assert_eq!((status, seen.len()), (200, 2), "what follows needs no body");
    assert_eq!(seen[1], (Method::GET, String::new(), None));
}

#[tokio::test]
async fn other_statuses_and_places_that_are_none_are_for_the_caller() {
    let traced = Traced::start();
    for (code, headers) in [
        (300, vec![("location", "/end")]),
        (304, vec![("location", "/end")]),
        (305, vec![("location", "/end")]),
        (302, vec![]),
        (302, vec![("location", "http://[")]),
    ] {
        let server = Server::start(move |_, _| answer(code, &headers)).await;
        let response = client(&traced).get(server.url("/")).send().await.unwrap();
        assert_eq!((response.status().as_u16(), server.seen().len()), (code, 1));
    }
}

#[tokio::test]
async fn secrets_stay_with_their_origin() {
    let traced = Traced::start();
    let other = Server::ok().await;
    let elsewhere = other.url("/end");
    let server = Server::start(move |seen, _| match &*seen.path {
        "/" => redirect(302, "/here"),
        _ => redirect(302, &elsewhere),
    })
    .await;
    client(&traced)
        .get(server.url("/"))
        .header("authorization", "Bearer s3cret")
        .header("cookie", "a=s3cret")
        .header("cookie2", "s3cret")
        .header("proxy-authorization", "s3cret")
        .header("www-authenticate", "s3cret")
        .header("x-request-id", "7")
        .send()
        .await
        .unwrap();
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), Some("Bearer s3cret"));
        assert_eq!(seen.header("cookie"), Some("a=s3cret"));
    }
    assert_eq!(server.seen().len(), 2);
    let seen = &other.seen()[0];
    assert!(!format!("{:?}", seen.headers).contains("s3cret"), "{:?}", seen.headers);
    assert_eq!(seen.header("x-request-id"), Some("7"));
    let spans = traced.client_spans().await;
    assert_eq!(number(&spans[2], "server.port"), Some(i64::from(other.address.port())));
    assert_eq!(seen.parent().1, spans[2].span_id);
}

#[tokio::test]
async fn a_way_back_does_not_bring_the_secrets_back() {
    let traced = Traced::start();
    let other = Arc::new(std::sync::OnceLock::<String>::new());
    let target = other.clone();
    let server = Server::start(move |seen, _| match &*seen.path {
        "/" => redirect(302, target.get().unwrap()),
        "/back" => redirect(302, "/again"),
        _ => status(200),
    })
    .await;
    let back = server.url("/back");
    let elsewhere = Server::start(move |_, _| redirect(302, &back)).await;
    other.set(elsewhere.url("/")).unwrap();
    let cookies = Arc::new(Mutex::default());
    builder(&traced)
        .with(signer(cookies.clone()))
        .build()
        .unwrap()
        .get(server.url("/"))
        .header("cookie", "s3cret")
        .send()
        .await
        .unwrap();
    let seen = server.seen();
    assert_eq!((seen[0].header("cookie"), seen[0].header("authorization")), (Some("s3cret"), Some("s3cret")));
    for seen in [&elsewhere.seen()[0], &seen[1], &seen[2]] {
        assert_eq!((seen.header("cookie"), seen.header("authorization")), (None, None));
    }
    assert_eq!(*cookies.lock().unwrap(), [true, false, false, false], "nor do middlewares see them");
}

/// Adds a secret to every request, as middlewares do that know of one server only, and notes whether there was one.
fn signer(cookies: Arc<Mutex<Vec<bool>>>) -> impl Middleware {
    at_once(move |mut request, extensions, next| {
        cookies.lock().unwrap().push(request.headers().contains_key(COOKIE));
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("s3cret"));
        next.run(request, extensions)
    })
}

fn secret_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("s3cret"));
    headers.insert(COOKIE, HeaderValue::from_static("s3cret"));
    headers.insert("x-app", HeaderValue::from_static("shop"));
    headers
}

#[tokio::test]
async fn default_headers_of_the_builder_stay_with_their_origin() {
    let traced = Traced::start();
    let client = builder(&traced).default_headers(secret_headers()).build().unwrap();
    let spans = cross(&traced, client).await;
    assert_eq!(spans, 3, "each hop is a span");
}

#[tokio::test]
async fn default_headers_of_reqwest_stay_with_their_origin() {
    let traced = Traced::start();
    let client = reqwest::Client::builder().default_headers(secret_headers());
    let client = trace_reqwest::builder(client).tracer(traced.tracer()).build().unwrap();
    let spans = cross(&traced, client).await;
    assert_eq!(spans, 2, "from the border on, reqwest follows by itself");
}

/// Lets a client be redirected, to the same origin and then to another one, and counts the spans.
async fn cross(traced: &Traced, client: ClientWithMiddleware) -> usize {
    let other = Server::ok().await;
    let elsewhere = other.url("/end");
    let server = Server::start(move |seen, _| match &*seen.path {
        "/" => redirect(302, "/here"),
        _ => redirect(302, &elsewhere),
    })
    .await;
    let caller = traced.tracer().span("caller").start();
    let call = client.get(server.url("/")).header("cookie", "mine").send();
    let response = caller.run(call).await.unwrap();
    assert_eq!(response.url().as_str(), other.url("/end"));
    for seen in server.seen() {
        assert_eq!((seen.header("authorization"), seen.header("cookie")), (Some("s3cret"), Some("mine")));
    }
    let seen = &other.seen()[0];
    assert_eq!((seen.header("authorization"), seen.header("cookie")), (None, None));
    assert_eq!(seen.header("x-app"), Some("shop"));
    let spans = traced.client_spans().await;
    assert_eq!(seen.parent().0, spans[0].trace_id);
    assert_eq!(number(spans.last().unwrap(), "http.response.status_code"), Some(200));
    spans.len()
}

#[tokio::test]
async fn ten_redirects_are_followed_and_no_more() {
    let traced = Traced::start();
    let chain = |length: usize| {
        Server::start(move |_, before| if before < length { redirect(302, "/") } else { status(200) })
    };
    let server = chain(10).await;
    assert_eq!(client(&traced).get(server.url("/")).send().await.unwrap().status(), 200);
    assert_eq!(traced.client_spans().await.len(), 11);

    traced.collector.clear();
    let server = chain(11).await;
    let error = client(&traced).get(server.url("/")).send().await.unwrap_err();
    assert!(error.is_redirect(), "{error:?}");
    assert_eq!(error.url().unwrap().as_str(), server.url("/"));
    let text_of = |error: &dyn std::error::Error| error.source().unwrap().to_string();
    let plain = reqwest::get(chain(11).await.url("/")).await.unwrap_err();
    assert_eq!(text_of(&error), text_of(&plain), "as reqwest says it");
    let spans = traced.client_spans().await;
    assert_eq!((spans.len(), server.seen().len()), (11, 11));
    assert_error(&spans[9], None);
    assert_error(&spans[10], Some("redirect"));
}

#[tokio::test]
async fn the_limit_can_be_set() {
    let traced = Traced::start();
    let server = Server::start(|_, _| redirect(302, "/")).await;
    let client = builder(&traced).redirects(2).build().unwrap();
    assert!(client.get(server.url("/")).send().await.unwrap_err().is_redirect());
    assert_eq!(server.seen().len(), 3);
    let client = builder(&traced).redirects(0).build().unwrap();
    assert!(client.get(server.url("/")).send().await.unwrap_err().is_redirect());
    assert_eq!(server.seen().len(), 4);
    let client = builder(&traced).no_redirects().build().unwrap();
    assert_eq!(client.get(server.url("/")).send().await.unwrap().status(), 302);
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn a_limit_that_reqwest_reaches_by_itself_counts_all_hops() {
    let traced = Traced::start();
    let other = Server::start(|_, _| redirect(302, "/again")).await;
    let elsewhere = other.url("/");
    let server = Server::start(move |seen, _| match &*seen.path {
        "/" => redirect(302, "/here"),
        _ => redirect(302, &elsewhere),
    })
    .await;
    let client = reqwest::Client::builder().default_headers(secret_headers());
    let client = trace_reqwest::builder(client).redirects(4).tracer(traced.tracer()).build().unwrap();
    assert!(client.get(server.url("/")).send().await.unwrap_err().is_redirect());
    assert_eq!((server.seen().len(), other.seen().len()), (2, 3));
}

#[tokio::test]
async fn the_plain_client_inside_follows_redirects() {
    let traced = Traced::start();
    let server =
        Server::start(|_, before| if before < 2 { redirect(302, "/end") } else { status(200) }).await;
    let client = client(&traced);
    let plain: &reqwest::Client = client.as_ref();
    assert_eq!(plain.get(server.url("/")).send().await.unwrap().status(), 200);
    assert_eq!(traced.spans().await, []);
}

#[tokio::test]
async fn the_referer_is_the_page_before() {
    let traced = Traced::start();
    let chain = || {
        Server::start(
            |_, before| if before < 2 { redirect(302, &format!("/{before}?k=v#f")) } else { status(200) },
        )
    };
    let server = chain().await;
    let url = format!("http://me:pw@{}/", server.address);
    let request = Request::new(Method::GET, url.parse().unwrap());
    client(&traced).execute(request).await.unwrap();
    let referers: Vec<_> =
        server.seen().iter().map(|seen| seen.header("referer").map(str::to_owned)).collect();
    assert_eq!(referers, [None, Some(server.url("/")), Some(server.url("/0?k=v"))]);

    let server = chain().await;
    builder(&traced).referer(false).build().unwrap().get(server.url("/")).send().await.unwrap();
    assert!(server.seen().iter().all(|seen| seen.header("referer").is_none()));
}

#[tokio::test]
async fn a_redirect_to_what_is_not_http_is_refused() {
    let traced = Traced::start();
    let server = Server::start(|_, _| redirect(302, "ftp://127.0.0.1/s3cret")).await;
    let error = client(&traced).get(server.url("/")).send().await.unwrap_err();
    assert!(error.is_builder(), "as in reqwest: {error:?}");
    assert_eq!(traced.client_spans().await.len(), 1, "nothing was sent there");
}

#[tokio::test]
async fn retries_and_redirects_count_together() {
    let traced = Traced::start();
    // Each page fails once.
    let server = Server::start(|seen, before| match (&*seen.path, before) {
        (_, 0 | 2) => status(503),
        ("/", _) => redirect(302, "/end"),
        _ => status(200),
    })
    .await;
    let policy = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(1), Duration::from_millis(2))
        .build_with_max_retries(1);
    let client = builder(&traced).with(RetryTransientMiddleware::new_with_policy(policy)).build().unwrap();
    assert_eq!(client.get(server.url("/")).send().await.unwrap().status(), 200);
    let spans = traced.client_spans().await;
    let told: Vec<_> = spans
        .iter()
        .map(|span| {
            let code = number(span, "http.response.status_code").unwrap();
            (code, number(span, "http.request.resend_count"))
        })
        .collect();
    assert_eq!(told, [(503, None), (302, Some(1)), (503, Some(2)), (200, Some(3))]);
}

#[tokio::test]
async fn the_timeout_of_a_request_is_one_for_all_hops() {
    let traced = Traced::start();
    // It redirects for ever.
    let server = Server::start(|_, _| redirect(302, "/")).await;
    let timeout = Duration::from_millis(50);
    let client = builder(&traced).redirects(u32::MAX).build().unwrap();
    let call = client.get(server.url("/")).timeout(timeout).send();
    let error = tokio::time::timeout(SOON, call).await.expect("the redirects end").unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_error(traced.client_spans().await.last().unwrap(), Some("timeout"));
}

/// Answers by itself, with a redirect; it may say where the response is from.
fn made_up(has_url: bool) -> impl Middleware {
    at_once(move |request, _, _| {
        let mut response = http::Response::builder().status(302).header("location", "/login");
        if has_url {
            response = response.url(request.url().clone());
        }
        let response = response.body("").unwrap();
        Box::pin(async { Ok(response.into()) })
    })
}

#[tokio::test]
async fn a_redirect_that_a_middleware_makes_up_is_followed_within_the_limit() {
    let traced = Traced::start();
    let client = builder(&traced).with(made_up(true)).build().unwrap();
    let error = client.get("http://127.0.0.1:1/").send().await.unwrap_err();
    assert!(error.is_middleware());
    assert_eq!(error.to_string(), "too many redirects");
    assert_eq!(traced.spans().await, []);
}

#[tokio::test]
async fn a_redirect_from_nowhere_is_for_the_caller() {
    let traced = Traced::start();
    let client = builder(&traced).with(made_up(false)).build().unwrap();
    // Followed, it would go to a host that reqwest made up, and take the secret along.
    let call = client.get("http://127.0.0.1:1/").header(AUTHORIZATION, "s3cret").send();
    let response = call.await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (302, &HeaderValue::from_static("/login"))
    );
    assert_eq!(traced.spans().await, []);
}

/// What was done, as the extensions tell.
#[derive(Clone, Debug, Default)]
struct Done(Vec<&'static str>);

fn done(extensions: &mut Extensions, what: &'static str) {
    extensions.get_or_insert_with(Done::default).0.push(what);
}

#[tokio::test]
async fn all_hops_of_a_call_have_its_extensions() {
    /// Keeps the extensions while a request is under way, as middlewares do that are written with `async_trait`.
    fn noting<'a>(request: Request, extensions: &'a mut Extensions, next: Next<'a>) -> Call<'a> {
        Box::pin(async move {
            done(extensions, "sent");
            let result = next.run(request, &mut *extensions).await;
            done(extensions, "answered");
            result
        })
    }

    let traced = Traced::start();
    // Below the spans, and above them.
    let below = ClientBuilder::from_client(client(&traced)).with(noting).build();
    let above = builder(&traced).with(noting).build().unwrap();
    for client in [below, above] {
        let server =
            Server::start(|_, before| if before < 2 { redirect(302, "/") } else { status(200) }).await;
        let mut extensions = Extensions::new();
        done(&mut extensions, "called");
        let request = client.get(server.url("/")).build().unwrap();
        let response = client.execute_with_extensions(request, &mut extensions).await.unwrap();
        assert_eq!(response.status(), 200);
        let expected = ["called", "sent", "answered", "sent", "answered", "sent", "answered"];
        assert_eq!(extensions.get::<Done>().unwrap().0, expected);
    }
}

#[tokio::test]
async fn a_hop_is_gone_before_the_next_one_has_the_extensions() {
    /// Keeps the extensions until it is dropped.
    struct Keeping<'a> {
        extensions: &'a mut Extensions,
        response: Option<Response>,
    }

    impl Future for Keeping<'_> {
        type Output = reqwest_middleware::Result<Response>;

        fn poll(mut self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<Self::Output> {
            done(self.extensions, "polled");
            Poll::Ready(Ok(self.response.take().unwrap()))
        }
    }

    impl Drop for Keeping<'_> {
        fn drop(&mut self) {
            done(self.extensions, "dropped");
        }
    }

    /// Answers by itself: with two redirects, and then well.
    fn keeping<'a>(request: Request, extensions: &'a mut Extensions, _: Next<'a>) -> Call<'a> {
        let is_last = extensions.get::<Done>().is_some_and(|done| done.0.len() == 6);
        done(extensions, "called");
        let response = http::Response::builder().url(request.url().clone());
        let response = response.status(if is_last { 200 } else { 302 }).header("location", "/").body("");
        Box::pin(Keeping { extensions, response: Some(response.unwrap().into()) })
    }

    let traced = Traced::start();
    let below = ClientBuilder::from_client(client(&traced)).with(at_once(keeping)).build();
    let above = builder(&traced).with(at_once(keeping)).build().unwrap();
    for client in [below, above] {
        let mut extensions = Extensions::new();
        let request = client.get("http://a.example/").build().unwrap();
        let response = client.execute_with_extensions(request, &mut extensions).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(extensions.get::<Done>().unwrap().0, ["called", "polled", "dropped"].repeat(3));
    }
}
