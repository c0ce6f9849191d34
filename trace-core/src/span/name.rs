//! The name of a span, in the two parts that the conventions make names of.

use std::borrow::Cow;
use std::fmt;

/// The name of a span: what is done, and to what (`GET /orders/{id}`, `SELECT orders`), or either as one text.
///
/// The parts are joined where the name is written, into the span itself: a span that is not recorded joins nothing.
///
/// ```
/// use trace_core::SpanName;
///
/// assert_eq!(SpanName::new("GET", Some("/orders/{id}")).to_cow(), "GET /orders/{id}");
/// assert_eq!(SpanName::new("GET", None), SpanName::from("GET"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SpanName<'a> {
    operation: &'a str,
    /// Empty if there is none.
    target: &'a str,
}

impl<'a> SpanName<'a> {
    /// An operation, and its target if there is one: `{operation} {target}`.
    #[inline]
    pub const fn new(operation: &'a str, target: Option<&'a str>) -> Self {
        Self {
            operation,
            target: match target {
                Some(target) => target,
                None => "",
            },
        }
    }

    /// The name as one text: as it is, where it was one before.
    pub fn to_cow(&self) -> Cow<'a, str> {
        match self.target {
            "" => Cow::Borrowed(self.operation),
            _ => Cow::Owned(self.to_string()),
        }
    }

    /// What is done, and to what; the latter is empty if there is none.
    #[inline]
    pub(crate) const fn parts(&self) -> (&'a str, &'a str) {
        (self.operation, self.target)
    }

    /// The texts that the name is written of, one after the other.
    #[inline]
    pub(crate) const fn pieces(&self) -> [&'a str; 3] {
        [self.operation, if self.target.is_empty() { "" } else { " " }, self.target]
    }
}

impl<'a> From<&'a str> for SpanName<'a> {
    #[inline]
    fn from(name: &'a str) -> Self {
        Self::new(name, None)
    }
}

impl<'a> From<&'a String> for SpanName<'a> {
    #[inline]
    fn from(name: &'a String) -> Self {
        Self::new(name, None)
    }
}

impl fmt::Display for SpanName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().iter().try_for_each(|piece| f.write_str(piece))
    }
}

impl PartialEq for SpanName<'_> {
    /// Names are the same if they read the same.
    fn eq(&self, other: &Self) -> bool {
        let bytes = |name: &Self| name.pieces().into_iter().flat_map(str::bytes);
        bytes(self).eq(bytes(other))
    }
}

impl PartialEq<str> for SpanName<'_> {
    fn eq(&self, other: &str) -> bool {
        *self == SpanName::from(other)
    }
}

impl PartialEq<&str> for SpanName<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_the_same_in_one_part_and_in_two() {
        let joined = SpanName::new("GET", Some("/orders"));
        assert_eq!(joined, SpanName::from("GET /orders"));
        assert_eq!(joined, "GET /orders");
        assert_ne!(joined, "GET /orders/");
        assert_ne!(joined, "GET /order");
        assert_eq!(joined.to_string(), "GET /orders");
        assert_eq!(SpanName::new("GET", Some("")), "GET");
    }

    #[test]
    fn a_name_of_one_part_is_not_copied() {
        assert!(matches!(SpanName::from("GET").to_cow(), Cow::Borrowed("GET")));
        assert_eq!(SpanName::new("GET", Some("/")).to_cow(), "GET /");
    }
}
