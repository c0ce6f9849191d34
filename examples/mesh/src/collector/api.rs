//! What the page asks for, as JSON.
//!
//! Numbers of nanoseconds since 1970 do not fit into a number of JavaScript's, so a moment is a text, and what lies
//! within a trace is told from the trace's start. Attribute values come as texts with their type beside them.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use trace_core::otlp::{OwnedValue, SpanData, TraceTree};
use trace_core::{TraceId, semconv};

use super::store::{Store, Totals};

/// The recent traces.
#[derive(Debug, Serialize)]
pub(crate) struct TraceList {
    traces: Vec<TraceSummary>,
    /// How many match, of which `traces` are the latest.
    matching: usize,
    kept: usize,
    spans_kept: usize,
    evicted: u64,
    revision: u64,
}

#[derive(Debug, Serialize)]
struct TraceSummary {
    id: String,
    name: String,
    service: String,
    services: Vec<String>,
    start_unix_nano: String,
    duration_nanos: u64,
    spans: usize,
    errors: usize,
    /// The root's own word for how it went: an HTTP or gRPC status.
    outcome: Option<String>,
    /// Whether the root itself failed, so that the caller saw it.
    failed: bool,
    /// Whether the root is there.
    rooted: bool,
}

/// One trace with everything in it.
#[derive(Debug, Serialize)]
pub(crate) struct Trace {
    id: String,
    start_unix_nano: String,
    duration_nanos: u64,
    services: Vec<String>,
    errors: usize,
    /// What keeps the spans from being one whole tree.
    flaw: Option<String>,
    left_out: usize,
    /// A parent before its children.
    spans: Vec<Span>,
    /// The attributes of the processes that sent the spans.
    resources: Vec<Vec<Attribute>>,
}

#[derive(Debug, Serialize)]
struct Span {
    id: String,
    parent: Option<String>,
    depth: usize,
    service: String,
    name: String,
    kind: &'static str,
    error: bool,
    ok: bool,
    status_message: String,
    start_nanos: i64,
    duration_nanos: u64,
    attributes: Vec<Attribute>,
    events: Vec<Event>,
    links: Vec<Link>,
    dropped_attributes: u32,
    dropped_events: u32,
    dropped_links: u32,
    scope: String,
    trace_state: String,
    sampled: bool,
    random: bool,
    resource: usize,
}

#[derive(Debug, Serialize)]
struct Attribute {
    key: String,
    #[serde(rename = "type")]
    kind: &'static str,
    value: String,
}

#[derive(Debug, Serialize)]
struct Event {
    name: String,
    at_nanos: i64,
    attributes: Vec<Attribute>,
}

#[derive(Debug, Serialize)]
struct Link {
    trace: String,
    span: String,
    /// Whether the trace that it leads to is here.
    here: bool,
    attributes: Vec<Attribute>,
}

/// Which traces are asked for.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Query {
    /// Words that all have to occur: in the trace id, a service, a span's name, or an attribute as `key=value`.
    q: String,
    /// Only traces in which a span failed.
    errors: bool,
    limit: Option<usize>,
}

const LIMIT_DEFAULT: usize = 200;

impl TraceList {
    pub(crate) fn of(store: &Store, query: &Query) -> Self {
        let words: Vec<String> = query.q.split_whitespace().map(str::to_lowercase).collect();
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
        let mut traces = Vec::new();
        let mut matching = 0;
        for (id, spans) in store.recent() {
            if query.errors && !spans.iter().any(SpanData::is_error) {
                continue;
            }
            if !words.iter().all(|word| mentions(id, spans, word)) {
                continue;
            }
            matching += 1;
            if traces.len() < limit {
                traces.push(TraceSummary::of(id, spans));
            }
        }
        let Totals { traces: kept, spans: spans_kept, evicted, revision, .. } = store.totals();
        Self { traces, matching, kept, spans_kept, evicted, revision }
    }
}

fn outcome(span: &SpanData) -> Option<String> {
    let keys = [semconv::HTTP_RESPONSE_STATUS_CODE, semconv::RPC_STATUS_CODE];
    keys.iter().find_map(|key| span.attribute(key.as_str())).map(ToString::to_string)
}

