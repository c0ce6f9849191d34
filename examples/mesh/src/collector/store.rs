//! The recent traces, in memory that is bounded three ways.
//!
//! Traces leave as a whole, the one that began to arrive first at the front. A trace of more spans than one is worth
//! keeping loses the spans that come last, and says so.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use trace_core::otlp::{OwnedValue, SpanData, TraceTree};
use trace_core::{SpanId, TraceId};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) traces_max: usize,
    pub(crate) spans_max: usize,
    pub(crate) bytes_max: usize,
    /// Of one trace.
    pub(crate) trace_spans_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { traces_max: 5_000, spans_max: 250_000, bytes_max: 256 * 1024 * 1024, trace_spans_max: 10_000 }
    }
}

/// The traces that came last.
#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    traces: HashMap<TraceId, Kept>,
    /// In the order of their first span's arrival.
    order: VecDeque<TraceId>,
    resources: Vec<Resource>,
    spans: usize,
    bytes: usize,
    evicted: u64,
    revision: u64,
}

type Resource = Arc<Vec<(String, OwnedValue)>>;

#[derive(Debug, Default)]
struct Kept {
    spans: Vec<SpanData>,
    ids: HashSet<SpanId>,
    bytes: usize,
    left_out: usize,
}

/// What is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) traces: usize,
    pub(crate) spans: usize,
    pub(crate) bytes: usize,
    /// Traces that had to leave.
    pub(crate) evicted: u64,
    /// Grows with everything that arrives.
    pub(crate) revision: u64,
}

/// Different resources that are shared among the spans of different batches: one for each process that sends, and some
/// for those that have restarted.
const RESOURCES_MAX: usize = 256;

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            traces: HashMap::new(),
            order: VecDeque::new(),
            resources: Vec::new(),
            spans: 0,
            bytes: 0,
            evicted: 0,
            revision: 0,
        }
    }

    /// Takes spans in. A span that is there already, because its sender had to repeat a batch, changes nothing.
    pub(crate) fn insert(&mut self, spans: impl IntoIterator<Item = SpanData>) {
        self.revision += 1;
        for mut span in spans {
            let shared = self.share(&mut span.resource);
            let kept = self.traces.entry(span.trace_id).or_insert_with(|| {
                self.order.push_back(span.trace_id);
                Kept::default()
            });
            if kept.ids.contains(&span.span_id) {
                continue;
            }
            if kept.spans.len() == self.limits.trace_spans_max {
                kept.left_out += 1;
                continue;
            }
            let bytes = size(&span) + if shared { 0 } else { attributes_size(&span.resource) };
            kept.ids.insert(span.span_id);
            kept.spans.push(span);
            kept.bytes += bytes;
            self.spans += 1;
            self.bytes += bytes;
            self.evict();
        }
    }

    /// Makes equal resources of different batches one, and tells whether that could be done.
    fn share(&mut self, resource: &mut Resource) -> bool {
        if let Some(known) =
            self.resources.iter().find(|known| Arc::ptr_eq(known, resource) || known == &resource)
        {
            *resource = Arc::clone(known);
            return true;
        }
        if self.resources.len() >= RESOURCES_MAX {
            self.resources.retain(|known| Arc::strong_count(known) > 1);
        }
        let room = self.resources.len() < RESOURCES_MAX;
        if room {
            self.resources.push(Arc::clone(resource));
        }
        room
    }

    fn evict(&mut self) {
        while self.traces.len() > self.limits.traces_max
            || self.spans > self.limits.spans_max
            || self.bytes > self.limits.bytes_max
        {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(kept) = self.traces.remove(&oldest) {
                self.spans -= kept.spans.len();
                self.bytes -= kept.bytes;
                self.evicted += 1;
            }
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            traces: self.traces.len(),
            spans: self.spans,
            bytes: self.bytes,
            evicted: self.evicted,
            revision: self.revision,
        }
    }

    pub(crate) fn contains(&self, trace_id: TraceId) -> bool {
        self.traces.contains_key(&trace_id)
    }

    /// The trace, and how many of its spans were left out.
    pub(crate) fn get(&self, trace_id: TraceId) -> Option<(TraceTree, usize)> {
        let kept = self.traces.get(&trace_id)?;
        Some((TraceTree::of(trace_id, kept.spans.iter().cloned()), kept.left_out))
    }

    /// The spans of each trace, the one that began to arrive last at the front.
    pub(crate) fn recent(&self) -> impl Iterator<Item = (TraceId, &[SpanData])> {
        self.order.iter().rev().filter_map(|id| self.traces.get(id).map(|kept| (*id, &kept.spans[..])))
    }
}

/// What a span holds on the heap and in its place, near enough for a bound: allocators round up, and the maps around it
/// have their own share.
fn size(span: &SpanData) -> usize {
    let own = size_of::<SpanData>() + 2 * size_of::<SpanId>();
    let texts = [&span.trace_state, &span.name, &span.status_message, &span.scope_name, &span.scope_version];
    let texts: usize = texts.into_iter().map(String::capacity).sum();
    let events: usize = span
        .events
        .iter()
        .map(|event| size_of_val(event) + event.name.capacity() + attributes_size(&event.attributes))
        .sum();
    let links: usize = span
        .links
        .iter()
        .map(|link| size_of_val(link) + link.trace_state.capacity() + attributes_size(&link.attributes))
        .sum();
    own + texts + attributes_size(&span.attributes) + events + links
}

