use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::export::batch::{BatchLimits, Lease, Part, Waiting};
use crate::export::chunk::Chunk;
use crate::export::fixture::queue;
use crate::otlp::wire::FIELD_HEAD_MAX;
use crate::otlp::{OwnedValue, SpanData, decode_request, request, sample};
use crate::span::Scope;

static SCOPES: [Scope; 3] = [Scope::new("a", "1"), Scope::new("", ""), Scope::new("a", "2")];

fn batch(spans: &[(usize, SpanData)]) -> Arc<Batch> {
    let mut waiting = Waiting::new(BatchLimits { bytes_max: usize::MAX, spans_max: usize::MAX });
    let mut chunk = Chunk::new();
    for (scope, span) in spans {
        let bytes = sample::to_span(span).encode_to_vec();
        if !chunk.push(&bytes, &SCOPES[*scope], false) {
            let next = if Chunk::fits(bytes.len()) { Chunk::new() } else { Chunk::oversize(bytes.len()) };
            waiting.push(Part::whole(Lease::new(queue(), std::mem::replace(&mut chunk, next))));
            assert!(chunk.push(&bytes, &SCOPES[*scope], false));
        }
    }
    waiting.push(Part::whole(Lease::new(queue(), chunk)));
    Arc::new(waiting.take_batch().unwrap_or_default())
}

fn wire_of(spans: &[(usize, SpanData)], resource: &[(String, OwnedValue)], compress: bool) -> Wire {
    let resource = request::resource_field(resource.iter().map(|(key, value)| (key.as_str(), value)));
    let message = Wire::Plain(Arc::new(Message::new(batch(spans), &resource)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(wire(message, compress))
}

/// The bytes of a body, after checking what it says about itself on the way.
fn read(mut body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    let exact = http_body::Body::size_hint(&body).exact().unwrap();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    while let Poll::Ready(Some(Ok(frame))) = http_body::Body::poll_frame(Pin::new(&mut body), &mut cx) {
        let piece = frame.into_data().unwrap();
        assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES_MAX + FIELD_HEAD_MAX);
        bytes.extend_from_slice(&piece);
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(exact - bytes.len() as u64));
    }
    assert!(http_body::Body::is_end_stream(&body));
    assert_eq!(bytes.len() as u64, exact);
    bytes
}

