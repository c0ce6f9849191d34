//! What a protocol says of a call, and how a call ends.
//!
//! Watching a call is the same for every protocol over HTTP: enter the span around every poll, see the head, the body
//! and the trailers pass, and notice exactly once how it ends. What a span is called, what is noted of it and which
//! ending is an error differ: that is a [`Protocol`], and its [`Call`] for one request.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use http::response::Parts;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use tower_service::Service;
use trace_core::Span;

use crate::conventions::{ErrorType, QueryRedaction};

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
    /// The head of the response is there. Only called for a span that records.
    fn head(&mut self, span: &mut Span, response: ResponseHead<'_>);

    /// Puts what the caller is to be told into the headers of the response, which is about to be handed over.
    fn put_headers(&mut self, span: &Span, headers: &mut HeaderMap) {
        let _ = (span, headers);
    }

    /// Whether [`Ending::Panicked`] is to have what the panic says, which costs every call a little.
    fn wants_panics(&self) -> bool {
        false
    }

    /// The trailers have come. Only called for a span that records.
    fn trailers(&mut self, span: &mut Span, trailers: &HeaderMap) {
        let _ = (span, trailers);
    }

    /// The call is over. Called once, and only for a span that records, which ends after it. Where somebody catches a panic and
    /// goes on polling, a head and trailers may still come before that. A panic in here is lost if it is told of one, or goes on in
    /// its place where [its message is wanted](Self::wants_panics).
    fn end(&mut self, span: &mut Span, ending: Ending<'_>);
}

/// The head of a request, whatever its body is.
#[derive(Clone, Copy)]
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

/// Without the values of headers and of the query, and without a password: what is shown may end up in a span.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", self.method)
            .field("uri", &QueryRedaction::default().uri(self.uri))
            .field("version", &self.version)
            .field("headers", &self.headers.len())
            .finish_non_exhaustive()
    }
}

/// The head of a response, whatever its body is.
#[derive(Clone, Copy)]
pub struct ResponseHead<'a> {
    /// The status.
    pub status: StatusCode,
    /// The version of HTTP.
    pub version: Version,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// What clients and other middlewares know of the response.
    pub extensions: &'a Extensions,
}

impl<'a> From<&'a Parts> for ResponseHead<'a> {
    fn from(head: &'a Parts) -> Self {
        Self {
            status: head.status,
            version: head.version,
            headers: &head.headers,
            extensions: &head.extensions,
        }
    }
}

impl<'a, B> From<&'a Response<B>> for ResponseHead<'a> {
    fn from(response: &'a Response<B>) -> Self {
        Self {
            status: response.status(),
            version: response.version(),
            headers: response.headers(),
            extensions: response.extensions(),
        }
    }
}

