//! The service that W3C's trace-context harness tests: it takes calls to make, and makes them inside the trace of the
//! request that brought them.
//!
//! ```text
//! cargo run -p examples --example w3c_service -- --listen 127.0.0.1:5000
//! python3 test/test.py http://127.0.0.1:5000/test
//! ```

use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpListener;
use trace_reqwest::reqwest_middleware::ClientWithMiddleware;

#[derive(Deserialize)]
struct Call {
    url: String,
    arguments: Value,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let listen = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--listen"), Some(address)) => address,
        (None, _) => "127.0.0.1:5000".to_owned(),
        _ => return Err("usage: w3c_service [--listen ADDRESS:PORT]".into()),
    };
    let traces = trace_core::init();
    let app = Router::new()
        .route("/test", post(test))
        .with_state(trace_reqwest::client())
        .layer(trace_axum::TraceLayer::new())
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    let _ = traces.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// What comes back from the calls does not matter: the harness looks at what it receives.
async fn test(State(client): State<ClientWithMiddleware>, Json(calls): Json<Vec<Call>>) -> StatusCode {
    for call in calls {
        let body = Bytes::from(call.arguments.to_string());
        let request = client.post(call.url).header("content-type", "application/json").body(body);
        if let Err(error) = request.send().await {
            eprintln!("a call failed: {error}");
        }
    }
    StatusCode::OK
}
