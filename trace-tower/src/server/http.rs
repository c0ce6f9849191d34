//! What the conventions want to know of an HTTP request that is served.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ::http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use trace_core::{Attributes, Scope, Span, SpanKind, SpanName, Tracer, cold_path, semconv};

use crate::Lasting;
use crate::call::{Call, Ending, Protocol, RequestHead, ResponseHead};
use crate::conventions::{
    KnownMethods, MethodName, QueryRedaction, RequestHeaders, authority, caller_context, header_str,
    note_panic, put_response_headers, set_header, set_served,
};

static SCOPE: Scope = Scope::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// HTTP as a server sees it, with the options of [`ServerTraceLayer`](super::ServerTraceLayer).
#[derive(Clone, Copy, Debug)]
pub struct HttpServer {
    pub(super) options: Lasting<Options>,
}

#[derive(Clone)]
pub(super) struct Options {
    pub(super) tracer: Option<Tracer>,
    pub(super) scope: &'static Scope,
    pub(super) scheme: Option<&'static str>,
    pub(super) methods: KnownMethods,
    pub(super) query: QueryRedaction,
    pub(super) filter: Option<Arc<Filter>>,
    pub(super) ignored_paths: Vec<String>,
    pub(super) response_headers: bool,
    pub(super) trace_id_header: HeaderName,
    pub(super) panic_messages: bool,
    pub(super) route: Option<fn(&Extensions) -> Option<&str>>,
    pub(super) original_uri: Option<fn(&Extensions) -> Option<&Uri>>,
    pub(super) peer: Option<fn(&Extensions) -> Option<SocketAddr>>,
}

/// Where a framework leaves what it knows of a request. Default: nowhere.
///
/// A crate for a framework has a protocol of its own that is [`HttpServer`] in all else, so that its look-ups are called by name and
/// not through a pointer:
///
/// ```
/// use http::Extensions;
/// use trace_core::Span;
/// use trace_tower::server::{Framework, HttpServer, HttpServerCall};
/// use trace_tower::{Protocol, RequestHead, ServerTraceLayer};
///
/// /// What a router leaves in the extensions of a request.
/// #[derive(Clone)]
/// struct Matched(String);
///
/// #[derive(Clone)]
/// struct Routed(HttpServer);
///
/// impl Framework for Routed {
///     fn route(extensions: &Extensions) -> Option<&str> {
///         extensions.get().map(|Matched(route)| route.as_str())
///     }
/// }
///
/// impl Protocol for Routed {
///     type Call = HttpServerCall;
///
///     fn start(&self, request: RequestHead<'_>) -> (Span, HttpServerCall) {
///         self.0.start_in::<Self>(request)
///     }
/// }
///
/// let options = ServerTraceLayer::new().scheme("https");
/// let layer = ServerTraceLayer::of(Routed(*options.protocol()));
/// # let _ = layer;
/// ```
pub trait Framework {
    /// The route that its router matched, such as `/orders/{id}`.
    fn route(extensions: &Extensions) -> Option<&str> {
        let _ = extensions;
        None
    }

    /// The target of the request, before the router takes off what it has matched.
    fn original_uri(extensions: &Extensions) -> Option<&Uri> {
        let _ = extensions;
        None
    }

    /// The address at the other end of the connection.
    fn peer(extensions: &Extensions) -> Option<SocketAddr> {
        let _ = extensions;
        None
    }
}

/// No framework: nothing is known but what the layer is told.
struct Bare;

impl Framework for Bare {}

pub(super) type Filter = dyn Fn(&RequestHead<'_>) -> bool + Send + Sync;

/// A request that is being served.
#[derive(Debug)]
pub struct HttpServerCall {
    options: &'static Options,
    status: Option<StatusCode>,
    /// Whether the caller is to be told its trace.
    response_headers: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tracer: None,
            scope: &SCOPE,
            scheme: None,
            methods: KnownMethods::default(),
            query: QueryRedaction::default(),
            filter: None,
            ignored_paths: Vec::new(),
            response_headers: false,
            trace_id_header: HeaderName::from_static("x-trace-id"),
            panic_messages: false,
            route: None,
            original_uri: None,
            peer: None,
        }
    }
}

impl Default for HttpServer {
    fn default() -> Self {
        Self { options: Lasting::new(Options::default()) }
    }
}

impl Protocol for HttpServer {
    type Call = HttpServerCall;

    #[inline]
    fn start(&self, request: RequestHead<'_>) -> (Span, HttpServerCall) {
        self.start_in::<Bare>(request)
    }
}

impl HttpServer {
    /// Starts the span of a request, as [`Protocol::start`] does, for a service of this framework. Where the layer was told where to
    /// look ([`route_from`](super::ServerTraceLayer::route_from) and the others), the framework is not asked.
    #[inline]
    pub fn start_in<F: Framework>(&self, request: RequestHead<'_>) -> (Span, HttpServerCall) {
        let options = self.options.get();
        let tracer = options.tracer.unwrap_or_else(trace_core::tracer);
        let headers = RequestHeaders::new(request.headers);
        let caller = caller_context(tracer, &headers);
        let mut call = HttpServerCall { options, status: None, response_headers: false };
        if options.leaves_out::<F>(&request) {
            cold_path();
            return (Span::unrecorded(caller.with_tracer(tracer)), call);
        }
        call.response_headers = options.response_headers;
        if !tracer.may_record(&caller) {
            cold_path();
            return (tracer.span("").kind(SpanKind::Server).parent(&caller).start(), call);
        }
        let method = options.methods.name(request.method);
        let route = options.route::<F>(request.extensions);
        let name = SpanName::new(method.in_span_name(), route);
        let mut span = tracer.span(name).kind(SpanKind::Server).scope(options.scope).parent(&caller).start();
        if let Some(attributes) = span.attributes() {
            options.note::<F>(attributes, &request, &headers, method, route);
        }
        (span, call)
    }
}

