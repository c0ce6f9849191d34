use std::collections::HashMap;

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::id::{SpanId, TraceId};

const VALID: &str = "00-12345678901234567890123456789012-1234567890123456-01";

fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap()))
        .collect()
}

fn text_headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    headers(&lines.iter().map(|(name, value)| (*name, value.as_bytes())).collect::<Vec<_>>())
}

#[test]
fn the_fields_are_read_and_written() {
    let span = parse(VALID.as_bytes()).unwrap();
    assert_eq!(span.trace_id().to_string(), "12345678901234567890123456789012");
    assert_eq!(span.span_id().to_string(), "1234567890123456");
    assert_eq!(span.flags(), TraceFlags::SAMPLED);
    assert!(span.is_remote());
    assert_eq!(&*format(span), VALID);
}

#[test]
fn version_00_is_exactly_55_bytes() {
    // A trailing dash too is one byte too many.
    for extra in ["-", ".", "0", "-what-the-future-will-be-like", "\0"] {
        assert_eq!(parse(format!("{VALID}{extra}").as_bytes()), None, "{extra:?}");
    }
    for len in 0..VALID.len() {
        assert_eq!(parse(&VALID.as_bytes()[..len]), None, "{len}");
        assert_eq!(parse(&VALID.as_bytes()[VALID.len() - len..]), None, "{len}");
    }
}

