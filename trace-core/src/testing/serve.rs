//! What the collector answers: requests, and the two spellings of one answer.
//!
//! gRPC goes through tonic's generated server, so that framing, compression and status are judged by it.

use std::future::pending;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tokio::net::TcpStream;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service;

use super::behaviour::Behaviour;
use super::collector::{Protocol, Request, Shared};
use super::convert;
use super::line::{self, Io, Line, Stream, Trouble};
use super::tls::Tls;
use crate::otlp::SpanData;

/// A request's body at most, on the wire and unpacked: eighty of the exporter's default batches, and a bound for a test
/// that sends nonsense.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Serves one connection to its end.
pub(super) async fn connection(stream: TcpStream, protocol: Protocol, tls: Option<Tls>, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let stream = match tls {
        // Whoever does not trust the certificate goes away here.
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => stream,
            Err(_) => return,
        },
        None => Stream::Plain(stream),
    };
    let line = Arc::new(Line::default());
    let io = Io::new(stream, Arc::clone(&line));
    let service = {
        let line = Arc::clone(&line);
        service_fn(move |request| answer(request, protocol, Arc::clone(&shared), Arc::clone(&line)))
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if protocol == Protocol::Grpc {
        builder = builder.http2_only();
    }
    tokio::select! {
        // A sender that breaks the transport is not our failure; what matters to a test is in the requests.
        _ = builder.serve_connection(TokioIo::new(io), service) => {}
        () = line.ended() => {}
    }
    line.last_words().await;
}

/// One request, from its head to the head of its answer.
async fn answer(
    request: http::Request<Incoming>,
    protocol: Protocol,
    shared: Arc<Shared>,
    line: Arc<Line>,
) -> Result<Response<tonic::body::Body>, tonic::codegen::StdError> {
    let (head, body) = request.into_parts();
    // A body that breaks off is a request that never came: the connection ends with it.
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await?.to_bytes();
    let arrival = Arrival {
        protocol,
        path: head.uri.path().to_owned(),
        headers: head.headers.clone(),
        wire_bytes: body.len(),
        shared,
        line,
    };
    match protocol {
        Protocol::Http => Ok(over_http(&head, &body, &arrival).await),
        Protocol::Grpc => over_grpc(head, body, arrival).await,
    }
}

/// What is known of a request before its message is read.
struct Arrival {
    protocol: Protocol,
    path: String,
    headers: HeaderMap,
    wire_bytes: usize,
    shared: Arc<Shared>,
    line: Arc<Line>,
}

impl Arrival {
    fn request(&self, message_bytes: usize, spans: usize, malformed: Option<String>) -> Request {
        Request {
            protocol: self.protocol,
            path: self.path.clone(),
            headers: self.headers.clone(),
            wire_bytes: self.wire_bytes,
            message_bytes,
            spans,
            malformed,
        }
    }

    fn malformed(&self, why: String) -> String {
        self.shared.receive_malformed(self.request(0, 0, Some(why.clone())));
        why
    }

    /// Takes the message in and does what the plan says, up to the answer.
    async fn receive(&self, message: ExportTraceServiceRequest) -> Answer {
        let bytes = message.encoded_len();
        let spans: Vec<SpanData> = match convert::spans(message) {
            Ok(spans) => spans,
            Err(why) => return Answer::Malformed(self.malformed(why)),
        };
        match self.shared.receive(self.request(bytes, spans.len(), None), spans) {
            Behaviour::Accept => Answer::Accepted(None),
            Behaviour::Delay(pause) => {
                tokio::time::sleep(pause).await;
                Answer::Accepted(None)
            }
            Behaviour::PartialSuccess { rejected, message } => {
                Answer::Accepted(Some(ExportTracePartialSuccess {
                    rejected_spans: i64::try_from(rejected).unwrap_or(i64::MAX),
                    error_message: message,
                }))
            }
            Behaviour::Fail { http, grpc, retry_after } => Answer::Failed { http, grpc, retry_after },
            Behaviour::Drip(pause) => {
                self.line.give(Trouble::Drip(pause));
                Answer::Accepted(None)
            }
            Behaviour::BreakOff { after_bytes } => {
                self.line.give(Trouble::BreakOff(after_bytes));
                Answer::Accepted(None)
            }
            Behaviour::Flood { bytes } => Answer::Flood(bytes),
            Behaviour::Garbage { bytes } => {
                self.line.give(Trouble::Garbage(bytes));
                pending().await
            }
            Behaviour::Hang | Behaviour::Freeze => pending().await,
            Behaviour::Reset | Behaviour::Refuse => {
                self.line.give(Trouble::Reset);
                pending().await
            }
        }
    }
}

enum Answer {
    Accepted(Option<ExportTracePartialSuccess>),
    Failed { http: u16, grpc: i32, retry_after: Option<Duration> },
    Malformed(String),
    Flood(u64),
}

async fn over_http(
    head: &http::request::Parts,
    body: &[u8],
    arrival: &Arrival,
) -> Response<tonic::body::Body> {
    if head.uri.path() != "/v1/traces" {
        return http_failure(404, arrival.malformed(format!("no such path: {}", head.uri.path())), None);
    }
    if head.method != Method::POST {
        return http_failure(405, arrival.malformed(format!("not a POST but a {}", head.method)), None);
    }
    let content_type = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    if content_type != b"application/x-protobuf" {
        let shown = String::from_utf8_lossy(content_type);
        return http_failure(415, arrival.malformed(format!("the content type is {shown:?}")), None);
    }
    let message = match unpack(&head.headers, body) {
        Ok(message) => message,
        Err(why) => return http_failure(400, arrival.malformed(why), None),
    };
    match arrival.receive(message).await {
        Answer::Accepted(partial_success) => {
            http_answer(StatusCode::OK, &ExportTraceServiceResponse { partial_success })
        }
        Answer::Failed { http, retry_after, .. } => {
            http_failure(http, "told to fail".to_owned(), retry_after)
        }
        Answer::Malformed(why) => http_failure(400, why, None),
        Answer::Flood(bytes) => flood(Protocol::Http, bytes),
    }
}

