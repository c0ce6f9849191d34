//! Spans that are written to in any order, by any of the ways there are.

use std::fmt;
use std::sync::LazyLock;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{self as proto, ResourceSpans, ScopeSpans};
use prost::Message;

use super::Input;
use crate::config::{Config, SpanLimits};
use crate::context::TraceFlags;
use crate::export::chunk::{Chunk, SPAN_BYTES_MAX};
use crate::otlp::{OwnedValue, SpanData};
use crate::testing::convert;
use crate::{
    Context, Key, SpanContext, SpanId, SpanKind, StatusCode, TraceId, TraceState, Tracer, Value, display,
    semconv,
};

/// Whatever is done to a span, prost reads what a simple model says, within the limits and 64 KiB, and every attribute
/// that is not there was counted.
pub fn span(data: &[u8]) {
    /// A pipeline lives as long as its process, so that there is one for each set of limits.
    static TRACERS: LazyLock<Vec<(Tracer, SpanLimits, bool)>> = LazyLock::new(tracers);
    let mut input = Input(data);
    let (tracer, limits, is_ample) = TRACERS[input.below(TRACERS.len())];
    let mut model = Model { limits, bytes: 0, exact: is_ample, ..Model::default() };
    let mut span = start(&mut input, tracer, &mut model);
    let context = span.span_context().expect("ids");
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        write(&mut input, &mut span, &mut model);
    }
    drop(span);

    let read = take(tracer);
    assert_eq!((read.trace_id, read.span_id), (context.trace_id(), context.span_id()));
    assert!(read.end_unix_nano >= read.start_unix_nano);
    model.judge(&read);
}

fn tracers() -> Vec<(Tracer, SpanLimits, bool)> {
    let ample = 16 << 20;
    let tracer = |memory_bytes_max, attributes, length, others| {
        let limits = SpanLimits {
            attribute_count: attributes,
            attribute_value_length: length,
            event_count: others,
            link_count: others,
            event_attribute_count: others,
            link_attribute_count: others,
        };
        let config = Config { memory_bytes_max, limits, ..Config::default() };
        (Tracer::detached(&config), limits, memory_bytes_max == ample)
    };
    vec![
        tracer(ample, 128, None, 128),
        tracer(ample, 66, Some(120), 3),
        tracer(ample, 3, Some(10), 1),
        tracer(ample, 0, Some(0), 0),
        // With memory for little more than the span itself.
        tracer(20 << 10, 128, None, 128),
    ]
}

fn start(input: &mut Input<'_>, tracer: Tracer, model: &mut Model) -> crate::Span {
    let how = input.byte();
    model.name = cut_bytes(&text(input, model), 1024).to_owned();
    let kinds =
        [SpanKind::Internal, SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer];
    model.kind = kinds[input.below(kinds.len())];
    let name = model.name.clone();
    let builder = tracer.span(&name).kind(model.kind);
    if how & 1 == 0 {
        return builder.root().start();
    }
    let parent = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, how & 2 == 0);
    model.parent = Some(parent.span_id());
    let mut state = TraceState::default();
    if how & 4 == 0 && state.insert("ours", &"1".repeat(1 + input.below(256))).is_ok() {
        state.as_str().clone_into(&mut model.trace_state);
    }
    builder.parent(&Context::from_remote(parent, state, crate::Baggage::default())).start()
}

/// Does one thing to a span, and to the model of it.
fn write(input: &mut Input<'_>, span: &mut crate::Span, model: &mut Model) {
    match input.below(10) {
        0..=3 => {
            let (name, how) = (key(input), input.byte());
            let value = value(input, model, 0);
            model.set(&name, &value);
            let known = semconv::ALL.iter().find(|key| key.as_str() == name && how & 1 == 0);
            let key = known.copied().unwrap_or(Key::new(&name));
            value.with(&mut |value| match how >> 1 & 3 {
                0 | 1 => span.set_attribute(key, value),
                // Through the lock, as somebody else who holds the context.
                2 => span.context().clone().span().set_attribute(key, value),
                _ => span.enter(|| Context::current().span().set_attribute(key, value)),
            });
        }
        4 => {
            let all: Vec<_> = (0..input.below(12)).map(|_| (key(input), value(input, model, 0))).collect();
            let mut row = span.attributes().expect("it is recorded");
            for (name, value) in &all {
                model.set(name, value);
                let known = semconv::ALL.iter().find(|key| key.as_str() == name);
                value.with(&mut |value| row.set(known.copied().unwrap_or(Key::new(name)), value));
            }
        }
        5 => {
            let name = text(input, model);
            let all = attributes(input, model);
            with_attributes(&all, &[], &mut |attributes| span.add_event(&name, attributes));
            model.event(&name, &all);
        }
        6 => {
            let target = SpanContext::new(
                TraceId::random(),
                SpanId::random(),
                TraceFlags::from_u8(input.byte()),
                input.byte() & 1 == 0,
            );
            let all = attributes(input, model);
            with_attributes(&all, &[], &mut |attributes| span.add_link(target, attributes));
            model.link(target, &all);
        }
        7 => {
            let name = text(input, model);
            span.update_name(&name);
            cut_bytes(&name, 1024).clone_into(&mut model.name);
        }
        8 => {
            let status = [StatusCode::Unset, StatusCode::Ok, StatusCode::Error][input.below(3)];
            span.set_status(status);
            model.status(status, "");
        }
        _ => {
            let description = text(input, model);
            span.set_error_description(&description);
            model.status(StatusCode::Error, &description);
        }
    }
}

