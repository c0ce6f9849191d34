//! This workspace's side of the tests with Python's OpenTelemetry: a service that answers over HTTP and gRPC, and passes
//! what it is asked on to the next stop, over HTTP or gRPC.
//!
//! It prints its addresses as `http://… grpc://…`, serves until its standard input ends, sends what is left, and prints
//! its counters.

mod relay;
mod sample;

use std::error::Error;
use std::future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use self::relay::Relay;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let traces = trace_core::init();
    let relay = Relay::new();

    let http = TcpListener::bind("127.0.0.1:0").await?;
    let grpc = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{} grpc://{}", http.local_addr()?, grpc.local_addr()?);

    let app = Router::new()
        .route("/relay", post(relay::over_http))
        .route("/sample", get(sample))
        .with_state(relay.clone())
        .layer(trace_axum::TraceLayer::new())
        .into_make_service_with_connect_info::<SocketAddr>();
    let services =
        Server::builder().layer(trace_tonic::ServerTraceLayer::new()).add_service(relay::over_grpc(relay));

    tokio::select! {
        result = axum::serve(http, app) => result?,
        result = services.serve_with_incoming(TcpIncoming::from(grpc)) => result?,
        () = end_of_input() => {}
    }
    let sent = traces.shutdown(Duration::from_secs(5)).await;
    println!("{}", traces.stats());
    Ok(sent?)
}

async fn sample() -> StatusCode {
    sample::record();
    StatusCode::NO_CONTENT
}

/// Returns when whoever started the process closes its end, or is gone.
async fn end_of_input() {
    let mut ignored = Vec::new();
    if tokio::io::stdin().read_to_end(&mut ignored).await.is_err() {
        future::pending::<()>().await;
    }
}
