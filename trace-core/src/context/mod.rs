//! Under construction.

mod baggage;
pub(crate) mod grammar;
mod span_context;
mod trace_state;

pub(crate) use baggage::BaggageParser;
pub use baggage::{Baggage, BaggageError, BaggageMember};
pub use span_context::{SpanContext, TraceFlags};
pub(crate) use trace_state::TraceStateParser;
pub use trace_state::{TraceState, TraceStateError};
