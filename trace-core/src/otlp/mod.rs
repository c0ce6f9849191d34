//! Under construction.

mod data;
pub(crate) mod encode;
mod value;
pub(crate) mod wire;

pub use data::{EventData, LinkData, SpanData};
pub use value::OwnedValue;
