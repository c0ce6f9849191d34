//! The start of a span: where it belongs, whether it is recorded, and its ids.

use std::time::SystemTime;

use super::{Key, Life, Run, Scope, Span, SpanKind, SpanName, Start, StartBelow, Value};
use crate::clock;
use crate::context::{Context, SpanContext, TraceFlags, is_quiet, with_current};
use crate::hint::cold_path;
use crate::id::{self, SpanId};
use crate::pipeline::{self, Pipeline, Tracer};
use crate::sampler::{ParentKind, SamplingParameters};
use crate::telemetry::{DropReason, ParentOrigin};

/// Begins a span below the current context; the global tracer ([`init`](crate::init)) serves where there is none.
///
/// ```
/// # async fn charge() {}
/// # async fn example() {
/// trace_core::span("charge the card").attribute("shop.order", 7).run(charge()).await;
/// # }
/// ```
pub fn span<'a>(name: impl Into<SpanName<'a>>) -> SpanBuilder<'a> {
    SpanBuilder::new(name.into(), None)
}

/// A span that is not started yet, with what its sampler may see.
///
/// It is started by [`start`](Self::start), by its first attribute or link, or by running something in it.
#[derive(Clone, Copy, Debug)]
#[must_use = "a span is not started by its builder alone"]
pub struct SpanBuilder<'a> {
    name: SpanName<'a>,
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

/// Where a span starts.
#[derive(Clone, Copy)]
struct Origin<'a> {
    /// What it starts below.
    context: &'a Context,
    /// Whose context that is, or the current one.
    tracer: Option<Tracer>,
}

impl<'a> SpanBuilder<'a> {
    pub(crate) const fn new(name: SpanName<'a>, tracer: Option<Tracer>) -> Self {
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
    #[inline(always)]
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
    ///
    /// The span starts with this call, below the context that is current then, and not with the future's first poll. What
    /// is to be a child of a span is therefore begun inside its future:
    ///
    /// ```
    /// # async fn print_label() {}
    /// # async fn example() {
    /// // Not `.run(trace_core::span("print label").run(print_label()))`: an argument comes first, and would be a sibling.
    /// trace_core::span("ship").run(async { trace_core::span("print label").run(print_label()).await }).await;
    /// # }
    /// ```
    pub fn run<F: Future>(self, future: F) -> Run<F> {
        self.start().run(future)
    }

    /// Starts the span and runs a future in it: see [`Span::try_run`]. It starts with this call, as by [`run`](Self::run).
    ///
    /// # Errors
    /// Those of the future.
    pub fn try_run<T, E, F>(self, future: F) -> Run<impl Future<Output = Result<T, E>> + use<T, E, F>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.start().try_run(future)
    }

    /// Starts the span.
    #[must_use = "a span ends when it is dropped"]
    pub fn start(self) -> Span {
        // What is current is looked at where it lies, for as long as no code of others runs.
        with_current(|current| self.start_at(self.origin(current), Others::Wait))
            .unwrap_or_else(|| self.start_apart())
    }

    /// Starts the span where its sampler has to be asked, or memory for it, by which others may make something else current, or drop
    /// what was.
    #[cold]
    fn start_apart(&self) -> Span {
        let (context, tracer) = with_current(|current| {
            let Origin { context, tracer } = self.origin(current);
            (context.clone(), tracer)
        });
        let origin = Origin { context: &context, tracer };
        // There is always one, where others may run.
        self.start_at(origin, Others::MayRun).unwrap_or_else(|| origin.unchanged(tracer, context.shed))
    }

