//! Services that are not tonic's, inside the layer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod shop;

use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use shop::{Traced, assert_ended, text};
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::load_shed::LoadShedLayer;
use tower_layer::Layer;
use tower_service::Service;
use trace_core::SpanKind;
use trace_core::otlp::SpanData;
use trace_tonic::{ClientTraceLayer, ServerTraceLayer};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Result<Response<Stuck>, BoxError>;

/// A body that fails, or else never comes to an end.
struct Stuck(Option<BoxError>);

impl Body for Stuck {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.0.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None => Poll::Pending,
        }
    }
}

#[derive(Clone)]
struct Answers(fn() -> Answer);

impl Service<Request<()>> for Answers {
    type Response = Response<Stuck>;
    type Error = BoxError;
    type Future = Ready<Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready((self.0)())
    }
}

/// The span of one call whose body is looked at once and then dropped.
async fn serve(answer: fn() -> Answer, request: Request<()>) -> SpanData {
    let traced = Traced::start();
    let mut service = ServerTraceLayer::new().tracer(traced.tracer()).layer(Answers(answer));
    if let Ok(response) = service.call(request).await {
        let mut body = Box::pin(response.into_body());
        std::future::poll_fn(|cx| {
            let _ = body.as_mut().poll_frame(cx);
            Poll::Ready(())
        })
        .await;
    }
    traced.spans(1).await.remove(0)
}

fn request(uri: &str) -> Request<()> {
    Request::post(uri).body(()).unwrap()
}

#[tokio::test]
async fn the_error_of_a_service_is_the_status_that_tonic_makes_of_it() {
    let span = serve(|| Err(Box::new(Status::unavailable(""))), request("/shop.v1.Inventory/Get")).await;
    assert_ended(&span, "UNAVAILABLE", Some("UNAVAILABLE"));
    let span = serve(|| Err(Box::new(Status::not_found(""))), request("/shop.v1.Inventory/Get")).await;
    assert_ended(&span, "NOT_FOUND", None);
    let span = serve(|| Err("s3cret".into()), request("/shop.v1.Inventory/Get")).await;
    assert_ended(&span, "UNKNOWN", Some("UNKNOWN"));
}

/// A service that is never ready.
#[derive(Clone)]
struct Busy;

impl Service<Request<()>> for Busy {
    type Response = Response<Stuck>;
    type Error = BoxError;
    type Future = Ready<Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        unreachable!("it was never ready")
    }
}

#[tokio::test]
async fn load_that_is_shed_is_told_as_tonic_answers_it() {
    let traced = Traced::start();
    let shedding = LoadShedLayer::new().layer(Busy);
    let mut server = ServerTraceLayer::new().tracer(traced.tracer()).layer(shedding.clone());
    let mut client = ClientTraceLayer::for_server("inventory", None).tracer(traced.tracer()).layer(shedding);
    for result in [poll_and_call(&mut server).await.map(drop), poll_and_call(&mut client).await.map(drop)] {
        assert_eq!(Status::from_error(result.unwrap_err()).code(), Code::ResourceExhausted);
    }
    let spans = traced.spans(2).await;
    for span in &spans {
        let is_error = span.kind == SpanKind::Client;
        assert_ended(span, "RESOURCE_EXHAUSTED", is_error.then_some("RESOURCE_EXHAUSTED"));
    }
}

async fn poll_and_call<S: Service<Request<()>, Error = BoxError>>(
    service: &mut S,
) -> Result<S::Response, BoxError> {
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(request("/shop.v1.Inventory/Get")).await
}

#[tokio::test]
async fn the_error_of_a_body_is_the_status_that_tonic_makes_of_it() {
    let answer = || Ok(Response::new(Stuck(Some(Box::new(Status::data_loss(""))))));
    let span = serve(answer, request("/shop.v1.Inventory/Watch")).await;
    assert_ended(&span, "DATA_LOSS", Some("DATA_LOSS"));
}

#[tokio::test]
async fn a_status_that_was_told_stands_when_the_rest_is_dropped() {
    let answer = || Ok(Response::builder().header("grpc-status", "13").body(Stuck(None)).unwrap());
    let span = serve(answer, request("/shop.v1.Inventory/Get")).await;
    assert_ended(&span, "INTERNAL", Some("INTERNAL"));
    let span = serve(|| Ok(Response::new(Stuck(None))), request("/shop.v1.Inventory/Get")).await;
    assert_ended(&span, "CANCELLED", None);
}

#[tokio::test]
async fn addresses_are_told_as_far_as_they_are_known() {
    let answer = || Ok(Response::builder().header("grpc-status", "0").body(Stuck(None)).unwrap());
    let span = serve(answer, request("/shop.v1.Inventory/Get")).await;
    for unknown in ["server.address", "server.port", "network.peer.address", "network.peer.port"] {
        assert_eq!(span.attribute(unknown), None);
    }
    let mut known = request("https://inventory/shop.v1.Inventory/Get");
    let peer =
        TcpConnectInfo { local_addr: None, remote_addr: Some("[::ffff:10.1.2.3]:4711".parse().unwrap()) };
    known.extensions_mut().insert(peer);
    let span = serve(answer, known).await;
    assert_eq!(text(&span, "server.address"), Some("inventory"));
    assert_eq!(shop::number(&span, "server.port"), Some(443));
    assert_eq!(text(&span, "network.peer.address"), Some("10.1.2.3"));
    assert_eq!(shop::number(&span, "network.peer.port"), Some(4711));
}
