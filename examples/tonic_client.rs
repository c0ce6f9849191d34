//! A traced gRPC call, here to the service of the example `tonic_service`: one trace, across both.
//!
//! ```text
//! OTEL_SERVICE_NAME=caller OTEL_TRACES_EXPORTER=console cargo run -p examples --example tonic_client
//! ```

use std::time::Duration;

use tonic::transport::Endpoint;

use self::proto::GreetRequest;
use self::proto::greeter_client::GreeterClient;

#[allow(missing_docs, unreachable_pub)]
mod proto {
    tonic::include_proto!("greeter");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let traces = trace_core::init();
    let endpoint = Endpoint::from_static("http://127.0.0.1:50051");
    let mut client = GreeterClient::new(trace_tonic::channel(&endpoint));
    let greeting = client.greet(GreetRequest { name: "Ada".to_owned() }).await;
    traces.shutdown(Duration::from_secs(5)).await?;
    println!("{}", greeting?.into_inner().text);
    Ok(())
}
