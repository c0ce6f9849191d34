//! Under construction.

mod kind;

pub use kind::{SpanKind, StatusCode};
