//! Requests that get no response.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Call, Server, Traced, assert_error, at_once, number, text};
use http::Extensions;
use reqwest::Request;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use trace_core::StatusCode;
use trace_reqwest::TraceMiddleware;
use trace_reqwest::reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Next};

fn client(traced: &Traced) -> ClientWithMiddleware {
    trace_reqwest::builder(reqwest::Client::builder()).tracer(traced.tracer()).build().unwrap()
}

/// A server that does something with the connection once a request has come.
async fn raw<F: Future<Output = ()> + Send + 'static>(
    then: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).await;
            tokio::spawn(then(socket));
        }
    });
    address
}

async fn hang(socket: TcpStream) {
    std::future::pending::<()>().await;
    drop(socket);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_timeout() {
    let traced = Traced::start();
    let address = raw(hang).await;
    let timeout = Duration::from_millis(30);
    let call = client(&traced).get(format!("http://{address}/")).timeout(timeout).send();
    assert!(call.await.unwrap_err().is_timeout());
    let span = traced.span().await;
    assert_error(&span, Some("timeout"));
    assert!(span.duration() >= timeout, "{:?}", span.duration());
    assert_eq!(text(&span, "server.address"), Some("127.0.0.1"));
    for unknown in ["http.response.status_code", "network.peer.address", "network.protocol.version"] {
        assert_eq!(span.attribute(unknown), None);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_by_the_kind_of_the_error() {
    let traced = Traced::start();
    // Bound and never listened on, so that nobody else takes the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let error = client(&traced).get(format!("http://{address}/")).send().await.unwrap_err();
    assert!(error.is_connect());
    assert_error(&traced.span().await, Some("connection_refused"));
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_dns() {
    struct Nobody;

    impl Resolve for Nobody {
        fn resolve(&self, _: Name) -> Resolving {
            Box::pin(async { Err::<Addrs, _>("no such host".into()) })
        }
    }

    let traced = Traced::start();
    let client = reqwest::Client::builder().dns_resolver(Arc::new(Nobody)).no_proxy();
    let client = trace_reqwest::builder(client).tracer(traced.tracer()).build().unwrap();
    client.get("http://shop.example/").send().await.unwrap_err();
    let span = traced.span().await;
    assert_error(&span, Some("dns"));
    assert_eq!(text(&span, "server.address"), Some("shop.example"));
    assert_eq!(number(&span, "server.port"), Some(80));
}

#[tokio::test]
async fn a_connection_that_is_reset_is_told_by_the_kind_of_the_error() {
    let traced = Traced::start();
    let address = raw(async |socket| {
        // Closing with this resets.
        socket.set_zero_linger().unwrap();
    })
    .await;
    client(&traced).get(format!("http://{address}/")).send().await.unwrap_err();
    assert_error(&traced.span().await, Some("connection_reset"));
}

#[tokio::test]
async fn a_server_that_leaves_without_an_answer_left_it_incomplete() {
    let traced = Traced::start();
    let address = raw(async |mut socket| {
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await;
        let _ = socket.shutdown().await;
    })
    .await;
    client(&traced).get(format!("http://{address}/")).send().await.unwrap_err();
    assert_error(&traced.span().await, Some("incomplete_message"));
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_a_parse_error() {
    let traced = Traced::start();
    let address = raw(async |mut socket| {
        let _ = socket.write_all(b"220 mail.example ESMTP\r\n\r\n").await;
    })
    .await;
    client(&traced).get(format!("http://{address}/")).send().await.unwrap_err();
    assert_error(&traced.span().await, Some("parse"));
}

#[tokio::test]
async fn a_call_that_its_caller_drops_is_no_error() {
    let traced = Traced::start();
    let (came, mut has_come) = tokio::sync::mpsc::unbounded_channel();
    let address = raw(move |socket| {
        came.send(()).unwrap();
        hang(socket)
    })
    .await;
    let client = client(&traced);
    let call = client.get(format!("http://{address}/")).send();
    tokio::select! {
        response = call => panic!("{response:?}"),
        _ = has_come.recv() => {}
    }
    let span = traced.span().await;
    assert_eq!(span.status, StatusCode::Unset);
    assert_error(&span, None);
    assert_eq!(text(&span, "http.request.method"), Some("GET"));
    assert_eq!(span.attribute("http.response.status_code"), None);
}

#[tokio::test]
async fn a_panic_below_is_told_and_goes_on() {
    fn panics<'a>(_: Request, _: &'a mut Extensions, _: Next<'a>) -> Call<'a> {
        panic!("s3cret")
    }

    let traced = Traced::start();
    let of_ones_own = || {
        let trace = TraceMiddleware::new().tracer(traced.tracer());
        ClientBuilder::new(reqwest::Client::new()).with(trace)
    };
    let built = || ClientBuilder::from_client(client(&traced));
    for client in [
        of_ones_own().with(panics).build(),
        of_ones_own().with(at_once(panics)).build(),
        built().with(panics).build(),
        built().with(at_once(panics)).build(),
    ] {
        traced.collector.clear();
        let call = tokio::spawn(client.get("http://127.0.0.1:1/").send());
        assert!(call.await.unwrap_err().is_panic());
        let span = traced.span().await;
        assert_error(&span, Some("panic"));
        assert!(!format!("{span:?}").contains("s3cret"));
    }
}

#[tokio::test]
async fn a_call_that_never_began_is_no_span() {
    let traced = Traced::start();
    drop(client(&traced).get("http://127.0.0.1:1/").send());
    assert_eq!(traced.spans().await, []);
}

#[tokio::test]
async fn a_request_body_that_fails_is_told_by_its_error() {
    let traced = Traced::start();
    let server = Server::ok().await;
    let broken = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "s3cret");
    let stream = futures_util::stream::iter([Ok(Bytes::from_static(b"a")), Err(broken)]);
    let body = reqwest::Body::wrap_stream(stream);
    client(&traced).post(server.url("/")).body(body).send().await.unwrap_err();
    let span = traced.span().await;
    assert_error(&span, Some("broken_pipe"));
    assert!(!format!("{span:?}").contains("s3cret"));
}

/// An HTTP/2 server that refuses the first `refused` requests of all, and then answers.
async fn refusing(refused: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut came = 0;
        while let Ok((socket, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                came += 1;
                if came <= refused {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    respond.send_response(http::Response::new(()), true).unwrap();
                }
            }
        }
    });
    address
}

fn http2(traced: &Traced) -> ClientWithMiddleware {
    trace_reqwest::builder(reqwest::Client::builder().http2_prior_knowledge())
        .tracer(traced.tracer())
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_request_that_was_refused_unread_is_sent_again() {
    let traced = Traced::start();
    let address = refusing(2).await;
    let response = http2(&traced).post(format!("http://{address}/")).body("once").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let spans = traced.client_spans().await;
    assert_eq!(spans.len(), 3);
    assert_error(&spans[0], Some("http2_refused_stream"));
    assert_error(&spans[1], Some("http2_refused_stream"));
    assert_error(&spans[2], None);
    let resends: Vec<_> = spans.iter().map(|span| number(span, "http.request.resend_count")).collect();
    assert_eq!(resends, [None, Some(1), Some(2)]);
}

#[tokio::test]
async fn a_server_that_goes_on_refusing_is_left_alone() {
    let traced = Traced::start();
    let address = refusing(3).await;
    http2(&traced).get(format!("http://{address}/")).send().await.unwrap_err();
    assert_eq!(traced.client_spans().await.len(), 3, "as often as reqwest would have tried");
}
