//! The character classes of `traceparent`, `tracestate` and `baggage`, in one table, and how text is cut by them.

/// What a key of `tracestate` may begin with: `lcalpha / DIGIT`.
pub(crate) const STATE_KEY_START: u8 = 1;
/// What a key of `tracestate` may go on with: `lcalpha / DIGIT / "_" / "-" / "*" / "/" / "@"`.
pub(crate) const STATE_KEY: u8 = 1 << 1;
/// What a value of `tracestate` may hold: `chr`, printable ASCII without `,` and `=`.
pub(crate) const STATE_VALUE: u8 = 1 << 2;
/// `tchar` of RFC 7230, of which names in `baggage` consist.
pub(crate) const TOKEN: u8 = 1 << 3;
/// `baggage-octet`: printable ASCII without space, `"`, `,`, `;` and `\`.
pub(crate) const BAGGAGE_OCTET: u8 = 1 << 4;
/// The octets of a baggage value that stand for themselves when we write one. `%` starts an escape; `+` would, but some
/// peers read it as a space.
pub(crate) const BAGGAGE_PLAIN: u8 = 1 << 5;
/// `SP / HTAB`, which `OWS` (RFC 7230) is made of.
pub(crate) const OWS: u8 = 1 << 6;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = classes_of(byte as u8);
        byte += 1;
    }
    classes
}

const fn classes_of(byte: u8) -> u8 {
    let mut classes = 0;
    if matches!(byte, b'a'..=b'z' | b'0'..=b'9') {
        classes |= STATE_KEY_START | STATE_KEY;
    }
    if matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@') {
        classes |= STATE_KEY;
    }
    if matches!(byte, 0x20..=0x7e) && !matches!(byte, b',' | b'=') {
        classes |= STATE_VALUE;
    }
    if byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
    {
        classes |= TOKEN;
    }
    if matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b',' | b';' | b'\\') {
        classes |= BAGGAGE_OCTET;
        if !matches!(byte, b'%' | b'+') {
            classes |= BAGGAGE_PLAIN;
        }
    }
    if matches!(byte, b' ' | b'\t') {
        classes |= OWS;
    }
    classes
}

/// Whether the byte is in the class.
#[inline]
pub(crate) const fn is(byte: u8, class: u8) -> bool {
    // A table of 256 has a place for every byte.
    CLASSES[byte as usize] & class != 0
}

/// How many bytes of the class the text begins with.
#[inline]
pub(crate) const fn run(text: &[u8], class: u8) -> usize {
    let mut length = 0;
    // By its place, which takes half as many instructions as an iterator's `position`.
    while length < text.len() && is(text[length], class) {
        length += 1;
    }
    length
}

/// Cuts the text behind its first bytes that are in the class.
#[inline]
pub(crate) const fn split_run(text: &[u8], class: u8) -> (&[u8], &[u8]) {
    text.split_at(run(text, class))
}

/// The text without its first bytes of the class.
#[inline]
pub(crate) fn trim_start(mut text: &[u8], class: u8) -> &[u8] {
    while let [first, rest @ ..] = text
        && is(*first, class)
    {
        text = rest;
    }
    text
}

/// The text without its last bytes of the class.
#[inline]
pub(crate) fn trim_end(mut text: &[u8], class: u8) -> &[u8] {
    while let [rest @ .., last] = text
        && is(*last, class)
    {
        text = rest;
    }
    text
}

/// The text without white space around it.
#[inline]
pub(crate) fn trim(text: &[u8]) -> &[u8] {
    trim_end(trim_start(text, OWS), OWS)
}

/// Shows the members of a list of `name=value`, if there is nothing in it but visible characters, and each part of it has but
/// one `=`, as in most lists. Whether that is so, and each member is `wanted`; what is not has to be read by the whole
/// grammar.
///
/// Eight bytes are looked at together, which takes half of the time. `unwanted` says of eight bytes of ASCII which are not to
/// be there, in their highest bits.
#[inline(always)]
pub(crate) fn is_plain_list(
    list: &[u8],
    unwanted: impl Fn(u64) -> u64,
    mut wanted: impl FnMut(&[u8], &[u8]) -> bool,
) -> bool {
    let (words, rest) = list.as_chunks::<8>();
    let mut last = [b'a'; 8];
    last[..rest.len()].copy_from_slice(rest);
    // Where the member begins, and its `=`.
    let (mut start, mut equals) = (0, None);
    for (place, word) in (0..).step_by(8).zip(words.iter().chain([&last])) {
        let word = u64::from_le_bytes(*word);
        // Bytes beyond ASCII are told apart by `word`.
        let ascii = word & each(0x7f);
        let (signs, commas) = (equal(ascii, b'='), equal(ascii, b','));
        let mut marks = (signs | commas) & each(0x80);
        if (unwanted(ascii) & !marks | word) & each(0x80) != 0 {
            return false;
        }
        while marks != 0 {
            let mark = marks & marks.wrapping_neg();
            marks ^= mark;
            let at = place + (mark.trailing_zeros() / 8) as usize;
            equals = match equals {
                None if signs & mark != 0 => Some(at),
                Some(equals) if commas & mark != 0 => {
                    if !wanted(&list[start..equals], &list[equals + 1..at]) {
                        return false;
                    }
                    start = at + 1;
                    None
                }
                _ => return false,
            };
        }
    }
    equals.is_some_and(|equals| wanted(&list[start..equals], &list[equals + 1..]))
}

