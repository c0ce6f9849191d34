use proptest::prelude::*;

use super::*;
use crate::{SpanId, TraceFlags};

fn parameters(parent: Option<SpanContext>, trace_id: u128) -> SamplingParameters<'static> {
    let trace_id = TraceId::from_u128(trace_id).unwrap();
    SamplingParameters::new(parent, trace_id, "GET /orders/{id}".into(), SpanKind::Server)
}

fn parent(is_sampled: bool, is_remote: bool) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(is_sampled);
    SpanContext::new(TraceId::random(), SpanId::random(), flags, is_remote)
}

#[test]
fn always_on_keeps_and_always_off_drops_whatever_the_parent_says() {
    for parent in [None, Some(parent(true, true)), Some(parent(false, false))] {
        assert!(AnySampler::AlwaysOn.should_sample(&parameters(parent, 1)).is_sampled());
        assert!(!AnySampler::AlwaysOff.should_sample(&parameters(parent, 1)).is_sampled());
    }
}

#[test]
fn each_kind_of_parent_has_its_own_sampler() {
    /// Notes nothing, decides for its own case only.
    #[derive(Debug)]
    struct Only(&'static str);
    impl Sampler for Only {
        fn should_sample(&self, parameters: &SamplingParameters<'_>) -> SamplingDecision {
            let case = match parameters.parent {
                None => "root",
                Some(parent) if parent.is_remote() && parent.is_sampled() => "remote sampled",
                Some(parent) if parent.is_remote() => "remote not sampled",
                Some(parent) if parent.is_sampled() => "local sampled",
                Some(_) => "local not sampled",
            };
            if case == self.0 { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop }
        }
        fn description(&self) -> String {
            self.0.to_owned()
        }
    }

    let sampler = AnySampler::from(
        ParentBased::new(AnySampler::custom(Only("root")))
            .remote_sampled(AnySampler::custom(Only("remote sampled")))
            .remote_not_sampled(AnySampler::custom(Only("remote not sampled")))
            .local_sampled(AnySampler::custom(Only("local sampled")))
            .local_not_sampled(AnySampler::custom(Only("local not sampled"))),
    );
    assert!(sampler.should_sample(&parameters(None, 1)).is_sampled());
    for is_sampled in [true, false] {
        for is_remote in [true, false] {
            let parameters = parameters(Some(parent(is_sampled, is_remote)), 1);
            assert!(
                sampler.should_sample(&parameters).is_sampled(),
                "sampled {is_sampled}, remote {is_remote}"
            );
        }
    }
}

#[test]
fn the_parent_decides_by_default_and_the_root_sampler_where_there_is_none() {
    let sampler = AnySampler::from(ParentBased::new(AnySampler::AlwaysOff));
    assert!(!sampler.should_sample(&parameters(None, 1)).is_sampled());
    for is_remote in [true, false] {
        assert!(sampler.should_sample(&parameters(Some(parent(true, is_remote)), 1)).is_sampled());
        assert!(!sampler.should_sample(&parameters(Some(parent(false, is_remote)), 1)).is_sampled());
    }
    assert!(AnySampler::default().should_sample(&parameters(None, 1)).is_sampled());
    assert!(!AnySampler::default().should_sample(&parameters(Some(parent(false, true)), 1)).is_sampled());
}

#[test]
fn only_the_right_most_56_bits_of_the_trace_id_matter() {
    let half = TraceIdRatio::new(0.5).unwrap();
    let edge = 1u128 << 55;
    for high in [0, 1 << 56, u128::from(u64::MAX) << 64] {
        assert!(half.should_sample(&parameters(None, high | edge)).is_sampled());
        assert!(!half.should_sample(&parameters(None, high | (edge - 1))).is_sampled());
    }
}

#[test]
fn a_ratio_of_zero_keeps_none_and_of_one_keeps_all() {
    let (none, all) = (TraceIdRatio::new(0.0).unwrap(), TraceIdRatio::new(1.0).unwrap());
    for id in [1, 1 << 56, u128::MAX] {
        assert!(!none.should_sample(&parameters(None, id)).is_sampled());
        assert!(all.should_sample(&parameters(None, id)).is_sampled());
    }
}

#[test]
fn a_ratio_keeps_its_share() {
    let tenth = TraceIdRatio::new(0.1).unwrap();
    let kept = (0..100_000).filter(|_| tenth.decide(TraceId::random()).is_sampled()).count();
    // Seven standard deviations of the binomial distribution.
    assert!((9_335..=10_665).contains(&kept), "{kept} of 100 000");
}

#[test]
fn only_numbers_from_zero_to_one_are_ratios() {
    for bad in [-0.1, 1.000_001, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(TraceIdRatio::new(bad).is_err(), "{bad}");
    }
    assert_eq!(
        TraceIdRatio::new(1.5).unwrap_err().to_string(),
        "1.5 is not a sampling ratio: expected a number from 0 to 1"
    );
}

#[test]
fn descriptions_are_those_of_the_specification() {
    assert_eq!(AnySampler::AlwaysOn.description(), "AlwaysOnSampler");
    assert_eq!(AnySampler::AlwaysOff.description(), "AlwaysOffSampler");
    assert_eq!(TraceIdRatio::new(0.01).unwrap().description(), "TraceIdRatioBased{0.01}");
    assert_eq!(
        AnySampler::default().to_string(),
        "ParentBased{root:AlwaysOnSampler,remoteParentSampled:AlwaysOnSampler,\
         remoteParentNotSampled:AlwaysOffSampler,localParentSampled:AlwaysOnSampler,\
         localParentNotSampled:AlwaysOffSampler}"
    );
}

proptest! {
    #[test]
    fn an_id_kept_at_a_ratio_is_kept_at_every_higher_one(id in 1u128.., a in 0.0..=1.0f64, b in 0.0..=1.0f64) {
        let (lower, higher) = if a <= b { (a, b) } else { (b, a) };
        let id = TraceId::from_u128(id).unwrap();
        let kept = |ratio| TraceIdRatio::new(ratio).unwrap().decide(id).is_sampled();
        prop_assert!(!kept(lower) || kept(higher));
    }
}
