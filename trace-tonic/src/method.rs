//! The method that a call names.

use std::collections::HashSet;
use std::sync::Arc;

/// The methods that are known to exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Methods {
    names: Arc<HashSet<String>>,
}

/// A method as a call names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method<'a> {
    /// It exists.
    Known(&'a str),
    /// It may exist: it looks like a method.
    Possible(&'a str),
    /// It cannot exist.
    Other(&'a str),
}

impl Methods {
    pub(crate) fn extend(&mut self, names: impl IntoIterator<Item = String>) {
        Arc::make_mut(&mut self.names).extend(names);
    }

    pub(crate) fn of<'a>(&self, path: &'a str) -> Method<'a> {
        match Method::of(path) {
            Method::Possible(name) if self.names.contains(name) => Method::Known(name),
            method => method,
        }
    }
}

impl<'a> Method<'a> {
    /// The method in a path: `/package.Service/Method`
    /// ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests)).
    pub(crate) fn of(path: &'a str) -> Self {
        let name = path.strip_prefix('/').unwrap_or(path);
        // Counted to the end, which needs no branch for each letter.
        let slashes = name.bytes().fold(0, |slashes: usize, byte| slashes + usize::from(byte == b'/'));
        if slashes == 1 && !name.starts_with('/') && !name.ends_with('/') {
            Self::Possible(name)
        } else {
            Self::Other(name)
        }
    }

    /// The method that a client calls: the last two words of the path. A server may lie below a path of its own, which is
    /// part of its client's origin and not of the method's name.
    pub(crate) fn called(path: &'a str) -> Self {
        match Self::of(path) {
            Self::Other(name) => Self::below_prefix(name),
            method => method,
        }
    }

    #[cold]
    fn below_prefix(name: &'a str) -> Self {
        let mut words = name.rsplitn(3, '/');
        match (words.next(), words.next(), words.next()) {
            (Some(method), Some(service), Some(prefix)) if !method.is_empty() && !service.is_empty() => {
                Self::Possible(&name[prefix.len() + 1..])
            }
            _ => Self::Other(name),
        }
    }

    /// The value of `rpc.method`.
    pub(crate) const fn attribute(self) -> &'a str {
        match self {
            Self::Known(name) | Self::Possible(name) => name,
            Self::Other(_) => OTHER,
        }
    }

    /// The value of `rpc.method_original`.
    pub(crate) const fn original(self) -> Option<&'a str> {
        match self {
            Self::Other(name) => Some(name),
            _ => None,
        }
    }

    /// The name of the span.
    pub(crate) const fn span_name(self) -> &'a str {
        match self {
            Self::Known(name) | Self::Possible(name) => name,
            Self::Other(_) => SYSTEM,
        }
    }
}

/// `rpc.method` of a method that does not exist.
pub(crate) const OTHER: &str = "_OTHER";

/// `rpc.system.name`, and the name of a span whose method does not exist.
pub(crate) const SYSTEM: &str = "grpc";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_two_words() {
        let mut methods = Methods::default();
        methods.extend(["shop.Inventory/Stock".to_owned()]);
        assert_eq!(methods.of("/shop.Inventory/Stock"), Method::Known("shop.Inventory/Stock"));
        assert_eq!(methods.of("/shop.Inventory/Other"), Method::Possible("shop.Inventory/Other"));
        for path in ["", "/", "//", "/a", "/a/", "//a", "/a/b/c", "*"] {
            assert_eq!(methods.of(path), Method::Other(path.strip_prefix('/').unwrap_or(path)));
        }
    }

    #[test]
    fn a_client_calls_what_the_last_two_words_say() {
        let get = Method::Possible("shop.Inventory/Get");
        for prefix in ["", "/", "/prefix/", "/a/b/", "/prefix//", "//", "/\u{e9}\u{1f9fe}/"] {
            assert_eq!(Method::called(&format!("{prefix}shop.Inventory/Get")), get, "{prefix}");
        }
        for path in ["", "/", "//", "///", "/a", "/a/", "//a", "/a/b/", "/a//b", "/\u{e9}", "*"] {
            assert_eq!(Method::called(path), Method::Other(path.strip_prefix('/').unwrap_or(path)));
        }
    }
}
