//! Under construction.

pub mod config;
mod context;
mod export;
mod id;
pub mod otlp;
pub mod propagation;
mod resource;
pub mod sampler;
mod span;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use context::{
    Baggage, BaggageError, BaggageMember, SpanContext, TraceFlags, TraceState, TraceStateError,
};
pub use id::{Hex, ParseIdError, SpanId, TraceId};
pub use propagation::{Extractor, Injector, Propagator};
pub use resource::Resource;
pub use span::{SpanKind, StatusCode};
