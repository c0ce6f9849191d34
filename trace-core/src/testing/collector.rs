//! The receiver as a test sees it: where it listens, what came, what it is told to do.
//!
//! It lives on a thread and a runtime of its own, because a test may block its only thread (`#[tokio::test]` has one)
//! while the exporter under test waits for an answer.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, oneshot};

use super::behaviour::{Behaviour, Plan};
use super::serve::{self, Door};
use crate::SpanId;
use crate::otlp::{SpanData, TraceTree};

/// An OTLP receiver on loopback, for tests.
///
/// It takes `POST /v1/traces` (protobuf) on its HTTP port and `TraceService/Export` on its gRPC port, gzip on both, and
/// keeps the spans in the order of their arrival. It stops when it is dropped.
///
/// ```
/// # use std::time::Duration;
/// # use trace_core::testing::{Behaviour, Collector};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let collector = Collector::start().await?;
/// // ... the service under test exports to `collector.http_endpoint()` ...
/// for trace in collector.wait_for_spans(3, Duration::from_secs(5)).await.map(|_| collector.traces())? {
///     trace.check()?;
///     println!("{trace}");
/// }
/// collector.behave(Behaviour::Hang);
/// # Ok(())
/// # }
/// ```
pub struct Collector {
    shared: Arc<Shared>,
    http: Door,
    grpc: Door,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Where a [`Collector`] listens, and where its spans go.
pub struct CollectorBuilder {
    http: SocketAddr,
    grpc: SocketAddr,
    deliver: Option<Deliver>,
}

type Deliver = Box<dyn Fn(Vec<SpanData>) + Send + Sync>;

/// An export request as it came.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// By which protocol.
    pub protocol: Protocol,
    /// The path that was asked for.
    pub path: String,
    /// The headers, which over gRPC are the call's metadata.
    pub headers: HeaderMap,
    /// The body's length as it came, in bytes: compressed if it was.
    pub wire_bytes: usize,
    /// The length of the message in bytes, as OpenTelemetry's own types would encode it; zero if it could not be read.
    pub message_bytes: usize,
    /// The number of spans in it.
    pub spans: usize,
    /// Why it was refused although the collector was told to accept: the request broke the protocol.
    pub malformed: Option<String>,
}

/// One of the two protocols of a [`Collector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// OTLP/HTTP with protobuf.
    Http,
    /// OTLP/gRPC.
    Grpc,
}

/// What was waited for did not come in time. Its text says what did come.
#[derive(Clone, PartialEq, Eq)]
pub struct WaitError {
    timeout: Duration,
    came: String,
}

