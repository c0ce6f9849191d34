//! What a protocol says of a call, and how a call ends.
//!
//! Watching a call is the same for every protocol over HTTP: enter the span around every poll, see the head, the body
//! and the trailers pass, and notice exactly once how it ends. What a span is called, what is noted of it and which
//! ending is an error differ: that is a [`Protocol`], and its [`Call`] for one request.

use std::any::Any;
use std::error::Error;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::task::Poll;

use http::{Extensions, HeaderMap, Method, Request, Uri, Version, response};
use trace_core::Span;

use crate::conventions::ErrorType;

/// An error of any type, as tower, hyper and axum hand them on.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A protocol over HTTP, as one side of it sees a call: what starts the span.
pub trait Protocol {
    /// What is known of one call, from its start to its end.
    type Call: Call;

    /// Starts the span of a request, and notes what its head says.
    ///
    /// For a request that is left out this is [`Span::unrecorded`], with the caller's context.
    fn start(&self, request: RequestHead<'_>) -> (Span, Self::Call);
}

/// One call: what is noted of its response, and what its ending means.
pub trait Call {
    /// The head of the response is there. It may be changed; the span may be one that does not record.
    fn head(&mut self, span: &mut Span, response: &mut response::Parts);

    /// The trailers have come. Only called for a span that records.
    fn trailers(&mut self, span: &mut Span, trailers: &HeaderMap) {
        let _ = (span, trailers);
    }

    /// The call is over. Called once, and only for a span that records, which ends after it.
    fn end(&mut self, span: &mut Span, ending: Ending<'_>);
}

/// The head of a request, whatever its body is.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The version of HTTP.
    pub version: Version,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// What servers and other middlewares know of the request.
    pub extensions: &'a Extensions,
}

impl<'a, B> From<&'a Request<B>> for RequestHead<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

/// How a call ended. Each call ends once, by the first of these that happens.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Ending<'a> {
    /// The response has been handed over as far as there is one: there was nothing after its head (`HEAD`, 1xx, 204,
    /// 304, a body that is empty), the body came to its end, the trailers came, or the body was dropped after its
    /// declared length had passed.
    Complete,
    /// The connection became another protocol's: status 101, or a `CONNECT` that was accepted. What follows is not part
    /// of the call.
    Upgraded,
    /// The response body failed.
    BodyError(&'a (dyn Error + 'static)),
    /// The service failed instead of answering.
    ServiceError(ServiceError<'a>),
    /// The response, or its body, was dropped before its end: the caller went away, or a timeout outside struck. Which
    /// of them it was cannot be told.
    Cancelled,
    /// The service, its future or its body panicked. The panic goes on after it is noted.
    Panicked(&'a (dyn Any + Send)),
}

impl Ending<'_> {
    /// The class of the error as `error.type` names it; `None` for the endings that are none by themselves.
    ///
    /// A body's error is the [`io::ErrorKind`] found among its sources, as words (`connection_reset`), else `body_error`; a service's error is that, else the name of its type; then there are `cancelled` and `panic`.
    pub fn error_type(&self) -> Option<ErrorType> {
        match self {
            Self::Complete | Self::Upgraded => None,
            Self::BodyError(error) => Some(ErrorType::of(*error).unwrap_or(ErrorType::named("body_error"))),
            Self::ServiceError(error) => Some(error.error_type()),
            Self::Cancelled => Some(ErrorType::named("cancelled")),
            Self::Panicked(_) => Some(ErrorType::named("panic")),
        }
    }
}

/// The error of a service, of a type that only the service and its user know.
#[derive(Clone, Copy, Debug)]
pub struct ServiceError<'a> {
    error: &'a dyn Any,
    type_name: &'static str,
}

