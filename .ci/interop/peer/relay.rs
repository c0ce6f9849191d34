//! Takes the first stop off a route, and passes the rest on to it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};
use trace_reqwest::reqwest_middleware::ClientWithMiddleware;

use self::proto::relay_client::RelayClient;
use self::proto::relay_server::RelayServer;
use self::proto::{Passed, Route};

#[allow(missing_docs, unreachable_pub)]
mod proto {
    tonic::include_proto!("relay");
}

#[derive(Clone)]
pub(crate) struct Relay {
    client: ClientWithMiddleware,
}

enum Failure {
    /// Not a stop.
    Unknown(String),
    /// The next one, or the way to it, failed.
    Downstream(String),
}

impl Relay {
    pub(crate) fn new() -> Self {
        Self { client: trace_reqwest::client() }
    }

    /// How many stops were passed.
    async fn pass(&self, mut stops: Vec<String>) -> Result<u32, Failure> {
        if stops.is_empty() {
            return Ok(0);
        }
        let next = stops.remove(0);
        let passed = match next.split_once("://") {
            Some(("http", _)) => self.call_http(&next, &stops).await,
            Some(("grpc", address)) => call_grpc(address, stops).await,
            _ => return Err(Failure::Unknown(next)),
        };
        Ok(1 + passed.map_err(|error| Failure::Downstream(error.to_string()))?)
    }

    async fn call_http(&self, url: &str, stops: &[String]) -> Result<u32, Box<dyn std::error::Error>> {
        Ok(self.client.post(url).json(stops).send().await?.error_for_status()?.json().await?)
    }
}

async fn call_grpc(address: &str, stops: Vec<String>) -> Result<u32, Box<dyn std::error::Error>> {
    let endpoint = Endpoint::try_from(format!("http://{address}"))?;
    Ok(RelayClient::new(trace_tonic::channel(&endpoint)).pass(Route { stops }).await?.into_inner().stops)
}

pub(crate) async fn over_http(
    State(relay): State<Relay>,
    Json(stops): Json<Vec<String>>,
) -> Result<Json<u32>, (StatusCode, String)> {
    relay.pass(stops).await.map(Json).map_err(|failure| match failure {
        Failure::Unknown(stop) => (StatusCode::BAD_REQUEST, stop),
        Failure::Downstream(error) => (StatusCode::BAD_GATEWAY, error),
    })
}

pub(crate) fn over_grpc(relay: Relay) -> RelayServer<Relay> {
    RelayServer::new(relay)
}

#[tonic::async_trait]
impl proto::relay_server::Relay for Relay {
    async fn pass(&self, route: Request<Route>) -> Result<Response<Passed>, Status> {
        match self.pass(route.into_inner().stops).await {
            Ok(stops) => Ok(Response::new(Passed { stops })),
            Err(Failure::Unknown(stop)) => Err(Status::invalid_argument(stop)),
            Err(Failure::Downstream(error)) => Err(Status::unavailable(error)),
        }
    }
}
