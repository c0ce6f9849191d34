//! From OTLP bytes back to typed spans, for everything that is not the hot path.
//!
//! The bytes may come from anywhere: nothing in them makes this panic, recurse deeply or take much more memory than
//! [`DECODED_BYTES_MAX`]. A request is taken or refused as a whole; fields that are not known are skipped, as
//! protobuf asks for.

use std::sync::Arc;

use super::reader::{DecodeError, Payload, Reader};
use super::{EventData, LinkData, OwnedValue, SpanData};
use crate::span::{SpanKind, StatusCode};
use crate::{SpanId, TraceId};

/// The most memory that a decoded request may take, in bytes. An attribute of two bytes decodes to 56, so that without
/// a bound a request of 64 MiB could take 2 GiB.
const DECODED_BYTES_MAX: usize = 128 << 20;

/// How deep arrays and maps may lie in each other. Our own encoder stops at 16; prost, which most receivers use, at
/// about 33 (100 messages, three for each map).
const DEPTH_MAX: usize = 32;

/// The spans of an `ExportTraceServiceRequest`, in their order.
///
/// # Errors
/// The bytes are not such a request, or a span in it has no valid ids, or it is too large.
pub fn decode_request(request: &[u8]) -> Result<Vec<SpanData>, DecodeError> {
    let mut budget = Budget(DECODED_BYTES_MAX);
    let mut spans = Vec::new();
    let mut fields = Reader::new(request);
    while let Some((number, payload)) = fields.next()? {
        if number == 1 {
            resource_spans(
                payload.message("ExportTraceServiceRequest.resource_spans")?,
                &mut spans,
                &mut budget,
            )?;
        }
    }
    Ok(spans)
}

/// One `Span`, with the scope and the resource that it stands under.
///
/// # Errors
/// The bytes are not a span, or it has no valid ids, or it is too large.
pub(crate) fn decode_span(
    span: &[u8],
    scope: Scope<'_>,
    resource: &Arc<Attributes>,
) -> Result<SpanData, DecodeError> {
    one_span(Reader::new(span), scope, resource, &mut Budget(DECODED_BYTES_MAX))
}

/// The trace that an encoded span belongs to.
pub(crate) fn trace_id_of(span: &[u8]) -> Option<TraceId> {
    let mut fields = Reader::new(span);
    while let Some((number, payload)) = fields.next().ok()? {
        if number == 1 {
            return trace_id(payload, "Span.trace_id").ok();
        }
    }
    None
}

/// Who made a span: name and version.
#[derive(Clone, Copy, Default)]
pub(crate) struct Scope<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
}

type Attributes = Vec<(String, OwnedValue)>;

/// The memory that may still be taken, in bytes.
struct Budget(usize);

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.0 = self.0.checked_sub(bytes).ok_or(DecodeError::TooLarge)?;
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<String, DecodeError> {
        self.take(text.len())?;
        Ok(text.to_owned())
    }

    fn push<T>(&mut self, list: &mut Vec<T>, element: T) -> Result<(), DecodeError> {
        self.take(size_of::<T>())?;
        list.push(element);
        Ok(())
    }
}

/// The resource may come after the spans that stand under it, so it is looked for first.
fn resource_spans(
    fields: Reader<'_>,
    spans: &mut Vec<SpanData>,
    budget: &mut Budget,
) -> Result<(), DecodeError> {
    let mut resource = Attributes::new();
    let mut first = fields;
    while let Some((number, payload)) = first.next()? {
        if number == 1 {
            let mut fields = payload.message("ResourceSpans.resource")?;
            while let Some((number, payload)) = fields.next()? {
                if number == 1 {
                    attribute(payload, "Resource.attributes", &mut resource, budget)?;
                }
            }
        }
    }
    let resource = Arc::new(resource);
    let mut second = fields;
    while let Some((number, payload)) = second.next()? {
        if number == 2 {
            scope_spans(payload.message("ResourceSpans.scope_spans")?, &resource, spans, budget)?;
        }
    }
    Ok(())
}

fn scope_spans(
    fields: Reader<'_>,
    resource: &Arc<Attributes>,
    spans: &mut Vec<SpanData>,
    budget: &mut Budget,
) -> Result<(), DecodeError> {
    let mut scope = Scope::default();
    let mut first = fields;
    while let Some((number, payload)) = first.next()? {
        if number == 1 {
            let mut fields = payload.message("ScopeSpans.scope")?;
            while let Some((number, payload)) = fields.next()? {
                match number {
                    1 => scope.name = payload.text("InstrumentationScope.name")?,
                    2 => scope.version = payload.text("InstrumentationScope.version")?,
                    _ => {}
                }
            }
        }
    }
    let mut second = fields;
    while let Some((number, payload)) = second.next()? {
        if number == 2 {
            let span = one_span(payload.message("ScopeSpans.spans")?, scope, resource, budget)?;
            budget.push(spans, span)?;
        }
    }
    Ok(())
}

