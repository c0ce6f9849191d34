//! The service of a layered route.

use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;
use trace_tower::ServerTrace;

use crate::ResponseFuture;
use crate::layer::Axum;

/// A service whose requests are spans: see [`TraceLayer`](crate::TraceLayer).
///
/// It answers with axum's own body, so that a body that nobody has to watch is not boxed once more.
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: ServerTrace<S, Axum>,
}

impl<S> Trace<S> {
    pub(crate) const fn new(inner: ServerTrace<S, Axum>) -> Self {
        Self { inner }
    }
}

impl<S, RequestBody, B> Service<Request<RequestBody>> for Trace<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        ResponseFuture::new(self.inner.call(request))
    }
}
