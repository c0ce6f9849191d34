//! What the services of one request tell each other besides the trace: names and values that travel along the whole way.
//!
//! The members are kept as the text that is sent, so that a service which only passes them on copies them once, when they
//! arrive: what leaves refers to the same text. A value is decoded when somebody asks for it. Hostile input costs at most one look at
//! 16 KiB, and what is kept is within [`Baggage::MAX_MEMBERS`] and [`Baggage::MAX_BYTES`].

use std::borrow::Cow;
use std::fmt;

use super::grammar::{self, BAGGAGE_OCTET, BAGGAGE_PLAIN, OWS, TOKEN};
use super::{Text, plain};

/// Names and values that go with a request from service to service ([W3C Baggage](https://www.w3.org/TR/baggage/)).
///
/// Everybody on the way can read and change them, and they leave with every call: no place for secrets.
///
/// ```
/// use trace_core::Baggage;
///
/// let mut baggage = Baggage::new();
/// baggage.insert("tenant.id", "acme")?;
/// baggage.insert("city", "Zürich, 8001")?;
///
/// assert_eq!(baggage.get("city").as_deref(), Some("Zürich, 8001"));
/// assert_eq!(baggage.as_str(), "tenant.id=acme,city=Z%C3%BCrich%2C%208001");
/// # Ok::<(), trace_core::BaggageError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Baggage {
    /// `name=value` and any `;property`, joined by `,`, by the grammar and without white space.
    text: Text,
}

/// One member of a [`Baggage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaggageMember<'a> {
    name: &'a str,
    value: &'a str,
    properties: &'a str,
}

/// Why something cannot be put into a [`Baggage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BaggageError {
    /// The name of a member or a property is not a token of RFC 7230.
    Name,
    /// There would be more than [`Baggage::MAX_MEMBERS`].
    Members,
    /// All members together would be longer than [`Baggage::MAX_BYTES`].
    Length,
}

/// Reads `baggage` line by line, as headers hand it out.
#[derive(Debug, Default)]
pub(crate) struct BaggageParser {
    text: Vec<u8>,
    members: usize,
    bytes_read: usize,
}

/// The longest baggage, and as much white space again: more is not read.
const INPUT_BYTES_MAX: usize = 2 * Baggage::MAX_BYTES;

impl Baggage {
    /// The most members that are kept and sent ([W3C Baggage, 3.3.2](https://www.w3.org/TR/baggage/#limits)).
    pub const MAX_MEMBERS: usize = 64;

    /// The most bytes that are kept and sent ([W3C Baggage, 3.3.2](https://www.w3.org/TR/baggage/#limits)).
    pub const MAX_BYTES: usize = 8192;

    /// No members.
    #[inline]
    pub const fn new() -> Self {
        Self { text: Text::empty() }
    }

    /// Reads header lines, which together are one list in their order.
    ///
    /// # Data loss
    ///
    /// A member that breaks the grammar is left out, so that one service's mistake does not cost another its members; so is
    /// one that exceeds [`MAX_MEMBERS`](Self::MAX_MEMBERS) or [`MAX_BYTES`](Self::MAX_BYTES), and what follows the first
    /// 16 KiB. No member is ever kept in part.
    pub fn parse_lines<L: AsRef<[u8]>>(lines: impl IntoIterator<Item = L>) -> Self {
        let mut parser = BaggageParser::default();
        for line in lines {
            parser.line(line.as_ref());
        }
        parser.finish()
    }

    /// Reads the only header line.
    #[inline]
    pub(crate) fn parse_line(line: &[u8]) -> Self {
        let mut members = 0;
        let list = if line.len() <= Self::MAX_BYTES { line } else { &[] };
        match plain::list(list, plain::Of::Names, |name, _| {
            members += 1;
            !name.is_empty()
        }) {
            Some(plain) if members <= Self::MAX_MEMBERS => Self { text: Text::of_plain(plain) },
            _ => Self::parse_lines([line]),
        }
    }

    /// Puts a member at the end, replacing those of its name. The value can be any text.
    ///
    /// # Errors
    ///
    /// If the name is not a token, or a limit would be exceeded; the baggage is then as before.
    pub fn insert(&mut self, name: &str, value: &str) -> Result<(), BaggageError> {
        self.insert_with_properties(name, value, &[])
    }

