//! Calls that are made.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use http_body::Body;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tower_layer::Layer;
use tower_service::Service;
use trace_core::{Attributes, EncodedAttributes, Scope, Span, SpanKind, Tracer, semconv};
use trace_tower::call::BoxError;
use trace_tower::conventions::ServerAddress;
use trace_tower::{
    Call, Ending, Protocol, RequestHead, ResponseBody, ResponseFuture, ResponseHead, ServiceError,
};

use crate::method::{Method, SYSTEM};
use crate::status::{self, Side, Told, note_cancelled};

static SCOPE: Scope = Scope::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// A channel to an endpoint, connected by its first call, whose calls are spans.
///
/// For another channel, such as one that is connected already, there is [`ClientTraceLayer::for_endpoint`].
///
/// # Panics
/// Outside a Tokio runtime, as [`Endpoint::connect_lazy`].
pub fn channel(endpoint: &Endpoint) -> ClientTrace<Channel> {
    ClientTraceLayer::for_endpoint(endpoint).layer(endpoint.connect_lazy())
}

/// A layer that makes a span of every call that is made, and sends its context along: see the [crate](crate).
///
/// ```no_run
/// # struct InventoryClient;
/// # impl InventoryClient { fn new(_: trace_tonic::ClientTrace<tonic::transport::Channel>) {} }
/// # async fn example() -> Result<(), tonic::transport::Error> {
/// use tonic::transport::Endpoint;
/// use tower_layer::Layer;
/// use trace_tonic::ClientTraceLayer;
///
/// let endpoint = Endpoint::from_static("http://inventory:50051");
/// let channel = ClientTraceLayer::for_endpoint(&endpoint).layer(endpoint.connect().await?);
/// let client = InventoryClient::new(channel);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ClientTraceLayer {
    protocol: GrpcClient,
}

/// A client whose calls are spans: see [`ClientTraceLayer`].
#[derive(Clone, Debug)]
pub struct ClientTrace<S> {
    inner: S,
    protocol: GrpcClient,
}

/// gRPC as a client sees it, with the options of [`ClientTraceLayer`].
#[derive(Clone, Debug)]
pub struct GrpcClient {
    options: Arc<Options>,
}

/// A call that is under way.
#[derive(Debug)]
pub struct GrpcClientCall {
    told: Told,
}

#[derive(Clone, Debug)]
struct Options {
    tracer: Option<Tracer>,
    server: Server,
}

/// What is the same for every call: the system, and the server.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for a layer, behind a pointer")]
enum Server {
    Encoded(EncodedAttributes),
    /// With an address that is too long for that.
    Long {
        address: String,
        port: Option<u16>,
    },
}

impl Server {
    fn new(address: String, port: Option<u16>) -> Self {
        let mut encoded = EncodedAttributes::new();
        let is_encoded = encoded.add(semconv::RPC_SYSTEM_NAME, SYSTEM)
            && (address.is_empty() || encoded.add(semconv::SERVER_ADDRESS, &address))
            && port.is_none_or(|port| encoded.add(semconv::SERVER_PORT, port));
        if is_encoded { Self::Encoded(encoded) } else { Self::Long { address, port } }
    }

    #[inline]
    fn set(&self, attributes: &mut Attributes<'_>) {
        match self {
            Self::Encoded(encoded) => attributes.set_encoded(encoded),
            Self::Long { address, port } => {
                attributes.set(semconv::RPC_SYSTEM_NAME, SYSTEM);
                attributes.set(semconv::SERVER_ADDRESS, address);
                if let Some(port) = port {
                    attributes.set(semconv::SERVER_PORT, *port);
                }
            }
        }
    }
}

impl ClientTraceLayer {
    /// For a channel to this endpoint: its address is `server.address` and `server.port`.
    ///
    /// An endpoint that is a Unix socket does not tell its path: use [`for_server`](Self::for_server).
    pub fn for_endpoint(endpoint: &Endpoint) -> Self {
        let uri = endpoint.uri();
        let server = uri.authority().and_then(ServerAddress::of_authority);
        let address = server.map_or_else(String::new, |server| server.host.to_owned());
        let port = server.and_then(|server| server.port_or_default(uri.scheme_str().unwrap_or_default()));
        Self::for_server(address, port)
    }

