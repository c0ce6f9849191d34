//! Sixteen hex digits at a time, as numbers and back.
//!
//! A request's header has 48 of them, and each call another 48. Where the processor has vectors for certain (x86-64), they are
//! read and written by them, which takes a third of the instructions; elsewhere eight at a time, in a word.

/// The number of sixteen digits in `0` to `9`, `a` to `f`, the first being the most significant, and whether there is one among
/// them that is none of these.
#[inline(always)]
pub(super) fn read(digits: &[u8; 16]) -> (u64, bool) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of this kind has SSE2.
    return unsafe { vector::read(digits) };
    #[cfg(not(target_arch = "x86_64"))]
    word::read(digits)
}

/// The sixteen digits of a number, the most significant one first.
#[inline(always)]
pub(super) fn write(number: u64) -> [u8; 16] {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of this kind has SSE2.
    return unsafe { vector::write(number) };
    #[cfg(not(target_arch = "x86_64"))]
    word::write(number)
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use std::arch::x86_64::{
        _mm_add_epi8, _mm_adds_epu8, _mm_and_si128, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_cmpgt_epi8,
        _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_packus_epi16, _mm_set_epi64x, _mm_set1_epi8, _mm_set1_epi16, _mm_slli_epi16, _mm_srli_epi16,
        _mm_sub_epi8, _mm_unpackhi_epi64, _mm_unpacklo_epi8,
    };

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn read(digits: &[u8; 16]) -> (u64, bool) {
        let number = i128::from_le_bytes(*digits);
        let text = _mm_set_epi64x((number >> 64) as i64, number as i64);
        let digit = _mm_sub_epi8(text, _mm_set1_epi8(b'0' as i8));
        let is_digit = _mm_cmpeq_epi8(_mm_min_epu8(digit, _mm_set1_epi8(9)), digit);
        // What comes before `a` is large, and stays so by adding up to 255 and no further.
        let letter = _mm_adds_epu8(_mm_sub_epi8(text, _mm_set1_epi8(b'a' as i8)), _mm_set1_epi8(10));
        let values = _mm_or_si128(_mm_and_si128(is_digit, digit), _mm_andnot_si128(is_digit, letter));
        let good = _mm_cmpeq_epi8(_mm_min_epu8(values, _mm_set1_epi8(15)), values);
        let pairs = _mm_or_si128(_mm_slli_epi16::<4>(values), _mm_srli_epi16::<8>(values));
        let pairs = _mm_and_si128(pairs, _mm_set1_epi16(0xff));
        let bytes = _mm_cvtsi128_si64(_mm_packus_epi16(pairs, pairs)) as u64;
        (bytes.swap_bytes(), _mm_movemask_epi8(good) != 0xffff)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn write(number: u64) -> [u8; 16] {
        let bytes = _mm_cvtsi64_si128(number.swap_bytes() as i64);
        let low = _mm_set1_epi8(0x0f);
        let high_nibbles = _mm_and_si128(_mm_srli_epi16::<4>(bytes), low);
        let nibbles = _mm_unpacklo_epi8(high_nibbles, _mm_and_si128(bytes, low));
        // `a` lies 0x27 beyond what follows `9`.
        let is_letter = _mm_cmpgt_epi8(nibbles, _mm_set1_epi8(9));
        let letters = _mm_and_si128(is_letter, _mm_set1_epi8(0x27));
        let text = _mm_add_epi8(_mm_add_epi8(nibbles, _mm_set1_epi8(b'0' as i8)), letters);
        let first = _mm_cvtsi128_si64(text) as u64;
        let last = _mm_cvtsi128_si64(_mm_unpackhi_epi64(text, text)) as u64;
        (u128::from(last) << 64 | u128::from(first)).to_le_bytes()
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod word {
    /// Every byte of a word the same.
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }

    #[inline]
    pub(super) fn read(digits: &[u8; 16]) -> (u64, bool) {
        let number = u128::from_be_bytes(*digits);
        let (first, bad) = read_eight((number >> 64) as u64);
        let (last, also_bad) = read_eight(number as u64);
        (first << 32 | last, bad | also_bad != 0)
    }

    #[inline]
    pub(super) fn write(number: u64) -> [u8; 16] {
        let [first, last] = [number >> 32, number & 0xffff_ffff].map(write_eight);
        (u128::from(first) << 64 | u128::from(last)).to_be_bytes()
    }

    /// The value of eight digits, and a number that is zero exactly if all eight are digits.
    #[inline]
    const fn read_eight(word: u64) -> (u64, u64) {
        // Bytes of ASCII plus at most 0x7f never carry into their neighbour, and those beyond ASCII are told apart by `word`.
        let ascii = word & each(0x7f);
        let digit = at_least(ascii, b'0') & !at_least(ascii, b'9' + 1);
        let letter = at_least(ascii, b'a') & !at_least(ascii, b'f' + 1);
        let bad = (!(digit | letter) | word) & each(0x80);
        // A letter has bit 6, and its low nibble counts from 1.
        let nibbles = (ascii & each(0x0f)) + 9 * ((ascii >> 6) & each(0x01));
        let pairs = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
        let quads = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
        ((quads | quads >> 16) & 0xffff_ffff, bad)
    }

    /// Bit 7 of each byte tells whether it is at least this.
    #[inline]
    const fn at_least(ascii: u64, least: u8) -> u64 {
        ascii + each(0x80 - least)
    }

    /// The eight digits of the lower half.
    #[inline]
    const fn write_eight(half: u64) -> u64 {
        let quads = (half | half << 16) & 0x0000_ffff_0000_ffff;
        let pairs = (quads | quads << 8) & 0x00ff_00ff_00ff_00ff;
        let nibbles = (pairs | pairs << 4) & each(0x0f);
        // Ten and more, plus six, reach bit 4; `a` lies 0x27 beyond what follows `9`.
        let letters = ((nibbles + each(6)) >> 4) & each(0x01);
        nibbles + each(b'0') + letters * 0x27
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn a_byte_at_any_place_is_a_digit_or_none_by_both_ways() {
        for place in 0..16 {
            for byte in 0..=u8::MAX {
                let mut digits = GOOD;
                digits[place] = byte;
                let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                let text = std::str::from_utf8(&digits).unwrap_or_default();
                let expected = is_digit.then(|| u64::from_str_radix(text, 16).unwrap());
                for (number, bad) in [read(&digits), word::read(&digits)] {
                    assert_eq!((!bad).then_some(number), expected, "{byte:#x} at {place}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_number_is_written_as_the_formatter_writes_it_by_both_ways(number: u64) {
            let expected = format!("{number:016x}");
            for digits in [write(number), word::write(number)] {
                prop_assert_eq!(&digits, expected.as_bytes());
                prop_assert_eq!(read(&digits), (number, false));
                prop_assert_eq!(word::read(&digits), (number, false));
            }
        }
    }
}
