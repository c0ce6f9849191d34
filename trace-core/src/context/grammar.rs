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
