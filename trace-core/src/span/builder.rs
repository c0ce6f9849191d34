//! The start of a span: where it belongs, whether it is recorded, and its ids.

use std::time::SystemTime;

use super::{Key, Life, Recording, Run, Scope, Span, SpanKind, Start, Value};
use crate::clock::{self, Anchor};
use crate::context::{Context, SpanContext, TraceFlags, with_current};
use crate::pipeline::{self, Tracer};
use crate::sampler::SamplingParameters;
use crate::telemetry::DropReason;
use crate::{SpanId, TraceId};

/// Begins a span below the current context; the global tracer ([`init`](crate::init)) serves where there is none.
///
/// ```
/// # async fn charge() {}
/// # async fn example() {
/// trace_core::span("charge the card").attribute("shop.order", 7).run(charge()).await;
/// # }
/// ```
pub fn span(name: &str) -> SpanBuilder<'_> {
    SpanBuilder::new(name, None)
}

/// A span that is not started yet, with what its sampler may see.
///
/// It is started by [`start`](Self::start), by its first attribute or link, or by running something in it.
#[derive(Clone, Copy, Debug)]
#[must_use = "a span is not started by its builder alone"]
pub struct SpanBuilder<'a> {
    name: &'a str,
    kind: SpanKind,
    scope: &'static Scope,
    parent: Parent<'a>,
    tracer: Option<Tracer>,
    start_time: Option<SystemTime>,
}

#[derive(Clone, Copy, Debug)]
enum Parent<'a> {
    Current,
    Given(&'a Context),
    None,
}

/// What a span takes over from the context it is started in. It is copied out, so that nothing of ours is borrowed
/// while a sampler runs.
struct Origin {
    /// The parent's context, but not what records it.
    context: Context,
    /// The clock of the trace, where the parent is recorded here.
    anchor: Option<Anchor>,
}

impl<'a> SpanBuilder<'a> {
    pub(crate) const fn new(name: &'a str, tracer: Option<Tracer>) -> Self {
        Self {
            name,
            kind: SpanKind::Internal,
            scope: Scope::UNNAMED,
            parent: Parent::Current,
            tracer,
            start_time: None,
        }
    }

    /// The role of the span. Default: [`SpanKind::Internal`].
    pub const fn kind(mut self, kind: SpanKind) -> Self {
        self.kind = kind;
        self
    }

    /// The code that makes the span. Default: none.
    pub const fn scope(mut self, scope: &'static Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The context that the span is started in, instead of the current one.
    pub const fn parent(mut self, parent: &'a Context) -> Self {
        self.parent = Parent::Given(parent);
        self
    }

    /// Makes the span the first of a new trace.
    pub const fn root(mut self) -> Self {
        self.parent = Parent::None;
        self
    }

    /// When the work began, if it was before now.
    pub const fn start_time(mut self, time: SystemTime) -> Self {
        self.start_time = Some(time);
        self
    }

    /// Starts the span, and sets an attribute.
    #[must_use = "a span ends when it is dropped"]
    #[inline]
    pub fn attribute<'v>(self, key: impl Into<Key<'v>>, value: impl Into<Value<'v>>) -> Span {
        self.start().attribute(key, value)
    }

    /// Starts the span, and links it to another one.
    #[must_use = "a span ends when it is dropped"]
    pub fn link(self, context: SpanContext) -> Span {
        self.start().link(context)
    }

    /// Starts the span and runs a closure in it: see [`Span::in_scope`].
    pub fn in_scope<R>(self, f: impl FnOnce() -> R) -> R {
        self.start().in_scope(f)
    }

    /// Starts the span and runs a closure in it: see [`Span::try_in_scope`].
    ///
    /// # Errors
    /// Those of the closure.
    pub fn try_in_scope<T, E>(self, f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.start().try_in_scope(f)
    }

    /// Starts the span and runs a future in it: see [`Span::run`].
    pub fn run<F: Future>(self, future: F) -> Run<F> {
        self.start().run(future)
    }

