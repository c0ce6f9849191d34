//! What is decided: whether a span that starts is recorded and sent, or only passes its ids on.
//!
//! The environment chooses one (`OTEL_TRACES_SAMPLER`), or the code:
//!
//! ```
//! use trace_core::Tracer;
//! use trace_core::sampler::{ParentBased, TraceIdRatio};
//!
//! // A tenth of the traces that start here; a caller's decision is followed.
//! let builder = Tracer::builder().from_env().sampler(ParentBased::new(TraceIdRatio::new(0.1)?));
//! # Ok::<(), trace_core::sampler::InvalidRatio>(())
//! ```
//!
//! A sampler is asked once for each span, before anything of it is recorded. The built-in ones are those of
//! the [OpenTelemetry SDK specification,
//! Sampling](https://opentelemetry.io/docs/specs/otel/trace/sdk/#sampling); they answer in a few nanoseconds,
//! allocate nothing, and are called without dynamic dispatch through [`AnySampler`].
//!
//! A span that a sampler drops still has an id of its own and sends it on with the *sampled* flag off, so
//! that the services behind it can agree with the decision.

mod parent_based;
mod ratio;
mod settled;

use std::fmt;
use std::sync::Arc;

use crate::span::{SpanKind, SpanName};
use crate::{SpanContext, TraceId};

pub use parent_based::ParentBased;
pub use ratio::{InvalidRatio, TraceIdRatio};
pub(crate) use settled::{ParentKind, Settled};

/// Decides whether a span is recorded.
///
/// It is asked on the request's thread, for every span that starts: it should be quick and must not block.
///
/// ```
/// use trace_core::sampler::{AnySampler, Sampler, SamplingDecision, SamplingParameters};
///
/// /// Everything but the health checks.
/// #[derive(Debug)]
/// struct NoHealthChecks;
///
/// impl Sampler for NoHealthChecks {
///     fn should_sample(&self, span: &SamplingParameters<'_>) -> SamplingDecision {
///         if span.name == "GET /healthz" { SamplingDecision::Drop } else { SamplingDecision::RecordAndSample }
///     }
///
///     fn description(&self) -> String {
///         "NoHealthChecks".to_owned()
///     }
/// }
///
/// let sampler = AnySampler::custom(NoHealthChecks);
/// assert_eq!(sampler.description(), "NoHealthChecks");
/// ```
pub trait Sampler: Send + Sync + fmt::Debug {
    /// The decision for one span.
    fn should_sample(&self, parameters: &SamplingParameters<'_>) -> SamplingDecision;

    /// The name of the sampler with its settings, such as `TraceIdRatioBased{0.01}`. It never changes.
    fn description(&self) -> String;
}

/// What a sampler may know of a span that is about to start.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SamplingParameters<'a> {
    /// The parent, of this process or another one; `None` for the first span of a trace.
    pub parent: Option<SpanContext>,
    /// The trace that the span will belong to.
    pub trace_id: TraceId,
    /// The name that the span starts with. It may change later.
    pub name: SpanName<'a>,
    /// What the span stands for.
    pub kind: SpanKind,
}

impl<'a> SamplingParameters<'a> {
    /// The parameters for a span of this name and kind in the trace `trace_id`.
    #[inline]
    pub const fn new(
        parent: Option<SpanContext>,
        trace_id: TraceId,
        name: SpanName<'a>,
        kind: SpanKind,
    ) -> Self {
        Self { parent, trace_id, name, kind }
    }
}

/// What becomes of a span.
///
/// The specification's `RECORD_ONLY` (recorded, not sent) is not among them: nothing here reads a span that
/// is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SamplingDecision {
    /// It is not recorded; its ids are passed on with the *sampled* flag off.
    Drop,
    /// It is recorded and sent, and its *sampled* flag is on.
    RecordAndSample,
}

impl SamplingDecision {
    /// Whether the span is recorded.
    #[inline]
    pub const fn is_sampled(self) -> bool {
        matches!(self, Self::RecordAndSample)
    }
}

/// A built-in sampler, or one of your own.
///
/// The built-in ones are called directly; only [`AnySampler::Custom`] goes through a virtual call.
///
/// ```
/// use trace_core::sampler::{AnySampler, ParentBased, TraceIdRatio};
///
/// // A tenth of the traces that start here; a caller's decision is followed.
/// let sampler = AnySampler::from(ParentBased::new(TraceIdRatio::new(0.1)?));
/// assert!(sampler.description().starts_with("ParentBased{root:TraceIdRatioBased{0.1}"));
/// # Ok::<(), trace_core::sampler::InvalidRatio>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnySampler {
    /// Every span. [Specification](https://opentelemetry.io/docs/specs/otel/trace/sdk/#alwayson)
    AlwaysOn,
    /// No span. [Specification](https://opentelemetry.io/docs/specs/otel/trace/sdk/#alwaysoff)
    AlwaysOff,
    /// A share of all traces, chosen by their ids.
    TraceIdRatio(TraceIdRatio),
    /// What the parent's service decided, and another sampler where a trace starts.
    ParentBased(Arc<ParentBased>),
    /// A sampler of your own.
    Custom(Arc<dyn Sampler>),
}

impl AnySampler {
    /// A sampler of your own.
    pub fn custom(sampler: impl Sampler + 'static) -> Self {
        Self::Custom(Arc::new(sampler))
    }

    /// The decision for one span.
    #[inline]
    pub fn should_sample(&self, parameters: &SamplingParameters<'_>) -> SamplingDecision {
        match self {
            Self::AlwaysOn => SamplingDecision::RecordAndSample,
            Self::AlwaysOff => SamplingDecision::Drop,
            Self::TraceIdRatio(sampler) => sampler.decide(parameters.trace_id),
            Self::ParentBased(sampler) => sampler.should_sample(parameters),
            Self::Custom(sampler) => sampler.should_sample(parameters),
        }
    }

    /// The name of the sampler with its settings.
    pub fn description(&self) -> String {
        match self {
            Self::AlwaysOn => "AlwaysOnSampler".to_owned(),
            Self::AlwaysOff => "AlwaysOffSampler".to_owned(),
            Self::TraceIdRatio(sampler) => sampler.description(),
            Self::ParentBased(sampler) => sampler.description(),
            Self::Custom(sampler) => sampler.description(),
        }
    }
}

impl Default for AnySampler {
    /// Everything that no caller decided against: `parentbased_always_on`, the specification's default.
    fn default() -> Self {
        ParentBased::new(Self::AlwaysOn).into()
    }
}

impl From<TraceIdRatio> for AnySampler {
    fn from(sampler: TraceIdRatio) -> Self {
        Self::TraceIdRatio(sampler)
    }
}

impl From<ParentBased> for AnySampler {
    fn from(sampler: ParentBased) -> Self {
        Self::ParentBased(Arc::new(sampler))
    }
}

impl fmt::Display for AnySampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}

#[cfg(test)]
mod tests;
