//! What a test needs to see what its program sends: an OTLP receiver in the test's own process, and the tree of a trace.
//!
//! [`Collector`] listens on loopback, over HTTP and over gRPC, as the OpenTelemetry Collector does. What it receives is
//! decoded by the message types that OpenTelemetry publishes, not by this crate's own decoder: a foreign judge of every
//! byte that the exporter makes. It can also [misbehave](Behaviour), so that a test sees what a service does while its
//! collector refuses, hangs or complains.
//!
//! ```
//! use std::time::Duration;
//! use trace_core::testing::Collector;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let collector = Collector::start_blocking()?;
//! // Configure the service under test: OTEL_EXPORTER_OTLP_ENDPOINT is this.
//! let endpoint = collector.http_endpoint();
//! assert!(endpoint.starts_with("http://127.0.0.1:"));
//! // Send a request to it, then wait for its spans; here nothing was sent.
//! let late = collector.blocking_wait_for_spans(1, Duration::from_millis(1));
//! assert!(late.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! [`TraceTree`] joins the spans of a trace, says whether anything is missing, and prints it.

mod behaviour;
mod collector;
mod convert;
mod serve;

#[cfg(test)]
#[cfg(feature = "http")]
mod tests;

pub use self::behaviour::Behaviour;
pub use self::collector::{Collector, CollectorBuilder, Protocol, Request, WaitError};
pub use crate::otlp::{TraceTree, TreeError, TreeStyle};
