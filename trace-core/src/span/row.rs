//! The free end of a live span, for short attributes one after the other.
//!
//! Where it goes, where it has to stop and which keys are set is read once for a row of them, and whatever a constant key and
//! its length decide is decided by the compiler. What does not fit here (a long text, a key that is set already or that nobody
//! knows, the last bytes of a buffer) takes the road of
//! [`Recorder::set_attribute`](super::recorder::Recorder::set_attribute).

use std::ptr;

use super::recorder::ATTRIBUTES;
use super::{Key, Value};
use crate::otlp::encode::{INT, KEY, STRING, VALUE};
use crate::otlp::tail::copy;
use crate::otlp::wire::varint_len;

pub(crate) struct Row {
    /// Where the next attribute goes.
    pub(super) at: *mut u8,
    /// The last place at which an attribute still fits, with what the span's end adds; before the span's bytes if there is none.
    pub(super) last: *mut u8,
    /// Which of the known keys are set.
    pub(super) known: u64,
}

/// The most bytes of a message whose length takes one byte.
const ONE_BYTE: usize = 0x7f;

/// What tags and lengths take in such a message, around the key and the text.
const HEADS: usize = 6;

/// What tags and lengths take around the key and a number, and the most that a number takes.
const NUMBER: usize = 5 + 10;

impl Row {
    /// The most bytes of a text, less those of its key.
    pub(super) const TEXT_MAX: usize = ONE_BYTE - HEADS;

    /// The most bytes that an attribute takes here: tag, length, message.
    pub(super) const BYTES_MAX: usize = 2 + ONE_BYTE;

    /// A row that takes nothing.
    pub(super) const NONE: Self =
        Self { at: ptr::without_provenance_mut(1), last: ptr::null_mut(), known: 0 };

    /// Whether this takes no more than [`BYTES_MAX`](Self::BYTES_MAX).
    #[inline(always)]
    pub(super) const fn is_short(key: &str, value: Value<'_>) -> bool {
        match value {
            Value::Str(text) => key.len() + text.len() <= Self::TEXT_MAX,
            Value::I64(_) => key.len() <= ONE_BYTE - NUMBER,
            _ => false,
        }
    }

    /// Writes an attribute, if it is short, its key is known and not set, and there is room.
    ///
    /// # Safety
    /// The memory that the row was made for is still there, and nobody else has written to it.
    #[inline(always)]
    pub(super) unsafe fn put(&mut self, key: Key<'_>, value: Value<'_>) -> bool {
        let Some(known) = key.known_as() else { return false };
        let name = key.as_str();
        if self.known & known.bit() != 0 || !Self::is_short(name, value) || self.at > self.last {
            return false;
        }
        // SAFETY: a short attribute takes `BYTES_MAX` at most, and so many are left up to `last` and beyond it.
        unsafe { self.write(name, value) };
        self.known |= known.bit();
        true
    }

    /// Writes a `KeyValue` as one of the span's attributes. Every length takes one byte.
    ///
    /// # Safety
    /// `BYTES_MAX` bytes may be written, and the attribute [is short](Self::is_short).
    #[inline(always)]
    pub(super) unsafe fn write(&mut self, key: &str, value: Value<'_>) {
        let value_len = match value {
            Value::Str(text) => 2 + text.len(),
            Value::I64(number) => 1 + varint_len(number as u64),
            _ => return,
        };
        // SAFETY: the caller vouches for all that is written here.
        unsafe {
            self.array([ATTRIBUTES, (4 + key.len() + value_len) as u8, KEY, key.len() as u8]);
            self.bytes(key.as_bytes());
            match value {
                Value::Str(text) => {
                    self.array([VALUE, value_len as u8, STRING, text.len() as u8]);
                    self.bytes(text.as_bytes());
                }
                Value::I64(number) => {
                    self.array([VALUE, value_len as u8, INT]);
                    self.varint(number as u64);
                }
                _ => {}
            }
        }
    }

    /// # Safety
    /// `N` bytes may be written.
    #[inline(always)]
    unsafe fn array<const N: usize>(&mut self, bytes: [u8; N]) {
        // SAFETY: by the caller's promise; an array of bytes has no alignment.
        unsafe {
            self.at.cast::<[u8; N]>().write(bytes);
            self.at = self.at.add(N);
        }
    }

    /// # Safety
    /// As many bytes may be written as there are.
    #[inline(always)]
    unsafe fn bytes(&mut self, bytes: &[u8]) {
        // SAFETY: by the caller's promise; a span's memory is no part of what is written to it.
        unsafe {
            copy(bytes, self.at);
            self.at = self.at.add(bytes.len());
        }
    }

    /// # Safety
    /// Ten bytes may be written.
    #[inline(always)]
    unsafe fn varint(&mut self, mut value: u64) {
        // SAFETY: by the caller's promise: 64 bits are ten times seven at most.
        unsafe {
            while value >= 0x80 {
                self.array([value as u8 | 0x80]);
                value >>= 7;
            }
            self.array([value as u8]);
        }
    }
}