impl Options {
    #[inline]
    fn leaves_out<F: Framework>(&self, request: &RequestHead<'_>) -> bool {
        let leaves_some_out = !self.ignored_paths.is_empty() || self.filter.is_some();
        // A copy, so that the request's head needs no place in memory where nobody looks at it.
        leaves_some_out && self.is_left_out::<F>(&{ *request })
    }

    #[cold]
    fn is_left_out<F: Framework>(&self, request: &RequestHead<'_>) -> bool {
        let path = self.uri::<F>(request).path();
        let is_ignored = self.ignored_paths.iter().any(|ignored| ignored == path);
        is_ignored || self.filter.as_ref().is_some_and(|wanted| !wanted(request))
    }

    /// The target as it was sent.
    #[inline]
    fn uri<'a, F: Framework>(&self, request: &RequestHead<'a>) -> &'a Uri {
        let original = match self.original_uri {
            None => F::original_uri(request.extensions),
            Some(original_uri) => {
                cold_path();
                original_uri(request.extensions)
            }
        };
        original.unwrap_or(request.uri)
    }

    #[inline]
    fn route<'a, F: Framework>(&self, extensions: &'a Extensions) -> Option<&'a str> {
        match self.route {
            None => F::route(extensions),
            Some(route) => {
                cold_path();
                route(extensions)
            }
        }
    }

    #[inline]
    fn peer<F: Framework>(&self, extensions: &Extensions) -> Option<SocketAddr> {
        match self.peer {
            None => F::peer(extensions),
            Some(peer) => {
                cold_path();
                peer(extensions)
            }
        }
    }

    #[inline(always)]
    fn note<F: Framework>(
        &self,
        mut attributes: Attributes<'_>,
        request: &RequestHead<'_>,
        headers: &RequestHeaders<'_>,
        method: MethodName<'_>,
        route: Option<&str>,
    ) {
        let uri = self.uri::<F>(request);
        let (method_key, path_key) = (semconv::HTTP_REQUEST_METHOD, semconv::URL_PATH);
        match (route, headers.user_agent().and_then(header_str)) {
            (Some(route), Some(agent)) => attributes.set_texts([
                (method_key, method.attribute()),
                (semconv::HTTP_ROUTE, route),
                (path_key, uri.path()),
                (semconv::USER_AGENT_ORIGINAL, agent),
            ]),
            (route, _) => {
                cold_path();
                let path = uri.path();
                attributes.aside(|attributes| {
                    note_less(attributes, method.attribute(), route, path, headers.user_agent())
                });
            }
        }
        if let Some(original) = method.original() {
            cold_path();
            attributes.aside(|attributes| attributes.set(semconv::HTTP_REQUEST_METHOD_ORIGINAL, original));
        }
        let scheme = self.scheme.or_else(|| uri.scheme_str()).unwrap_or("http");
        if let Some(query) = uri.query() {
            self.query.query(query).set(&mut attributes, semconv::URL_QUERY);
        }
        set_served(&mut attributes, authority(uri, headers), scheme, request.version);
        if let Some(peer) = self.peer::<F>(request.extensions) {
            attributes.set_client(&peer);
        }
    }
}

/// What a request is about that matched no route, or does not say which program sent it, or not as text.
#[inline(never)]
fn note_less(
    attributes: &mut Attributes<'_>,
    method: &str,
    route: Option<&str>,
    path: &str,
    agent: Option<&HeaderValue>,
) {
    attributes.set_texts([(semconv::HTTP_REQUEST_METHOD, method), (semconv::URL_PATH, path)]);
    if let Some(route) = route {
        attributes.set(semconv::HTTP_ROUTE, route);
    }
    if let Some(agent) = agent {
        set_header(attributes, semconv::USER_AGENT_ORIGINAL, agent);
    }
}

impl Call for HttpServerCall {
    #[inline]
    fn head(&mut self, span: &mut Span, response: ResponseHead<'_>) {
        self.status = Some(response.status);
        span.set_attribute(semconv::HTTP_RESPONSE_STATUS_CODE, response.status.as_u16());
    }

    #[inline]
    fn put_headers(&mut self, span: &Span, headers: &mut HeaderMap) {
        if self.response_headers
            && let Some(context) = span.span_context()
        {
            cold_path();
            put_response_headers(context, &self.options.trace_id_header, headers);
        }
    }

    #[inline]
    fn wants_panics(&self) -> bool {
        self.options.panic_messages
    }

    #[inline]
    fn end(&mut self, span: &mut Span, ending: Ending<'_>) {
        match ending {
            Ending::Complete | Ending::Upgraded => {
                if let Some(status) = self.status.filter(StatusCode::is_server_error) {
                    cold_path();
                    span.set_error_if_unset(status.as_str());
                }
            }
            ending => end_badly(span, ending),
        }
    }
}

#[cold]
fn end_badly(span: &mut Span, ending: Ending<'_>) {
    if let Ending::Panicked(panic) = ending {
        note_panic(span, panic);
    }
    if let Some(error_type) = ending.error_type() {
        span.set_error_if_unset(&error_type);
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("tracer", &self.tracer)
            .field("scheme", &self.scheme)
            .field("methods", &self.methods)
            .field("query", &self.query)
            .field("filter", &self.filter.is_some())
            .field("ignored_paths", &self.ignored_paths)
            .field("response_headers", &self.response_headers)
            .field("trace_id_header", &self.trace_id_header)
            .finish_non_exhaustive()
    }
}