fn mentions(id: TraceId, spans: &[SpanData], word: &str) -> bool {
    if id.to_hex().starts_with(word) {
        return true;
    }
    spans.iter().any(|span| {
        let attributes = || span.attributes.iter().map(|(key, value)| format!("{key}={value}"));
        [span.name.to_lowercase(), span.service_name().to_lowercase()].iter().any(|text| text.contains(word))
            || attributes().any(|text| text.to_lowercase().contains(word))
    })
}

impl TraceSummary {
    fn of(id: TraceId, spans: &[SpanData]) -> Self {
        let rooted = spans.iter().any(|span| span.parent_span_id.is_none());
        let top = spans
            .iter()
            .filter(|span| !rooted || span.parent_span_id.is_none())
            .min_by_key(|span| span.start_unix_nano);
        let start = spans.iter().map(|span| span.start_unix_nano).min().unwrap_or(0);
        let end = spans.iter().map(|span| span.end_unix_nano).max().unwrap_or(0);
        let mut by_start: Vec<&SpanData> = spans.iter().collect();
        by_start.sort_by_key(|span| span.start_unix_nano);
        let mut services: Vec<String> = Vec::new();
        for span in by_start {
            if !services.iter().any(|service| service == span.service_name()) {
                services.push(span.service_name().to_owned());
            }
        }
        Self {
            id: id.to_string(),
            name: top.map_or_else(String::new, |span| span.name.clone()),
            service: top.map_or_else(String::new, |span| span.service_name().to_owned()),
            services,
            start_unix_nano: start.to_string(),
            duration_nanos: end.saturating_sub(start),
            spans: spans.len(),
            errors: spans.iter().filter(|span| span.is_error()).count(),
            outcome: top.and_then(outcome),
            failed: rooted && top.is_some_and(SpanData::is_error),
            rooted,
        }
    }
}

impl Trace {
    /// `is_here` tells of another trace whether it is in the store, so that a link can lead there.
    pub(crate) fn of(tree: &TraceTree, left_out: usize, is_here: impl Fn(TraceId) -> bool) -> Self {
        let start = tree.start_unix_nano();
        let since =
            |unix_nano: u64| i64::try_from(i128::from(unix_nano) - i128::from(start)).unwrap_or(i64::MAX);
        let mut places: HashMap<*const Vec<(String, OwnedValue)>, usize> = HashMap::new();
        let mut resources = Vec::new();
        let spans = tree
            .walk()
            .map(|(depth, span)| {
                let resource = *places.entry(Arc::as_ptr(&span.resource)).or_insert_with(|| {
                    resources.push(attributes(&span.resource));
                    resources.len() - 1
                });
                Span {
                    id: span.span_id.to_string(),
                    parent: span.parent_span_id.map(|id| id.to_string()),
                    depth,
                    service: span.service_name().to_owned(),
                    name: span.name.clone(),
                    kind: span.kind.as_str(),
                    error: span.is_error(),
                    ok: span.status == trace_core::StatusCode::Ok,
                    status_message: span.status_message.clone(),
                    start_nanos: since(span.start_unix_nano),
                    duration_nanos: u64::try_from(span.duration().as_nanos()).unwrap_or(u64::MAX),
                    attributes: attributes(&span.attributes),
                    events: span
                        .events
                        .iter()
                        .map(|event| Event {
                            name: event.name.clone(),
                            at_nanos: since(event.unix_nano),
                            attributes: attributes(&event.attributes),
                        })
                        .collect(),
                    links: span
                        .links
                        .iter()
                        .map(|link| Link {
                            trace: link.trace_id.to_string(),
                            span: link.span_id.to_string(),
                            here: is_here(link.trace_id),
                            attributes: attributes(&link.attributes),
                        })
                        .collect(),
                    dropped_attributes: span.dropped_attributes_count,
                    dropped_events: span.dropped_events_count,
                    dropped_links: span.dropped_links_count,
                    scope: format!("{} {}", span.scope_name, span.scope_version).trim().to_owned(),
                    trace_state: span.trace_state.clone(),
                    sampled: span.flags & 1 != 0,
                    random: span.flags & 2 != 0,
                    resource,
                }
            })
            .collect();
        Self {
            id: tree.trace_id().to_string(),
            start_unix_nano: start.to_string(),
            duration_nanos: u64::try_from(tree.duration().as_nanos()).unwrap_or(u64::MAX),
            services: tree.services().into_iter().map(str::to_owned).collect(),
            errors: tree.errors(),
            flaw: tree.check().err().map(|flaw| flaw.to_string()),
            left_out,
            spans,
            resources,
        }
    }
}

