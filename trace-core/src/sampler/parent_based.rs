//! The sampler that follows the parent's decision.

use super::settled::ParentKind;
use super::{AnySampler, Sampler, SamplingDecision, SamplingParameters};

/// Follows the parent's decision, and asks another sampler where a trace starts.
///
/// Each kind of parent has a sampler of its own; by default a sampled parent means [`AnySampler::AlwaysOn`]
/// and a parent that is not sampled means [`AnySampler::AlwaysOff`], be it in this process or in another one.
/// [Specification](https://opentelemetry.io/docs/specs/otel/trace/sdk/#parentbased)
///
/// ```
/// use trace_core::sampler::{AnySampler, ParentBased, TraceIdRatio};
///
/// // Callers outside are not trusted with the decision: one in a hundred, whatever they say.
/// let hundredth = TraceIdRatio::new(0.01)?;
/// let sampler = ParentBased::new(hundredth)
///     .remote_sampled(hundredth)
///     .remote_not_sampled(hundredth);
/// # Ok::<(), trace_core::sampler::InvalidRatio>(())
/// ```
#[derive(Clone, Debug)]
pub struct ParentBased {
    root: AnySampler,
    remote_sampled: AnySampler,
    remote_not_sampled: AnySampler,
    local_sampled: AnySampler,
    local_not_sampled: AnySampler,
}

impl ParentBased {
    /// Follows every parent, and asks `root` for a span that has none.
    pub fn new(root: impl Into<AnySampler>) -> Self {
        Self {
            root: root.into(),
            remote_sampled: AnySampler::AlwaysOn,
            remote_not_sampled: AnySampler::AlwaysOff,
            local_sampled: AnySampler::AlwaysOn,
            local_not_sampled: AnySampler::AlwaysOff,
        }
    }

    /// Asks `sampler` when the parent lies in another process and is sampled.
    pub fn remote_sampled(mut self, sampler: impl Into<AnySampler>) -> Self {
        self.remote_sampled = sampler.into();
        self
    }

    /// Asks `sampler` when the parent lies in another process and is not sampled.
    pub fn remote_not_sampled(mut self, sampler: impl Into<AnySampler>) -> Self {
        self.remote_not_sampled = sampler.into();
        self
    }

    /// Asks `sampler` when the parent lies in this process and is sampled.
    pub fn local_sampled(mut self, sampler: impl Into<AnySampler>) -> Self {
        self.local_sampled = sampler.into();
        self
    }

    /// Asks `sampler` when the parent lies in this process and is not sampled.
    pub fn local_not_sampled(mut self, sampler: impl Into<AnySampler>) -> Self {
        self.local_not_sampled = sampler.into();
        self
    }
}

impl ParentBased {
    #[inline]
    pub(super) const fn sampler_for(&self, parent: ParentKind) -> &AnySampler {
        match parent {
            ParentKind::None => &self.root,
            ParentKind::RemoteSampled => &self.remote_sampled,
            ParentKind::RemoteNotSampled => &self.remote_not_sampled,
            ParentKind::LocalSampled => &self.local_sampled,
            ParentKind::LocalNotSampled => &self.local_not_sampled,
        }
    }
}

impl Sampler for ParentBased {
    #[inline]
    fn should_sample(&self, parameters: &SamplingParameters<'_>) -> SamplingDecision {
        self.sampler_for(ParentKind::of(parameters.parent.as_ref())).should_sample(parameters)
    }

    fn description(&self) -> String {
        format!(
            "ParentBased{{root:{},remoteParentSampled:{},remoteParentNotSampled:{},localParentSampled:{},localParentNotSampled:{}}}",
            self.root,
            self.remote_sampled,
            self.remote_not_sampled,
            self.local_sampled,
            self.local_not_sampled,
        )
    }
}
