//! Neighbours: what other libraries say of the work that is done, turned into spans, and what this one has to tell them.
//!
//! With the feature `tracing`: the spans, events and log lines of the `tracing` crate. With the feature `metrics`: what
//! became of the spans, as metrics by the API of the `opentelemetry` crate: `Tracer::observe`.

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
pub mod tracing;
