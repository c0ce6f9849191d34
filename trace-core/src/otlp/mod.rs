//! Under construction.

mod data;
mod tree;
mod value;

pub use data::{EventData, LinkData, SpanData};
pub use tree::{TraceTree, TreeError, TreeStyle};
pub use value::OwnedValue;
