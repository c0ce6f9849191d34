//! Lists of `name=value` as nearly all are: of characters that mean nothing but themselves.
//!
//! Sixteen bytes are looked at together, by vectors where the processor has them for certain (x86-64), elsewhere in words. What
//! is not so plain has to be read by the whole [grammar](super::grammar).

/// A list that [`list`] let pass: visible ASCII.
#[derive(Clone, Copy)]
pub(crate) struct Plain<'a>(&'a [u8]);

/// What a plain list consists of, beside its `=` and `,`.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    /// Whatever is visible.
    Visible,
    /// Letters, digits, `-`, `.` and `_`.
    Names,
}

/// Where the marks are in some bytes, the first of them in the lowest bit, and whether there is anything else that should not be.
#[derive(Clone, Copy)]
struct Marks {
    signs: u32,
    commas: u32,
    bad: bool,
}

impl<'a> Plain<'a> {
    #[inline]
    pub(crate) const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// The list, if it consists of nothing else, each part of it has but one `=`, and each member is `wanted`.
#[inline(always)]
pub(crate) fn list<'a>(
    list: &'a [u8],
    of: Of,
    mut wanted: impl FnMut(&'a [u8], &'a [u8]) -> bool,
) -> Option<Plain<'a>> {
    // Where the member begins, and its `=`.
    let (mut start, mut equals) = (0, None);
    let mut look = |place: usize, found: Marks| {
        let mut marks = found.signs | found.commas;
        if found.bad {
            return false;
        }
        while marks != 0 {
            let at = place + marks.trailing_zeros() as usize;
            let mark = marks & marks.wrapping_neg();
            marks ^= mark;
            equals = match equals {
                None if found.signs & mark != 0 => Some(at),
                Some(equals) if found.commas & mark != 0 => {
                    if !wanted(&list[start..equals], &list[equals + 1..at]) {
                        return false;
                    }
                    start = at + 1;
                    None
                }
                _ => return false,
            };
        }
        true
    };
    let (blocks, rest) = list.as_chunks::<16>();
    for (place, block) in (0..).step_by(16).zip(blocks) {
        if !look(place, marks(block, of)) {
            return None;
        }
    }
    if !rest.is_empty() {
        let found = match list.last_chunk() {
            // The first of these have been looked at.
            Some(block) => {
                let Marks { signs, commas, bad } = marks(block, of);
                let seen = block.len() - rest.len();
                Marks { signs: signs >> seen, commas: commas >> seen, bad }
            }
            None => {
                let mut block = [b'a'; 16];
                block[..rest.len()].copy_from_slice(rest);
                marks(&block, of)
            }
        };
        if !look(list.len() - rest.len(), found) {
            return None;
        }
    }
    equals.is_some_and(|equals| wanted(&list[start..equals], &list[equals + 1..])).then_some(Plain(list))
}

