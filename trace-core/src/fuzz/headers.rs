//! What callers send: `traceparent`, `tracestate`, `baggage`, and all of them together.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::lines;
use crate::propagation::trace_context;
use crate::{Baggage, Context, Propagator, SpanContext, TraceState};

/// A `traceparent` is read as the grammar, applied field by field, says; what is written is read as the same.
pub fn traceparent(data: &[u8]) {
    let read = trace_context::parse(data);
    assert_eq!(read.map(parts), slow_traceparent(data), "{:?}", String::from_utf8_lossy(data));
    if let Some(context) = read {
        assert!(context.is_remote());
        let written = trace_context::format(context);
        assert_eq!(trace_context::parse(written.as_bytes()), Some(context));
        assert!(written.starts_with("00-"));
    }
}

fn parts(context: SpanContext) -> (String, String, u8) {
    (context.trace_id().to_string(), context.span_id().to_string(), context.flags().as_u8())
}

fn slow_traceparent(data: &[u8]) -> Option<(String, String, u8)> {
    // What follows the flags of a later version may be anything, and is not kept.
    let text = String::from_utf8_lossy(data);
    let text = text.trim_matches([' ', '\t']);
    let is_hex = |field: &str, len: usize| {
        field.len() == len && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let fields: Vec<&str> = text.split('-').collect();
    let [version, trace_id, span_id, flags, further @ ..] = &fields[..] else { return None };
    let is_nothing = |id: &str| id.bytes().all(|digit| digit == b'0');
    let is_valid = is_hex(version, 2)
        && is_hex(trace_id, 32)
        && is_hex(span_id, 16)
        && is_hex(flags, 2)
        && *version != "ff"
        && !is_nothing(trace_id)
        && !is_nothing(span_id)
        && (*version != "00" || further.is_empty());
    let flags = u8::from_str_radix(flags, 16).ok()? & 3;
    is_valid.then(|| ((*trace_id).to_owned(), (*span_id).to_owned(), flags))
}

/// A `tracestate` of any lines is a list exactly where the grammar, applied member by member, says so; it is kept within
/// its bounds, reads as the same list again, and stays a list when members are set and removed.
pub fn tracestate(data: &[u8]) {
    let read = TraceState::parse_lines(lines(data));
    match slow_tracestate(data) {
        Some(members) => {
            let state = read.expect("every member follows the grammar");
            if members.join(",").len() <= TraceState::MAX_BYTES {
                assert_eq!(state.as_str(), members.join(","));
            } else {
                // What is left are whole members in their order.
                let mut left = members.iter();
                state
                    .as_str()
                    .split(',')
                    .for_each(|kept| assert!(left.any(|member| member == kept), "{kept}"));
            }
            is_good_tracestate(&state);
            change_tracestate(&state);
        }
        None => assert!(read.is_err(), "{:?}", String::from_utf8_lossy(data)),
    }
    if !data.contains(&b'\n') {
        assert_eq!(TraceState::parse_line(data), TraceState::parse_lines([data]));
    }
}

fn is_good_tracestate(state: &TraceState) {
    assert!(state.as_str().len() <= TraceState::MAX_BYTES);
    assert!(state.iter().count() <= TraceState::MAX_MEMBERS);
    assert_eq!(TraceState::parse_line(state.as_str().as_bytes()).as_ref(), Ok(state));
    assert!(HeaderValue::from_str(state.as_str()).is_ok());
}

fn change_tracestate(state: &TraceState) {
    let mut changed = state.clone();
    changed.insert("ours", "1").expect("a key and a value");
    is_good_tracestate(&changed);
    assert!(changed.as_str().starts_with("ours=1"));
    let last = state.iter().last().map(|(key, _)| key.to_owned());
    if let Some(key) = last {
        assert!(changed.get(&key).is_none() || changed.remove(&key));
        assert_eq!(changed.get(&key), None);
        is_good_tracestate(&changed);
    }
    assert!(changed.remove("ours") || state.get("ours").is_some());
}

/// The members, if every one follows the grammar and there are not too many.
fn slow_tracestate(data: &[u8]) -> Option<Vec<String>> {
    let is_key_start = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_key = |byte: u8| is_key_start(byte) || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@');
    let is_value = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    if lines(data).map(<[u8]>::len).sum::<usize>() > 17 * 1024 {
        return None;
    }
    let mut members = Vec::new();
    for member in lines(data).flat_map(|line| line.split(|byte| *byte == b',')) {
        let Ok(member) = std::str::from_utf8(member) else { return None };
        let member = member.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue;
        }
        let (key, value) = member.split_once('=')?;
        let good = (1..=256).contains(&key.len())
            && is_key_start(key.as_bytes()[0])
            && key.bytes().all(is_key)
            && (1..=256).contains(&value.len())
            && value.bytes().all(is_value);
        if !good {
            return None;
        }
        members.push(member.to_owned());
    }
    (members.len() <= 32).then_some(members)
}

