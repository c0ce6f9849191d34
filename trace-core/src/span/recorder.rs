//! A span while it lives: the fields of an OTLP `Span`, encoded as they are set.
//!
//! Protobuf allows fields in any order, so an attribute is appended the moment it is set, and nothing is left to do at
//! the end but the time, the status and the counts. A key that is set again is found among the bytes, and its old field
//! taken out, because a backend may show either of two; one bit for each key tells nearly always that there is none.
//! Short attributes, which nearly all are, are written through a [`Row`], which lies in registers from one to the next.
//!
//! Every text is cut and every count limited here; nobody downstream has to.

use std::fmt;

use super::attribute::Known;
use super::row::Row;
use super::{Key, Link, SpanKind, SpanLimits, SpanName, StatusCode, Value};
use crate::context::SpanContext;
use crate::export::chunk::SPAN_BYTES_MAX;
use crate::export::queue::Queue;
use crate::otlp::encode::{
    STRING, cut_bytes, key_value_len, len_field_len, put_formatted, put_head, put_key_value,
};
use crate::otlp::tail::Tail;
use crate::otlp::wire::{fixed32_tag, fixed64_tag, len_tag, put_varint, varint_tag};
use crate::{SpanId, TraceId, semconv};

/// `Span`'s fields.
const TRACE_ID: u8 = len_tag(1);
const SPAN_ID: u8 = len_tag(2);
const TRACE_STATE: u8 = len_tag(3);
const PARENT_SPAN_ID: u8 = len_tag(4);
const NAME: u8 = len_tag(5);
const KIND: u8 = varint_tag(6);
const START_TIME: u8 = fixed64_tag(7);
const END_TIME: u8 = fixed64_tag(8);
pub(super) const ATTRIBUTES: u8 = len_tag(9);
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

/// What the end of a span may add, so that there is always room for it: the time, the counts, and a status without message.
const END_BYTES: usize = 9 + 3 * 6 + 4;

/// The longest status message, in bytes: a sentence for a person, not a dump.
const STATUS_MESSAGE_BYTES: usize = 1024;

/// The longest name, in bytes.
const NAME_BYTES: usize = 1024;

/// The longest tracestate that is exported with a span, in bytes: what the W3C has every participant pass on is 512.
const TRACE_STATE_BYTES: usize = 8 * 1024;

/// What a new recorder has room for: a span with the fifteen attributes of an HTTP request.
const BYTES: usize = 1024;

/// A recorder that grew beyond this gives the memory back when its span ends.
const POOLED_BYTES_MAX: usize = 4 * BYTES;

/// The most that the fields of a fixed size take.
const HEAD_BYTES: usize = 18 + 10 + 10 + 2 + 9 + 6;

/// What is fixed when a span starts.
pub(crate) struct Start<'a> {
    pub(crate) context: &'a SpanContext,
    pub(crate) parent: Option<StartBelow>,
    pub(crate) trace_state: &'a str,
    pub(crate) name: SpanName<'a>,
    pub(crate) kind: SpanKind,
    pub(crate) unix_nanos: u64,
}

/// What a span tells of its parent.
#[derive(Clone, Copy)]
pub(crate) struct StartBelow {
    pub(crate) span_id: SpanId,
    pub(crate) is_remote: bool,
}

pub(crate) struct Recorder {
    bytes: Vec<u8>,
    /// Which of the known keys are set.
    known: u64,
    /// How many attributes are set whose keys are not known.
    named: usize,
    /// A bit for each of their keys, the same one for several: a key whose bit is missing is not set.
    named_keys: u64,
    attributes_max: usize,
    /// The most bytes of the span with which a [`Row`] may take one more attribute; 0 where attributes have to be cut or
    /// counted.
    row_end: usize,
    /// The most characters of a text.
    length_max: usize,
    start_unix_nanos: u64,
    /// Where the name's field begins.
    name: u32,
    /// Where the first attribute, event or link begins: from here on all fields are length-delimited.
    rest: u32,
    /// Where the status's field begins, if it has a message; else it is written at the end.
    described: u32,
    counts: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    dropped_attributes: u32,
    events: u32,
    dropped_events: u32,
    links: u32,
    dropped_links: u32,
    status: StatusCode,
    ended: bool,
}

impl Recorder {
    /// The memory of a new recorder beside the structure itself, in bytes.
    pub(crate) const HEAP: usize = BYTES;