#[test]
fn a_higher_version_may_go_on_behind_a_dash_and_is_sent_on_as_00() {
    for version in 0x01..=0xfe_u8 {
        for extra in ["", "-", "-what-the-future-will-be-like"] {
            let value = format!("{version:02x}{}{extra}", &VALID[2..]);
            let span = parse(value.as_bytes()).unwrap();
            assert_eq!(&*format(span), VALID, "{value}");
        }
        for extra in [".", ".what-the-future-will-be-like", "0", "00-"] {
            let value = format!("{version:02x}{}{extra}", &VALID[2..]);
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
    }
}

#[test]
fn version_ff_is_invalid() {
    for extra in ["", "-", "-x"] {
        assert_eq!(parse(format!("ff{}{extra}", &VALID[2..]).as_bytes()), None);
    }
}

#[test]
fn ids_of_zeros_are_invalid() {
    assert_eq!(parse(b"00-00000000000000000000000000000000-1234567890123456-01"), None);
    assert_eq!(parse(b"00-12345678901234567890123456789012-0000000000000000-01"), None);
    assert!(parse(b"00-00000000000000000000000000000001-0000000000000001-00").is_some());
}

#[test]
fn upper_case_signs_spaces_and_other_digits_inside_a_field_are_invalid() {
    for place in 0..VALID.len() {
        for byte in 0..=u8::MAX {
            let mut value = *b"cc-12345678901234567890123456789012-1234567890123456-01";
            value[place] = byte;
            let valid = if matches!(place, 2 | 35 | 52) {
                byte == b'-'
            } else {
                matches!(byte, b'0'..=b'9' | b'a'..=b'f')
            };
            assert_eq!(parse(&value).is_some(), valid, "{byte:#04x} at {place}");
        }
    }
}

#[test]
fn short_and_long_fields_are_invalid() {
    for value in [
        // Version.
        "0-12345678901234567890123456789012-1234567890123456-01",
        "000-12345678901234567890123456789012-1234567890123456-01",
        "0000-12345678901234567890123456789012-1234567890123456-01",
        // Trace id.
        "00-1234567890123456789012345678901-1234567890123456-01",
        "00-123456789012345678901234567890123-1234567890123456-01",
        "00-42-1234567890123456-01",
        "00--1234567890123456-01",
        // Span id.
        "00-12345678901234567890123456789012-123456789012345-01",
        "00-12345678901234567890123456789012-12345678901234567-01",
        // Flags.
        "00-12345678901234567890123456789012-1234567890123456-1",
        "00-12345678901234567890123456789012-1234567890123456-001",
        "00-12345678901234567890123456789012-1234567890123456-",
        // A short field that another makes up for.
        "00-1234567890123456789012345678901-12345678901234567-01",
        "0-123456789012345678901234567890123-1234567890123456-01",
        "",
        "-",
        "garbage",
    ] {
        assert_eq!(parse(value.as_bytes()), None, "{value}");
    }
}

#[test]
fn white_space_around_the_whole_value_is_trimmed() {
    for (before, after) in [(" ", ""), ("\t", ""), ("", " "), ("", "\t"), ("\t ", " \t")] {
        assert_eq!(parse(format!("{before}{VALID}{after}").as_bytes()), parse(VALID.as_bytes()));
    }
    for space in ["\n", "\r", "\u{b}", "\u{a0}"] {
        assert_eq!(parse(format!("{space}{VALID}").as_bytes()), None, "{space:?}");
    }
}

#[test]
fn the_random_flag_is_passed_on_and_unknown_flags_are_zeroed() {
    for flags in 0..=u8::MAX {
        let value = format!("{}{flags:02x}", &VALID[..53]);
        let span = parse(value.as_bytes()).unwrap();
        assert_eq!(span.is_sampled(), flags & 1 != 0);
        assert_eq!(&*format(span), format!("{}{:02x}", &VALID[..53], flags & 3));
    }
}

#[test]
fn two_traceparent_headers_are_none() {
    let other = VALID.replace("12-", "11-");
    assert_eq!(extract(&text_headers(&[("traceparent", VALID), ("traceparent", &other)])), None);
    assert_eq!(
        extract(&text_headers(&[("traceparent", VALID), ("traceparent", VALID)])),
        None,
        "not even the same twice"
    );
    assert_eq!(extract(&text_headers(&[("traceparent", VALID), ("traceparent", "")])), None);
    assert_eq!(extract(&text_headers(&[("traceparent", "bad"), ("traceparent", VALID)])), None);
    assert_eq!(
        extract(&text_headers(&[("traceparent", &format!("{VALID},{other}"))])),
        None,
        "nor two joined by a proxy"
    );
}

#[test]
fn without_a_valid_traceparent_tracestate_is_ignored() {
    assert_eq!(extract(&text_headers(&[("tracestate", "foo=1")])), None);
    assert_eq!(extract(&text_headers(&[("traceparent", "bad"), ("tracestate", "foo=1")])), None);
    assert_eq!(extract(&HeaderMap::new()), None);
}

#[test]
fn an_invalid_tracestate_does_not_invalidate_traceparent() {
    let many = vec!["a=1"; 33].join(",");
    for bad in ["foo", "foo =1", "foo=bar=baz", "foo=,bar=3", "FOO=1", many.as_str()] {
        let (span, state) = extract(&text_headers(&[("traceparent", VALID), ("tracestate", bad)])).unwrap();
        assert_eq!(&*format(span), VALID);
        assert!(state.is_empty(), "{bad}");
    }
    let not_ascii = headers(&[("traceparent", VALID.as_bytes()), ("tracestate", b"foo=\xff")]);
    assert!(extract(&not_ascii).unwrap().1.is_empty());
    assert_eq!(extract(&headers(&[("traceparent", b"\xff\xfe")])), None);
}

#[test]
fn all_lines_of_tracestate_are_read() {
    let lines = text_headers(&[
        ("tracestate", "foo=1,bar=2"),
        ("traceparent", VALID),
        ("tracestate", ""),
        ("tracestate", "rojo=1,congo=2"),
        ("tracestate", "baz=3"),
    ]);
    assert_eq!(extract(&lines).unwrap().1.as_str(), "foo=1,bar=2,rojo=1,congo=2,baz=3");
}

#[test]
fn header_names_are_read_in_any_case_and_written_in_lower_case() {
    for (parent, state) in
        [("TraceParent", "TraceState"), ("TrAcEpArEnT", "TrAcEsTaTe"), ("TRACEPARENT", "TRACESTATE")]
    {
        let lines = HashMap::from([(parent, VALID), (state, "foo=1")]);
        let (span, state) = extract(&lines).unwrap();
        assert_eq!((&*format(span), state.as_str()), (VALID, "foo=1"));
    }
    for wrong in ["trace-parent", "trace.parent", "traceparent2"] {
        assert_eq!(extract(&HashMap::from([(wrong, VALID)])), None);
    }
    let mut sent = HashMap::new();
    let span = parse(VALID.as_bytes()).unwrap();
    inject(span, &"foo=1".parse().unwrap(), &mut sent);
    let expected = [("traceparent", VALID), ("tracestate", "foo=1")];
    assert_eq!(sent, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

#[test]
fn an_empty_tracestate_is_never_sent_and_a_foreign_one_never_left() {
    let span = parse(VALID.as_bytes()).unwrap();
    let mut sent = HeaderMap::new();
    inject(span, &TraceState::empty(), &mut sent);
    assert_eq!(sent, text_headers(&[("traceparent", VALID)]));

    let old = VALID.replace("12-", "11-");
    let mut forwarded = text_headers(&[
        ("traceparent", &old),
        ("traceparent", &old),
        ("tracestate", "old=1"),
        ("tracestate", "old=2"),
        ("x", "y"),
    ]);
    inject(span, &TraceState::empty(), &mut forwarded);
    assert_eq!(forwarded, text_headers(&[("traceparent", VALID), ("x", "y")]));
}

/// The rules, with the regular expressions' meaning spelled out.
fn model(value: &[u8]) -> Option<(u128, u64, u8)> {
    // What follows the flags of a later version may be any bytes; elsewhere a replaced byte is no digit.
    let value = String::from_utf8_lossy(value);
    let value = value.trim_matches([' ', '\t']);
    let hex = |text: &str| text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    let fields: Vec<&str> = value.split('-').collect();
    let [version, trace_id, span_id, flags, further @ ..] = fields.as_slice() else { return None };
    let widths = [version.len(), trace_id.len(), span_id.len(), flags.len()];
    if widths != [2, 32, 16, 2] || ![version, trace_id, span_id, flags].into_iter().all(|field| hex(field)) {
        return None;
    }
    if *version == "ff" || (*version == "00" && !further.is_empty()) {
        return None;
    }
    let trace_id = u128::from_str_radix(trace_id, 16).ok().filter(|id| *id != 0)?;
    let span_id = u64::from_str_radix(span_id, 16).ok().filter(|id| *id != 0)?;
    Some((trace_id, span_id, u8::from_str_radix(flags, 16).ok()? & 3))
}

fn fields(span: SpanContext) -> (u128, u64, u8) {
    (span.trace_id().to_u128(), span.span_id().to_u64(), span.flags().as_u8())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_written_is_read_again(trace_id in 1..=u128::MAX, span_id in 1..=u64::MAX, flags in 0..4_u8) {
        let ids = (TraceId::from_u128(trace_id).unwrap(), SpanId::from_u64(span_id).unwrap());
        let span = SpanContext::new(ids.0, ids.1, TraceFlags::from_u8(flags), true);
        prop_assert_eq!(parse(format(span).as_bytes()), Some(span));
        prop_assert_eq!(format(span).to_string(), format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}"));
    }

    #[test]
    fn the_reader_agrees_with_the_rules(
        value in "[ \t]{0,1}(00|01|cc|ff|[0-9a-f]{2})-([0-9a-f]{32}|0{32}|[0-9a-fA-F]{31,33})-([0-9a-f]{16}|0{16}|[0-9a-f-]{15,17})-[0-9a-fg]{2}(|-|-[a-z-]{0,4}|.)[ \t]{0,1}",
    ) {
        prop_assert_eq!(parse(value.as_bytes()).map(fields), model(value.as_bytes()));
    }

    #[test]
    fn a_valid_value_with_some_bytes_changed_is_judged_by_the_rules(
        changes in prop::collection::vec((0..60_usize, prop_oneof![any::<u8>(), prop::sample::select(b"-0f \t".as_slice())]), 0..3),
        version in prop::sample::select(vec!["00", "fe"]),
    ) {
        let mut value = format!("{version}{}", &VALID[2..]).into_bytes();
        for (place, byte) in changes {
            match value.get_mut(place) {
                Some(there) => *there = byte,
                None => value.push(byte),
            }
        }
        prop_assert_eq!(parse(&value).map(fields), model(&value));
    }

    #[test]
    fn arbitrary_bytes_never_panic(value in prop::collection::vec(any::<u8>(), 0..120)) {
        prop_assert_eq!(parse(&value).map(fields), model(&value));
    }
}
