//! Under construction.

pub mod config;
mod context;
mod export;
mod id;
pub mod otlp;
mod propagation;
mod resource;
pub mod sampler;
mod span;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use context::{Baggage, SpanContext, TraceFlags, TraceState};
pub use id::{Hex, ParseIdError, SpanId, TraceId};
pub use resource::Resource;
pub use span::{SpanKind, StatusCode};