    pub(crate) fn new() -> Self {
        Self {
            bytes: in_one_page(),
            known: 0,
            named: 0,
            named_keys: 0,
            attributes_max: 0,
            row_end: 0,
            length_max: 0,
            start_unix_nanos: 0,
            name: 0,
            rest: 0,
            described: 0,
            counts: Counts::default(),
        }
    }

    /// The memory beside the structure itself, in bytes.
    #[inline]
    pub(crate) fn heap(&self) -> usize {
        self.bytes.capacity()
    }

    /// Makes a used recorder as new, and tells how many bytes of memory it gave back.
    #[inline]
    pub(crate) fn reset(&mut self) -> usize {
        let before = self.heap();
        self.bytes.clear();
        self.known = 0;
        self.described = 0;
        self.counts = Counts::default();
        if self.named_keys != 0 || before > POOLED_BYTES_MAX {
            self.forget_named();
        }
        before - self.heap()
    }

    /// Forgets the attributes whose keys are not known, and gives back the memory that the next span will hardly need.
    #[inline(never)]
    fn forget_named(&mut self) {
        self.named = 0;
        self.named_keys = 0;
        if self.heap() > POOLED_BYTES_MAX {
            self.bytes.shrink_to(BYTES);
        }
        self.measure();
    }

    /// Gives up the memory of a span that has ended, and tells how many bytes that were.
    pub(crate) fn release(&mut self) -> usize {
        std::mem::take(&mut self.bytes).capacity()
    }

    pub(crate) fn is_released(&self) -> bool {
        self.bytes.capacity() == 0
    }

    #[inline(always)]
    pub(crate) fn start(&mut self, queue: &Queue, limits: &SpanLimits, start: &Start<'_>) {
        // A recorder stays with its pipeline, whose limits do not change, and so does the end of its rows from one span to the next;
        // there is none in a new recorder.
        if self.row_end == 0 {
            self.limit(limits);
        }
        self.start_unix_nanos = start.unix_nanos;
        let mut flags = u32::from(start.context.flags().as_u8());
        // SAFETY: what follows is counted in `HEAD_BYTES`.
        let mut head = unsafe { Tail::new(&mut self.bytes, HEAD_BYTES) };
        head.array([TRACE_ID, 16]);
        head.array(start.context.trace_id().to_bytes());
        head.array([SPAN_ID, 8]);
        head.array(start.context.span_id().to_bytes());
        if let Some(parent) = start.parent {
            head.array([PARENT_SPAN_ID, 8]);
            head.array(parent.span_id.to_bytes());
            flags |= HAS_IS_REMOTE | if parent.is_remote { IS_REMOTE } else { 0 };
        }
        head.array([KIND, start.kind as u8, START_TIME]);
        head.array(start.unix_nanos.to_le_bytes());
        head.array(FLAGS);
        head.array(flags.to_le_bytes());
        head.finish();
        self.put_name(queue, start.name);
        if !start.trace_state.is_empty() {
            self.put_trace_state(queue, start.trace_state);
        }
        self.rest = self.here();
    }

    #[inline(never)]
    fn limit(&mut self, limits: &SpanLimits) {
        self.attributes_max = limits.attribute_count;
        self.length_max = limits.attribute_value_length.unwrap_or(usize::MAX);
        self.measure();
    }

