//! Under construction.

mod baggage;
mod span_context;
mod trace_state;

pub use baggage::Baggage;
pub use span_context::{SpanContext, TraceFlags};
pub use trace_state::TraceState;
