//! A span for every request that is served, from its head to the end of the response.
//!
//! [`ServerTraceLayer`] makes [`ServerTrace`], which starts the span, polls the service's future inside it
//! ([`ResponseFuture`]), and watches the response's body to its end ([`ResponseBody`]). [`HttpServer`] is the protocol
//! that they speak by themselves; gRPC is another.

mod body;
mod future;
mod http;
mod layer;
mod service;

pub use self::body::{BodyCall, ResponseBody};
pub use self::future::ResponseFuture;
pub use self::http::{Framework, HttpServer, HttpServerCall};
pub use self::layer::ServerTraceLayer;
pub use self::service::ServerTrace;

#[cfg(test)]
mod tests;
