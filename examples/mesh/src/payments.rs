//! Charges cards, and fails when asked to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use trace_axum::TraceLayer;
use trace_core::{Scope, Span, span};

use crate::service::Service;

static SCOPE: Scope = Scope::new("mesh.payments", env!("CARGO_PKG_VERSION"));

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    service: Service,
}

/// What orders sends.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Charge {
    /// By which a repeated request is known for what it is.
    pub(crate) order: i64,
    pub(crate) amount_cents: i64,
    /// How many times the card's issuer is not there, before it is.
    pub(crate) failures: u32,
}

/// The attempts at charges that failed so far.
type Attempts = Arc<Mutex<HashMap<i64, u32>>>;

/// More than this is not given to strangers.
const AMOUNT_CENTS_MAX: i64 = 1_000_000;

/// Charges that are given up by their caller stay in the map; at this many it is emptied.
const ATTEMPTS_MAX: usize = 10_000;

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    args.service
        .run("payments", |listener, stopped| async move {
            let app = Router::new()
                .route("/charges", post(charge))
                .with_state(Attempts::default())
                .route("/healthz", get(|| async { "ok" }))
                .layer(TraceLayer::new().ignore_paths(["/healthz"]));
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
                .with_graceful_shutdown(async {
                    let _ = stopped.await;
                })
                .await?;
            Ok(())
        })
        .await
}

async fn charge(State(attempts): State<Attempts>, Json(charge): Json<Charge>) -> Response {
    let mut authorising = span("authorise card")
        .scope(&SCOPE)
        .attribute("card.network", "visa")
        .attribute("amount.cents", charge.amount_cents);
    if charge.amount_cents > AMOUNT_CENTS_MAX {
        authorising.set_error("declined");
        return (StatusCode::PAYMENT_REQUIRED, Json(json!({ "error": "the card was declined" })))
            .into_response();
    }
    if fails(&attempts, &charge) {
        return issuer_away(authorising).await;
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    authorising.add_event("fraud.checked", &[("score".into(), 0.03.into())]);
    tokio::time::sleep(Duration::from_millis(3)).await;
    Json(json!({ "charged_cents": charge.amount_cents })).into_response()
}

async fn issuer_away(mut authorising: Span) -> Response {
    tokio::time::sleep(Duration::from_millis(4)).await;
    authorising.set_error("issuer_unavailable");
    let what = json!({ "error": "the card's issuer does not answer" });
    (StatusCode::SERVICE_UNAVAILABLE, Json(what)).into_response()
}

fn fails(attempts: &Attempts, charge: &Charge) -> bool {
    if charge.failures == 0 {
        return false;
    }
    let mut attempts = attempts.lock().unwrap_or_else(PoisonError::into_inner);
    if attempts.len() >= ATTEMPTS_MAX {
        attempts.clear();
    }
    let failed = attempts.entry(charge.order).or_default();
    if *failed < charge.failures {
        *failed += 1;
        return true;
    }
    attempts.remove(&charge.order);
    false
}
