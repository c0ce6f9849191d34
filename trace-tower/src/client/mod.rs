//! A span for every request that is sent, until the head of its response is there.
//!
//! [`ClientTraceLayer`] makes [`ClientTrace`], which starts the span, writes its context into the request's headers, and
//! polls the service's future inside it ([`ResponseFuture`]). The response's body is no part of the span, as the
//! conventions want it: who reads a body late, or never, does not make the call longer.

mod future;
mod http;
mod layer;
mod service;

pub use self::future::ResponseFuture;
pub use self::http::{HttpClient, HttpClientCall, UrlTemplate};
pub use self::layer::ClientTraceLayer;
pub use self::service::ClientTrace;
