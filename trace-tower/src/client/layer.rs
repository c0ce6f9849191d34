//! The layer and its options.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use ::http::Extensions;
use tower_layer::Layer;
use trace_core::{Scope, Tracer};

use super::{ClientTrace, HttpClient};
use crate::call::RequestHead;
use crate::conventions::{KnownMethods, QueryRedaction};

/// A layer that makes a span of every request that is sent, and sends its context along.
///
/// It belongs inside whatever sends a request several times, such as a retry: then each attempt is a span of its own.
///
/// ```
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use trace_tower::ClientTraceLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = ServiceBuilder::new()
///     .layer(ClientTraceLayer::new())
///     .service(service_fn(async |_: Request<()>| Ok::<_, std::io::Error>(Response::new(()))));
/// let request = Request::get("http://inventory:8080/items/7?fields=all").body(())?;
/// assert_eq!(client.oneshot(request).await?.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ClientTraceLayer {
    protocol: HttpClient,
}

impl<S> Layer<S> for ClientTraceLayer {
    type Service = ClientTrace<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientTrace::new(inner, self.protocol.clone())
    }
}

impl ClientTraceLayer {
    /// Spans below the current context, for any client.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the spans by this tracer, instead of that of the current context, or the global one ([`trace_core::init`]).
    #[must_use]
    pub fn tracer(mut self, tracer: Tracer) -> Self {
        self.protocol.options_mut().tracer = Some(tracer);
        self
    }

    /// Makes spans only of the requests for which this says so. One that is left out still sends the current context
    /// along.
    #[must_use]
    pub fn filter(mut self, wanted: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.protocol.options_mut().filter = Some(Arc::new(wanted));
        self
    }

    /// Keeps the values of these keys in the query of `url.full`; those of all others become `REDACTED`.
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
        self.protocol.options_mut().query = redaction;
        self
    }

    /// Says which methods are told by their names, instead of those that the conventions know.
    #[must_use]
    pub fn known_methods(mut self, methods: KnownMethods) -> Self {
        self.protocol.options_mut().methods = methods;
        self
    }

    /// Where the client leaves the address at the other end of the connection, in the extensions of the response.
    #[must_use]
    pub fn peer_from(mut self, peer: fn(&Extensions) -> Option<SocketAddr>) -> Self {
        self.protocol.options_mut().peer = peer;
        self
    }

    /// The type of the client's errors, so that `error.type` can tell what lies beneath them, such as
    /// `connection_refused`. Not needed for errors that are boxed, or an [`io::Error`](std::io::Error).
    #[must_use]
    pub fn error<E: Error + 'static>(mut self) -> Self {
        self.protocol.options_mut().error = |error| error.downcast_ref::<E>().map(|error| error as _);
        self
    }

    /// The code that the spans are said to be made by. Default: this crate.
    #[must_use]
    pub fn scope(mut self, scope: &'static Scope) -> Self {
        self.protocol.options_mut().scope = scope;
        self
    }
}
