//! The headers of a request that say something about its trace, found in one pass.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use trace_core::propagation::{Extractor, Lines, W3cLines};
use trace_core::{Context, Propagator};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// What propagation and the conventions look for in every request's headers.
///
/// A look-up by name hashes the name, which takes as long as looking at four headers; five names are looked up, and a request
/// has some ten headers.
#[derive(Clone, Copy)]
pub struct RequestHeaders<'a> {
    all: &'a HeaderMap,
    host: Option<&'a HeaderValue>,
    user_agent: Option<&'a HeaderValue>,
    w3c: W3cLines<'a>,
}

impl<'a> RequestHeaders<'a> {
    /// Looks through the headers.
    #[inline(always)]
    pub fn new(all: &'a HeaderMap) -> Self {
        let mut found = Self { all, host: None, user_agent: None, w3c: W3cLines::default() };
        for (name, value) in all {
            // The names that HTTP itself knows are compared as numbers, and are none of those that it does not.
            if *name == header::HOST {
                found.host = found.host.or(Some(value));
            } else if *name == header::USER_AGENT {
                found.user_agent = found.user_agent.or(Some(value));
            } else if *name == TRACEPARENT {
                found.w3c.traceparent.add(value.as_bytes());
            } else if *name == TRACESTATE {
                found.w3c.tracestate.add(value.as_bytes());
            } else if *name == BAGGAGE {
                found.w3c.baggage.add(value.as_bytes());
            }
        }
        found
    }

    /// The first `Host`.
    #[inline]
    pub const fn host(&self) -> Option<&'a HeaderValue> {
        self.host
    }

    /// The first `User-Agent`.
    #[inline]
    pub const fn user_agent(&self) -> Option<&'a HeaderValue> {
        self.user_agent
    }

    /// The context that they carry.
    #[inline(always)]
    pub(super) fn extract(&self, propagator: &Propagator) -> Context {
        propagator.extract_lines(self.w3c, || *self)
    }

    #[inline]
    fn lines(&self, name: &str) -> Lines<'a> {
        match name {
            "traceparent" => self.w3c.traceparent,
            "tracestate" => self.w3c.tracestate,
            "baggage" => self.w3c.baggage,
            // Of any other format.
            _ => Lines::Several,
        }
    }
}

impl Extractor for RequestHeaders<'_> {
    #[inline]
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        match self.lines(name) {
            Lines::None => None,
            Lines::One(line) => Some(line),
            Lines::Several => Extractor::get(self.all, name),
        }
    }

    #[inline]
    fn get_all(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        match self.lines(name) {
            Lines::None => {}
            Lines::One(line) => each(line),
            Lines::Several => Extractor::get_all(self.all, name, each),
        }
    }

    #[inline]
    fn w3c_lines(&self) -> W3cLines<'_> {
        self.w3c
    }
}

/// Without the values, which may be secrets: what is shown may end up in a span.
impl fmt::Debug for RequestHeaders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHeaders").field("all", &self.all.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(headers: &RequestHeaders<'_>, name: &str) -> Vec<String> {
        let mut lines = Vec::new();
        headers.get_all(name, &mut |line| lines.push(String::from_utf8_lossy(line).into_owned()));
        let first = headers.get(name).map(|line| String::from_utf8_lossy(line).into_owned());
        assert_eq!(first.as_ref(), lines.first());
        lines
    }

    #[test]
    fn what_is_found_is_what_a_look_up_finds() {
        let mut all = HeaderMap::new();
        for (name, value) in [
            ("tracestate", "a=1"),
            ("host", "first"),
            ("baggage", "k=v"),
            ("tracestate", "b=2"),
            ("host", "second"),
            ("accept", "*/*"),
            ("b3", "0"),
            ("user-agent", "curl"),
        ] {
            all.append(name, HeaderValue::from_static(value));
        }
        let headers = RequestHeaders::new(&all);
        assert_eq!(headers.host().unwrap(), "first");
        assert_eq!(headers.user_agent().unwrap(), "curl");
        assert_eq!(lines(&headers, "traceparent"), [""; 0]);
        assert_eq!(lines(&headers, "tracestate"), ["a=1", "b=2"]);
        assert_eq!(lines(&headers, "baggage"), ["k=v"]);
        assert_eq!(lines(&headers, "b3"), ["0"]);
    }

    #[test]
    fn however_often_a_header_is_there_it_is_found_as_by_a_look_up() {
        let names = ["traceparent", "tracestate", "baggage", "b3"];
        // A header is there not at all, once, twice, three times.
        for times in 0..4_usize.pow(4) {
            let mut all = HeaderMap::new();
            for line in 0..3 {
                for (place, name) in names.into_iter().enumerate() {
                    if times / 4_usize.pow(place as u32) % 4 > line {
                        all.append(name, HeaderValue::try_from(format!("{name} {line}")).unwrap());
                    }
                }
            }
            let headers = RequestHeaders::new(&all);
            for name in names {
                let looked_up: Vec<_> = all.get_all(name).iter().map(|line| line.to_str().unwrap()).collect();
                assert_eq!(lines(&headers, name), looked_up);
                assert_eq!(lines(&headers, &name.to_uppercase()), looked_up);
            }
        }
    }
}
