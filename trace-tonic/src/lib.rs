//! Server and client spans for [tonic], from the first byte of a call to the status in its trailers.
//!
//! A server:
//!
//! ```no_run
//! # use tonic::server::NamedService;
//! # async fn example<S>(inventory: S) -> Result<(), tonic::transport::Error>
//! # where
//! #     S: tower_service::Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>, Error = std::convert::Infallible>
//! #         + NamedService + Clone + Send + Sync + 'static,
//! #     S::Future: Send,
//! # {
//! use tonic::transport::Server;
//! use trace_tonic::ServerTraceLayer;
//!
//! Server::builder()
//!     .layer(ServerTraceLayer::new())
//!     .add_service(inventory)
//!     .serve(([0, 0, 0, 0], 50051).into())
//!     .await
//! # }
//! ```
//!
//! A client, where `InventoryClient` is what tonic generated:
//!
//! ```no_run
//! # struct InventoryClient;
//! # impl InventoryClient { fn new(_: trace_tonic::ClientTrace<tonic::transport::Channel>) {} }
//! # fn example() {
//! use tonic::transport::Endpoint;
//!
//! let endpoint = Endpoint::from_static("http://inventory:50051");
//! let client = InventoryClient::new(trace_tonic::channel(&endpoint));
//! # }
//! ```
//!
//! Calls of all four kinds (unary, client, server and bidirectional streaming) are traced to their end: until the status is
//! known, which is in the trailers, or in the head of a response that has nothing else. The context travels in the
//! metadata: `traceparent`, `tracestate` and `baggage`, which replace what the metadata has of them.
//!
//! # What a span tells
//!
//! By the [conventions for gRPC](https://opentelemetry.io/docs/specs/semconv/rpc/grpc/):
//!
//! | attribute | |
//! |---|---|
//! | `rpc.system.name` | `grpc` |
//! | `rpc.method` | `package.Service/Method`, which is also the span's name; `_OTHER`, and the name `grpc`, for a method that does not exist. On a client it is the last two words of the path, whatever prefix its origin has |
//! | `rpc.method_original` | on a server, the method that does not exist |
//! | `rpc.status_code` | `OK`, `NOT_FOUND`… |
//! | `server.address`, `server.port` | on a server, what the client called it (`:authority`); on a client, its endpoint |
//! | `network.peer.address`, `network.peer.port` | on a server, the other end of the connection |
//! | `error.type` | the status again, when it is an error; `panic` |
//!
//! For a client each status but `OK` is an error. For a server these are: `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`,
//! `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS`; the others are the caller's business. A response without a status has the one
//! that [gRPC](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md) gives to its HTTP status, `UNKNOWN`
//! for 200. When there is no response, the client's status is the one that tonic makes of the error.
//!
//! A call that is dropped before its end has the status `CANCELLED`, and is no error: on a client its caller no longer waits,
//! on a server the client has gone, or its deadline has passed.
//!
//! # What the stack does not let us see
//!
//! - **Which methods a server has.** A method that does not exist is answered with `UNIMPLEMENTED` and nothing else, and so
//!   that answer makes it `_OTHER`, also when it comes from a method that does exist. [`ServerTraceLayer::methods`] and
//!   [`ServerTraceLayer::file_descriptor_set`] name those that do.
//! - **The address that a client is connected to.** tonic's `Channel` connects beneath every layer and does not tell where,
//!   so that a client's span has no `network.peer.*`. It adds the authority beneath every layer too, which is why the layer
//!   is made [from the endpoint](ClientTraceLayer::for_endpoint).
//! - **That a deadline passed on a server.** tonic drops the call for it as for a client that has gone, and answers
//!   `CANCELLED`.
//! - **Attempts.** tonic does not retry. When something else does, put it around the layer, and each attempt is a span.

#![warn(missing_docs)]

mod client;
mod descriptor;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod method;
mod server;
mod status;

pub use client::{ClientTrace, ClientTraceLayer, GrpcClient, GrpcClientCall, channel};
pub use descriptor::DescriptorError;
pub use server::{GrpcServer, GrpcServerCall, ServerTrace, ServerTraceLayer};
