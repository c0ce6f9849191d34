//! Calls that are served.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, HeaderMap, Request, Response};
use http_body::Body;
use tonic::Code;
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tower_layer::Layer;
use tower_service::Service;
use trace_core::{Attributes, Scope, Span, SpanKind, Tracer, cold_path, semconv};
use trace_tower::call::BoxError;
use trace_tower::conventions::{RequestHeaders, authority, caller_context, note_panic, set_server};
use trace_tower::{Call, Ending, Lasting, Protocol, RequestHead, ResponseBody, ResponseFuture, ResponseHead};

use crate::descriptor::{self, DescriptorError};
use crate::method::{Method, Methods, OTHER, SYSTEM};
use crate::status::{self, Side, Told, note_cancelled};

static SCOPE: Scope = Scope::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// A layer that makes a span of every call that is served: see the [crate](crate).
///
/// It goes around the whole server, or around one service:
///
/// ```no_run
/// # use tonic::server::NamedService;
/// # async fn example<S>(inventory: S) -> Result<(), tonic::transport::Error>
/// # where
/// #     S: tower_service::Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>, Error = std::convert::Infallible>
/// #         + NamedService + Clone + Send + Sync + 'static,
/// #     S::Future: Send + 'static,
/// # {
/// use tonic::transport::Server;
/// use tower_layer::Layer;
/// use trace_tonic::ServerTraceLayer;
///
/// let layer = ServerTraceLayer::new().ignore_methods(["grpc.health.v1.Health/Check"]);
/// Server::builder().add_service(layer.layer(inventory)).serve(([0, 0, 0, 0], 50051).into()).await
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ServerTraceLayer {
    protocol: GrpcServer,
}

/// A service whose calls are spans: see [`ServerTraceLayer`]. It has the name of the service inside.
#[derive(Clone, Debug)]
pub struct ServerTrace<S> {
    inner: S,
    protocol: GrpcServer,
}

/// gRPC as a server sees it, with the options of [`ServerTraceLayer`].
#[derive(Clone, Copy, Debug)]
pub struct GrpcServer {
    options: Lasting<Options>,
}

/// A call that is being served.
#[derive(Debug)]
pub struct GrpcServerCall {
    told: Told,
    /// Whether the method may turn out not to exist.
    is_doubtful: bool,
    options: &'static Options,
}

#[derive(Clone)]
struct Options {
    tracer: Option<Tracer>,
    methods: Methods,
    ignored: Vec<String>,
    filter: Option<Arc<Filter>>,
    peer: fn(&Extensions) -> Option<SocketAddr>,
    panic_messages: bool,
}

type Filter = dyn Fn(&RequestHead<'_>) -> bool + Send + Sync;

impl ServerTraceLayer {
    /// For a service that continues its callers' traces.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the spans by this tracer, instead of the global one ([`trace_core::init`]).
    #[must_use]
    pub fn tracer(mut self, tracer: Tracer) -> Self {
        self.protocol.options.update(|options| options.tracer = Some(tracer));
        self
    }

    /// Makes spans only of the calls for which this says so. One that is left out still passes on its caller's context.
    #[must_use]
    pub fn filter(mut self, wanted: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.protocol.options.update(|options| options.filter = Some(Arc::new(wanted)));
        self
    }

    /// Leaves out the calls of these methods (`package.Service/Method`), such as those of health checks: see
    /// [`filter`](Self::filter).
    #[must_use]
    pub fn ignore_methods<M: Into<String>>(mut self, methods: impl IntoIterator<Item = M>) -> Self {
        self.protocol.options.update(|options| options.ignored.extend(methods.into_iter().map(Into::into)));
        self
    }

    /// Says that these methods (`package.Service/Method`) exist, so that `UNIMPLEMENTED` from one of them is its own answer.
    /// Any other method counts as one that does not exist when it is answered so, and has nothing but a head.
    #[must_use]
    pub fn methods<M: Into<String>>(mut self, methods: impl IntoIterator<Item = M>) -> Self {
        self.protocol.options.update(|options| options.methods.extend(methods.into_iter().map(Into::into)));
        self
    }

    /// As [`methods`](Self::methods), for every method in an encoded `FileDescriptorSet`: what tonic's reflection service is
    /// given too.
    ///
    /// # Errors
    /// When it is none.
    pub fn file_descriptor_set(mut self, encoded: &[u8]) -> Result<Self, DescriptorError> {
        let methods = descriptor::methods(encoded)?;
        self.protocol.options.update(|options| options.methods.extend(methods));
        Ok(self)
    }

    /// Where the server leaves the address at the other end of the connection. Default: in tonic's [`TcpConnectInfo`].
    #[must_use]
    pub fn peer_from(mut self, peer: fn(&Extensions) -> Option<SocketAddr>) -> Self {
        self.protocol.options.update(|options| options.peer = peer);
        self
    }

    /// Whether the `exception` event of a panic has its message, which leaves the process as it is. Default: no.
    #[must_use]
    pub fn panic_messages(mut self, on: bool) -> Self {
        self.protocol.options.update(|options| options.panic_messages = on);
        self
    }
}

impl<S> Layer<S> for ServerTraceLayer {
    type Service = ServerTrace<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ServerTrace { inner, protocol: self.protocol }
    }
}