fn one_span(
    mut fields: Reader<'_>,
    scope: Scope<'_>,
    resource: &Arc<Attributes>,
    budget: &mut Budget,
) -> Result<SpanData, DecodeError> {
    let (mut trace_id, mut span_id, mut parent_span_id) = (None, None, None);
    let mut trace_state = "";
    let mut flags = 0;
    let mut name = "";
    let mut kind = SpanKind::Internal;
    let (mut start_unix_nano, mut end_unix_nano) = (0, 0);
    let (mut attributes, mut events, mut links) = (Vec::new(), Vec::new(), Vec::new());
    let (mut dropped_attributes_count, mut dropped_events_count, mut dropped_links_count) = (0, 0, 0);
    let (mut status, mut status_message) = (StatusCode::Unset, "");
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => trace_id = Some(self::trace_id(payload, "Span.trace_id")?),
            2 => span_id = Some(self::span_id(payload, "Span.span_id")?),
            3 => trace_state = payload.text("Span.trace_state")?,
            4 => {
                let absent = payload.bytes("Span.parent_span_id")?.is_empty();
                parent_span_id =
                    if absent { None } else { Some(self::span_id(payload, "Span.parent_span_id")?) };
            }
            5 => name = payload.text("Span.name")?,
            6 => {
                kind = match payload.varint32("Span.kind")? {
                    2 => SpanKind::Server,
                    3 => SpanKind::Client,
                    4 => SpanKind::Producer,
                    5 => SpanKind::Consumer,
                    // "Implementations MAY assume SpanKind to be INTERNAL when receiving UNSPECIFIED."
                    _ => SpanKind::Internal,
                }
            }
            7 => start_unix_nano = payload.fixed64("Span.start_time_unix_nano")?,
            8 => end_unix_nano = payload.fixed64("Span.end_time_unix_nano")?,
            9 => attribute(payload, "Span.attributes", &mut attributes, budget)?,
            10 => dropped_attributes_count = payload.varint32("Span.dropped_attributes_count")?,
            11 => {
                let event = event(payload.message("Span.events")?, budget)?;
                budget.push(&mut events, event)?;
            }
            12 => dropped_events_count = payload.varint32("Span.dropped_events_count")?,
            13 => {
                let link = link(payload.message("Span.links")?, budget)?;
                budget.push(&mut links, link)?;
            }
            14 => dropped_links_count = payload.varint32("Span.dropped_links_count")?,
            15 => {
                let mut fields = payload.message("Span.status")?;
                while let Some((number, payload)) = fields.next()? {
                    match number {
                        2 => status_message = payload.text("Status.message")?,
                        3 => {
                            status = match payload.varint32("Status.code")? {
                                1 => StatusCode::Ok,
                                2 => StatusCode::Error,
                                _ => StatusCode::Unset,
                            }
                        }
                        _ => {}
                    }
                }
            }
            16 => flags = payload.fixed32("Span.flags")?,
            _ => {}
        }
    }
    Ok(SpanData {
        trace_id: trace_id.ok_or(DecodeError::Id("Span.trace_id"))?,
        span_id: span_id.ok_or(DecodeError::Id("Span.span_id"))?,
        parent_span_id,
        trace_state: budget.text(trace_state)?,
        flags,
        name: budget.text(name)?,
        kind,
        start_unix_nano,
        end_unix_nano,
        attributes,
        dropped_attributes_count,
        events,
        dropped_events_count,
        links,
        dropped_links_count,
        status,
        status_message: budget.text(status_message)?,
        scope_name: budget.text(scope.name)?,
        scope_version: budget.text(scope.version)?,
        resource: Arc::clone(resource),
    })
}

fn event(mut fields: Reader<'_>, budget: &mut Budget) -> Result<EventData, DecodeError> {
    let (mut unix_nano, mut name, mut attributes, mut dropped_attributes_count) = (0, "", Vec::new(), 0);
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => unix_nano = payload.fixed64("Event.time_unix_nano")?,
            2 => name = payload.text("Event.name")?,
            3 => attribute(payload, "Event.attributes", &mut attributes, budget)?,
            4 => dropped_attributes_count = payload.varint32("Event.dropped_attributes_count")?,
            _ => {}
        }
    }
    Ok(EventData { unix_nano, name: budget.text(name)?, attributes, dropped_attributes_count })
}

