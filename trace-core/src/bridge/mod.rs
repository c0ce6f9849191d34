//! Neighbours: what other libraries say of the work that is done, turned into spans.
//!
//! With the feature `tracing`: the spans, events and log lines of the `tracing` crate.

#[cfg(feature = "tracing")]
pub mod tracing;