    /// Puts a member at the end, replacing those of its name, with properties: names, some of them with a value.
    ///
    /// ```
    /// # use trace_core::Baggage;
    /// let mut baggage = Baggage::new();
    /// baggage.insert_with_properties("user", "alice", &[("ttl", Some("3")), ("internal", None)])?;
    /// assert_eq!(baggage.as_str(), "user=alice;ttl=3;internal");
    /// # Ok::<(), trace_core::BaggageError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a name is not a token, or a limit would be exceeded; the baggage is then as before.
    pub fn insert_with_properties(
        &mut self,
        name: &str,
        value: &str,
        properties: &[(&str, Option<&str>)],
    ) -> Result<(), BaggageError> {
        if !is_token(name) || !properties.iter().all(|(name, _)| is_token(name)) {
            return Err(BaggageError::Name);
        }
        let (mut text, others) = self.without(name);
        if others == Self::MAX_MEMBERS {
            return Err(BaggageError::Members);
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push('=');
        encode(value, &mut text);
        for (name, value) in properties {
            text.push(';');
            text.push_str(name);
            if let Some(value) = value {
                text.push('=');
                encode(value, &mut text);
            }
        }
        if text.len() > Self::MAX_BYTES {
            return Err(BaggageError::Length);
        }
        self.text = Text::new(text.into());
        Ok(())
    }

    /// Removes the members of this name; whether there were any.
    pub fn remove(&mut self, name: &str) -> bool {
        let (text, _) = self.without(name);
        let removed = text.len() != self.as_str().len();
        self.text = Text::new(text.into());
        removed
    }

    /// The decoded value of the last member of this name; names are compared exactly.
    ///
    /// Nothing is copied unless the value is percent-encoded. Bytes that are not UTF-8 read as U+FFFD.
    #[inline]
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.member(name).map(|member| member.value())
    }

    /// The last member of this name.
    pub fn member(&self, name: &str) -> Option<BaggageMember<'_>> {
        // The specification lets members of one name stand side by side; who wrote last is taken to know best.
        let mut rest = self.as_str();
        while !rest.is_empty() {
            let start = plain::rposition(rest.as_bytes(), b',').map_or(0, |comma| comma + 1);
            let member = &rest[start..];
            if let Some(value) = member.strip_prefix(name).and_then(|value| value.strip_prefix('=')) {
                return Some(BaggageMember::new(&member[..name.len()], value));
            }
            rest = &rest[..start.saturating_sub(1)];
        }
        None
    }

    /// The members in their order.
    pub fn iter(&self) -> impl Iterator<Item = BaggageMember<'_>> {
        self.as_str().split(',').filter(|member| !member.is_empty()).map(BaggageMember::of)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are no members; then no header is sent.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The members as one header value.
    #[inline]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }

    pub(crate) const fn text(&self) -> &Text {
        &self.text
    }

    /// The text without the members of this name, and how many members it has.
    fn without(&self, name: &str) -> (String, usize) {
        let mut text = String::with_capacity(self.as_str().len());
        let mut members = 0;
        for member in self.as_str().split(',').filter(|member| !member.is_empty()) {
            if BaggageMember::of(member).name != name {
                if !text.is_empty() {
                    text.push(',');
                }
                text.push_str(member);
                members += 1;
            }
        }
        (text, members)
    }
}

impl<'a> BaggageMember<'a> {
    /// The name, a token.
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// The decoded value; nothing is copied unless it is percent-encoded.
    pub fn value(&self) -> Cow<'a, str> {
        decode(self.value)
    }

    /// The properties in their order: names, and the decoded values of those that have one.
    pub fn properties(&self) -> impl Iterator<Item = (&'a str, Option<Cow<'a, str>>)> + use<'a> {
        self.properties.split(';').filter(|property| !property.is_empty()).map(|property| {
            match property.split_once('=') {
                Some((name, value)) => (name, Some(decode(value))),
                None => (property, None),
            }
        })
    }

    /// Takes a member of normalised text apart.
    fn of(member: &'a str) -> Self {
        // A value can hold `=` itself, a name cannot.
        let (name, value) = member.split_once('=').unwrap_or((member, ""));
        Self::new(name, value)
    }

    /// A member of this name, with what stands behind its `=`.
    fn new(name: &'a str, value: &'a str) -> Self {
        let end = value.bytes().position(|byte| byte == b';');
        let (value, properties) = end.map_or((value, ""), |end| (&value[..end], &value[end + 1..]));
        Self { name, value, properties }
    }
}

impl BaggageParser {
    /// Reads one more header line.
    pub(crate) fn line(&mut self, line: &[u8]) {
        let unread = INPUT_BYTES_MAX.saturating_sub(self.bytes_read);
        self.bytes_read = self.bytes_read.saturating_add(line.len());
        let (mut rest, cut) = match line.split_at_checked(unread) {
            Some((head, [_, ..])) => (head, true),
            _ => (line, false),
        };
        // The line and a comma before it; normalised text is never longer.
        self.text.reserve((rest.len() + 1).min(Baggage::MAX_BYTES));
        while !rest.is_empty() && self.members < Baggage::MAX_MEMBERS {
            let member = grammar::trim_start(rest, OWS);
            let mut reader = Reader { rest: member, spaced: false };
            let read = reader.skip_member();
            let (member, after) = member.split_at(member.len() - reader.rest.len());
            let kept;
            (kept, rest) = match after {
                // What was cut in two is not known.
                [] => (read && !cut, after),
                [b',', after @ ..] => (read, after),
                // It breaks the grammar; what follows its comma may not.
                _ => (false, skip_past_comma(after)),
            };
            if kept {
                self.keep(member, reader.spaced);
            }
        }
    }

