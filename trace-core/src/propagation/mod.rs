//! How the context crosses a border: as headers of a request, or as the string map of a message.
//!
//! A [`Propagator`] holds the formats in use and asks a carrier for nothing but header lines ([`Extractor`], [`Injector`]), so
//! that the same code serves HTTP, gRPC metadata and queues. What arrives is judged once, here: text that is not what the
//! specification says never becomes part of a context, and never fails a request.
//!
//! The layers and clients of the family do this by themselves. Through a queue:
//!
//! ```
//! use std::collections::HashMap;
//! use trace_core::{Context, SpanKind};
//!
//! # fn work() {}
//! // Who sends:
//! let mut headers = HashMap::<String, String>::new();
//! trace_core::span("send orders").kind(SpanKind::Producer).in_scope(|| {
//!     trace_core::tracer().propagator().inject(&Context::current(), &mut headers);
//! });
//!
//! // Who receives:
//! let sender = trace_core::tracer().propagator().extract(&headers);
//! trace_core::span("process orders").kind(SpanKind::Consumer).parent(&sender).in_scope(work);
//! ```

pub mod baggage;
mod carrier;
mod composite;
pub mod trace_context;

pub use carrier::{Extractor, FieldValue, Injector, Lines, W3cLines};
pub use composite::Propagator;
