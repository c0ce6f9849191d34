//! `mesh collector`: an OTLP receiver that keeps the recent traces and shows them on one page.
//!
//! The receiver is the one that the core gives to tests. What is added here is a bounded store, what the services say of
//! themselves, a small JSON API and the page. It is made for a laptop: everything is in memory, and there is no access control, so it listens on loopback.

mod api;
mod services;
mod store;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use trace_core::TraceId;
use trace_core::otlp::TraceTree;
use trace_core::testing;

use self::services::Services;
pub(crate) use self::store::Limits;
use self::store::Store;

/// Where the collector listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// The page and its API.
    pub(crate) page: SocketAddr,
    pub(crate) otlp_http: SocketAddr,
    pub(crate) otlp_grpc: SocketAddr,
}

/// A collector at work. Its receiver stops when this is dropped, its page with the runtime.
#[derive(Debug)]
pub(crate) struct Collector {
    receiver: testing::Collector,
    store: Shared,
    services: Services,
    page: SocketAddr,
}

type Shared = Arc<Mutex<Store>>;

impl Collector {
    pub(crate) async fn start(addresses: Addresses, limits: Limits) -> anyhow::Result<Self> {
        let store = Arc::new(Mutex::new(Store::new(limits)));
        let receiver = testing::Collector::builder()
            .http_address(addresses.otlp_http)
            .grpc_address(addresses.otlp_grpc)
            .deliver_to({
                let store = Arc::clone(&store);
                move |spans| lock(&store).insert(spans)
            })
            .start()
            .await
            .with_context(|| {
                format!("cannot listen for OTLP on {} and {}", addresses.otlp_http, addresses.otlp_grpc)
            })?;
        let listener = TcpListener::bind(addresses.page)
            .await
            .with_context(|| format!("cannot listen on {}", addresses.page))?;
        let page = listener.local_addr()?;
        let services = Services::default();
        tokio::spawn(axum::serve(listener, routes(Arc::clone(&store), services.clone())).into_future());
        Ok(Self { receiver, store, services, page })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is for `http/protobuf`.
    pub(crate) fn http_endpoint(&self) -> String {
        self.receiver.http_endpoint()
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is for `grpc`.
    pub(crate) fn grpc_endpoint(&self) -> String {
        self.receiver.grpc_endpoint()
    }

    /// Where the page is.
    pub(crate) fn page(&self) -> String {
        format!("http://{}", self.page)
    }

    /// Shows on the page what the service says of itself that answers at this address.
    pub(crate) fn watch(&self, address: String) {
        self.services.watch(address);
    }

    /// The trace with this id, as far as it is here.
    pub(crate) fn trace(&self, trace_id: TraceId) -> Option<TraceTree> {
        lock(&self.store).get(trace_id).map(|(tree, _)| tree)
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The page may run its own script and style, and talk to its own server: nothing else, whatever a span contains.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn routes(store: Shared, services: Services) -> Router {
    let page = || asset("text/html; charset=utf-8", include_str!("page.html"));
    Router::new()
        .route("/", get(page))
        .route("/trace/{id}", get(page))
        .route("/page.css", get(|| asset("text/css; charset=utf-8", include_str!("page.css"))))
        .route("/page.js", get(|| asset("text/javascript; charset=utf-8", include_str!("page.js"))))
        .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("icon.svg"))))
        .route("/api/traces", get(list))
        .route("/api/traces/{id}", get(one))
        .with_state(store)
        .merge(Router::new().route("/api/services", get(fleet)).with_state(services))
}

async fn asset(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// `GET /api/traces?q=…&errors=true&limit=…`: the recent traces, the latest first. The page asks every second, so an
/// unchanged store answers in a few bytes.
async fn list(State(store): State<Shared>, Query(query): Query<api::Query>, headers: HeaderMap) -> Response {
    let store = lock(&store);
    let tag = format!("\"{}\"", store.totals().revision);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let list = api::TraceList::of(&store, &query);
    drop(store);
    ([(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache".to_owned())], Json(list)).into_response()
}

/// `GET /api/services`: what each service that is watched says of itself.
async fn fleet(State(services): State<Services>) -> Response {
    ([(header::CACHE_CONTROL, "no-cache")], Json(services.told())).into_response()
}

/// `GET /api/traces/{id}`: one trace with everything in it.
async fn one(State(store): State<Shared>, Path(id): Path<String>) -> Response {
    let Some(trace_id) = TraceId::from_hex(id.as_bytes()) else {
        return failure(StatusCode::BAD_REQUEST, "a trace id is 32 lower-case hexadecimal digits");
    };
    let Some((tree, left_out)) = lock(&store).get(trace_id) else {
        return failure(
            StatusCode::NOT_FOUND,
            "no such trace here: it has not arrived yet, or has left already",
        );
    };
    let trace = api::Trace::of(&tree, left_out, |id| lock(&store).contains(id));
    ([(header::CACHE_CONTROL, "no-cache")], Json(trace)).into_response()
}

fn failure(status: StatusCode, what: &str) -> Response {
    (status, Json(serde_json::json!({ "error": what }))).into_response()
}