    /// The baggage, once all lines were read.
    pub(crate) fn finish(self) -> Baggage {
        Baggage { text: Text::new(self.text) }
    }

    /// Appends a member that follows the grammar, without its white space, if there is room for all of it.
    #[inline]
    fn keep(&mut self, member: &[u8], spaced: bool) {
        let before = self.text.len();
        if before > 0 {
            self.text.push(b',');
        }
        // Names and values hold no white space, so whatever there is stands around them.
        if spaced {
            self.text.extend(member.iter().filter(|&&byte| !grammar::is(byte, OWS)));
        } else {
            self.text.extend_from_slice(member);
        }
        if self.text.len() <= Baggage::MAX_BYTES {
            self.members += 1;
        } else {
            self.text.truncate(before);
        }
    }
}

/// Goes through a line by the grammar.
struct Reader<'a> {
    rest: &'a [u8],
    /// Whether there was white space.
    spaced: bool,
}

impl Reader<'_> {
    /// `list-member = key OWS "=" OWS value *( OWS ";" OWS property )`, and white space behind it. If there is none, it stops
    /// at the first byte that does not belong there.
    #[inline(always)]
    fn skip_member(&mut self) -> bool {
        let named = self.skip_run(TOKEN);
        self.skip_space();
        if !self.skip(b'=') {
            return false;
        }
        self.skip_value();
        while self.skip(b';') {
            // `property = key OWS "=" OWS value` or `key OWS`
            self.skip_space();
            if !self.skip_run(TOKEN) {
                return false;
            }
            self.skip_space();
            if self.skip(b'=') {
                self.skip_value();
            }
        }
        named
    }

    /// `OWS value OWS`, with `value = *baggage-octet`
    #[inline]
    fn skip_value(&mut self) {
        self.skip_space();
        self.skip_run(BAGGAGE_OCTET);
        self.skip_space();
    }

    #[inline]
    fn skip_space(&mut self) {
        self.spaced |= self.skip_run(OWS);
    }

    /// Whether there was anything of the class.
    #[inline(always)]
    fn skip_run(&mut self, class: u8) -> bool {
        let (run, rest) = grammar::split_run(self.rest, class);
        self.rest = rest;
        !run.is_empty()
    }

    #[inline]
    fn skip(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }
}

fn skip_past_comma(text: &[u8]) -> &[u8] {
    let comma = text.iter().position(|&byte| byte == b',').unwrap_or(text.len());
    match text.split_at(comma) {
        (_, [_, after @ ..]) => after,
        _ => &[],
    }
}

/// `token = 1*tchar` (RFC 7230, 3.2.6).
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| grammar::is(byte, TOKEN))
}

/// Appends the value with every byte percent-encoded that cannot stand for itself.
fn encode(value: &str, text: &mut String) {
    text.reserve(value.len());
    for byte in value.bytes() {
        if grammar::is(byte, BAGGAGE_PLAIN) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.extend([byte >> 4, byte & 0x0f].map(upper_hex_digit));
        }
    }
}

/// The value with its percent-encoded bytes decoded; a `%` that two hex digits do not follow stands for itself.
fn decode(value: &str) -> Cow<'_, str> {
    if !value.bytes().any(|byte| byte == b'%') {
        return Cow::Borrowed(value);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        let escaped = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                hex_value(*high).zip(hex_value(*low)).map(|pair| (pair, after))
            }
            _ => None,
        };
        match escaped {
            Some(((high, low), after)) => {
                bytes.push(high << 4 | low);
                rest = after;
            }
            None => bytes.push(*byte),
        }
    }
    // Sequences that are not UTF-8 are replaced with the replacement code point.
    match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// The digit of a number below 16; escapes are written in upper case, as RFC 3986 says.
fn upper_hex_digit(number: u8) -> char {
    char::from(if number < 10 { b'0' + number } else { b'A' - 10 + number })
}

/// The value of a hex digit of either case: escapes are read as RFC 3986 says.
fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for BaggageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a name in baggage is not a token",
            Self::Members => "baggage has at most 64 members",
            Self::Length => "baggage has at most 8192 bytes",
        })
    }
}

impl std::error::Error for BaggageError {}

#[cfg(test)]
mod tests;