/// The one span that has ended, as both decoders read it.
fn take(tracer: Tracer) -> SpanData {
    let queue = &tracer.pipeline().expect("enabled").queue;
    let mut taken = Vec::new();
    let mut keep = |chunk: Box<Chunk>| {
        for frame in chunk.frames() {
            taken.push(frame.span().to_vec());
        }
        queue.export.taken.add(chunk.len() as u64);
        queue.export.exported.add(chunk.len() as u64);
        queue.recycle(chunk);
    };
    while let Some(chunk) = queue.take_sealed() {
        keep(chunk);
    }
    queue.take_open(&mut keep);
    let stats = tracer.stats();
    assert!(stats.is_balanced() && stats.live == 0, "{stats}");
    let [bytes] = &taken[..] else { panic!("{} spans", taken.len()) };
    assert!(bytes.len() <= SPAN_BYTES_MAX);

    let scope = crate::otlp::decode::Scope::default();
    let ours =
        crate::otlp::decode::decode_span(bytes, scope, &std::sync::Arc::default()).expect("a whole span");
    let spans = vec![proto::Span::decode(&bytes[..]).expect("a whole span")];
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    let theirs = convert::spans(ExportTraceServiceRequest { resource_spans }).expect("a valid span");
    assert_eq!(theirs, [ours]);
    theirs.into_iter().next().expect("it is the one")
}

type Attributes = Vec<(String, Owned)>;

/// Attributes as they arrive.
type Sent = Vec<(String, OwnedValue)>;

/// What a span has to say in the end.
#[derive(Default)]
struct Model {
    limits: SpanLimits,
    /// At most so many bytes were given to the span: whether all of them fit is not the model's to know.
    bytes: usize,
    exact: bool,
    name: String,
    kind: SpanKind,
    parent: Option<SpanId>,
    trace_state: String,
    attributes: Sent,
    set: u32,
    dropped: [u32; 3],
    events: Vec<(String, Sent, u32)>,
    links: Vec<(SpanContext, Sent, u32)>,
    added: [usize; 2],
    status: StatusCode,
    description: String,
}

impl Model {
    fn set(&mut self, key: &str, value: &Owned) {
        self.set += 1;
        self.attributes.retain(|(known, _)| known != key);
        if key.is_empty() || self.attributes.len() >= self.limits.attribute_count {
            self.dropped[0] += 1;
        } else {
            self.attributes.push((key.to_owned(), value.sent(self.limits.attribute_value_length, 0)));
        }
    }

    fn some(&self, all: &Attributes, max: usize) -> (Sent, u32) {
        let length = self.limits.attribute_value_length;
        let kept = all.iter().take(max).map(|(key, value)| (key.clone(), value.sent(length, 0))).collect();
        (kept, all.len().saturating_sub(max) as u32)
    }

    fn event(&mut self, name: &str, all: &Attributes) {
        self.added[0] += 1;
        if self.events.len() >= self.limits.event_count {
            self.dropped[1] += 1;
            return;
        }
        let (kept, dropped) = self.some(all, self.limits.event_attribute_count);
        self.events.push((cut_bytes(name, 1024).to_owned(), kept, dropped));
    }

    fn link(&mut self, target: SpanContext, all: &Attributes) {
        self.added[1] += 1;
        if self.links.len() >= self.limits.link_count {
            self.dropped[2] += 1;
            return;
        }
        let (kept, dropped) = self.some(all, self.limits.link_attribute_count);
        self.links.push((target, kept, dropped));
    }

    fn status(&mut self, status: StatusCode, description: &str) {
        if self.status == StatusCode::Ok || status == StatusCode::Unset {
            return;
        }
        self.status = status;
        cut_bytes(description, 1024).clone_into(&mut self.description);
    }