fn link(mut fields: Reader<'_>, budget: &mut Budget) -> Result<LinkData, DecodeError> {
    let (mut trace_id, mut span_id, mut trace_state) = (None, None, "");
    let (mut attributes, mut dropped_attributes_count, mut flags) = (Vec::new(), 0, 0);
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => trace_id = Some(self::trace_id(payload, "Link.trace_id")?),
            2 => span_id = Some(self::span_id(payload, "Link.span_id")?),
            3 => trace_state = payload.text("Link.trace_state")?,
            4 => attribute(payload, "Link.attributes", &mut attributes, budget)?,
            5 => dropped_attributes_count = payload.varint32("Link.dropped_attributes_count")?,
            6 => flags = payload.fixed32("Link.flags")?,
            _ => {}
        }
    }
    Ok(LinkData {
        trace_id: trace_id.ok_or(DecodeError::Id("Link.trace_id"))?,
        span_id: span_id.ok_or(DecodeError::Id("Link.span_id"))?,
        trace_state: budget.text(trace_state)?,
        attributes,
        dropped_attributes_count,
        flags,
    })
}

fn attribute(
    payload: Payload<'_>,
    field: &'static str,
    attributes: &mut Attributes,
    budget: &mut Budget,
) -> Result<(), DecodeError> {
    let pair = key_value(payload.message(field)?, 0, budget)?;
    budget.push(attributes, pair)
}

fn key_value(
    mut fields: Reader<'_>,
    depth: usize,
    budget: &mut Budget,
) -> Result<(String, OwnedValue), DecodeError> {
    let (mut key, mut value) = ("", nothing());
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => key = payload.text("KeyValue.key")?,
            2 => value = any_value(payload.message("KeyValue.value")?, depth, budget)?,
            _ => {}
        }
    }
    Ok((budget.text(key)?, value))
}

fn any_value(mut fields: Reader<'_>, depth: usize, budget: &mut Budget) -> Result<OwnedValue, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::Depth);
    }
    let mut value = nothing();
    while let Some((number, payload)) = fields.next()? {
        value = match number {
            1 => OwnedValue::String(budget.text(payload.text("AnyValue.string_value")?)?),
            2 => OwnedValue::Bool(payload.varint("AnyValue.bool_value")? != 0),
            // Negative numbers are sent as their two's complement.
            3 => OwnedValue::I64(payload.varint("AnyValue.int_value")? as i64),
            4 => OwnedValue::F64(f64::from_bits(payload.fixed64("AnyValue.double_value")?)),
            5 => {
                let mut values = Vec::new();
                let mut fields = payload.message("AnyValue.array_value")?;
                while let Some((number, payload)) = fields.next()? {
                    if number == 1 {
                        let value = any_value(payload.message("ArrayValue.values")?, depth + 1, budget)?;
                        budget.push(&mut values, value)?;
                    }
                }
                OwnedValue::Array(values)
            }
            6 => {
                let mut entries = Vec::new();
                let mut fields = payload.message("AnyValue.kvlist_value")?;
                while let Some((number, payload)) = fields.next()? {
                    if number == 1 {
                        let pair = key_value(payload.message("KeyValueList.values")?, depth + 1, budget)?;
                        budget.push(&mut entries, pair)?;
                    }
                }
                OwnedValue::Map(entries)
            }
            7 => {
                let bytes = payload.bytes("AnyValue.bytes_value")?;
                budget.take(bytes.len())?;
                OwnedValue::Bytes(bytes.to_vec())
            }
            _ => value,
        };
    }
    Ok(value)
}

/// A value that the sender left empty.
const fn nothing() -> OwnedValue {
    OwnedValue::String(String::new())
}

fn trace_id(payload: Payload<'_>, field: &'static str) -> Result<TraceId, DecodeError> {
    let bytes = payload.bytes(field)?;
    bytes.try_into().ok().and_then(TraceId::from_bytes).ok_or(DecodeError::Id(field))
}

fn span_id(payload: Payload<'_>, field: &'static str) -> Result<SpanId, DecodeError> {
    let bytes = payload.bytes(field)?;
    bytes.try_into().ok().and_then(SpanId::from_bytes).ok_or(DecodeError::Id(field))
}

#[cfg(test)]
mod tests;
