//! What is recorded: one unit of work, with what is worth knowing of it.
//!
//! A [`SpanBuilder`] says what a sampler may see; starting it makes a [`Span`], which ends when it is dropped. A span
//! that is not recorded takes no memory but that of its context, and ignores what is set, but has ids all the same, so that
//! what is called downstream finds its parent.

mod attribute;
mod builder;
mod cell;
pub mod db;
mod encoded;
mod ip;
mod kind;
mod name;
mod recorder;
mod row;
mod scope;
mod span_ref;

use std::fmt;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::SystemTime;

use pin_project_lite::pin_project;

pub(crate) use attribute::Known;
pub use attribute::{Key, Value, display};
#[cfg(feature = "tracing")]
pub(crate) use attribute::{append, text_of};
pub use builder::{SpanBuilder, span};
pub use cell::Attributes;
use cell::Own;
pub(crate) use cell::{Life, Recording, SpanCell};
pub use encoded::EncodedAttributes;
pub use kind::{SpanKind, StatusCode};
pub use name::SpanName;
pub(crate) use recorder::{Recorder, Start, StartBelow};
pub use row::Pieces;
pub use scope::Scope;
pub use span_ref::SpanRef;

use attribute::with_texts;

use crate::clock;
use crate::config::SpanLimits;
use crate::context::{Context, KeptContext, SpanContext, enter};
use crate::semconv;

/// A unit of work while it is done. It ends when it is dropped.
///
/// ```
/// use trace_core::SpanKind;
///
/// let mut span = trace_core::span("SELECT orders").kind(SpanKind::Client).attribute("db.system.name", "sqlite");
/// // ... the work ...
/// span.set_attribute("db.response.returned_rows", 3);
/// drop(span);
/// ```
///
/// The work is done *in* a span by [`run`](Self::run) for a future and [`in_scope`](Self::in_scope) for a closure:
/// then spans that are started meanwhile are its children. [`try_run`](Self::try_run) and
/// [`try_in_scope`](Self::try_in_scope) also record an `Err`.
///
/// # Data loss
/// A span takes at most 64 KiB, and as many attributes, events and links as the configuration allows; what is beyond
/// is counted in the span's own `dropped_*_count`. A span whose end finds no memory is dropped and counted in
/// [`Stats`](crate::Stats).
pub struct Span {
    life: Lived,
}

/// A span and the context of its work, both behind one pointer: see [`cell`].
enum Lived {
    Recorded(Own),
    /// One that is not recorded, and stands in this context.
    Inert(KeptContext),
}

/// A connection to a span of this or another trace that is not the parent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link<'a> {
    pub(crate) context: SpanContext,
    pub(crate) trace_state: &'a str,
    pub(crate) attributes: &'a [(Key<'a>, Value<'a>)],
}

impl Span {
    /// A span that is not recorded and stands in the given context.
    #[inline(always)]
    pub(crate) fn inert(context: Context) -> Self {
        debug_assert!(context.recording.is_none());
        Self { life: Lived::Inert(KeptContext::new(context)) }
    }

    /// A span that records nothing and stands for the given context as it is: for a middleware that leaves a request out,
    /// but passes the trace on to what is done meanwhile.
    ///
    /// ```
    /// use trace_core::{Context, Span};
    ///
    /// let here = Context::current();
    /// Span::unrecorded(here).enter(|| { /* spans that start here are children of whoever called */ });
    /// ```
    pub fn unrecorded(context: Context) -> Self {
        Self::inert(Context { recording: None, ..context })
    }

    /// A span that lives in this cell, and its work in this context, to which the span is added.
    #[inline(always)]
    fn recorded(cell: Box<SpanCell>, life: Life, context: Context) -> Self {
        Self { life: Lived::Recorded(Own::new(cell, life, context)) }
    }

