//! A traced request, here to the service of the example `axum_service`: one trace, across both.
//!
//! ```text
//! OTEL_SERVICE_NAME=caller OTEL_TRACES_EXPORTER=console cargo run -p examples --example reqwest_client
//! ```

use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let traces = trace_core::init();
    let client = trace_reqwest::client();
    let greeting = trace_core::span("greet twice")
        .try_run(async {
            for name in ["Ada", "Grace"] {
                let url = format!("http://127.0.0.1:3000/hello/{name}");
                print!("{}", client.get(url).send().await?.text().await?);
            }
            Ok::<_, trace_reqwest::reqwest_middleware::Error>(())
        })
        .await;
    traces.shutdown(Duration::from_secs(5)).await?;
    Ok(greeting?)
}
