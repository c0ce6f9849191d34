//! The ingress: takes orders from outside and passes them on.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use reqwest_middleware::ClientWithMiddleware;
use serde_json::json;
use trace_axum::TraceLayer;
use trace_reqwest::UrlTemplate;

use crate::service::Service;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    service: Service,
    /// Where the orders service is.
    #[arg(long, env = "ORDERS_URL")]
    orders: String,
}

#[derive(Clone, Debug)]
struct Gateway {
    client: ClientWithMiddleware,
    orders: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    args.service
        .run("gateway", |listener, stopped| async move {
            let gateway = Gateway { client: trace_reqwest::client(), orders: args.orders };
            let app = Router::new()
                .route("/orders", post(place))
                .route("/orders/{id}", get(look))
                .with_state(gateway)
                .route("/healthz", get(|| async { "ok" }))
                .layer(TraceLayer::ingress().ignore_paths(["/healthz"]));
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
                .with_graceful_shutdown(async {
                    let _ = stopped.await;
                })
                .await?;
            Ok(())
        })
        .await
}

async fn place(State(gateway): State<Gateway>, body: Bytes) -> Response {
    let request = gateway
        .client
        .post(format!("{}/orders", gateway.orders))
        .with_extension(UrlTemplate("/orders"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(body);
    pass_on(request.send().await).await
}

async fn look(State(gateway): State<Gateway>, Path(id): Path<u64>) -> Response {
    let url = format!("{}/orders/{id}", gateway.orders);
    pass_on(gateway.client.get(url).with_extension(UrlTemplate("/orders/{id}")).send().await).await
}

/// The answer of the service behind, as it is. That there is none is this service's fault towards the caller.
async fn pass_on(answer: Result<reqwest::Response, reqwest_middleware::Error>) -> Response {
    let Ok(answer) = answer else { return unreachable() };
    let status = answer.status();
    match answer.bytes().await {
        Ok(body) => {
            let json = HeaderValue::from_static("application/json");
            (status, [(header::CONTENT_TYPE, json)], body).into_response()
        }
        Err(_) => unreachable(),
    }
}

fn unreachable() -> Response {
    (StatusCode::BAD_GATEWAY, Json(json!({ "error": "orders cannot be reached" }))).into_response()
}
