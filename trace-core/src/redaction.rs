//! What is kept back: the parts of a URL that hold what only the two ends should know.
//!
//! Names and passwords never leave. The values of a query stay behind too, unless their keys are known to be harmless;
//! the keys themselves are kept, because they tell which request it was. Nothing is allocated: what is left of a URL is
//! written straight into the span that asks for it.

use std::borrow::Cow;
use std::fmt::{self, Display};

/// Which values of a query are replaced by `REDACTED`. Default: [all](Self::all).
///
/// Keys are compared case-sensitively, percent-encoding undone.
///
/// ```
/// use trace_core::QueryRedaction;
///
/// let redaction = QueryRedaction::all_but(["page"]);
/// assert_eq!(redaction.query("page=2&token=4711").to_string(), "page=2&token=REDACTED");
/// assert_eq!(
///     redaction.url("https://me:secret@shop.example/orders?token=4711#top").to_string(),
///     "https://REDACTED:REDACTED@shop.example/orders?token=REDACTED",
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryRedaction {
    keys: Cow<'static, [Cow<'static, str>]>,
    listed: Listed,
}

/// What the keys of the list are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Harmless,
    Secret,
}

/// A query without its secrets: see [`QueryRedaction::query`].
#[derive(Clone, Copy, Debug)]
pub struct RedactedQuery<'a> {
    query: &'a str,
    redaction: &'a QueryRedaction,
}

/// A URL without its secrets: see [`QueryRedaction::url`].
#[derive(Clone, Copy, Debug)]
pub struct RedactedUrl<'a> {
    url: &'a str,
    redaction: &'a QueryRedaction,
}

const REDACTED: &str = "REDACTED";

/// The default list of the [conventions for HTTP spans](https://opentelemetry.io/docs/specs/semconv/http/http-spans/):
/// the signatures of pre-signed URLs.
const CONVENTIONAL_SECRETS: &[Cow<'static, str>] = &[
    Cow::Borrowed("AWSAccessKeyId"),
    Cow::Borrowed("Signature"),
    Cow::Borrowed("X-Amz-Credential"),
    Cow::Borrowed("X-Amz-Security-Token"),
    Cow::Borrowed("X-Amz-Signature"),
    Cow::Borrowed("X-Goog-Signature"),
    Cow::Borrowed("sig"),
];

impl QueryRedaction {
    /// Every value is kept back.
    pub const fn all() -> Self {
        Self { keys: Cow::Borrowed(&[]), listed: Listed::Harmless }
    }

    /// Every value is kept back but those of these keys.
    pub fn all_but<K: Into<Cow<'static, str>>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self { keys: keys.into_iter().map(Into::into).collect(), listed: Listed::Harmless }
    }

    /// Only the values of these keys are kept back.
    pub fn only<K: Into<Cow<'static, str>>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self { keys: keys.into_iter().map(Into::into).collect(), listed: Listed::Secret }
    }

    /// Only the values of the keys that the
    /// [conventions](https://opentelemetry.io/docs/specs/semconv/http/http-spans/) list are kept back: the signatures of
    /// pre-signed URLs. Whatever else a query holds leaves the process.
    pub const fn conventional() -> Self {
        Self { keys: Cow::Borrowed(CONVENTIONAL_SECRETS), listed: Listed::Secret }
    }

    /// The query, as it may leave.
    pub const fn query<'a>(&'a self, query: &'a str) -> RedactedQuery<'a> {
        RedactedQuery { query, redaction: self }
    }

    /// The absolute URL, as it may leave: name and password replaced, the query redacted, without the fragment.
    pub const fn url<'a>(&'a self, url: &'a str) -> RedactedUrl<'a> {
        RedactedUrl { url, redaction: self }
    }

    fn keeps_back(&self, key: &str) -> bool {
        let listed = self.keys.iter().any(|listed| is_encoding_of(key, listed));
        listed == (self.listed == Listed::Secret)
    }
}

impl Default for QueryRedaction {
    fn default() -> Self {
        Self::all()
    }
}

impl Display for RedactedQuery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, pair) in self.query.split('&').enumerate() {
            if i > 0 {
                f.write_str("&")?;
            }
            match pair.split_once('=') {
                Some((key, _)) if self.redaction.keeps_back(key) => {
                    f.write_str(key)?;
                    f.write_str("=")?;
                    f.write_str(REDACTED)?;
                }
                _ => f.write_str(pair)?,
            }
        }
        Ok(())
    }
}