impl Collector {
    /// Starts a collector on two free ports of the loopback address.
    ///
    /// It runs on a thread of its own, so that it answers even while the test's runtime is blocked.
    ///
    /// # Errors
    /// No port could be bound, or no thread started.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start_blocking()
    }

    /// The same where no runtime is.
    ///
    /// # Errors
    /// No port could be bound, or no thread started.
    pub fn start_blocking() -> io::Result<Self> {
        Self::builder().start_blocking()
    }

    /// A collector with addresses of your own, or one that passes its spans on.
    pub fn builder() -> CollectorBuilder {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        CollectorBuilder { http: loopback, grpc: loopback, deliver: None }
    }

    /// `http://127.0.0.1:<port>`: what `OTEL_EXPORTER_OTLP_ENDPOINT` is for `http/protobuf`.
    pub fn http_endpoint(&self) -> String {
        format!("http://{}", self.http.address())
    }

    /// `http://127.0.0.1:<port>`: what `OTEL_EXPORTER_OTLP_ENDPOINT` is for `grpc`.
    pub fn grpc_endpoint(&self) -> String {
        format!("http://{}", self.grpc.address())
    }

    /// The address of the HTTP port.
    pub fn http_address(&self) -> SocketAddr {
        self.http.address()
    }

    /// The address of the gRPC port.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc.address()
    }

    /// From now on the collector does this with every request, also on connections that are open. What was told to
    /// [`behave_once`](Self::behave_once) and has not happened yet is forgotten; a request that hangs already goes on
    /// hanging.
    ///
    /// # Blocking
    /// For [`Behaviour::Refuse`], and for what follows it, until the ports are closed and open again: microseconds.
    pub fn behave(&self, behaviour: Behaviour) {
        let (was, is) = {
            let mut state = self.shared.lock();
            let was = state.plan.refuses();
            state.plan.stand(behaviour);
            (was, state.plan.refuses())
        };
        if was != is {
            self.http.set_open(!is);
            self.grpc.set_open(!is);
        }
    }

    /// The next request for which nothing is planned yet is treated like this; those after it as before. A single
    /// request cannot be refused: for [`Behaviour::Refuse`] its connection is reset.
    pub fn behave_once(&self, behaviour: Behaviour) {
        self.shared.lock().plan.once(behaviour);
    }

    /// Every span that was kept, in the order of arrival.
    pub fn spans(&self) -> Vec<SpanData> {
        self.shared.lock().spans.clone()
    }

    /// The id of every span that was kept, in the order of arrival; one that came twice is here twice.
    pub fn span_ids(&self) -> Vec<SpanId> {
        self.shared.lock().spans.iter().map(|span| span.span_id).collect()
    }

    /// The traces that the spans so far make up, the one that came first at the front.
    pub fn traces(&self) -> Vec<TraceTree> {
        TraceTree::group(self.spans())
    }

    /// Every request that came, whatever was answered.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Forgets the spans and requests so far.
    pub fn clear(&self) {
        let mut state = self.shared.lock();
        state.spans.clear();
        state.requests.clear();
    }

    /// Waits until at least `count` spans are there, and gives all that are.
    ///
    /// # Errors
    /// There were fewer after `timeout`.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub async fn wait_for_spans(&self, count: usize, timeout: Duration) -> Result<Vec<SpanData>, WaitError> {
        self.wait_for(|spans| spans.len() >= count, timeout).await
    }

    /// Waits until `done` says so of the spans so far, and gives them. It is asked once now and after each arrival.
    /// The future needs no particular executor.
    ///
    /// # Errors
    /// It still said no after `timeout`.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub async fn wait_for(
        &self,
        mut done: impl FnMut(&[SpanData]) -> bool,
        timeout: Duration,
    ) -> Result<Vec<SpanData>, WaitError> {
        // The collector's own clock runs even where the caller has none, or has stopped it.
        let deadline = {
            let _timer = self.runtime.enter();
            tokio::time::sleep(timeout)
        };
        tokio::pin!(deadline);
        loop {
            let arrival = self.shared.arrival.notified();
            tokio::pin!(arrival);
            arrival.as_mut().enable();
            {
                let state = self.shared.lock();
                if done(&state.spans) {
                    return Ok(state.spans.clone());
                }
            }
            tokio::select! {
                biased;
                () = &mut arrival => {}
                () = &mut deadline => return Err(WaitError::new(timeout, &self.shared.lock())),
            }
        }
    }

    /// [`wait_for_spans`](Self::wait_for_spans) where no runtime is.
    ///
    /// # Errors
    /// There were fewer after `timeout`.
    ///
    /// # Blocking
    /// For at most `timeout`.
    pub fn blocking_wait_for_spans(
        &self,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<SpanData>, WaitError> {
        self.blocking_wait_for(|spans| spans.len() >= count, timeout)
    }

    /// [`wait_for`](Self::wait_for) where no runtime is.
    ///
    /// # Errors
    /// `done` still said no after `timeout`.
    ///
    /// # Blocking
    /// For at most `timeout`.
    pub fn blocking_wait_for(
        &self,
        mut done: impl FnMut(&[SpanData]) -> bool,
        timeout: Duration,
    ) -> Result<Vec<SpanData>, WaitError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            if done(&state.spans) {
                return Ok(state.spans.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WaitError::new(timeout, &state));
            }
            state = self
                .shared
                .blocking_arrival
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // Its panic, if there was one, has been printed on its own thread.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector")
            .field("http", &self.http.address())
            .field("grpc", &self.grpc.address())
            .field("spans", &self.shared.lock().spans.len())
            .finish_non_exhaustive()
    }
}

impl CollectorBuilder {
    /// Listens for OTLP/HTTP here. Default: a free port of 127.0.0.1.
    pub fn http_address(mut self, address: SocketAddr) -> Self {
        self.http = address;
        self
    }

    /// Listens for OTLP/gRPC here. Default: a free port of 127.0.0.1.
    pub fn grpc_address(mut self, address: SocketAddr) -> Self {
        self.grpc = address;
        self
    }

