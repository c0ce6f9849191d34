//! From OpenTelemetry's message types to this crate's decoded spans, with an eye for what a sender got wrong.
//!
//! A real collector lets much of this pass. A test's collector does not: a span with a broken id is a bug in the sender,
//! and is found here or nowhere.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::otlp::{EventData, LinkData, OwnedValue, SpanData};
use crate::{SpanId, SpanKind, StatusCode, TraceId};

/// The spans of a request in their order, or what is wrong with one of them.
pub(crate) fn spans(request: ExportTraceServiceRequest) -> Result<Vec<SpanData>, String> {
    let mut all = Vec::new();
    for of_resource in request.resource_spans {
        let resource =
            of_resource.resource.map(|resource| attributes(resource.attributes)).unwrap_or_default();
        let resource = Arc::new(resource);
        for of_scope in of_resource.scope_spans {
            let scope = of_scope.scope.unwrap_or_default();
            for span in of_scope.spans {
                all.push(one(span, &scope.name, &scope.version, &resource)?);
            }
        }
    }
    Ok(all)
}

fn one(
    span: Span,
    scope_name: &str,
    scope_version: &str,
    resource: &Arc<Vec<(String, OwnedValue)>>,
) -> Result<SpanData, String> {
    let wrong = |what: &str, bytes: &[u8]| format!("span {:?} has the {what} {bytes:02x?}", span.name);
    let status = span.status.clone().unwrap_or_default();
    let mut links = Vec::with_capacity(span.links.len());
    for link in &span.links {
        links.push(LinkData {
            trace_id: trace_id(&link.trace_id).ok_or_else(|| wrong("linked trace id", &link.trace_id))?,
            span_id: span_id(&link.span_id).ok_or_else(|| wrong("linked span id", &link.span_id))?,
            trace_state: link.trace_state.clone(),
            attributes: attributes(link.attributes.clone()),
            dropped_attributes_count: link.dropped_attributes_count,
            flags: link.flags,
        });
    }
    Ok(SpanData {
        trace_id: trace_id(&span.trace_id).ok_or_else(|| wrong("trace id", &span.trace_id))?,
        span_id: span_id(&span.span_id).ok_or_else(|| wrong("span id", &span.span_id))?,
        parent_span_id: match &span.parent_span_id[..] {
            [] => None,
            bytes => Some(span_id(bytes).ok_or_else(|| wrong("parent span id", bytes))?),
        },
        trace_state: span.trace_state,
        flags: span.flags,
        name: span.name,
        kind: match span.kind {
            2 => SpanKind::Server,
            3 => SpanKind::Client,
            4 => SpanKind::Producer,
            5 => SpanKind::Consumer,
            // Zero is *unspecified*, which the protocol lets a receiver take for internal.
            _ => SpanKind::Internal,
        },
        start_unix_nano: span.start_time_unix_nano,
        end_unix_nano: span.end_time_unix_nano,
        attributes: attributes(span.attributes),
        dropped_attributes_count: span.dropped_attributes_count,
        events: span
            .events
            .into_iter()
            .map(|event| EventData {
                unix_nano: event.time_unix_nano,
                name: event.name,
                attributes: attributes(event.attributes),
                dropped_attributes_count: event.dropped_attributes_count,
            })
            .collect(),
        dropped_events_count: span.dropped_events_count,
        links,
        dropped_links_count: span.dropped_links_count,
        status: match status.code {
            1 => StatusCode::Ok,
            2 => StatusCode::Error,
            _ => StatusCode::Unset,
        },
        status_message: status.message,
        scope_name: scope_name.to_owned(),
        scope_version: scope_version.to_owned(),
        resource: Arc::clone(resource),
    })
}

fn trace_id(bytes: &[u8]) -> Option<TraceId> {
    TraceId::from_bytes(bytes.try_into().ok()?)
}

fn span_id(bytes: &[u8]) -> Option<SpanId> {
    SpanId::from_bytes(bytes.try_into().ok()?)
}

fn attributes(pairs: Vec<KeyValue>) -> Vec<(String, OwnedValue)> {
    pairs.into_iter().map(|pair| (pair.key, value(pair.value))).collect()
}

/// Nesting ends where prost's own limit (100) ended it. A value without content is an empty text.
fn value(any: Option<AnyValue>) -> OwnedValue {
    match any.and_then(|any| any.value) {
        Some(Value::StringValue(text)) => OwnedValue::String(text),
        Some(Value::BoolValue(truth)) => OwnedValue::Bool(truth),
        Some(Value::IntValue(number)) => OwnedValue::I64(number),
        Some(Value::DoubleValue(number)) => OwnedValue::F64(number),
        Some(Value::BytesValue(bytes)) => OwnedValue::Bytes(bytes),
        Some(Value::ArrayValue(array)) => {
            OwnedValue::Array(array.values.into_iter().map(|any| value(Some(any))).collect())
        }
        Some(Value::KvlistValue(list)) => OwnedValue::Map(attributes(list.values)),
        // An index into a table of texts, which only profiles have.
        Some(Value::StringValueStrindex(_)) | None => OwnedValue::String(String::new()),
    }
}
