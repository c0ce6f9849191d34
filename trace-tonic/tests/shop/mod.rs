//! A service with a method of each kind, which does what its caller asks for, and a pipeline whose collector is at hand.
//!
//! `shop.v1.rs` and `shop.binpb` are what protox and tonic-prost-build make of `shop.proto`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::server::Router;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tower_layer::Layer;
use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::otlp::SpanData;
use trace_core::testing::Collector;
use trace_core::{Context, SpanKind, StatusCode, Tracer, TracerBuilder, Traces};
use trace_tonic::{ClientTrace, ClientTraceLayer, ServerTraceLayer};

#[allow(
    missing_docs,
    missing_debug_implementations,
    clippy::all,
    unused_qualifications,
    reason = "generated"
)]
pub mod pb {
    include!("shop.v1.rs");
}

pub use pb::Item;
use pb::inventory_client::InventoryClient;
use pb::inventory_server::{Inventory, InventoryServer};

pub const DESCRIPTOR: &[u8] = include_bytes!("shop.binpb");

/// Long enough that only a failure takes so long.
pub const SOON: Duration = Duration::from_secs(20);

pub type Client = InventoryClient<ClientTrace<Channel>>;

pub struct Traced {
    // Dropped, and flushed, while the collector is still there.
    traces: Traces,
    collector: Collector,
}

impl Traced {
    pub fn start() -> Self {
        Self::with(|builder| builder)
    }

    pub fn with(change: impl FnOnce(TracerBuilder) -> TracerBuilder) -> Self {
        let collector = Collector::start_blocking().unwrap();
        let mut otlp = OtlpConfig::new(Protocol::HttpProtobuf);
        otlp.endpoint = format!("{}/v1/traces", collector.http_endpoint()).parse().unwrap();
        let builder = Tracer::builder()
            .exporter(ExporterConfig::Otlp(otlp))
            .configure(|config| config.batch.schedule_delay = Duration::from_millis(2));
        Self { traces: change(builder).build(), collector }
    }

    pub fn tracer(&self) -> Tracer {
        self.traces.tracer()
    }

    /// The spans, when there are so many; there never are more.
    pub async fn spans(&self, count: usize) -> Vec<SpanData> {
        let mut spans = self.collector.wait_for_spans(count, SOON).await.unwrap();
        assert_eq!(spans.len(), count, "{spans:#?}");
        let started = self.traces.stats().started;
        assert_eq!(started, count as u64, "each span is there");
        spans.sort_by_key(|span| span.start_unix_nano);
        spans
    }

    /// The client's and the server's span of the one call; the server's is the child.
    pub async fn call(&self) -> (SpanData, SpanData) {
        let (mut clients, mut servers) = self.calls(1).await;
        (clients.remove(0), servers.remove(0))
    }

    /// As many calls, in their order.
    pub async fn calls(&self, count: usize) -> (Vec<SpanData>, Vec<SpanData>) {
        let spans = self.spans(2 * count).await;
        let of = |kind| spans.iter().filter(move |span| span.kind == kind);
        let clients: Vec<_> = of(SpanKind::Client).cloned().collect();
        let servers: Vec<_> = clients
            .iter()
            .map(|client| {
                let server = of(SpanKind::Server).find(|span| span.parent_span_id == Some(client.span_id));
                let server = server.expect("each call was served");
                assert_eq!(server.trace_id, client.trace_id);
                assert!(server.start_unix_nano >= client.start_unix_nano);
                server.clone()
            })
            .collect();
        assert_eq!((clients.len(), servers.len()), (count, count));
        (clients, servers)
    }
}

pub fn text<'a>(span: &'a SpanData, key: &str) -> Option<&'a str> {
    span.attribute(key).map(|value| value.as_str().unwrap())
}

pub fn number(span: &SpanData, key: &str) -> Option<i64> {
    span.attribute(key).map(|value| value.as_i64().unwrap())
}

/// The span has this status of gRPC, and is an error by this type.
#[track_caller]
pub fn assert_ended(span: &SpanData, code: &str, error_type: Option<&str>) {
    assert_eq!(text(span, "rpc.status_code"), Some(code), "{span:#?}");
    assert_eq!(text(span, "error.type"), error_type, "{span:#?}");
    let status = if error_type.is_some() { StatusCode::Error } else { StatusCode::Unset };
    assert_eq!((span.status, &*span.status_message), (status, ""));
}

pub fn item(then: &str, code: Code, count: i32) -> Item {
    Item { then: then.to_owned(), code: code as i32, count }
}

/// What happens in the handlers of a [`Shop`].
#[derive(Clone, Debug)]
pub struct Events {
    /// A permit for each handler or stream that hangs.
    pub hangs: Arc<Semaphore>,
    /// A permit for each that was dropped while it hung.
    pub dropped: Arc<Semaphore>,
    /// A permit lets one that hangs go on.
    pub release: Arc<Semaphore>,
    seen: Arc<Mutex<Vec<(MetadataMap, Context)>>>,
    /// The contexts in which calls came to their end, some of them in the middle of a response's body.
    finished: Arc<Mutex<Vec<Context>>>,
}

impl Default for Events {
    fn default() -> Self {
        let none = || Arc::new(Semaphore::new(0));
        Self {
            hangs: none(),
            dropped: none(),
            release: none(),
            seen: Arc::default(),
            finished: Arc::default(),
        }
    }
}

