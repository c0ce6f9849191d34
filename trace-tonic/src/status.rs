//! The status of a call: where it is found, what it is called, and for whom it is an error.

use std::error::Error;

use http::{HeaderMap, HeaderName, StatusCode};
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tower::load_shed::error::Overloaded;
use trace_core::{Span, semconv};

/// How many errors of a chain are looked at: chains are short, and one that is not may be a loop.
const SOURCES_MAX: usize = 16;

/// One side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// What a response has told of the status so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// From the trailers, or from the head where there are none.
    grpc: Option<Code>,
    http: Option<StatusCode>,
}

impl Told {
    /// Reads the head of a response; the status that it has, if it is all that will come.
    pub(crate) fn head(&mut self, status: StatusCode, headers: &HeaderMap) -> Option<Code> {
        self.http = Some(status);
        self.grpc = in_headers(headers);
        self.grpc
    }

    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        self.grpc = in_headers(trailers).or(self.grpc);
    }

    /// What was told of the status itself.
    pub(crate) const fn grpc(&self) -> Option<Code> {
        self.grpc
    }

    /// The status of a response that came to its end.
    pub(crate) fn complete(&self) -> Code {
        self.grpc.unwrap_or_else(|| self.http.map_or(Code::Unknown, of_http))
    }
}

impl Side {
    /// Whether a status is an error
    /// ([conventions for gRPC](https://opentelemetry.io/docs/specs/semconv/rpc/grpc/)).
    const fn is_error(self, code: Code) -> bool {
        match self {
            Self::Client => !matches!(code, Code::Ok),
            Self::Server => matches!(
                code,
                Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::Unimplemented
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss
            ),
        }
    }

    /// Notes the status that a call ended with.
    #[inline]
    pub(crate) fn note(self, span: &mut Span, code: Code) {
        let name = name(code);
        span.set_attribute(semconv::RPC_STATUS_CODE, name);
        if self.is_error(code) {
            span.set_error_if_unset(name);
        }
    }
}

/// Notes that nobody waited for the end of a call.
pub(crate) fn note_cancelled(span: &mut Span) {
    span.set_attribute(semconv::RPC_STATUS_CODE, name(Code::Cancelled));
}

/// Up to this many headers are looked at one by one: hashing the name takes as long as looking at five.
const FEW: usize = 8;

fn in_headers(headers: &HeaderMap) -> Option<Code> {
    static GRPC_STATUS: HeaderName = Status::GRPC_STATUS;
    let code = if headers.len() <= FEW {
        headers.iter().find_map(|(name, value)| (name.as_str() == GRPC_STATUS.as_str()).then_some(value))
    } else {
        headers.get(&GRPC_STATUS)
    };
    code.map(|code| Code::from_bytes(code.as_bytes()))
}

/// The status of a response that tells none, by
/// [gRPC's mapping](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
const fn of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// The status that tonic makes of an error ([`Status::from_error`]), which can only be asked by giving the error away.
pub(crate) fn of_error(error: &(dyn Error + 'static)) -> Code {
    // These two tonic knows only as the outermost error, but for HTTP/2's inside of hyper's.
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return of_h2(error);
    }
    if error.is::<Overloaded>() {
        return Code::ResourceExhausted;
    }
    let mut next = Some(error);
    for _ in 0..SOURCES_MAX {
        let Some(error) = next else { break };
        if let Some(status) = error.downcast_ref::<Status>() {
            return status.code();
        }
        if error.is::<TimeoutExpired>() {
            return Code::Cancelled;
        }
        if error.is::<ConnectError>() {
            return Code::Unavailable;
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_timeout() {
                return Code::Unavailable;
            }
            if error.is_canceled() {
                return Code::Cancelled;
            }
            if let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
                return of_h2(error);
            }
        }
        next = error.source();
    }
    Code::Unknown
}

