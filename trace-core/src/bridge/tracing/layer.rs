//! The layer that turns `tracing` spans into spans.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use ::tracing::span::{Attributes, Id, Record};
use ::tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context as LayerContext;
use tracing_subscriber::registry::LookupSpan;

use crate::context::{Context, is_quiet, with_current};
use crate::{Key, Scope, Span, SpanContext, Tracer, Value};

use super::entered;
use super::fields::{Buffer, EventFields, Head, OTHER, SpanFields};

static SCOPE: Scope = Scope::new("tracing", env!("CARGO_PKG_VERSION"));

const LEVEL: Key<'static> = Key::new("level");
const TARGET: Key<'static> = Key::new("target");
const CODE_FILE_PATH: Key<'static> = Key::new("code.file.path");
const CODE_LINE_NUMBER: Key<'static> = Key::new("code.line.number");

/// A layer with the default settings: see [the module](super).
pub fn layer() -> TracingLayer {
    TracingLayer {
        tracer: None,
        location: true,
        target: true,
        level: false,
        error_text: false,
        error_events_fail_span: false,
    }
}

/// Turns the spans and events of `tracing` into spans and their events: see [the module](super).
///
/// It works with any subscriber that keeps its spans in a registry, and with a filter of its own:
///
/// ```
/// use tracing::level_filters::LevelFilter;
/// use tracing_subscriber::prelude::*;
///
/// let traces = trace_core::bridge::tracing::layer().with_filter(LevelFilter::INFO);
/// let subscriber = tracing_subscriber::registry().with(traces);
/// # drop(subscriber);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is part of a subscriber"]
pub struct TracingLayer {
    tracer: Option<Tracer>,
    location: bool,
    target: bool,
    level: bool,
    error_text: bool,
    error_events_fail_span: bool,
}

impl TracingLayer {
    /// Sends the spans through this tracer. Default: that of the context, else the global one.
    pub fn tracer(mut self, tracer: Tracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Whether `code.file.path` and `code.line.number` say where a span or event was made. Default: yes.
    pub fn location(mut self, is_wanted: bool) -> Self {
        self.location = is_wanted;
        self
    }

    /// Whether `target` is an attribute of spans. Default: yes. Events always have it.
    pub fn target(mut self, is_wanted: bool) -> Self {
        self.target = is_wanted;
        self
    }

    /// Whether `level` is an attribute of spans. Default: no. Events always have it.
    pub fn level(mut self, is_wanted: bool) -> Self {
        self.level = is_wanted;
        self
    }

    /// Whether the text of errors leaves the process, as `exception.message`. Default: no.
    pub fn error_text(mut self, is_wanted: bool) -> Self {
        self.error_text = is_wanted;
        self
    }

    /// Whether an event of the level `ERROR` sets the status of its span to error. Default: no.
    pub fn error_events_fail_span(mut self, is_wanted: bool) -> Self {
        self.error_events_fail_span = is_wanted;
        self
    }

    /// Sets where a span was made.
    fn set_origin(&self, span: &mut Span, metadata: &'static Metadata<'static>) {
        if self.target {
            span.set_attribute(TARGET, metadata.target());
        }
        if self.level {
            span.set_attribute(LEVEL, metadata.level().as_str());
        }
        if self.location {
            if let Some(file) = metadata.file() {
                span.set_attribute(CODE_FILE_PATH, file);
            }
            if let Some(line) = metadata.line() {
                span.set_attribute(CODE_LINE_NUMBER, line);
            }
        }
    }

    /// Adds an event to the span of a context. Nothing of the registry is locked here, and neither is the
    /// span while the fields are formatted.
    fn add_event(&self, context: &Context, event: &Event<'_>) {
        if !context.is_recording() {
            return;
        }
        let metadata = event.metadata();
        let mut buffer = Buffer::take();
        let mut fields = EventFields::new(buffer.text(), event.fields().count(), self.error_text);
        event.record(&mut fields);
        let parts = fields.parts();
        let mut attributes = parts.attributes;
        attributes.push((LEVEL, Value::Str(metadata.level().as_str())));
        attributes.push((TARGET, Value::Str(parts.target.unwrap_or(metadata.target()))));
        if self.location {
            if let Some(file) = parts.file.or(metadata.file()) {
                attributes.push((CODE_FILE_PATH, Value::Str(file)));
            }
            if let Some(line) = parts.line.or(metadata.line().map(i64::from)) {
                attributes.push((CODE_LINE_NUMBER, Value::I64(line)));
            }
        }
        let name = match (parts.message, parts.error_type) {
            (Some(message), _) => message,
            (None, Some(_)) => "exception",
            (None, None) => metadata.name(),
        };
        let span = context.span();
        span.add_event(name, &attributes);
        if self.error_events_fail_span && *metadata.level() == Level::ERROR {
            span.set_error(parts.error_type.unwrap_or(OTHER));
        }
    }
}

/// What the registry keeps for us with each span.
pub(super) struct Bridged {
    /// `None` once the span has ended.
    span: Option<Span>,
    span_context: SpanContext,
    /// When something happened in the span for the last time, in nanoseconds since the Unix epoch; 0 if it
    /// was never entered.
    last_active: AtomicU64,
    has_error_type: AtomicBool,
}

impl Bridged {
    /// The context of the span, as long as it lives.
    fn context(&self) -> Option<Context> {
        self.span.as_ref().map(|span| span.context().clone())
    }

    pub(super) const fn span_context(&self) -> SpanContext {
        self.span_context
    }

