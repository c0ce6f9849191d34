//! The future of a call: it runs in the span, and hands the span on to the response's body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::{Method, Request, Response, StatusCode, header, response};
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
    fn ending(self, head: &response::Parts, body: &impl Body) -> Option<Ending<'static>> {
        let status = head.status;
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
    pub fn call<S, B>(service: &mut S, request: Request<B>, span: Span, call: C) -> Self
    where
        S: Service<Request<B>, Future = F>,
    {
        let answer = Answer::from(request.method());
        let (mut open, mut inner) = (Some(OpenCall { span, call }), None);
        OpenCall::run(&mut open, &mut inner, |inner| *inner = Some(service.call(request)), |_| ());
        Self { inner, open, answer }
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
        let this = self.project();
        let (result, _) = ready!(OpenCall::poll(this.open, this.inner, |inner| inner
            .poll(cx)
            .map(|result| (result, true))));
        let open = this.open.take().expect("a future that was not ready has a call");
        match result {
            Ok(response) => Poll::Ready(Ok(hand_over(open, *this.answer, response))),
            Err(error) => {
                open.end(Ending::ServiceError(ServiceError::new(&error)));
                Poll::Ready(Err(error))
            }
        }
    }
}

/// The head is there: the call ends by it, or with the body.
fn hand_over<B, C>(
    mut open: OpenCall<C>,
    answer: Answer,
    response: Response<B>,
) -> Response<ResponseBody<B, C>>
where
    B: Body,
    C: Call,
{
    let (mut head, body) = response.into_parts();
    open.call.head(&mut open.span, &mut head);
    let body = match answer.ending(&head, &body) {
        Some(ending) => {
            // A body that nobody will read is still dropped where it belongs.
            let context = (!body.is_end_stream()).then(|| open.span.context().clone());
            let OpenCall { mut span, mut call } = open;
            if span.is_recording() {
                call.end(&mut span, ending);
            }
            span.end();
            match context {
                Some(context) => {
                    ResponseBody::watched(body, OpenCall { span: Span::unrecorded(context), call }, None)
                }
                None => ResponseBody::untouched(body),
            }
        }
        None if open.span.is_recording() => {
            let declared = declared_length(&head, &body);
            ResponseBody::watched(body, open, declared)
        }
        // Only a stream goes on working after its head.
        None if body.size_hint().exact().is_some() || declared_length(&head, &body).is_some() => {
            ResponseBody::untouched(body)
        }
        None => ResponseBody::watched(body, open, None),
    };
    Response::from_parts(head, body)
}

/// How many bytes the body will have, if that is known: what the head declares, else what the body says of itself.
fn declared_length(head: &response::Parts, body: &impl Body) -> Option<u64> {
    let content_length = head.headers.get(header::CONTENT_LENGTH);
    content_length.and_then(|length| length.to_str().ok()?.parse().ok()).or_else(|| body.size_hint().exact())
}