/// By [gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors).
fn of_h2(error: &h2::Error) -> Code {
    match error.reason() {
        Some(
            h2::Reason::NO_ERROR
            | h2::Reason::PROTOCOL_ERROR
            | h2::Reason::INTERNAL_ERROR
            | h2::Reason::FLOW_CONTROL_ERROR
            | h2::Reason::SETTINGS_TIMEOUT
            | h2::Reason::FRAME_SIZE_ERROR
            | h2::Reason::COMPRESSION_ERROR
            | h2::Reason::CONNECT_ERROR,
        ) => Code::Internal,
        Some(h2::Reason::REFUSED_STREAM) => Code::Unavailable,
        Some(h2::Reason::CANCEL) => Code::Cancelled,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        _ => Code::Unknown,
    }
}

/// The name of a status, as [gRPC](https://github.com/grpc/grpc/blob/master/doc/statuscodes.md) writes it.
pub(crate) const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Outer(Box<dyn Error + Send + Sync>);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outer")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }

    #[test]
    fn errors_are_judged_as_tonic_judges_them() {
        let reasons = (0..=20).map(|reason| h2::Error::from(h2::Reason::from(reason)));
        let errors = (0..=17)
            .map(|code| Box::new(Status::new(Code::from(code), "")) as Box<dyn Error + Send + Sync>)
            .chain(reasons.map(|error| Box::new(error) as _))
            .chain([
                Box::new(ConnectError("refused".into())) as _,
                Box::new(std::io::Error::other("broken")) as _,
                Box::new(Overloaded::new()) as _,
                "text".into(),
            ]);
        for error in errors {
            let debug = format!("{error:?}");
            let ours = of_error(&*error);
            assert_eq!(ours, Status::from_error(error).code(), "{debug}");
        }
        let inner: [Box<dyn Error + Send + Sync>; 3] = [
            Box::new(Outer(Box::new(Status::data_loss("")))),
            Box::new(Overloaded::new()),
            Box::new(h2::Error::from(h2::Reason::REFUSED_STREAM)),
        ];
        for nested in inner.map(Outer) {
            let debug = format!("{nested:?}");
            let ours = of_error(&nested);
            assert_eq!(ours, Status::from_error(Box::new(nested)).code(), "{debug}");
        }
    }

    #[test]
    fn a_status_is_an_error_for_those_whom_the_conventions_name() {
        for code in (0..=16).map(Code::from) {
            let servers = matches!(
                name(code),
                "UNKNOWN" | "DEADLINE_EXCEEDED" | "UNIMPLEMENTED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS"
            );
            assert_eq!(Side::Server.is_error(code), servers, "{code:?}");
            assert_eq!(Side::Client.is_error(code), name(code) != "OK", "{code:?}");
        }
    }

    #[test]
    fn a_response_without_a_status_has_that_of_its_http_status() {
        for (http, code) in [
            (200, Code::Unknown),
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (418, Code::Unknown),
            (429, Code::Unavailable),
            (500, Code::Unknown),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
        ] {
            let mut told = Told::default();
            told.head(StatusCode::from_u16(http).unwrap(), &HeaderMap::new());
            assert_eq!(told.complete(), code, "{http}");
        }
    }

    #[test]
    fn a_status_that_is_no_number_or_no_code_is_unknown() {
        for text in ["17", "-1", "00", "x", ""] {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", text.parse().unwrap());
            let mut told = Told::default();
            told.head(StatusCode::OK, &HeaderMap::new());
            told.trailers(&trailers);
            assert_eq!(told.complete(), Code::Unknown, "{text}");
        }
    }

    #[test]
    fn the_first_status_counts_among_few_headers_and_among_many() {
        for others in [0, FEW] {
            let mut trailers = HeaderMap::new();
            for other in 0..others {
                trailers
                    .insert(HeaderName::try_from(format!("other-{other}")).unwrap(), "1".parse().unwrap());
            }
            let mut told = Told::default();
            told.trailers(&trailers);
            assert_eq!(told.grpc(), None);
            trailers.append("grpc-status", "5".parse().unwrap());
            trailers.append("grpc-status", "0".parse().unwrap());
            told.trailers(&trailers);
            assert_eq!(told.grpc(), Some(Code::NotFound));
        }
    }
}
