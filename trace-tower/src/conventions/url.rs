//! URLs without what should not leave: the values of queries, names and passwords.

use std::fmt::{self, Write};
use std::sync::Arc;

use http::Uri;
use trace_core::{Attributes, Key, Pieces, cold_path, display};

use super::text::Letters;

const REDACTED: &str = "REDACTED";

/// The keys whose values the conventions want to be kept back.
const SENSITIVE_KEYS: [&str; 7] = [
    "X-Amz-Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "AWSAccessKeyId",
    "Signature",
    "sig",
    "X-Goog-Signature",
];

/// Which values of a query are kept back: they become `REDACTED`, and their keys stay.
///
/// By default it is all of them.
#[derive(Clone, Debug, Default)]
pub struct QueryRedaction {
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    AllBut(Arc<[String]>),
    Only(Arc<[String]>),
    Conventions,
}

impl Default for Rule {
    fn default() -> Self {
        Self::AllBut(Arc::default())
    }
}

impl QueryRedaction {
    /// All values but those of these keys.
    pub fn all_but<K: Into<String>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self { rule: Rule::AllBut(keys.into_iter().map(Into::into).collect()) }
    }

    /// The values of these keys only.
    pub fn only<K: Into<String>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self { rule: Rule::Only(keys.into_iter().map(Into::into).collect()) }
    }

    /// The values that the conventions name: `X-Amz-Signature`, `X-Amz-Credential`, `X-Amz-Security-Token`,
    /// `AWSAccessKeyId`, `Signature`, `sig` and `X-Goog-Signature`.
    pub const fn conventions() -> Self {
        Self { rule: Rule::Conventions }
    }

    /// A query without what this keeps back.
    pub const fn query<'a>(&'a self, query: &'a str) -> RedactedQuery<'a> {
        RedactedQuery { query, redaction: self }
    }

    /// A URI without what this keeps back.
    pub fn uri<'a>(&'a self, uri: &'a Uri) -> RedactedUrl<'a> {
        RedactedUrl {
            scheme: uri.scheme_str(),
            authority: uri.authority().map(|authority| authority.as_str()),
            path: uri.path(),
            query: uri.query(),
            redaction: self,
        }
    }

    /// An absolute URL of these parts, without what this keeps back: for those who have taken it apart already.
    pub const fn parts<'a>(
        &'a self,
        scheme: &'a str,
        authority: &'a str,
        path: &'a str,
        query: Option<&'a str>,
    ) -> RedactedUrl<'a> {
        RedactedUrl { scheme: Some(scheme), authority: Some(authority), path, query, redaction: self }
    }

    /// A URL, absolute or not, without what this keeps back. Its fragment is left out: it is not sent anyway. What begins with `//`
    /// names its server there, but no scheme ([RFC 3986, 4.2](https://www.rfc-editor.org/rfc/rfc3986#section-4.2)).
    pub fn url<'a>(&'a self, url: &'a str) -> RedactedUrl<'a> {
        let url = url.split_once('#').map_or(url, |(url, _)| url);
        let (url, query) = url.split_once('?').map_or((url, None), |(url, query)| (url, Some(query)));
        // The first of both decides: behind a leading `//`, a `://` is a part of the path.
        let (scheme, hierarchy) = match url.strip_prefix("//") {
            Some(rest) => (None, Some(rest)),
            None => url.split_once("://").map_or((None, None), |(scheme, rest)| (Some(scheme), Some(rest))),
        };
        let (authority, path) = match hierarchy {
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (Some(authority), path)
            }
            None => (None, url),
        };
        RedactedUrl { scheme, authority, path, query, redaction: self }
    }

    #[inline]
    fn keeps_back_all(&self) -> bool {
        matches!(&self.rule, Rule::AllBut(keys) if keys.is_empty())
    }

    #[inline(never)]
    fn keeps_back(&self, key: &str) -> bool {
        match &self.rule {
            // As it is written: a key in disguise is not on the list, and its value is kept back.
            Rule::AllBut(keys) => !keys.iter().any(|listed| listed == key),
            // As it is meant: a key in disguise is still on the list.
            Rule::Only(keys) => keys.iter().any(|listed| decodes_to(key, listed)),
            Rule::Conventions => SENSITIVE_KEYS.iter().any(|listed| decodes_to(key, listed)),
        }
    }
}

/// The query of a URL, to be written without what is kept back.
#[derive(Clone, Copy)]
pub struct RedactedQuery<'a> {
    query: &'a str,
    redaction: &'a QueryRedaction,
}

/// The longest URL or query that is made on the stack, in bytes.
const STACK: usize = 256;

/// Sets a text that is too long to be made in the span itself.
#[inline(never)]
fn set_long(attributes: &mut Attributes<'_>, key: Key<'_>, text: &dyn fmt::Display) {
    let mut made = Letters::<STACK>::new();
    match write!(made, "{text}") {
        Ok(()) => attributes.set(key, made.as_str()),
        Err(fmt::Error) => attributes.set(key, display(text)),
    }
}

