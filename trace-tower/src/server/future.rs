//! The future of a call: it runs in the span, and hands the span on to the response's body.

use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::http::response::Parts;
use ::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;
use trace_core::{Span, cold_path};

use super::{BodyCall, ResponseBody};
use crate::call::{BoxError, Call, Ending, OpenCall, ServiceError, call_inside};

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
    #[inline(always)]
    fn ending(self, status: StatusCode, body: &impl Body) -> Option<Ending<'static>> {
        // Nearly all answers: a success or an error, and something to read.
        let is_over = has_no_body(status) || body.is_end_stream();
        if matches!(self, Self::Body) && !is_over { None } else { self.ending_by_head(status, is_over) }
    }

    #[cold]
    fn ending_by_head(self, status: StatusCode, is_over: bool) -> Option<Ending<'static>> {
        match self {
            _ if status == StatusCode::SWITCHING_PROTOCOLS => Some(Ending::Upgraded),
            Self::Tunnel if status.is_success() => Some(Ending::Upgraded),
            Self::Head => Some(Ending::Complete),
            _ if is_over => Some(Ending::Complete),
            _ => None,
        }
    }
}

/// Whether nothing comes after a head with this status: [RFC 9110, 6.4.1](https://www.rfc-editor.org/rfc/rfc9110#section-6.4.1).
#[inline(always)]
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

impl<F, C: Call> ResponseFuture<F, C> {
    /// Calls a service inside the span of the call, which will end with it.
    ///
    /// # Panics
    /// When the service does, after the panic is noted and the span has ended.
    // Not inlined, so that what it returns is written to where it stays: see `call_inside`.
    #[inline(never)]
    pub fn call<S, B>(service: &mut S, request: Request<B>, span: Span, call: C) -> Self
    where
        S: Service<Request<B>, Future = F>,
    {
        let answer = Answer::from(request.method());
        let mut open = ManuallyDrop::new(Some(OpenCall::new(span, call)));
        let inner = Some(call_inside(service, request, &mut open));
        Self { inner, open: ManuallyDrop::into_inner(open), answer }
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
    /// afterwards would move the response twice. There is no call for a body that nobody has to watch: its call is over, or
    /// is not recorded, and the body is no stream that goes on working after its head.
    ///
    /// # Panics
    /// When the service's future does, after the panic is noted. The span ends with this future.
    #[inline]
    pub fn poll_with<T>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        body: impl FnOnce(B, Option<BodyCall<C>>) -> T,
    ) -> Poll<Result<Response<T>, E>> {
        let this = self.project();
        let open = this.open.as_mut().expect("polled after completion");
        // A response is large: it is written where it is looked at, and taken apart there once, on its way to where it goes.
        let result = open.poll(this.inner, cx);
        match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => {
                let (mut head, inner) = response.into_parts();
                let declared = look_at_head(this.open, *this.answer, &mut head, &inner);
                let call = this.open.take().map(|open| BodyCall::new(open, declared));
                Poll::Ready(Ok(Response::from_parts(head, body(inner, call))))
            }
            Poll::Ready(Err(error)) => {
                cold_path();
                open.note(Ending::ServiceError(ServiceError::new(&error)));
                *this.open = None;
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
        self.poll_with(cx, ResponseBody::new)
    }
}

/// The head is there: the call ends by it, or with the body, of which the declared length is returned.
#[inline(always)]
fn look_at_head<B: Body, C: Call>(
    open: &mut Option<OpenCall<C>>,
    answer: Answer,
    head: &mut Parts,
    body: &B,
) -> Option<u64> {
    let call = open.as_mut().expect("the head of a response comes once");
    call.call.put_headers(&call.span, &mut head.headers);
    let recording = call.span.is_recording();
    if recording {
        call.call.head(&mut call.span, (&*head).into());
    }
    let mut declared = None;
    let is_over = match answer.ending(head.status, body) {
        Some(ending) => {
            call.note(ending);
            let is_read = body.is_end_stream();
            if !is_read {
                // The span ends; a body that nobody will read is still dropped where it belongs.
                let here = Span::unrecorded(call.span.context().clone());
                call.span = here;
            }
            is_read
        }
        None => {
            declared = body.size_hint().exact().or_else(|| declared_length(&head.headers));
            // Only a stream goes on working after its head.
            !recording && declared.is_some()
        }
    };
    if is_over {
        cold_path();
        *open = None;
    }
    declared
}

/// How many bytes the body will have by what the head declares.
#[inline(never)]
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}
