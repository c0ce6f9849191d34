//! A span while it lives: the fields of an OTLP `Span`, encoded as they are set.
//!
//! Protobuf allows fields in any order, so an attribute is appended the moment it is set, and nothing is left to do at
//! the end but the time, the status and the counts. An index of where attributes begin finds a key that is set again;
//! its old field is taken out, because a backend may show either of two.
//!
//! Every text is cut and every count limited here; nobody downstream has to.

use std::fmt;

use super::{Key, Link, SpanKind, SpanLimits, StatusCode, Value};
use crate::context::SpanContext;
use crate::export::chunk::SPAN_BYTES_MAX;
use crate::export::queue::Queue;
use crate::otlp::encode::{
    SHORT, SHORT_HEADS, cut, key_value_len, len_field_len, put_formatted, put_head, put_key_value,
    put_short_key_value,
};
use crate::otlp::wire::{fixed32_tag, fixed64_tag, len_tag, put_varint, varint_tag};
use crate::{SpanId, TraceId};

/// `Span`'s fields.
const TRACE_ID: u8 = len_tag(1);
const SPAN_ID: u8 = len_tag(2);
const TRACE_STATE: u8 = len_tag(3);
const PARENT_SPAN_ID: u8 = len_tag(4);
const NAME: u8 = len_tag(5);
const KIND: u8 = varint_tag(6);
const START_TIME: u8 = fixed64_tag(7);
const END_TIME: u8 = fixed64_tag(8);
const ATTRIBUTES: u8 = len_tag(9);
const DROPPED_ATTRIBUTES: u8 = varint_tag(10);
const EVENTS: u8 = len_tag(11);
const DROPPED_EVENTS: u8 = varint_tag(12);
const LINKS: u8 = len_tag(13);
const DROPPED_LINKS: u8 = varint_tag(14);
const STATUS: u8 = len_tag(15);
/// Field 16: its tag takes two bytes.
const FLAGS: [u8; 2] = [0x85, 0x01];

/// `Event`'s fields.
const EVENT_TIME: u8 = fixed64_tag(1);
const EVENT_NAME: u8 = len_tag(2);
const EVENT_ATTRIBUTES: u8 = len_tag(3);
const EVENT_DROPPED_ATTRIBUTES: u8 = varint_tag(4);

/// `Link`'s fields.
const LINK_TRACE_ID: u8 = len_tag(1);
const LINK_SPAN_ID: u8 = len_tag(2);
const LINK_TRACE_STATE: u8 = len_tag(3);
const LINK_ATTRIBUTES: u8 = len_tag(4);
const LINK_DROPPED_ATTRIBUTES: u8 = varint_tag(5);
const LINK_FLAGS: u8 = fixed32_tag(6);

/// `Status`'s fields.
const STATUS_MESSAGE: u8 = len_tag(2);
const STATUS_CODE: u8 = varint_tag(3);

/// OTLP's flags: whether it is known that the parent (of a span) or the target (of a link) lies in another process,
/// and whether it does.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// What the end of a span may add beside the message of its status, so that there is always room for it: the time, the
/// counts, and the status with its lengths.
const END_BYTES: usize = 9 + 3 * 6 + 8;

/// The longest status message, in bytes: a sentence for a person, not a dump.
const STATUS_MESSAGE_BYTES: usize = 1024;

/// The longest name, in bytes.
const NAME_BYTES: usize = 1024;

/// The longest tracestate that is exported with a span, in bytes: what the W3C has every participant pass on is 512.
const TRACE_STATE_BYTES: usize = 8 * 1024;

/// What a new recorder has room for: a span with the fifteen attributes of an HTTP request.
const BYTES: usize = 1024;
const ENTRIES: usize = 24;

/// A recorder that grew beyond this gives the memory back when its span ends.
const POOLED_BYTES_MAX: usize = 4 * BYTES;

/// What is fixed when a span starts.
pub(crate) struct Start<'a> {
    pub(crate) context: &'a SpanContext,
    pub(crate) parent: Option<&'a SpanContext>,
    pub(crate) trace_state: &'a str,
    pub(crate) name: &'a str,
    pub(crate) kind: SpanKind,
    pub(crate) unix_nanos: u64,
}

pub(crate) struct Recorder {
    bytes: Vec<u8>,
    attributes: Vec<Entry>,
    /// How many attributes there may be without more memory, and with it.
    attributes_room: usize,
    attributes_max: usize,
    /// The most characters of a text.
    length_max: usize,
    /// Which of the known keys are set.
    known: u64,
    /// Whether any attribute was set by a name instead of a known key: then a known key may be set without its bit.
    by_name: bool,
    name: Entry,
    start_unix_nanos: u64,
    status: StatusCode,
    status_message: String,
    dropped_attributes: u32,
    events: u32,
    dropped_events: u32,
    links: u32,
    dropped_links: u32,
    ended: bool,
}

