//! Texts that are made without allocating.

use std::any::Any;
use std::fmt::{self, Write};

use http::HeaderValue;
use trace_core::{Attributes, Key, Span, cold_path, display, semconv};

/// Whether bytes are ASCII, by sixteen at a time, of which the last may overlap those before: the standard library looks at
/// what is left of a multiple one by one.
#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    const HIGH_BITS: u128 = u128::from_ne_bytes([0x80; 16]);
    let Some(last) = bytes.last_chunk() else { return is_short_ascii(bytes) };
    let (chunks, _) = bytes.as_chunks();
    let all = chunks.iter().fold(u128::from_ne_bytes(*last), |all, chunk| all | u128::from_ne_bytes(*chunk));
    all & HIGH_BITS == 0
}

// By a call, because the code is longer than that of the long ones.
#[inline(never)]
fn is_short_ascii(bytes: &[u8]) -> bool {
    bytes.is_ascii()
}

/// Bytes as text, if they are. Nearly all are ASCII.
#[inline]
fn as_text(bytes: &[u8]) -> Option<&str> {
    if is_ascii(bytes) {
        // SAFETY: ASCII is UTF-8.
        return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    cold_path();
    std::str::from_utf8(bytes).ok()
}

/// A header's value, if it is a text.
#[inline]
pub fn header_str(value: &HeaderValue) -> Option<&str> {
    as_text(value.as_bytes())
}

/// A header's value as an attribute of a span: the text that it is, or what [`header_text`] makes of it.
#[inline(always)]
pub fn set_header(attributes: &mut Attributes<'_>, key: Key<'_>, value: &HeaderValue) {
    match as_text(value.as_bytes()) {
        Some(text) => attributes.set(key, text),
        None => attributes.set(key, display(&header_text(value))),
    }
}

/// A header's value as text. A header may hold any bytes, an attribute only Unicode: what is none becomes `�`.
pub fn header_text(value: &HeaderValue) -> impl fmt::Display {
    struct Text<'a>(&'a [u8]);

    impl fmt::Display for Text<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for chunk in self.0.utf8_chunks() {
                f.write_str(chunk.valid())?;
                if !chunk.invalid().is_empty() {
                    f.write_str("\u{fffd}")?;
                }
            }
            Ok(())
        }
    }

    Text(value.as_bytes())
}

/// Adds the `exception` event of a panic, with its message if it is known: see [`Call::wants_panics`](crate::Call::wants_panics).
pub fn note_panic(span: &mut Span, panic: Option<&(dyn Any + Send)>) {
    let message = panic.and_then(panic_message);
    let attributes = [
        (semconv::EXCEPTION_TYPE, "panic".into()),
        (semconv::EXCEPTION_MESSAGE, message.unwrap_or_default().into()),
    ];
    span.add_event("exception", &attributes[..1 + usize::from(message.is_some())]);
}

/// What a panic says, if it was a text.
fn panic_message(panic: &(dyn Any + Send)) -> Option<&str> {
    match panic.downcast_ref::<&'static str>() {
        Some(message) => Some(message),
        None => panic.downcast_ref::<String>().map(String::as_str),
    }
}

/// A short text on the stack. What does not fit whole is an error, and is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Letters<const N: usize> {
    /// The first `length` bytes are UTF-8: whole texts are all that is ever written.
    text: [u8; N],
    length: usize,
}

impl<const N: usize> Letters<N> {
    #[inline]
    pub(super) const fn new() -> Self {
        Self { text: [0; N], length: 0 }
    }

    #[inline]
    pub(super) fn as_str(&self) -> &str {
        // SAFETY: nothing but `write_str` writes to `text` or changes `length`: it leaves the first `length` bytes as they were, and
        // adds whole texts behind them.
        unsafe { std::str::from_utf8_unchecked(&self.text[..self.length]) }
    }
}

impl<const N: usize> Write for Letters<N> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.text.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_is_not_ascii_is_seen_wherever_it_is() {
        for length in 0..70 {
            assert!(is_ascii(&vec![0x7f; length]), "{length}");
            for place in 0..length {
                for byte in [0x80, 0xff] {
                    let mut bytes = vec![b'a'; length];
                    bytes[place] = byte;
                    assert!(!is_ascii(&bytes), "{byte:#x} at {place} of {length}");
                }
            }
        }
    }
}