    /// Sets an attribute. A key that is set already gets the new value.
    #[must_use = "a span ends when it is dropped"]
    #[inline(always)]
    pub fn attribute<'a>(mut self, key: impl Into<Key<'a>>, value: impl Into<Value<'a>>) -> Self {
        let (key, value) = (key.into(), value.into());
        if let Value::Format(_) = value {
            // Runs code of others, which may panic.
            self.set_attribute(key, value);
            return self;
        }
        // What would end the span in a panic refers to its place in memory, and would have it moved there and on for every
        // attribute; but all code that runs here is ours.
        let mut this = ManuallyDrop::new(self);
        this.set_attribute(key, value);
        ManuallyDrop::into_inner(this)
    }

    /// Sets an attribute. A key that is set already gets the new value.
    #[inline(always)]
    pub fn set_attribute<'a>(&mut self, key: impl Into<Key<'a>>, value: impl Into<Value<'a>>) {
        if let Some(mut attributes) = self.attributes() {
            attributes.set(key, value);
        }
    }

    /// The span's attributes, for several to be set, each for less than [`set_attribute`](Self::set_attribute) takes; `None`
    /// where the span is not recorded, so that nothing is looked up for nobody.
    ///
    /// ```
    /// use trace_core::semconv;
    ///
    /// let mut span = trace_core::span("GET /orders/{id}").start();
    /// if let Some(mut attributes) = span.attributes() {
    ///     attributes.set(semconv::HTTP_REQUEST_METHOD, "GET");
    ///     attributes.set(semconv::HTTP_ROUTE, "/orders/{id}");
    ///     attributes.set(semconv::HTTP_RESPONSE_STATUS_CODE, 200);
    /// }
    /// ```
    #[inline(always)]
    pub fn attributes(&mut self) -> Option<Attributes<'_>> {
        match &mut self.life {
            Lived::Recorded(own) => Some(own.owned().attributes()),
            Lived::Inert(_) => None,
        }
    }

    /// The text of an attribute, as far as it is recorded; `None` where the span is not, or the attribute is not set, or no text.
    ///
    /// It is looked for among what is recorded: for who has to correct what was set, and not for every request.
    ///
    /// ```
    /// use trace_core::semconv;
    ///
    /// let mut span = trace_core::span("shop.Stock/Count").attribute(semconv::RPC_METHOD, "shop.Stock/Count");
    /// // There is no such method.
    /// if let Some(method) = span.attribute_text(semconv::RPC_METHOD) {
    ///     span.set_attribute(semconv::RPC_METHOD_ORIGINAL, &method);
    ///     span.set_attribute(semconv::RPC_METHOD, "_OTHER");
    /// }
    /// ```
    pub fn attribute_text<'a>(&mut self, key: impl Into<Key<'a>>) -> Option<String> {
        let key = key.into();
        let mut found = None;
        self.record(|recorder, _| found = recorder.attribute_text(key.as_str()).map(str::to_owned));
        found
    }

    /// Links the span to another one, of this or another trace.
    #[must_use = "a span ends when it is dropped"]
    pub fn link(mut self, context: SpanContext) -> Self {
        self.add_link(context, &[]);
        self
    }

    /// Links the span to another one, of this or another trace.
    pub fn add_link(&mut self, context: SpanContext, attributes: &[(Key<'_>, Value<'_>)]) {
        if self.is_recording() {
            with_texts(attributes, |attributes| {
                self.record(|recorder, life| {
                    let link = Link { context, trace_state: "", attributes };
                    recorder.add_link(&life.pipeline.queue, &life.pipeline.limits, &link);
                });
            });
        }
    }

    /// Adds something that happened now.
    pub fn add_event(&mut self, name: &str, attributes: &[(Key<'_>, Value<'_>)]) {
        if self.is_recording() {
            with_texts(attributes, |attributes| {
                self.record(|recorder, life| life.add_event(recorder, name, attributes));
            });
        }
    }

    /// Gives the span another name.
    pub fn update_name<'a>(&mut self, name: impl Into<SpanName<'a>>) {
        let name = name.into();
        self.record(|recorder, life| recorder.set_name(&life.pipeline.queue, name));
    }

    /// Sets how the work went. `Ok` is final, `Unset` changes nothing.
    ///
    /// The conventions want every error to have a type: [`set_error`](Self::set_error) sets both.
    pub fn set_status(&mut self, status: StatusCode) {
        self.record(|recorder, life| recorder.set_status(&life.pipeline.queue, status, ""));
    }

    /// Says that the work failed, and of which class the failure is: the status becomes `Error`, and `error.type` is
    /// set; neither, where the status is `Ok`, which is final. A [description](Self::set_error_description) that is there stays.
    /// The class is a word of which there are few: an error code, the name of a type.
    pub fn set_error(&mut self, error_type: &str) {
        self.record(|recorder, life| life.set_error(recorder, error_type));
    }

    /// As [`set_error`](Self::set_error), unless somebody who knew better said how the work went: for a middleware, whose
    /// word is the last but not the best. Where somebody said that it failed, but not of which class the failure is, this is it.
    pub fn set_error_if_unset(&mut self, error_type: &str) {
        self.record(|recorder, life| {
            let is_classed = || recorder.attribute_text(semconv::ERROR_TYPE.as_str()).is_some();
            if recorder.status() != StatusCode::Error || !is_classed() {
                life.set_error(recorder, error_type);
            }
        });
    }

    /// Says that the work failed with this error. What is recorded is the name of its type, never its text, which may
    /// hold what should not leave; [`set_error_description`](Self::set_error_description) is for those who know that
    /// it does not.
    pub fn record_error<E: ?Sized>(&mut self, error: &E) {
        let _ = error;
        self.set_error(std::any::type_name::<E>());
    }

    /// Describes the failure for a person, in the status of the span, which becomes `Error`, unless it is `Ok`; the text leaves
    /// the process as it is. At most 1 KiB of it is kept.
    ///
    /// The conventions want every error to have a type: [`set_error`](Self::set_error) sets it, before or after.
    pub fn set_error_description(&mut self, description: &str) {
        self.record(|recorder, life| {
            recorder.set_status(&life.pipeline.queue, StatusCode::Error, description)
        });
    }

    /// Whether what is set here will be seen by anybody.
    #[inline]
    pub const fn is_recording(&self) -> bool {
        matches!(self.life, Lived::Recorded(_))
    }

    /// The context of the span's work: what is sent downstream, and what children are started in.
    #[inline]
    pub fn context(&self) -> &Context {
        match &self.life {
            Lived::Recorded(own) => own.context(),
            Lived::Inert(context) => context.get(),
        }
    }

    /// The span's ids; `None` where tracing is disabled and no caller sent any.
    #[inline]
    pub fn span_context(&self) -> Option<SpanContext> {
        self.context().span_context
    }

    /// Ends the span now.
    pub fn end(self) {}

    /// Ends the span at a time that was measured elsewhere. An end before the start becomes the start.
    pub fn end_at(self, time: SystemTime) {
        if let Lived::Recorded(own) = self.life {
            own.end(clock::unix_nanos(time));
        }
    }

    /// Runs a closure inside the span, which does not end by it.
    #[inline(always)]
    pub fn enter<R>(&mut self, f: impl FnOnce() -> R) -> R {
        enter(self.context(), f)
    }

    /// Runs a closure as the work of the span, which ends with it.
    pub fn in_scope<R>(mut self, f: impl FnOnce() -> R) -> R {
        self.enter(f)
    }

    /// As [`in_scope`](Self::in_scope); an `Err` is recorded by the name of its type.
    ///
    /// # Errors
    /// Those of the closure.
    pub fn try_in_scope<T, E>(mut self, f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let result = self.enter(f);
        if let Err(error) = &result {
            self.record_error(error);
        }
        result
    }

    /// Runs a future as the work of the span, which ends when the future is complete or dropped.
    ///
    /// # Cancel safety
    /// Dropping the returned future drops the given one inside the span, and ends the span with no status.
    pub fn run<F: Future>(self, future: F) -> Run<F> {
        Run { future: Some(future), span: Some(self) }
    }

    /// As [`run`](Self::run); an `Err` is recorded by the name of its type.
    ///
    /// # Errors
    /// Those of the future.
    pub fn try_run<T, E, F>(self, future: F) -> Run<impl Future<Output = Result<T, E>> + use<T, E, F>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.run(async move {
            let result = future.await;
            if let Err(error) = &result {
                Context::current().span().record_error(error);
            }
            result
        })
    }

    #[inline]
    fn record(&mut self, f: impl FnOnce(&mut Recorder, &Life)) {
        if let Lived::Recorded(own) = &mut self.life {
            own.owned().with_mut(f);
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Span")
            .field("span_context", &self.span_context())
            .field("recording", &self.is_recording())
            .finish()
    }
}