    fn judge(&self, read: &SpanData) {
        assert_eq!((read.kind, read.parent_span_id), (self.kind, self.parent));
        assert_eq!(read.status, self.status);
        let mut keys: Vec<&str> = read.attributes.iter().map(|(key, _)| &**key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), read.attributes.len(), "a key stands once");
        assert!(keys.len() <= self.limits.attribute_count);
        assert_eq!(read.events.len() + read.dropped_events_count as usize, self.added[0]);
        assert_eq!(read.links.len() + read.dropped_links_count as usize, self.added[1]);
        if !self.exact || self.bytes > SPAN_BYTES_MAX / 4 {
            // Something may have been cut or left out; what is there is as it was set last, or its beginning.
            assert!(read.dropped_attributes_count <= self.set);
            for (key, value) in &read.attributes {
                let set = self.attributes.iter().find(|(known, _)| known == key);
                let (_, set) = set.unwrap_or_else(|| panic!("{key} was not set"));
                match (value, set) {
                    (OwnedValue::String(text), OwnedValue::String(whole)) => {
                        assert!(whole.starts_with(&**text))
                    }
                    _ => assert_eq!(value, set),
                }
            }
            return;
        }
        assert_eq!((&read.name, &read.status_message), (&self.name, &self.description));
        assert_eq!(read.trace_state, self.trace_state);
        let sorted = |attributes: &[(String, OwnedValue)]| {
            let mut attributes = attributes.to_vec();
            attributes.sort_by(|(one, _), (other, _)| one.cmp(other));
            attributes
        };
        assert_eq!(sorted(&read.attributes), sorted(&self.attributes));
        let dropped = [read.dropped_attributes_count, read.dropped_events_count, read.dropped_links_count];
        assert_eq!(dropped, self.dropped);
        let events = read.events.iter().map(|event| {
            assert!(event.unix_nano >= read.start_unix_nano && event.unix_nano <= read.end_unix_nano);
            (event.name.clone(), event.attributes.clone(), event.dropped_attributes_count)
        });
        assert_eq!(events.collect::<Vec<_>>(), self.events);
        let links = read.links.iter().map(|link| {
            let flags = TraceFlags::from_u8(link.flags as u8);
            let target = SpanContext::new(link.trace_id, link.span_id, flags, link.flags & 0x200 != 0);
            (target, link.attributes.clone(), link.dropped_attributes_count)
        });
        assert_eq!(links.collect::<Vec<_>>(), self.links);
    }
}

/// A value that can be made up, lent to a span, and told by the model.
enum Owned {
    Text(String),
    Formatted(Pieces),
    Bool(bool),
    Int(i64),
    Float(f64),
    Bytes(Vec<u8>),
    Texts(Vec<String>),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Array(Vec<Owned>),
    Map(Attributes),
}

/// A text that is written in pieces, as formatters do, and may fail at the end.
struct Pieces(Vec<String>, bool);

impl fmt::Display for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| f.write_str(piece))?;
        if self.1 { Err(fmt::Error) } else { Ok(()) }
    }
}

fn key(input: &mut Input<'_>) -> String {
    match input.byte() {
        which @ 0..128 => semconv::ALL[usize::from(which) % semconv::ALL.len()].as_str().to_owned(),
        which @ 128..192 => format!("k{which}"),
        which @ 192..250 => "k".repeat(usize::from(which) - 92),
        _ => input.text(),
    }
}

/// A text of any length: what the input has, several times over.
fn text(input: &mut Input<'_>, model: &mut Model) -> String {
    let (text, times) = (input.text(), input.byte());
    let times = usize::from(times.saturating_sub(200)).pow(2).min(70_000 / text.len().max(1));
    let text = text.repeat(times.max(1));
    model.bytes += text.len() + 32;
    text
}

fn attributes(input: &mut Input<'_>, model: &mut Model) -> Attributes {
    (0..input.below(6)).map(|_| (key(input), value(input, model, 0))).collect()
}

fn value(input: &mut Input<'_>, model: &mut Model, depth: usize) -> Owned {
    model.bytes += 300;
    let count = |input: &mut Input<'_>| input.below(6);
    match input.below(if depth < 3 { 14 } else { 10 }) {
        0 | 1 => Owned::Text(text(input, model)),
        2 => {
            let pieces = (0..count(input)).map(|_| text(input, model)).collect();
            Owned::Formatted(Pieces(pieces, input.byte() == 7))
        }
        3 => Owned::Bool(input.byte() & 1 != 0),
        4 => Owned::Int(input.number() as i64),
        5 => Owned::Float(number(input)),
        6 => Owned::Bytes(input.bytes().to_vec()),
        7 => Owned::Texts((0..count(input)).map(|_| input.text()).collect()),
        8 => Owned::Ints((0..count(input)).map(|_| input.number() as i64).collect()),
        9 if depth.is_multiple_of(2) => Owned::Floats((0..count(input)).map(|_| number(input)).collect()),
        9 => Owned::Bools((0..count(input)).map(|_| input.byte() & 1 != 0).collect()),
        10 | 11 => Owned::Array((0..count(input)).map(|_| value(input, model, depth + 1)).collect()),
        12 => Owned::Map((0..count(input)).map(|_| (key(input), value(input, model, depth + 1))).collect()),
        _ => {
            // Deeper than anything may lie.
            let innermost = value(input, model, depth + 1);
            (0..input.below(20)).fold(innermost, |value, _| Owned::Array(vec![value]))
        }
    }
}

