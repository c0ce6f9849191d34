//! Log lines that say which trace they belong to.

use std::fmt;

use ::tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::SpanContext;
use crate::context::Context;

use super::fields::Buffer;
use super::layer::with_bridged;

/// A format of log lines that adds the ids of the span in which a line is written.
///
/// The names are those of [Trace Context in non-OTLP Log
/// Formats](https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/): `trace_id`,
/// `span_id` and `trace_flags`. The span is the one of the current [`Context`], be it of `tracing` or of this
/// crate. Lines outside of any span stay as they are.
///
/// ```
/// use trace_core::bridge::tracing::WithTraceIds;
/// use tracing_subscriber::fmt;
///
/// // 2026-11-20T10:00:00Z  INFO shop: paid order=7 trace_id=4bf9... span_id=00f0... trace_flags=01
/// let text = fmt::layer().map_event_format(WithTraceIds::text);
///
/// // {"timestamp":"...","level":"INFO","fields":{...},"trace_id":"4bf9...","span_id":"00f0...","trace_flags":"01"}
/// let json = fmt::layer().json().map_event_format(WithTraceIds::json);
/// # use tracing_subscriber::prelude::*;
/// # drop(tracing_subscriber::registry().with(text).with(json));
/// ```
#[derive(Clone, Debug)]
pub struct WithTraceIds<F> {
    format: F,
    /// The same format in colours, which a format inside another one has to be asked for.
    in_colour: Option<F>,
    style: Style,
}

#[derive(Clone, Copy, Debug)]
enum Style {
    Text,
    Json,
}

impl<L: Clone, T: Clone> WithTraceIds<Format<L, T>> {
    /// Adds `trace_id=… span_id=… trace_flags=…` to the end of each line of text.
    pub fn text(format: Format<L, T>) -> Self {
        Self { format: format.clone(), in_colour: Some(format.with_ansi(true)), style: Style::Text }
    }
}

impl<F> WithTraceIds<F> {
    /// As [`text`](Self::text), for a format that is not one of `tracing-subscriber`'s own. Its lines are not
    /// coloured.
    pub const fn custom_text(format: F) -> Self {
        Self { format, in_colour: None, style: Style::Text }
    }

    /// Adds `trace_id`, `span_id` and `trace_flags` to the JSON object of each line. A line that is no object
    /// stays as it is.
    pub const fn json(format: F) -> Self {
        Self { format, in_colour: None, style: Style::Json }
    }
}

impl<S, N, F> FormatEvent<S, N> for WithTraceIds<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(span) = span_context(context, event) else {
            return self.format.format_event(context, writer, event);
        };
        let in_colour = self.in_colour.as_ref().filter(|_| writer.has_ansi_escapes());
        let format = in_colour.unwrap_or(&self.format);
        let mut buffer = Buffer::take();
        format.format_event(context, Writer::new(buffer.text()), event)?;

        // The ids go before the line's end: a line break, or two after a format of several lines.
        let line = buffer.text().as_str();
        let body = line.trim_end();
        let end = &line[body.len()..];
        let (trace_id, span_id, flags) =
            (span.trace_id().to_hex(), span.span_id().to_hex(), span.flags().as_u8());
        match self.style {
            Style::Text => {
                let (dim, plain) = if in_colour.is_some() { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
                write!(
                    writer,
                    "{body} {dim}trace_id={trace_id} span_id={span_id} trace_flags={flags:02x}{plain}{end}"
                )
            }
            Style::Json => {
                let Some(members) = body.strip_suffix('}') else { return writer.write_str(line) };
                let comma = if members.trim_end().ends_with('{') { "" } else { "," };
                write!(
                    writer,
                    r#"{members}{comma}"trace_id":"{trace_id}","span_id":"{span_id}","trace_flags":"{flags:02x}"}}{end}"#
                )
            }
        }
    }
}

/// The ids of the span in which an event is logged: for log formats of your own.
///
/// That is the span of the current [`Context`], or of the event's explicit parent; `None` outside of any
/// span.
pub fn span_context<S, N>(context: &FmtContext<'_, S, N>, event: &Event<'_>) -> Option<SpanContext>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    if event.is_contextual() {
        return Context::current().span_context();
    }
    let parent = context.span(event.parent()?)?;
    parent.scope().find_map(|span| with_bridged(&span, |bridged| Some(bridged.span_context())))
}
