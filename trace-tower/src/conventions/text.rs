//! Texts that are made without allocating.

use std::any::Any;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::ops::Deref;

use http::HeaderValue;
use trace_core::{Span, semconv};

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
pub struct IpText(Letters<45>);

impl IpText {
    /// Writes the address.
    #[inline]
    pub fn new(address: IpAddr) -> Self {
        let mut text = Letters::new();
        match address.to_canonical() {
            // The formatter would take ten times as long as these few digits.
            IpAddr::V4(address) => {
                let [first, rest @ ..] = address.octets();
                text.push_number(first);
                for octet in rest {
                    text.push(b'.');
                    text.push_number(octet);
                }
            }
            IpAddr::V6(address) => {
                // 45 letters are the longest that an address may have.
                let _ = write!(text, "{address}");
            }
        }
        Self(text)
    }
}

impl Deref for IpText {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Adds the `exception` event of a panic, with its message if that may leave the process.
pub fn note_panic(span: &mut Span, panic: &(dyn Any + Send), with_message: bool) {
    let message = with_message.then(|| panic_message(panic)).flatten();
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
        // SAFETY: nothing but `write_str` and `push` writes to `text` or changes `length`; each leaves the first `length`
        // bytes as they were, and adds whole texts, or letters of ASCII, behind them. Checking it again would take longer
        // than making the text, three times a request.
        unsafe { std::str::from_utf8_unchecked(&self.text[..self.length]) }
    }

    /// Appends a letter of ASCII, if there is room.
    #[inline]
    fn push(&mut self, letter: u8) {
        debug_assert!(letter.is_ascii());
        if let Some(at) = self.text.get_mut(self.length) {
            *at = letter & 0x7f;
            self.length += 1;
        }
    }

    /// Appends a number in decimal digits.
    #[inline]
    fn push_number(&mut self, number: u8) {
        if number >= 100 {
            self.push(b'0' + number / 100);
        }
        if number >= 10 {
            self.push(b'0' + number / 10 % 10);
        }
        self.push(b'0' + number % 10);
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
