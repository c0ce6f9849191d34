//! Attributes as OTLP bytes, written by hand: `KeyValue` and `AnyValue` of
//! `opentelemetry/proto/common/v1/common.proto`.
//!
//! Lengths come before contents in protobuf, so every value is measured and then written. Limits on the length of
//! values are applied on the way, so that measuring and writing see the same text.

use std::fmt::{self, Write};

pub(crate) use super::tail::len_field_len;
use super::wire::{fixed64_tag, len_tag, put_varint, varint_len, varint_tag};
use crate::span::Value;

/// `AnyValue`'s fields.
pub(crate) const STRING: u8 = len_tag(1);
const BOOL: u8 = varint_tag(2);
pub(crate) const INT: u8 = varint_tag(3);
const DOUBLE: u8 = fixed64_tag(4);
const ARRAY: u8 = len_tag(5);
const MAP: u8 = len_tag(6);
const BYTES: u8 = len_tag(7);

/// `KeyValue`'s fields.
pub(crate) const KEY: u8 = len_tag(1);
pub(crate) const VALUE: u8 = len_tag(2);

/// `ArrayValue.values` and `KeyValueList.values`.
const VALUES: u8 = len_tag(1);

/// How deep arrays and maps may lie in each other: readers of protobuf give up at a hundred messages, and a value
/// takes two for each level. What lies deeper is left empty.
const DEPTH_MAX: usize = 16;

/// The bytes of a `KeyValue` field with the given key and value, its own tag and length included.
#[inline]
pub(crate) fn key_value_len(key: &str, value: &Value<'_>, length_max: usize) -> usize {
    let content = len_field_len(key.len()) + len_field_len(value_len(value, length_max, 0));
    len_field_len(content)
}

/// Writes a `KeyValue` as the field `tag`. A [`Value::Format`] is written as empty text: [`put_formatted`] is for it.
#[inline]
pub(crate) fn put_key_value(out: &mut Vec<u8>, tag: u8, key: &str, value: &Value<'_>, length_max: usize) {
    let value_len = value_len(value, length_max, 0);
    put_key(out, tag, key, value_len);
    put_value(out, value, length_max, 0);
}

/// Writes everything of a `KeyValue` that comes before the value, which takes `value_len` bytes.
#[inline]
fn put_key(out: &mut Vec<u8>, tag: u8, key: &str, value_len: usize) {
    let content = len_field_len(key.len()) + len_field_len(value_len);
    put_head(out, tag, content);
    put_head(out, KEY, key.len());
    out.extend_from_slice(key.as_bytes());
    put_head(out, VALUE, value_len);
}

/// The tag and the length of a length-delimited field.
#[inline]
pub(crate) fn put_head(out: &mut Vec<u8>, tag: u8, len: usize) {
    if len < 0x80 {
        // Nearly every field of a span: two bytes at once.
        out.extend_from_slice(&[tag, len as u8]);
    } else {
        out.push(tag);
        put_varint(out, len as u64);
    }
}

#[inline]
fn value_len(value: &Value<'_>, length_max: usize, depth: usize) -> usize {
    match value {
        Value::Str(text) => len_field_len(cut(text, length_max).len()),
        Value::Bool(_) => 2,
        // Negative numbers are their two's complement, ten bytes.
        Value::I64(number) => 1 + varint_len(*number as u64),
        Value::F64(_) => 9,
        _ => rare_value_len(value, length_max, depth),
    }
}

fn rare_value_len(value: &Value<'_>, length_max: usize, depth: usize) -> usize {
    if depth >= DEPTH_MAX {
        return 0;
    }
    let element = |value: Value<'_>| len_field_len(value_len(&value, length_max, depth + 1));
    match value {
        Value::Bytes(bytes) => len_field_len(bytes.len().min(length_max)),
        Value::StrArray(values) => len_field_len(values.iter().map(|v| element(Value::Str(v))).sum()),
        Value::I64Array(values) => len_field_len(values.iter().map(|v| element(Value::I64(*v))).sum()),
        Value::F64Array(values) => len_field_len(values.iter().map(|v| element(Value::F64(*v))).sum()),
        Value::BoolArray(values) => len_field_len(values.iter().map(|v| element(Value::Bool(*v))).sum()),
        Value::Array(values) => len_field_len(values.iter().map(|v| element(*v)).sum()),
        Value::Map(entries) => len_field_len(
            entries
                .iter()
                .map(|(key, value)| {
                    let value = len_field_len(value_len(value, length_max, depth + 1));
                    len_field_len(len_field_len(key.len()) + value)
                })
                .sum(),
        ),
        Value::Format(_) => 2,
        Value::Str(_) | Value::Bool(_) | Value::I64(_) | Value::F64(_) => value_len(value, length_max, depth),
    }
}

