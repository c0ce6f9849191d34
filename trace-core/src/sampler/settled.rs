//! The decisions that need no look at the span: those of a sampler that asks for nothing but the parent, as nearly every one
//! does for nearly every span. They are made once, and looked up where a span starts.

use super::{AnySampler, SamplingDecision};
use crate::SpanContext;

/// What a parent-based sampler looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParentKind {
    LocalNotSampled,
    LocalSampled,
    RemoteNotSampled,
    RemoteSampled,
    None,
}

/// A sampler's decision for each kind of parent, where there is one that holds for every span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled([Option<SamplingDecision>; ParentKind::ALL.len()]);

impl ParentKind {
    const ALL: [Self; 5] =
        [Self::LocalNotSampled, Self::LocalSampled, Self::RemoteNotSampled, Self::RemoteSampled, Self::None];

    #[inline]
    pub(crate) fn of(parent: Option<&SpanContext>) -> Self {
        match parent {
            None => Self::None,
            Some(parent) => match (parent.is_remote(), parent.is_sampled()) {
                (false, false) => Self::LocalNotSampled,
                (false, true) => Self::LocalSampled,
                (true, false) => Self::RemoteNotSampled,
                (true, true) => Self::RemoteSampled,
            },
        }
    }
}

impl Settled {
    pub(crate) fn of(sampler: &AnySampler) -> Self {
        Self(ParentKind::ALL.map(|parent| settled(sampler, parent)))
    }

    /// The decision for every span with such a parent; `None` where the sampler has to be asked.
    #[inline]
    pub(crate) const fn decision(&self, parent: ParentKind) -> Option<SamplingDecision> {
        self.0[parent as usize]
    }
}

fn settled(sampler: &AnySampler, parent: ParentKind) -> Option<SamplingDecision> {
    match sampler {
        AnySampler::AlwaysOn => Some(SamplingDecision::RecordAndSample),
        AnySampler::AlwaysOff => Some(SamplingDecision::Drop),
        AnySampler::ParentBased(sampler) => settled(sampler.sampler_for(parent), parent),
        AnySampler::TraceIdRatio(_) | AnySampler::Custom(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{ParentBased, SamplingParameters, TraceIdRatio};
    use crate::{SpanId, SpanKind, TraceFlags, TraceId};

    #[test]
    fn what_is_settled_is_what_the_sampler_says() {
        let ratio = TraceIdRatio::new(0.5).expect("a ratio");
        let samplers: [AnySampler; 5] = [
            AnySampler::AlwaysOn,
            AnySampler::AlwaysOff,
            AnySampler::default(),
            ParentBased::new(ParentBased::new(AnySampler::AlwaysOff))
                .local_not_sampled(AnySampler::AlwaysOn)
                .into(),
            ParentBased::new(ratio).remote_sampled(ratio).into(),
        ];
        let mut parents = vec![None];
        for flags in [TraceFlags::NONE, TraceFlags::SAMPLED] {
            for is_remote in [false, true] {
                parents.push(Some(SpanContext::new(TraceId::random(), SpanId::random(), flags, is_remote)));
            }
        }
        let mut open = 0;
        for sampler in &samplers {
            for parent in &parents {
                match Settled::of(sampler).decision(ParentKind::of(parent.as_ref())) {
                    Some(decision) => {
                        let asked =
                            SamplingParameters::new(*parent, TraceId::random(), "a".into(), SpanKind::Server);
                        assert_eq!(decision, sampler.should_sample(&asked), "{sampler} {parent:?}");
                    }
                    None => open += 1,
                }
            }
        }
        assert_eq!(open, 2, "a ratio looks at the id");
    }
}