    /// Starts the span and runs a future in it: see [`Span::try_run`].
    ///
    /// # Errors
    /// Those of the future.
    pub fn try_run<T, E, F>(self, future: F) -> impl Future<Output = Result<T, E>> + use<T, E, F>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.start().try_run(future)
    }

    /// Starts the span.
    #[must_use = "a span ends when it is dropped"]
    pub fn start(self) -> Span {
        let mut origin = Origin { context: Context::new(), anchor: None };
        match self.parent {
            Parent::Current => with_current(|current| origin.take_over(current)),
            Parent::Given(parent) => origin.take_over(parent),
            Parent::None => origin.context.tracer = with_current(|current| current.tracer),
        }
        self.start_in(origin)
    }

    #[inline]
    fn start_in(self, origin: Origin) -> Span {
        let Origin { mut context, anchor } = origin;
        let parent = context.span_context;
        let tracer = self.tracer.or(context.tracer).unwrap_or_else(pipeline::global);
        let Some(pipeline) = tracer.pipeline() else {
            // Tracing is disabled: what came in goes out as it is.
            return Span::inert(context);
        };
        context.tracer = Some(tracer);
        if context.shed {
            return Span::inert(context);
        }
        let (trace_id, random) = match &parent {
            Some(parent) => (parent.trace_id(), parent.flags().is_random()),
            None => (TraceId::random(), true),
        };
        let local_root = parent.is_none_or(|parent| parent.is_remote());
        let parameters = SamplingParameters::new(parent, trace_id, self.name, self.kind);
        let sampled = pipeline.sampler.should_sample(&parameters).is_sampled();

        if !pipeline.records {
            let flags = if random { TraceFlags::RANDOM } else { TraceFlags::default() };
            let flags = flags.with_sampled(sampled);
            context.span_context = Some(SpanContext::new(trace_id, SpanId::random(), flags, false));
            return Span::inert(context);
        }
        let shed = sampled && local_root && pipeline.queue.is_under_pressure();
        let cell = if sampled && !shed { pipeline.queue.start() } else { None };
        if sampled && cell.is_none() {
            // Memory is short. A trace is left out whole if it has not begun here; else its span is lost alone.
            if !local_root {
                pipeline.queue.drop_unstarted(DropReason::LiveLimit);
                return Span::inert(context);
            }
            pipeline.queue.count_shed();
            context.shed = true;
            if parent.is_some() {
                // The caller's header goes on unchanged.
                return Span::inert(context);
            }
        }

        let flags = if random { TraceFlags::RANDOM } else { TraceFlags::default() };
        let flags = flags.with_sampled(cell.is_some());
        let span_context = SpanContext::new(trace_id, SpanId::random(), flags, false);
        context.span_context = Some(span_context);
        let Some(mut cell) = cell else {
            if !context.shed {
                pipeline.queue.count_sampled_out();
            }
            return Span::inert(context);
        };

        let anchor = anchor.unwrap_or_else(|| pipeline.clock.anchor());
        let unix_nanos = match self.start_time {
            Some(time) => clock::unix_nanos(time),
            None => anchor.unix_nanos(anchor.ticks()),
        };
        let start = Start {
            context: &span_context,
            parent: parent.as_ref(),
            trace_state: context.trace_state().as_str(),
            name: self.name,
            kind: self.kind,
            unix_nanos,
        };
        cell.recorder().start(&pipeline.queue, &pipeline.limits, &start);
        let life = Life { pipeline, anchor, scope: self.scope, local_root };
        context.recording = Some(Recording::new(cell, life));
        Span::recorded(context)
    }
}

impl Origin {
    #[inline]
    fn take_over(&mut self, parent: &Context) {
        self.context.span_context = parent.span_context;
        self.context.tracer = parent.tracer;
        self.context.carried.clone_from(&parent.carried);
        self.context.shed = parent.shed;
        self.anchor = parent.recording.as_ref().map(|recording| recording.life().anchor);
    }
}
