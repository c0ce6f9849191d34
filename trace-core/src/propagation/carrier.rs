//! Where formats find and leave their header lines.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::trace_context::{Pending, put_traceparent};
use crate::context::Text;
use crate::hint::cold_path;

/// Something that header lines can be read from.
///
/// Names are given in lower case and found in any case.
pub trait Extractor {
    /// The first line of this name.
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]>;

    /// Shows every line of this name, in their order.
    fn get_all(&self, name: &str, each: &mut dyn FnMut(&[u8]));

    /// What there is of the headers that nearly every propagator looks for: for carriers that find three names in one pass
    /// faster than by three look-ups. By default nothing is known, and each is looked up.
    #[inline]
    fn w3c_lines(&self) -> W3cLines<'_> {
        W3cLines::UNKNOWN
    }
}

/// The lines of `traceparent`, `tracestate` and `baggage`: see [`Extractor::w3c_lines`].
#[derive(Clone, Copy, Debug, Default)]
pub struct W3cLines<'a> {
    /// Of `traceparent`.
    pub traceparent: Lines<'a>,
    /// Of `tracestate`.
    pub tracestate: Lines<'a>,
    /// Of `baggage`.
    pub baggage: Lines<'a>,
}

/// The lines of one name.
#[derive(Clone, Copy, Debug, Default)]
pub enum Lines<'a> {
    /// There is none.
    #[default]
    None,
    /// There is this one, and no other.
    One(&'a [u8]),
    /// There may be any number: they have to be looked up.
    Several,
}

impl W3cLines<'_> {
    /// Each has to be looked up.
    pub const UNKNOWN: Self =
        Self { traceparent: Lines::Several, tracestate: Lines::Several, baggage: Lines::Several };
}

impl<'a> Lines<'a> {
    /// Counts one more line.
    #[inline]
    pub const fn add(&mut self, line: &'a [u8]) {
        *self = match self {
            Self::None => Self::One(line),
            Self::One(_) | Self::Several => Self::Several,
        };
    }
}

/// Something that header lines can be written to.
///
/// Names are given in lower case, and lines of the name in another case count as the same.
pub trait Injector {
    /// Makes this the only line of its name.
    fn set(&mut self, name: &'static str, value: &str);

    /// As [`set`](Self::set), which it calls by default: for carriers that keep [`HeaderValue`]s, and take a ready one.
    #[inline]
    fn set_field(&mut self, name: &'static str, value: FieldValue<'_>) {
        self.set(name, value.as_str());
    }

    /// Takes away every line of this name: what another context left there.
    fn remove(&mut self, name: &'static str);
}

/// The value of a header line, known to be one.
///
/// ```
/// use http::{HeaderMap, HeaderName};
/// use trace_core::propagation::{FieldValue, Injector};
///
/// /// Headers of the protocol's own, below a prefix.
/// struct Prefixed(HeaderMap);
///
/// impl Injector for Prefixed {
///     fn set(&mut self, name: &'static str, value: &str) {
///         if let (Ok(name), Ok(value)) = (format!("x-{name}").parse::<HeaderName>(), value.parse()) {
///             self.0.insert(name, value);
///         }
///     }
///
///     // Without this one, the value would be copied, and looked at again.
///     fn set_field(&mut self, name: &'static str, value: FieldValue<'_>) {
///         if let Ok(name) = format!("x-{name}").parse::<HeaderName>() {
///             self.0.insert(name, value.to_header_value());
///         }
///     }
///
///     fn remove(&mut self, name: &'static str) {
///         self.0.remove(format!("x-{name}"));
///     }
/// }
///
/// # use trace_core::Propagator;
/// # let received = std::collections::HashMap::from([("baggage", "tenant.id=acme")]);
/// # let context = Propagator::default().extract(&received);
/// let mut headers = Prefixed(HeaderMap::new());
/// Propagator::default().inject(&context, &mut headers);
/// assert_eq!(headers.0["x-baggage"], "tenant.id=acme");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FieldValue<'a>(Field<'a>);

#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    Shared(&'a Text),
    Traceparent(&'a Pending),
}

impl<'a> FieldValue<'a> {
    #[inline]
    pub(super) const fn shared(text: &'a Text) -> Self {
        Self(Field::Shared(text))
    }

    #[inline]
    pub(super) const fn traceparent(value: &'a Pending) -> Self {
        Self(Field::Traceparent(value))
    }

    /// As text.
    #[inline]
    pub fn as_str(self) -> &'a str {
        match self.0 {
            Field::Shared(text) => text.as_str(),
            Field::Traceparent(value) => value.as_str(),
        }
    }

    /// As a value for a [`HeaderMap`]: that of a `tracestate` or a `baggage` is shared, and not copied.
    #[inline]
    pub fn to_header_value(self) -> HeaderValue {
        let text = match self.0 {
            Field::Shared(text) => text.clone(),
            Field::Traceparent(value) => Text::of_traceparent(value.span()),
        };
        text.into_header_value()
    }
}

impl<E: Extractor + ?Sized> Extractor for &E {
    #[inline]
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        (**self).get(name)
    }

    #[inline]
    fn get_all(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        (**self).get_all(name, each);
    }

