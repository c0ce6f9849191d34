use std::sync::Arc;

use super::*;
use crate::StatusCode;

fn span(id: u64, parent: u64, service: &str, name: &str) -> SpanData {
    SpanData {
        trace_id: TraceId::from_u128(0xabc).unwrap(),
        span_id: SpanId::from_u64(id).unwrap(),
        parent_span_id: SpanId::from_u64(parent),
        trace_state: String::new(),
        flags: 1,
        name: name.to_owned(),
        kind: SpanKind::Server,
        start_unix_nano: 1_000_000_000 + id * 1_000_000,
        end_unix_nano: 1_020_000_000,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: Vec::new(),
        dropped_events_count: 0,
        links: Vec::new(),
        dropped_links_count: 0,
        status: StatusCode::Unset,
        status_message: String::new(),
        scope_name: String::new(),
        scope_version: String::new(),
        resource: Arc::new(vec![("service.name".to_owned(), service.into())]),
    }
}

fn tree(spans: Vec<SpanData>) -> TraceTree {
    TraceTree::group(spans).remove(0)
}

fn id(number: u64) -> SpanId {
    SpanId::from_u64(number).unwrap()
}

#[test]
fn spans_are_sorted_into_traces_and_under_parents_in_any_order() {
    let other = SpanData { trace_id: TraceId::from_u128(1).unwrap(), ..span(9, 0, "x", "other") };
    let spans =
        vec![span(4, 2, "b", "d"), other, span(2, 1, "b", "b"), span(3, 1, "a", "c"), span(1, 0, "a", "a")];
    let traces = TraceTree::group(spans);
    assert_eq!(traces.len(), 2);
    let tree = &traces[0];
    tree.check().unwrap();
    assert_eq!(tree.root().unwrap().name, "a");
    let walk: Vec<_> = tree.walk().map(|(depth, span)| (depth, &span.name[..])).collect();
    assert_eq!(walk, [(0, "a"), (1, "b"), (2, "d"), (1, "c")]);
    assert_eq!(tree.services(), ["a", "b"]);
    assert_eq!(tree.children(id(1)).map(|span| &span.name[..]).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(tree.duration(), Duration::from_millis(19));
}

#[test]
fn every_flaw_of_a_tree_has_its_name() {
    let orphan = tree(vec![span(1, 0, "a", "a"), span(2, 7, "a", "lost")]);
    let expected = TreeError::Orphan { name: "lost".to_owned(), span_id: id(2), parent_span_id: id(7) };
    assert_eq!(orphan.check(), Err(expected));

    let two = tree(vec![span(1, 0, "a", "a"), span(2, 0, "a", "b")]);
    assert_eq!(two.check(), Err(TreeError::SeveralRoots(vec!["a".to_owned(), "b".to_owned()])));

    let twice = tree(vec![span(1, 0, "a", "a"), span(1, 0, "a", "a")]);
    assert_eq!(twice.check(), Err(TreeError::Duplicate(id(1))));

    let cycle = tree(vec![span(1, 0, "a", "a"), span(2, 3, "a", "b"), span(3, 2, "a", "c")]);
    assert_eq!(cycle.check(), Err(TreeError::Cycle(id(2))));
    assert_eq!(cycle.walk().count(), 3);

    let own = tree(vec![span(1, 1, "a", "a")]);
    assert_eq!(own.check(), Err(TreeError::Cycle(id(1))));
    assert_eq!(TraceTree::of(TraceId::from_u128(5).unwrap(), []).check(), Err(TreeError::NoRoot));
}

#[test]
fn a_trace_that_a_caller_began_hangs_under_the_caller() {
    let continued = tree(vec![span(1, 7, "a", "a"), span(2, 1, "a", "b")]);
    assert_eq!(continued.check_under(id(7)), Ok(()));
    assert!(matches!(continued.check(), Err(TreeError::Orphan { .. })));
    assert!(matches!(continued.check_under(id(8)), Err(TreeError::Orphan { .. })));
}

#[test]
fn the_shape_does_not_depend_on_times_ids_or_the_order_of_siblings() {
    let one =
        tree(vec![span(1, 0, "a", "a"), span(2, 1, "a", "b"), span(3, 1, "b", "c"), span(4, 3, "b", "d")]);
    let two = tree(vec![
        span(11, 0, "a", "a"),
        span(12, 11, "b", "c"),
        span(13, 12, "b", "d"),
        span(14, 11, "a", "b"),
    ]);
    let shape = "a: a (server)\n  a: b (server)\n  b: c (server)\n    b: d (server)\n";
    assert_eq!(one.shape(), shape);
    assert_eq!(two.shape(), shape);
    let other =
        tree(vec![span(1, 0, "a", "a"), span(2, 1, "a", "b"), span(3, 1, "b", "c"), span(4, 2, "b", "d")]);
    assert_ne!(other.shape(), shape);
}

#[test]
fn a_chain_of_a_hundred_thousand_spans_is_walked_and_printed() {
    let deep = tree((1..=100_000).map(|id| span(id, id - 1, "a", "x")).collect());
    deep.check().unwrap();
    assert_eq!(deep.walk().last().unwrap().0, 99_999);
    assert_eq!(deep.to_string().lines().count(), 100_002);
}

#[test]
fn the_printed_tree_reads_at_a_glance() {
    let mut spans = vec![
        span(1, 0, "gateway", "POST /orders"),
        span(2, 1, "gateway", "POST"),
        span(3, 2, "orders", "POST /orders"),
        span(5, 3, "orders", "INSERT orders"),
        span(8, 3, "orders", "POST"),
    ];
    spans[0].attributes = vec![("http.response.status_code".to_owned(), 502.into())];
    spans[1].kind = SpanKind::Client;
    spans[1].attributes = vec![
        ("server.address".to_owned(), "127.0.0.1".into()),
        ("server.port".to_owned(), 4001.into()),
        ("http.request.resend_count".to_owned(), 2.into()),
    ];
    spans[3].kind = SpanKind::Internal;
    spans[3].end_unix_nano = spans[3].start_unix_nano + 1_234_567;
    spans[4].status = StatusCode::Error;
    spans[4].attributes = vec![("error.type".to_owned(), "timeout".into())];
    let expected = "\
trace 00000000000000000000000000000abc · 2 services · 5 spans · 19.0 ms · 1 error

gateway  POST /orders            ████████████████████████████   19.0 ms  server    502
gateway  └─ POST                  ███████████████████████████   18.0 ms  client    resend 2  127.0.0.1:4001
orders      └─ POST /orders         █████████████████████████   17.0 ms  server
orders         ├─ INSERT orders        ██                       1.23 ms
orders         └─ POST                     ██████████████████   12.0 ms  server    ✗ timeout
";
    let printed = tree(spans).to_string();
    assert_eq!(printed, expected, "\n{printed}");
}

#[test]
fn hostile_names_cannot_steer_the_terminal() {
    let mut hostile = span(1, 0, "sh\u{202e}op\x1b]0;owned\x07", "a\x1b[2Jb\nc\u{85}");
    hostile.attributes = vec![
        ("url.full".to_owned(), "http://\x1b[31m".into()),
        ("http.response.status_code".to_owned(), "\x07".into()),
        ("error.type".to_owned(), "\x1b[0m".into()),
    ];
    hostile.status = StatusCode::Error;
    let printed = tree(vec![hostile]).to_string();
    assert!(!printed.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{printed:?}");
    assert_eq!(printed.lines().count(), 3);
}

#[test]
fn durations_have_three_digits() {
    let cases = [(0, "0 ns"), (999, "999 ns"), (1_500, "1.50 µs"), (12_340, "12.3 µs"), (123_456, "123 µs")];
    let longer = [
        (9_996_000, "10.0 ms"),
        (99_960_000, "100 ms"),
        (1_234_000_000, "1.23 s"),
        (123_000_000_000, "123 s"),
    ];
    for (nanos, text) in cases.into_iter().chain(longer) {
        assert_eq!(short(Duration::from_nanos(nanos)), text);
    }
}
