//! Neighbours: what other libraries say of the work that is done, turned into spans.

#[cfg(feature = "tracing")]
pub mod tracing;
