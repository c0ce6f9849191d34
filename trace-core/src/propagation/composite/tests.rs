use std::collections::{BTreeMap, HashMap};

use http::{HeaderMap, HeaderName};
use proptest::prelude::*;

use super::*;
use crate::context::{Baggage, SpanContext, TraceFlags, TraceState};
use crate::id::{SpanId, TraceId};

const PARENT: &str = "00-12345678901234567890123456789012-1234567890123456-03";

fn carrier(lines: &[(&str, &str)]) -> BTreeMap<String, String> {
    lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn all_three() -> BTreeMap<String, String> {
    carrier(&[("baggage", "tenant.id=acme"), ("traceparent", PARENT), ("tracestate", "foo=1,bar=2")])
}

#[test]
fn what_was_extracted_is_injected_unchanged() {
    let propagator = Propagator::default();
    let context = propagator.extract(&all_three());
    let mut sent = BTreeMap::new();
    propagator.inject(&context, &mut sent);
    assert_eq!(sent, all_three());
}

#[test]
fn without_a_valid_traceparent_there_is_no_span_and_no_tracestate_but_baggage() {
    for bad in ["", "00-0-0-01", "ff-12345678901234567890123456789012-1234567890123456-01"] {
        let context = Propagator::default().extract(&carrier(&[
            ("traceparent", bad),
            ("tracestate", "foo=1"),
            ("baggage", "tenant.id=acme"),
        ]));
        assert_eq!(context.span_context(), None);
        assert!(context.trace_state().is_empty());
        assert_eq!(context.baggage().get("tenant.id").as_deref(), Some("acme"));
    }
    let nothing = Propagator::default().extract(&HeaderMap::new());
    assert_eq!(nothing.span_context(), None);
    assert!(nothing.baggage().is_empty());
}

#[test]
fn a_context_of_no_trace_sends_its_baggage_and_leaves_the_rest_alone() {
    let mut baggage = Baggage::new();
    baggage.insert("a", "1").unwrap();
    let mut sent = all_three();
    Propagator::default().inject(&Context::new().with_baggage(baggage), &mut sent);
    assert_eq!(sent, carrier(&[("baggage", "a=1"), ("traceparent", PARENT), ("tracestate", "foo=1,bar=2")]));

    let mut untouched = all_three();
    Propagator::default().inject(&Context::new(), &mut untouched);
    assert_eq!(untouched, all_three());
}

#[test]
fn without_baggage_that_of_another_context_is_taken_away() {
    let propagator = Propagator::default();
    // What came with a request is sent on with its headers; members that break the grammar never were in the context.
    for came in [&["user=alice"][..], &["user=alice", "tenant.id=acme"], &["=", "no member"]] {
        for others in [0, 40] {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", PARENT.parse().unwrap());
            for line in came {
                headers.append("baggage", line.parse().unwrap());
            }
            for other in 0..others {
                headers.insert(HeaderName::try_from(format!("x-{other}")).unwrap(), "1".parse().unwrap());
            }
            let context = propagator.extract(&headers).with_baggage(Baggage::new());
            propagator.inject(&context, &mut headers);
            assert!(!headers.contains_key("baggage"), "{headers:?}");
            assert_eq!(headers["traceparent"], PARENT);
            assert_eq!(headers.len(), 1 + others);
        }
    }
    let context = propagator.extract(&carrier(&[("traceparent", PARENT)]));
    let mut message = carrier(&[("Baggage", "user=alice"), ("other", "1")]);
    propagator.inject(&context, &mut message);
    assert_eq!(message, carrier(&[("other", "1"), ("traceparent", PARENT)]));

    // Only by the format whose header it is.
    let mut message = carrier(&[("baggage", "user=alice")]);
    Propagator::from_names(&[PropagatorName::TraceContext]).inject(&context, &mut message);
    assert_eq!(message["baggage"], "user=alice");
    Propagator::from_names(&[PropagatorName::Baggage]).inject(&context, &mut message);
    assert!(!message.contains_key("baggage"));

    let mut message = carrier(&[("baggage", "user=alice")]);
    baggage::inject(&Baggage::new(), &mut message);
    assert!(message.is_empty());
}

#[test]
fn no_format_reads_and_writes_nothing() {
    let none = Propagator::from_names(&[]);
    assert_eq!(none, Propagator::none());
    assert_eq!(none.fields().count(), 0);
    let context = none.extract(&all_three());
    assert!(context.span_context().is_none() && context.baggage().is_empty());
    let mut sent = BTreeMap::new();
    none.inject(&Propagator::default().extract(&all_three()), &mut sent);
    assert!(sent.is_empty());
}

#[test]
fn one_format_leaves_the_other_alone() {
    let only = Propagator::from_names(&[PropagatorName::Baggage, PropagatorName::Baggage]);
    assert_eq!(only.fields().collect::<Vec<_>>(), ["baggage"]);
    let mut sent = BTreeMap::new();
    only.inject(&Propagator::default().extract(&all_three()), &mut sent);
    assert_eq!(sent, carrier(&[("baggage", "tenant.id=acme")]));
    assert_eq!(only.extract(&all_three()).span_context(), None);

    let only = Propagator::from_names(&[PropagatorName::TraceContext]);
    assert_eq!(only.fields().collect::<Vec<_>>(), ["traceparent", "tracestate"]);
    assert!(only.extract(&all_three()).baggage().is_empty());
}

#[test]
fn what_is_extracted_is_what_came_of_the_formats_in_use() {
    let [trace_context, baggage] = [PropagatorName::TraceContext, PropagatorName::Baggage];
    for names in [&[][..], &[trace_context], &[baggage], &[trace_context, baggage]] {
        let propagator = Propagator::from_names(names);
        for subset in 0..8 {
            let came = |place: usize| subset & 1 << place != 0;
            let lines: BTreeMap<_, _> = all_three()
                .into_iter()
                .enumerate()
                .filter(|(at, _)| came(*at))
                .map(|(_, line)| line)
                .collect();
            let headers: HeaderMap = lines
                .iter()
                .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
                .collect();
            let has_span = names.contains(&trace_context) && lines.contains_key("traceparent");
            for context in [propagator.extract(&lines), propagator.extract(&headers)] {
                assert_eq!(context.span_context().is_some(), has_span, "{names:?} {lines:?}");
                assert_eq!(!context.trace_state().is_empty(), has_span && lines.contains_key("tracestate"));
                let has_baggage = names.contains(&baggage) && lines.contains_key("baggage");
                assert_eq!(!context.baggage().is_empty(), has_baggage, "{names:?} {lines:?}");
            }
        }
    }
}

#[test]
fn the_default_is_what_its_names_say_in_either_order() {
    let names = [PropagatorName::TraceContext, PropagatorName::Baggage];
    assert_eq!(Propagator::from_names(&names), Propagator::default());
    let fields = Propagator::default().fields().collect::<Vec<_>>();
    assert_eq!(fields, ["traceparent", "tracestate", "baggage"]);
    let mut sent = BTreeMap::new();
    let reversed = Propagator::from_names(&[names[1], names[0]]);
    reversed.inject(&reversed.extract(&all_three()), &mut sent);
    assert_eq!(sent, all_three());
}

proptest! {
    #[test]
    fn a_context_survives_every_carrier(
        trace_id in 1..=u128::MAX,
        span_id in 1..=u64::MAX,
        flags in 0..4_u8,
        state in prop::collection::vec(("[a-z0-9][a-z0-9_*/@-]{0,12}", "[ -+.-<>-~]{0,12}[!-+]"), 0..8),
        members in prop::collection::btree_map("[a-zA-Z.-]{1,8}", any::<String>(), 0..6),
    ) {
        let ids = (TraceId::from_u128(trace_id).unwrap(), SpanId::from_u64(span_id).unwrap());
        let span = SpanContext::new(ids.0, ids.1, TraceFlags::from_u8(flags), true);
        let mut trace_state = TraceState::empty();
        state.iter().for_each(|(key, value)| trace_state.insert(key, value).unwrap());
        let mut baggage = Baggage::new();
        members.iter().for_each(|(name, value)| baggage.insert(name, value).unwrap());
        let context = Context::from_remote(span, trace_state.clone(), baggage.clone());

        let propagator = Propagator::default();
        let (mut headers, mut hash, mut tree) = (HeaderMap::new(), HashMap::new(), BTreeMap::new());
        propagator.inject(&context, &mut headers);
        propagator.inject(&context, &mut hash);
        propagator.inject(&context, &mut tree);
        for arrived in [propagator.extract(&headers), propagator.extract(&hash), propagator.extract(&tree)] {
            prop_assert_eq!(arrived.span_context(), Some(span));
            prop_assert_eq!(arrived.trace_state(), &trace_state);
            prop_assert_eq!(arrived.baggage(), &baggage);
        }
    }

    #[test]
    fn arbitrary_headers_never_panic_and_make_only_valid_ones(
        lines in prop::collection::vec((
            prop::sample::select(vec!["traceparent", "tracestate", "baggage"]),
            prop_oneof![Just(PARENT.as_bytes().to_vec()), prop::collection::vec(any::<u8>(), 0..80)],
        ), 0..8),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        let propagator = Propagator::default();
        let mut sent = HeaderMap::new();
        propagator.inject(&propagator.extract(&headers), &mut sent);
        prop_assert!(sent.values().all(|value| !value.is_empty()));
        let mut again = HeaderMap::new();
        propagator.inject(&propagator.extract(&sent), &mut again);
        prop_assert_eq!(again, sent);
    }
}
