//! What the conventions want to know of an HTTP request that is sent.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ::http::{Extensions, HeaderMap, StatusCode, header};
use trace_core::{Attributes, Context, Scope, Span, SpanKind, SpanName, Tracer, semconv};

use crate::call::{Call, Ending, Protocol, RequestHead, ResponseHead, ServiceError};
use crate::conventions::{ErrorType, KnownMethods, MethodName, QueryRedaction, protocol_version, set_server};

static SCOPE: Scope = Scope::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// HTTP as a client sees it, with the options of [`ClientTraceLayer`](super::ClientTraceLayer).
#[derive(Clone, Debug, Default)]
pub struct HttpClient {
    options: Arc<Options>,
}

#[derive(Clone)]
pub(super) struct Options {
    pub(super) tracer: Option<Tracer>,
    pub(super) scope: &'static Scope,
    pub(super) methods: KnownMethods,
    pub(super) query: QueryRedaction,
    pub(super) filter: Option<Arc<Filter>>,
    pub(super) peer: PeerOf,
    pub(super) error: AsError,
}

type PeerOf = fn(&Extensions) -> Option<SocketAddr>;
type AsError = for<'a> fn(ServiceError<'a>) -> Option<&'a (dyn Error + 'static)>;
pub(super) type Filter = dyn Fn(&RequestHead<'_>) -> bool + Send + Sync;

/// The template of the URL that is called, such as `/orders/{id}`: in the extensions of a request, it becomes
/// `url.template` and a part of the span's name. It should be one of few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlTemplate(pub &'static str);

/// A request that is under way.
#[derive(Debug)]
pub struct HttpClientCall {
    status: Option<StatusCode>,
    peer: PeerOf,
    error: AsError,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tracer: None,
            scope: &SCOPE,
            methods: KnownMethods::default(),
            query: QueryRedaction::default(),
            filter: None,
            peer: |_| None,
            error: |error| error.as_error(),
        }
    }
}

impl HttpClient {
    /// Writes a context into the headers of a request that is sent.
    pub fn inject(&self, context: &Context, headers: &mut HeaderMap) {
        let tracer = self.options.tracer.or(context.tracer()).unwrap_or_else(trace_core::tracer);
        tracer.propagator().inject(context, headers);
    }

    pub(super) fn options_mut(&mut self) -> &mut Options {
        Arc::make_mut(&mut self.options)
    }
}

impl Protocol for HttpClient {
    type Call = HttpClientCall;

    #[inline]
    fn start(&self, request: RequestHead<'_>) -> (Span, HttpClientCall) {
        let options = &*self.options;
        let call = HttpClientCall { status: None, peer: options.peer, error: options.error };
        if options.filter.as_ref().is_some_and(|wanted| !wanted(&request)) {
            return (Span::unrecorded(Context::current()), call);
        }
        let method = options.methods.name(request.method);
        let template = request.extensions.get::<UrlTemplate>();
        let name = SpanName::new(method.in_span_name(), template.map(|template| template.0));
        let builder = match options.tracer {
            Some(tracer) => tracer.span(name),
            None => trace_core::span(name),
        };
        let mut span = builder.kind(SpanKind::Client).scope(options.scope).start();
        if let Some(attributes) = span.attributes() {
            options.note(attributes, &request, method, template);
        }
        (span, call)
    }
}

impl Options {
    #[inline(always)]
    fn note(
        &self,
        mut attributes: Attributes<'_>,
        request: &RequestHead<'_>,
        method: MethodName<'_>,
        template: Option<&UrlTemplate>,
    ) {
        attributes.set(semconv::HTTP_REQUEST_METHOD, method.attribute());
        if let Some(original) = method.original() {
            attributes.set(semconv::HTTP_REQUEST_METHOD_ORIGINAL, original);
        }
        // A low-level client's request names its server only in `Host`.
        let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let url = self.query.uri(request.uri).or_at("http", host);
        if let Some(server) = url.authority() {
            set_server(&mut attributes, server.as_bytes(), url.scheme().unwrap_or_default());
        }
        url.set(&mut attributes, semconv::URL_FULL);
        if let Some(UrlTemplate(template)) = template {
            attributes.set(semconv::URL_TEMPLATE, *template);
        }
    }
}

impl Call for HttpClientCall {
    #[inline]
    fn head(&mut self, span: &mut Span, response: ResponseHead<'_>) {
        let Some(mut attributes) = span.attributes() else { return };
        self.status = Some(response.status);
        attributes.set(semconv::HTTP_RESPONSE_STATUS_CODE, response.status.as_u16());
        if let Some(version) = protocol_version(response.version) {
            attributes.set(semconv::NETWORK_PROTOCOL_VERSION, version);
        }
        if let Some(peer) = (self.peer)(response.extensions) {
            attributes.set_peer(&peer);
        }
    }

    fn end(&mut self, span: &mut Span, ending: Ending<'_>) {
        match ending {
            Ending::Complete | Ending::Upgraded => {
                if let Some(status) = self.status
                    && (status.is_client_error() || status.is_server_error())
                {
                    span.set_error_if_unset(status.as_str());
                }
            }
            // Whoever gives up waiting knows why: it is no error of the call.
            Ending::Cancelled => {}
            Ending::ServiceError(error) => {
                let known = (self.error)(error).and_then(ErrorType::of);
                span.set_error_if_unset(&known.unwrap_or_else(|| error.error_type()));
            }
            Ending::BodyError(_) | Ending::Panicked(_) => {
                if let Some(error_type) = ending.error_type() {
                    span.set_error_if_unset(&error_type);
                }
            }
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("tracer", &self.tracer)
            .field("methods", &self.methods)
            .field("query", &self.query)
            .field("filter", &self.filter.is_some())
            .finish_non_exhaustive()
    }
}
