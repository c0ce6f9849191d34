//! The receiver as a test sees it: where it listens, what came, what it is told to do.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::sync::Notify;

use super::behaviour::{Behaviour, Plan};
use super::door::{Door, Given};
use super::serve;
use super::stage::Stage;
use super::tls::Tls;
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
    doors: Arc<Doors>,
    scheme: &'static str,
    stage: Stage,
}

struct Doors {
    http: Door,
    grpc: Door,
}

/// Where a [`Collector`] listens, and where its spans go.
pub struct CollectorBuilder {
    http: SocketAddr,
    grpc: SocketAddr,
    deliver: Option<Deliver>,
    /// A certificate's chain and its key, in PEM.
    #[cfg(feature = "tls")]
    certificate: Option<(String, String)>,
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
        CollectorBuilder {
            http: loopback,
            grpc: loopback,
            deliver: None,
            #[cfg(feature = "tls")]
            certificate: None,
        }
    }

    /// `http://127.0.0.1:<port>`: what `OTEL_EXPORTER_OTLP_ENDPOINT` is for `http/protobuf`. With TLS it is
    /// `https://localhost:<port>`.
    pub fn http_endpoint(&self) -> String {
        self.endpoint(self.http_address())
    }

    /// `http://127.0.0.1:<port>`: what `OTEL_EXPORTER_OTLP_ENDPOINT` is for `grpc`. With TLS it is
    /// `https://localhost:<port>`.
    pub fn grpc_endpoint(&self) -> String {
        self.endpoint(self.grpc_address())
    }

    fn endpoint(&self, address: SocketAddr) -> String {
        match self.scheme {
            "https" => format!("https://localhost:{}", address.port()),
            scheme => format!("{scheme}://{address}"),
        }
    }

    /// The address of the HTTP port.
    pub fn http_address(&self) -> SocketAddr {
        self.doors.http.address()
    }

    /// The address of the gRPC port.
    pub fn grpc_address(&self) -> SocketAddr {
        self.doors.grpc.address()
    }

    /// From now on the collector does this with every request, also on connections that are open. What was told to
    /// [`behave_once`](Self::behave_once) and has not happened yet is forgotten, and so is what it
    /// [plays](Self::play); a request that hangs already goes on hanging.
    ///
    /// # Blocking
    /// For [`Behaviour::Refuse`] and [`Behaviour::Freeze`], and for what follows them, until the ports are so:
    /// microseconds.
    pub fn behave(&self, behaviour: Behaviour) {
        let orders = {
            let mut state = self.shared.lock();
            state.turn += 1;
            state.stand(behaviour, &self.doors)
        };
        for order in orders.into_iter().flatten() {
            // A port that cannot be had again shows in every request that follows.
            let _ = order.wait();
        }
    }

    /// From now on the collector behaves as the schedule says, each time for so long, by a clock of its own; when the
    /// schedule is over it goes on as it was told last. Another `play`, or [`behave`](Self::behave), ends it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trace_core::testing::{Behaviour, Collector};
    /// # async fn example() -> std::io::Result<()> {
    /// let collector = Collector::start().await?;
    /// // Away for a second.
    /// collector.play([(Behaviour::Refuse, Duration::from_secs(1)), (Behaviour::Accept, Duration::ZERO)]);
    /// // Well and ill in turn, at random.
    /// collector.play(Behaviour::flapping(7, Duration::from_millis(100)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn play<S>(&self, schedule: S)
    where
        S: IntoIterator<Item = (Behaviour, Duration), IntoIter: Send + 'static>,
    {
        let (shared, doors) = (Arc::clone(&self.shared), Arc::clone(&self.doors));
        let turn = {
            let mut state = shared.lock();
            state.turn += 1;
            state.turn
        };
        let schedule = schedule.into_iter();
        self.stage.handle().spawn(async move {
            for (behaviour, pause) in schedule {
                {
                    let mut state = shared.lock();
                    if state.turn != turn {
                        return;
                    }
                    state.stand(behaviour, &doors);
                }
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Goes to another address, and keeps its ports: connections are closed, and new ones refused where it was. On
    /// Linux, every address in 127.0.0.0/8 will do. [`Names`](super::Names) lets a sender find it by name.
    ///
    /// # Errors
    /// A port is taken there, or the address is none of this machine's.
    ///
    /// # Blocking
    /// Until it is there: microseconds.
    pub fn move_to(&self, address: IpAddr) -> io::Result<()> {
        self.doors.http.move_to(address).wait()?;
        self.doors.grpc.move_to(address).wait()
    }

    /// The next request for which nothing is planned yet is treated like this; those after it as before. A single
    /// request cannot be refused, nor find everything frozen: for [`Behaviour::Refuse`] its connection is reset, for
    /// [`Behaviour::Freeze`] it is not answered.
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

    /// The id of every span that came, in the order of arrival, whether it was kept or not: what the collector *may*
    /// have, from where a sender stands that got no answer.
    pub fn seen_span_ids(&self) -> Vec<SpanId> {
        self.shared.lock().seen.clone()
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
        state.seen.clear();
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
            let _timer = self.stage.handle().enter();
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

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector")
            .field("http", &self.http_address())
            .field("grpc", &self.grpc_address())
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

    /// Speaks TLS on both ports, as whom this certificate names: its chain, the server's own first, and its key, both in
    /// PEM. Whom the sender trusts is the sender's affair, so that a certificate can be wrong in every way.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.certificate = Some((certificate.into(), key.into()));
        self
    }

    /// Starts the collector.
    ///
    /// # Errors
    /// An address could not be bound, or no thread started, or a certificate cannot be read.
    pub async fn start(self) -> io::Result<Collector> {
        self.start_blocking()
    }

    /// The same where no runtime is.
    ///
    /// # Errors
    /// An address could not be bound, or no thread started, or a certificate cannot be read.
    pub fn start_blocking(self) -> io::Result<Collector> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            arrival: Notify::new(),
            blocking_arrival: Condvar::new(),
            deliver: self.deliver,
        });
        #[cfg(feature = "tls")]
        let certificate = self.certificate;
        #[cfg(not(feature = "tls"))]
        let certificate: Option<(String, String)> = None;
        let stage = Stage::start("otlp-collector")?;
        let open = |address, protocol| {
            let tls = match &certificate {
                Some((certificate, key)) => Some(Tls::new(certificate, key, protocol)?),
                None => None,
            };
            let listener = TcpListener::bind(address)?;
            let _reactor = stage.handle().enter();
            let shared = Arc::clone(&shared);
            let (door, kept) = Door::open(listener, move |stream| {
                serve::connection(stream, protocol, tls.clone(), Arc::clone(&shared))
            })?;
            stage.handle().spawn(kept);
            io::Result::Ok(door)
        };
        let doors = Arc::new(Doors {
            http: open(self.http, Protocol::Http)?,
            grpc: open(self.grpc, Protocol::Grpc)?,
        });
        let scheme = if certificate.is_some() { "https" } else { "http" };
        Ok(Collector { shared, doors, scheme, stage })
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

#[derive(Default)]
struct State {
    plan: Plan,
    /// How often somebody said how to behave: who plays a schedule ends when it is not his turn any more.
    turn: u64,
    spans: Vec<SpanData>,
    seen: Vec<SpanId>,
    requests: Vec<Request>,
}

impl State {
    /// Behaves so from now on. The ports are told while nobody else can tell them otherwise.
    fn stand(&mut self, behaviour: Behaviour, doors: &Doors) -> Option<[Given; 2]> {
        let was = self.plan.stance();
        self.plan.stand(behaviour);
        let is = self.plan.stance();
        (was != is).then(|| [doors.http.stand(is), doors.grpc.stand(is)])
    }
}

impl Shared {
    /// Takes note of a request, keeps of its spans what the plan says, and tells what to answer.
    pub(super) fn receive(&self, request: Request, mut spans: Vec<SpanData>) -> Behaviour {
        let behaviour = {
            let mut state = self.lock();
            let behaviour = state.plan.take();
            if self.deliver.is_none() {
                state.seen.extend(spans.iter().map(|span| span.span_id));
            }
            if let Behaviour::PartialSuccess { rejected, .. } = &behaviour {
                spans.drain(..(*rejected).min(spans.len()));
            }
            if !behaviour.keeps() {
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
