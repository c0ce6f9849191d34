//! What travels: the place in a trace where work is done, and what was sent along with it.
//!
//! A [`Context`] is a value. One is *current* on each thread; a future, stream or body sets its own while it is polled
//! and while it is dropped. What is current is pointed to, so that making it so neither counts, copies nor allocates.

mod baggage;
mod current;
mod future;
pub(crate) mod grammar;
mod kept;
mod plain;
mod span_context;
mod task;
mod text;
mod trace_state;

use std::fmt;
use std::sync::Arc;

pub(crate) use baggage::BaggageParser;
pub use baggage::{Baggage, BaggageError, BaggageMember};
#[cfg(feature = "tracing")]
pub(crate) use current::Attached;
pub use current::ContextGuard;
pub(crate) use current::{be_quiet, enter, is_quiet, with_current};
pub use future::{FutureExt, InContext};
pub(crate) use kept::KeptContext;
pub use span_context::{SpanContext, TraceFlags};
pub use task::{carry, spawn, spawn_blocking, spawn_thread};
pub(crate) use text::Text;
pub(crate) use trace_state::TraceStateParser;
pub use trace_state::{TraceState, TraceStateError};

use crate::pipeline::Tracer;
use crate::span::{Recording, SpanRef};

/// A place in a trace, with the baggage that travels along.
///
/// A context is immutable and cheap to clone. It knows the tracer that made it, so that work below it goes through the
/// same pipeline.
///
/// ```
/// use trace_core::Context;
///
/// let span = trace_core::span("handle").start();
/// let context = span.context().clone();
/// std::thread::spawn(move || {
///     context.in_scope(|| {
///         // A child of `handle`, on another thread.
///         trace_core::span("crunch").in_scope(|| { /* ... */ });
///     });
/// });
/// ```
#[derive(Clone, Default)]
pub struct Context {
    pub(crate) span_context: Option<SpanContext>,
    pub(crate) tracer: Option<Tracer>,
    pub(crate) carried: Option<Arc<Carried>>,
    pub(crate) recording: Option<Recording>,
    /// Whether this trace, as far as it runs in this process, is left out because memory was short.
    pub(crate) shed: bool,
}

/// What travels beside the ids; most requests have neither.
#[derive(Clone, Default)]
pub(crate) struct Carried {
    pub(crate) trace_state: TraceState,
    pub(crate) baggage: Baggage,
}

impl Context {
    /// A context of no trace.
    pub const fn new() -> Self {
        Self { span_context: None, tracer: None, carried: None, recording: None, shed: false }
    }

    /// The context of this thread: that of the future being polled, or of the scope being run.
    pub fn current() -> Self {
        with_current(Self::clone)
    }

    /// The ids of the span that the current context stands in: those of [`current`](Self::current), without a clone.
    #[inline]
    pub fn current_span_context() -> Option<SpanContext> {
        with_current(|current| current.span_context)
    }

    /// The context that a caller sent: what a [`Propagator`](crate::Propagator) found.
    ///
    /// A span started in it is the first of its trace in this process.
    pub fn from_remote(span_context: SpanContext, trace_state: TraceState, baggage: Baggage) -> Self {
        Self { span_context: Some(span_context), ..Self::new() }
            .with_carried(Carried { trace_state, baggage })
    }

    /// The ids of the span that this context stands in.
    pub const fn span_context(&self) -> Option<SpanContext> {
        self.span_context
    }

    /// What the systems that took part in the trace so far say to each other.
    pub fn trace_state(&self) -> &TraceState {
        static NONE: TraceState = TraceState::empty();
        self.carried.as_ref().map_or(&NONE, |carried| &carried.trace_state)
    }

    /// What the services of the trace say to each other.
    pub fn baggage(&self) -> &Baggage {
        static NONE: Baggage = Baggage::new();
        self.carried.as_ref().map_or(&NONE, |carried| &carried.baggage)
    }

    /// The same place, with this baggage instead of its own.
    #[must_use]
    pub fn with_baggage(self, baggage: Baggage) -> Self {
        let trace_state = self.trace_state().clone();
        self.with_carried(Carried { trace_state, baggage })
    }

    /// The same place, with this tracestate instead of its own.
    #[must_use]
    pub fn with_trace_state(self, trace_state: TraceState) -> Self {
        let baggage = self.baggage().clone();
        self.with_carried(Carried { trace_state, baggage })
    }

    /// The same place, for spans of this tracer.
    #[must_use]
    pub const fn with_tracer(mut self, tracer: Tracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    pub(crate) fn with_carried(mut self, carried: Carried) -> Self {
        let empty = carried.trace_state.is_empty() && carried.baggage.is_empty();
        self.carried = (!empty).then(|| Arc::new(carried));
        self
    }

    /// Whether work done here shows up in a recorded span.
    pub const fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// The tracer whose spans this context holds.
    pub const fn tracer(&self) -> Option<Tracer> {
        self.tracer
    }

    /// The span that this context stands in, to write to.
    ///
    /// ```
    /// # use trace_core::Context;
    /// Context::current().span().set_attribute("shop.order", 7);
    /// ```
    pub const fn span(&self) -> SpanRef<'_> {
        SpanRef::new(self.recording.as_ref())
    }

    /// Makes this the thread's context until the guard is dropped.
    ///
    /// Guards are dropped in the reverse order of their making, as scopes nest. One that is dropped while another context is
    /// current leaves that one so, and its own is passed over from then on; it takes memory, and so does its span, for as long
    /// as anything is current on the thread. Never hold one across an `.await`: a future that moves to another
    /// thread would leave its context behind, and the compiler prevents it where futures must be `Send`. Use
    /// [`FutureExt::in_context`] there.
    #[must_use = "the context is current until the guard is dropped"]
    pub fn attach(self) -> ContextGuard {
        ContextGuard::new(self)
    }

    /// Runs a closure with this as the thread's context.
    pub fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        enter(self, f)
    }
}

/// Without what others sent along: what is shown may end up in a span, as the arguments of a function do by
/// `tracing::instrument`.
impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("span_context", &self.span_context)
            .field("trace_state_members", &self.trace_state().iter().count())
            .field("baggage_members", &self.baggage().len())
            .field("recording", &self.is_recording())
            .finish()
    }
}

#[cfg(test)]
mod tests;
