//! Each way in which a request can end, provoked over a real socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../../trace-tower/tests/common/mod.rs"]
mod common;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use common::{
    INTERVAL, Raw, Sent, Traced, assert_error, assert_no_error, assert_served, http1, http2, interval,
    number, text,
};
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use trace_axum::TraceLayer;

/// Serves a traced router on a port of its own.
async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

/// A body that sends this, and then nothing more for ever.
fn endless(first: &'static str) -> Body {
    let first = stream::once(async move { Ok::<_, io::Error>(Bytes::from_static(first.as_bytes())) });
    Body::from_stream(first.chain(stream::pending()))
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_head_cancels_the_request() {
    let traced = Traced::start().await;
    let entered = Arc::new(Notify::new());
    let here = entered.clone();
    let handler = async move || {
        here.notify_one();
        std::future::pending::<()>().await;
    };
    let app = Router::new().route("/", get(handler)).layer(TraceLayer::new().tracer(traced.tracer()));
    let server = serve(app).await;

    let client = Raw::get(server, "/").await;
    entered.notified().await;
    let passed = interval().await;
    drop(client);

    let span = traced.span().await;
    assert_error(&span, "cancelled");
    assert_served(&span, passed);
    assert_eq!(span.attribute("http.response.status_code"), None, "none was sent");
}

#[tokio::test]
async fn a_caller_who_leaves_in_mid_body_cancels_the_response() {
    let traced = Traced::start().await;
    let app = Router::new()
        .route("/", get(async || endless("first")))
        .layer(TraceLayer::new().tracer(traced.tracer()));
    let server = serve(app).await;

    let mut client = Raw::get(server, "/").await;
    client.until("first").await;
    let passed = interval().await;
    drop(client);

    let span = traced.span().await;
    assert_error(&span, "cancelled");
    assert_served(&span, passed);
    assert_eq!(number(&span, "http.response.status_code"), 200);
}

#[tokio::test]
async fn a_stream_of_http2_that_is_reset_cancels_its_request_and_no_other() {
    let traced = Traced::start().await;
    let entered = Arc::new(Notify::new());
    let here = entered.clone();
    let silent = async move || {
        here.notify_one();
        std::future::pending::<()>().await;
    };
    let app = Router::new()
        .route("/silent", get(silent))
        .route("/endless", get(async || endless("first")))
        .route("/whole", get(async || "whole"))
        .layer(TraceLayer::new().tracer(traced.tracer()));
    let server = serve(app).await;
    let mut client = http2(server).await;
    let request =
        |path: &str| http::Request::get(format!("http://{server}{path}")).body(Sent::default()).unwrap();

    let silent = tokio::spawn(client.send_request(request("/silent")));
    entered.notified().await;
    silent.abort();
    let mut endless = client.send_request(request("/endless")).await.unwrap().into_body();
    assert_eq!(endless.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    drop(endless);
    let whole = client.send_request(request("/whole")).await.unwrap().into_body();
    assert_eq!(whole.collect().await.unwrap().to_bytes(), "whole");

    let mut spans = traced.spans(3).await;
    spans.sort_by_key(|span| text(span, "url.path").to_owned());
    assert_error(&spans[0], "cancelled");
    assert_error(&spans[1], "cancelled");
    assert_no_error(&spans[2]);
}

#[tokio::test]
async fn a_body_that_fails_is_an_error_of_its_kind() {
    for (error, error_type) in [
        (io::Error::from(io::ErrorKind::ConnectionReset), "connection_reset"),
        (io::Error::other("a secret"), "body_error"),
    ] {
        let traced = Traced::start().await;
        let error = Arc::new(Mutex::new(Some(error)));
        let handler = async move || {
            let fail = stream::once(async move {
                interval().await;
                Err(error.lock().unwrap().take().unwrap())
            });
            let first = stream::once(async { Ok(Bytes::from_static(b"first")) });
            Body::from_stream(first.chain(fail))
        };
        let app = Router::new().route("/", get(handler)).layer(TraceLayer::new().tracer(traced.tracer()));
        let server = serve(app).await;

        let response = Raw::get(server, "/").await.rest().await;
        assert!(response.contains("first") && !response.ends_with("0\r\n\r\n"), "{response}");

        let span = traced.span().await;
        assert_error(&span, error_type);
        assert_served(&span, INTERVAL);
        assert_eq!(number(&span, "http.response.status_code"), 200);
        assert!(!format!("{span:?}").contains("secret"), "no text of an error leaves");
    }
}

#[tokio::test]
async fn a_panic_in_the_handler_is_recorded_and_the_connection_dies_as_ever() {
    for (allowed, message) in [(false, None), (true, Some("a secret"))] {
        let traced = Traced::start().await;
        let handler = async || -> &'static str { panic!("a secret") };
        let layer = TraceLayer::new().tracer(traced.tracer()).panic_messages(allowed);
        let server = serve(Router::new().route("/", get(handler)).layer(layer)).await;

        assert_eq!(Raw::get(server, "/").await.rest().await, "");

        let span = traced.span().await;
        assert_error(&span, "panic");
        assert_eq!(span.attribute("http.response.status_code"), None);
        assert_eq!(span.events.len(), 1);
        assert_eq!(span.events[0].name, "exception");
        let attribute = |key: &str| {
            let found = span.events[0].attributes.iter().find(|(name, _)| name == key);
            found.and_then(|(_, value)| value.as_str())
        };
        assert_eq!(attribute("exception.type"), Some("panic"));
        assert_eq!(attribute("exception.message"), message);
    }
}

#[tokio::test]
async fn a_panic_in_the_body_is_recorded() {
    let traced = Traced::start().await;
    let handler = async || {
        let body = stream::iter(0..2).map(|i| match i {
            0 => Ok::<_, io::Error>(Bytes::from_static(b"first")),
            _ => panic!("in the body"),
        });
        Body::from_stream(body)
    };
    let app = Router::new().route("/", get(handler)).layer(TraceLayer::new().tracer(traced.tracer()));
    let server = serve(app).await;

    Raw::get(server, "/").await.rest().await;

    let span = traced.span().await;
    assert_error(&span, "panic");
    assert_eq!(number(&span, "http.response.status_code"), 200);
}

#[tokio::test]
async fn a_timeout_outside_the_layer_cancels_the_request() {
    async fn in_time(request: Request, next: Next) -> Response {
        match tokio::time::timeout(INTERVAL, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Response::builder().status(StatusCode::GATEWAY_TIMEOUT).body(Body::empty()).unwrap(),
        }
    }

    let traced = Traced::start().await;
    let app = Router::new()
        .route("/", get(async || std::future::pending::<()>().await))
        .layer(TraceLayer::new().tracer(traced.tracer()))
        .layer(from_fn(in_time));
    let server = serve(app).await;

    Raw::get(server, "/").await.until("504").await;

    let span = traced.span().await;
    assert_error(&span, "cancelled");
    assert_served(&span, INTERVAL);
    assert_eq!(span.attribute("http.response.status_code"), None, "the layer never saw one");
}

#[tokio::test]
async fn an_upgrade_is_complete_at_the_handshake() {
    async fn echo(mut request: Request) -> Response {
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let mut stream = TokioIo::new(upgraded);
            let mut word = [0; 4];
            while stream.read_exact(&mut word).await.is_ok() {
                stream.write_all(&word).await.unwrap();
            }
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("upgrade", "echo")
            .header("connection", "upgrade")
            .body(Body::empty())
            .unwrap()
    }

    let traced = Traced::start().await;
    let app = Router::new().route("/", get(echo)).layer(TraceLayer::new().tracer(traced.tracer()));
    let server = serve(app).await;
    let head = format!("GET / HTTP/1.1\r\nhost: {server}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    let mut client = Raw::send(server, head).await;
    client.until("\r\n\r\n").await;

    // The span is there while the connection lives.
    let span = traced.span().await;
    assert_no_error(&span);
    assert_eq!(number(&span, "http.response.status_code"), 101);
    client.write("ping").await;
    client.until("ping").await;
}

#[tokio::test]
async fn an_extended_connect_of_http2_is_complete_at_the_handshake() {
    async fn accept(mut request: Request) -> StatusCode {
        assert!(request.extensions().get::<hyper::ext::Protocol>().is_some());
        tokio::spawn(async move {
            let mut stream = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
            let mut word = [0; 4];
            while stream.read_exact(&mut word).await.is_ok() {
                stream.write_all(&word).await.unwrap();
            }
        });
        StatusCode::OK
    }

    let traced = Traced::start().await;
    let app = Router::new()
        .route("/", axum::routing::connect(accept))
        .layer(TraceLayer::new().tracer(traced.tracer()));
    let server = serve(app).await;
    let mut client = http2(server).await;
    let mut request = http::Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://{server}/"))
        .body(Sent::default())
        .unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);

    let span = traced.span().await;
    assert_no_error(&span);
    assert_eq!(span.name, "CONNECT /");
    assert_eq!(number(&span, "http.response.status_code"), 200);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
}

/// What a response to be read to its end looks like.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Empty,
    Whole,
    Streamed,
    StreamedWithLength,
    Trailers,
}

async fn shaped(shape: Shape) -> Response {
    tokio::time::sleep(INTERVAL).await;
    let stream =
        || stream::iter(["ab", "cd"]).map(|part| Ok::<_, io::Error>(Bytes::from_static(part.as_bytes())));
    let response = Response::builder();
    match shape {
        Shape::Empty => response.body(Body::empty()),
        Shape::Whole => response.body(Body::from("abcd")),
        Shape::Streamed => response.body(Body::from_stream(stream())),
        Shape::StreamedWithLength => {
            response.header("content-length", 4).body(Body::from_stream(stream().chain(stream::pending())))
        }
        Shape::Trailers => {
            let data = stream().map(|part| part.map(Frame::data));
            let trailers = stream::once(async {
                Ok(Frame::trailers(FromIterator::from_iter([(http::header::ETAG, "x".parse().unwrap())])))
            });
            response.header("trailer", "etag").body(Body::new(StreamBody::new(data.chain(trailers))))
        }
    }
    .unwrap()
}

#[tokio::test]
async fn a_response_that_is_read_is_complete_whatever_its_body_and_protocol() {
    let shapes = [Shape::Empty, Shape::Whole, Shape::Streamed, Shape::StreamedWithLength, Shape::Trailers];
    for shape in shapes {
        for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
            let traced = Traced::start().await;
            let app = Router::new()
                .route("/", get(move || shaped(shape)))
                .layer(TraceLayer::new().tracer(traced.tracer()));
            let server = serve(app).await;
            let request = http::Request::get(format!("http://{server}/")).header("te", "trailers");
            let request = request.body(Sent::default()).unwrap();
            let response = match version {
                http::Version::HTTP_2 => http2(server).await.send_request(request).await,
                _ => {
                    let (mut parts, body) = request.into_parts();
                    parts.uri = http::Uri::from_static("/");
                    parts.headers.insert("host", server.to_string().parse().unwrap());
                    http1(server).await.send_request(http::Request::from_parts(parts, body)).await
                }
            };
            let response = response.unwrap();
            assert_eq!(response.version(), version);
            let mut body = response.into_body();
            let mut length = 0;
            while let Some(frame) = body.frame().await {
                length += frame.unwrap().data_ref().map_or(0, Bytes::len);
                if matches!(shape, Shape::StreamedWithLength) && length == 4 {
                    // HTTP/2 goes on waiting for the end of the stream, although all that was declared has come.
                    break;
                }
            }
            drop(body);

            let span = traced.span().await;
            assert_no_error(&span);
            assert_served(&span, INTERVAL);
            assert_eq!(number(&span, "http.response.status_code"), 200, "{shape:?} {version:?}");
        }
    }
}