    /// Gives the spans of each accepted request to `deliver`, and keeps neither spans nor requests: for a collector
    /// that runs for long. `deliver` is called on the collector's thread.
    pub fn deliver_to(mut self, deliver: impl Fn(Vec<SpanData>) + Send + Sync + 'static) -> Self {
        self.deliver = Some(Box::new(deliver));
        self
    }

    /// Starts the collector.
    ///
    /// # Errors
    /// An address could not be bound, or no thread started.
    pub async fn start(self) -> io::Result<Collector> {
        self.start_blocking()
    }

    /// The same where no runtime is.
    ///
    /// # Errors
    /// An address could not be bound, or no thread started.
    pub fn start_blocking(self) -> io::Result<Collector> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { plan: Plan::new(), spans: Vec::new(), requests: Vec::new() }),
            arrival: Notify::new(),
            blocking_arrival: Condvar::new(),
            deliver: self.deliver,
        });
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let open = |address, protocol| {
            let listener = TcpListener::bind(address)?;
            let _reactor = handle.enter();
            serve::open(listener, protocol, Arc::clone(&shared))
        };
        let (http, http_serving) = open(self.http, Protocol::Http)?;
        let (grpc, grpc_serving) = open(self.grpc, Protocol::Grpc)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("otlp-collector".to_owned()).spawn(move || {
            crate::context::be_quiet();
            runtime.block_on(async move {
                tokio::select! {
                    // The sender is dropped, never used.
                    _ = stopped => {}
                    () = http_serving => {}
                    () = grpc_serving => {}
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Collector { shared, http, grpc, runtime: handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl fmt::Debug for CollectorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorBuilder")
            .field("http", &self.http)
            .field("grpc", &self.grpc)
            .finish_non_exhaustive()
    }
}

/// What the connections and the test's own side have in common.
pub(super) struct Shared {
    state: Mutex<State>,
    arrival: Notify,
    blocking_arrival: Condvar,
    deliver: Option<Deliver>,
}

struct State {
    plan: Plan,
    spans: Vec<SpanData>,
    requests: Vec<Request>,
}

impl Shared {
    /// Takes note of a request, keeps of its spans what the plan says, and tells what to answer.
    pub(super) fn receive(&self, request: Request, mut spans: Vec<SpanData>) -> Behaviour {
        let behaviour = {
            let mut state = self.lock();
            let behaviour = state.plan.take();
            let kept = match &behaviour {
                Behaviour::Accept | Behaviour::Delay(_) => true,
                Behaviour::PartialSuccess { rejected, .. } => {
                    spans.drain(..(*rejected).min(spans.len()));
                    true
                }
                _ => false,
            };
            if !kept {
                spans.clear();
            }
            if self.deliver.is_none() {
                state.requests.push(request);
                state.spans.append(&mut spans);
            }
            behaviour
        };
        if let Some(deliver) = &self.deliver
            && !spans.is_empty()
        {
            deliver(spans);
        }
        self.arrival.notify_waiters();
        self.blocking_arrival.notify_all();
        behaviour
    }

    /// Takes note of a request that broke the protocol and was refused for it.
    pub(super) fn receive_malformed(&self, request: Request) {
        if self.deliver.is_none() {
            self.lock().requests.push(request);
        }
        self.arrival.notify_waiters();
        self.blocking_arrival.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitError {
    fn new(timeout: Duration, state: &State) -> Self {
        let mut came = format!("{} spans in {} requests", state.spans.len(), state.requests.len());
        let mut names: HashMap<(&str, &str), usize> = HashMap::new();
        for span in &state.spans {
            *names.entry((span.service_name(), &span.name)).or_default() += 1;
        }
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable();
        for ((service, name), count) in names.into_iter().take(50) {
            let _ = write!(came, "\n  {count} × {service}: {name:?}");
        }
        for request in state.requests.iter().filter(|request| request.malformed.is_some()).take(5) {
            let _ = write!(came, "\n  malformed: {}", request.malformed.as_deref().unwrap_or_default());
        }
        Self { timeout, came }
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what was waited for did not come within {:?}; what came: {}", self.timeout, self.came)
    }
}

/// The same text as [`Display`](fmt::Display), because `unwrap` in a test prints this one.
impl fmt::Debug for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for WaitError {}