    #[cold]
    fn put_trace_state(&mut self, queue: &Queue, trace_state: &str) {
        let fits = trace_state.len() <= TRACE_STATE_BYTES;
        if fits && self.reserve(queue, len_field_len(trace_state.len())) {
            put_head(&mut self.bytes, TRACE_STATE, trace_state.len());
            self.bytes.extend_from_slice(trace_state.as_bytes());
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.counts.ended
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.counts.status
    }

    #[inline(never)]
    pub(crate) fn set_name(&mut self, queue: &Queue, name: SpanName<'_>) {
        self.remove(self.name as usize);
        self.put_name(queue, name);
    }

    #[inline(always)]
    fn put_name(&mut self, queue: &Queue, name: SpanName<'_>) {
        self.name = self.here();
        let (operation, target) = name.parts();
        let between = usize::from(!target.is_empty());
        let len = operation.len() + between + target.len();
        if len < 0x80 && self.has_room(2 + len) {
            // SAFETY: two bytes, and the name with the space in it.
            let mut tail = unsafe { Tail::new(&mut self.bytes, 2 + len) };
            tail.array([NAME, len as u8]);
            tail.bytes(operation.as_bytes());
            if between != 0 {
                tail.byte(b' ');
                tail.bytes(target.as_bytes());
            }
            return tail.finish();
        }
        self.put_long_name(queue, name);
    }

    #[cold]
    fn put_long_name(&mut self, queue: &Queue, name: SpanName<'_>) {
        let mut left = NAME_BYTES;
        let pieces = name.pieces().map(|piece| {
            let kept = cut_bytes(piece, left);
            // Nothing comes after what was cut.
            left = if kept.len() < piece.len() { 0 } else { left - kept.len() };
            kept
        });
        let len = pieces.iter().map(|piece| piece.len()).sum();
        // The capacity of every recorder has room for an empty name.
        let len = if self.reserve(queue, len_field_len(len)) { len } else { 0 };
        put_head(&mut self.bytes, NAME, len);
        if len > 0 {
            pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece.as_bytes()));
        }
    }

    /// The free end of the span, for short attributes. Nothing else is to be written before [`commit`](Self::commit).
    #[inline(always)]
    pub(super) fn row(&mut self) -> Row {
        let (len, start) = (self.bytes.len(), self.bytes.as_mut_ptr());
        Row { at: start.wrapping_add(len), last: start.wrapping_add(self.row_end), known: self.known }
    }

    /// Makes what was written to a row part of the span.
    ///
    /// # Safety
    /// The row is this recorder's, made after the last change to it.
    #[inline(always)]
    pub(super) unsafe fn commit(&mut self, row: &Row) {
        self.known = row.known;
        // SAFETY: the row began at the end of the bytes, and up to here it has written all of the spare capacity.
        unsafe { self.bytes.set_len(row.at.offset_from_unsigned(self.bytes.as_ptr())) }
    }

    /// Finds out how far a row goes, after the capacity or what limits it has changed.
    #[inline]
    fn measure(&mut self) {
        // A row neither cuts texts nor counts attributes: there has to be a place for every key that it knows.
        let takes_all = self.length_max >= Row::TEXT_MAX && self.named + Known::MAX <= self.attributes_max;
        let capacity = if takes_all { self.bytes.capacity() } else { 0 };
        self.row_end = capacity.saturating_sub(Row::BYTES_MAX + END_BYTES);
    }

    /// Sets any attribute, by any key.
    pub(crate) fn set_attribute(&mut self, queue: &Queue, key: Key<'_>, value: Value<'_>) {
        let name = key.as_str();
        match key.known_as().or_else(|| semconv::find(name)) {
            Some(known) => {
                if self.known & known.bit() != 0 && self.remove_attribute(name) {
                    self.known &= !known.bit();
                }
                if self.put_attribute(queue, name, value) {
                    self.known |= known.bit();
                }
            }
            None => {
                let bit = key_bit(name);
                if self.named_keys & bit != 0 && self.remove_attribute(name) {
                    self.named -= 1;
                }
                if self.put_attribute(queue, name, value) {
                    self.named_keys |= bit;
                    self.named += 1;
                }
                self.measure();
            }
        }
    }

    /// Appends any attribute, or counts it as dropped if the limits do not allow it.
    fn put_attribute(&mut self, queue: &Queue, key: &str, value: Value<'_>) -> bool {
        let count = self.known.count_ones() as usize + self.named;
        let put = count < self.attributes_max
            && !key.is_empty()
            && (self.put_short_attribute(key, value) || self.put_long_attribute(queue, key, &value));
        if !put {
            self.counts.dropped_attributes = self.counts.dropped_attributes.saturating_add(1);
        }
        put
    }

    fn put_short_attribute(&mut self, key: &str, value: Value<'_>) -> bool {
        let fits =
            Row::is_short(key, value) && self.length_max >= Row::TEXT_MAX && self.has_room(Row::BYTES_MAX);
        if fits {
            let mut row = self.row();
            // SAFETY: the attribute is short, and there is room for the longest that is.
            unsafe {
                row.write(key, value);
                self.commit(&row);
            }
        }
        fits
    }

    #[inline(never)]
    fn put_long_attribute(&mut self, queue: &Queue, key: &str, value: &Value<'_>) -> bool {
        let length_max = self.length_max;
        if let Value::Format(text) = value {
            return self.put_formatted_attribute(queue, ATTRIBUTES, key, *text, length_max);
        }
        let put = self.reserve(queue, key_value_len(key, value, length_max));
        if put {
            put_key_value(&mut self.bytes, ATTRIBUTES, key, value, length_max);
        }
        put
    }

    fn put_formatted_attribute(
        &mut self,
        queue: &Queue,
        tag: u8,
        key: &str,
        text: &dyn fmt::Display,
        length_max: usize,
    ) -> bool {
        // How long the text will be is not known before it is there: memory is asked for while it comes.
        let mut room = |bytes: &mut Vec<u8>, wanted: usize| {
            let room = |bytes: &Vec<u8>| (bytes.capacity() - bytes.len()).saturating_sub(END_BYTES);
            // As much as is wanted, or as a span may have.
            if room(bytes) < wanted {
                let needed = bytes.len().saturating_add(wanted).saturating_add(END_BYTES);
                grow(bytes, queue, needed.min(SPAN_BYTES_MAX));
            }
            room(bytes)
        };
        let put = put_formatted(&mut self.bytes, tag, key, text, length_max, &mut room);
        self.measure();
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
        if self.counts.events as usize >= limits.event_count {
            self.counts.dropped_events = self.counts.dropped_events.saturating_add(1);
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
            self.counts.events += 1;
        } else {
            self.counts.dropped_events = self.counts.dropped_events.saturating_add(1);
        }
    }

    pub(crate) fn add_link(&mut self, queue: &Queue, limits: &SpanLimits, link: &Link<'_>) {
        if self.counts.links as usize >= limits.link_count {
            self.counts.dropped_links = self.counts.dropped_links.saturating_add(1);
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
            self.counts.links += 1;
        } else {
            self.counts.dropped_links = self.counts.dropped_links.saturating_add(1);
        }
    }

    /// Appends an event or a link: what is its own takes `head` bytes, then its attributes follow, whose texts are made
    /// already ([`Value::Format`] would be empty).
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
        let attributes_len: usize =
            kept.iter().map(|(key, value)| key_value_len(key.as_str(), value, length_max)).sum();
        let dropped_len =
            if dropped == 0 { 0 } else { 1 + crate::otlp::wire::varint_len(u64::from(dropped)) };
        let content = head + attributes_len + dropped_len;
        if !self.reserve(queue, len_field_len(content)) {
            return false;
        }
        put_head(&mut self.bytes, tag, content);
        let end = self.bytes.len() + content;
        let (dropped_tag, dropped) = put_own(&mut self.bytes, dropped);
        for (key, value) in kept {
            put_key_value(&mut self.bytes, attributes_tag, key.as_str(), value, length_max);
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
        if self.counts.status == StatusCode::Ok || status == StatusCode::Unset {
            return;
        }
        self.counts.status = status;
        if self.described != 0 {
            self.remove(self.described as usize);
            self.described = 0;
        }
        if status == StatusCode::Error && !message.is_empty() {
            let message = cut_bytes(message, STATUS_MESSAGE_BYTES);
            let content = len_field_len(message.len()) + 2;
            if self.reserve(queue, len_field_len(content)) {
                self.described = self.here();
                put_head(&mut self.bytes, STATUS, content);
                put_head(&mut self.bytes, STATUS_MESSAGE, message.len());
                self.bytes.extend_from_slice(message.as_bytes());
                self.bytes.extend_from_slice(&[STATUS_CODE, status as u8]);
            }
        }
    }

    /// The span as it is encoded so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes what is known only at the end.
    #[inline]
    pub(crate) fn end(&mut self, unix_nanos: u64) {
        self.counts.ended = true;
        // Always within the capacity: `reserve` keeps the room for it.
        // SAFETY: a tag and eight bytes.
        let mut tail = unsafe { Tail::new(&mut self.bytes, 9) };
        tail.byte(END_TIME);
        tail.array(unix_nanos.max(self.start_unix_nanos).to_le_bytes());
        tail.finish();
        let Counts { dropped_attributes, dropped_events, dropped_links, status, .. } = self.counts;
        if dropped_attributes | dropped_events | dropped_links != 0 || status != StatusCode::Unset {
            self.put_counts_and_status();
        }
    }

    #[inline(never)]
    fn put_counts_and_status(&mut self) {
        let out = &mut self.bytes;
        for (tag, count) in [
            (DROPPED_ATTRIBUTES, self.counts.dropped_attributes),
            (DROPPED_EVENTS, self.counts.dropped_events),
            (DROPPED_LINKS, self.counts.dropped_links),
        ] {
            if count > 0 {
                out.push(tag);
                put_varint(out, u64::from(count));
            }
        }
        if self.counts.status != StatusCode::Unset && self.described == 0 {
            out.extend_from_slice(&[STATUS, 2, STATUS_CODE, self.counts.status as u8]);
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
        bytes + END_BYTES <= self.bytes.capacity() - self.bytes.len()
    }

    #[cold]
    fn grow(&mut self, queue: &Queue, bytes: usize) -> bool {
        let needed = self.bytes.len().saturating_add(bytes).saturating_add(END_BYTES);
        let grown = grow(&mut self.bytes, queue, needed);
        self.measure();
        grown
    }

    /// Takes out the attribute with this key; whether there was one.
    #[inline(never)]
    fn remove_attribute(&mut self, key: &str) -> bool {
        let found = self.find_attribute(key);
        if let Some(at) = found {
            self.remove(at);
        }
        found.is_some()
    }

    /// Where the field of an attribute begins.
    fn find_attribute(&self, key: &str) -> Option<usize> {
        let mut at = self.rest as usize;
        while at < self.bytes.len() {
            let (len, content) = field_at(&self.bytes[at..]);
            if self.bytes[at] == ATTRIBUTES && field_at(content).1 == key.as_bytes() {
                return Some(at);
            }
            at += len;
        }
        None
    }

    /// The text of an attribute, if it is set and its value is one.
    pub(crate) fn attribute_text(&self, key: &str) -> Option<&str> {
        let (_, key_value) = field_at(&self.bytes[self.find_attribute(key)?..]);
        let (key_len, _) = field_at(key_value);
        let (_, value) = field_at(&key_value[key_len..]);
        let text = (*value.first()? == STRING).then(|| field_at(value).1)?;
        std::str::from_utf8(text).ok()
    }

    /// Takes out the length-delimited field that begins here.
    fn remove(&mut self, start: usize) {
        let (len, _) = field_at(&self.bytes[start..]);
        self.bytes.drain(start..start + len);
        for later in [&mut self.name, &mut self.rest, &mut self.described] {
            if *later as usize > start {
                *later -= len as u32;
            }
        }
    }
}

