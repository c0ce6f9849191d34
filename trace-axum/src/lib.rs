#![doc = include_str!("lib.md")]

mod body;
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

/// The examples of the workspace's first page, which use this crate most.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
