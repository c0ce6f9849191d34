//! The future of a call: it runs in the span, and hands the span on to the response's body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;
use trace_core::Span;

use super::ResponseBody;
use crate::call::{BoxError, Call, Ending, OpenCall, ServiceError};

pin_project! {
    /// The future of a call inside its span.
    ///
    /// # Cancel safety
    /// Dropping it before it is ready drops the service's future inside the span, and ends the span as
    /// [cancelled](Ending::Cancelled).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are polled"]
    pub struct ResponseFuture<F, C>
    where
        C: Call,
    {
        #[pin]
        inner: Option<F>,
        open: Option<OpenCall<C>>,
        answer: Answer,
    }

    impl<F, C> PinnedDrop for ResponseFuture<F, C>
    where
        C: Call,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            OpenCall::abandon(this.open, this.inner, Ending::Cancelled);
        }
    }
}

/// What the method of the request says of the answer.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// It may have a body.
    Body,
    /// It has a head only.
    Head,
    /// It has a head, and after a success the connection is a tunnel.
    Tunnel,
}

impl From<&Method> for Answer {
    fn from(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Head,
            Method::CONNECT => Self::Tunnel,
            _ => Self::Body,
        }
    }
}

impl Answer {
    /// How a call ends by its head alone, if it does.
    #[inline]
    fn ending(self, status: StatusCode, body: &impl Body) -> Option<Ending<'static>> {
        match self {
            _ if status == StatusCode::SWITCHING_PROTOCOLS => Some(Ending::Upgraded),
            Self::Tunnel if status.is_success() => Some(Ending::Upgraded),
            Self::Head => Some(Ending::Complete),
            _ if status.is_informational()
                || status == StatusCode::NO_CONTENT
                || status == StatusCode::NOT_MODIFIED
                || body.is_end_stream() =>
            {
                Some(Ending::Complete)
            }
            _ => None,
        }
    }
}

impl<F, C: Call> ResponseFuture<F, C> {
    /// Calls a service inside the span of the call, which will end with it.
    ///
    /// # Panics
    /// When the service does, after the panic is noted and the span has ended.
    #[inline(always)]
    pub fn call<S, B>(service: &mut S, request: Request<B>, span: Span, call: C) -> Self
    where
        S: Service<Request<B>, Future = F>,
    {
        let answer = Answer::from(request.method());
        let mut open = OpenCall::new(span, call);
        let inner = if open.call.wants_panics() {
            open.run_and_catch(|| service.call(request))
        } else {
            // Not by a closure: requests are large, and it would be moved into it and out again.
            let inside = open.enter();
            let inner = service.call(request);
            inside.leave();
            inner
        };
        Self { inner: Some(inner), open: Some(open), answer }
    }
}

impl<F, C, B, E> ResponseFuture<F, C>
where
    F: Future<Output = Result<Response<B>, E>>,
    C: Call,
    B: Body,
    B::Error: Into<BoxError>,
    E: 'static,
{
    /// Polls the future, and makes another body of the response's, for services that answer with one of their own: to do so
    /// afterwards would move the response twice.
    ///
    /// # Panics
    /// When the service's future does, after the panic is noted. The span ends with this future.
    #[inline]
    pub fn poll_with<T>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        body: impl FnOnce(ResponseBody<B, C>) -> T,
    ) -> Poll<Result<Response<T>, E>> {
        let mut this = self.project();
        let open = this.open.as_mut().expect("polled after completion");
        let result = open.run(|| {
            let result =
                this.inner.as_mut().as_pin_mut().expect("it is there as long as the call is open").poll(cx);
            if result.is_ready() {
                // What the service's future still holds is dropped inside the span.
                this.inner.set(None);
            }
            result
        });
        let result = ready!(result);
        let open = this.open.take().expect("it was just there");
        match result {
            Ok(response) => Poll::Ready(Ok(hand_over(open, *this.answer, response, body))),
            Err(error) => {
                open.end(Ending::ServiceError(ServiceError::new(&error)));
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F, C, B, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Response<B>, E>>,
    C: Call,
    B: Body,
    B::Error: Into<BoxError>,
    E: 'static,
{
    type Output = Result<Response<ResponseBody<B, C>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(cx, |body| body)
    }
}

/// The head is there: the call ends by it, or with the body.
#[inline]
fn hand_over<B, C, T>(
    mut open: OpenCall<C>,
    answer: Answer,
    mut response: Response<B>,
    body: impl FnOnce(ResponseBody<B, C>) -> T,
) -> Response<T>
where
    B: Body,
    C: Call,
{
    let recording = open.span.is_recording();
    open.call.put_headers(&open.span, response.headers_mut());
    if recording {
        open.call.head(&mut open.span, (&response).into());
    }
    let ending = answer.ending(response.status(), response.body());
    let declared = declared_length(&response);
    response.map(|inner| {
        let watched = match ending {
            Some(ending) => {
                // A body that nobody will read is still dropped where it belongs.
                let context = (!inner.is_end_stream()).then(|| open.span.context().clone());
                let OpenCall { mut span, mut call, .. } = open;
                if recording {
                    call.end(&mut span, ending);
                }
                span.end();
                match context {
                    Some(context) => {
                        ResponseBody::watched(inner, OpenCall::new(Span::unrecorded(context), call), None)
                    }
                    None => ResponseBody::untouched(inner),
                }
            }
            None if recording => ResponseBody::watched(inner, open, declared),
            // Only a stream goes on working after its head.
            None if declared.is_some() => ResponseBody::untouched(inner),
            None => ResponseBody::watched(inner, open, None),
        };
        body(watched)
    })
}

/// How many bytes the body will have, if that is known: what the head declares, else what the body says of itself.
#[inline]
fn declared_length(response: &Response<impl Body>) -> Option<u64> {
    let content_length = response.headers().get(header::CONTENT_LENGTH);
    content_length
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .or_else(|| response.body().size_hint().exact())
}
