//! Texts that are made without allocating.

use std::any::Any;
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use http::HeaderValue;
use trace_core::{Attributes, Key, Span, display, semconv};

/// Whether bytes are ASCII, by sixteen at a time, of which the last may overlap those before: the standard library looks at
/// what is left of a multiple one by one.
#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    const HIGH_BITS: u128 = u128::from_ne_bytes([0x80; 16]);
    let Some(last) = bytes.last_chunk() else { return bytes.is_ascii() };
    let (chunks, _) = bytes.as_chunks();
    let all = chunks.iter().fold(u128::from_ne_bytes(*last), |all, chunk| all | u128::from_ne_bytes(*chunk));
    all & HIGH_BITS == 0
}

/// Bytes as text, if they are. Nearly all are ASCII.
#[inline]
fn as_text(bytes: &[u8]) -> Option<&str> {
    if is_ascii(bytes) {
        // SAFETY: ASCII is UTF-8.
        return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    std::str::from_utf8(bytes).ok()
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

/// An IP address as text; one of IPv4 that came in IPv6's clothes is shown without them.
#[derive(Clone, Copy)]
pub struct IpText(Letters<48>);

impl IpText {
    /// Writes the address.
    #[inline]
    pub fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::v4(address),
            IpAddr::V6(address) => Self::v6(address),
        }
    }

    /// The formatter would take twenty times as long as these few digits. They come together in a register: memory that is written
    /// digit by digit, and read as a whole then, is waited for.
    #[inline(always)]
    fn v4(address: Ipv4Addr) -> Self {
        let (mut all, mut length) = (0u128, 0);
        for octet in address.octets() {
            let Octet { digits, length: more } = OCTETS[usize::from(octet)];
            all |= u128::from(u32::from_le_bytes(digits)) << (8 * length);
            length += u32::from(more);
        }
        let mut text = [0; 48];
        text[..16].copy_from_slice(&all.to_le_bytes());
        // Without the last full stop.
        Self(Letters { text, length: length as usize - 1 })
    }

    #[inline(never)]
    fn v6(address: Ipv6Addr) -> Self {
        let mut text = Letters::new();
        // 45 letters are the longest that an address may have.
        let _ = write!(text, "{address}");
        Self(text)
    }
}

impl Deref for IpText {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A part of an IPv4 address, with a full stop behind it, and zeros behind that.
#[derive(Clone, Copy)]
struct Octet {
    digits: [u8; 4],
    /// Of the digits and the full stop.
    length: u8,
}

static OCTETS: [Octet; 256] = {
    let mut octets = [Octet { digits: *b"0.\0\0", length: 2 }; 256];
    let mut octet = 0;
    while octet < 256 {
        let hundreds = b'0' + (octet / 100) as u8;
        let (tens, ones) = (b'0' + (octet / 10 % 10) as u8, b'0' + (octet % 10) as u8);
        octets[octet] = match octet {
            0..10 => Octet { digits: [ones, b'.', 0, 0], length: 2 },
            10..100 => Octet { digits: [tens, ones, b'.', 0], length: 3 },
            _ => Octet { digits: [hundreds, tens, ones, b'.'], length: 4 },
        };
        octet += 1;
    }
    octets
};

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
    /// The first `length` bytes are UTF-8: whole texts and letters of ASCII are all that is ever written.
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
        // adds whole texts behind them; and an address of IPv4 begins as digits and full stops. Checking it again would take
        // longer than making the text, three times a request.
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