/// Without the values of headers, as that of a request.
impl fmt::Debug for ResponseHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status)
            .field("version", &self.version)
            .field("headers", &self.headers.len())
            .finish_non_exhaustive()
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
    /// The service, its future or its body panicked. The panic goes on after it is noted. What it says is there only for a call
    /// that [wants it](Call::wants_panics).
    Panicked(Option<&'a (dyn Any + Send)>),
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

/// A call: its span, and what its protocol knows.
#[derive(Debug)]
pub(crate) struct OpenCall<C> {
    pub(crate) span: Span,
    pub(crate) call: C,
    /// Whether it is noted how the call ended.
    over: bool,
}

impl<C: Call> OpenCall<C> {
    pub(crate) const fn new(span: Span, call: C) -> Self {
        Self { span, call, over: false }
    }

    /// Whether it is noted how the call ended.
    #[inline]
    pub(crate) const fn is_over(&self) -> bool {
        self.over
    }

    /// Says how the call ended, and ends its span.
    #[inline]
    pub(crate) fn end(mut self, ending: Ending<'_>) {
        self.note(ending);
    }

    /// Notes how the call ended, if it has not been noted.
    #[inline]
    pub(crate) fn note(&mut self, ending: Ending<'_>) {
        // Said first: also an end that panics is one.
        let over = mem::replace(&mut self.over, true);
        if !over && self.span.is_recording() {
            self.call.end(&mut self.span, ending);
        }
    }

    /// Does a part of the work of a call inside its span.
    ///
    /// # Panics
    /// When `f` does, after the panic is noted. Unless its message is wanted, catching it is left to others: what was under way stays
    /// as it is, and is dropped by whoever has it, which is when the span ends.
    // Each of these returns what it calls, and nothing else, so that a large result is written to where it goes, and not moved there.
    #[inline(always)]
    pub(crate) fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        if self.call.wants_panics() { self.run_and_catch(f) } else { self.run_uncaught(f) }
    }

    #[inline(always)]
    fn run_uncaught<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let inside = Inside(self);
        let result = inside.0.span.enter(f);
        mem::forget(inside);
        result
    }

    /// Polls the future of the call inside its span. What it still holds when it is ready is dropped there too.
    #[inline(always)]
    pub(crate) fn poll<F: Future>(
        &mut self,
        mut inner: Pin<&mut Option<F>>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        self.run(|| {
            let result =
                inner.as_mut().as_pin_mut().expect("it is there as long as the call is open").poll(cx);
            if result.is_ready() {
                inner.set(None);
            }
            result
        })
    }

    #[cold]
    fn run_and_catch<R>(&mut self, f: impl FnOnce() -> R) -> R {
        match self.span.enter(|| panic::catch_unwind(AssertUnwindSafe(f))) {
            Ok(result) => result,
            Err(panic) => {
                self.note(Ending::Panicked(Some(&*panic)));
                panic::resume_unwind(panic)
            }
        }
    }

    #[cold]
    fn note_panic(&mut self) {
        let over = mem::replace(&mut self.over, true);
        if !over && self.span.is_recording() {
            // A panic that meets another one ends the process.
            let end = || self.call.end(&mut self.span, Ending::Panicked(None));
            let _ = panic::catch_unwind(AssertUnwindSafe(end));
        }
    }

    /// Drops what belongs to a call, inside its span, which ends with it. How it ended is noted first, so that it stands even
    /// if dropping panics.
    #[inline]
    pub(crate) fn abandon<T>(open: &mut Option<Self>, mut inner: Pin<&mut Option<T>>, ending: Ending<'_>) {
        if let Some(call) = open {
            call.note(ending);
            call.span.enter(|| inner.set(None));
            *open = None;
        }
    }
}

/// Notes a panic that leaves a call's span. It is forgotten where there is none.
struct Inside<'a, C: Call>(&'a mut OpenCall<C>);

impl<C: Call> Drop for Inside<'_, C> {
    fn drop(&mut self) {
        self.0.note_panic();
    }
}

/// Calls a service inside the span of a call, which is there, and is there afterwards. If the service panics, that is noted, and
/// the call ends here.
///
/// The future that a service returns is large, and moved several times unless this is a call by itself, does nothing but dropping
/// after the service is called, and is called by those who have nothing to drop should it panic. (What unwinds and is no panic
/// of Rust's leaves the span behind.)
#[inline(never)]
pub(crate) fn call_inside<S, B, C: Call>(
    service: &mut S,
    request: Request<B>,
    open: &mut Option<OpenCall<C>>,
) -> S::Future
where
    S: Service<Request<B>>,
{
    let calling = Calling(open);
    let call = calling.0.as_mut().expect(OPEN);
    if call.call.wants_panics() || thread::panicking() {
        // Where somebody panics already, that does not tell how the service is left.
        let mut calling = ManuallyDrop::new(calling);
        return call_with_care(service, request, calling.0);
    }
    call.span.enter(|| service.call(request))
}

#[cold]
fn call_with_care<S, B, C: Call>(
    service: &mut S,
    request: Request<B>,
    open: &mut Option<OpenCall<C>>,
) -> S::Future
where
    S: Service<Request<B>>,
{
    // A panic drops it here.
    let mut call = open.take().expect(OPEN);
    let future = call.run(|| service.call(request));
    *open = Some(call);
    future
}

const OPEN: &str = "a call whose service is called is open";

/// A service that is being called. If that panics, the call ends.
struct Calling<'a, C: Call>(&'a mut Option<OpenCall<C>>);

impl<C: Call> Drop for Calling<'_, C> {
    #[inline]
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(mut call) = self.0.take()
        {
            call.note_panic();
        }
    }
}

#[cfg(test)]
mod tests;
