//! The free end of a live span, for short attributes one after the other.
//!
//! Where it goes, where it has to stop and which keys are set is read once for a row of them, and whatever a constant key and
//! its length decide is decided by the compiler. What does not fit here (a long text, a key that is set already or that nobody
//! knows, the last bytes of a buffer) takes the road of
//! [`Recorder::set_attribute`](super::recorder::Recorder::set_attribute).

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ptr;

use super::attribute::Known;
use super::encoded::{EncodedAttributes, HALF};
use super::ip::V4Letters;
use super::recorder::ATTRIBUTES;
use super::{Key, Value};
use crate::hint::cold_path;
use crate::otlp::encode::{INT, KEY, STRING, VALUE};
use crate::otlp::tail::copy;
use crate::otlp::wire::varint_len;

#[derive(Clone, Copy)]
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

/// A short text while it is made in the span that it belongs to: see [`Attributes::set_pieces`](super::Attributes::set_pieces).
pub struct Pieces<'a> {
    at: *mut u8,
    end: *mut u8,
    row: PhantomData<&'a mut Row>,
}

impl fmt::Write for Pieces<'_> {
    /// Appends a piece of the text.
    ///
    /// # Errors
    /// If the text would be longer than what is made so; the piece is left out.
    #[inline(always)]
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        // SAFETY: `at` is never beyond `end`, in the same memory.
        let room = unsafe { self.end.offset_from_unsigned(self.at) };
        if piece.len() > room {
            return Err(fmt::Error);
        }
        // SAFETY: there is room for as many bytes; a span's memory is no part of what is written to it.
        unsafe {
            ptr::copy_nonoverlapping(piece.as_ptr(), self.at, piece.len());
            self.at = self.at.add(piece.len());
        }
        Ok(())
    }
}