fn number(input: &mut Input<'_>) -> f64 {
    // One that is equal to itself.
    let number = f64::from_bits(input.number());
    if number.is_nan() { 0.5 } else { number }
}

impl Owned {
    fn with(&self, f: &mut dyn FnMut(Value<'_>)) {
        match self {
            Self::Text(text) => f(text.as_str().into()),
            Self::Formatted(pieces) => f(display(pieces)),
            Self::Bool(truth) => f((*truth).into()),
            Self::Int(number) => f((*number).into()),
            Self::Float(number) => f((*number).into()),
            Self::Bytes(bytes) => f(bytes[..].into()),
            Self::Texts(texts) => f(Value::StrArray(&texts.iter().map(String::as_str).collect::<Vec<_>>())),
            Self::Ints(numbers) => f(Value::I64Array(numbers)),
            Self::Floats(numbers) => f(Value::F64Array(numbers)),
            Self::Bools(truths) => f(Value::BoolArray(truths)),
            Self::Array(values) => with_values(values, &[], &mut |values| f(Value::Array(values))),
            Self::Map(entries) => with_entries(entries, &[], &mut |entries| f(Value::Map(entries))),
        }
    }

    /// What arrives of it at the given depth, if texts may have so many characters.
    fn sent(&self, length_max: Option<usize>, depth: usize) -> OwnedValue {
        /// Arrays and maps that lie deeper are left empty, and are not even arrays then.
        const DEPTH_MAX: usize = 16;
        let max = length_max.unwrap_or(usize::MAX);
        let cut = |text: &str| OwnedValue::String(text.chars().take(max).collect());
        let inner = depth + 1;
        match self {
            Self::Text(text) => cut(text),
            Self::Formatted(Pieces(pieces, _)) if depth == 0 => cut(&pieces.concat()),
            Self::Formatted(_) => OwnedValue::from(""),
            Self::Bool(truth) => (*truth).into(),
            Self::Int(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            _ if depth >= DEPTH_MAX => OwnedValue::from(""),
            Self::Bytes(bytes) => OwnedValue::Bytes(bytes.iter().copied().take(max).collect()),
            Self::Texts(texts) => OwnedValue::Array(texts.iter().map(|text| cut(text)).collect()),
            Self::Ints(numbers) => numbers.clone().into(),
            Self::Floats(numbers) => numbers.clone().into(),
            Self::Bools(truths) => truths.clone().into(),
            Self::Array(values) => {
                OwnedValue::Array(values.iter().map(|value| value.sent(length_max, inner)).collect())
            }
            Self::Map(entries) => OwnedValue::Map(
                entries.iter().map(|(key, value)| (key.clone(), value.sent(length_max, inner))).collect(),
            ),
        }
    }
}

fn with_values(left: &[Owned], made: &[Value<'_>], f: &mut dyn FnMut(&[Value<'_>])) {
    match left.split_first() {
        None => f(made),
        Some((first, left)) => first.with(&mut |value| {
            let made: Vec<Value<'_>> = made.iter().copied().chain([value]).collect();
            with_values(left, &made, f);
        }),
    }
}

#[expect(clippy::type_complexity, reason = "a name for it would not make it simpler")]
fn with_entries(
    left: &[(String, Owned)],
    made: &[(&str, Value<'_>)],
    f: &mut dyn FnMut(&[(&str, Value<'_>)]),
) {
    match left.split_first() {
        None => f(made),
        Some(((key, first), left)) => first.with(&mut |value| {
            let made: Vec<(&str, Value<'_>)> = made.iter().copied().chain([(&**key, value)]).collect();
            with_entries(left, &made, f);
        }),
    }
}

#[expect(clippy::type_complexity, reason = "as above")]
fn with_attributes(
    left: &[(String, Owned)],
    made: &[(Key<'_>, Value<'_>)],
    f: &mut dyn FnMut(&[(Key<'_>, Value<'_>)]),
) {
    match left.split_first() {
        None => f(made),
        Some(((key, first), left)) => first.with(&mut |value| {
            let made: Vec<(Key<'_>, Value<'_>)> =
                made.iter().copied().chain([(Key::new(key), value)]).collect();
            with_attributes(left, &made, f);
        }),
    }
}

/// The beginning of a text, in whole characters.
fn cut_bytes(text: &str, max: usize) -> &str {
    (0..=max.min(text.len())).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}
