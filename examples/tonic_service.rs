//! A traced gRPC service. Its traces on the terminal:
//!
//! ```text
//! OTEL_SERVICE_NAME=greeter OTEL_TRACES_EXPORTER=console cargo run -p examples --example tonic_service
//! cargo run -p examples --example tonic_client
//! ```

use std::time::Duration;

use tonic::transport::Server;
use tonic::{Request, Response, Status};
use trace_tonic::ServerTraceLayer;

use self::proto::greeter_server::{Greeter, GreeterServer};
use self::proto::{GreetRequest, Greeting};

#[allow(missing_docs, unreachable_pub)]
mod proto {
    tonic::include_proto!("greeter");
}

struct Polite;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<Greeting>, Status> {
        let name = request.into_inner().name;
        if name.is_empty() {
            return Err(Status::invalid_argument("nobody to greet"));
        }
        Ok(Response::new(Greeting { text: format!("Hello, {name}!") }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let traces = trace_core::init();
    Server::builder()
        .layer(ServerTraceLayer::new())
        .add_service(GreeterServer::new(Polite))
        .serve_with_shutdown("127.0.0.1:50051".parse()?, async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    traces.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
