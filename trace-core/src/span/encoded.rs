//! Attributes that are the same for many spans, encoded once.

use std::fmt;

use super::row::Row;
use super::{Key, Value};
use crate::otlp::reader::{Payload, Reader};

/// A few short attributes that many spans have with the same values, such as the server's address: encoded once, and copied by
/// [`Attributes::set_encoded`](super::Attributes::set_encoded).
///
/// ```
/// use trace_core::{EncodedAttributes, semconv};
///
/// // Once, for a pool of connections.
/// let mut server = EncodedAttributes::new();
/// assert!(server.add(semconv::SERVER_ADDRESS, "db.internal") && server.add(semconv::SERVER_PORT, 5432));
///
/// // For each query.
/// let mut span = trace_core::span("SELECT orders").start();
/// if let Some(mut attributes) = span.attributes() {
///     attributes.set_encoded(&server);
/// }
/// ```
#[derive(Clone)]
pub struct EncodedAttributes {
    /// The first `len` are encoded attributes.
    halves: [[u8; HALF]; 2],
    len: usize,
    /// Which keys they have.
    known: u64,
}

impl Default for EncodedAttributes {
    fn default() -> Self {
        Self::new()
    }
}

impl EncodedAttributes {
    /// The most bytes that the attributes take, encoded: those of their keys and texts, and ten or so for each.
    pub const BYTES: usize = 256;

    /// No attributes.
    pub const fn new() -> Self {
        Self { halves: [[0; HALF]; 2], len: 0, known: 0 }
    }

    /// Adds an attribute, if its key is one of [`semconv`](crate::semconv)'s that has not been added, its value is a number or a text
    /// of 100 bytes at most, with its key, and there is room for the longest one, which takes half of [all bytes](Self::BYTES).
    /// Else nothing is added, and it is `false`.
    #[must_use = "what is not added is to be set on each span"]
    pub fn add<'a>(&mut self, key: Key<'a>, value: impl Into<Value<'a>>) -> bool {
        let (name, value, mut row) = (key.as_str(), value.into(), self.row());
        let Some(known) = key.known_as().filter(|known| row.takes(*known, name, value)) else { return false };
        // SAFETY: the row takes it; it is of all that is free, and nothing else is written to it meanwhile.
        unsafe { row.put(known, name, value) };
        // SAFETY: the row began in the bytes, and ends in them.
        self.len = unsafe { row.at.offset_from_unsigned(self.halves.as_ptr().cast()) };
        self.known = row.known;
        true
    }

    /// Takes all away.
    pub const fn clear(&mut self) {
        self.len = 0;
        self.known = 0;
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn row(&mut self) -> Row {
        let start = self.halves.as_mut_ptr().cast::<u8>();
        // Up to there a longest one still fits.
        let last = start.wrapping_add(Self::BYTES - Row::BYTES_MAX);
        Row { at: start.wrapping_add(self.len), last, known: self.known }
    }

    /// Which keys are added.
    #[inline(always)]
    pub(super) const fn known(&self) -> u64 {
        self.known
    }

    /// How many of the bytes are attributes.
    #[inline(always)]
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    pub(super) const fn first_half(&self) -> &[u8; HALF] {
        &self.halves[0]
    }

    /// The second half, if attributes go so far.
    #[inline(always)]
    pub(super) fn second_half(&self) -> Option<&[u8; HALF]> {
        (self.len > HALF).then_some(&self.halves[1])
    }

    /// Looks at the attributes one by one.
    pub(super) fn for_each(&self, mut each: impl FnMut(Key<'_>, Value<'_>)) {
        let mut fields = Reader::new(&self.halves.as_flattened()[..self.len]);
        while let Ok(Some((_, Payload::Bytes(attribute)))) = fields.next() {
            let mut attribute = Reader::new(attribute);
            let (Ok(Some((_, Payload::Bytes(key)))), Ok(Some((_, Payload::Bytes(value))))) =
                (attribute.next(), attribute.next())
            else {
                return;
            };
            let value = match Reader::new(value).next() {
                Ok(Some((_, Payload::Bytes(text)))) => {
                    Value::Str(std::str::from_utf8(text).unwrap_or_default())
                }
                Ok(Some((_, Payload::Varint(number)))) => Value::I64(number as i64),
                _ => return,
            };
            each(Key::new(std::str::from_utf8(key).unwrap_or_default()), value);
        }
    }
}

impl fmt::Debug for EncodedAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        self.for_each(|key, value| match value {
            Value::I64(number) => drop(map.entry(&key, &number)),
            Value::Str(text) => drop(map.entry(&key, &text)),
            _ => {}
        });
        map.finish()
    }
}

/// How many bytes are copied at once: for a few attributes that takes less than to look how long they are.
pub(super) const HALF: usize = EncodedAttributes::BYTES / 2;

// Where one more attribute fits into a span, so does a half.
const _: () = assert!(HALF <= Row::BYTES_MAX);