impl<S> ServerTrace<S> {
    /// The service inside.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub const fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside, alone.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: NamedService> NamedService for ServerTrace<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, RequestBody, B> Service<Request<RequestBody>> for ServerTrace<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: 'static,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<B, GrpcServerCall>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, GrpcServerCall>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let (span, call) = self.protocol.start((&request).into());
        ResponseFuture::call(&mut self.inner, request, span, call)
    }
}

impl Protocol for GrpcServer {
    type Call = GrpcServerCall;

    #[inline]
    fn start(&self, request: RequestHead<'_>) -> (Span, GrpcServerCall) {
        let options = self.options.get();
        let tracer = options.tracer.unwrap_or_else(trace_core::tracer);
        let headers = RequestHeaders::new(request.headers);
        let caller = caller_context(tracer, &headers);
        let mut call = GrpcServerCall { told: Told::default(), is_doubtful: false, options };
        let method = options.methods.of(request.uri.path());
        if options.leaves_out(&request, method) {
            cold_path();
            return (Span::unrecorded(caller.with_tracer(tracer)), call);
        }
        let builder = tracer.span(method.span_name()).kind(SpanKind::Server).scope(&SCOPE);
        let mut span = builder.parent(&caller).start();
        if let Some(attributes) = span.attributes() {
            call.is_doubtful = matches!(method, Method::Possible(_));
            options.note(attributes, &request, &headers, method);
        }
        (span, call)
    }
}

impl Options {
    #[inline]
    fn leaves_out(&self, request: &RequestHead<'_>, method: Method<'_>) -> bool {
        let leaves_some_out = !self.ignored.is_empty() || self.filter.is_some();
        leaves_some_out && self.is_left_out(request, method)
    }

    #[cold]
    fn is_left_out(&self, request: &RequestHead<'_>, method: Method<'_>) -> bool {
        self.ignored.iter().any(|ignored| ignored == method.attribute())
            || self.filter.as_ref().is_some_and(|wanted| !wanted(request))
    }

    #[inline(always)]
    fn note(
        &self,
        mut attributes: Attributes<'_>,
        request: &RequestHead<'_>,
        headers: &RequestHeaders<'_>,
        method: Method<'_>,
    ) {
        attributes.set_texts([(semconv::RPC_SYSTEM_NAME, SYSTEM), (semconv::RPC_METHOD, method.attribute())]);
        if let Some(original) = method.original() {
            cold_path();
            attributes.set(semconv::RPC_METHOD_ORIGINAL, original);
        }
        if let Some(server) = authority(request.uri, headers) {
            set_server(&mut attributes, server, request.uri.scheme_str().unwrap_or_default());
        }
        if let Some(peer) = (self.peer)(request.extensions) {
            attributes.set_peer(&peer);
        }
    }
}

impl Default for GrpcServer {
    fn default() -> Self {
        Self { options: Lasting::new(Options::default()) }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tracer: None,
            methods: Methods::default(),
            ignored: Vec::new(),
            filter: None,
            peer: |extensions| extensions.get::<TcpConnectInfo>()?.remote_addr(),
            panic_messages: false,
        }
    }
}

impl Call for GrpcServerCall {
    #[inline]
    fn head(&mut self, span: &mut Span, response: ResponseHead<'_>) {
        let code = self.told.head(response.status, response.headers);
        if code == Some(Code::Unimplemented) && std::mem::take(&mut self.is_doubtful) {
            note_other_method(span);
        }
    }

    #[inline]
    fn wants_panics(&self) -> bool {
        self.options.panic_messages
    }

    #[inline]
    fn trailers(&mut self, _: &mut Span, trailers: &HeaderMap) {
        self.told.trailers(trailers);
    }

    #[inline]
    fn end(&mut self, span: &mut Span, ending: Ending<'_>) {
        match ending {
            Ending::Complete | Ending::Upgraded => Side::Server.note(span, self.told.complete()),
            ending => end_badly(span, ending, self.told),
        }
    }
}

#[cold]
fn end_badly(span: &mut Span, ending: Ending<'_>, told: Told) {
    match ending {
        Ending::Panicked(panic) => {
            note_panic(span, panic);
            span.set_error_if_unset("panic");
            Side::Server.note(span, Code::Unknown);
        }
        Ending::Cancelled if told.grpc().is_none() => note_cancelled(span),
        Ending::BodyError(error) => Side::Server.note(span, status::of_error(error)),
        Ending::ServiceError(error) => {
            Side::Server.note(span, error.as_error().map_or(Code::Unknown, status::of_error));
        }
        _ => Side::Server.note(span, told.complete()),
    }
}

/// There is no such method, for all that the service says.
#[cold]
fn note_other_method(span: &mut Span) {
    let method = span.attribute_text(semconv::RPC_METHOD);
    span.update_name(SYSTEM);
    span.set_attribute(semconv::RPC_METHOD, OTHER);
    if let Some(method) = method {
        span.set_attribute(semconv::RPC_METHOD_ORIGINAL, &method);
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("tracer", &self.tracer)
            .field("methods", &self.methods)
            .field("ignored", &self.ignored)
            .field("filter", &self.filter.is_some())
            .field("panic_messages", &self.panic_messages)
            .finish_non_exhaustive()
    }
}
