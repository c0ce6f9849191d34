//! How the context crosses a border: as headers of a request, or as the string map of a message.
//!
//! A [`Propagator`] holds the formats in use and asks a carrier for nothing but header lines ([`Extractor`], [`Injector`]), so
//! that the same code serves HTTP, gRPC metadata and queues. What arrives is judged once, here: text that is not what the
//! specification says never becomes part of a context, and never fails a request.

pub mod baggage;
mod carrier;
mod composite;
pub mod trace_context;

pub use carrier::{Extractor, Injector};
pub use composite::Propagator;
