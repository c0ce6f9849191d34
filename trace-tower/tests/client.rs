//! What a client's span tells of its request, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::{PATIENCE, Raw, Sent, Traced, assert_error, assert_no_error, interval, keys, number, text};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn as hyper_service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use trace_core::{Context, SpanKind, TraceId};
use trace_tower::client::UrlTemplate;
use trace_tower::conventions::{KnownMethods, QueryRedaction};
use trace_tower::{ClientTrace, ClientTraceLayer};

/// A server that answers by the path, and keeps the headers that came.
async fn serve() -> (SocketAddr, Arc<Mutex<Vec<HeaderMap>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let came = Arc::<Mutex<Vec<HeaderMap>>>::default();
    let seen = came.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let answer = hyper_service(move |request: Request<Incoming>| {
                seen.lock().unwrap().push(request.headers().clone());
                async move {
                    let path = request.uri().path().trim_start_matches('/');
                    if path == "silence" {
                        pending::<()>().await;
                    }
                    let first = futures_util::stream::iter([Ok::<_, io::Error>(Frame::data(
                        Bytes::from_static(b"first"),
                    ))]);
                    let body = match path {
                        "endless" => StreamBody::new(futures_util::StreamExt::chain(
                            first,
                            futures_util::stream::pending(),
                        ))
                        .boxed_unsync(),
                        _ => StreamBody::new(first).boxed_unsync(),
                    };
                    let status = path.parse().unwrap_or(StatusCode::OK);
                    Ok::<_, io::Error>(Response::builder().status(status).body(body).unwrap())
                }
            });
            tokio::spawn(async move {
                auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await
            });
        }
    });
    (address, came)
}

/// A client that makes a connection for each request, of absolute or relative target.
async fn send(request: Request<Sent>) -> Result<Response<Incoming>, BoxError> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str().rsplit('@').next().unwrap().to_owned(),
        None => request.headers()["host"].to_str()?.to_owned(),
    };
    let stream = TokioIo::new(tokio::net::TcpStream::connect(authority).await?);
    let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    Ok(client.send_request(request).await?)
}

fn client(
    layer: ClientTraceLayer,
) -> ClientTrace<impl Service<Request<Sent>, Response = Response<Incoming>, Error = BoxError, Future: Send>> {
    layer.layer(service_fn(send))
}

fn request(url: impl fmt::Display) -> Request<Sent> {
    Request::get(url.to_string()).body(Full::default()).unwrap()
}

#[tokio::test]
async fn every_attribute_of_a_request_is_there_and_has_its_type() {
    let traced = Traced::start().await;
    let (server, came) = serve().await;
    let layer = ClientTraceLayer::new().tracer(traced.tracer());
    let response =
        client(layer).oneshot(request(format_args!("http://me:pw@{server}/200?token=secret"))).await.unwrap();
    response.into_body().collect().await.unwrap();

    let span = traced.span().await;
    assert_eq!(span.name, "GET");
    assert_eq!(span.kind, SpanKind::Client);
    assert_eq!(span.scope_name, "trace-tower");
    assert_no_error(&span);
    assert_eq!(
        keys(&span),
        [
            "http.request.method",
            "http.response.status_code",
            "network.protocol.version",
            "server.address",
            "server.port",
            "url.full",
        ]
    );
    assert_eq!(text(&span, "http.request.method"), "GET");
    assert_eq!(number(&span, "http.response.status_code"), 200);
    assert_eq!(text(&span, "network.protocol.version"), "1.1");
    assert_eq!(text(&span, "server.address"), "127.0.0.1");
    assert_eq!(number(&span, "server.port"), i64::from(server.port()));
    assert_eq!(text(&span, "url.full"), format!("http://REDACTED:REDACTED@{server}/200?token=REDACTED"));

    let came = came.lock().unwrap();
    let sent = came[0]["traceparent"].to_str().unwrap();
    assert_eq!(sent, format!("00-{}-{}-03", span.trace_id, span.span_id));
}

#[tokio::test]
async fn the_span_is_below_the_current_one_and_sends_its_baggage() {
    let traced = Traced::start().await;
    let (server, came) = serve().await;
    let mut baggage = trace_core::Baggage::new();
    baggage.insert("tenant", "acme").unwrap();
    let caller = traced.tracer().span("caller").start();
    let context = caller.context().clone().with_baggage(baggage);
    let call = client(ClientTraceLayer::new()).oneshot(request(format_args!("http://{server}/200")));
    trace_core::FutureExt::in_context(call, context).await.unwrap();
    drop(caller);

    let spans = traced.spans(2).await;
    let [caller, call] = ["caller", "GET"].map(|name| spans.iter().find(|span| span.name == name).unwrap());
    assert_eq!(call.parent_span_id, Some(caller.span_id));
    assert_eq!(call.trace_id, caller.trace_id);
    assert_eq!(came.lock().unwrap()[0]["baggage"], "tenant=acme");
}

