//! The OpenTelemetry protocol: spans as bytes, and bytes as spans.
//!
//! A span is encoded once, by hand, while it is recorded, and is sent as it lies. Whoever wants to look at spans again
//! reads them back as [`SpanData`]: a program that receives OTLP by [`decode_request`], a test from the
//! [`testing`](https://docs.rs/trace-core/latest/trace_core/testing/) collector. [`TraceTree`] joins the spans of a
//! trace and prints them for a person.
//!
//! ```
//! use trace_core::otlp::{DecodeError, TraceTree, decode_request};
//!
//! /// Prints what a service exports: the body of a `POST /v1/traces`.
//! fn print(body: &[u8]) -> Result<(), DecodeError> {
//!     for trace in TraceTree::group(decode_request(body)?) {
//!         println!("{trace}");
//!     }
//!     Ok(())
//! }
//!
//! assert_eq!(print(b""), Ok(()), "a request without spans");
//! assert_eq!(print(b"\x0a\x01"), Err(DecodeError::Truncated));
//! ```

mod data;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod reader;
#[cfg_attr(not(any(feature = "http", feature = "grpc")), allow(dead_code))]
pub(crate) mod request;
#[cfg_attr(not(any(feature = "http", feature = "grpc")), allow(dead_code))]
pub(crate) mod response;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod tail;
mod tree;
mod value;
pub(crate) mod wire;

pub use data::{EventData, LinkData, SpanData};
pub use decode::decode_request;
pub use reader::DecodeError;
pub use tree::{TraceTree, TreeError, TreeStyle};
pub use value::OwnedValue;
