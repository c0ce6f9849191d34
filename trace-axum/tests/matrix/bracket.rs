//! What lies around everything that the layer does for a request: allocations are charged to the request in between.
//!
//! hyper's own are left out so. How often it needs a new buffer depends on when the next request comes, and varies by two
//! from one request to the next whatever the collector does.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tower::{Layer, Service};

use crate::host::Probe;
use crate::meter;

#[derive(Clone, Copy)]
pub(crate) struct Bracket(pub(crate) &'static Probe);

#[derive(Clone)]
pub(crate) struct Bracketed<S> {
    inner: S,
    probe: &'static Probe,
}

impl<S> Layer<S> for Bracket {
    type Service = Bracketed<S>;

    fn layer(&self, inner: S) -> Bracketed<S> {
        Bracketed { inner, probe: self.0 }
    }
}

impl<S> Service<Request> for Bracketed<S>
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Charged<Pin<Box<S::Future>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let future = self.probe.charged(|| self.inner.call(request));
        Charged { inner: Some(Box::pin(future)), probe: self.probe }
    }
}

/// Works, and is dropped, at the request's charge.
pub(crate) struct Charged<T> {
    /// `None` after the drop alone.
    inner: Option<T>,
    probe: &'static Probe,
}

impl<T> Drop for Charged<T> {
    fn drop(&mut self) {
        let inner = self.inner.take();
        self.probe.charged(|| drop(inner));
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Charged<Pin<Box<F>>> {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let probe = self.probe;
        let Some(future) = &mut self.inner else { return Poll::Pending };
        let polled = probe.charged(|| future.as_mut().poll(cx));
        polled.map_ok(|response| response.map(|body| Body::new(Charged { inner: Some(body), probe })))
    }
}

impl http_body::Body for Charged<Body> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let probe = self.probe;
        let Some(body) = &mut self.inner else { return Poll::Ready(None) };
        probe.charged(|| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl Probe {
    /// Does something at the charge of whoever is served.
    pub(crate) fn charged<R>(&'static self, work: impl FnOnce() -> R) -> R {
        let _charge = meter::charge(&self.ledger);
        work()
    }
}
