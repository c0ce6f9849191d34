//! How OpenTelemetry's conventions want the parts of a request to be told, for every adapter alike.
//!
//! [Semantic conventions for HTTP spans](https://opentelemetry.io/docs/specs/semconv/http/http-spans/), version 1.44.

mod error;
mod headers;
mod method;
mod server_address;
mod text;
mod url;

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use trace_core::{Context, SpanContext, Tracer, cold_path};

pub use self::error::ErrorType;
pub use self::headers::RequestHeaders;
pub use self::method::{KnownMethods, MethodName};
pub use self::server_address::{ServerAddress, authority, set_served, set_server};
pub use self::text::{header_str, header_text, note_panic, set_header};
pub use self::url::{QueryRedaction, RedactedQuery, RedactedUrl};

/// The protocol's version as `network.protocol.version` has it: `1.1`, `2`.
#[inline]
pub fn protocol_version(version: Version) -> Option<&'static str> {
    // One after the other, because most are of the first: a table would lie in memory that nobody else looks at.
    if version == Version::HTTP_11 {
        Some("1.1")
    } else if version == Version::HTTP_2 {
        Some("2")
    } else {
        rare_version(version)
    }
}

#[cold]
#[inline(never)]
fn rare_version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_09 => Some("0.9"),
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

/// The context that a request is served in: what its caller sent.
///
/// A span of this process that is current already stands between the caller and this request, if it is of the same
/// trace or the request tells of none: then that span is the parent. So a layer inside a layer makes a child, and not a
/// second trace.
#[inline(always)]
pub fn caller_context(tracer: Tracer, headers: &RequestHeaders<'_>) -> Context {
    match Context::current_span_context() {
        Some(here) if !here.is_remote() => {
            cold_path();
            context_below(here, tracer, headers)
        }
        // Made where it is returned to: it is as large as a cache line, and who copies what was just written waits for it.
        _ => headers.extract(tracer.propagator()),
    }
}

#[inline(never)]
fn context_below(here: SpanContext, tracer: Tracer, headers: &RequestHeaders<'_>) -> Context {
    let caller = headers.extract(tracer.propagator());
    let stands_between = caller.span_context().is_none_or(|there| here.trace_id() == there.trace_id());
    if stands_between { Context::current() } else { caller }
}

/// Tells the caller which trace its request is in: `server-timing: trace;desc=00-…`, beside what the service itself says
/// in that header, and the bare trace id in a header of its own.
///
/// [W3C Trace Context, response headers (editor's draft)](https://w3c.github.io/trace-context/#trace-context-http-response-headers-format)
pub fn put_response_headers(span: SpanContext, trace_id_header: &HeaderName, headers: &mut HeaderMap) {
    const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
    const PREFIX: &[u8] = b"trace;desc=";
    let traceparent = trace_core::propagation::trace_context::format(span);
    let mut timing = [0; PREFIX.len() + 55];
    timing[..PREFIX.len()].copy_from_slice(PREFIX);
    timing[PREFIX.len()..].copy_from_slice(traceparent.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&timing) {
        headers.append(SERVER_TIMING, value);
    }
    if let Ok(value) = HeaderValue::from_str(&span.trace_id().to_hex()) {
        headers.insert(trace_id_header, value);
    }
}

#[cfg(test)]
mod tests;