/// Any lines are some baggage: within its bounds, the same when it is read again, and exactly the members that follow the
/// grammar where all fit.
pub fn baggage(data: &[u8]) {
    let read = Baggage::parse_lines(lines(data));
    is_good_baggage(&read);
    let members: Vec<String> = lines(data).flat_map(slow_baggage).collect();
    let fits = members.len() <= Baggage::MAX_MEMBERS && members.join(",").len() <= Baggage::MAX_BYTES;
    if fits && data.len() <= 2 * Baggage::MAX_BYTES {
        assert_eq!(read.as_str(), members.join(","));
    }
    if !data.contains(&b'\n') {
        assert_eq!(Baggage::parse_line(data), Baggage::parse_lines([data]));
    }
    let last: BTreeMap<_, _> = read.iter().map(|member| (member.name(), member.value())).collect();
    for (name, value) in last.into_iter().take(3) {
        assert_eq!(read.get(name).as_ref(), Some(&value));
        // A value can be any text: what is decoded can be sent on.
        let mut changed = read.clone();
        if changed.insert(name, &value).is_ok() {
            assert_eq!(changed.get(name), Some(value));
            is_good_baggage(&changed);
        }
        assert!(changed.remove(name));
        assert_eq!(changed.get(name), None);
        is_good_baggage(&changed);
    }
}

fn is_good_baggage(baggage: &Baggage) {
    assert!(baggage.as_str().len() <= Baggage::MAX_BYTES);
    assert!(baggage.len() <= Baggage::MAX_MEMBERS);
    assert_eq!(Baggage::parse_line(baggage.as_str().as_bytes()), *baggage);
    assert!(HeaderValue::from_str(baggage.as_str()).is_ok());
    for member in baggage.iter() {
        assert!(!member.name().is_empty());
        member.properties().for_each(|(name, _)| assert!(!name.is_empty()));
    }
}

/// The members of a line that follow the grammar, without white space. A member that breaks it ends at the next comma.
fn slow_baggage(line: &[u8]) -> impl Iterator<Item = String> {
    line.split(|byte| *byte == b',').filter_map(|member| {
        let member = std::str::from_utf8(member).ok()?;
        let pairs: Vec<&str> = member.split(';').collect();
        let pair = |pair: &str, value_needed: bool| {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name, Some(value.trim_matches([' ', '\t']))),
                None if value_needed => return None,
                None => (pair, None),
            };
            let name = name.trim_matches([' ', '\t']);
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let is_octet = |byte: u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte);
            (!name.is_empty()
                && name.bytes().all(is_token)
                && value.is_none_or(|value| value.bytes().all(is_octet)))
            .then(|| value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}")))
        };
        let first = pair(pairs[0], true)?;
        let properties = pairs[1..].iter().map(|property| pair(property, false));
        let all: Option<Vec<String>> = std::iter::once(Some(first)).chain(properties).collect();
        Some(all?.join(";"))
    })
}

/// Whatever headers come: the context is the same however many others stand beside them and whatever holds them, and what
/// is sent on is read as the same context.
///
/// Each line is a header: its first letter says which, the rest is its value.
pub fn propagation(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in lines(data).take(64) {
        let Some((which, value)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        let name = match which {
            b'p' => HeaderName::from_static("traceparent"),
            b's' => HeaderName::from_static("tracestate"),
            b'b' => HeaderName::from_static("baggage"),
            _ => HeaderName::from_static("other"),
        };
        headers.append(name, value);
    }
    let propagator = Propagator::default();
    let context = propagator.extract(&headers);

    let mut among_many = headers.clone();
    for number in 0..20u8 {
        let name = HeaderName::from_bytes(&[b'x', b'a' + number]).expect("two letters");
        among_many.append(name, HeaderValue::from_static("1"));
    }
    same(&propagator.extract(&among_many), &context);

    let mut sent = HeaderMap::new();
    propagator.inject(&context, &mut sent);
    let received = propagator.extract(&sent);
    same(&received, &context);
    assert!(sent.iter().all(|(_, value)| !value.is_empty()));
    // Over what another context left there, too: nothing of it stays, where there is something else to say.
    let mut over = headers.clone();
    propagator.inject(&context, &mut over);
    same(&propagator.extract(&over), &context);

    let mut map = BTreeMap::<String, String>::new();
    propagator.inject(&context, &mut map);
    same(&propagator.extract(&map), &context);
    assert!(map.iter().all(|(name, value)| sent[name.as_str()] == value.as_str()));
}

fn same(one: &Context, other: &Context) {
    assert_eq!(one.span_context(), other.span_context());
    assert_eq!(one.trace_state(), other.trace_state());
    assert_eq!(one.baggage(), other.baggage());
}