impl<'a> RedactedQuery<'a> {
    /// Writes what is left of the query, piece by piece.
    #[inline]
    fn pieces<E>(&self, write: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let Self { query, redaction } = self;
        if redaction.keeps_back_all() {
            pieces(query, |_| true, write)
        } else {
            // In front of a key there may be others without a value.
            let key = |keys: &'a str| keys.rsplit_once('&').map_or(keys, |(_, key)| key);
            pieces(query, |keys| redaction.keeps_back(key(keys)), write)
        }
    }

    /// Writes them to a span.
    // By a call: what is in line around it has all registers in use.
    #[inline(never)]
    fn write_to(&self, text: &mut Pieces<'_>) -> fmt::Result {
        self.pieces(|piece| text.write_str(piece))
    }

    /// Sets the query as an attribute of a span.
    #[inline(always)]
    pub fn set(&self, attributes: &mut Attributes<'_>, key: Key<'_>) {
        if !attributes.set_pieces(key, |text| self.write_to(text)) {
            cold_path();
            attributes.aside(|attributes| set_long(attributes, key, self));
        }
    }
}

impl fmt::Display for RedactedQuery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces(|piece| f.write_str(piece))
    }
}

/// As it is written: what is kept back is not shown either.
impl fmt::Debug for RedactedQuery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes what is left of a query, piece by piece. Neighbours that stay as they are are one piece. Whether a value is kept back is
/// decided by the text between the value before it, or the beginning, and its own `=`.
#[inline(always)]
fn pieces<'a, E>(
    query: &'a str,
    keeps_back: impl Fn(&'a str) -> bool,
    mut write: impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    let bytes = query.as_bytes();
    // Where a byte is next, from some place on, or the query's end. Queries are too short for anything faster.
    let find = |byte: u8, from: usize| {
        let mut at = from;
        while at < bytes.len() && bytes[at] != byte {
            at += 1;
        }
        at
    };
    let piece = |start: usize, end: usize| {
        debug_assert!(query.get(start..end).is_some());
        // SAFETY: every place below is the beginning of the query, its end, a `&` or a `=`, or behind one of these, and so
        // between two letters; they are given in the order in which they were found.
        unsafe { query.get_unchecked(start..end) }
    };
    let (mut written, mut value_end) = (0, 0);
    loop {
        let key_end = find(b'=', value_end);
        if key_end == bytes.len() {
            break;
        }
        let keys = piece(value_end, key_end);
        value_end = find(b'&', key_end + 1);
        if keeps_back(keys) {
            write(piece(written, key_end + 1))?;
            write(REDACTED)?;
            written = value_end;
        }
    }
    if written == bytes.len() { Ok(()) } else { write(piece(written, bytes.len())) }
}

/// A URL, to be written without what is kept back.
#[derive(Clone, Copy)]
pub struct RedactedUrl<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
    redaction: &'a QueryRedaction,
}

impl<'a> RedactedUrl<'a> {
    /// The same URL, with these where it has none of its own: for a request that names its server only in `Host`.
    #[must_use]
    pub fn or_at(mut self, scheme: &'a str, authority: Option<&'a str>) -> Self {
        self.scheme = self.scheme.or(Some(scheme));
        self.authority = self.authority.or(authority);
        self
    }

    /// The scheme.
    pub const fn scheme(&self) -> Option<&'a str> {
        self.scheme
    }

    /// The server, as it is written: with a password, if there is one.
    pub(crate) const fn authority(&self) -> Option<&'a str> {
        self.authority
    }
}

impl RedactedUrl<'_> {
    /// Sets the URL as an attribute of a span.
    #[inline(always)]
    pub fn set(&self, attributes: &mut Attributes<'_>, key: Key<'_>) {
        if !attributes.set_pieces(key, |text| self.pieces(|piece| text.write_str(piece))) {
            cold_path();
            attributes.aside(|attributes| set_long(attributes, key, self));
        }
    }

    /// Writes what is left of the URL, piece by piece.
    #[inline]
    fn pieces<E>(&self, mut write: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        if let Some(authority) = self.authority {
            if let Some(scheme) = self.scheme {
                write(scheme)?;
                write(":")?;
            }
            write("//")?;
            match authority.rsplit_once('@') {
                Some((_, host)) => {
                    write("REDACTED:REDACTED@")?;
                    write(host)?;
                }
                None => write(authority)?,
            }
        }
        write(self.path)?;
        if let Some(query) = self.query {
            write("?")?;
            self.redaction.query(query).pieces(write)?;
        }
        Ok(())
    }
}

impl fmt::Display for RedactedUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces(|piece| f.write_str(piece))
    }
}

/// As it is written: what is kept back is not shown either.
impl fmt::Debug for RedactedUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a percent-encoded text says this.
fn decodes_to(encoded: &str, text: &str) -> bool {
    let mut encoded = encoded.bytes();
    let mut text = text.bytes();
    loop {
        let byte = match encoded.next() {
            Some(b'%') => {
                let mut ahead = encoded.clone();
                match (ahead.next().and_then(hex), ahead.next().and_then(hex)) {
                    (Some(high), Some(low)) => {
                        encoded = ahead;
                        Some(high << 4 | low)
                    }
                    _ => Some(b'%'),
                }
            }
            byte => byte,
        };
        if byte != text.next() {
            return false;
        }
        if byte.is_none() {
            return true;
        }
    }
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
