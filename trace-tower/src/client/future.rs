//! The future of a request that is sent: it runs in the span, and ends it with the head of the response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;
use trace_core::Span;

use super::HttpClientCall;
use crate::call::{Call, Ending, OpenCall, ServiceError};

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
    pub(super) fn call<S, B>(client: &mut S, request: Request<B>, span: Span, call: HttpClientCall) -> Self
    where
        S: Service<Request<B>, Future = F>,
    {
        let mut this = Self { inner: None, open: Some(OpenCall { span, call }) };
        let Self { inner, open } = &mut this;
        OpenCall::run(open, inner, |inner| *inner = Some(client.call(request)), |_| ());
        this
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
        let (result, _) = ready!(OpenCall::poll(this.open, this.inner, |inner| inner
            .poll(cx)
            .map(|result| (result, true))));
        let mut open = this.open.take().expect("a future that was not ready has a call");
        match result {
            Ok(response) => {
                let (mut head, body) = response.into_parts();
                open.call.head(&mut open.span, &mut head);
                open.end(Ending::Complete);
                Poll::Ready(Ok(Response::from_parts(head, body)))
            }
            Err(error) => {
                open.end(Ending::ServiceError(ServiceError::new(&error)));
                Poll::Ready(Err(error))
            }
        }
    }
}
