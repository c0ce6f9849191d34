//! Whatever the collector does and whatever the runtime is: requests are served, the shutdown keeps its deadline, and
//! every span is counted.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use trace_axum::TraceLayer;
use trace_core::Tracer;
use trace_core::config::{ExporterConfig, OtlpConfig};
use trace_core::testing::{Behaviour, Collector};

const REQUESTS: usize = 200;

/// What is asked of a shutdown whose collector does not answer, and the most that it may take on a busy machine.
const DEADLINE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(5);

fn runtimes() -> [(&'static str, Runtime); 3] {
    let build = |mut builder: Builder| builder.enable_all().build().unwrap();
    let with_workers = |workers| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers);
        builder
    };
    [
        ("two workers", build(with_workers(2))),
        ("one worker", build(with_workers(1))),
        ("current thread", build(Builder::new_current_thread())),
    ]
}

fn traces(collector: &Collector) -> trace_core::Traces {
    let mut otlp = OtlpConfig::default();
    otlp.endpoint = format!("{}/v1/traces", collector.http_endpoint()).parse().unwrap();
    Tracer::builder()
        .exporter(ExporterConfig::Otlp(otlp))
        .configure(|config| config.batch.schedule_delay = Duration::from_millis(5))
        .build()
}

async fn serve(tracer: Tracer) -> SocketAddr {
    let app = Router::new().route("/", get(|| async { "served" })).layer(TraceLayer::new().tracer(tracer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

/// Sends requests over one connection, and returns how many were answered as they should be.
async fn ask(address: SocketAddr) -> usize {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<&[u8]>>(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut served = 0;
    for _ in 0..REQUESTS {
        let request = http::Request::get("/").header("host", "shop.example").body(Empty::new()).unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        let is_ok = response.status().is_success();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        served += usize::from(is_ok && body == "served");
    }
    served
}

#[test]
fn requests_are_served_and_spans_counted_whatever_the_collector_does() {
    let faults = [Behaviour::Refuse, Behaviour::Hang, Behaviour::Reset, Behaviour::unavailable()];
    for fault in faults {
        for (name, runtime) in runtimes() {
            let collector = Collector::start_blocking().unwrap();
            collector.behave(fault.clone());
            let traces = traces(&collector);
            runtime.block_on(async {
                let address = serve(traces.tracer()).await;
                assert_eq!(ask(address).await, REQUESTS, "{fault:?}, {name}");
                let start = Instant::now();
                assert!(traces.shutdown(DEADLINE).await.is_err(), "{fault:?}, {name}: nothing arrived");
                assert!(start.elapsed() < PATIENCE, "{fault:?}, {name}: {:?}", start.elapsed());
            });
            let stats = traces.stats();
            assert_eq!(stats.started, REQUESTS as u64, "{fault:?}, {name}: {stats}");
            assert_eq!(stats.dropped.total(), REQUESTS as u64, "{fault:?}, {name}: {stats}");
            assert!(stats.is_balanced(), "{fault:?}, {name}: {stats}");
            assert_eq!(collector.spans(), [], "{fault:?}, {name}");
        }
    }
}

#[test]
fn a_collector_that_comes_back_gets_what_waited() {
    for (name, runtime) in runtimes() {
        let collector = Collector::start_blocking().unwrap();
        collector.behave(Behaviour::Refuse);
        let traces = traces(&collector);
        runtime.block_on(async {
            let address = serve(traces.tracer()).await;
            assert_eq!(ask(address).await, REQUESTS, "{name}");
            collector.behave(Behaviour::Accept);
            traces.shutdown(Duration::from_secs(20)).await.unwrap();
        });
        let stats = traces.stats();
        assert_eq!((stats.started, stats.exported), (REQUESTS as u64, REQUESTS as u64), "{name}: {stats}");
        assert_eq!(collector.spans().len(), REQUESTS, "{name}");
    }
}
