//! `error.type` of a request that got no response.

use std::error::Error as StdError;

use reqwest_middleware::Error;
use trace_tower::conventions::ErrorType;

/// A word for what went wrong, of which there are few.
pub(crate) fn error_type(error: &Error) -> ErrorType {
    match error {
        Error::Reqwest(error) => of_reqwest(error),
        // A middleware between here and reqwest wrapped what it got.
        Error::Middleware(error) => match error.chain().find_map(|cause| cause.downcast_ref()) {
            Some(error) => of_reqwest(error),
            None => ErrorType::named("middleware"),
        },
    }
}

fn of_reqwest(error: &reqwest::Error) -> ErrorType {
    let name = if error.is_timeout() {
        "timeout"
    } else if error.is_dns() {
        "dns"
    } else if error.is_redirect() {
        "redirect"
    } else if let Some(kind) = ErrorType::of(error).filter(tells_something) {
        return kind;
    } else if error.is_connect() {
        "connect"
    } else if let Some(name) = sources(error).find_map(of_protocol) {
        name
    } else if error.is_body() {
        "body"
    } else if error.is_builder() {
        "builder"
    } else {
        std::any::type_name::<reqwest::Error>()
    };
    ErrorType::named(name)
}

/// Whether an `io::ErrorKind` says more than the error around it: TLS reports all of its errors
/// as `InvalidData`.
fn tells_something(kind: &ErrorType) -> bool {
    !matches!(kind.as_str(), "invalid_data" | "invalid_input")
}

fn of_protocol(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    match error.downcast_ref::<h2::Error>() {
        Some(error) => Some(of_h2(error)),
        None => error.downcast_ref().and_then(of_hyper),
    }
}

/// By the error codes of [HTTP/2](https://www.rfc-editor.org/rfc/rfc9113.html#section-7).
fn of_h2(error: &h2::Error) -> &'static str {
    match error.reason() {
        Some(h2::Reason::NO_ERROR) => "http2_no_error",
        Some(h2::Reason::PROTOCOL_ERROR) => "http2_protocol_error",
        Some(h2::Reason::INTERNAL_ERROR) => "http2_internal_error",
        Some(h2::Reason::FLOW_CONTROL_ERROR) => "http2_flow_control_error",
        Some(h2::Reason::SETTINGS_TIMEOUT) => "http2_settings_timeout",
        Some(h2::Reason::STREAM_CLOSED) => "http2_stream_closed",
        Some(h2::Reason::FRAME_SIZE_ERROR) => "http2_frame_size_error",
        Some(h2::Reason::REFUSED_STREAM) => "http2_refused_stream",
        Some(h2::Reason::CANCEL) => "http2_cancel",
        Some(h2::Reason::COMPRESSION_ERROR) => "http2_compression_error",
        Some(h2::Reason::CONNECT_ERROR) => "http2_connect_error",
        Some(h2::Reason::ENHANCE_YOUR_CALM) => "http2_enhance_your_calm",
        Some(h2::Reason::INADEQUATE_SECURITY) => "http2_inadequate_security",
        Some(h2::Reason::HTTP_1_1_REQUIRED) => "http2_http_1_1_required",
        _ => "http2",
    }
}

fn of_hyper(error: &hyper::Error) -> Option<&'static str> {
    if error.is_incomplete_message() {
        Some("incomplete_message")
    } else if error.is_parse() {
        Some("parse")
    } else if error.is_canceled() {
        Some("canceled")
    } else {
        None
    }
}

/// What lies beneath an error, from the top.
pub(crate) fn sources<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(error.source(), |error| (*error).source())
}
