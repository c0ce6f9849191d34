//! The service that starts a span for each request, and sends its context along.

use std::task::{Context, Poll};

use ::http::{Request, Response};
use tower_service::Service;

use super::{HttpClient, ResponseFuture};
use crate::call::Protocol;

/// A client whose requests are spans: see [`ClientTraceLayer`](super::ClientTraceLayer).
#[derive(Clone, Debug)]
pub struct ClientTrace<S> {
    inner: S,
    protocol: HttpClient,
}

impl<S> ClientTrace<S> {
    /// Wraps a client.
    pub const fn new(inner: S, protocol: HttpClient) -> Self {
        Self { inner, protocol }
    }

    /// The client inside.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// The client inside.
    pub const fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The client inside, alone.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for ClientTrace<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let (span, call) = self.protocol.start((&request).into());
        self.protocol.inject(span.context(), request.headers_mut());
        ResponseFuture::call(&mut self.inner, request, span, call)
    }
}
