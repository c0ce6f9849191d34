//! What the services of one request tell each other besides the trace: names and values that travel along the whole way.
//!
//! The members are kept as the text that is sent, so that a service which only passes them on copies them once when they
//! arrive and once when they leave; a value is decoded when somebody asks for it. Hostile input costs at most one look at
//! 16 KiB, and what is kept is within [`Baggage::MAX_MEMBERS`] and [`Baggage::MAX_BYTES`].

use std::borrow::Cow;
use std::fmt;

use super::grammar::{self, BAGGAGE_OCTET, BAGGAGE_PLAIN, OWS, TOKEN};

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
    text: String,
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
        Self { text: String::new() }
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
        self.text = text;
        Ok(())
    }

    /// Removes the members of this name; whether there were any.
    pub fn remove(&mut self, name: &str) -> bool {
        let (text, _) = self.without(name);
        let removed = text.len() != self.text.len();
        self.text = text;
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
        let is_named = |member: &&str| member.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        // The specification lets members of one name stand side by side; who wrote last is taken to know best.
        self.text.rsplit(',').find(is_named).map(BaggageMember::of)
    }

    /// The members in their order.
    pub fn iter(&self) -> impl Iterator<Item = BaggageMember<'_>> {
        self.text.split(',').filter(|member| !member.is_empty()).map(BaggageMember::of)
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
    pub const fn as_str(&self) -> &str {
        self.text.as_str()
    }

    /// The text without the members of this name, and how many members it has.
    fn without(&self, name: &str) -> (String, usize) {
        let mut text = String::with_capacity(self.text.len());
        let mut members = 0;
        for member in self.text.split(',').filter(|member| !member.is_empty()) {
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
        let (pair, properties) = member.split_once(';').unwrap_or((member, ""));
        // A value can hold `=` itself, a name cannot.
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
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
        // Most lines have no white space. No early end, so that sixteen bytes are looked at in one instruction.
        let spaced =
            rest.iter().fold(0, |spaced, &byte| spaced | u8::from(byte == b' ') | u8::from(byte == b'\t'));
        while !rest.is_empty() && self.members < Baggage::MAX_MEMBERS {
            let member = grammar::trim_start(rest, OWS);
            let (read, after) = skip_member(member);
            let (member, _) = member.split_at(member.len() - after.len());
            let kept;
            (kept, rest) = match after {
                // What was cut in two is not known.
                [] => (read && !cut, after),
                [b',', after @ ..] => (read, after),
                // It breaks the grammar; what follows its comma may not.
                _ => (false, skip_past_comma(after)),
            };
            if kept {
                self.keep(member, spaced != 0);
            }
        }
    }

    /// The baggage, once all lines were read.
    pub(crate) fn finish(self) -> Baggage {
        Baggage { text: grammar::ascii(self.text) }
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

/// `list-member = key OWS "=" OWS value *( OWS ";" OWS property )`, and white space behind it: whether the text begins with
/// one, and what follows it or the first byte that does not belong there.
#[inline]
fn skip_member(text: &[u8]) -> (bool, &[u8]) {
    let (name, rest) = grammar::split_run(text, TOKEN);
    let [b'=', rest @ ..] = grammar::trim_start(rest, OWS) else { return (false, rest) };
    let mut rest = skip_value(rest);
    while let [b';', property @ ..] = rest {
        // `property = key OWS "=" OWS value` or `key OWS`
        let (name, after) = grammar::split_run(grammar::trim_start(property, OWS), TOKEN);
        if name.is_empty() {
            return (false, after);
        }
        rest = match grammar::trim_start(after, OWS) {
            [b'=', value @ ..] => skip_value(value),
            after => after,
        };
    }
    (!name.is_empty(), rest)
}

/// `OWS value OWS`, with `value = *baggage-octet`
#[inline]
fn skip_value(text: &[u8]) -> &[u8] {
    let (_, rest) = grammar::split_run(grammar::trim_start(text, OWS), BAGGAGE_OCTET);
    grammar::trim_start(rest, OWS)
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
    if !value.contains('%') {
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
        f.pad(&self.text)
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