impl fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pieces")
    }
}

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

    /// Whether an attribute may be [put](Self::put): it is short, its key is not set, and there is room.
    #[inline(always)]
    pub(super) fn takes(&self, known: Known, key: &str, value: Value<'_>) -> bool {
        // All three are asked, so that there is one way to go, and nearly always the same.
        (self.known & known.bit() == 0) & Self::is_short(key, value) & (self.at <= self.last)
    }

    /// Writes an attribute whose key is known.
    ///
    /// # Safety
    /// The row [takes](Self::takes) it; the memory that the row was made for is still there, and nobody else has written to it.
    #[inline(always)]
    pub(super) unsafe fn put(&mut self, known: Known, key: &str, value: Value<'_>) {
        // SAFETY: a short attribute takes `BYTES_MAX` at most, and so many are left up to `last` and beyond it.
        unsafe { self.write(key, value) };
        // Added, because `|` would be written as the one byte that it changes, and who reads all eight then waits for it.
        self.known += known.bit();
    }

    /// Writes some texts, if each is short, no key is set or there twice, all are known, and there is room for all; else nothing, and
    /// it is `false`.
    ///
    /// # Safety
    /// As for [`put_pieces`](Self::put_pieces).
    #[inline(always)]
    pub(super) unsafe fn put_texts<const N: usize>(&mut self, texts: &[(Key<'_>, &str); N]) -> bool {
        let (mut known, mut fits) = (0, true);
        for (key, text) in texts {
            let bit = key.known_as().map_or(0, Known::bit);
            fits &= (bit & !known != 0) & Self::is_short(key.as_str(), Value::Str(text));
            known |= bit;
        }
        // For a row that takes nothing this is beyond its `last` too.
        let last = self.at.wrapping_add(N.saturating_sub(1) * Self::BYTES_MAX);
        if !(fits & (self.known & known == 0) & (last <= self.last)) {
            return false;
        }
        const { assert!(N <= 4, "so many are written") };
        // No loop, so that each is written by what its own key and no other one is.
        let mut put = |place: usize| {
            if let Some((key, text)) = texts.get(place) {
                // SAFETY: each takes `BYTES_MAX` at most, and so many are left for each of them, up to `last` and beyond it.
                unsafe { self.write(key.as_str(), Value::Str(text)) }
            }
        };
        put(0);
        put(1);
        put(2);
        put(3);
        self.known += known;
        true
    }

    /// Writes who is at the other end of a connection, the address under each of its keys, if none is set, it is an address of IPv4 with
    /// a port that takes three bytes, and there is room; else nothing, and it is `false`.
    ///
    /// # Safety
    /// As for [`put_pieces`](Self::put_pieces); the keys are known, and differ.
    #[inline(always)]
    pub(super) unsafe fn put_peer<const N: usize>(
        &mut self,
        addresses: [Key<'_>; N],
        port_key: Key<'_>,
        peer: &SocketAddr,
    ) -> bool {
        /// From here on a number takes three bytes, up to the highest port.
        const LONG: u16 = 1 << 14;
        let bit = |key: Key<'_>| key.known_as().map_or(0, Known::bit);
        let known = addresses.iter().fold(bit(port_key), |known, key| known | bit(*key));
        let bytes = addresses.iter().fold(NUMBER + port_key.as_str().len(), |bytes, key| {
            bytes + 2 + HEADS + key.as_str().len() + V4Letters::WRITTEN
        });
        let v4 = match peer {
            SocketAddr::V4(peer) => *peer.ip(),
            SocketAddr::V6(peer) => {
                cold_path();
                match peer.ip().to_ipv4_mapped() {
                    Some(v4) => v4,
                    None => return false,
                }
            }
        };
        let port = peer.port();
        if !((port >= LONG) & (bytes <= Self::BYTES_MAX) & (self.known & known == 0) & (self.at <= self.last))
        {
            return false;
        }
        let letters = V4Letters::from(v4);
        // SAFETY: these are `bytes` at most, and `BYTES_MAX` may be written up to `last` and beyond it.
        unsafe {
            for key in addresses {
                let (name, len) = (key.as_str(), letters.len());
                self.array([ATTRIBUTES, (HEADS + name.len() + len) as u8, KEY, name.len() as u8]);
                self.bytes(name.as_bytes());
                self.text_head(len);
                // What is behind each half's letters is written over.
                self.at.cast::<[u8; 8]>().write(letters.first.to_le_bytes());
                self.at.add(letters.first_len).cast::<[u8; 8]>().write(letters.last.to_le_bytes());
                self.at = self.at.add(len);
            }
            let name = port_key.as_str();
            self.array([ATTRIBUTES, (4 + name.len() + 4) as u8, KEY, name.len() as u8]);
            self.bytes(name.as_bytes());
            self.array([VALUE, 4, INT, port as u8 | 0x80, (port >> 7) as u8 | 0x80, (port >> 14) as u8]);
        }
        self.known += known;
        true
    }

    /// Writes an attribute of a text that is made where it belongs; `false`, and nothing is written, if the text becomes too long,
    /// the key is set or not known, or there is no room.
    ///
    /// # Safety
    /// The memory that the row was made for is still there, and nobody else has written to it.
    #[inline(always)]
    pub(super) unsafe fn put_pieces(
        &mut self,
        key: Key<'_>,
        make: impl FnOnce(&mut Pieces<'_>) -> fmt::Result,
    ) -> bool {
        let Some(known) = key.known_as() else { return false };
        let name = key.as_str();
        let fits = name.len() <= Self::TEXT_MAX;
        if !((self.known & known.bit() == 0) & fits & (self.at <= self.last)) {
            return false;
        }
        // SAFETY: up to `last` and beyond it `BYTES_MAX` bytes may be written, which are two, the heads, the key and the longest
        // text that goes with it.
        let start = unsafe { self.at.add(2 + HEADS + name.len()) };
        // SAFETY: as above.
        let end = unsafe { start.add(Self::TEXT_MAX - name.len()) };
        let mut pieces = Pieces { at: start, end, row: PhantomData };
        if make(&mut pieces).is_err() {
            return false;
        }
        // SAFETY: `at` began as `start`, and only grows, up to `end`.
        let len = unsafe { pieces.at.offset_from_unsigned(start) };
        // SAFETY: as above; what is written here ends where the text begins.
        unsafe {
            self.array([ATTRIBUTES, (HEADS + name.len() + len) as u8, KEY, name.len() as u8]);
            self.bytes(name.as_bytes());
            self.text_head(len);
        }
        debug_assert_eq!(self.at, start);
        self.at = pieces.at;
        self.known += known.bit();
        true
    }

    /// Writes attributes that are encoded already, if none of their keys is set, and there is room.
    ///
    /// # Safety
    /// As for [`put_pieces`](Self::put_pieces).
    #[inline(always)]
    pub(super) unsafe fn put_encoded(&mut self, attributes: &EncodedAttributes) -> bool {
        let known = attributes.known();
        if self.known & known != 0 || self.at > self.last {
            return false;
        }
        // SAFETY: up to `last` and beyond it `BYTES_MAX` bytes may be written, which are more than are in the first half.
        unsafe { self.at.cast::<[u8; HALF]>().write(*attributes.first_half()) };
        let len = attributes.len();
        if let Some(half) = attributes.second_half() {
            // SAFETY: `at` is not beyond `last`, in the same memory.
            if unsafe { self.last.offset_from_unsigned(self.at) } < HALF {
                return false;
            }
            // SAFETY: there is room for both halves.
            unsafe { self.at.add(HALF).cast::<[u8; HALF]>().write(*half) };
        }
        // SAFETY: the attributes end within what was written.
        self.at = unsafe { self.at.add(len) };
        self.known |= known;
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
                    self.text_head(text.len());
                    self.text(text);
                }
                Value::I64(number) => {
                    self.array([VALUE, value_len as u8, INT]);
                    self.varint(number as u64);
                }
                _ => {}
            }
        }
    }

    /// What comes before a text that is the value of an attribute: tags, and two lengths that go into a word by one multiplication.
    ///
    /// # Safety
    /// Four bytes may be written; the text is [short](Self::is_short).
    #[inline(always)]
    unsafe fn text_head(&mut self, len: usize) {
        const NONE: u32 = u32::from_le_bytes([VALUE, 2, STRING, 0]);
        const LENGTHS: u32 = u32::from_le_bytes([0, 1, 0, 1]);
        // SAFETY: by the caller's promise.
        unsafe { self.array((NONE + len as u32 * LENGTHS).to_le_bytes()) }
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
    /// As many bytes may be written as there are.
    #[inline(always)]
    unsafe fn text(&mut self, text: &str) {
        // SAFETY: by the caller's promise; a span's memory is no part of what is written to it.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr(), self.at, text.len());
            self.at = self.at.add(text.len());
        }
    }

    /// # Safety
    /// Ten bytes may be written.
    #[inline(always)]
    unsafe fn varint(&mut self, mut value: u64) {
        // SAFETY: by the caller's promise: 64 bits are ten times seven at most.
        unsafe {
            match value {
                0..0x80 => return self.array([value as u8]),
                // Statuses of HTTP, and most ports.
                0x80..0x4000 => return self.array([value as u8 | 0x80, (value >> 7) as u8]),
                _ => cold_path(),
            }
            while value >= 0x80 {
                self.array([value as u8 | 0x80]);
                value >>= 7;
            }
            self.array([value as u8]);
        }
    }
}