fn attributes_size(attributes: &[(String, OwnedValue)]) -> usize {
    attributes.iter().map(|(key, value)| size_of::<String>() + key.capacity() + value_size(value)).sum()
}

fn value_size(value: &OwnedValue) -> usize {
    let below = match value {
        OwnedValue::String(text) => text.capacity(),
        OwnedValue::Bytes(bytes) => bytes.capacity(),
        OwnedValue::Array(values) => values.iter().map(value_size).sum(),
        OwnedValue::Map(entries) => attributes_size(entries),
        _ => 0,
    };
    size_of::<OwnedValue>() + below
}

#[cfg(test)]
pub(super) mod tests {
    use trace_core::{SpanKind, StatusCode};

    use super::*;

    pub(crate) fn span(trace: u128, id: u64) -> SpanData {
        SpanData {
            trace_id: TraceId::from_u128(trace).unwrap(),
            span_id: SpanId::from_u64(id).unwrap(),
            parent_span_id: SpanId::from_u64(id - 1),
            trace_state: String::new(),
            flags: 1,
            name: "work".to_owned(),
            kind: SpanKind::Internal,
            start_unix_nano: id,
            end_unix_nano: id + 1,
            attributes: vec![("key".to_owned(), "x".repeat(1_000).into())],
            dropped_attributes_count: 0,
            events: Vec::new(),
            dropped_events_count: 0,
            links: Vec::new(),
            dropped_links_count: 0,
            status: StatusCode::Unset,
            status_message: String::new(),
            scope_name: String::new(),
            scope_version: String::new(),
            resource: Arc::new(vec![("service.name".to_owned(), "shop".into())]),
        }
    }

    fn kept(store: &Store) -> Vec<u128> {
        store.recent().map(|(id, _)| id.to_u128()).collect()
    }

    #[test]
    fn the_oldest_traces_leave_whole_when_there_are_too_many() {
        let mut store = Store::new(Limits { traces_max: 2, ..Limits::default() });
        store.insert([span(1, 1), span(1, 2), span(2, 1), span(3, 1), span(2, 2)]);
        assert_eq!(kept(&store), [3, 2]);
        assert!(store.get(TraceId::from_u128(1).unwrap()).is_none());
        let totals = store.totals();
        assert_eq!((totals.traces, totals.spans, totals.evicted), (2, 3, 1));
    }

    #[test]
    fn two_thousand_traces_of_a_mesh_are_kept() {
        let mut store = Store::new(Limits::default());
        for trace in 1..=2_000 {
            store.insert((1..=30).map(|id| span(trace, id)));
        }
        assert_eq!((store.totals().traces, store.totals().evicted), (2_000, 0));
    }

    #[test]
    fn spans_and_bytes_are_bounds_too() {
        let mut store = Store::new(Limits { spans_max: 3, ..Limits::default() });
        store.insert([span(1, 1), span(1, 2), span(2, 1), span(3, 1)]);
        assert_eq!(kept(&store), [3, 2]);

        let mut store = Store::new(Limits { bytes_max: 100_000, ..Limits::default() });
        for trace in 1..=1_000 {
            store.insert([span(trace, 1)]);
            assert!(store.totals().bytes <= 100_000);
        }
        assert!((50..100).contains(&store.totals().traces), "{:?}", store.totals());
    }

    #[test]
    fn an_empty_store_weighs_nothing() {
        let mut store = Store::new(Limits { traces_max: 1, ..Limits::default() });
        store.insert([span(1, 1), span(1, 2)]);
        let one = store.totals().bytes;
        store.insert([span(2, 1), span(2, 2)]);
        assert_eq!(store.totals().bytes, one);
    }

    #[test]
    fn a_trace_without_end_keeps_its_first_spans_and_says_so() {
        let mut store = Store::new(Limits { trace_spans_max: 10, ..Limits::default() });
        store.insert((1..=25).map(|id| span(1, id)));
        let (tree, left_out) = store.get(TraceId::from_u128(1).unwrap()).unwrap();
        assert_eq!((tree.spans().len(), left_out), (10, 15));
    }

    #[test]
    fn a_repeated_batch_changes_nothing() {
        let mut store = Store::new(Limits::default());
        store.insert([span(1, 1), span(1, 2)]);
        let before = store.totals();
        store.insert([span(1, 1), span(1, 2)]);
        assert_eq!(store.totals(), Totals { revision: before.revision + 1, ..before });
    }

    #[test]
    fn equal_resources_of_many_batches_are_kept_once() {
        let mut store = Store::new(Limits::default());
        for id in 1..=1_000 {
            store.insert([span(1, id)]);
        }
        assert_eq!(store.resources.len(), 1);
    }
}
