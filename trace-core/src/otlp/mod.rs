//! Under construction.

mod value;

pub use value::OwnedValue;
