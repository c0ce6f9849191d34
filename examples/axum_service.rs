//! A traced axum service. Its traces on the terminal:
//!
//! ```text
//! OTEL_SERVICE_NAME=hello OTEL_TRACES_EXPORTER=console cargo run -p examples --example axum_service
//! curl -i http://127.0.0.1:3000/hello/world
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use tokio::net::TcpListener;
use trace_axum::TraceLayer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let traces = trace_core::init();
    let app = Router::new().route("/hello/{name}", get(hello)).layer(TraceLayer::ingress());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, app).with_graceful_shutdown(ctrl_c()).await?;
    traces.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

async fn hello(Path(name): Path<String>) -> String {
    trace_core::span("write greeting")
        .attribute("name.length", name.len())
        .in_scope(|| format!("Hello, {name}!\n"))
}

async fn ctrl_c() {
    let _ = tokio::signal::ctrl_c().await;
}