impl Display for RedactedUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.split_once('#').map_or(self.url, |(url, _)| url);
        let (url, query) = match url.split_once('?') {
            Some((url, query)) => (url, Some(query)),
            None => (url, None),
        };
        match url.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                match authority.rsplit_once('@') {
                    Some((_, host)) => {
                        f.write_str(scheme)?;
                        f.write_str("://REDACTED:REDACTED@")?;
                        f.write_str(host)?;
                        f.write_str(path)?;
                    }
                    None => f.write_str(url)?,
                }
            }
            None => f.write_str(url)?,
        }
        match query {
            Some(query) => write!(f, "?{}", self.redaction.query(query)),
            None => Ok(()),
        }
    }
}

/// Whether `encoded` is the percent-encoding of `plain`, which has no other meaning to the server than `plain` itself.
fn is_encoding_of(encoded: &str, plain: &str) -> bool {
    if !encoded.contains(['%', '+']) {
        return encoded == plain;
    }
    let mut rest = encoded.as_bytes();
    let decoded = std::iter::from_fn(|| {
        let (byte, after) = match *rest {
            [] => return None,
            [b'%', high, low, ref after @ ..] => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', &rest[1..]),
            },
            [b'+', ref after @ ..] => (b' ', after),
            [byte, ref after @ ..] => (byte, after),
        };
        rest = after;
        Some(byte)
    });
    decoded.eq(plain.bytes())
}

fn hex(digit: u8) -> Option<u8> {
    // The digit is below 16.
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_and_values_do_not() {
        let all = QueryRedaction::all();
        for (query, left) in [
            ("", ""),
            ("a", "a"),
            ("a=", "a=REDACTED"),
            ("a=b", "a=REDACTED"),
            ("a=b=c", "a=REDACTED"),
            ("a=1&b=2&&c", "a=REDACTED&b=REDACTED&&c"),
            ("=x", "=REDACTED"),
            ("a=1;b=2", "a=REDACTED"),
            ("é=ü", "é=REDACTED"),
        ] {
            assert_eq!(all.query(query).to_string(), left);
        }
    }

    #[test]
    fn listed_keys_keep_their_values() {
        let redaction = QueryRedaction::all_but(["page", "a b"]);
        let query = "page=1&Page=2&p%61ge=3&pages=4&a+b=5&a%20b=6&a%2=7&%=8";
        let left = "page=1&Page=REDACTED&p%61ge=3&pages=REDACTED&a+b=5&a%20b=6&a%2=REDACTED&%=REDACTED";
        assert_eq!(redaction.query(query).to_string(), left);
    }

    #[test]
    fn the_conventions_know_the_keys_of_signatures_however_they_are_written() {
        let redaction = QueryRedaction::conventional();
        for key in [
            "X-Amz-Signature",
            "X-Amz-Credential",
            "X-Amz-Security-Token",
            "AWSAccessKeyId",
            "Signature",
            "sig",
            "X-Goog-Signature",
            "s%69g",
            "%73%69%67",
        ] {
            let query = format!("{key}=secret&page=2&SIG=3");
            assert_eq!(redaction.query(&query).to_string(), format!("{key}=REDACTED&page=2&SIG=3"));
        }
        assert_eq!(
            QueryRedaction::only(["sig"]).query("sig=1&Signature=2").to_string(),
            "sig=REDACTED&Signature=2"
        );
    }

    #[test]
    fn a_url_loses_its_name_its_password_and_its_fragment() {
        let all = QueryRedaction::all();
        for (url, left) in [
            ("http://a.example", "http://a.example"),
            ("http://a.example:81/b/c", "http://a.example:81/b/c"),
            ("http://me@a.example/", "http://REDACTED:REDACTED@a.example/"),
            ("http://me:pw@a.example/", "http://REDACTED:REDACTED@a.example/"),
            ("http://m@e:p@w@a.example/@x", "http://REDACTED:REDACTED@a.example/@x"),
            ("http://a.example/me@b", "http://a.example/me@b"),
            ("http://a.example?k=v@w", "http://a.example?k=REDACTED"),
            ("http://a.example/?k=v#secret", "http://a.example/?k=REDACTED"),
            ("http://a.example/#secret?k=v", "http://a.example/"),
            ("http://[::1]:80/?a&b=c", "http://[::1]:80/?a&b=REDACTED"),
            ("http://a.example/?next=http://x:y@z/", "http://a.example/?next=REDACTED"),
            ("/path?k=v", "/path?k=REDACTED"),
        ] {
            assert_eq!(all.url(url).to_string(), left);
        }
    }
}
