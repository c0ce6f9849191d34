//! Under construction.

mod clock;
pub mod config;
mod context;
mod export;
mod id;
pub mod otlp;
mod pipeline;
pub mod propagation;
pub mod redaction;
mod resource;
pub mod sampler;
pub mod semconv;
mod span;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use context::{
    Baggage, BaggageError, BaggageMember, Context, ContextGuard, FutureExt, InContext, SpanContext,
    TraceFlags, TraceState, TraceStateError, carry, spawn, spawn_blocking, spawn_thread,
};
pub use export::FlushError;
pub use id::{Hex, ParseIdError, SpanId, TraceId};
pub use pipeline::{Tracer, TracerBuilder, Traces, init, tracer, try_init};
pub use propagation::{Extractor, Injector, Propagator};
pub use redaction::QueryRedaction;
pub use resource::Resource;
pub use span::{Key, Run, Scope, Span, SpanBuilder, SpanKind, SpanRef, StatusCode, Value, db, display, span};
pub use telemetry::{DropReason, Dropped, Stats};