    fn is_active_now(&self) {
        let recording = self.span.as_ref().and_then(|span| span.context().recording.as_ref());
        if let Some(recording) = recording {
            let anchor = recording.life().anchor;
            self.last_active.fetch_max(anchor.unix_nanos(anchor.ticks()), Ordering::Relaxed);
        }
    }
}

impl<S> Layer<S> for TracingLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: LayerContext<'_, S>) {
        if is_silent() {
            return;
        }
        let Some(registered) = context.span(id) else { return };
        if registered.extensions().get::<Bridged>().is_some() {
            return;
        }
        let metadata = attributes.metadata();
        let mut head = Head::default();
        attributes.record(&mut head);
        let name = head.name.as_deref().unwrap_or(metadata.name());
        let builder = match self.tracer {
            Some(tracer) => tracer.span(name),
            None => crate::span(name),
        };
        let builder = builder.kind(head.kind).scope(&SCOPE);
        let mut span = match attributes.parent().map(|parent| context_of(parent, &context)) {
            Some(Some(parent)) => builder.parent(&parent).start(),
            None if attributes.is_root() => builder.root().start(),
            _ => builder.start(),
        };
        // Nothing of the registry is locked while code of the user runs.
        let mut has_error_type = false;
        if span.is_recording() {
            self.set_origin(&mut span, metadata);
            has_error_type = record(attributes, &mut span, self.error_text);
        }
        let Some(span_context) = span.span_context() else { return };
        registered.extensions_mut().insert(Bridged {
            span: Some(span),
            span_context,
            last_active: AtomicU64::new(0),
            has_error_type: AtomicBool::new(has_error_type),
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: LayerContext<'_, S>) {
        let Some(registered) = context.span(id) else { return };
        let Some((context, has_error_type)) = with_bridged(&registered, |bridged| {
            Some((bridged.context()?, bridged.has_error_type.load(Ordering::Relaxed)))
        }) else {
            return;
        };
        if !context.is_recording() {
            return;
        }
        let mut fields = SpanFields::new(context.span(), self.error_text, has_error_type);
        values.record(&mut fields);
        let has_error_type = fields.finish();
        with_bridged(&registered, |bridged| {
            bridged.has_error_type.store(has_error_type, Ordering::Relaxed);
            // Before it was ever entered its end is the time of its close.
            if bridged.last_active.load(Ordering::Relaxed) != 0 {
                bridged.is_active_now();
            }
            Some(())
        });
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, context: LayerContext<'_, S>) {
        let Some(followed) = context.span(follows) else { return };
        let Some(followed) = with_bridged(&followed, |bridged| Some(bridged.span_context)) else { return };
        let Some(registered) = context.span(id) else { return };
        if let Some(context) = with_bridged(&registered, Bridged::context) {
            context.span().add_link(followed, &[]);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: LayerContext<'_, S>) {
        if event.is_contextual() {
            self.add_event(&Context::current(), event);
        } else if let Some(parent) = event.parent().and_then(|parent| context_of(parent, &context)) {
            self.add_event(&parent, event);
        }
    }

    fn on_enter(&self, id: &Id, context: LayerContext<'_, S>) {
        let Some(registered) = context.span(id) else { return };
        if let Some(context) = with_bridged(&registered, Bridged::context) {
            entered::enter(id.into_u64(), context);
        }
    }

    fn on_exit(&self, id: &Id, context: LayerContext<'_, S>) {
        entered::exit(id.into_u64());
        let Some(registered) = context.span(id) else { return };
        with_bridged(&registered, |bridged| {
            bridged.is_active_now();
            Some(())
        });
    }

    fn on_close(&self, id: Id, context: LayerContext<'_, S>) {
        let Some(registered) = context.span(&id) else { return };
        // The ids stay, for what is logged about the close.
        let ended = registered
            .extensions_mut()
            .get_mut::<Bridged>()
            .and_then(|bridged| Some((bridged.span.take()?, *bridged.last_active.get_mut())));
        match ended {
            Some((span, 0)) => span.end(),
            Some((span, last_active)) => span.end_at(UNIX_EPOCH + Duration::from_nanos(last_active)),
            None => {}
        }
    }
}

/// Whether nothing is to be recorded here, whatever tracer the layer has: the thread works for an exporter, or the
/// current context names a tracer that is disabled. The libraries by which spans are sent make some themselves, and a
/// span made for each request that carries spans would never end.
fn is_silent() -> bool {
    is_quiet() || with_current(|current| current.tracer().is_some_and(|tracer| tracer.pipeline().is_none()))
}

/// The context of a span, or of the nearest of its ancestors that is not hidden from this layer.
fn context_of<S>(id: &Id, context: &LayerContext<'_, S>) -> Option<Context>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    context.span(id)?.scope().find_map(|span| with_bridged(&span, Bridged::context))
}

/// Looks at what is kept with a span. Nothing but our own code runs meanwhile.
pub(super) fn with_bridged<R, T>(
    span: &tracing_subscriber::registry::SpanRef<'_, R>,
    look: impl FnOnce(&Bridged) -> Option<T>,
) -> Option<T>
where
    R: for<'a> LookupSpan<'a>,
{
    look(span.extensions().get::<Bridged>()?)
}

fn record(attributes: &Attributes<'_>, span: &mut Span, error_text: bool) -> bool {
    let mut fields = SpanFields::new(span, error_text, false);
    attributes.record(&mut fields);
    fields.finish()
}
