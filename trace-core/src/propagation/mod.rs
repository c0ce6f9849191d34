//! Under construction.

use crate::config::PropagatorName;

/// Under construction.
#[derive(Clone, Debug, Default)]
pub struct Propagator;

impl Propagator {
    /// Under construction.
    pub fn from_names(_: &[PropagatorName]) -> Self {
        Self
    }
}