fn unpack(headers: &HeaderMap, body: &[u8]) -> Result<ExportTraceServiceRequest, String> {
    let mut unpacked = Vec::new();
    let body = match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => body,
        Some(b"gzip") => {
            flate2::read::GzDecoder::new(body)
                .take(BODY_BYTES_MAX as u64 + 1)
                .read_to_end(&mut unpacked)
                .map_err(|error| format!("not gzip: {error}"))?;
            if unpacked.len() > BODY_BYTES_MAX {
                return Err(format!("more than {BODY_BYTES_MAX} bytes when unpacked"));
            }
            &unpacked
        }
        Some(other) => return Err(format!("unknown content encoding {:?}", String::from_utf8_lossy(other))),
    };
    ExportTraceServiceRequest::decode(body).map_err(|error| format!("not an export request: {error}"))
}

fn http_answer(status: StatusCode, message: &impl Message) -> Response<tonic::body::Body> {
    let mut response = Response::new(tonic::body::Body::new(Full::new(Bytes::from(message.encode_to_vec()))));
    *response.status_mut() = status;
    let protobuf = header::HeaderValue::from_static("application/x-protobuf");
    response.headers_mut().insert(header::CONTENT_TYPE, protobuf);
    response
}

fn http_failure(status: u16, message: String, retry_after: Option<Duration>) -> Response<tonic::body::Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = http_answer(status, &RpcStatus { code: 0, message, details: Vec::new() });
    if let Some(pause) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(pause.as_secs()));
    }
    response
}

async fn over_grpc(
    head: http::request::Parts,
    body: Bytes,
    arrival: Arrival,
) -> Result<Response<tonic::body::Body>, tonic::codegen::StdError> {
    let seen = Arc::new(Seen { arrival, read: AtomicBool::new(false), flood: AtomicU64::new(0) });
    let mut service = TraceServiceServer::new(Judge(Arc::clone(&seen)))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(BODY_BYTES_MAX);
    let response = match service.call(http::Request::from_parts(head, Full::new(body))).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let bytes = seen.flood.load(Ordering::Relaxed);
    if bytes > 0 {
        return Ok(flood(Protocol::Grpc, bytes));
    }
    if !seen.read.load(Ordering::Relaxed) {
        let text = |name| response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let status = text("grpc-status").unwrap_or_default();
        let message = text("grpc-message").unwrap_or_default();
        seen.arrival.malformed(format!("tonic answered {status} {message}"));
    }
    Ok(response)
}

/// A request on its way through tonic, which answers by itself when it cannot read the message.
struct Seen {
    arrival: Arrival,
    read: AtomicBool,
    /// So many bytes of nonsense are the answer, in place of tonic's.
    flood: AtomicU64,
}

struct Judge(Arc<Seen>);

#[tonic::async_trait]
impl TraceService for Judge {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.read.store(true, Ordering::Relaxed);
        match self.0.arrival.receive(request.into_inner()).await {
            Answer::Accepted(partial_success) => {
                Ok(tonic::Response::new(ExportTraceServiceResponse { partial_success }))
            }
            Answer::Failed { grpc, retry_after, .. } => Err(grpc_failure(grpc, retry_after)),
            Answer::Malformed(why) => Err(tonic::Status::invalid_argument(why)),
            Answer::Flood(bytes) => {
                self.0.flood.store(bytes, Ordering::Relaxed);
                Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
            }
        }
    }
}

fn grpc_failure(code: i32, retry_after: Option<Duration>) -> tonic::Status {
    let message = "told to fail".to_owned();
    let Some(pause) = retry_after else {
        return tonic::Status::new(code.into(), message);
    };
    let pause = RetryInfo {
        retry_delay: Some(RpcDuration {
            seconds: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
            // Below 10⁹.
            nanos: pause.subsec_nanos() as i32,
        }),
    };
    let details = RpcStatus {
        code,
        message: message.clone(),
        details: vec![RpcAny {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: pause.encode_to_vec(),
        }],
    };
    tonic::Status::with_details(code.into(), message, Bytes::from(details.encode_to_vec()))
}

/// `google.rpc.Status`: the body of a failure over HTTP, the details of one over gRPC.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RpcDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct RpcDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The body of an answer that is nonsense, and so many bytes of it.
struct Flood {
    bytes: Bytes,
    left: u64,
}

impl http_body::Body for Flood {
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = self.bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= piece as u64;
        Poll::Ready(Some(Ok(Frame::data(self.bytes.slice(..piece)))))
    }
}

/// The head of a success, and then nonsense.
fn flood(protocol: Protocol, bytes: u64) -> Response<tonic::body::Body> {
    let mut response = Response::new(tonic::body::Body::new(Flood { bytes: line::garbage(), left: bytes }));
    let content_type = match protocol {
        Protocol::Http => "application/x-protobuf",
        Protocol::Grpc => "application/grpc",
    };
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