#[inline(always)]
fn marks(block: &[u8; 16], of: Of) -> Marks {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of this kind has SSE2.
    return unsafe { vector::marks(block, of) };
    #[cfg(not(target_arch = "x86_64"))]
    word::marks(block, of)
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8, _mm_sub_epi8,
    };

    use super::{Marks, Of};

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn marks(block: &[u8; 16], of: Of) -> Marks {
        let number = i128::from_le_bytes(*block);
        let text = _mm_set_epi64x((number >> 64) as i64, number as i64);
        let (signs, commas) = (equal(text, b'='), equal(text, b','));
        let good = match of {
            Of::Visible => within(text, b'!', b'~'),
            Of::Names => {
                // Of upper case, lower case is made; of what else is changed, nothing becomes a letter.
                let letter = within(_mm_or_si128(text, _mm_set1_epi8(0x20)), b'a', b'z');
                let digit = within(text, b'0', b'9');
                let other = _mm_or_si128(within(text, b'-', b'.'), equal(text, b'_'));
                let own = _mm_or_si128(_mm_or_si128(letter, digit), other);
                _mm_or_si128(own, _mm_or_si128(signs, commas))
            }
        };
        let bits = |of: __m128i| _mm_movemask_epi8(of) as u32;
        Marks { signs: bits(signs), commas: bits(commas), bad: bits(good) != 0xffff }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal(text: __m128i, byte: u8) -> __m128i {
        _mm_cmpeq_epi8(text, _mm_set1_epi8(byte as i8))
    }

    /// Which bytes are in this range.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn within(text: __m128i, first: u8, last: u8) -> __m128i {
        let beyond = _mm_sub_epi8(text, _mm_set1_epi8(first as i8));
        _mm_cmpeq_epi8(_mm_min_epu8(beyond, _mm_set1_epi8((last - first) as i8)), beyond)
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod word {
    use super::{Marks, Of};

    #[inline]
    pub(super) fn marks(block: &[u8; 16], of: Of) -> Marks {
        let (mut signs, mut commas, mut bad) = (0, 0, 0);
        for (place, word) in [0, 8].into_iter().zip(block.as_chunks::<8>().0) {
            let word = u64::from_le_bytes(*word);
            // Bytes beyond ASCII are told apart by `word`.
            let ascii = word & each(0x7f);
            let (sign, comma) = (equal(ascii, b'='), equal(ascii, b','));
            let good = match of {
                Of::Visible => from(ascii, b'!') & !from(ascii, 0x7f),
                Of::Names => named(ascii) | sign | comma,
            };
            bad |= (!good | word) & each(0x80);
            signs |= bits(sign) << place;
            commas |= bits(comma) << place;
        }
        Marks { signs, commas, bad: bad != 0 }
    }

    /// Which bytes are letters, digits, `-`, `.` or `_`, in their highest bits.
    #[inline]
    const fn named(ascii: u64) -> u64 {
        let lower = ascii | each(0x20);
        let letter = from(lower, b'a') & !from(lower, b'z' + 1);
        let digit = from(ascii, b'0') & !from(ascii, b'9' + 1);
        let stop = from(ascii, b'-') & !from(ascii, b'.' + 1);
        letter | digit | stop | equal(ascii, b'_')
    }

    /// The highest bits of eight bytes, the first one's in the lowest.
    #[inline]
    const fn bits(marks: u64) -> u32 {
        // Each of them is moved to its place in the last byte, and none meets another.
        (((marks >> 7) & each(0x01)).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
    }

    /// Every byte of a word the same.
    #[inline]
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }

    /// Which bytes are at least this, in their highest bits.
    #[inline]
    const fn from(ascii: u64, least: u8) -> u64 {
        ascii + each(0x80 - least)
    }

    /// Which bytes are this one, in their highest bits.
    #[inline]
    const fn equal(ascii: u64, byte: u8) -> u64 {
        !((ascii ^ each(byte)) + each(0x7f))
    }
}

/// Where the last such byte is.
#[inline]
pub(crate) fn rposition(text: &[u8], byte: u8) -> Option<usize> {
    let (rest, blocks) = text.as_rchunks::<16>();
    for (place, block) in blocks.iter().enumerate().rev() {
        // A bit for each byte.
        let found = block.iter().rev().fold(0_u32, |found, other| found << 1 | u32::from(*other == byte));
        if found != 0 {
            return Some(rest.len() + 16 * place + found.ilog2() as usize);
        }
    }
    rest.iter().rposition(|other| *other == byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bytes_are_judged_as_each_of_them_by_both_ways() {
        for byte in 0..=u8::MAX {
            for place in 0..16 {
                let mut block = *b"aaaaaaaaaaaaaaaa";
                block[place] = byte;
                let bit = |is: bool| u32::from(is) << place;
                for of in [Of::Visible, Of::Names] {
                    let is_mark = matches!(byte, b'=' | b',');
                    let good = match of {
                        Of::Visible => matches!(byte, b'!'..=b'~'),
                        Of::Names => byte.is_ascii_alphanumeric() || b"-._".contains(&byte) || is_mark,
                    };
                    for Marks { signs, commas, bad } in [marks(&block, of), word::marks(&block, of)] {
                        assert_eq!(bad, !good, "{byte:#x} at {place}");
                        assert!(
                            bad || (signs, commas) == (bit(byte == b'='), bit(byte == b',')),
                            "{byte:#x} at {place}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_byte_is_found_at_every_place() {
        for len in 0..50 {
            let mut text = vec![b'a'; len];
            assert_eq!(rposition(&text, b','), None);
            for place in 0..len {
                text[place] = b',';
                assert_eq!(rposition(&text, b','), Some(place));
            }
        }
    }

    #[test]
    fn a_plain_list_is_a_row_of_pairs() {
        let members = |text: &str, of| {
            let mut members = Vec::new();
            list(text.as_bytes(), of, |name, value| {
                members.push([name, value].map(|part| String::from_utf8_lossy(part).into_owned()));
                true
            })
            .map(|plain| {
                assert_eq!(plain.as_bytes(), text.as_bytes());
                members
            })
        };
        for (text, expected) in [
            ("a=1", vec![["a", "1"]]),
            ("a=,=b", vec![["a", ""], ["", "b"]]),
            ("abcdefg=1", vec![["abcdefg", "1"]]),
            ("abcdefghijklmn=1", vec![["abcdefghijklmn", "1"]]),
            ("abcdefghijklmno=1", vec![["abcdefghijklmno", "1"]]),
            ("abc=efg,", vec![]),
            ("abcdefgh=ijklmno,pqrstuvw=xyz01234", vec![["abcdefgh", "ijklmno"], ["pqrstuvw", "xyz01234"]]),
        ] {
            let expected = expected.iter().map(|member| member.map(str::to_owned)).collect::<Vec<_>>();
            for of in [Of::Visible, Of::Names] {
                assert_eq!(members(text, of), (!expected.is_empty()).then_some(expected.clone()), "{text}");
            }
        }
        for text in ["", "a", "a=1,", ",a=1", "a=1,,b=2", "a=1=2", "a,b=1", "a= 1", "a=1\t", "a=ü", "a=1,b"]
        {
            assert_eq!(members(text, Of::Visible), None, "{text}");
        }
        assert_eq!(members("a=1;b", Of::Names), None);
    }

    #[test]
    fn a_list_of_any_length_is_the_same_list_as_by_splitting() {
        for first in 0..40 {
            for second in 0..40 {
                let text = format!("{}=1,b={}", "k".repeat(first), "v".repeat(second));
                let mut members = Vec::new();
                let plain = list(text.as_bytes(), Of::Names, |name, value| {
                    members.push((name.len(), value.len()));
                    true
                });
                assert!(plain.is_some());
                assert_eq!(members, [(first, 1), (1, second)]);
            }
        }
    }

    #[test]
    fn who_does_not_want_a_member_does_not_get_the_list() {
        for unwanted in 0..3 {
            let mut seen = 0;
            let plain = list(b"a=1,b=2,c=3", Of::Visible, |_, _| {
                seen += 1;
                seen != unwanted + 1
            });
            assert!(plain.is_none());
        }
    }
}
