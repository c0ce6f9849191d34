//! A server that remembers what it was asked, and a pipeline whose collector is at hand.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses a part of it")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::otlp::{OwnedValue, SpanData};
use trace_core::testing::Collector;
use trace_core::{SpanId, SpanKind, StatusCode, TraceId, Tracer, TracerBuilder, Traces};
use trace_reqwest::reqwest_middleware::{self, Middleware, Next};

/// Long enough that only a failure takes so long.
pub const SOON: Duration = Duration::from_secs(20);

pub struct Traced {
    // Dropped, and flushed, while the collector is still there.
    traces: Traces,
    pub collector: Collector,
}

impl Traced {
    pub fn start() -> Self {
        Self::with(|builder| builder)
    }

    pub fn with(change: impl FnOnce(TracerBuilder) -> TracerBuilder) -> Self {
        let collector = Collector::start_blocking().unwrap();
        let traces = change(Tracer::builder().exporter(exporter(&collector.http_endpoint()))).build();
        Self { traces, collector }
    }

    pub fn tracer(&self) -> Tracer {
        self.traces.tracer()
    }

    /// Everything that has ended, in the order of the starts.
    pub async fn spans(&self) -> Vec<SpanData> {
        self.traces.flush(SOON).await.unwrap();
        let mut spans = self.collector.spans();
        spans.sort_by_key(|span| span.start_unix_nano);
        spans
    }

    /// The one client span that has ended.
    pub async fn span(&self) -> SpanData {
        let spans = self.client_spans().await;
        assert_eq!(spans.len(), 1, "{spans:#?}");
        spans.into_iter().next().unwrap()
    }

    pub async fn client_spans(&self) -> Vec<SpanData> {
        let mut spans = self.spans().await;
        spans.retain(|span| span.kind == SpanKind::Client);
        spans
    }
}

pub fn exporter(endpoint: &str) -> ExporterConfig {
    let mut otlp = OtlpConfig::new(Protocol::HttpProtobuf);
    otlp.endpoint = format!("{endpoint}/v1/traces").parse().unwrap();
    ExporterConfig::Otlp(otlp)
}

pub fn text<'a>(span: &'a SpanData, key: &str) -> Option<&'a str> {
    span.attribute(key).map(|value| value.as_str().unwrap())
}

pub fn number(span: &SpanData, key: &str) -> Option<i64> {
    span.attribute(key).map(|value| value.as_i64().unwrap())
}

/// The attributes in a fixed order.
pub fn attributes(span: &SpanData) -> Vec<(&str, OwnedValue)> {
    let mut attributes: Vec<_> =
        span.attributes.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    attributes.sort_by_key(|(key, _)| *key);
    attributes
}

/// Status and error type agree, and are these.
#[track_caller]
pub fn assert_error(span: &SpanData, error_type: Option<&str>) {
    assert_eq!(text(span, "error.type"), error_type);
    let status = if error_type.is_some() { StatusCode::Error } else { StatusCode::Unset };
    assert_eq!(span.status, status);
    assert_eq!(span.status_message, "");
}

/// A request as a server got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub peer: SocketAddr,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        assert!(self.headers.get_all(name).iter().count() <= 1, "{name} came more than once");
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The ids in the `traceparent` that came.
    pub fn parent(&self) -> (TraceId, SpanId) {
        let header = self.header("traceparent").expect("a traceparent");
        let parts: Vec<_> = header.split('-').collect();
        (parts[1].parse().unwrap(), parts[2].parse().unwrap())
    }
}

pub type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// A server on loopback that answers each request, of which it knows how many came before.
    pub async fn start(answer: impl Fn(&Seen, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer).await.unwrap()
    }

    pub async fn start_at(
        address: &str,
        answer: impl Fn(&Seen, usize) -> Answer + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let answer = Arc::new(answer);
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((socket, peer)) = listener.accept().await {
                let (log, answer) = (log.clone(), answer.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (log, answer) = (log.clone(), answer.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                        let seen = Seen {
                            method: head.method,
                            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                            version: head.version,
                            headers: head.headers,
                            body,
                            peer,
                        };
                        let before = {
                            let mut log = log.lock().unwrap();
                            log.push(seen.clone());
                            log.len() - 1
                        };
                        Ok::<_, Infallible>(answer(&seen, before))
                    }
                });
                tokio::spawn(async move {
                    // A client that goes away is what some tests are about.
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Ok(Self { address, seen })
    }

    pub async fn ok() -> Self {
        Self::start(|_, _| status(200)).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

pub fn status(code: u16) -> Answer {
    answer(code, &[])
}

pub fn answer(code: u16, headers: &[(&str, &str)]) -> Answer {
    let mut response = Response::builder().status(code);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::default().map_err(|never| match never {}).boxed_unsync()).unwrap()
}

pub fn redirect(code: u16, location: &str) -> Answer {
    answer(code, &[("location", location)])
}

pub type Call<'a> = Pin<Box<dyn Future<Output = reqwest_middleware::Result<reqwest::Response>> + Send + 'a>>;

/// A middleware that is a function, and begins when it is called: reqwest-middleware calls a bare function when it is polled.
pub struct AtOnce<F>(F);

/// The bound tells the compiler the lifetimes of a closure.
pub fn at_once<F>(call: F) -> AtOnce<F>
where
    F: for<'a> Fn(reqwest::Request, &'a mut Extensions, Next<'a>) -> Call<'a> + Send + Sync + 'static,
{
    AtOnce(call)
}

impl<F> Middleware for AtOnce<F>
where
    F: for<'a> Fn(reqwest::Request, &'a mut Extensions, Next<'a>) -> Call<'a> + Send + Sync + 'static,
{
    fn handle<'life0, 'life1, 'life2, 'async_trait>(
        &'life0 self,
        request: reqwest::Request,
        extensions: &'life1 mut Extensions,
        next: Next<'life2>,
    ) -> Call<'async_trait>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        Self: 'async_trait,
    {
        (self.0)(request, extensions, next)
    }
}
