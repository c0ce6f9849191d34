//! The service that starts a span for each request.

use std::task::{Context, Poll};

use ::http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{HttpServer, ResponseBody, ResponseFuture};
use crate::call::{BoxError, Protocol};

/// A service whose requests are spans: see [`ServerTraceLayer`](super::ServerTraceLayer).
#[derive(Clone, Debug)]
pub struct ServerTrace<S, P = HttpServer> {
    inner: S,
    protocol: P,
}

impl<S, P> ServerTrace<S, P> {
    /// Wraps a service that speaks this protocol.
    pub const fn new(inner: S, protocol: P) -> Self {
        Self { inner, protocol }
    }

    /// The service inside.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub const fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside, alone.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, P, RequestBody, B> Service<Request<RequestBody>> for ServerTrace<S, P>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: 'static,
    P: Protocol,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<B, P::Call>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, P::Call>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let (span, call) = self.protocol.start((&request).into());
        ResponseFuture::call(&mut self.inner, request, span, call)
    }
}