/// The spans as a receiver groups them: by scope, in the order of the scopes' first spans.
fn grouped(spans: Vec<(usize, SpanData)>, resource: Vec<(String, OwnedValue)>) -> Vec<SpanData> {
    let resource = Arc::new(resource);
    let mut order: Vec<usize> = Vec::new();
    for (scope, _) in &spans {
        if !order.contains(scope) {
            order.push(*scope);
        }
    }
    let of_scope =
        |scope: usize| spans.iter().filter(move |(of, _)| *of == scope).map(move |(_, span)| (scope, span));
    order
        .iter()
        .flat_map(|&scope| of_scope(scope))
        .map(|(scope, span)| SpanData {
            scope_name: SCOPES[scope].name().to_owned(),
            scope_version: SCOPES[scope].version().to_owned(),
            resource: Arc::clone(&resource),
            ..span.clone()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_goes_over_the_wire_decodes_to_what_went_in(
        spans in vec((0usize..3, sample::span()), 0..40),
        resource in sample::attributes(),
    ) {
        let wire = wire_of(&spans, &resource, false);
        let bytes = read(wire.body(Bytes::new(), &Arc::default()));
        // OpenTelemetry's own types read it, and would write it in as many bytes.
        let theirs = ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
        prop_assert_eq!(theirs.resource_spans.len(), 1);
        prop_assert_eq!(decode_request(&theirs.encode_to_vec()), decode_request(&bytes));
        prop_assert_eq!(decode_request(&bytes), Ok(grouped(spans, resource)));
    }
}

fn large_sample() -> Vec<(usize, SpanData)> {
    let mut span = sample::plain_span("GET /orders/{id}");
    span.attributes.push(("url.path".to_owned(), "/orders/1".into()));
    // Many spans of one scope, and then some of two that take turns.
    (0..3_000).map(|i| (if i / 300 % 2 == 0 { 0 } else { i % 2 }, span.clone())).collect()
}

#[test]
fn many_spans_of_one_scope_are_sent_from_where_they_lie_and_few_are_copied_together() {
    let spans = large_sample();
    let batch = batch(&spans);
    let message = Arc::new(Message::new(Arc::clone(&batch), b""));
    let lies_in_a_chunk =
        |piece: &Bytes| batch.runs().any(|(_, run)| batch.run(run).as_ptr_range().contains(&piece.as_ptr()));
    let mut body = Wire::Plain(Arc::clone(&message)).body(Bytes::from_static(b"grpc!"), &Arc::default());
    let (mut lying, mut copied) = (Vec::new(), Vec::new());
    loop {
        let piece = body.next_piece();
        if piece.is_empty() {
            break;
        }
        if lies_in_a_chunk(&piece) { lying.push(piece.len()) } else { copied.push(piece.len()) }
    }
    assert!(lying.len() > 10 && lying.iter().all(|bytes| *bytes >= SHARED_BYTES_MIN), "{lying:?}");
    let runs = batch.runs().filter(|(_, run)| run.bytes as usize >= SHARED_BYTES_MIN).count();
    assert_eq!(lying.len(), runs);
    // Every other span of half of them, by far more runs than pieces.
    assert!((2..100).contains(&copied.len()), "{copied:?}");
    assert_eq!(lying.iter().chain(&copied).sum::<usize>(), 5 + message.layout.len());
}

#[test]
fn a_batch_that_begins_in_the_midst_of_a_chunk_is_sent_from_there() {
    let mut chunk = Chunk::new();
    for number in 0..100 {
        let span = sample::plain_span(&format!("span {number}"));
        assert!(chunk.push(&sample::to_span(&span).encode_to_vec(), &SCOPES[0], false));
    }
    let mut waiting = Waiting::new(BatchLimits { bytes_max: usize::MAX, spans_max: 48 });
    waiting.push(Part::whole(Lease::new(queue(), chunk)));
    let mut names = Vec::new();
    while let Some(batch) = waiting.take_batch() {
        let message = Message::new(Arc::new(batch), b"");
        let together = message.pieces().collect::<Vec<_>>().concat();
        let sent = read(Wire::Plain(Arc::new(message)).body(Bytes::new(), &Arc::default()));
        assert_eq!(sent, together);
        names.extend(decode_request(&sent).unwrap().into_iter().map(|span| span.name));
    }
    assert_eq!(names, Vec::from_iter((0..100).map(|number| format!("span {number}"))));
}

#[test]
fn a_body_larger_than_a_piece_comes_in_pieces_and_can_be_sent_again() {
    let spans = large_sample();
    let wire = wire_of(&spans, &[], false);
    assert!(wire.len() > 3 * PIECE_BYTES_MAX);
    let once = read(wire.body(Bytes::new(), &Arc::default()));
    let again = read(wire.body(Bytes::from_static(b"grpc!"), &Arc::default()));
    assert_eq!(&again[..5], b"grpc!");
    assert_eq!(&again[5..], &once[..]);
    assert_eq!(decode_request(&once).unwrap().len(), spans.len());
}

#[test]
fn a_message_from_disk_goes_over_the_wire_as_it_was_written() {
    let spans = large_sample();
    let message = Message::new(batch(&spans), b"");
    assert_eq!(message.spans() as usize, spans.len());
    let stored = Bytes::from(message.pieces().collect::<Vec<_>>().concat());
    let plain = read(Wire::Plain(Arc::new(message)).body(Bytes::new(), &Arc::default()));
    let wire = Wire::Stored(stored);
    assert_eq!(wire.len(), plain.len());
    assert_eq!(read(wire.body(Bytes::new(), &Arc::default())), plain);
    let framed = read(wire.body(Bytes::from_static(b"grpc!"), &Arc::default()));
    assert_eq!(framed, [b"grpc!", &plain[..]].concat());
}

#[cfg(feature = "gzip")]
#[test]
fn a_compressed_body_is_smaller_and_unpacks_to_the_plain_one() {
    use std::io::Read;

    let spans = large_sample();
    let plain = read(wire_of(&spans, &[], false).body(Bytes::new(), &Arc::default()));
    let wire = wire_of(&spans, &[], true);
    assert!(wire.is_compressed() && wire.len() < plain.len() / 4);
    for _ in 0..2 {
        let packed = read(wire.body(Bytes::from_static(b"grpc!"), &Arc::default()));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[5..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
    }
}

#[test]
fn a_batch_can_have_arrived_only_once_its_last_byte_was_handed_over() {
    let arrival = Arc::new(Arrival::default());
    let wire = wire_of(&large_sample(), &[], false);

    // The connection broke early: the collector cannot have it.
    let mut body = wire.body(Bytes::new(), &arrival);
    body.next_piece();
    arrival.lose_sight();
    assert!(!arrival.is_possible());

    // Handed over and refused: the collector says that it does not have it.
    arrival.begin();
    read(wire.body(Bytes::new(), &arrival));
    assert!(arrival.is_possible());
    arrival.answered();
    assert!(!arrival.is_possible());

    // Handed over and never answered: nobody knows, whatever later attempts bring.
    arrival.begin();
    read(wire.body(Bytes::new(), &arrival));
    arrival.lose_sight();
    arrival.begin();
    arrival.answered();
    assert!(arrival.is_possible());
}
