//! Where formats find and leave their header lines.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Something that header lines can be read from.
///
/// Names are given in lower case and found in any case.
pub trait Extractor {
    /// The first line of this name.
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]>;

    /// Shows every line of this name, in their order.
    fn get_all(&self, name: &str, each: &mut dyn FnMut(&[u8]));
}

/// Something that header lines can be written to.
///
/// Names are given in lower case, and lines of the name in another case count as the same.
pub trait Injector {
    /// Makes this the only line of its name.
    fn set(&mut self, name: &'static str, value: &str);

    /// Takes away every line of this name: what another context left there.
    fn remove(&mut self, name: &'static str);
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
}

impl<I: Injector + ?Sized> Injector for &mut I {
    #[inline]
    fn set(&mut self, name: &'static str, value: &str) {
        (**self).set(name, value);
    }

    #[inline]
    fn remove(&mut self, name: &'static str) {
        (**self).remove(name);
    }
}

/// The names of the W3C formats, which are looked up for every request, ready made.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static BAGGAGE: HeaderName = HeaderName::from_static("baggage");

#[inline]
fn known(name: &str) -> Option<&'static HeaderName> {
    match name {
        "traceparent" => Some(&TRACEPARENT),
        "tracestate" => Some(&TRACESTATE),
        "baggage" => Some(&BAGGAGE),
        _ => None,
    }
}

impl Extractor for HeaderMap {
    #[inline]
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        let value = match known(name) {
            Some(name) => self.get(name),
            None => self.get(name),
        };
        value.map(HeaderValue::as_bytes)
    }

    #[inline]
    fn get_all(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        let values = match known(name) {
            Some(name) => self.get_all(name),
            None => self.get_all(name),
        };
        values.iter().for_each(|value| each(value.as_bytes()));
    }
}

impl Injector for HeaderMap {
    /// A name or a value that HTTP does not allow is left out; no format of this crate makes one.
    #[inline]
    fn set(&mut self, name: &'static str, value: &str) {
        let Ok(value) = HeaderValue::from_str(value) else { return };
        let name = match known(name) {
            Some(name) => name.clone(),
            None => match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => name,
                Err(_) => return,
            },
        };
        // It fails only when 32 768 headers are there already.
        let _ = self.try_insert(name, value);
    }

    #[inline]
    fn remove(&mut self, name: &'static str) {
        match known(name) {
            Some(name) => self.remove(name),
            None => self.remove(name),
        };
    }
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