    /// For a channel to this server: a name or an address, or the path of a Unix socket, which has no port. A channel that
    /// balances over several has the name that they share.
    pub fn for_server(address: impl Into<String>, port: impl Into<Option<u16>>) -> Self {
        let options = Options { tracer: None, server: Server::new(address.into(), port.into()) };
        Self { protocol: GrpcClient { options: Arc::new(options) } }
    }

    /// Makes the spans by this tracer, instead of that of the current context, or the global one ([`trace_core::init`]).
    #[must_use]
    pub fn tracer(mut self, tracer: Tracer) -> Self {
        Arc::make_mut(&mut self.protocol.options).tracer = Some(tracer);
        self
    }
}

impl<S> Layer<S> for ClientTraceLayer {
    type Service = ClientTrace<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientTrace { inner, protocol: self.protocol.clone() }
    }
}

impl<S> ClientTrace<S> {
    /// The client inside.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// The client inside.
    pub const fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The client inside, alone.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, RequestBody, B> Service<Request<RequestBody>> for ClientTrace<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: 'static,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<B, GrpcClientCall>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, GrpcClientCall>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let (span, call) = self.protocol.start((&request).into());
        let context = span.context();
        let tracer = self.protocol.options.tracer.or(context.tracer()).unwrap_or_else(trace_core::tracer);
        tracer.propagator().inject(context, request.headers_mut());
        ResponseFuture::call(&mut self.inner, request, span, call)
    }
}

impl Protocol for GrpcClient {
    type Call = GrpcClientCall;

    #[inline]
    fn start(&self, request: RequestHead<'_>) -> (Span, GrpcClientCall) {
        let options = &*self.options;
        let method = Method::called(request.uri.path());
        let builder = match options.tracer {
            Some(tracer) => tracer.span(method.span_name()),
            None => trace_core::span(method.span_name()),
        };
        let mut span = builder.kind(SpanKind::Client).scope(&SCOPE).start();
        if let Some(mut attributes) = span.attributes() {
            attributes.set(semconv::RPC_METHOD, method.attribute());
            if let Some(original) = method.original() {
                attributes.set(semconv::RPC_METHOD_ORIGINAL, original);
            }
            options.server.set(&mut attributes);
        }
        (span, GrpcClientCall { told: Told::default() })
    }
}

impl Call for GrpcClientCall {
    #[inline]
    fn head(&mut self, _: &mut Span, response: ResponseHead<'_>) {
        self.told.head(response.status, response.headers);
    }

    #[inline]
    fn trailers(&mut self, _: &mut Span, trailers: &HeaderMap) {
        self.told.trailers(trailers);
    }

    #[inline]
    fn end(&mut self, span: &mut Span, ending: Ending<'_>) {
        match ending {
            // A caller who has the status does not read on.
            Ending::Cancelled if self.told.grpc().is_none() => note_cancelled(span),
            Ending::BodyError(error) => Side::Client.note(span, status::of_error(error)),
            Ending::ServiceError(error) => Side::Client.note(span, of_service_error(error)),
            Ending::Panicked(_) => {
                span.set_error_if_unset("panic");
                Side::Client.note(span, Code::Unknown);
            }
            _ => Side::Client.note(span, self.told.complete()),
        }
    }
}

/// The status that tonic will make of the error of a channel.
fn of_service_error(error: ServiceError<'_>) -> Code {
    if let Some(error) = error.downcast_ref::<tonic::transport::Error>() {
        return status::of_error(error);
    }
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return status.code();
    }
    error.as_error().map_or(Code::Unknown, status::of_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_however_long_its_address_is() {
        let traces = Tracer::builder().build();
        let long = "l".repeat(300);
        for address in ["", "inventory", &long] {
            let mut span = traces.tracer().span("call").start();
            let mut attributes = span.attributes().expect("it is recorded");
            Server::new(address.to_owned(), Some(50051)).set(&mut attributes);
            drop(attributes);
            assert_eq!(span.attribute_text(semconv::RPC_SYSTEM_NAME).as_deref(), Some(SYSTEM));
            let told = (!address.is_empty()).then_some(address);
            assert_eq!(span.attribute_text(semconv::SERVER_ADDRESS).as_deref(), told);
        }
    }
}