/// The size of a page of memory, or a part of it.
const PAGE: usize = 4096;

/// Memory for a recorder, in one page if the allocator has such memory within two attempts: what is written across the border of two
/// takes as long as a whole attribute, at the same place of every span that has this memory.
fn in_one_page() -> Vec<u8> {
    let bytes = Vec::with_capacity(BYTES);
    // The next one lies elsewhere, as long as the allocator does not have this one back.
    if is_in_one_page(&bytes) { bytes } else { Vec::with_capacity(BYTES) }
}

fn is_in_one_page(bytes: &Vec<u8>) -> bool {
    bytes.as_ptr().addr() % PAGE + bytes.capacity() <= PAGE
}

/// Gives a buffer capacity for `needed` bytes in all, if a span may have so much and there is memory for it.
fn grow(bytes: &mut Vec<u8>, queue: &Queue, needed: usize) -> bool {
    if needed > SPAN_BYTES_MAX {
        return false;
    }
    let capacity = needed.next_power_of_two().min(SPAN_BYTES_MAX);
    let Some(more @ 1..) = capacity.checked_sub(bytes.capacity()) else { return true };
    if !queue.grow_live(more) {
        return false;
    }
    bytes.reserve_exact(capacity - bytes.len());
    true
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

/// A bit that tells most keys apart.
#[inline(always)]
const fn key_bit(key: &str) -> u64 {
    1 << semconv::bucket(key)
}

fn put_ids(out: &mut Vec<u8>, trace_id: TraceId, span_id: SpanId) {
    out.extend_from_slice(&[LINK_TRACE_ID, 16]);
    out.extend_from_slice(&trace_id.to_bytes());
    out.extend_from_slice(&[LINK_SPAN_ID, 8]);
    out.extend_from_slice(&span_id.to_bytes());
}