fn attributes(pairs: &[(String, OwnedValue)]) -> Vec<Attribute> {
    pairs
        .iter()
        .map(|(key, value)| Attribute {
            key: key.clone(),
            kind: match value {
                OwnedValue::String(_) => "string",
                OwnedValue::Bool(_) => "bool",
                OwnedValue::I64(_) => "int",
                OwnedValue::F64(_) => "double",
                OwnedValue::Bytes(_) => "bytes",
                OwnedValue::Array(_) => "array",
                OwnedValue::Map(_) => "map",
            },
            value: value.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use trace_core::otlp::LinkData;
    use trace_core::{SpanId, StatusCode};

    use super::super::store::Limits;
    use super::super::store::tests::span;
    use super::*;

    fn store() -> Store {
        let mut store = Store::new(Limits::default());
        let mut failed = span(2, 2);
        failed.name = "POST /charges".to_owned();
        failed.status = StatusCode::Error;
        failed.attributes = vec![("order.id".to_owned(), 17.into())];
        store.insert([span(1, 1), span(2, 1), failed]);
        store
    }

    fn found(query: &Query) -> Vec<u128> {
        let list = TraceList::of(&store(), query);
        list.traces.iter().map(|trace| u128::from_str_radix(&trace.id, 16).unwrap()).collect()
    }

    fn search(q: &str) -> Vec<u128> {
        found(&Query { q: q.to_owned(), ..Query::default() })
    }

    #[test]
    fn traces_are_found_by_id_name_service_and_attribute_the_latest_first() {
        assert_eq!(search(""), [2, 1]);
        assert_eq!(search(&format!("{:032x}", 2)), [2]);
        assert_eq!(search("SHOP post order.id=17"), [2]);
        assert_eq!(search("order.id=18"), []);
        assert_eq!(found(&Query { errors: true, ..Query::default() }), [2]);
        assert_eq!(found(&Query { limit: Some(1), ..Query::default() }), [2]);
    }

    #[test]
    fn a_trace_tells_everything_and_no_number_that_javascript_would_round() {
        let mut root = span(1, 1);
        root.start_unix_nano = 1_795_337_997_533_914_661;
        root.end_unix_nano = root.start_unix_nano + 5_000;
        root.attributes = vec![("big".to_owned(), i64::MAX.into()), ("flag".to_owned(), true.into())];
        root.links = [7, 8]
            .map(|trace| LinkData {
                trace_id: TraceId::from_u128(trace).unwrap(),
                span_id: SpanId::from_u64(9).unwrap(),
                trace_state: String::new(),
                attributes: Vec::new(),
                dropped_attributes_count: 0,
                flags: 1,
            })
            .to_vec();
        let tree = TraceTree::of(root.trace_id, [root]);
        let trace = Trace::of(&tree, 3, |id| id.to_u128() == 7);
        let trace: Value = serde_json::to_value(trace).unwrap();
        assert_eq!(trace["start_unix_nano"], "1795337997533914661");
        assert_eq!(trace["duration_nanos"], 5_000);
        assert_eq!(trace["left_out"], 3);
        let span = &trace["spans"][0];
        assert_eq!(span["start_nanos"], 0);
        let attributes = json!([
            { "key": "big", "type": "int", "value": "9223372036854775807" },
            { "key": "flag", "type": "bool", "value": "true" },
        ]);
        assert_eq!(span["attributes"], attributes);
        assert_eq!((&span["links"][0]["here"], &span["links"][1]["here"]), (&json!(true), &json!(false)));
    }
}
