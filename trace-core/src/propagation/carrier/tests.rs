use super::*;

fn all(carrier: &impl Extractor, name: &str) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    carrier.get_all(name, &mut |line| lines.push(line.to_vec()));
    lines
}

fn owned(entries: &[(&str, &str)]) -> Vec<(String, String)> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn headers_give_all_their_lines_in_order_even_if_they_are_not_text() {
    let mut headers = HeaderMap::new();
    for name in ["baggage", "x-other"] {
        for value in [b"one".as_slice(), b"\xfftwo"] {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        assert_eq!(Extractor::get(&headers, name), Some(b"one".as_slice()));
        assert_eq!(all(&headers, name), [b"one".to_vec(), b"\xfftwo".to_vec()]);
    }
    assert_eq!(Extractor::get(&headers, "traceparent"), None);
    assert!(all(&headers, "traceparent").is_empty());
    assert!(all(&headers, "not a name").is_empty());
}

#[test]
fn maps_find_their_keys_in_any_case() {
    let entries = owned(&[("TraceParent", "1"), ("x", "2")]);
    let hash: HashMap<String, String> = entries.iter().cloned().collect();
    let tree: BTreeMap<String, String> = entries.into_iter().collect();
    for (name, expected) in [("traceparent", Some(b"1".as_slice())), ("x", Some(b"2")), ("y", None)] {
        assert_eq!(Extractor::get(&hash, name), expected);
        assert_eq!(Extractor::get(&tree, name), expected);
        assert_eq!(all(&&hash, name).len(), expected.iter().len());
        assert_eq!(all(&&tree, name).len(), expected.iter().len());
    }
}

#[test]
fn a_key_in_two_cases_is_two_lines() {
    let entries = owned(&[("TRACEPARENT", "1"), ("traceparent", "2")]);
    let hash: HashMap<String, String> = entries.iter().cloned().collect();
    let tree: BTreeMap<String, String> = entries.into_iter().collect();
    assert_eq!(all(&hash, "traceparent").len(), 2);
    assert_eq!(all(&tree, "traceparent"), [b"1", b"2"]);
    assert_eq!(Extractor::get(&hash, "traceparent"), Some(b"2".as_slice()), "the exact one first");
}

#[test]
fn a_set_line_replaces_those_of_its_name_in_any_case() {
    let mut headers = HeaderMap::new();
    headers.append("baggage", HeaderValue::from_static("a"));
    headers.append("baggage", HeaderValue::from_static("b"));
    headers.set("baggage", "c");
    headers.set("x-other", "d");
    assert_eq!(all(&headers, "baggage"), [b"c"]);
    assert_eq!(all(&headers, "x-other"), [b"d"]);

    let entries = owned(&[("BAGGAGE", "a"), ("baggage", "b"), ("x", "y")]);
    let expected = owned(&[("baggage", "c"), ("x", "y")]);
    let mut hash: HashMap<String, String> = entries.iter().cloned().collect();
    hash.set("baggage", "c");
    assert_eq!(hash, expected.iter().cloned().collect());
    let mut tree: BTreeMap<String, String> = entries.into_iter().collect();
    Injector::set(&mut &mut tree, "baggage", "c");
    assert_eq!(tree, expected.into_iter().collect());
}

#[test]
fn a_removed_name_is_gone_in_any_case() {
    let mut headers = HeaderMap::new();
    headers.append("baggage", HeaderValue::from_static("a"));
    headers.append("baggage", HeaderValue::from_static("b"));
    headers.append("x-other", HeaderValue::from_static("c"));
    Injector::remove(&mut headers, "baggage");
    Injector::remove(&mut headers, "tracestate");
    assert_eq!(headers.len(), 1);
    Injector::remove(&mut headers, "x-other");
    assert!(headers.is_empty());

    let entries = owned(&[("BAGGAGE", "a"), ("baggage", "b"), ("x", "y")]);
    let mut hash: HashMap<String, String> = entries.iter().cloned().collect();
    Injector::remove(&mut hash, "baggage");
    assert_eq!(hash.len(), 1);
    let mut tree: BTreeMap<String, String> = entries.into_iter().collect();
    Injector::remove(&mut &mut tree, "baggage");
    assert_eq!(tree.len(), 1);
}

#[test]
fn what_http_does_not_allow_is_left_out() {
    let mut headers = HeaderMap::new();
    headers.set("not a name", "value");
    headers.set("x-line-break", "a\r\nb: c");
    assert!(headers.is_empty());
}

#[test]
fn one_pass_finds_what_look_ups_find() {
    for others in [0, 3, 40] {
        for [traceparent, tracestate, baggage] in [[0, 0, 0], [1, 1, 1], [1, 0, 2], [2, 3, 0]] {
            let mut headers = HeaderMap::new();
            for (name, lines) in
                [("baggage", baggage), ("tracestate", tracestate), ("traceparent", traceparent)]
            {
                for line in 0..lines {
                    headers.append(name, HeaderValue::from_str(&format!("{name}-{line}")).unwrap());
                }
            }
            for other in 0..others {
                let name = HeaderName::from_bytes(format!("x-other-{other}").as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_static("value"));
            }
            let by_reference = &headers;
            let found = Extractor::w3c_lines(&by_reference);
            for (name, lines) in [
                ("baggage", found.baggage),
                ("tracestate", found.tracestate),
                ("traceparent", found.traceparent),
            ] {
                let all = all(&headers, name);
                match lines {
                    Lines::None => assert!(all.is_empty()),
                    Lines::One(line) => assert_eq!(all, [line]),
                    Lines::Several => assert!(all.len() > 1 || headers.len() > FEW),
                }
            }
        }
    }
}

#[test]
fn a_ready_value_replaces_what_was_there_in_every_carrier() {
    let text = Text::new(b"a=1".to_vec());
    let span = crate::SpanContext::new(
        crate::TraceId::random(),
        crate::SpanId::random(),
        crate::TraceFlags::SAMPLED,
        false,
    );
    let traceparent = Pending::new(span);
    let mut headers = HeaderMap::new();
    headers.append("baggage", HeaderValue::from_static("old"));
    headers.append("baggage", HeaderValue::from_static("older"));
    let mut strings = HashMap::from([("Baggage".to_owned(), "old".to_owned())]);
    for (name, value) in
        [("baggage", FieldValue::shared(&text)), ("traceparent", FieldValue::traceparent(&traceparent))]
    {
        Injector::set_field(&mut &mut headers, name, value);
        strings.set_field(name, value);
        assert_eq!(all(&headers, name), [value.as_str().as_bytes()]);
        assert_eq!(all(&strings, name), all(&headers, name));
    }
}

#[test]
fn a_value_may_be_handed_to_another_thread() {
    fn may<T: Send + Sync>() {}
    may::<FieldValue<'_>>();
}
