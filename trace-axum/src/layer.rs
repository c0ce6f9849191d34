//! The layer and its options: those of trace-tower, for a stack that is known.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::connect_info::MockConnectInfo;
use axum::extract::{ConnectInfo, MatchedPath, OriginalUri};
use http::{Extensions, HeaderName, Uri};
use tower_layer::Layer;
use trace_core::{Scope, Span, Tracer};
use trace_tower::conventions::{KnownMethods, QueryRedaction};
use trace_tower::server::{Framework, HttpServer, HttpServerCall};
use trace_tower::{Protocol, RequestHead, ServerTrace, ServerTraceLayer};

use crate::Trace;

static SCOPE: Scope = Scope::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// Makes a span of every request that a router serves: see the [crate](crate).
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use trace_axum::TraceLayer;
///
/// let app: Router = Router::new()
///     .route("/orders/{id}", get(async || "an order"))
///     .route("/healthz", get(async || "ok"))
///     .layer(TraceLayer::new().ignore_paths(["/healthz"]).query_allow_list(["page"]));
/// ```
#[derive(Clone, Debug)]
pub struct TraceLayer {
    layer: ServerTraceLayer,
}

impl Default for TraceLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace::new(ServerTrace::new(inner, Axum(*self.layer.protocol())))
    }
}

impl TraceLayer {
    /// For a service inside: it continues its callers' traces, and adds nothing to what it answers.
    pub fn new() -> Self {
        Self::of(ServerTraceLayer::new())
    }

    /// For a service at the edge: as [`new`](Self::new), and every answer tells its trace
    /// ([`response_headers`](Self::response_headers)).
    pub fn ingress() -> Self {
        Self::of(ServerTraceLayer::ingress())
    }

    fn of(layer: ServerTraceLayer) -> Self {
        Self { layer: layer.scope(&SCOPE) }
    }

    /// Makes the spans by this tracer, instead of the global one ([`trace_core::init`]).
    #[must_use]
    pub fn tracer(self, tracer: Tracer) -> Self {
        Self { layer: self.layer.tracer(tracer) }
    }

    /// Makes spans only of the requests for which this says so.
    ///
    /// A request that is left out still passes on its caller's context: what is done for it stays in the caller's trace.
    ///
    /// ```
    /// # use trace_axum::TraceLayer;
    /// let layer = TraceLayer::new().filter(|request| !request.headers.contains_key("x-synthetic"));
    /// ```
    #[must_use]
    pub fn filter(self, wanted: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self { layer: self.layer.filter(wanted) }
    }

    /// Leaves out the requests for these paths, such as those of health checks: see [`filter`](Self::filter).
    ///
    /// They are compared whole, with the path that the client asked for.
    #[must_use]
    pub fn ignore_paths<T: Into<String>>(self, paths: impl IntoIterator<Item = T>) -> Self {
        Self { layer: self.layer.ignore_paths(paths) }
    }

    /// Keeps the values of these keys in `url.query`; those of all others become `REDACTED`.
    #[must_use]
    pub fn query_allow_list<T: Into<String>>(self, keys: impl IntoIterator<Item = T>) -> Self {
        Self { layer: self.layer.query_allow_list(keys) }
    }

    /// Says which values of a query are kept back. Default: all.
    #[must_use]
    pub fn query_redaction(self, redaction: QueryRedaction) -> Self {
        Self { layer: self.layer.query_redaction(redaction) }
    }

    /// Says which methods are told by their names, instead of those that the conventions know.
    #[must_use]
    pub fn known_methods(self, methods: KnownMethods) -> Self {
        Self { layer: self.layer.known_methods(methods) }
    }

    /// The `url.scheme`, where a proxy takes TLS off before this service. Default: that of the request's target, which
    /// HTTP/2 sends and HTTP/1.1 does not; else `http`.
    #[must_use]
    pub fn scheme(self, scheme: &'static str) -> Self {
        Self { layer: self.layer.scheme(scheme) }
    }

    /// Whether answers tell their trace: `server-timing: trace;desc=00-…`, beside what the service says there, and
    /// `x-trace-id`. Also for requests that are not sampled.
    #[must_use]
    pub fn response_headers(self, on: bool) -> Self {
        Self { layer: self.layer.response_headers(on) }
    }

    /// The name of the header with the bare trace id. Default: `x-trace-id`.
    #[must_use]
    pub fn trace_id_header(self, name: HeaderName) -> Self {
        Self { layer: self.layer.trace_id_header(name) }
    }

