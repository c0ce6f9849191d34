//! Who is traced: a real axum service on each kind of runtime, or plain threads where there is none.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use trace_axum::TraceLayer;
use trace_core::config::{ExporterConfig, OtlpConfig};
use trace_core::{Context, FlushError, SpanId, Tracer, Traces};

use crate::backend::{self, Backend};
use crate::bracket::Bracket;

/// What runs the service. It makes no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    MultiThread,
    OneWorker,
    CurrentThread,
    /// Plain threads, which make spans of their own.
    None,
}

pub(crate) const HOSTS: [Host; 4] = [Host::MultiThread, Host::OneWorker, Host::CurrentThread, Host::None];

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MultiThread => "two workers",
            Self::OneWorker => "one worker",
            Self::CurrentThread => "current thread",
            Self::None => "no runtime",
        })
    }
}

impl Host {
    fn runtime(self, on_thread: impl Fn() + Send + Sync + 'static) -> Runtime {
        let mut builder = match self {
            Self::MultiThread => Builder::new_multi_thread(),
            Self::OneWorker => Builder::new_multi_thread(),
            Self::CurrentThread | Self::None => Builder::new_current_thread(),
        };
        let workers = if self == Self::OneWorker { 1 } else { 2 };
        builder.worker_threads(workers).enable_all().on_thread_start(on_thread).build().unwrap()
    }
}

/// The memory bound of a pipeline under test: small, so that it is soon used up.
pub(crate) const MEMORY: usize = 2 << 20;

/// For an attempt to send a batch: short, so that attempts end and begin again while a case lasts. A batch has two
/// and a half of it.
pub(crate) const TIMEOUTS: Duration = Duration::from_millis(150);

/// Longer than anything takes that goes well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A pipeline that exports there.
pub(crate) fn traces(backend: &Backend, timeouts: Duration) -> Traces {
    pipeline(backend.otlp.clone(), timeouts)
}

pub(crate) fn pipeline(mut otlp: OtlpConfig, timeouts: Duration) -> Traces {
    otlp.timeout = timeouts;
    Tracer::builder()
        .service_name("shop")
        .exporter(ExporterConfig::Otlp(otlp))
        .configure(|config| {
            config.memory_bytes_max = MEMORY;
            config.batch.schedule_delay = Duration::from_millis(20);
            config.batch.export_timeout = timeouts * 5 / 2;
        })
        .try_build()
        .unwrap()
}

/// What the service notes while it works.
#[derive(Default)]
pub(crate) struct Probe {
    /// The ids of all spans that were started; none, where nothing may be allocated.
    pub(crate) ids: Option<Mutex<Vec<SpanId>>>,
    /// The allocations for all requests so far.
    pub(crate) ledger: AtomicU64,
    /// The ledger as each request found it.
    pub(crate) marks: Vec<AtomicU64>,
    pub(crate) requests: AtomicUsize,
    /// Called when a thread begins to serve, with "serving", and for a request that asks for it, with what it says.
    pub(crate) announce: Option<fn(&str)>,
}

impl Probe {
    /// Where it is announced, a thread asks the system at once for what it needs once in its life: a seed for ids, and one
    /// for hash maps.
    pub(crate) fn thread_serves(&'static self, tracer: Tracer) {
        if let Some(announce) = self.announce {
            work(tracer, self);
            let _ = RandomState::new();
            announce("serving");
        }
    }

    /// The work of one request, in its span.
    fn request(&self) {
        let index = self.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(mark) = self.marks.get(index) {
            mark.store(self.ledger.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.note();
        for _ in 0..2 {
            let mut query = trace_core::span("SELECT orders").start();
            query.set_attribute("db.system.name", "sqlite");
            query.set_attribute("db.query.text", QUERY);
            query.enter(|| self.note());
        }
    }

    fn note(&self) {
        // An inert span has an id too, and is not started.
        let recorded = Context::current_span_context().filter(|context| context.flags().is_sampled());
        if let (Some(ids), Some(context)) = (&self.ids, recorded) {
            ids.lock().unwrap().push(context.span_id());
        }
    }
}

/// Long, so that chunks are full soon.
const QUERY: &str = "SELECT id, customer, total, currency, placed_at, shipped_at FROM orders JOIN customers USING (customer) \
                     WHERE customer = ? AND placed_at > ? ORDER BY placed_at DESC LIMIT 20";

/// A service that runs, or threads that work, until they are shut down.
pub(crate) struct Service {
    address: SocketAddr,
    stop: oneshot::Sender<Duration>,
    thread: JoinHandle<(Result<(), FlushError>, Duration)>,
}

impl Service {
    /// A service on a runtime.
    pub(crate) fn start(host: Host, traces: &Arc<Traces>, probe: &'static Probe) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let traces = Arc::clone(traces);
        let thread = std::thread::spawn(move || {
            let tracer = traces.tracer();
            let runtime = host.runtime(move || probe.thread_serves(tracer));
            if host == Host::CurrentThread {
                probe.thread_serves(tracer);
            }
            runtime.block_on(async {
                let app = Router::new()
                    .route("/", get(order))
                    .layer(TraceLayer::new().tracer(traces.tracer()))
                    .layer(Bracket(probe))
                    .route("/say/{what}", get(say))
                    .with_state(probe);
                let listener = tokio::net::TcpListener::bind(backend::any_port()).await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                tokio::spawn(async { axum::serve(listener, app).await });
                let deadline = stopped.await.unwrap();
                // On a task, as a service would.
                let tracer = traces.tracer();
                tokio::spawn(async move {
                    let asked = Instant::now();
                    (tracer.shutdown(deadline).await, asked.elapsed())
                })
                .await
                .unwrap()
            })
        });
        Self { address: is_ready.recv().unwrap(), stop, thread }
    }

    pub(crate) fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client(BufReader::new(stream))
    }

    /// Shuts the pipeline down on the service's own runtime; tells how that ended, and after how long.
    pub(crate) fn shut_down(self, deadline: Duration) -> (Result<(), FlushError>, Duration) {
        self.stop.send(deadline).unwrap();
        self.thread.join().unwrap()
    }
}

async fn order(State(probe): State<&'static Probe>) -> &'static str {
    probe.request();
    "served"
}

async fn say(State(probe): State<&'static Probe>, Path(what): Path<String>) -> &'static str {
    if let Some(announce) = probe.announce {
        announce(&what);
    }
    "said"
}

/// A caller on a connection of its own.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    /// The status of the answer, and its body.
    pub(crate) fn get(&mut self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\nuser-agent: matrix\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut length = 0;
        while line.trim_end() != "" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    /// Whether a request is answered as it should be.
    pub(crate) fn is_served(&mut self) -> bool {
        self.get("/") == (200, "served".to_owned())
    }
}

/// The same work where there is no runtime: a root and what is below it.
pub(crate) fn work(tracer: Tracer, probe: &'static Probe) {
    probe.charged(|| tracer.span("GET /").start().enter(|| probe.request()));
}

/// Uses up the pipeline's memory for finished spans, if the collector lets it.
pub(crate) fn fill(traces: &Traces) {
    let short = |stats: &trace_core::Stats| stats.shed > 0 || stats.dropped.total() > 0;
    let (began, padding) = (Instant::now(), "x".repeat(200));
    while !short(&traces.stats()) && began.elapsed() < Duration::from_millis(60) {
        for _ in 0..100 {
            traces.span("filler").attribute("padding", &*padding).end();
        }
    }
}
