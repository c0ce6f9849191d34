//! `error.type` of a request that got no response.

use std::error::Error as StdError;
use std::io;

use reqwest_middleware::Error;

/// A word for what went wrong, of which there are few.
pub(crate) fn error_type(error: &Error) -> &'static str {
    match error {
        Error::Reqwest(error) => of_reqwest(error),
        // A middleware between here and reqwest wrapped what it got.
        Error::Middleware(error) => {
            error.chain().find_map(|cause| cause.downcast_ref()).map_or("middleware", of_reqwest)
        }
    }
}

fn of_reqwest(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        return "timeout";
    }
    if error.is_dns() {
        return "dns";
    }
    if error.is_redirect() {
        return "redirect";
    }
    let io = sources(error).find_map(|cause| cause.downcast_ref::<io::Error>()).and_then(of_io);
    if let Some(io) = io {
        return io;
    }
    if error.is_connect() {
        return "connect";
    }
    let protocol = sources(error).find_map(|cause| match cause.downcast_ref::<h2::Error>() {
        Some(error) => Some(of_h2(error)),
        None => cause.downcast_ref::<hyper::Error>().and_then(of_hyper),
    });
    if let Some(protocol) = protocol {
        return protocol;
    }
    if error.is_body() {
        "body"
    } else if error.is_builder() {
        "builder"
    } else {
        std::any::type_name::<reqwest::Error>()
    }
}

/// The kinds that say what happened to the network; the others say no more than the error around them.
fn of_io(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection_refused",
        io::ErrorKind::ConnectionReset => "connection_reset",
        io::ErrorKind::ConnectionAborted => "connection_aborted",
        io::ErrorKind::HostUnreachable => "host_unreachable",
        io::ErrorKind::NetworkUnreachable => "network_unreachable",
        io::ErrorKind::NetworkDown => "network_down",
        io::ErrorKind::NotConnected => "not_connected",
        io::ErrorKind::AddrInUse => "addr_in_use",
        io::ErrorKind::AddrNotAvailable => "addr_not_available",
        io::ErrorKind::BrokenPipe => "broken_pipe",
        io::ErrorKind::PermissionDenied => "permission_denied",
        io::ErrorKind::UnexpectedEof => "unexpected_eof",
        _ => return None,
    })
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