    #[inline]
    fn w3c_lines(&self) -> W3cLines<'_> {
        (**self).w3c_lines()
    }
}

impl<I: Injector + ?Sized> Injector for &mut I {
    #[inline]
    fn set(&mut self, name: &'static str, value: &str) {
        (**self).set(name, value);
    }

    #[inline]
    fn set_field(&mut self, name: &'static str, value: FieldValue<'_>) {
        (**self).set_field(name, value);
    }

    #[inline]
    fn remove(&mut self, name: &'static str) {
        (**self).remove(name);
    }
}

/// Up to this many headers are looked at one by one, for three names at once: hashing one takes as long as looking at five.
const FEW: usize = 16;

impl Extractor for HeaderMap {
    #[inline]
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        self.get(name).map(HeaderValue::as_bytes)
    }

    #[inline]
    fn get_all(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        self.get_all(name).iter().for_each(|value| each(value.as_bytes()));
    }

    #[inline]
    fn w3c_lines(&self) -> W3cLines<'_> {
        if self.len() > FEW {
            return W3cLines::UNKNOWN;
        }
        let mut found = W3cLines::default();
        for (name, value) in self {
            match name.as_str() {
                "traceparent" => found.traceparent.add(value.as_bytes()),
                "tracestate" => found.tracestate.add(value.as_bytes()),
                "baggage" => found.baggage.add(value.as_bytes()),
                _ => {}
            }
        }
        found
    }
}

impl Injector for HeaderMap {
    /// A name or a value that HTTP does not allow is left out; no format of this crate makes one.
    fn set(&mut self, name: &'static str, value: &str) {
        put(self, name, Given::Text(value));
    }

    #[inline(always)]
    fn set_field(&mut self, name: &'static str, value: FieldValue<'_>) {
        match value.0 {
            Field::Traceparent(value) if name == "traceparent" => put_traceparent(self, value.span()),
            _ => put(self, name, Given::Field(value)),
        }
    }

    #[inline]
    fn remove(&mut self, name: &'static str) {
        // Mostly there is none.
        if self.len() > FEW || self.keys().any(|key| key == name) {
            cold_path();
            self.remove(name);
        }
    }
}

/// The value of a header before it is one.
enum Given<'a> {
    Field(FieldValue<'a>),
    Text(&'a str),
}

/// Sets any header.
// Only this and `put_traceparent` give a map a `HeaderName` by value, and look-ups are by text: so the compiler puts the map's code
// into each. Were it a call, name and value would be written to memory for it and read back at once by wider loads, which wait for
// what was written: a third more for each header.
#[inline(never)]
fn put(headers: &mut HeaderMap, name: &'static str, value: Given<'_>) {
    let value = match value {
        Given::Field(value) => value.to_header_value(),
        Given::Text(value) => match HeaderValue::from_str(value) {
            Ok(value) => value,
            Err(_) => return,
        },
    };
    // What is added then is the only one.
    Injector::remove(headers, name);
    let name = match name {
        // A constant is made by four stores, where a clone would be a call.
        "tracestate" => const { HeaderName::from_static("tracestate") },
        "baggage" => const { HeaderName::from_static("baggage") },
        _ => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => name,
            Err(_) => return,
        },
    };
    // Fails as above.
    let _ = headers.try_append(name, value);
}

/// A map whose keys are found in any case by looking at all of them: the metadata of a message are few.
fn get_in_any_case<'a, K: AsRef<str> + 'a, V: AsRef<str> + 'a>(
    entries: impl Iterator<Item = (&'a K, &'a V)>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    entries
        .filter(move |(key, _)| key.as_ref().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_ref().as_bytes())
}

impl<K, V, S> Extractor for HashMap<K, V, S>
where
    K: AsRef<str> + Borrow<str> + Eq + Hash,
    V: AsRef<str>,
    S: BuildHasher,
{
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        let exact = self.get(name).map(|value| value.as_ref().as_bytes());
        exact.or_else(|| get_in_any_case(self.iter(), name).next())
    }

    fn get_all(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        get_in_any_case(self.iter(), name).for_each(each);
    }
}

impl<K, V> Extractor for BTreeMap<K, V>
where
    K: AsRef<str> + Borrow<str> + Ord,
    V: AsRef<str>,
{
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        let exact = self.get(name).map(|value| value.as_ref().as_bytes());
        exact.or_else(|| get_in_any_case(self.iter(), name).next())
    }

    fn get_all(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        get_in_any_case(self.iter(), name).for_each(each);
    }
}

impl<S: BuildHasher> Injector for HashMap<String, String, S> {
    fn set(&mut self, name: &'static str, value: &str) {
        Injector::remove(self, name);
        self.insert(name.to_owned(), value.to_owned());
    }

    fn remove(&mut self, name: &'static str) {
        self.retain(|key, _| !key.eq_ignore_ascii_case(name));
    }
}

impl Injector for BTreeMap<String, String> {
    fn set(&mut self, name: &'static str, value: &str) {
        Injector::remove(self, name);
        self.insert(name.to_owned(), value.to_owned());
    }

    fn remove(&mut self, name: &'static str) {
        self.retain(|key, _| !key.eq_ignore_ascii_case(name));
    }
}

#[cfg(test)]
mod tests;