/// Where the last such byte of ASCII is in a text of ASCII.
#[inline]
pub(crate) fn rposition(text: &[u8], byte: u8) -> Option<usize> {
    let (rest, words) = text.as_rchunks::<8>();
    for (place, word) in words.iter().enumerate().rev() {
        let found = equal(u64::from_le_bytes(*word), byte) & each(0x80);
        if found != 0 {
            return Some(rest.len() + 8 * place + 7 - (found.leading_zeros() / 8) as usize);
        }
    }
    rest.iter().rposition(|other| *other == byte)
}

/// Bytes of ASCII that are none of `!` to `~`, in their highest bits.
#[inline(always)]
pub(crate) const fn not_visible(ascii: u64) -> u64 {
    !from(ascii, b'!') | from(ascii, 0x7f)
}

/// Bytes of ASCII that are no letter, no digit, and none of `-`, `.` and `_`, in their highest bits.
#[inline(always)]
pub(crate) const fn not_plain(ascii: u64) -> u64 {
    // Of upper case, lower case is made; of what else is changed, nothing becomes a letter.
    let lower = ascii | each(0x20);
    let letter = from(lower, b'a') & !from(lower, b'z' + 1);
    let digit = from(ascii, b'0') & !from(ascii, b'9' + 1);
    let stop = from(ascii, b'-') & !from(ascii, b'.' + 1);
    !(letter | digit | stop | equal(ascii, b'_'))
}

/// Every byte of a word the same.
#[inline(always)]
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Bytes of ASCII that are at least this, in their highest bits.
#[inline(always)]
const fn from(ascii: u64, least: u8) -> u64 {
    ascii + each(0x80 - least)
}

/// Bytes that are this one of ASCII, in their highest bits.
#[inline(always)]
const fn equal(ascii: u64, byte: u8) -> u64 {
    !((ascii ^ each(byte)) + each(0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_are_judged_as_each_of_them() {
        for byte in 0..0x80 {
            for place in 0..8 {
                let mut word = *b"aaaaaaaa";
                word[place] = byte;
                let mark = |marks: u64| (marks & each(0x80)).to_le_bytes().map(|mark| mark != 0);
                let at_place = |is: bool| std::array::from_fn(|other| is && other == place);
                let word = u64::from_le_bytes(word);
                assert_eq!(mark(not_visible(word)), at_place(!matches!(byte, b'!'..=b'~')), "{byte}");
                let plain = byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                assert_eq!(mark(not_plain(word)), at_place(!plain), "{byte}");
                assert_eq!(mark(equal(word, b'=')), at_place(byte == b'='), "{byte}");
            }
        }
    }

    #[test]
    fn the_last_byte_is_found_at_every_place() {
        for len in 0..30 {
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
        let members = |list: &str| {
            let mut members = Vec::new();
            is_plain_list(list.as_bytes(), not_visible, |name, value| {
                members.push([name, value].map(|part| String::from_utf8_lossy(part).into_owned()));
                true
            })
            .then_some(members)
        };
        for (list, expected) in [
            ("a=1", vec![["a", "1"]]),
            ("a=,=b", vec![["a", ""], ["", "b"]]),
            ("abcdefg=1", vec![["abcdefg", "1"]]),
            ("abc=efg,", vec![]),
            ("abcdefgh=ijklmno,pqrstuvw=xyz01234", vec![["abcdefgh", "ijklmno"], ["pqrstuvw", "xyz01234"]]),
        ] {
            let expected = expected.iter().map(|member| member.map(str::to_owned)).collect::<Vec<_>>();
            assert_eq!(members(list), (!expected.is_empty()).then_some(expected), "{list}");
        }
        for list in ["", "a", "a=1,", ",a=1", "a=1,,b=2", "a=1=2", "a,b=1", "a= 1", "a=1\t", "a=ü", "a=1,b"]
        {
            assert_eq!(members(list), None, "{list}");
        }
    }
}