/// Where a field of the span begins, and a hint of which it is.
#[derive(Clone, Copy, Default)]
struct Entry {
    start: u32,
    fingerprint: u32,
}

impl Recorder {
    /// The memory of a new recorder beside the structure itself, in bytes.
    pub(crate) const HEAP: usize = BYTES + ENTRIES * size_of::<Entry>();

    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(BYTES),
            attributes: Vec::with_capacity(ENTRIES),
            attributes_room: 0,
            attributes_max: 0,
            length_max: 0,
            known: 0,
            by_name: false,
            name: Entry::default(),
            start_unix_nanos: 0,
            status: StatusCode::Unset,
            status_message: String::new(),
            dropped_attributes: 0,
            events: 0,
            dropped_events: 0,
            links: 0,
            dropped_links: 0,
            ended: false,
        }
    }

    /// The memory beside the structure itself, in bytes.
    pub(crate) fn heap(&self) -> usize {
        self.bytes.capacity() + self.attributes.capacity() * size_of::<Entry>()
    }

    /// Makes a used recorder as new, and tells how many bytes of memory it gave back.
    pub(crate) fn reset(&mut self) -> usize {
        let before = self.heap();
        self.bytes.clear();
        self.attributes.clear();
        if self.bytes.capacity() > POOLED_BYTES_MAX {
            self.bytes.shrink_to(BYTES);
        }
        if self.attributes.capacity() > 4 * ENTRIES {
            self.attributes.shrink_to(ENTRIES);
        }
        if self.status_message.capacity() > 0 {
            self.status_message = String::new();
        }
        self.known = 0;
        self.by_name = false;
        self.status = StatusCode::Unset;
        self.dropped_attributes = 0;
        self.events = 0;
        self.dropped_events = 0;
        self.links = 0;
        self.dropped_links = 0;
        self.ended = false;
        before - self.heap()
    }

    pub(crate) fn start(&mut self, queue: &Queue, limits: &SpanLimits, start: &Start<'_>) {
        self.attributes_max = limits.attribute_count;
        self.attributes_room = self.attributes.capacity().min(limits.attribute_count);
        self.length_max = limits.attribute_value_length.unwrap_or(usize::MAX);
        let mut head = Head::new();
        head.put(&[TRACE_ID, 16]);
        head.put(&start.context.trace_id().to_bytes());
        head.put(&[SPAN_ID, 8]);
        head.put(&start.context.span_id().to_bytes());
        let mut flags = u32::from(start.context.flags().as_u8());
        if let Some(parent) = start.parent {
            head.put(&[PARENT_SPAN_ID, 8]);
            head.put(&parent.span_id().to_bytes());
            flags |= HAS_IS_REMOTE | if parent.is_remote() { IS_REMOTE } else { 0 };
        }
        head.put(&[KIND, start.kind as u8, START_TIME]);
        head.put(&start.unix_nanos.to_le_bytes());
        head.put(&FLAGS);
        head.put(&flags.to_le_bytes());
        self.bytes.extend_from_slice(head.bytes());
        self.start_unix_nanos = start.unix_nanos;
        self.put_name(queue, start.name);
        let trace_state = start.trace_state;
        if !trace_state.is_empty()
            && trace_state.len() <= TRACE_STATE_BYTES
            && self.reserve(queue, len_field_len(trace_state.len()))
        {
            put_head(&mut self.bytes, TRACE_STATE, trace_state.len());
            self.bytes.extend_from_slice(trace_state.as_bytes());
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn set_name(&mut self, queue: &Queue, name: &str) {
        self.remove(self.name.start as usize);
        self.put_name(queue, name);
    }

    fn put_name(&mut self, queue: &Queue, name: &str) {
        let name = cut_bytes(name, NAME_BYTES);
        let name = if self.reserve(queue, len_field_len(name.len())) { name } else { "" };
        self.name.start = self.here();
        // The capacity of every recorder has room for an empty name.
        put_head(&mut self.bytes, NAME, name.len());
        self.bytes.extend_from_slice(name.as_bytes());
    }

    /// Sets an attribute. What is nearly always so (a key of the conventions that is not set yet, and a short value) is
    /// inlined where the key is a constant, so that its copy folds into a few moves; all else is a call.
    #[inline(always)]
    pub(crate) fn set_attribute(&mut self, queue: &Queue, key: Key<'_>, value: Value<'_>) {
        if let Some(known) = key.known_as() {
            let first = self.known & known.bit() == 0 && !self.by_name;
            if first && self.attributes.len() < self.attributes_room && self.put_short(key.as_str(), value) {
                self.known |= known.bit();
                return;
            }
        }
        self.set_any_attribute(queue, key, value);
    }

    /// Appends an attribute with a short key and value, if there is room as it is.
    #[inline(always)]
    fn put_short(&mut self, key: &str, value: Value<'_>) -> bool {
        let value = match value {
            Value::Str(text) if text.len() <= SHORT.min(self.length_max) => Value::Str(text),
            Value::I64(_) | Value::Bool(_) => value,
            _ => return false,
        };
        if !self.has_room(SHORT_HEADS + key.len() + SHORT) {
            return false;
        }
        let entry = Entry { start: self.here(), fingerprint: fingerprint(key) };
        put_short_key_value(&mut self.bytes, ATTRIBUTES, key, &value);
        self.attributes.push(entry);
        true
    }

    #[inline(never)]
    fn set_any_attribute(&mut self, queue: &Queue, key: Key<'_>, value: Value<'_>) {
        let name = key.as_str();
        if !self.attributes.is_empty() {
            self.remove_attribute(name);
        }
        let may_have_another = self.attributes.len() < self.attributes_room || self.grow_attributes(queue);
        if !may_have_another || name.is_empty() {
            self.dropped_attributes += 1;
            return;
        }
        if !(name.len() <= SHORT && self.put_short(name, value)) {
            let start = self.here();
            if !self.put_attribute(queue, name, &value) {
                self.dropped_attributes += 1;
                return;
            }
            self.attributes.push(Entry { start, fingerprint: fingerprint(name) });
        }
        match key.known_as() {
            Some(known) => self.known |= known.bit(),
            None => self.by_name = true,
        }
    }

    /// Makes room for more entries, up to the most that the span may have.
    #[cold]
    fn grow_attributes(&mut self, queue: &Queue) -> bool {
        let more =
            self.attributes.capacity().min(self.attributes_max.saturating_sub(self.attributes.capacity()));
        if more == 0 || !queue.grow_live(more * size_of::<Entry>()) {
            return false;
        }
        self.attributes.reserve_exact(self.attributes.capacity() - self.attributes.len() + more);
        self.attributes_room = self.attributes.capacity().min(self.attributes_max);
        true
    }

    #[inline(never)]
    fn put_attribute(&mut self, queue: &Queue, key: &str, value: &Value<'_>) -> bool {
        let length_max = self.length_max;
        if let Value::Format(text) = value {
            return self.put_formatted_attribute(queue, ATTRIBUTES, key, *text, length_max);
        }
        if !self.reserve(queue, key_value_len(key, value, length_max)) {
            return false;
        }
        put_key_value(&mut self.bytes, ATTRIBUTES, key, value, length_max);
        true
    }

    fn put_formatted_attribute(
        &mut self,
        queue: &Queue,
        tag: u8,
        key: &str,
        text: &dyn fmt::Display,
        length_max: usize,
    ) -> bool {
        // How long the text will be is not known: what is reserved before bounds it, and what memory the formatting
        // made the buffer take is accounted for after.
        let room = SPAN_BYTES_MAX.saturating_sub(self.bytes.len() + self.end_bytes());
        let before = self.bytes.capacity();
        let put = put_formatted(&mut self.bytes, tag, key, text, length_max, room);
        let grown = self.bytes.capacity() - before;
        if grown > 0 {
            queue.grow_live_beyond(grown);
        }
        put
    }

    pub(crate) fn add_event(
        &mut self,
        queue: &Queue,
        limits: &SpanLimits,
        unix_nanos: u64,
        name: &str,
        attributes: &[(Key<'_>, Value<'_>)],
    ) {
        if self.events as usize >= limits.event_count {
            self.dropped_events += 1;
            return;
        }
        let name = cut_bytes(name, NAME_BYTES);
        let head = 9 + len_field_len(name.len());
        let count_max = limits.event_attribute_count;
        let put = self.put_message(
            queue,
            EVENTS,
            head,
            attributes,
            EVENT_ATTRIBUTES,
            count_max,
            limits,
            |out, dropped| {
                out.push(EVENT_TIME);
                out.extend_from_slice(&unix_nanos.to_le_bytes());
                put_head(out, EVENT_NAME, name.len());
                out.extend_from_slice(name.as_bytes());
                (EVENT_DROPPED_ATTRIBUTES, dropped)
            },
        );
        if put {
            self.events += 1;
        } else {
            self.dropped_events += 1;
        }
    }

    pub(crate) fn add_link(&mut self, queue: &Queue, limits: &SpanLimits, link: &Link<'_>) {
        if self.links as usize >= limits.link_count {
            self.dropped_links += 1;
            return;
        }
        let trace_state = if link.trace_state.len() <= TRACE_STATE_BYTES { link.trace_state } else { "" };
        let context = link.context;
        let head = 18 + 10 + 5 + if trace_state.is_empty() { 0 } else { len_field_len(trace_state.len()) };
        let count_max = limits.link_attribute_count;
        let attributes = link.attributes;
        let put = self.put_message(
            queue,
            LINKS,
            head,
            attributes,
            LINK_ATTRIBUTES,
            count_max,
            limits,
            |out, dropped| {
                put_ids(out, context.trace_id(), context.span_id());
                if !trace_state.is_empty() {
                    put_head(out, LINK_TRACE_STATE, trace_state.len());
                    out.extend_from_slice(trace_state.as_bytes());
                }
                let remote = HAS_IS_REMOTE | if context.is_remote() { IS_REMOTE } else { 0 };
                out.push(LINK_FLAGS);
                out.extend_from_slice(&(u32::from(context.flags().as_u8()) | remote).to_le_bytes());
                (LINK_DROPPED_ATTRIBUTES, dropped)
            },
        );
        if put {
            self.links += 1;
        } else {
            self.dropped_links += 1;
        }
    }

    /// Appends an event or a link: what is its own takes `head` bytes, then its attributes follow.
    #[expect(clippy::too_many_arguments, reason = "two callers, and no two arguments belong together")]
    fn put_message(
        &mut self,
        queue: &Queue,
        tag: u8,
        head: usize,
        attributes: &[(Key<'_>, Value<'_>)],
        attributes_tag: u8,
        count_max: usize,
        limits: &SpanLimits,
        put_own: impl FnOnce(&mut Vec<u8>, u32) -> (u8, u32),
    ) -> bool {
        let kept = &attributes[..attributes.len().min(count_max)];
        let dropped = u32::try_from(attributes.len() - kept.len()).unwrap_or(u32::MAX);
        let length_max = limits.attribute_value_length.unwrap_or(usize::MAX);
        // Formatted texts have no length before they are made: here they are made once, into a string.
        let texts: Vec<(usize, String)> = kept
            .iter()
            .enumerate()
            .filter_map(|(i, (_, value))| match value {
                Value::Format(text) => Some((i, text.to_string())),
                _ => None,
            })
            .collect();
        let value = |i: usize| match texts.iter().find(|(at, _)| *at == i) {
            Some((_, text)) => Value::Str(text),
            None => kept[i].1,
        };
        let attributes_len: usize =
            (0..kept.len()).map(|i| key_value_len(kept[i].0.as_str(), &value(i), length_max)).sum();
        let dropped_len =
            if dropped == 0 { 0 } else { 1 + crate::otlp::wire::varint_len(u64::from(dropped)) };
        let content = head + attributes_len + dropped_len;
        if !self.reserve(queue, len_field_len(content)) {
            return false;
        }
        put_head(&mut self.bytes, tag, content);
        let end = self.bytes.len() + content;
        let (dropped_tag, dropped) = put_own(&mut self.bytes, dropped);
        for (i, (key, _)) in kept.iter().enumerate() {
            put_key_value(&mut self.bytes, attributes_tag, key.as_str(), &value(i), length_max);
        }
        if dropped > 0 {
            self.bytes.push(dropped_tag);
            put_varint(&mut self.bytes, u64::from(dropped));
        }
        debug_assert_eq!(self.bytes.len(), end, "measured and written lengths agree");
        true
    }

    /// By the rules of the trace API: `Ok` is final, `Unset` is no news, and a message belongs to an error alone.
    pub(crate) fn set_status(&mut self, queue: &Queue, status: StatusCode, message: &str) {
        if self.status == StatusCode::Ok || status == StatusCode::Unset {
            return;
        }
        self.status = status;
        self.status_message.clear();
        if status == StatusCode::Error && !message.is_empty() {
            let message = cut_bytes(message, STATUS_MESSAGE_BYTES);
            if self.reserve(queue, message.len()) {
                self.status_message.push_str(message);
            }
        }
    }

    /// The span as it is encoded so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes what is known only at the end.
    pub(crate) fn end(&mut self, unix_nanos: u64) {
        self.ended = true;
        // Always within the capacity: `reserve` keeps the room for it.
        let out = &mut self.bytes;
        out.push(END_TIME);
        out.extend_from_slice(&unix_nanos.max(self.start_unix_nanos).to_le_bytes());
        for (tag, count) in [
            (DROPPED_ATTRIBUTES, self.dropped_attributes),
            (DROPPED_EVENTS, self.dropped_events),
            (DROPPED_LINKS, self.dropped_links),
        ] {
            if count > 0 {
                out.push(tag);
                put_varint(out, u64::from(count));
            }
        }
        if self.status != StatusCode::Unset {
            let message = match self.status_message.len() {
                0 => 0,
                len => len_field_len(len),
            };
            put_head(out, STATUS, message + 2);
            if message > 0 {
                put_head(out, STATUS_MESSAGE, self.status_message.len());
                out.extend_from_slice(self.status_message.as_bytes());
            }
            out.extend_from_slice(&[STATUS_CODE, self.status as u8]);
        }
    }

    #[inline(always)]
    fn here(&self) -> u32 {
        // A span is at most `SPAN_BYTES_MAX` bytes.
        self.bytes.len() as u32
    }

    /// Makes room for `bytes` more, and for what the end adds; `false` when the span may not have so much.
    #[inline]
    fn reserve(&mut self, queue: &Queue, bytes: usize) -> bool {
        self.has_room(bytes) || self.grow(queue, bytes)
    }

    #[inline(always)]
    fn has_room(&self, bytes: usize) -> bool {
        bytes + self.end_bytes() <= self.bytes.capacity() - self.bytes.len()
    }

    /// The room to keep for what the end adds.
    #[inline(always)]
    fn end_bytes(&self) -> usize {
        END_BYTES + self.status_message.len()
    }

    #[cold]
    fn grow(&mut self, queue: &Queue, bytes: usize) -> bool {
        let needed = self.bytes.len().saturating_add(bytes).saturating_add(self.end_bytes());
        if needed > SPAN_BYTES_MAX {
            return false;
        }
        let capacity = needed.next_power_of_two().min(SPAN_BYTES_MAX);
        let more = capacity - self.bytes.capacity();
        if !queue.grow_live(more) {
            return false;
        }
        self.bytes.reserve_exact(capacity - self.bytes.len());
        true
    }

    /// Takes out the attribute with this key, if there is one.
    #[inline(never)]
    fn remove_attribute(&mut self, key: &str) {
        let fingerprint = fingerprint(key);
        let same = |entry: &Entry| {
            entry.fingerprint == fingerprint && self.key_at(entry.start as usize) == key.as_bytes()
        };
        if let Some(index) = self.attributes.iter().position(same) {
            let entry = self.attributes.remove(index);
            self.remove(entry.start as usize);
        }
    }

    /// The key of the attribute whose field begins here.
    fn key_at(&self, start: usize) -> &[u8] {
        let (_, content) = field_at(&self.bytes[start..]);
        let (_, key) = field_at(content);
        key
    }

    /// Takes out the length-delimited field that begins here.
    fn remove(&mut self, start: usize) {
        let (len, _) = field_at(&self.bytes[start..]);
        self.bytes.drain(start..start + len);
        let moved = self.attributes.iter_mut().chain([&mut self.name]);
        for entry in moved.filter(|entry| entry.start as usize > start) {
            entry.start -= len as u32;
        }
    }
}

/// The whole length and the content of the length-delimited field that begins here; ours, so well formed.
fn field_at(bytes: &[u8]) -> (usize, &[u8]) {
    let mut len = 0usize;
    let mut at = 1;
    loop {
        let byte = bytes[at];
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte < 0x80 {
            return (at + len, &bytes[at..at + len]);
        }
    }
}

/// Tells most keys apart without a look at their bytes: the length and the last four bytes.
#[inline(always)]
fn fingerprint(key: &str) -> u32 {
    let tail = match key.as_bytes().last_chunk::<4>() {
        Some(tail) => u32::from_le_bytes(*tail),
        None => 0,
    };
    tail.rotate_left(7) ^ key.len() as u32
}

fn put_ids(out: &mut Vec<u8>, trace_id: TraceId, span_id: SpanId) {
    out.extend_from_slice(&[LINK_TRACE_ID, 16]);
    out.extend_from_slice(&trace_id.to_bytes());
    out.extend_from_slice(&[LINK_SPAN_ID, 8]);
    out.extend_from_slice(&span_id.to_bytes());
}

fn cut_bytes(text: &str, bytes_max: usize) -> &str {
    // No character takes less than a byte.
    let text = cut(text, bytes_max);
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The fields of a span that have a fixed size, written at once.
struct Head {
    bytes: [u8; 64],
    len: usize,
}

impl Head {
    fn new() -> Self {
        Self { bytes: [0; 64], len: 0 }
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
