//! Under construction.

mod data;
mod value;

pub use data::{EventData, LinkData, SpanData};
pub use value::OwnedValue;