impl Life {
    pub(crate) fn add_event(&self, recorder: &mut Recorder, name: &str, attributes: &[(Key<'_>, Value<'_>)]) {
        let now = self.anchor.unix_nanos(self.anchor.ticks());
        recorder.add_event(&self.pipeline.queue, &self.pipeline.limits, now, name, attributes);
    }

    pub(crate) fn set_error(&self, recorder: &mut Recorder, error_type: &str) {
        let Self { pipeline, .. } = self;
        match recorder.status() {
            StatusCode::Ok => return,
            StatusCode::Unset => recorder.set_status(&pipeline.queue, StatusCode::Error, ""),
            // Its description stays, which setting it again would take away.
            StatusCode::Error => {}
        }
        recorder.set_attribute(&pipeline.queue, semconv::ERROR_TYPE, error_type.into());
    }
}

pin_project! {
    /// The future of [`Span::run`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are polled"]
    pub struct Run<F> {
        #[pin]
        future: Option<F>,
        // None when it is over.
        span: Option<Span>,
    }

    impl<F> PinnedDrop for Run<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(span) = this.span {
                span.enter(|| this.future.set(None));
            }
        }
    }
}

impl<F: Future> Future for Run<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let span = this.span.as_mut().expect("polled after completion");
        let output = task::ready!(span.enter(|| {
            let future = this.future.as_mut().as_pin_mut().expect("it is there as long as the span is");
            let poll = future.poll(cx);
            if poll.is_ready() {
                this.future.set(None);
            }
            poll
        }));
        // The span ends with its work, not when somebody drops this.
        *this.span = None;
        Poll::Ready(output)
    }
}

#[cfg(test)]
mod tests;
