//! The method of a request, and what to call one that nobody knows.

use std::sync::Arc;

use http::Method;

/// The methods that are told by their names; all others are `_OTHER`, so that a caller who makes methods up cannot make
/// up span names.
///
/// By default these are `CONNECT`, `DELETE`, `GET`, `HEAD`, `OPTIONS`, `PATCH`, `POST`, `PUT`, `TRACE` and `QUERY`. A list
/// of your own replaces them all.
#[derive(Clone, Debug, Default)]
pub struct KnownMethods {
    own: Option<Arc<[String]>>,
}

/// What a method is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodName<'a> {
    sent: &'a str,
    known: bool,
}

impl KnownMethods {
    /// These methods and no others. They are case-sensitive.
    pub fn only<M: Into<String>>(methods: impl IntoIterator<Item = M>) -> Self {
        Self { own: Some(methods.into_iter().map(Into::into).collect()) }
    }

    /// What this method is called.
    #[inline]
    pub fn name<'a>(&self, method: &'a Method) -> MethodName<'a> {
        match &self.own {
            // Nearly all are one of these.
            None if *method == Method::GET => MethodName { sent: "GET", known: true },
            None if *method == Method::POST => MethodName { sent: "POST", known: true },
            own => Self::look_up(own.as_deref(), method),
        }
    }

    #[inline(never)]
    fn look_up<'a>(own: Option<&[String]>, method: &'a Method) -> MethodName<'a> {
        let sent = method.as_str();
        let known = match own {
            None => match *method {
                Method::PUT
                | Method::DELETE
                | Method::HEAD
                | Method::OPTIONS
                | Method::PATCH
                | Method::CONNECT
                | Method::TRACE => true,
                _ => sent == "QUERY",
            },
            Some(own) => own.iter().any(|known| known == sent),
        };
        MethodName { sent, known }
    }
}

impl<'a> MethodName<'a> {
    /// The value of `http.request.method`.
    pub const fn attribute(&self) -> &'a str {
        if self.known { self.sent } else { "_OTHER" }
    }

    /// The value of `http.request.method_original`, which an unknown method has.
    pub const fn original(&self) -> Option<&'a str> {
        if self.known { None } else { Some(self.sent) }
    }

    /// What the name of a span begins with.
    pub const fn in_span_name(&self) -> &'a str {
        if self.known { self.sent } else { "HTTP" }
    }
}