    #[inline(always)]
    fn origin<'b>(&self, current: &'b Context) -> Origin<'b>
    where
        'a: 'b,
    {
        static NONE: Context = Context::new();
        match self.parent {
            Parent::Current => Origin { context: current, tracer: current.tracer },
            Parent::Given(parent) => Origin { context: parent, tracer: parent.tracer },
            Parent::None => Origin { context: &NONE, tracer: current.tracer },
        }
    }

    /// `None` where code of others has to run that is to wait. What is allocated anyway, for a long name or for a context by itself,
    /// is so when all that there is to know of the origin is known.
    #[inline(always)]
    fn start_at(&self, origin: Origin<'_>, others: Others) -> Option<Span> {
        let below = origin.context;
        let tracer = self.tracer.or(origin.tracer).unwrap_or_else(pipeline::global);
        let Some(pipeline) = tracer.pipeline() else {
            cold_path();
            // Tracing is disabled: what came in goes out as it is.
            return Some(origin.unchanged(origin.tracer, below.shed));
        };
        if is_quiet() {
            cold_path();
            return Some(origin.unchanged(origin.tracer, below.shed));
        }
        // What another pipeline left out, or began, has not begun in this one.
        let comes_from_another = origin.tracer.is_some_and(|before| !before.is(tracer));
        if below.shed && !comes_from_another {
            cold_path();
            return Some(origin.unchanged(Some(tracer), true));
        }
        let parent = below.span_context.as_ref();
        let settled = pipeline.settled.decision(ParentKind::of(parent));
        if settled.is_none() && others == Others::Wait {
            cold_path();
            return None;
        }
        let (trace_id, span_id, random) = match parent {
            Some(parent) => (parent.trace_id(), SpanId::random(), parent.flags().is_random()),
            None => {
                let (trace_id, span_id) = id::random_ids();
                (trace_id, span_id, true)
            }
        };
        let decision = settled.unwrap_or_else(|| {
            let parameters = SamplingParameters::new(parent.copied(), trace_id, self.name, self.kind);
            pipeline.sampler.should_sample(&parameters)
        });
        let flags = if random { TraceFlags::RANDOM } else { TraceFlags::NONE };
        let sampled = decision.is_sampled();
        let span_context = SpanContext::new(trace_id, span_id, flags.with_sampled(sampled), false);
        if !(sampled && pipeline.records) {
            cold_path();
            if pipeline.records {
                pipeline.queue.count_sampled_out(ParentOrigin::of(parent));
            }
            return Some(Span::inert(origin.context_of(tracer, span_context)));
        }

        let local_root = comes_from_another || parent.is_none_or(SpanContext::is_remote);
        let shed = local_root && pipeline.queue.is_under_pressure();
        let parent_origin = ParentOrigin::of(parent);
        let cell = match others {
            _ if shed => None,
            Others::Wait => Some(pipeline.queue.start_pooled(parent_origin)?),
            Others::MayRun => pipeline.queue.start(parent_origin),
        };
        let Some(mut cell) = cell else {
            cold_path();
            return Some(origin.without_memory(tracer, pipeline, local_root, span_context));
        };
        // The clock of the trace, where the parent is recorded here.
        let anchor = match &below.recording {
            Some(recording) => recording.life().anchor,
            None => pipeline.clock.anchor(),
        };
        let unix_nanos = match self.start_time {
            Some(time) => {
                cold_path();
                clock::unix_nanos(time)
            }
            None => anchor.unix_nanos(anchor.ticks()),
        };
        let parent =
            parent.map(|parent| StartBelow { span_id: parent.span_id(), is_remote: parent.is_remote() });
        let carried = below.carried.as_ref().map(|carried| {
            cold_path();
            carried.clone()
        });
        // From here on the origin is looked at no more.
        let start = Start {
            context: &span_context,
            parent,
            trace_state: carried.as_deref().map_or("", |carried| carried.trace_state.as_str()),
            name: self.name,
            kind: self.kind,
            unix_nanos,
        };
        cell.recorder().start(&pipeline.queue, &pipeline.limits, &start);
        let life = Life { pipeline, anchor, scope: self.scope, local_root };
        let (span_context, tracer) = (Some(span_context), Some(tracer));
        let context = Context { span_context, tracer, carried, recording: None, shed: false };
        Some(Span::recorded(cell, life, context))
    }
}

/// Whether code of others may run while a span is started: that of a sampler, or of an allocator.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    MayRun,
    Wait,
}

impl Origin<'_> {
    /// The context of a span that was started here.
    #[inline(always)]
    fn context_of(self, tracer: Tracer, span_context: SpanContext) -> Context {
        Context {
            span_context: Some(span_context),
            tracer: Some(tracer),
            carried: self.context.carried.clone(),
            recording: None,
            shed: false,
        }
    }

    /// A span that is none: work below it is done as if it were done here.
    fn unchanged(self, tracer: Option<Tracer>, shed: bool) -> Span {
        let Context { span_context, carried, .. } = self.context;
        let (span_context, carried) = (*span_context, carried.clone());
        Span::inert(Context { span_context, tracer, carried, recording: None, shed })
    }

    /// The span that there is no memory for. A trace is left out whole if it has not begun here; else its span is lost
    /// alone.
    #[cold]
    fn without_memory(
        self,
        tracer: Tracer,
        pipeline: &Pipeline,
        local_root: bool,
        span_context: SpanContext,
    ) -> Span {
        if !local_root {
            pipeline.queue.drop_unstarted(DropReason::LiveLimit);
            return self.unchanged(Some(tracer), false);
        }
        pipeline.queue.count_shed(ParentOrigin::of(self.context.span_context.as_ref()));
        if self.context.span_context.is_some() {
            // The caller's header goes on unchanged.
            return self.unchanged(Some(tracer), true);
        }
        let flags = span_context.flags().with_sampled(false);
        let not_sampled = SpanContext::new(span_context.trace_id(), span_context.span_id(), flags, false);
        Span::inert(Context { shed: true, ..self.context_of(tracer, not_sampled) })
    }
}
