//! The collector's two doors: sockets, connections, and the two spellings of one answer.
//!
//! The accept loop is our own, not a framework's, because a fault can be in the connection (refused, reset) as well as in
//! the answer. gRPC goes through tonic's generated server, so that framing, compression and status are judged by it.

use std::future::{Future, pending};
use std::io;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service;

use super::behaviour::Behaviour;
use super::collector::{Protocol, Request, Shared};
use super::convert;
use crate::otlp::SpanData;

/// A request's body at most, on the wire and unpacked: eighty of the exporter's default batches, and a bound for a test
/// that sends nonsense.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long the doors may take to close or open before a test goes on without them.
const DOOR_TIMEOUT: Duration = Duration::from_secs(5);

/// A port that can be shut and opened again while the collector runs.
pub(super) struct Door {
    address: SocketAddr,
    commands: mpsc::UnboundedSender<Command>,
}

struct Command {
    open: bool,
    done: std_mpsc::Sender<()>,
}

impl Door {
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns when it is so.
    pub(super) fn set_open(&self, open: bool) {
        let (done, is_done) = std_mpsc::channel();
        if self.commands.send(Command { open, done }).is_ok() {
            let _ = is_done.recv_timeout(DOOR_TIMEOUT);
        }
    }
}

/// A door on this listener, and the future that serves it for as long as it is polled.
pub(super) fn open(
    listener: TcpListener,
    protocol: Protocol,
    shared: Arc<Shared>,
) -> io::Result<(Door, impl Future<Output = ()> + Send)> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (commands, told) = mpsc::unbounded_channel();
    Ok((Door { address, commands }, serve(address, listener, told, protocol, shared)))
}

async fn serve(
    address: SocketAddr,
    mut listener: tokio::net::TcpListener,
    mut told: mpsc::UnboundedReceiver<Command>,
    protocol: Protocol,
    shared: Arc<Shared>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            command = told.recv() => {
                let Some(command) = command else { return };
                if command.open {
                    let _ = command.done.send(());
                    continue;
                }
                drop(listener);
                connections.shutdown().await;
                match stay_shut(address, command, &mut told).await {
                    Some(opened) => listener = opened,
                    None => return,
                }
            }
            accepted = listener.accept() => {
                // Out of descriptors, or a caller that is gone already: neither ends the collector.
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(stream, protocol, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Holds the port, bound but not listening, so that connections to it are refused and nobody else can take it.
async fn stay_shut(
    address: SocketAddr,
    command: Command,
    told: &mut mpsc::UnboundedReceiver<Command>,
) -> Option<tokio::net::TcpListener> {
    let mut held = bind(address);
    let _ = command.done.send(());
    while let Some(command) = told.recv().await {
        if !command.open {
            let _ = command.done.send(());
            continue;
        }
        let listener = loop {
            let socket = match held {
                Ok(socket) => Ok(socket),
                Err(_) => bind(address),
            };
            match socket.and_then(|socket| socket.listen(1024)) {
                Ok(listener) => break listener,
                // A process that is being started has a copy of the old listener until it is another program: a moment.
                Err(error) => held = Err(error),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let _ = command.done.send(());
        return Some(listener);
    }
    None
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections that were open a moment ago must not keep us from our own port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn connection(stream: TcpStream, protocol: Protocol, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let cut = Arc::new(Cut::default());
    let io = Io { stream, cut: Arc::clone(&cut) };
    let service = {
        let cut = Arc::clone(&cut);
        service_fn(move |request| answer(request, protocol, Arc::clone(&shared), Arc::clone(&cut)))
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if protocol == Protocol::Grpc {
        builder = builder.http2_only();
    }
    tokio::select! {
        // A sender that breaks the transport is not our failure; what matters to a test is in the requests.
        _ = builder.serve_connection(TokioIo::new(io), service) => {}
        () = cut.asked.notified() => {}
    }
}

/// One request, from its head to the head of its answer.
async fn answer(
    request: http::Request<Incoming>,
    protocol: Protocol,
    shared: Arc<Shared>,
    cut: Arc<Cut>,
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
        cut,
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
    cut: Arc<Cut>,
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
            Behaviour::Hang => pending().await,
            Behaviour::Reset | Behaviour::Refuse => {
                self.cut.now();
                pending().await
            }
        }
    }
}

enum Answer {
    Accepted(Option<ExportTracePartialSuccess>),
    Failed { http: u16, grpc: i32, retry_after: Option<Duration> },
    Malformed(String),
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
    let seen = Arc::new(Seen { arrival, read: AtomicBool::new(false) });
    let mut service = TraceServiceServer::new(Judge(Arc::clone(&seen)))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(BODY_BYTES_MAX);
    let response = match service.call(http::Request::from_parts(head, Full::new(body))).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
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

/// A request's way to its own connection, to reset it.
#[derive(Default)]
struct Cut {
    asked: Notify,
    reset: AtomicBool,
}

impl Cut {
    fn now(&self) {
        self.reset.store(true, Ordering::Relaxed);
        self.asked.notify_one();
    }
}

/// The stream of a connection. When it is dropped after a cut, the kernel sends a reset in place of a proper end.
struct Io {
    stream: TcpStream,
    cut: Arc<Cut>,
}

impl Drop for Io {
    fn drop(&mut self) {
        if self.cut.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