impl<'a> ServiceError<'a> {
    /// Looks at an error.
    pub fn new<E: 'static>(error: &'a E) -> Self {
        Self { error, type_name: std::any::type_name::<E>() }
    }

    /// The error, if it is of this type.
    pub fn downcast_ref<E: 'static>(&self) -> Option<&'a E> {
        self.error.downcast_ref()
    }

    /// The error with its sources, if it is boxed, as tower's middlewares box theirs, or an [`io::Error`].
    pub fn as_error(self) -> Option<&'a (dyn Error + 'static)> {
        if let Some(error) = self.downcast_ref::<BoxError>() {
            return Some(&**error);
        }
        self.downcast_ref::<io::Error>().map(|error| error as _)
    }

    /// The name of the error's type.
    pub const fn type_name(&self) -> &'static str {
        self.type_name
    }

    /// The class of the error: see [`Ending::error_type`]. A boxed error has no type to name: `service_error`.
    pub fn error_type(&self) -> ErrorType {
        match self.as_error() {
            Some(error) => ErrorType::of(error).unwrap_or(ErrorType::named("service_error")),
            None => ErrorType::named(self.type_name),
        }
    }
}

/// A call that is not over: its span, and what its protocol knows.
#[derive(Debug)]
pub(crate) struct OpenCall<C> {
    pub(crate) span: Span,
    pub(crate) call: C,
}

impl<C: Call> OpenCall<C> {
    /// Says how the call ended, and ends its span.
    pub(crate) fn end(mut self, ending: Ending<'_>) {
        self.note(ending);
    }

    fn note(&mut self, ending: Ending<'_>) {
        if self.span.is_recording() {
            self.call.end(&mut self.span, ending);
        }
    }

    /// Runs a part of the work of a call inside its span.
    ///
    /// # Panics
    /// When `f` does, after the panic is noted, `clean_up` has run inside the span, and the span has ended.
    #[inline]
    pub(crate) fn run<S>(
        open: &mut Option<Self>,
        state: &mut S,
        f: impl FnOnce(&mut S),
        clean_up: impl FnOnce(&mut S),
    ) {
        let Some(call) = open else { return f(state) };
        if !call.span.is_recording() {
            return call.span.enter(|| f(state));
        }
        // What is caught and what it made are handed over by reference: they are large.
        if let Err(panic) = call.span.enter(|| panic::catch_unwind(AssertUnwindSafe(|| f(state)))) {
            Self::panicked(open, panic, || clean_up(state));
        }
    }

    #[cold]
    fn panicked(open: &mut Option<Self>, panic: Box<dyn Any + Send>, clean_up: impl FnOnce()) -> ! {
        if let Some(mut call) = open.take() {
            // Noted first, so that it stands even if cleaning up panics.
            call.note(Ending::Panicked(&*panic));
            call.span.enter(clean_up);
        }
        panic::resume_unwind(panic)
    }

    /// Polls what belongs to a call, inside its span, and drops it there when it is done, which `f` says beside its
    /// result.
    ///
    /// # Panics
    /// When `f` does, after the panic is noted and the span has ended.
    #[inline]
    pub(crate) fn poll<T, R>(
        open: &mut Option<Self>,
        inner: Pin<&mut Option<T>>,
        f: impl FnOnce(Pin<&mut T>) -> Poll<(R, bool)>,
    ) -> Poll<(R, bool)> {
        let mut state = (inner, Poll::Pending);
        Self::run(
            open,
            &mut state,
            |(inner, result)| {
                *result = f(inner.as_mut().as_pin_mut().expect("polled after completion"));
                if let Poll::Ready((_, true)) = result {
                    inner.set(None);
                }
            },
            |(inner, _)| inner.set(None),
        );
        state.1
    }

    /// Drops what belongs to a call, inside its span, and ends the call.
    pub(crate) fn abandon<T>(open: &mut Option<Self>, mut inner: Pin<&mut Option<T>>, ending: Ending<'_>) {
        if let Some(mut call) = open.take() {
            // Noted first, so that it stands even if dropping panics.
            call.note(ending);
            call.span.enter(|| inner.set(None));
        }
    }
}

#[cfg(test)]
mod tests;
