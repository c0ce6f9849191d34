#![doc = include_str!("lib.md")]

mod current_span;
mod future;
mod layer;
mod service;

pub use current_span::CurrentSpan;
pub use future::ResponseFuture;
pub use layer::TraceLayer;
pub use service::Trace;
#[doc(no_inline)]
pub use trace_tower::conventions::{KnownMethods, QueryRedaction};
