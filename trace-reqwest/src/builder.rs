//! The stack in its right order.

use std::fmt;
use std::sync::Arc;

use http::Extensions;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Request, Response, retry};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next, RequestInitialiser, Result};
use trace_core::Tracer;
use trace_tower::conventions::{KnownMethods, QueryRedaction};

use crate::TraceMiddleware;
use crate::follow::Follow;
use crate::middleware::{BoxFuture, Place, SECRET_HEADERS};

/// How many redirects a request may take, as in reqwest.
const REDIRECTS_MAX: u32 = 10;

/// A traced client with reqwest's defaults.
///
/// # Panics
/// As [`reqwest::Client::new`]: when the TLS backend or the resolver cannot be set up.
pub fn client() -> ClientWithMiddleware {
    builder(reqwest::Client::builder()).build().expect("reqwest can set itself up")
}

/// A traced client, built from any client of reqwest's.
pub fn builder(client: reqwest::ClientBuilder) -> Builder {
    Builder {
        client,
        middlewares: Vec::new(),
        initialisers: Vec::new(),
        trace: TraceMiddleware::new(),
        redirects_max: Some(REDIRECTS_MAX),
        referer: true,
        default_headers: HeaderMap::new(),
    }
}

/// Builds a [`ClientWithMiddleware`] whose every hop and attempt is a span.
///
/// Redirects, and requests that an HTTP/2 server refused unread, are handled here instead of inside reqwest, where nobody
/// could see them. They are handled as reqwest handles them, with these differences:
/// - The settings of the [`reqwest::ClientBuilder`] for them (`redirect`, `referer`, `retry`) are replaced by those here.
/// - A timeout of a request ([`RequestBuilder::timeout`](reqwest_middleware::RequestBuilder::timeout)) is one for all hops, as
///   in reqwest. One of the client (`ClientBuilder::timeout`) is one for each hop.
/// - Your middlewares see each hop.
/// - A redirect that a middleware makes up without saying of which URL it is
///   ([`ResponseBuilderExt::url`](reqwest::ResponseBuilderExt::url)) is for the caller: its `Location` has no base.
/// - The client that [`AsRef`] returns, around all middlewares, makes no spans; it follows redirects by itself.
pub struct Builder {
    client: reqwest::ClientBuilder,
    middlewares: Vec<Arc<dyn Middleware>>,
    initialisers: Vec<Arc<dyn RequestInitialiser>>,
    trace: TraceMiddleware,
    redirects_max: Option<u32>,
    referer: bool,
    default_headers: HeaderMap,
}

impl Builder {
    /// Adds a middleware inside those that were added before, and outside the spans.
    #[must_use]
    pub fn with(self, middleware: impl Middleware) -> Self {
        self.with_arc(Arc::new(middleware))
    }

    /// As [`with`](Self::with).
    #[must_use]
    pub fn with_arc(mut self, middleware: Arc<dyn Middleware>) -> Self {
        self.middlewares.push(middleware);
        self
    }

    /// Adds what prepares each request ([`ClientBuilder::with_init`]).
    #[must_use]
    pub fn with_init(self, initialiser: impl RequestInitialiser) -> Self {
        self.with_arc_init(Arc::new(initialiser))
    }

    /// As [`with_init`](Self::with_init).
    #[must_use]
    pub fn with_arc_init(mut self, initialiser: Arc<dyn RequestInitialiser>) -> Self {
        self.initialisers.push(initialiser);
        self
    }

    /// Makes the spans with this tracer. Default: the one of the context in which a request is made, else the global one
    /// ([`trace_core::init`]).
    #[must_use]
    pub fn tracer(mut self, tracer: Tracer) -> Self {
        self.trace = self.trace.tracer(tracer);
        self
    }

    /// Which values of a URL's query are left out of `url.full`. Default: all.
    #[must_use]
    pub fn redact_query(mut self, redaction: QueryRedaction) -> Self {
        self.trace = self.trace.redact_query(redaction);
        self
    }

    /// Which methods are known by their names; the others are `_OTHER`. Default: those of the conventions.
    #[must_use]
    pub fn known_methods(mut self, methods: KnownMethods) -> Self {
        self.trace = self.trace.known_methods(methods);
        self
    }

