//! Spans of every shape for property tests, and OpenTelemetry's own types as the judge of our bytes.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{EventData, LinkData, OwnedValue, SpanData};
use crate::{SpanId, SpanKind, StatusCode, TraceId};

type Attributes = Vec<(String, OwnedValue)>;

pub(crate) fn value() -> impl Strategy<Value = OwnedValue> {
    let leaf = prop_oneof![
        ".{0,20}".prop_map(OwnedValue::String),
        any::<bool>().prop_map(OwnedValue::Bool),
        any::<i64>().prop_map(OwnedValue::I64),
        // NaN is not equal to itself; the bits of all others survive.
        prop::num::f64::ANY.prop_filter("NaN", |n| !n.is_nan()).prop_map(OwnedValue::F64),
        vec(any::<u8>(), 0..20).prop_map(OwnedValue::Bytes),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(OwnedValue::Array),
            vec((".{0,8}", inner), 0..4).prop_map(OwnedValue::Map),
        ]
    })
}

pub(crate) fn attributes() -> impl Strategy<Value = Attributes> {
    vec(("[a-z.]{0,12}", value()), 0..5)
}

prop_compose! {
    fn event()(
        unix_nano in any::<u64>(),
        name in ".{0,12}",
        attributes in attributes(),
        dropped_attributes_count in any::<u32>(),
    ) -> EventData {
        EventData { unix_nano, name, attributes, dropped_attributes_count }
    }
}

prop_compose! {
    fn link()(
        trace_id in trace_id(),
        span_id in span_id(),
        trace_state in "[a-z=,]{0,12}",
        attributes in attributes(),
        dropped_attributes_count in any::<u32>(),
        flags in any::<u32>(),
    ) -> LinkData {
        LinkData { trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags }
    }
}

fn trace_id() -> impl Strategy<Value = TraceId> {
    any::<u128>().prop_filter_map("zero", TraceId::from_u128)
}

fn span_id() -> impl Strategy<Value = SpanId> {
    any::<u64>().prop_filter_map("zero", SpanId::from_u64)
}

/// A span with a name and little else.
pub(crate) fn plain_span(name: &str) -> SpanData {
    SpanData {
        trace_id: TraceId::from_u128(1).expect("not zero"),
        span_id: SpanId::from_u64(1).expect("not zero"),
        parent_span_id: None,
        trace_state: String::new(),
        flags: 1,
        name: name.to_owned(),
        kind: SpanKind::Internal,
        start_unix_nano: 1,
        end_unix_nano: 2,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: Vec::new(),
        dropped_events_count: 0,
        links: Vec::new(),
        dropped_links_count: 0,
        status: StatusCode::Unset,
        status_message: String::new(),
        scope_name: String::new(),
        scope_version: String::new(),
        resource: Arc::default(),
    }
}

prop_compose! {
    fn what()(
        name in ".{0,20}",
        trace_state in "[a-z=,]{0,12}",
        kind in prop::sample::select(vec![
            SpanKind::Internal, SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer,
        ]),
        status in prop::sample::select(vec![StatusCode::Unset, StatusCode::Ok, StatusCode::Error]),
        status_message in ".{0,12}",
        flags in any::<u32>(),
        times in any::<(u64, u64)>(),
        dropped in any::<(u32, u32, u32)>(),
    ) -> SpanData {
        SpanData {
            trace_state,
            flags,
            kind,
            start_unix_nano: times.0,
            end_unix_nano: times.1,
            dropped_attributes_count: dropped.0,
            dropped_events_count: dropped.1,
            dropped_links_count: dropped.2,
            status,
            status_message,
            ..plain_span(&name)
        }
    }
}

prop_compose! {
    /// A span without scope and resource.
    pub(crate) fn span()(
        span in what(),
        trace_id in trace_id(),
        span_id in span_id(),
        parent_span_id in prop::option::of(span_id()),
        attributes in attributes(),
        events in vec(event(), 0..3),
        links in vec(link(), 0..3),
    ) -> SpanData {
        SpanData { trace_id, span_id, parent_span_id, attributes, events, links, ..span }
    }
}

/// The request that these spans make, each group under its own scope, all under one resource.
pub(crate) fn to_request(
    resource: &[(String, OwnedValue)],
    scopes: &[(String, String, Vec<SpanData>)],
) -> ExportTraceServiceRequest {
    let scope_spans = scopes.iter().map(|(name, version, spans)| ScopeSpans {
        scope: Some(InstrumentationScope {
            name: name.clone(),
            version: version.clone(),
            ..Default::default()
        }),
        spans: spans.iter().map(to_span).collect(),
        ..Default::default()
    });
    let resource = Resource { attributes: to_key_values(resource), ..Default::default() };
    let of_resource =
        ResourceSpans { resource: Some(resource), scope_spans: scope_spans.collect(), ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_resource] }
}

pub(crate) fn to_span(span: &SpanData) -> Span {
    Span {
        trace_id: span.trace_id.to_bytes().to_vec(),
        span_id: span.span_id.to_bytes().to_vec(),
        trace_state: span.trace_state.clone(),
        parent_span_id: span.parent_span_id.map(|id| id.to_bytes().to_vec()).unwrap_or_default(),
        flags: span.flags,
        name: span.name.clone(),
        kind: span.kind as i32,
        start_time_unix_nano: span.start_unix_nano,
        end_time_unix_nano: span.end_unix_nano,
        attributes: to_key_values(&span.attributes),
        dropped_attributes_count: span.dropped_attributes_count,
        events: span.events.iter().map(to_event).collect(),
        dropped_events_count: span.dropped_events_count,
        links: span.links.iter().map(to_link).collect(),
        dropped_links_count: span.dropped_links_count,
        status: Some(Status { message: span.status_message.clone(), code: span.status as i32 }),
    }
}

fn to_event(event: &EventData) -> Event {
    Event {
        time_unix_nano: event.unix_nano,
        name: event.name.clone(),
        attributes: to_key_values(&event.attributes),
        dropped_attributes_count: event.dropped_attributes_count,
    }
}

fn to_link(link: &LinkData) -> Link {
    Link {
        trace_id: link.trace_id.to_bytes().to_vec(),
        span_id: link.span_id.to_bytes().to_vec(),
        trace_state: link.trace_state.clone(),
        attributes: to_key_values(&link.attributes),
        dropped_attributes_count: link.dropped_attributes_count,
        flags: link.flags,
    }
}

pub(crate) fn to_key_values(attributes: &[(String, OwnedValue)]) -> Vec<KeyValue> {
    let pair = |(key, value): &(String, OwnedValue)| KeyValue {
        key: key.clone(),
        value: Some(to_any(value)),
        ..Default::default()
    };
    attributes.iter().map(pair).collect()
}

fn to_any(value: &OwnedValue) -> AnyValue {
    let value = match value {
        OwnedValue::String(text) => Value::StringValue(text.clone()),
        OwnedValue::Bool(truth) => Value::BoolValue(*truth),
        OwnedValue::I64(number) => Value::IntValue(*number),
        OwnedValue::F64(number) => Value::DoubleValue(*number),
        OwnedValue::Bytes(bytes) => Value::BytesValue(bytes.clone()),
        OwnedValue::Array(values) => {
            Value::ArrayValue(ArrayValue { values: values.iter().map(to_any).collect() })
        }
        OwnedValue::Map(entries) => Value::KvlistValue(KeyValueList { values: to_key_values(entries) }),
    };
    AnyValue { value: Some(value) }
}
