//! A span as data: what a span was, once it has been encoded and read again.
//!
//! A live span is never one of these; it is bytes from the start. Everything that is not the hot path reads these: the
//! console exporter, the tests' collector, and what users write on top of either.
//! The fields are those of OTLP's `Span` (`opentelemetry/proto/trace/v1/trace.proto`).

use std::sync::Arc;
use std::time::Duration;

use super::OwnedValue;
use crate::span::{SpanKind, StatusCode};
use crate::{SpanId, TraceId};

/// A finished span, with the resource and the scope that it came under.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanData {
    /// The trace that the span belongs to.
    pub trace_id: TraceId,
    /// The span's own id.
    pub span_id: SpanId,
    /// The span that caused this one; none for the root of a trace.
    pub parent_span_id: Option<SpanId>,
    /// The `tracestate` that the span was made under.
    pub trace_state: String,
    /// The flags as OTLP has them: the trace flags in the lowest byte, then whether it is known if the parent was
    /// remote (`0x100`), and whether it was (`0x200`).
    pub flags: u32,
    /// What the span is called.
    pub name: String,
    /// The span's part in a conversation.
    pub kind: SpanKind,
    /// When the span started, in nanoseconds since 1970-01-01 00:00 UTC.
    pub start_unix_nano: u64,
    /// When the span ended, in nanoseconds since 1970-01-01 00:00 UTC.
    pub end_unix_nano: u64,
    /// The attributes in the order in which they were sent.
    pub attributes: Vec<(String, OwnedValue)>,
    /// How many attributes were left out because of a limit.
    pub dropped_attributes_count: u32,
    /// The events in the order in which they were sent.
    pub events: Vec<EventData>,
    /// How many events were left out because of a limit.
    pub dropped_events_count: u32,
    /// The links in the order in which they were sent.
    pub links: Vec<LinkData>,
    /// How many links were left out because of a limit.
    pub dropped_links_count: u32,
    /// How the span ended.
    pub status: StatusCode,
    /// What was said about the status; empty for nothing.
    pub status_message: String,
    /// The name of the instrumentation that made the span; empty when unknown.
    pub scope_name: String,
    /// The version of that instrumentation; empty when unknown.
    pub scope_version: String,
    /// The attributes of the process that sent the span, shared by all spans that came under it.
    pub resource: Arc<Vec<(String, OwnedValue)>>,
}

/// Something that happened at one moment of a span.
#[derive(Clone, Debug, PartialEq)]
pub struct EventData {
    /// When it happened, in nanoseconds since 1970-01-01 00:00 UTC.
    pub unix_nano: u64,
    /// What the event is called.
    pub name: String,
    /// The attributes in the order in which they were sent.
    pub attributes: Vec<(String, OwnedValue)>,
    /// How many attributes were left out because of a limit.
    pub dropped_attributes_count: u32,
}

/// A span elsewhere, in this trace or another one, that a span refers to.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkData {
    /// The trace of the span that is referred to.
    pub trace_id: TraceId,
    /// The span that is referred to.
    pub span_id: SpanId,
    /// The `tracestate` of the span that is referred to.
    pub trace_state: String,
    /// The attributes in the order in which they were sent.
    pub attributes: Vec<(String, OwnedValue)>,
    /// How many attributes were left out because of a limit.
    pub dropped_attributes_count: u32,
    /// As [`SpanData::flags`], of the span that is referred to.
    pub flags: u32,
}

impl SpanData {
    /// The value of an attribute of the span.
    pub fn attribute(&self, key: &str) -> Option<&OwnedValue> {
        find(&self.attributes, key)
    }

    /// The value of an attribute of the process that sent the span.
    pub fn resource_attribute(&self, key: &str) -> Option<&OwnedValue> {
        find(&self.resource, key)
    }

    /// The name of the service that sent the span (`service.name`); `unknown_service` when it has none.
    pub fn service_name(&self) -> &str {
        self.resource_attribute("service.name").and_then(OwnedValue::as_str).unwrap_or("unknown_service")
    }

    /// How long the span took; zero when it claims to have ended before it started.
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.end_unix_nano.saturating_sub(self.start_unix_nano))
    }

    /// Whether the span ended in an error.
    pub fn is_error(&self) -> bool {
        self.status == StatusCode::Error
    }
}

fn find<'a>(attributes: &'a [(String, OwnedValue)], key: &str) -> Option<&'a OwnedValue> {
    attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value)
}