#[tokio::test]
async fn a_response_without_a_body_is_complete_with_its_head() {
    for (request, status, body) in [
        ("HEAD", 200, Some("not sent")),
        ("GET", 204, None),
        ("GET", 304, None),
        ("HEAD", 404, Some("not sent")),
    ] {
        for streamed in [false, true] {
            let traced = Traced::start().await;
            let handler = async move || {
                let body = match body {
                    Some(_) if streamed => endless("not sent"),
                    Some(text) => Body::from(text),
                    None if streamed => Body::from_stream(stream::pending::<Result<Bytes, io::Error>>()),
                    None => Body::empty(),
                };
                Response::builder().status(status).body(body).unwrap()
            };
            let app = Router::new().route("/", get(handler)).layer(TraceLayer::new().tracer(traced.tracer()));
            let server = serve(app).await;

            let head = format!("{request} / HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n");
            let response = Raw::send(server, head).await.rest().await;
            assert!(response.contains(&status.to_string()) && response.ends_with("\r\n\r\n"), "{response}");

            let span = traced.span().await;
            assert_no_error(&span);
            assert_eq!(number(&span, "http.response.status_code"), i64::from(status));
        }
    }
}

#[tokio::test]
async fn a_status_of_the_servers_own_fault_is_an_error_and_one_of_the_callers_is_not() {
    for (status, error_type) in
        [(200, None), (302, None), (404, None), (499, None), (500, Some("500")), (503, Some("503"))]
    {
        let traced = Traced::start().await;
        let handler = async move || StatusCode::from_u16(status).unwrap();
        let app = Router::new().route("/", get(handler)).layer(TraceLayer::new().tracer(traced.tracer()));
        let server = serve(app).await;
        Raw::get(server, "/").await.until("\r\n\r\n").await;

        let span = traced.span().await;
        assert_eq!(number(&span, "http.response.status_code"), i64::from(status));
        match error_type {
            Some(error_type) => assert_error(&span, error_type),
            None => assert_no_error(&span),
        }
    }
}

