//! What does a tracing layer add to a call that tonic serves, and to one that it makes?

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::{BoxFuture, StdError};
use tonic::server::{NamedService, UnaryService};
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tonic::transport::server::TcpConnectInfo;
use tonic::{GrpcMethod, Status};
use tonic_prost::ProstCodec;
use tower::layer::util::Identity;
use tower::{Layer, Service};
use tracing::Level;

use crate::exporters::{self, Sampled};
use crate::harness::{Bench, Case, Collector, Entry, Ratio, Subject};

pub(crate) const BENCH: Bench = Bench {
    name: "grpc",
    question: "What does a tracing layer add to a unary call of tonic, in process? The server is tonic's router with one service, \
               from the request's head to the end of the response's trailers; its caller sent a `traceparent`, and its address is \
               known. All calls name the same server, as those to a service mostly do: trace-tonic has its address from the call \
               before. The client is tonic's, around a service that answers at once, and calls inside a span. The peers' server \
               spans end with the response's head, before the call's status is known, and fastrace's have no attributes; its client \
               layer sends `traceparent` on and makes no span. tower-otel's spans have every header.",
    cases: &[
        Case {
            name: "server, sampled",
            spans: 1,
            added_to: Some(BARE_SERVER),
            entries: &[
                Entry::new(BARE_SERVER, |_| server_bare(Sampled::Yes)),
                Entry::new(IDENTITY, |_| server_identity(Sampled::Yes)),
                Entry::new(OURS, |collector| server_ours(collector, Sampled::Yes)),
                Entry::new(FASTRACE, |collector| server_fastrace(collector, Sampled::Yes)),
                Entry::new(TONIC_TRACING, |c| server_tonic_tracing(c, Sampled::Yes)),
                Entry::new(TOWER_OTEL, |collector| server_tower_otel(collector, Sampled::Yes)),
            ],
            ratios: &[
                Ratio::new(OURS, FASTRACE, 0.6),
                Ratio::shown(OURS, TONIC_TRACING),
                Ratio::shown(OURS, TOWER_OTEL),
            ],
        },
        Case {
            name: "server, not sampled",
            spans: 1,
            added_to: Some(BARE_SERVER),
            entries: &[
                Entry::new(BARE_SERVER, |_| server_bare(Sampled::No)),
                Entry::new(OURS, |collector| server_ours(collector, Sampled::No)),
                Entry::new(FASTRACE, |collector| server_fastrace(collector, Sampled::No)),
                Entry::new(TONIC_TRACING, |c| server_tonic_tracing(c, Sampled::No)),
                Entry::new(TOWER_OTEL, |collector| server_tower_otel(collector, Sampled::No)),
            ],
            ratios: &[
                Ratio::shown(OURS, FASTRACE),
                Ratio::shown(OURS, TONIC_TRACING),
                Ratio::shown(OURS, TOWER_OTEL),
            ],
        },
        Case {
            name: "client, sampled",
            spans: 1,
            added_to: Some(BARE_CLIENT),
            entries: &[
                Entry::new(BARE_CLIENT, |_| client_bare()),
                Entry::new(IDENTITY, |_| client_identity()),
                Entry::new(OURS, |collector| client_ours(collector, Sampled::Yes)),
                Entry::new(FASTRACE_CLIENT, |c| client_fastrace(c, Sampled::Yes)),
                Entry::new(TONIC_TRACING, |c| client_tonic_tracing(c, Sampled::Yes)),
                Entry::new(TOWER_OTEL, |collector| client_tower_otel(collector, Sampled::Yes)),
            ],
            ratios: &[
                Ratio::shown(OURS, FASTRACE_CLIENT),
                Ratio::shown(OURS, TONIC_TRACING),
                Ratio::shown(OURS, TOWER_OTEL),
            ],
        },
        Case {
            name: "client, not sampled",
            spans: 1,
            added_to: Some(BARE_CLIENT),
            entries: &[
                Entry::new(BARE_CLIENT, |_| client_bare()),
                Entry::new(OURS, |collector| client_ours(collector, Sampled::No)),
                Entry::new(FASTRACE_CLIENT, |c| client_fastrace(c, Sampled::No)),
                Entry::new(TONIC_TRACING, |c| client_tonic_tracing(c, Sampled::No)),
                Entry::new(TOWER_OTEL, |collector| client_tower_otel(collector, Sampled::No)),
            ],
            ratios: &[
                Ratio::shown(OURS, FASTRACE_CLIENT),
                Ratio::shown(OURS, TONIC_TRACING),
                Ratio::shown(OURS, TOWER_OTEL),
            ],
        },
    ],
    sections: None,
};

