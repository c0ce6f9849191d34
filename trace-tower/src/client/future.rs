//! The future of a request that is sent: it runs in the span, and ends it with the head of the response.

use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;
use trace_core::Span;

use super::HttpClientCall;
use crate::call::{Call, Ending, OpenCall, ServiceError, call_inside};

pin_project! {
    /// The future of a request inside its span.
    ///
    /// # Cancel safety
    /// Dropping it before it is ready drops the client's future inside the span, and ends the span without a status: who
    /// no longer waits is no error.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        open: Option<OpenCall<HttpClientCall>>,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            OpenCall::abandon(this.open, this.inner, Ending::Cancelled);
        }
    }
}

impl<F> ResponseFuture<F> {
    /// Calls a client inside the span of the request, which will end with it.
    ///
    /// # Panics
    /// When the client does, after the panic is noted and the span has ended.
    // Not inlined, so that what it returns is written to where it stays: see `call_inside`.
    #[inline(never)]
    pub(super) fn call<S, B>(client: &mut S, request: Request<B>, span: Span, call: HttpClientCall) -> Self
    where
        S: Service<Request<B>, Future = F>,
    {
        let mut open = ManuallyDrop::new(Some(OpenCall::new(span, call)));
        let inner = Some(call_inside(client, request, &mut open));
        Self { inner, open: ManuallyDrop::into_inner(open) }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let open = this.open.as_mut().expect("polled after completion");
        let result = open.poll(this.inner, cx);
        let result = ready!(result);
        let mut open = this.open.take().expect("it was just there");
        match &result {
            Ok(response) => {
                if open.span.is_recording() {
                    open.call.head(&mut open.span, response.into());
                }
                open.end(Ending::Complete);
            }
            Err(error) => open.end(Ending::ServiceError(ServiceError::new(error))),
        }
        Poll::Ready(result)
    }
}
