//! Under construction.

mod data;
pub(crate) mod decode;
pub(crate) mod encode;
mod reader;
#[cfg_attr(not(any(feature = "http", feature = "grpc")), allow(dead_code))]
pub(crate) mod request;
#[cfg_attr(not(any(feature = "http", feature = "grpc")), allow(dead_code))]
pub(crate) mod response;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod tail;
mod tree;
mod value;
pub(crate) mod wire;

pub use data::{EventData, LinkData, SpanData};
pub use decode::decode_request;
pub use reader::DecodeError;
pub use tree::{TraceTree, TreeError, TreeStyle};
pub use value::OwnedValue;
