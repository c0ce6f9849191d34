//! The text of a header line, checked once, and from then on sent without another look at it and without a copy.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;

use super::SpanContext;
use super::plain::Plain;
use crate::propagation::trace_context;

/// Visible ASCII and spaces; shared by all who hold it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Text(Bytes);

impl Text {
    #[inline]
    pub(crate) const fn empty() -> Self {
        Self(Bytes::new())
    }

    /// These bytes, which a grammar has let pass; nothing, if there is one among them that no header may have.
    ///
    /// It allocates only if the capacity is not the length.
    #[inline]
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        debug_assert!(is_visible(&bytes), "every grammar's text is visible");
        Self::checked(Bytes::from(bytes)).unwrap_or_default()
    }

    /// A copy of a list that is plain, and so visible.
    #[inline]
    pub(crate) fn of_plain(list: Plain<'_>) -> Self {
        Self(Bytes::copy_from_slice(list.as_bytes()))
    }

    /// A header that consists of hex digits and dashes.
    #[inline]
    pub(crate) fn of_traceparent(span: SpanContext) -> Self {
        Self(Bytes::from(trace_context::kept(span)))
    }

    #[inline]
    fn checked(bytes: Bytes) -> Option<Self> {
        is_visible(&bytes).then_some(Self(bytes))
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(crate) fn as_str(&self) -> &str {
        // SAFETY: nothing but `checked`, `of_plain` and `of_traceparent` makes a text that is not empty; somebody has looked at
        // each byte, or made it, and `Bytes` never change. What is visible is ASCII, and so UTF-8. Checking it at each look took
        // 60 instructions.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }

    /// The text as the value of a header.
    #[inline]
    pub(crate) fn into_header_value(self) -> HeaderValue {
        // SAFETY: as in `as_str`; `HeaderValue::from_bytes` lets pass whatever is visible, or a space. To have it look at each
        // byte again took 110 instructions a header.
        unsafe { HeaderValue::from_maybe_shared_unchecked(self.0) }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Whether each byte is visible ASCII or a space: 0x20 to 0x7e.
///
/// Eight at a time; where the last eight overlap those before them, some are looked at twice.
#[inline]
fn is_visible(bytes: &[u8]) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    match bytes.last_chunk::<8>() {
        Some(last) => words.iter().fold(invisible(*last), |bad, word| bad | invisible(*word)) == 0,
        None => bytes.iter().all(|byte| matches!(byte, 0x20..=0x7e)),
    }
}

/// Zero exactly if each byte is in 0x20 to 0x7e.
#[inline]
const fn invisible(bytes: [u8; 8]) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let word = u64::from_ne_bytes(bytes);
    // Only 0xff carries into its neighbour, and is bad by itself.
    let high = (word | word.wrapping_add(each(0x01))) & each(0x80);
    // Of the first 32 characters, neither bit 5 nor bit 6 is set.
    let low = !(word | word << 1) & each(0x40);
    high | low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_visible_ascii_at_every_place() {
        for len in 1..20 {
            for place in 0..len {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'a'; len];
                    bytes[place] = byte;
                    let visible = matches!(byte, 0x20..=0x7e);
                    assert_eq!(is_visible(&bytes), visible, "{byte:#x} at {place} of {len}");
                    assert_eq!(Text::checked(Bytes::copy_from_slice(&bytes)).is_some(), visible);
                }
            }
        }
        assert!(is_visible(b""));
    }

    #[test]
    fn a_text_is_a_header_value_as_http_has_it() {
        let all: Vec<u8> = (0x20..=0x7e).collect();
        let text = Text::new(all.clone());
        assert_eq!(text.as_str().as_bytes(), all);
        assert_eq!(text.into_header_value(), HeaderValue::from_bytes(&all).unwrap());
    }
}