impl Events {
    /// The metadata that came with each call, and the context that it was served in.
    pub fn seen(&self) -> Vec<(MetadataMap, Context)> {
        self.seen.lock().unwrap().clone()
    }

    /// The contexts in which the calls came to their end: in a handler, or in the stream that it made.
    pub fn finished(&self) -> Vec<Context> {
        self.finished.lock().unwrap().clone()
    }

    pub async fn hangs(&self) {
        tokio::time::timeout(SOON, self.hangs.acquire()).await.unwrap().unwrap().forget();
    }

    pub async fn dropped(&self) {
        tokio::time::timeout(SOON, self.dropped.acquire()).await.unwrap().unwrap().forget();
    }

    fn see<T>(&self, request: &Request<T>) {
        self.seen.lock().unwrap().push((request.metadata().clone(), Context::current()));
    }

    async fn hang(self) {
        struct Hanging(Option<Arc<Semaphore>>);

        impl Drop for Hanging {
            fn drop(&mut self) {
                if let Some(dropped) = self.0.take() {
                    dropped.add_permits(1);
                }
            }
        }

        let mut hanging = Hanging(Some(self.dropped.clone()));
        self.hangs.add_permits(1);
        self.release.acquire().await.unwrap().forget();
        hanging.0 = None;
    }

    async fn finish(self, item: Item) -> Result<Item, Status> {
        self.finished.lock().unwrap().push(Context::current());
        match &*item.then {
            "hang" => self.hang().await,
            "panic" => panic!("s3cret"),
            _ => {}
        }
        match Code::from(item.code) {
            Code::Ok => Ok(item),
            code => Err(Status::new(code, "s3cret")),
        }
    }

    /// So many items, and then what the first says.
    fn stream(self, item: Item) -> Items {
        let count = usize::try_from(item.count).unwrap();
        let items = stream::repeat(item.clone()).take(count).map(Ok);
        let end = stream::once(self.finish(item)).filter_map(async |end| end.err().map(Err));
        Box::pin(items.chain(end))
    }
}

pub type Items = Pin<Box<dyn Stream<Item = Result<Item, Status>> + Send>>;

#[derive(Debug)]
pub struct Shop(pub Events);

#[tonic::async_trait]
impl Inventory for Shop {
    async fn get(&self, request: Request<Item>) -> Result<Response<Item>, Status> {
        self.0.see(&request);
        self.0.clone().finish(request.into_inner()).await.map(Response::new)
    }

    type WatchStream = Items;

    async fn watch(&self, request: Request<Item>) -> Result<Response<Items>, Status> {
        self.0.see(&request);
        Ok(Response::new(self.0.clone().stream(request.into_inner())))
    }

    async fn put(&self, request: Request<Streaming<Item>>) -> Result<Response<Item>, Status> {
        self.0.see(&request);
        let mut items = request.into_inner();
        let mut last = Item::default();
        while let Some(item) = items.message().await? {
            last = item;
        }
        self.0.clone().finish(last).await.map(Response::new)
    }

    type SyncStream = Items;

    async fn sync(&self, request: Request<Streaming<Item>>) -> Result<Response<Items>, Status> {
        self.0.see(&request);
        let events = self.0.clone();
        let answers = request.into_inner().flat_map(move |item| match item {
            Ok(item) => events.clone().stream(item),
            Err(status) => Box::pin(stream::iter([Err(status)])),
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

pub struct World {
    pub traced: Traced,
    pub events: Events,
    pub address: SocketAddr,
    pub server: JoinHandle<()>,
    pub client: Client,
}

impl World {
    pub async fn start() -> Self {
        Self::with(Traced::start(), |layer| layer).await
    }

    pub async fn with(traced: Traced, change: impl FnOnce(ServerTraceLayer) -> ServerTraceLayer) -> Self {
        let events = Events::default();
        let layer = change(ServerTraceLayer::new().tracer(traced.tracer()));
        let server = Server::builder().layer(layer).add_service(InventoryServer::new(Shop(events.clone())));
        let (address, server) = serve(server).await;
        let client = connect(&traced, address);
        Self { traced, events, address, server, client }
    }
}

/// Serves on a free port.
pub async fn serve<L>(server: Router<L>) -> (SocketAddr, JoinHandle<()>)
where
    L: Layer<tonic::service::Routes> + Send + 'static,
    Router<L>: ServeOn,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(server.serve_on(TcpListenerStream::new(listener)));
    (address, server)
}

/// [`Router::serve_with_incoming`] without its many bounds.
pub trait ServeOn: Sized {
    fn serve_on(self, incoming: TcpListenerStream) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

macro_rules! serve_on {
    ($($layer:ty),*) => {$(
        impl ServeOn for Router<$layer> {
            fn serve_on(self, incoming: TcpListenerStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
                Box::pin(async { self.serve_with_incoming(incoming).await.unwrap() })
            }
        }
    )*};
}

pub type Layered = tower_layer::Stack<ServerTraceLayer, tower_layer::Identity>;

serve_on!(Layered, tower_layer::Identity);

pub fn connect(traced: &Traced, address: SocketAddr) -> Client {
    InventoryClient::new(channel(traced, address))
}

pub fn channel(traced: &Traced, address: SocketAddr) -> ClientTrace<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    ClientTraceLayer::for_endpoint(&endpoint).tracer(traced.tracer()).layer(endpoint.connect_lazy())
}
