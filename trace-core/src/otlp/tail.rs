//! Writing at the end of a vector whose room was made before: one check for a whole field instead of one a byte.
//!
//! A span's attributes are a handful of bytes each, so that what a vector asks at every push (is there room?) would cost more
//! than the bytes.

use std::ptr;

use super::wire::varint_len;
use crate::hint::cold_path;

/// The free end of a vector. What is written becomes part of the vector by [`finish`](Self::finish).
pub(crate) struct Tail<'a> {
    out: &'a mut Vec<u8>,
    /// Where the next byte goes.
    at: *mut u8,
    written: usize,
    room: usize,
}

impl<'a> Tail<'a> {
    /// The end of `out`, which has capacity for `room` more bytes.
    ///
    /// # Safety
    /// No more than `room` bytes may be written.
    ///
    /// # Panics
    /// Where the capacity is not there.
    #[inline(always)]
    pub(crate) unsafe fn new(out: &'a mut Vec<u8>, room: usize) -> Self {
        let spare = out.spare_capacity_mut();
        assert!(room <= spare.len(), "room was made for all that is written");
        let at = spare.as_mut_ptr().cast();
        Self { out, at, written: 0, room }
    }

    #[inline(always)]
    fn take(&mut self, len: usize) -> *mut u8 {
        let at = self.at;
        self.written += len;
        debug_assert!(self.written <= self.room, "more is written than was said");
        // SAFETY: by the promise made to `new`, the `len` bytes from `at` lie in the vector's spare capacity.
        self.at = unsafe { at.add(len) };
        at
    }

    #[inline(always)]
    pub(crate) fn byte(&mut self, byte: u8) {
        let at = self.take(1);
        // SAFETY: `take` gave one byte of the spare capacity.
        unsafe { at.write(byte) }
    }

    #[inline(always)]
    pub(crate) fn array<const N: usize>(&mut self, bytes: [u8; N]) {
        let at = self.take(N);
        // SAFETY: `take` gave `N` bytes of the spare capacity; an array of bytes has no alignment.
        unsafe { at.cast::<[u8; N]>().write(bytes) }
    }

    /// Bytes that are many, or whose number nothing is known of: by a call, because the code for every number would be longer.
    #[inline(always)]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let at = self.take(bytes.len());
        // SAFETY: `take` gave as many bytes of the spare capacity, which no other reference reaches.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) }
    }

    #[inline(always)]
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// Makes what was written part of the vector.
    #[inline(always)]
    pub(crate) fn finish(self) {
        let len = self.out.len() + self.written;
        // SAFETY: every byte up to here was part of the vector before or was written since.
        unsafe { self.out.set_len(len) }
    }
}

/// Copies a few bytes without a call: the first and the last of a power of two, which may overlap, and as many between
/// them as it takes. It is for bytes whose number is a constant where this is inlined, as that of a key: else it is more code than
/// a call, and the code of a request is more than a processor keeps at hand.
///
/// # Safety
/// `to` must be valid for writes of as many bytes as `from` has, and not overlap it.
#[inline(always)]
pub(crate) unsafe fn copy(from: &[u8], to: *mut u8) {
    /// Copies `N` bytes from one offset.
    ///
    /// # Safety
    /// `from` must be valid for reads, and `to` for writes, of `offset + N` bytes.
    #[inline(always)]
    unsafe fn piece<const N: usize>(from: *const u8, to: *mut u8, offset: usize) {
        // SAFETY: by the caller's promise; an array of bytes has no alignment.
        unsafe { to.add(offset).cast::<[u8; N]>().write(from.add(offset).cast::<[u8; N]>().read()) }
    }
    let (len, from) = (from.len(), from.as_ptr());
    // SAFETY: each piece lies within the length that leads to it; the caller vouches for `to`.
    unsafe {
        if len >= 16 {
            if len > 128 {
                cold_path();
                return ptr::copy_nonoverlapping(from, to, len);
            }
            piece::<16>(from, to, 0);
            piece::<16>(from, to, len - 16);
            if len > 32 {
                piece::<16>(from, to, 16);
                piece::<16>(from, to, len - 32);
                if len > 64 {
                    piece::<16>(from, to, 32);
                    piece::<16>(from, to, 48);
                    piece::<16>(from, to, len - 64);
                    piece::<16>(from, to, len - 48);
                }
            }
        } else if len >= 8 {
            piece::<8>(from, to, 0);
            piece::<8>(from, to, len - 8);
        } else if len >= 4 {
            piece::<4>(from, to, 0);
            piece::<4>(from, to, len - 4);
        } else if len > 0 {
            // One, two or three.
            piece::<1>(from, to, 0);
            piece::<1>(from, to, len / 2);
            piece::<1>(from, to, len - 1);
        }
    }
}

/// The bytes of a length-delimited field with a one-byte tag.
#[inline(always)]
pub(crate) const fn len_field_len(content: usize) -> usize {
    if content < 0x80 { 2 + content } else { 1 + varint_len(content as u64) + content }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_whole() {
        let source: Vec<u8> = (0..=255).collect();
        for len in 0..200 {
            let mut out = Vec::with_capacity(1 + len);
            out.push(7);
            // SAFETY: as many bytes are written as were said.
            let mut tail = unsafe { Tail::new(&mut out, len) };
            tail.bytes(&source[..len]);
            tail.finish();
            assert_eq!(out[0], 7);
            assert_eq!(&out[1..], &source[..len]);
        }
    }

    #[test]
    fn a_copy_touches_what_it_is_of_and_no_byte_beside_it() {
        for len in 0..=300 {
            // Memory of exactly this length, so that AddressSanitizer sees a byte that is read beyond it.
            let source: Box<[u8]> = (0..len).map(|byte| byte as u8).collect();
            for before in 0..4 {
                let mut out = vec![0xee; before + len + 40].into_boxed_slice();
                // SAFETY: there are 40 bytes more than are written.
                unsafe { copy(&source, out.as_mut_ptr().add(before)) };
                assert_eq!(&out[before..before + len], &*source);
                assert!(out[..before].iter().chain(&out[before + len..]).all(|byte| *byte == 0xee), "{len}");
            }
            let mut exact = vec![0; len].into_boxed_slice();
            // SAFETY: there are as many bytes as are written.
            unsafe { copy(&source, exact.as_mut_ptr()) };
            assert_eq!(exact, source);
        }
    }

    #[test]
    fn what_is_not_finished_is_not_part_of_the_vector() {
        let mut out = Vec::with_capacity(8);
        // SAFETY: three bytes are written.
        unsafe { Tail::new(&mut out, 3) }.array([1, 2, 3]);
        assert!(out.is_empty());
    }

    #[test]
    #[should_panic(expected = "room was made")]
    fn there_is_no_tail_beyond_the_capacity() {
        let mut out = Vec::with_capacity(8);
        let room = out.capacity();
        // SAFETY: nothing is written.
        unsafe { Tail::new(&mut out, room + 1) }.finish();
    }
}