#[tokio::test]
async fn the_span_ends_when_the_head_is_there() {
    let traced = Traced::start().await;
    let (server, _) = serve().await;
    let layer = ClientTraceLayer::new().tracer(traced.tracer());
    let response = client(layer).oneshot(request(format_args!("http://{server}/endless"))).await.unwrap();
    assert_no_error(&traced.span().await);
    drop(response);
}

#[tokio::test]
async fn a_status_from_400_on_is_an_error() {
    for (status, error_type) in [(204, None), (302, None), (404, Some("404")), (500, Some("500"))] {
        let traced = Traced::start().await;
        let (server, _) = serve().await;
        let layer = ClientTraceLayer::new().tracer(traced.tracer());
        client(layer).oneshot(request(format_args!("http://{server}/{status}"))).await.unwrap();
        let span = traced.span().await;
        assert_eq!(number(&span, "http.response.status_code"), status);
        match error_type {
            Some(error_type) => assert_error(&span, error_type),
            None => assert_no_error(&span),
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_told_by_the_kind_of_the_error() {
    let traced = Traced::start().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let layer = ClientTraceLayer::new().tracer(traced.tracer());
    let error = client(layer).oneshot(request(format_args!("http://{unused}/?k=secret"))).await.unwrap_err();
    assert!(error.is::<io::Error>(), "the error is passed on as it is");

    let span = traced.span().await;
    assert_error(&span, "connection_refused");
    assert_eq!(span.attribute("http.response.status_code"), None);
    assert_eq!(span.attribute("network.protocol.version"), None);
}

#[derive(Debug)]
struct Own(io::Error);

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }
}

impl Error for Own {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn an_error_of_a_type_of_its_own_is_told_by_the_type_or_by_what_lies_beneath() {
    for (layer, error_type) in [
        (ClientTraceLayer::new(), std::any::type_name::<Own>()),
        (ClientTraceLayer::new().error::<Own>(), "connection_reset"),
    ] {
        let traced = Traced::start().await;
        let failing = service_fn(async |_: Request<Sent>| {
            Err::<Response<Sent>, _>(Own(io::Error::from(io::ErrorKind::ConnectionReset)))
        });
        let client = layer.tracer(traced.tracer()).layer(failing);
        client.oneshot(request("http://a.example/")).await.unwrap_err();
        let span = traced.span().await;
        assert_error(&span, error_type);
        assert!(!format!("{span:?}").contains("secret"));
    }
}

#[tokio::test]
async fn a_caller_who_no_longer_waits_is_no_error() {
    let traced = Traced::start().await;
    let (server, came) = serve().await;
    let layer = ClientTraceLayer::new().tracer(traced.tracer());
    let call = tokio::spawn(client(layer).oneshot(request(format_args!("http://{server}/silence"))));
    let arrived = async {
        while came.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();
    let passed = interval().await;
    call.abort();

    let span = traced.span().await;
    assert_no_error(&span);
    assert_eq!(span.attribute("http.response.status_code"), None);
    assert!(span.duration() >= passed);
}

#[tokio::test]
async fn a_panic_of_the_client_is_recorded_and_goes_on() {
    let traced = Traced::start().await;
    let panics =
        service_fn(async |_: Request<Sent>| -> Result<Response<Sent>, io::Error> { panic!("at work") });
    let client = ClientTraceLayer::new().tracer(traced.tracer()).layer(panics);
    let call = tokio::spawn(async move { client.oneshot(request("http://a.example/")).await });
    assert!(call.await.unwrap_err().is_panic());
    assert_error(&traced.span().await, "panic");
}

#[tokio::test]
async fn each_attempt_of_a_retry_outside_is_a_span_of_its_own() {
    let traced = Traced::start().await;
    let (server, came) = serve().await;
    let mut client = client(ClientTraceLayer::new());
    let caller = traced.tracer().span("caller");
    caller
        .run(async {
            for status in [503, 503, 200] {
                let request = request(format_args!("http://{server}/{status}"));
                client.ready().await.unwrap().call(request).await.unwrap();
            }
        })
        .await;

    let spans = traced.spans(4).await;
    let caller = spans.iter().find(|span| span.name == "caller").unwrap();
    let mut attempts: Vec<_> = spans.iter().filter(|span| span.kind == SpanKind::Client).collect();
    attempts.sort_by_key(|span| span.start_unix_nano);
    assert!(attempts.iter().all(|span| span.parent_span_id == Some(caller.span_id)));
    let sent: Vec<_> = came
        .lock()
        .unwrap()
        .iter()
        .map(|headers| headers["traceparent"].to_str().unwrap()[36..52].to_owned())
        .collect();
    assert_eq!(sent, attempts.iter().map(|span| span.span_id.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_request_that_names_its_server_in_host_has_a_whole_url() {
    let traced = Traced::start().await;
    let (server, _) = serve().await;
    let layer = ClientTraceLayer::new().tracer(traced.tracer());
    let request = Request::get("/200?a=1").header("host", server.to_string()).body(Full::default()).unwrap();
    client(layer).oneshot(request).await.unwrap();
    let span = traced.span().await;
    assert_eq!(text(&span, "url.full"), format!("http://{server}/200?a=REDACTED"));
    assert_eq!(number(&span, "server.port"), i64::from(server.port()));
}

#[tokio::test]
async fn a_port_that_is_not_written_and_a_template_and_a_method_are_told() {
    let traced = Traced::start().await;
    let answers = service_fn(async |_: Request<Sent>| Ok::<_, io::Error>(Response::new(Sent::default())));
    let layer = ClientTraceLayer::new()
        .tracer(traced.tracer())
        .query_redaction(QueryRedaction::all_but(["page"]))
        .known_methods(KnownMethods::only(["GET"]))
        .peer_from(|extensions| extensions.get::<SocketAddr>().copied());
    let mut request = Request::post("https://shop.example/items/7?page=1&k=v").body(Sent::default()).unwrap();
    request.extensions_mut().insert(UrlTemplate("/items/{id}"));
    layer.layer(answers).oneshot(request).await.unwrap();

    let span = traced.span().await;
    assert_eq!(span.name, "HTTP /items/{id}");
    assert_eq!(text(&span, "url.template"), "/items/{id}");
    assert_eq!(text(&span, "http.request.method"), "_OTHER");
    assert_eq!(text(&span, "http.request.method_original"), "POST");
    assert_eq!(text(&span, "url.full"), "https://shop.example/items/7?page=1&k=REDACTED");
    assert_eq!(number(&span, "server.port"), 443);
    assert_eq!(span.attribute("network.peer.address"), None);
}

#[tokio::test]
async fn the_peer_is_told_where_the_client_knows_it() {
    let traced = Traced::start().await;
    let answers = service_fn(async |_: Request<Sent>| {
        let mut response = Response::new(Sent::default());
        response.extensions_mut().insert(SocketAddr::from(([10, 0, 0, 1], 8080)));
        Ok::<_, io::Error>(response)
    });
    let layer =
        ClientTraceLayer::new().tracer(traced.tracer()).peer_from(|extensions| extensions.get().copied());
    layer.layer(answers).oneshot(request("http://shop.example/")).await.unwrap();
    let span = traced.span().await;
    assert_eq!(text(&span, "network.peer.address"), "10.0.0.1");
    assert_eq!(number(&span, "network.peer.port"), 8080);
}

#[tokio::test]
async fn a_request_that_is_left_out_sends_the_context_it_is_made_in() {
    let traced = Traced::start().await;
    let (server, came) = serve().await;
    let layer = ClientTraceLayer::new().filter(|request| request.uri.path() != "/200");
    let caller = traced.tracer().span("caller");
    caller.run(client(layer).oneshot(request(format_args!("http://{server}/200")))).await.unwrap();
    let span = traced.span().await;
    let sent = format!("00-{}-{}-03", span.trace_id, span.span_id);
    assert_eq!(came.lock().unwrap()[0]["traceparent"], sent);
}

#[tokio::test]
async fn a_client_works_in_its_span() {
    let traced = Traced::start().await;
    let seen = Arc::<Mutex<Vec<Option<TraceId>>>>::default();
    let here = seen.clone();
    let look =
        move || here.lock().unwrap().push(Context::current().span_context().map(|span| span.trace_id()));
    let inner = service_fn(move |_: Request<Sent>| {
        look();
        let look = look.clone();
        async move {
            look();
            Ok::<_, io::Error>(Response::new(Sent::default()))
        }
    });
    let client = ClientTraceLayer::new().tracer(traced.tracer()).layer(inner);
    client.oneshot(request("http://a.example/")).await.unwrap();
    let span = traced.span().await;
    assert_eq!(*seen.lock().unwrap(), [Some(span.trace_id), Some(span.trace_id)]);
}

#[tokio::test]
async fn a_server_and_a_client_of_tower_are_one_trace() {
    let traced = Traced::start().await;
    let (behind, _) = serve().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    let calls = service_fn(move |_: Request<Incoming>| async move {
        let response =
            client(ClientTraceLayer::new()).oneshot(request(format!("http://{behind}/200"))).await.unwrap();
        Ok::<_, io::Error>(Response::new(response.into_body()))
    });
    let service = trace_tower::ServerTraceLayer::new()
        .tracer(traced.tracer())
        .peer_from(|extensions| extensions.get::<SocketAddr>().copied())
        .layer(calls);
    tokio::spawn(async move {
        let (stream, peer) = listener.accept().await.unwrap();
        let service = service.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        });
        let service = hyper_util::service::TowerToHyperService::new(service);
        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
    });
    Raw::get(front, "/").await.until("first").await;

    let spans = traced.spans(2).await;
    let of = |kind| spans.iter().find(|span| span.kind == kind).unwrap();
    let (served, called) = (of(SpanKind::Server), of(SpanKind::Client));
    assert_eq!(served.name, "GET");
    assert_eq!(text(served, "client.address"), "127.0.0.1");
    assert_eq!(called.parent_span_id, Some(served.span_id));
    spans.iter().for_each(assert_no_error);
}