#[tokio::test]
async fn a_span_ends_with_the_body_and_not_with_the_head() {
    let traced = Traced::start().await;
    let (open, gate) = oneshot::channel::<Duration>();
    let gate = Arc::new(Mutex::new(Some(gate)));
    let handler = async move || {
        let gate = gate.lock().unwrap().take().unwrap();
        let last = stream::once(async move {
            gate.await.unwrap();
            Ok(Bytes::from_static(b"last"))
        });
        let first = stream::once(async { Ok::<_, io::Error>(Bytes::from_static(b"first")) });
        Body::from_stream(first.chain(last))
    };
    let app = Router::new().route("/", get(handler)).layer(TraceLayer::new().tracer(traced.tracer()));
    let server = serve(app).await;

    let mut client = Raw::get(server, "/").await;
    client.until("first").await;
    let passed = interval().await;
    assert_eq!(traced.traces.stats().live, 1);
    open.send(passed).unwrap();
    client.until("0\r\n\r\n").await;

    let span = traced.span().await;
    assert_no_error(&span);
    assert_served(&span, passed);
}

#[tokio::test]
async fn requests_on_one_connection_are_spans_of_their_own() {
    let traced = Traced::start().await;
    let app =
        Router::new().route("/", get(async || "hello")).layer(TraceLayer::new().tracer(traced.tracer()));
    let server = serve(app).await;
    let one = format!("GET / HTTP/1.1\r\nhost: {server}\r\n\r\n");
    let last = format!("GET / HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n");
    let responses = Raw::send(server, [one.as_str(), &one, &last].concat()).await.rest().await;
    assert_eq!(responses.matches("200 OK").count(), 3);

    let spans = traced.spans(3).await;
    let traces: std::collections::HashSet<_> = spans.iter().map(|span| span.trace_id).collect();
    assert_eq!(traces.len(), 3);
    spans.iter().for_each(assert_no_error);
}