    /// Whether the `exception` event of a panic has its message, which leaves the process as it is. Default: no.
    #[must_use]
    pub fn panic_messages(self, on: bool) -> Self {
        Self { layer: self.layer.panic_messages(on) }
    }

    /// Where the server leaves the address at the other end of the connection, if not as a
    /// [`ConnectInfo<SocketAddr>`](ConnectInfo).
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use axum::extract::ConnectInfo;
    /// use trace_axum::TraceLayer;
    ///
    /// #[derive(Clone)]
    /// struct Connection {
    ///     peer: SocketAddr,
    ///     // ... what else the service wants to know of its connections
    /// }
    ///
    /// let layer = TraceLayer::new()
    ///     .peer_from(|extensions| extensions.get::<ConnectInfo<Connection>>().map(|ConnectInfo(info)| info.peer));
    /// ```
    #[must_use]
    pub fn peer_from(self, peer: fn(&Extensions) -> Option<SocketAddr>) -> Self {
        Self { layer: self.layer.peer_from(peer) }
    }
}

/// HTTP as a service of axum's sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axum(HttpServer);

impl Protocol for Axum {
    type Call = HttpServerCall;

    #[inline]
    fn start(&self, request: RequestHead<'_>) -> (Span, HttpServerCall) {
        self.0.start_in::<Self>(request)
    }
}

impl Framework for Axum {
    #[inline]
    fn route(extensions: &Extensions) -> Option<&str> {
        extensions.get::<MatchedPath>().map(MatchedPath::as_str)
    }

    #[inline]
    fn original_uri(extensions: &Extensions) -> Option<&Uri> {
        extensions.get::<OriginalUri>().map(|OriginalUri(uri)| uri)
    }

    #[inline]
    fn peer(extensions: &Extensions) -> Option<SocketAddr> {
        match extensions.get::<ConnectInfo<SocketAddr>>() {
            Some(ConnectInfo(address)) => Some(*address),
            None => mocked_address(extensions),
        }
    }
}

#[cold]
fn mocked_address(extensions: &Extensions) -> Option<SocketAddr> {
    static SAID: AtomicBool = AtomicBool::new(false);
    let mocked = extensions.get::<MockConnectInfo<SocketAddr>>().map(|MockConnectInfo(address)| *address);
    if mocked.is_none() {
        say_once(&SAID, io::stderr());
    }
    mocked
}

/// Says why there are no addresses, unless that is said already.
fn say_once(said: &AtomicBool, mut to: impl Write) {
    // Relaxed: nothing else depends on it. It is read first, because every request may come here.
    if said.load(Ordering::Relaxed) || said.swap(true, Ordering::Relaxed) {
        return;
    }
    // There is nobody to tell that standard error is closed; `eprintln` would panic there.
    let _ = writeln!(
        to,
        "trace-axum: spans have no client.address and no network.peer.*: serve the router by \
         `into_make_service_with_connect_info::<SocketAddr>()`, or see `TraceLayer::peer_from`"
    );
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;

    use super::*;

    /// Takes nothing, and counts how often it is asked.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn that_addresses_are_missing_is_said_once_whether_or_not_it_can_be_written() {
        let (said, mut text) = (AtomicBool::new(false), Vec::new());
        say_once(&said, &mut text);
        say_once(&said, &mut text);
        assert_eq!(String::from_utf8(text).unwrap().matches("client.address").count(), 1);

        let (said, mut full, mut text) = (AtomicBool::new(false), Full(0), Vec::new());
        say_once(&said, &mut full);
        say_once(&said, &mut text);
        assert_eq!((full.0, text.len()), (1, 0));
    }

    #[test]
    fn requests_without_an_address_are_served_where_standard_error_is_broken() {
        const IS_CHILD: &str = "TRACE_AXUM_TEST_IS_CHILD";
        if env::var_os(IS_CHILD).is_some() {
            for _ in 0..2 {
                assert_eq!(Axum::peer(&Extensions::new()), None);
            }
            return;
        }
        // A process of its own, because standard error belongs to all of them.
        let (reader, broken) = io::pipe().unwrap();
        drop(reader);
        let name = "layer::tests::requests_without_an_address_are_served_where_standard_error_is_broken";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(IS_CHILD, "1")
            .stderr(broken)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
    }
}
