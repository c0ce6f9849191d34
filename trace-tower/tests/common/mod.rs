//! What the tests over sockets share: a pipeline whose spans are looked at, and clients that misbehave.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trace_core::config::{ExporterConfig, OtlpConfig};
use trace_core::otlp::SpanData;
use trace_core::sampler::AnySampler;
use trace_core::testing::Collector;
use trace_core::{SpanKind, StatusCode, Tracer, Traces};

/// Long enough for anything that will happen, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A time that a test lets pass inside a span, to find it in the span's duration.
pub const INTERVAL: Duration = Duration::from_millis(30);

/// A trace that a caller sends.
pub const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// The caller's span.
pub const CALLER: &str = "00f067aa0ba902b7";

/// A caller's `traceparent`.
pub fn traceparent(flags: &str) -> String {
    format!("00-{TRACE_ID}-{CALLER}-{flags}")
}

/// A pipeline of the test's own, and the collector at its end.
pub struct Traced {
    // Dropped first: it flushes.
    pub traces: Traces,
    pub collector: Collector,
}

impl Traced {
    pub async fn start() -> Self {
        Self::sampled_by(AnySampler::default()).await
    }

    pub async fn sampled_by(sampler: AnySampler) -> Self {
        let collector = Collector::start().await.unwrap();
        let mut otlp = OtlpConfig::default();
        otlp.endpoint = format!("{}/v1/traces", collector.http_endpoint()).parse().unwrap();
        let traces = Tracer::builder()
            .service_name("test")
            .sampler(sampler)
            .exporter(ExporterConfig::Otlp(otlp))
            .configure(|config| config.batch.schedule_delay = Duration::from_millis(5))
            .build();
        Self { collector, traces }
    }

    pub fn tracer(&self) -> Tracer {
        self.traces.tracer()
    }

    /// All spans, of which there have to be exactly so many.
    pub async fn spans(&self, count: usize) -> Vec<SpanData> {
        let spans = self.collector.wait_for_spans(count, PATIENCE).await.unwrap();
        self.traces.flush(PATIENCE).await.unwrap();
        let stats = self.traces.stats();
        assert_eq!((stats.started, stats.exported), (count as u64, count as u64), "{stats}");
        assert_eq!(self.collector.span_ids().len(), count);
        spans
    }

    /// The only span.
    pub async fn span(&self) -> SpanData {
        self.spans(1).await.remove(0)
    }
}

/// The value of an attribute, which has to be a text.
#[track_caller]
pub fn text<'a>(span: &'a SpanData, key: &str) -> &'a str {
    let value = span.attribute(key).unwrap_or_else(|| panic!("no {key} in {:?}", span.attributes));
    value.as_str().unwrap_or_else(|| panic!("{key} is {value:?}"))
}

/// The value of an attribute, which has to be a whole number.
#[track_caller]
pub fn number(span: &SpanData, key: &str) -> i64 {
    let value = span.attribute(key).unwrap_or_else(|| panic!("no {key} in {:?}", span.attributes));
    value.as_i64().unwrap_or_else(|| panic!("{key} is {value:?}"))
}

/// The keys of a span's attributes, in alphabetical order.
pub fn keys(span: &SpanData) -> Vec<&str> {
    let mut keys: Vec<_> = span.attributes.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys
}

/// The span is no error, and `error.type` agrees.
#[track_caller]
pub fn assert_no_error(span: &SpanData) {
    assert_eq!(span.status, StatusCode::Unset, "{:?}", span.attributes);
    assert_eq!(span.attribute("error.type"), None);
    assert_eq!(span.status_message, "");
}

/// The span is an error of this type, and nothing is described.
#[track_caller]
pub fn assert_error(span: &SpanData, error_type: &str) {
    assert_eq!(span.status, StatusCode::Error, "{:?}", span.attributes);
    assert_eq!(text(span, "error.type"), error_type);
    assert_eq!(span.status_message, "");
}

/// The span is a server's, and took at least so long.
#[track_caller]
pub fn assert_served(span: &SpanData, at_least: Duration) {
    assert_eq!(span.kind, SpanKind::Server);
    assert!(span.duration() >= at_least, "{:?} < {at_least:?}", span.duration());
}

/// Lets [`INTERVAL`] pass, and tells how long it was.
pub async fn interval() -> Duration {
    let start = Instant::now();
    tokio::time::sleep(INTERVAL).await;
    start.elapsed()
}

/// A client that writes what it is told to write.
pub struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub async fn send(server: SocketAddr, request: impl AsRef<[u8]>) -> Self {
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.write_all(request.as_ref()).await.unwrap();
        Self { stream, read: Vec::new() }
    }

    /// A `GET` with nothing but a host.
    pub async fn get(server: SocketAddr, path: &str) -> Self {
        Self::send(server, format!("GET {path} HTTP/1.1\r\nhost: {server}\r\n\r\n")).await
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until this has come, and gives all that came.
    pub async fn until(&mut self, text: &str) -> String {
        let read = async {
            while !self.text().contains(text) {
                let count = self.stream.read_buf(&mut self.read).await.unwrap();
                assert_ne!(count, 0, "the connection ended after {:?}", self.text());
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect(text);
        self.text()
    }

    /// Reads until the server closes the connection.
    pub async fn rest(mut self) -> String {
        // A server may reset the connection instead: what came until then counts.
        let read = async { while self.stream.read_buf(&mut self.read).await.is_ok_and(|count| count > 0) {} };
        tokio::time::timeout(PATIENCE, read).await.expect("an end");
        self.text()
    }

    /// The port of this end.
    pub fn port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

pub type Sent = Full<Bytes>;

/// A connection of HTTP/1.1.
pub async fn http1(server: SocketAddr) -> http1::SendRequest<Sent> {
    let stream = TokioIo::new(TcpStream::connect(server).await.unwrap());
    let (client, connection) = http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A connection of HTTP/2.
pub async fn http2(server: SocketAddr) -> http2::SendRequest<Sent> {
    let stream = TokioIo::new(TcpStream::connect(server).await.unwrap());
    let (client, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    client
}