const BARE_SERVER: &str = "bare server";
const BARE_CLIENT: &str = "bare client";
/// In tonic a layer costs what is in it, unlike in axum: the row shows how fine the measurement is.
const IDENTITY: &str = "identity";
const OURS: &str = "trace-tonic";
const FASTRACE: &str = "fastrace-tonic";
const FASTRACE_CLIENT: &str = "fastrace-tonic, no span";
const TONIC_TRACING: &str = "tonic-tracing-opentelemetry";
const TOWER_OTEL: &str = "tower-otel";

const SERVICE: &str = "shop.v1.Items";
const METHOD: &str = "Get";
const PATH: &str = "/shop.v1.Items/Get";
const ORIGIN: &str = "http://items.example.com:50051";

/// What is asked for, and the answer.
#[derive(Clone, PartialEq, Message)]
struct Item {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
}

/// A service with one method, as tonic's generator would write it.
#[derive(Clone, Debug)]
struct Items;

struct Get;

impl NamedService for Items {
    const NAME: &'static str = SERVICE;
}

impl Service<Request<Body>> for Items {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match request.uri().path() {
            PATH => Box::pin(async move {
                Ok(tonic::server::Grpc::new(ProstCodec::default()).unary(Get, request).await)
            }),
            other => unreachable!("nobody calls {other}"),
        }
    }
}

impl UnaryService<Item> for Get {
    type Response = Item;
    type Future = BoxFuture<tonic::Response<Item>, Status>;

    fn call(&mut self, request: tonic::Request<Item>) -> Self::Future {
        Box::pin(async move {
            let Item { id, .. } = request.into_inner();
            Ok(tonic::Response::new(Item { id, name: "an item".to_owned() }))
        })
    }
}

fn routes() -> Routes {
    Routes::new(Items).prepare()
}

/// A message with what stands before it on the wire.
fn framed(message: &Item) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).expect("it is short"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// A request as tonic's server hands it over, by a caller that decided about sampling.
fn request(sampled: Sampled) -> Request<()> {
    let traceparent = match sampled {
        Sampled::Yes => "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        Sampled::No => "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
    };
    let connection = TcpConnectInfo {
        local_addr: Some(SocketAddr::from(([198, 51, 100, 7], 50051))),
        remote_addr: Some(SocketAddr::from(([203, 0, 113, 195], 51234))),
    };
    Request::post(format!("{ORIGIN}{PATH}"))
        .version(Version::HTTP_2)
        .header(header::TE, "trailers")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::USER_AGENT, "tonic/0.14.9")
        .header("traceparent", traceparent)
        .extension(connection)
        .body(())
        .expect("all parts are valid")
}

/// A server that serves one call for each unit of work. The request is a copy of a ready one, made there and then, as in
/// the bench of axum.
fn serving<S, B>(service: S, sampled: Sampled) -> Subject
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Sync + 'static,
    B: http_body::Body,
{
    let (head, ()) = request(sampled).into_parts();
    let message = framed(&Item { id: 3419, name: String::new() });
    Subject::new(move || {
        let body = Body::new(Full::new(message.clone()));
        serve(service.clone(), Request::from_parts(head.clone(), body));
    })
}

/// Does what hyper does with a request, up to the trailers.
fn serve<S, B>(mut service: S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>>,
    B: http_body::Body,
{
    let mut task = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut task) else {
        unreachable!("a router is always ready");
    };
    let Some(Ok(response)) = service.call(request).now_or_never() else {
        unreachable!("the handler waits for nothing, and cannot fail");
    };
    let mut body = std::pin::pin!(response.into_body());
    while !body.is_end_stream() {
        let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut task) else {
            unreachable!("the body is there, and ends with trailers");
        };
        if let Some(trailers) = frame.trailers_ref() {
            debug_assert_eq!(trailers.get(Status::GRPC_STATUS), Some(&OK));
            break;
        }
    }
}

const OK: HeaderValue = HeaderValue::from_static("0");

fn server_bare(sampled: Sampled) -> Subject {
    serving(routes(), sampled)
}

fn server_identity(sampled: Sampled) -> Subject {
    serving(Identity::new().layer(routes()), sampled)
}

fn server_ours(collector: &Collector, sampled: Sampled) -> Subject {
    let tracer = exporters::ours(collector, Sampled::Yes);
    let layer = trace_tonic::ServerTraceLayer::new().tracer(tracer);
    serving(layer.layer(routes()), sampled).drained_by(move || exporters::drain_ours(tracer))
}

fn server_fastrace(collector: &Collector, sampled: Sampled) -> Subject {
    exporters::fastrace(collector);
    let layer = fastrace_tonic::FastraceServerLayer::default();
    serving(layer.layer(routes()), sampled).drained_by(fastrace::flush)
}

