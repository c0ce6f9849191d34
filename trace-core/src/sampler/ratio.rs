//! The sampler that keeps a share of all traces, chosen by their ids.

use std::error::Error;
use std::fmt;

use crate::TraceId;

use super::{Sampler, SamplingDecision, SamplingParameters};

/// The number of random bits of a trace id: its right-most seven bytes (W3C Trace Context Level 2, random
/// trace id flag).
const RANDOM_BITS: u32 = 56;

/// Keeps a share of all traces, from 0 (none) to 1 (all).
///
/// The right-most 56 bits of the trace id are compared with a threshold, as [consistent probability
/// sampling](https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/) does: every
/// service that uses the same ratio keeps the same traces, and a trace that is kept at some ratio is kept at
/// every higher one. A parent's decision is not looked at: for that, put it into a
/// [`ParentBased`](super::ParentBased).
///
/// ```
/// use trace_core::sampler::TraceIdRatio;
///
/// assert_eq!(TraceIdRatio::new(0.25)?.ratio(), 0.25);
/// assert!(TraceIdRatio::new(1.5).is_err());
/// # Ok::<(), trace_core::sampler::InvalidRatio>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceIdRatio {
    ratio: f64,
    /// The random part of an id must be at least this for the trace to be kept; 2⁵⁶ keeps none.
    threshold: u64,
}

/// A ratio that is not a number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InvalidRatio(f64);

impl TraceIdRatio {
    /// Keeps this share of all traces. A share below 2⁻⁵⁷ keeps none.
    ///
    /// # Errors
    ///
    /// When `ratio` is below 0, above 1 or not a number.
    pub fn new(ratio: f64) -> Result<Self, InvalidRatio> {
        if !(0.0..=1.0).contains(&ratio) {
            return Err(InvalidRatio(ratio));
        }
        let all = 1u64 << RANDOM_BITS;
        // Scaling by a power of two is exact, so that even the smallest ratio keeps its share.
        let kept = (ratio * all as f64).round() as u64;
        Ok(Self { ratio, threshold: all - kept })
    }

    /// The share of traces that is kept.
    pub const fn ratio(self) -> f64 {
        self.ratio
    }

    #[inline]
    pub(super) const fn decide(self, trace_id: TraceId) -> SamplingDecision {
        let randomness = trace_id.to_u128() as u64 & ((1 << RANDOM_BITS) - 1);
        if randomness >= self.threshold { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop }
    }
}

impl Sampler for TraceIdRatio {
    #[inline]
    fn should_sample(&self, parameters: &SamplingParameters<'_>) -> SamplingDecision {
        self.decide(parameters.trace_id)
    }

    fn description(&self) -> String {
        format!("TraceIdRatioBased{{{}}}", self.ratio)
    }
}

impl fmt::Display for InvalidRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a sampling ratio: expected a number from 0 to 1", self.0)
    }
}

impl Error for InvalidRatio {}
