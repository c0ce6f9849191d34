use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::otlp::sample;

fn request() -> impl Strategy<Value = (Attributes, Vec<(String, String, Vec<SpanData>)>)> {
    (sample::attributes(), vec((".{0,8}", ".{0,8}", vec(sample::span(), 0..3)), 0..3))
}

/// The bytes of a span with ids and one attribute.
fn span_with(value: AnyValue) -> Vec<u8> {
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        attributes: vec![KeyValue { key: "k".to_owned(), value: Some(value), ..Default::default() }],
        ..Default::default()
    };
    span.encode_to_vec()
}

fn decode_one(span: &[u8]) -> Result<SpanData, DecodeError> {
    decode_span(span, Scope::default(), &Arc::default())
}

proptest! {
    #[test]
    fn what_prost_encodes_is_what_is_decoded((resource, scopes) in request()) {
        let bytes = sample::to_request(&resource, &scopes).encode_to_vec();
        let resource = Arc::new(resource);
        let expected = scopes.into_iter().flat_map(|(name, version, spans)| {
            let resource = Arc::clone(&resource);
            spans.into_iter().map(move |span| SpanData {
                scope_name: name.clone(),
                scope_version: version.clone(),
                resource: Arc::clone(&resource),
                ..span
            })
        });
        prop_assert_eq!(decode_request(&bytes), Ok(expected.collect::<Vec<_>>()));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_request(&bytes);
        let _ = decode_one(&bytes);
    }

    #[test]
    fn damaged_requests_are_decoded_or_refused(
        (resource, scopes) in request(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample::to_request(&resource, &scopes).encode_to_vec();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = decode_request(&bytes);
    }
}

#[test]
fn spans_of_one_resource_share_it() {
    let scopes = [("a".to_owned(), String::new(), vec![]), ("b".to_owned(), String::new(), vec![])];
    let mut request = sample::to_request(&[("service.name".to_owned(), "orders".into())], &scopes);
    for scope_spans in &mut request.resource_spans[0].scope_spans {
        scope_spans.spans.push(Span { trace_id: vec![1; 16], span_id: vec![2; 8], ..Default::default() });
    }
    let spans = decode_request(&request.encode_to_vec()).unwrap();
    assert_eq!(spans.len(), 2);
    assert!(Arc::ptr_eq(&spans[0].resource, &spans[1].resource));
    assert_eq!(spans[1].service_name(), "orders");
    assert_eq!(spans[1].scope_name, "b");
}

#[test]
fn spans_without_valid_ids_are_refused() {
    let decode = |trace_id: &[u8], span_id: &[u8], parent_span_id: &[u8]| {
        let span = Span {
            trace_id: trace_id.to_vec(),
            span_id: span_id.to_vec(),
            parent_span_id: parent_span_id.to_vec(),
            ..Default::default()
        };
        decode_one(&span.encode_to_vec()).map(|span| span.parent_span_id)
    };
    assert_eq!(decode(&[1; 16], &[2; 8], &[]), Ok(None));
    assert_eq!(decode(&[], &[2; 8], &[]), Err(DecodeError::Id("Span.trace_id")));
    assert_eq!(decode(&[0; 16], &[2; 8], &[]), Err(DecodeError::Id("Span.trace_id")));
    assert_eq!(decode(&[1; 15], &[2; 8], &[]), Err(DecodeError::Id("Span.trace_id")));
    assert_eq!(decode(&[1; 16], &[2; 9], &[]), Err(DecodeError::Id("Span.span_id")));
    assert_eq!(decode(&[1; 16], &[2; 8], &[0; 8]), Err(DecodeError::Id("Span.parent_span_id")));
}

#[test]
fn values_that_lie_too_deep_are_refused() {
    let nested = |depth: usize| {
        (0..depth).fold(AnyValue { value: Some(Value::IntValue(1)) }, |inner, _| AnyValue {
            value: Some(Value::ArrayValue(ArrayValue { values: vec![inner] })),
        })
    };
    assert!(decode_one(&span_with(nested(DEPTH_MAX))).is_ok());
    assert_eq!(decode_one(&span_with(nested(DEPTH_MAX + 1))), Err(DecodeError::Depth));
}

#[test]
fn an_empty_value_reads_as_empty_text() {
    let span = decode_one(&span_with(AnyValue { value: None })).unwrap();
    assert_eq!(span.attribute("k"), Some(&OwnedValue::from("")));
}

#[test]
fn few_bytes_cannot_make_much_memory() {
    // Two bytes for each attribute without key and value.
    let mut span = Span { trace_id: vec![1; 16], span_id: vec![2; 8], ..Default::default() }.encode_to_vec();
    let ids = span.len();
    let attributes = DECODED_BYTES_MAX / size_of::<(String, OwnedValue)>() + 1;
    span.extend([0x4a, 0x00].repeat(attributes));
    assert_eq!(decode_one(&span), Err(DecodeError::TooLarge));
    span.truncate(ids + 2_000);
    assert_eq!(decode_one(&span).map(|span| span.attributes.len()), Ok(1_000));
}