fn server_tonic_tracing(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing(collector, Sampled::Yes);
    let layer = tonic_tracing_opentelemetry::middleware::server::OtelGrpcLayer::default();
    serving(layer.layer(routes()), sampled).drained_by(drain)
}

fn server_tower_otel(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing(collector, Sampled::Yes);
    let layer = tower_otel::trace::GrpcLayer::server(Level::INFO);
    serving(layer.layer(routes()), sampled).drained_by(drain)
}

/// What stands for a channel: it answers at once.
#[derive(Clone, Debug)]
struct Answering {
    message: Bytes,
    trailers: HeaderMap,
}

impl Answering {
    fn new() -> Self {
        let message = framed(&Item { id: 3419, name: "an item".to_owned() });
        Self { message, trailers: HeaderMap::from_iter([(Status::GRPC_STATUS, OK)]) }
    }
}

impl Service<Request<Body>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let trailers = ready(Some(Ok(self.trailers.clone())));
        let mut response = Response::new(Body::new(Full::new(self.message.clone()).with_trailers(trailers)));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        ready(Ok(response))
    }
}

/// A client that makes one call for each unit of work, as the code that tonic generates makes it. The client is cloned
/// for the call, as it is in a handler.
fn calling<S>(service: S) -> Subject
where
    S: GrpcService<Body> + Clone + Sync + 'static,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    let client = Grpc::new(service);
    Subject::new(move || {
        let Some(Ok(item)) = get(client.clone(), 3419).now_or_never() else {
            unreachable!("the answer is there, and is one");
        };
        debug_assert_eq!(item.name, "an item");
    })
}

async fn get<S>(mut client: Grpc<S>, id: u64) -> Result<Item, Status>
where
    S: GrpcService<Body>,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    client.ready().await.map_err(|error| Status::unknown(error.into().to_string()))?;
    let mut request = tonic::Request::new(Item { id, name: String::new() });
    request.extensions_mut().insert(GrpcMethod::new(SERVICE, METHOD));
    let answer: tonic::Response<Item> =
        client.unary(request, PathAndQuery::from_static(PATH), ProstCodec::default()).await?;
    Ok(answer.into_inner())
}

fn client_bare() -> Subject {
    calling(Answering::new())
}

fn client_identity() -> Subject {
    calling(Identity::new().layer(Answering::new()))
}

fn client_ours(collector: &Collector, sampled: Sampled) -> Subject {
    let tracer = exporters::ours(collector, sampled);
    exporters::stand_in_ours(tracer);
    let endpoint = Endpoint::from_static(ORIGIN);
    let layer = trace_tonic::ClientTraceLayer::for_endpoint(&endpoint).tracer(tracer);
    calling(layer.layer(Answering::new())).drained_by(move || exporters::drain_ours(tracer))
}

fn client_fastrace(collector: &Collector, sampled: Sampled) -> Subject {
    exporters::fastrace(collector);
    exporters::stand_in_fastrace(sampled);
    let layer = fastrace_tonic::FastraceClientLayer;
    calling(layer.layer(Answering::new())).drained_by(fastrace::flush)
}

fn client_tonic_tracing(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing(collector, sampled);
    exporters::stand_in_tracing();
    let layer = tonic_tracing_opentelemetry::middleware::client::OtelGrpcLayer;
    calling(layer.layer(Answering::new())).drained_by(drain)
}

fn client_tower_otel(collector: &Collector, sampled: Sampled) -> Subject {
    let drain = exporters::tracing(collector, sampled);
    exporters::stand_in_tracing();
    let layer = tower_otel::trace::GrpcLayer::client(Level::INFO);
    calling(layer.layer(Answering::new())).drained_by(drain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_answers_with_a_message_and_trailers() {
        let message = framed(&Item { id: 3419, name: String::new() });
        let (head, ()) = request(Sampled::Yes).into_parts();
        let request = Request::from_parts(head, Body::new(Full::new(message)));
        let response = Service::call(&mut routes(), request).now_or_never().unwrap().unwrap();
        let answer = response.into_body().collect().now_or_never().unwrap().unwrap();
        assert_eq!(answer.trailers().unwrap().get(Status::GRPC_STATUS), Some(&OK));
        assert_eq!(answer.to_bytes(), Answering::new().message);
    }

    #[test]
    fn the_client_reads_the_ready_answer() {
        let item = get(Grpc::new(Answering::new()), 3419).now_or_never().unwrap().unwrap();
        assert_eq!(item, Item { id: 3419, name: "an item".to_owned() });
    }
}