    /// How many redirects are followed; one more is an error whose [`is_redirect`](reqwest_middleware::Error::is_redirect)
    /// is true. Default: 10.
    #[must_use]
    pub const fn redirects(mut self, max: u32) -> Self {
        self.redirects_max = Some(max);
        self
    }

    /// Hands redirects to the caller instead of following them.
    #[must_use]
    pub const fn no_redirects(mut self) -> Self {
        self.redirects_max = None;
        self
    }

    /// Whether a request that follows a redirect tells in `Referer` where it came from: the URL before, without name,
    /// password and fragment, and never from an encrypted connection to one that is not. Default: it does.
    #[must_use]
    pub const fn referer(mut self, referer: bool) -> Self {
        self.referer = referer;
        self
    }

    /// Headers for every request that does not have them.
    ///
    /// They are like those of [`reqwest::ClientBuilder::default_headers`], but belong to the origin that the request was
    /// made for: when a redirect leads to another one, secrets (`Authorization`, `Cookie`) are left out.
    #[must_use]
    pub fn default_headers(mut self, headers: HeaderMap) -> Self {
        // As reqwest does it: the last value of a name counts.
        for (name, value) in &headers {
            self.default_headers.insert(name, value.clone());
        }
        self
    }

    /// Builds the client.
    ///
    /// # Errors
    /// Those of [`reqwest::ClientBuilder::build`].
    pub fn build(self) -> reqwest::Result<ClientWithMiddleware> {
        let alone = self.middlewares.is_empty();
        let trace = self.trace.at(if alone { Place::Alone } else { Place::Innermost });
        let follow = Follow {
            redirects_max: self.redirects_max,
            referer: self.referer,
            secret_defaults: has_secret_defaults(&self.client),
            trace: alone.then(|| trace.clone()),
        };
        // Without retries, reqwest need not keep a copy of the request either.
        let client = self
            .client
            .redirect(follow.policy())
            .referer(self.referer)
            .retry(retry::never().max_retries_per_request(0))
            .build()?;
        let mut builder = ClientBuilder::new(client);
        if !self.default_headers.is_empty() {
            builder = builder.with(DefaultHeaders(self.default_headers));
        }
        builder = builder.with(follow);
        for middleware in self.middlewares {
            builder = builder.with_arc(middleware);
        }
        for initialiser in self.initialisers {
            builder = builder.with_arc_init(initialiser);
        }
        if !alone {
            builder = builder.with(trace);
        }
        Ok(builder.build())
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("client", &self.client)
            .field("middlewares", &self.middlewares.len())
            .field("trace", &self.trace)
            .field("redirects_max", &self.redirects_max)
            .field("referer", &self.referer)
            .finish_non_exhaustive()
    }
}

/// Outside of the redirects, so that the headers are the request's own.
struct DefaultHeaders(HeaderMap);

impl Middleware for DefaultHeaders {
    fn handle<'life0, 'life1, 'life2, 'async_trait>(
        &'life0 self,
        mut request: Request,
        extensions: &'life1 mut Extensions,
        next: Next<'life2>,
    ) -> BoxFuture<'async_trait, Result<Response>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        Self: 'async_trait,
    {
        for (name, value) in &self.0 {
            request.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        next.run(request, extensions)
    }
}

/// Whether reqwest will add headers that another origin must not see.
///
/// A builder tells its default headers only by its `Debug`. Should that change, a probe finds out, and every client
/// counts as one with secrets: then redirects to other origins are reqwest's, and nothing leaks.
fn has_secret_defaults(client: &reqwest::ClientBuilder) -> bool {
    let mut probe = HeaderMap::new();
    for name in &SECRET_HEADERS {
        probe.insert(name, HeaderValue::from_static("probe"));
    }
    let probe = format!("{:?}", reqwest::Client::builder().default_headers(probe));
    let shown = format!("{client:?}");
    SECRET_HEADERS.iter().any(|name| {
        let name = format!("{:?}:", name.as_str());
        !probe.contains(&name) || shown.contains(&name)
    })
}
