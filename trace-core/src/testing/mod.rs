//! What a test needs to see what its program sends: an OTLP receiver in the test's own process, and the tree of a trace.
//!
//! [`Collector`] listens on loopback, over HTTP and over gRPC, as the OpenTelemetry Collector does. What it receives is
//! decoded by the message types that OpenTelemetry publishes, not by this crate's own decoder: a foreign judge of every
//! byte that the exporter makes. It can also [misbehave](Behaviour), so that a test sees what a service does while its
//! collector refuses, hangs or complains.
//!
//! ```
//! use std::time::Duration;
//!
//! use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
//! use trace_core::testing::Collector;
//! use trace_core::{Tracer, db};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let collector = Collector::start().await?;
//!
//! // A pipeline for this test alone: tests that run at the same time do not mix. A layer or client takes its tracer
//! // by `.tracer(traces.tracer())`.
//! let mut otlp = OtlpConfig::new(Protocol::HttpProtobuf);
//! otlp.endpoint = format!("{}/v1/traces", collector.http_endpoint()).parse()?;
//! let traces = Tracer::builder().service_name("shop").exporter(ExporterConfig::Otlp(otlp)).build();
//!
//! // What the test does; what runs in a span goes through the span's pipeline.
//! traces.span("order").run(async { db::query("sqlite").operation("SELECT").start().end() }).await;
//!
//! traces.flush(Duration::from_secs(5)).await?;
//! let trace = &collector.traces()[0];
//! trace.check()?; // one root, and no span whose parent is missing
//! assert_eq!(trace.shape(), "shop: order (internal)\n  shop: SELECT (client)\n");
//! # Ok(())
//! # }
//! ```
//!
//! A service that is a process of its own is told by `OTEL_EXPORTER_OTLP_ENDPOINT`: [`Collector::http_endpoint`]. Then
//! [`Collector::wait_for_spans`] waits for what it sends.
//!
//! What lies between has its faults too: [`Names`] are host names that cannot be resolved, or not soon, or that change;
//! [`Proxy`] is a network that is slow, loses, or is cut.
//!
//! [`TraceTree`] joins the spans of a trace, says whether anything is missing, and prints it.

mod behaviour;
mod collector;
pub(crate) mod convert;
mod door;
mod line;
mod names;
mod proxy;
mod serve;
mod stage;
mod tls;

#[cfg(test)]
#[cfg(feature = "http")]
mod fault_tests;
#[cfg(test)]
#[cfg(feature = "http")]
mod tests;

pub use self::behaviour::Behaviour;
pub use self::collector::{Collector, CollectorBuilder, Protocol, Request, WaitError};
pub use self::names::Names;
pub use self::proxy::{Proxy, Traffic};
pub use crate::export::spool::faults::{DiskFault, DiskFaults};
pub use crate::export::spool::record::{SpoolRecord, SpoolRecordError};
pub use crate::otlp::{TraceTree, TreeError, TreeStyle};
