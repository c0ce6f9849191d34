//! The future of a layered route.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use http::Response;
use pin_project_lite::pin_project;
use trace_tower::server::{self, HttpServerCall};

use crate::body;

pin_project! {
    /// The future of a request inside its span: see [`trace_tower::ResponseFuture`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: server::ResponseFuture<F, HttpServerCall>,
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) const fn new(inner: server::ResponseFuture<F, HttpServerCall>) -> Self {
        Self { inner }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: 'static,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll_with(cx, body::of_call)
    }
}