#[inline]
fn put_value(out: &mut Vec<u8>, value: &Value<'_>, length_max: usize, depth: usize) {
    match value {
        Value::Str(text) => {
            let text = cut(text, length_max);
            put_head(out, STRING, text.len());
            out.extend_from_slice(text.as_bytes());
        }
        Value::Bool(truth) => out.extend_from_slice(&[BOOL, u8::from(*truth)]),
        Value::I64(number) => {
            out.push(INT);
            put_varint(out, *number as u64);
        }
        Value::F64(number) => {
            out.push(DOUBLE);
            out.extend_from_slice(&number.to_le_bytes());
        }
        _ => put_rare_value(out, value, length_max, depth),
    }
}

fn put_rare_value(out: &mut Vec<u8>, value: &Value<'_>, length_max: usize, depth: usize) {
    if depth >= DEPTH_MAX {
        return;
    }
    match value {
        Value::Bytes(bytes) => {
            let bytes = &bytes[..bytes.len().min(length_max)];
            put_head(out, BYTES, bytes.len());
            out.extend_from_slice(bytes);
        }
        Value::StrArray(values) => put_array(out, values.iter().map(|v| Value::Str(v)), length_max, depth),
        Value::I64Array(values) => put_array(out, values.iter().map(|v| Value::I64(*v)), length_max, depth),
        Value::F64Array(values) => put_array(out, values.iter().map(|v| Value::F64(*v)), length_max, depth),
        Value::BoolArray(values) => put_array(out, values.iter().map(|v| Value::Bool(*v)), length_max, depth),
        Value::Array(values) => put_array(out, values.iter().copied(), length_max, depth),
        Value::Map(entries) => {
            let content = |key: &str, value: usize| len_field_len(key.len()) + len_field_len(value);
            let values =
                entries.iter().map(|(key, value)| (*key, value, value_len(value, length_max, depth + 1)));
            put_head(out, MAP, values.clone().map(|(key, _, len)| len_field_len(content(key, len))).sum());
            for (key, value, len) in values {
                put_key(out, VALUES, key, len);
                put_value(out, value, length_max, depth + 1);
            }
        }
        Value::Format(_) => out.extend_from_slice(&[STRING, 0]),
        Value::Str(_) | Value::Bool(_) | Value::I64(_) | Value::F64(_) => {
            put_value(out, value, length_max, depth);
        }
    }
}

fn put_array<'a>(
    out: &mut Vec<u8>,
    values: impl Iterator<Item = Value<'a>> + Clone,
    length_max: usize,
    depth: usize,
) {
    let len = |value: &Value<'_>| value_len(value, length_max, depth + 1);
    put_head(out, ARRAY, values.clone().map(|value| len_field_len(len(&value))).sum());
    for value in values {
        put_head(out, VALUES, len(&value));
        put_value(out, &value, length_max, depth + 1);
    }
}

/// Writes a `KeyValue` whose text is formatted straight into `out`, and cut at `length_max` characters or where there is
/// no room. `room` is asked for capacity for so many bytes more, and tells how many may be written; `out` is never made
/// larger otherwise, so that whoever gives the capacity can count it. Nothing is left behind when the formatting panics.
pub(crate) fn put_formatted(
    out: &mut Vec<u8>,
    tag: u8,
    key: &str,
    text: &dyn fmt::Display,
    length_max: usize,
    room: &mut dyn FnMut(&mut Vec<u8>, usize) -> usize,
) -> bool {
    /// The most that tags and lengths take, with every length below 2 MiB.
    const HEADS_MAX: usize = 16;
    let heads = key.len().saturating_add(HEADS_MAX);
    let Some(bytes_left) = room(out, heads).checked_sub(heads) else { return false };
    let start = out.len();
    let mut text_out = Cut { start, out, chars_left: length_max, bytes_left, heads, room, done: false };
    // An error means that the text is long enough, or that its own formatting gave up: what came is kept.
    let _ = write!(text_out, "{text}");
    text_out.done = true;
    drop(text_out);
    let len = out.len() - start;
    // The text lies where its head belongs: the head is written behind it, and the two change places.
    put_key(out, tag, key, len_field_len(len));
    put_head(out, STRING, len);
    out[start..].rotate_left(len);
    true
}

/// Takes text up to a number of characters and bytes.
struct Cut<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    chars_left: usize,
    /// What may be written before `room` is asked again.
    bytes_left: usize,
    /// What is to be written after the text.
    heads: usize,
    room: &'a mut dyn FnMut(&mut Vec<u8>, usize) -> usize,
    done: bool,
}

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut taken = cut(text, self.chars_left);
        if taken.len() > self.bytes_left {
            let wanted = taken.len().saturating_add(self.heads);
            self.bytes_left = (self.room)(self.out, wanted).saturating_sub(self.heads);
            taken = cut_bytes(taken, self.bytes_left);
        }
        self.out.extend_from_slice(taken.as_bytes());
        self.bytes_left -= taken.len();
        if self.chars_left != usize::MAX {
            self.chars_left -= taken.chars().count();
        }
        if taken.len() < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.out.truncate(self.start);
        }
    }
}

/// The first `bytes_max` bytes of a text, without the character that they would cut.
pub(crate) fn cut_bytes(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The first `chars_max` characters of a text.
#[inline]
pub(crate) fn cut(text: &str, chars_max: usize) -> &str {
    // A character takes at least a byte.
    if text.len() <= chars_max {
        return text;
    }
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
