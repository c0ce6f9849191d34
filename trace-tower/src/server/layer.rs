//! The layer and its options.

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::{Extensions, HeaderName, Uri};
use tower_layer::Layer;
use trace_core::{Scope, Tracer};

use super::{HttpServer, ServerTrace};
use crate::call::RequestHead;
use crate::conventions::{KnownMethods, QueryRedaction};

/// A layer that makes a span of every request.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use trace_tower::ServerTraceLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), std::convert::Infallible> {
/// let service = ServiceBuilder::new()
///     .layer(ServerTraceLayer::new().ignore_paths(["/healthz"]))
///     .service(service_fn(async |_: Request<()>| {
///         Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
///     }));
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.status(), 200);
/// # Ok(())
/// # }
/// ```
///
/// It belongs around a whole service, and once: a second one inside makes a second span, a child of the first.
///
/// The type parameter is the [`Protocol`](crate::Protocol) that the service speaks; its options are its own.
#[derive(Clone, Debug, Default)]
pub struct ServerTraceLayer<P = HttpServer> {
    protocol: P,
}

impl<P> ServerTraceLayer<P> {
    /// A layer for services that speak this protocol.
    pub const fn of(protocol: P) -> Self {
        Self { protocol }
    }

    /// The protocol, with its options.
    pub const fn protocol(&self) -> &P {
        &self.protocol
    }
}

impl<S, P: Clone> Layer<S> for ServerTraceLayer<P> {
    type Service = ServerTrace<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        ServerTrace::new(inner, self.protocol.clone())
    }
}

impl ServerTraceLayer {
    /// For a service inside: it continues its callers' traces, and adds nothing to what it answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a service at the edge: as [`new`](Self::new), and every answer tells its trace
    /// ([`response_headers`](Self::response_headers)).
    pub fn ingress() -> Self {
        Self::new().response_headers(true)
    }

    /// Makes the spans by this tracer, instead of the global one ([`trace_core::init`]).
    #[must_use]
    pub fn tracer(mut self, tracer: Tracer) -> Self {
        self.protocol.options.update(|options| options.tracer = Some(tracer));
        self
    }

    /// Makes spans only of the requests for which this says so.
    ///
    /// A request that is left out still passes on its caller's context: what is done for it stays in the caller's trace.
    ///
    /// ```
    /// # use trace_tower::ServerTraceLayer;
    /// let layer = ServerTraceLayer::new().filter(|request| !request.headers.contains_key("x-synthetic"));
    /// ```
    #[must_use]
    pub fn filter(mut self, wanted: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.protocol.options.update(|options| options.filter = Some(Arc::new(wanted)));
        self
    }

    /// Leaves out the requests for these paths, such as those of health checks: see [`filter`](Self::filter).
    ///
    /// They are compared whole, with the path that the client asked for.
    #[must_use]
    pub fn ignore_paths<T: Into<String>>(mut self, paths: impl IntoIterator<Item = T>) -> Self {
        self.protocol
            .options
            .update(|options| options.ignored_paths.extend(paths.into_iter().map(Into::into)));
        self
    }

    /// Keeps the values of these keys in `url.query`; those of all others become `REDACTED`.
    #[must_use]
    pub fn query_allow_list<T>(self, keys: impl IntoIterator<Item = T>) -> Self
    where
        T: Into<String>,
    {
        self.query_redaction(QueryRedaction::all_but(keys))
    }

    /// Says which values of a query are kept back. Default: all.
    #[must_use]
    pub fn query_redaction(mut self, redaction: QueryRedaction) -> Self {
        self.protocol.options.update(|options| options.query = redaction);
        self
    }

    /// Says which methods are told by their names, instead of those that the conventions know.
    #[must_use]
    pub fn known_methods(mut self, methods: KnownMethods) -> Self {
        self.protocol.options.update(|options| options.methods = methods);
        self
    }

    /// The `url.scheme`, where a proxy takes TLS off before this service. Default: that of the request's target, which
    /// HTTP/2 sends and HTTP/1.1 does not; else `http`.
    #[must_use]
    pub fn scheme(mut self, scheme: &'static str) -> Self {
        self.protocol.options.update(|options| options.scheme = Some(scheme));
        self
    }

    /// Whether answers tell their trace: `server-timing: trace;desc=00-…`, beside what the service says there, and
    /// `x-trace-id`. Also for requests that are not sampled.
    #[must_use]
    pub fn response_headers(mut self, on: bool) -> Self {
        self.protocol.options.update(|options| options.response_headers = on);
        self
    }

    /// The name of the header with the bare trace id. Default: `x-trace-id`.
    #[must_use]
    pub fn trace_id_header(mut self, name: HeaderName) -> Self {
        self.protocol.options.update(|options| options.trace_id_header = name);
        self
    }

    /// Whether the `exception` event of a panic has its message, which leaves the process as it is. Default: no.
    #[must_use]
    pub fn panic_messages(mut self, on: bool) -> Self {
        self.protocol.options.update(|options| options.panic_messages = on);
        self
    }

    /// Where the router leaves the route that it matched, such as `/orders/{id}`.
    #[must_use]
    pub fn route_from(mut self, route: fn(&Extensions) -> Option<&str>) -> Self {
        self.protocol.options.update(|options| options.route = Some(route));
        self
    }

    /// Where the router leaves the target of the request, before it takes off what it has matched.
    #[must_use]
    pub fn original_uri_from(mut self, uri: fn(&Extensions) -> Option<&Uri>) -> Self {
        self.protocol.options.update(|options| options.original_uri = Some(uri));
        self
    }

    /// Where the server leaves the address at the other end of the connection.
    ///
    /// ```
    /// # use std::net::SocketAddr;
    /// # use trace_tower::ServerTraceLayer;
    /// let layer = ServerTraceLayer::new().peer_from(|extensions| extensions.get::<SocketAddr>().copied());
    /// ```
    #[must_use]
    pub fn peer_from(mut self, peer: fn(&Extensions) -> Option<SocketAddr>) -> Self {
        self.protocol.options.update(|options| options.peer = Some(peer));
        self
    }

    /// The code that the spans are said to be made by. Default: this crate.
    #[must_use]
    pub fn scope(mut self, scope: &'static Scope) -> Self {
        self.protocol.options.update(|options| options.scope = scope);
        self
    }
}
