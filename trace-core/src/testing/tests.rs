//! The collector is spoken to by other people's clients: `reqwest` and tonic's generated one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use prost::Message;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

use super::*;
use crate::otlp::OwnedValue;
use crate::{SpanId, SpanKind, StatusCode, TraceId};

pub(super) const SOON: Duration = Duration::from_secs(10);

fn any(value: Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: any(value), ..Default::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.to_owned()))
}

/// A span of the trace 1.
fn span(id: u8, parent: u8, name: &str) -> Span {
    Span {
        trace_id: [[0; 15].as_slice(), &[1]].concat(),
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        name: name.to_owned(),
        kind: 2,
        start_time_unix_nano: u64::from(id) * 1_000,
        end_time_unix_nano: 1_000_000,
        ..Default::default()
    }
}

fn export(spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![text("service.name", "shop")], ..Default::default() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "trace-axum".to_owned(),
                    version: "1.2.3".to_owned(),
                    ..Default::default()
                }),
                spans,
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

pub(super) fn three() -> ExportTraceServiceRequest {
    export(vec![span(1, 0, "a"), span(2, 1, "b"), span(3, 1, "c")])
}

/// The future owns what it needs, so that it can outlive the collector.
fn post(
    collector: &Collector,
    request: &ExportTraceServiceRequest,
) -> impl Future<Output = reqwest::Result<reqwest::Response>> + use<> {
    reqwest::Client::new()
        .post(format!("{}/v1/traces", collector.http_endpoint()))
        .header("content-type", "application/x-protobuf")
        .body(request.encode_to_vec())
        .send()
}

pub(super) async fn client(collector: &Collector) -> TraceServiceClient<Channel> {
    TraceServiceClient::connect(collector.grpc_endpoint()).await.unwrap()
}

