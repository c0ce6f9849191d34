//! Responses as servers give them that are not tonic's, frame by frame.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod shop;

use std::net::SocketAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use shop::{Item, Traced, assert_ended, connect};
use tokio::net::TcpListener;
use tonic::{Code, Status};
use trace_core::otlp::SpanData;

type Respond = SendResponse<Bytes>;
type Answer = fn(Request<RecvStream>, Respond);

/// An HTTP/2 server that does this with each request.
async fn server(answer: Answer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    answer(request, respond);
                }
            });
        }
    });
    address
}

/// What comes of a unary call and of a server stream: the status that the caller gets, and the span.
async fn call(answer: Answer) -> [(Code, SpanData); 2] {
    let traced = Traced::start();
    let address = server(answer).await;
    let mut client = connect(&traced, address);
    let unary = client.get(Item::default()).await.map(|_| ());
    let stream = async {
        let mut stream = client.watch(Item::default()).await?.into_inner();
        while stream.message().await?.is_some() {}
        Ok(())
    };
    let stream: Result<(), Status> = stream.await;
    let spans = traced.spans(2).await;
    let code = |result: Result<(), Status>| result.map_or_else(|status| status.code(), |()| Code::Ok);
    let [first, second] = spans.try_into().unwrap();
    [(code(unary), first), (code(stream), second)]
}

fn head(status: u16, grpc_status: Option<&str>) -> Response<()> {
    let mut head = Response::builder().status(status).header("content-type", "application/grpc");
    if let Some(grpc_status) = grpc_status {
        head = head.header("grpc-status", grpc_status);
    }
    head.body(()).unwrap()
}

/// An empty `Item`, in its frame.
const MESSAGE: Bytes = Bytes::from_static(&[0, 0, 0, 0, 0]);

#[tokio::test]
async fn a_head_with_a_status_is_all_there_is() {
    for (code, span) in call(|_, mut respond| drop(respond.send_response(head(200, Some("5")), true))).await {
        assert_eq!(code, Code::NotFound);
        assert_ended(&span, "NOT_FOUND", Some("NOT_FOUND"));
    }
}

#[tokio::test]
async fn a_head_with_a_status_says_it_even_if_an_empty_body_follows() {
    let calls = call(|_, mut respond| {
        let mut body = respond.send_response(head(200, Some("5")), false).unwrap();
        tokio::spawn(async move {
            tokio::task::yield_now().await;
            let _ = body.send_data(Bytes::new(), true);
        });
    });
    for (code, span) in calls.await {
        assert_eq!(code, Code::NotFound);
        assert_ended(&span, "NOT_FOUND", Some("NOT_FOUND"));
    }
}

#[tokio::test]
async fn trailers_say_the_status() {
    let calls = call(|_, mut respond| {
        let mut body = respond.send_response(head(200, None), false).unwrap();
        body.send_data(MESSAGE, false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "15".parse().unwrap());
        body.send_trailers(trailers).unwrap();
    });
    for (code, span) in calls.await {
        assert_eq!(code, Code::DataLoss);
        assert_ended(&span, "DATA_LOSS", Some("DATA_LOSS"));
    }
}

#[tokio::test]
async fn a_response_without_a_status_is_unknown() {
    let [(_, unary), (code, stream)] = call(|_, mut respond| {
        let mut body = respond.send_response(head(200, None), false).unwrap();
        body.send_data(MESSAGE, true).unwrap();
    })
    .await;
    assert_eq!(code, Code::Unknown);
    assert_ended(&unary, "UNKNOWN", Some("UNKNOWN"));
    assert_ended(&stream, "UNKNOWN", Some("UNKNOWN"));
}

#[tokio::test]
async fn a_proxy_that_answers_is_told_by_its_http_status() {
    let answers: [(Answer, Code, &str); 3] = [
        (
            |_, mut respond| drop(respond.send_response(head(503, None), true)),
            Code::Unavailable,
            "UNAVAILABLE",
        ),
        (
            |_, mut respond| drop(respond.send_response(head(401, None), true)),
            Code::Unauthenticated,
            "UNAUTHENTICATED",
        ),
        (|_, mut respond| drop(respond.send_response(head(500, None), true)), Code::Unknown, "UNKNOWN"),
    ];
    for (answer, expected, name) in answers {
        for (code, span) in call(answer).await {
            assert_eq!(code, expected);
            assert_ended(&span, name, Some(name));
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_is_told_by_the_reason() {
    let answers: [(Answer, &str); 3] = [
        (|_, mut respond| respond.send_reset(h2::Reason::REFUSED_STREAM), "UNAVAILABLE"),
        (|_, mut respond| respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM), "RESOURCE_EXHAUSTED"),
        (|_, mut respond| respond.send_reset(h2::Reason::INTERNAL_ERROR), "INTERNAL"),
    ];
    for (answer, name) in answers {
        for (code, span) in call(answer).await {
            assert_ended(&span, name, Some(name));
            let told = text_of(code);
            assert_eq!(told, name, "what the caller was told");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_reset_is_told_by_the_reason() {
    let calls = call(|_, mut respond| {
        let mut body = respond.send_response(head(200, None), false).unwrap();
        body.send_data(MESSAGE, false).unwrap();
        body.send_reset(h2::Reason::INTERNAL_ERROR);
    });
    for (code, span) in calls.await {
        assert_eq!(code, Code::Internal);
        assert_ended(&span, "INTERNAL", Some("INTERNAL"));
    }
}

fn text_of(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "UNAVAILABLE",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Internal => "INTERNAL",
        _ => "something else",
    }
}