#[tokio::test]
async fn spans_come_over_http_and_are_answered_in_protobuf() {
    let collector = Collector::start().await.unwrap();
    let response = post(&collector, &three()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-protobuf");
    let answer = ExportTraceServiceResponse::decode(response.bytes().await.unwrap()).unwrap();
    assert_eq!(answer.partial_success, None);

    let spans = collector.wait_for_spans(3, SOON).await.unwrap();
    assert_eq!(spans.iter().map(|span| &span.name[..]).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(spans[0].service_name(), "shop");
    assert_eq!((&spans[0].scope_name[..], &spans[0].scope_version[..]), ("trace-axum", "1.2.3"));
    let [request] = &collector.requests()[..] else { panic!("one request") };
    assert_eq!(request.protocol, Protocol::Http);
    assert_eq!(request.path, "/v1/traces");
    assert_eq!(request.spans, 3);
    assert_eq!(request.wire_bytes, three().encoded_len());
    assert_eq!(request.message_bytes, three().encoded_len());
    assert_eq!(request.headers["content-type"], "application/x-protobuf");
}

#[tokio::test]
async fn spans_come_over_grpc_with_their_metadata() {
    let collector = Collector::start().await.unwrap();
    let mut request = tonic::Request::new(three());
    request.metadata_mut().insert("x-scope-orgid", "tenant-7".parse().unwrap());
    client(&collector).await.export(request).await.unwrap();

    assert_eq!(collector.span_ids().len(), 3);
    let [request] = &collector.requests()[..] else { panic!("one request") };
    assert_eq!(request.protocol, Protocol::Grpc);
    assert_eq!(request.headers["x-scope-orgid"], "tenant-7");
    assert_eq!(request.wire_bytes, 5 + three().encoded_len());
}

#[tokio::test]
async fn both_protocols_unpack_gzip() {
    let collector = Collector::start().await.unwrap();
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    let many = export((1..=100).map(|id| span(id, 0, "the same name again and again")).collect());
    packed.write_all(&many.encode_to_vec()).unwrap();
    let response = reqwest::Client::new()
        .post(format!("{}/v1/traces", collector.http_endpoint()))
        .header("content-type", "application/x-protobuf")
        .header("content-encoding", "gzip")
        .body(packed.finish().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    client(&collector).await.send_compressed(CompressionEncoding::Gzip).export(many).await.unwrap();

    assert_eq!(collector.spans().len(), 200);
    for request in collector.requests() {
        assert!(request.wire_bytes * 2 < request.message_bytes, "{request:?}");
    }
}

#[tokio::test]
async fn every_field_of_a_span_arrives() {
    let everything = Span {
        trace_state: "a=1,b=2".to_owned(),
        flags: 0x301,
        kind: 3,
        attributes: vec![
            text("text", "grün"),
            pair("truth", Value::BoolValue(true)),
            pair("whole", Value::IntValue(-7)),
            pair("float", Value::DoubleValue(0.5)),
            pair("bytes", Value::BytesValue(vec![0, 255])),
            pair("array", Value::ArrayValue(ArrayValue { values: vec![any(Value::IntValue(1)).unwrap()] })),
            pair("map", Value::KvlistValue(KeyValueList { values: vec![text("k", "v")] })),
        ],
        dropped_attributes_count: 1,
        events: vec![span::Event {
            time_unix_nano: 5,
            name: "retry".to_owned(),
            attributes: vec![text("why", "503")],
            dropped_attributes_count: 2,
        }],
        dropped_events_count: 3,
        links: vec![span::Link {
            trace_id: vec![9; 16],
            span_id: vec![8; 8],
            trace_state: "c=3".to_owned(),
            attributes: vec![text("of", "batch")],
            dropped_attributes_count: 4,
            flags: 1,
        }],
        dropped_links_count: 5,
        status: Some(Status { message: "refused".to_owned(), code: 2 }),
        ..span(2, 1, "POST")
    };
    let collector = Collector::start().await.unwrap();
    post(&collector, &export(vec![everything])).await.unwrap();

    let [span] = &collector.spans()[..] else { panic!("one span") };
    assert_eq!(span.trace_id, TraceId::from_u128(1).unwrap());
    assert_eq!(span.span_id, SpanId::from_bytes([2; 8]).unwrap());
    assert_eq!(span.parent_span_id, SpanId::from_bytes([1; 8]));
    assert_eq!((&span.trace_state[..], span.flags, span.kind), ("a=1,b=2", 0x301, SpanKind::Client));
    assert_eq!((span.start_unix_nano, span.end_unix_nano), (2_000, 1_000_000));
    assert_eq!(span.attribute("text").unwrap().as_str(), Some("grün"));
    assert_eq!(span.attribute("truth").unwrap().as_bool(), Some(true));
    assert_eq!(span.attribute("whole").unwrap().as_i64(), Some(-7));
    assert_eq!(span.attribute("float").unwrap().as_f64(), Some(0.5));
    assert_eq!(span.attribute("bytes"), Some(&OwnedValue::Bytes(vec![0, 255])));
    assert_eq!(span.attribute("array"), Some(&OwnedValue::from([1])));
    assert_eq!(span.attribute("map"), Some(&OwnedValue::Map(vec![("k".to_owned(), "v".into())])));
    assert_eq!(span.events[0].name, "retry");
    assert_eq!((span.events[0].unix_nano, span.events[0].dropped_attributes_count), (5, 2));
    assert_eq!(span.links[0].trace_id, TraceId::from_bytes([9; 16]).unwrap());
    assert_eq!((&span.links[0].trace_state[..], span.links[0].flags), ("c=3", 1));
    assert_eq!(span.dropped_attributes_count, 1);
    assert_eq!(span.dropped_events_count, 3);
    assert_eq!(span.dropped_links_count, 5);
    assert_eq!((span.status, &span.status_message[..]), (StatusCode::Error, "refused"));
}

#[tokio::test]
async fn a_span_with_a_broken_id_is_refused_by_name() {
    let collector = Collector::start().await.unwrap();
    let broken = [
        Span { trace_id: vec![0; 16], ..span(1, 0, "zero trace") },
        Span { trace_id: vec![1; 15], ..span(1, 0, "short trace") },
        Span { span_id: vec![0; 8], ..span(1, 0, "zero span") },
        Span { parent_span_id: vec![0; 8], ..span(1, 0, "zero parent") },
        Span { links: vec![span::Link::default()], ..span(1, 0, "empty link") },
    ];
    for span in broken {
        let name = span.name.clone();
        let response = post(&collector, &export(vec![span.clone()])).await.unwrap();
        assert_eq!(response.status(), 400, "{name}");
        let status = client(&collector).await.export(export(vec![span])).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{name}");
        for request in collector.requests() {
            assert!(request.malformed.unwrap().contains(&name), "{name}");
        }
        collector.clear();
    }
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn what_is_not_otlp_is_refused_and_recorded() {
    let collector = Collector::start().await.unwrap();
    let http = reqwest::Client::new();
    let right = format!("{}/v1/traces", collector.http_endpoint());
    let wrong = format!("{}/v1/metrics", collector.http_endpoint());
    let protobuf = ("content-type", "application/x-protobuf");
    let cases = [
        (http.post(&wrong).header(protobuf.0, protobuf.1), 404),
        (http.get(&right), 405),
        (http.post(&right).header("content-type", "application/json").body("{}"), 415),
        (http.post(&right).header(protobuf.0, protobuf.1).body("nonsense"), 400),
        (http.post(&right).header(protobuf.0, protobuf.1).header("content-encoding", "gzip").body("x"), 400),
        (http.post(&right).header(protobuf.0, protobuf.1).header("content-encoding", "br").body("x"), 400),
    ];
    let count = cases.len();
    for (request, status) in cases {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let requests = collector.requests();
    assert_eq!(requests.len(), count);
    assert!(requests.iter().all(|request| request.malformed.is_some()), "{requests:?}");
}

#[tokio::test]
async fn grpc_that_tonic_cannot_read_is_recorded() {
    let collector = Collector::start().await.unwrap();
    let mut channel = Channel::from_shared(collector.grpc_endpoint()).unwrap().connect().await.unwrap();
    let request = http::Request::post(format!(
        "{}/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        collector.grpc_endpoint()
    ))
    .header("content-type", "application/grpc")
    .body(tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::from_static(b"\0\0\0\0\x03xyz"))))
    .unwrap();
    std::future::poll_fn(|cx| tonic::codegen::Service::poll_ready(&mut channel, cx)).await.unwrap();
    tonic::codegen::Service::call(&mut channel, request).await.unwrap();

    let requests = collector.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].malformed.is_some());
}

#[tokio::test]
async fn a_failure_has_the_spelling_of_its_protocol() {
    let collector = Collector::start().await.unwrap();
    collector.behave(Behaviour::throttled(Duration::from_secs(7)));

    let response = post(&collector, &three()).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "7");
    let status = client(&collector).await.export(three()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let details = status.details();
    let retry_info = b"type.googleapis.com/google.rpc.RetryInfo";
    assert!(details.windows(retry_info.len()).any(|window| window == retry_info));

    assert_eq!(collector.spans(), []);
    assert_eq!(collector.requests().len(), 2);
}

#[tokio::test]
async fn a_single_request_fails_and_the_next_does_not() {
    let collector = Collector::start().await.unwrap();
    collector.behave_once(Behaviour::unavailable());
    collector.behave_once(Behaviour::rejecting());
    assert_eq!(post(&collector, &three()).await.unwrap().status(), 503);
    assert_eq!(post(&collector, &three()).await.unwrap().status(), 400);
    assert_eq!(post(&collector, &three()).await.unwrap().status(), 200);
    assert_eq!(collector.spans().len(), 3);
}

#[tokio::test]
async fn partial_success_names_and_drops_the_first_spans() {
    let collector = Collector::start().await.unwrap();
    collector.behave(Behaviour::PartialSuccess { rejected: 2, message: "too old".to_owned() });
    let answer = client(&collector).await.export(three()).await.unwrap().into_inner();
    let partial = answer.partial_success.unwrap();
    assert_eq!((partial.rejected_spans, &partial.error_message[..]), (2, "too old"));
    assert_eq!(collector.span_ids(), [SpanId::from_bytes([3; 8]).unwrap()]);
}

#[tokio::test]
async fn a_delayed_answer_comes_after_its_spans_are_there() {
    let collector = Collector::start().await.unwrap();
    let delay = Duration::from_millis(50);
    collector.behave(Behaviour::Delay(delay));
    let asked = std::time::Instant::now();
    let (response, spans) =
        tokio::join!(async { post(&collector, &three()).await.map(|r| (r, asked.elapsed())) }, async {
            collector.wait_for_spans(3, SOON).await
        });
    let (response, took) = response.unwrap();
    assert_eq!(response.status(), 200);
    assert!(took >= delay, "{took:?}");
    assert_eq!(spans.unwrap().len(), 3);
}

#[tokio::test]
async fn a_hanging_collector_reads_and_never_answers() {
    let collector = Collector::start().await.unwrap();
    collector.behave(Behaviour::Hang);
    let asking = post(&collector, &three());
    tokio::pin!(asking);
    // The request is there, and still no answer.
    let came = async {
        while collector.requests().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answered = &mut asking => panic!("{answered:?}"),
        () = came => {}
    }
    assert_eq!(collector.spans(), []);
    // And a collector that goes away ends the wait.
    drop(collector);
    assert!(asking.await.is_err());
}

#[test]
fn a_reset_connection_is_reset_and_not_closed() {
    let collector = Collector::start_blocking().unwrap();
    collector.behave_once(Behaviour::Reset);
    let body = three().encode_to_vec();
    let mut stream = TcpStream::connect(collector.http_address()).unwrap();
    write!(
        stream,
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(&body).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(collector.requests().len(), 1);
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn a_refusing_collector_comes_back_on_the_same_ports() {
    let collector = Collector::start().await.unwrap();
    let mut grpc = client(&collector).await;
    let addresses = (collector.http_endpoint(), collector.grpc_endpoint());
    for _ in 0..3 {
        collector.behave(Behaviour::Refuse);
        collector.behave(Behaviour::Refuse);
        for address in [collector.http_address(), collector.grpc_address()] {
            let error = TcpStream::connect(address).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        assert!(post(&collector, &three()).await.unwrap_err().is_connect());
        assert!(grpc.export(three()).await.is_err());
        collector.behave(Behaviour::Accept);
        assert_eq!(post(&collector, &three()).await.unwrap().status(), 200);
        client(&collector).await.export(three()).await.unwrap();
    }
    assert_eq!(addresses, (collector.http_endpoint(), collector.grpc_endpoint()));
    assert_eq!(collector.spans().len(), 18);
}

#[test]
fn waiting_works_without_a_runtime_and_says_what_came() {
    let collector = Collector::start_blocking().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| collector.blocking_wait_for_spans(3, SOON));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(post(&collector, &three())).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap().len(), 3);
    });
    let error = collector.blocking_wait_for_spans(4, Duration::from_millis(1)).unwrap_err().to_string();
    assert!(error.contains("3 spans in 1 requests"), "{error}");
    assert!(error.contains("1 × shop: \"b\""), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_in_time_while_the_tests_own_clock_stands_still() {
    let collector = Collector::start().await.unwrap();
    let began = std::time::Instant::now();
    let error = collector.wait_for_spans(1, Duration::from_millis(30)).await.unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(30), "{error}");
}

#[tokio::test]
async fn delivered_spans_are_not_kept() {
    let (delivered, mut delivery) = tokio::sync::mpsc::unbounded_channel();
    let collector = Collector::builder()
        .deliver_to(move |spans| {
            let _ = delivered.send(spans.len());
        })
        .start()
        .await
        .unwrap();
    post(&collector, &three()).await.unwrap();
    assert_eq!(delivery.recv().await, Some(3));
    assert_eq!(collector.spans(), []);
    assert_eq!(collector.requests().len(), 0);
}

#[tokio::test]
async fn traces_come_as_trees() {
    let collector = Collector::start().await.unwrap();
    post(&collector, &three()).await.unwrap();
    let [trace] = &collector.traces()[..] else { panic!("one trace") };
    trace.check().unwrap();
    assert_eq!(trace.shape(), "shop: a (server)\n  shop: b (server)\n  shop: c (server)\n");
}
