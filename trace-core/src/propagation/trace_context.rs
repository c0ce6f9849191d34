//! The headers `traceparent` and `tracestate`
//! ([W3C Trace Context Level 2](https://www.w3.org/TR/trace-context-2/)).

use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderName};

use super::{Extractor, FieldValue, Injector, Lines, W3cLines};
use crate::context::{SpanContext, Text, TraceFlags, TraceState, TraceStateParser, grammar};
use crate::hint::cold_path;
use crate::id::{read_ids, write_ids};

/// The header that names the trace, the calling span and the flags. Sent in lower case, received in any.
pub const TRACEPARENT: &str = "traceparent";

/// The header that carries what tracing systems add. Sent in lower case, received in any.
pub const TRACESTATE: &str = "tracestate";

/// `00-` trace id `-` span id `-` flags, on the stack; it reads as a `str`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Traceparent([u8; Traceparent::LEN]);

impl Traceparent {
    /// The bytes of a `traceparent` of version `00`, the one that is sent.
    pub const LEN: usize = 55;

    /// The header value as text.
    #[inline]
    pub fn as_str(&self) -> &str {
        // Hex digits and dashes are ASCII, so the default never shows.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The header value as bytes of ASCII.
    #[inline]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// A `traceparent` that is written when it is known where.
#[derive(Debug)]
pub(super) struct Pending {
    span: SpanContext,
    text: OnceLock<Traceparent>,
}

impl Pending {
    #[inline]
    pub(super) const fn new(span: SpanContext) -> Self {
        Self { span, text: OnceLock::new() }
    }

    #[inline]
    pub(super) fn as_str(&self) -> &str {
        self.text.get_or_init(|| format(self.span)).as_str()
    }

    #[inline]
    pub(super) const fn span(&self) -> SpanContext {
        self.span
    }
}

/// Reads a `traceparent`; `None` if it is not valid, and then a new trace starts and `tracestate` is to be ignored.
///
/// ```
/// use trace_core::propagation::trace_context;
///
/// let caller = trace_context::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").expect("a valid one");
/// assert_eq!(caller.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert!(caller.is_sampled() && caller.is_remote());
/// assert_eq!(&*trace_context::format(caller), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
///
/// assert_eq!(trace_context::parse(b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01"), None);
/// ```
pub fn parse(traceparent: &[u8]) -> Option<SpanContext> {
    read(traceparent)
}

/// As [`parse`], where it is written to memory at once: what a call returned there would be read back by wider loads.
#[inline(always)]
pub(super) fn read(traceparent: &[u8]) -> Option<SpanContext> {
    // White space around a header value is no part of it; there is none around one that is as long as it has to be.
    let value = if traceparent.len() == Traceparent::LEN { traceparent } else { grammar::trim(traceparent) };
    let (known, further) = value.split_first_chunk::<{ Traceparent::LEN }>()?;
    let [v0, v1, b'-', digits @ .., b'-', f0, f1] = known else { return None };
    let digits: &[u8; 49] = digits;
    let (trace_id, rest) = digits.split_first_chunk::<32>()?;
    let (dash, span_id) = rest.split_first()?;
    if *dash != b'-' {
        return None;
    }
    // Hex digits in lower case, not all of them zero.
    let (trace_id, span_id) = read_ids(trace_id, span_id.first_chunk()?)?;
    let flags = match [*f0, *f1] {
        // The two that are defined, and none of those to come.
        [b'0', low @ b'0'..=b'3'] => low - b'0',
        digits => {
            cold_path();
            byte_of(digits)?
        }
    };
    match [*v0, *v1] {
        // Version 00 is exactly these fields.
        [b'0', b'0'] if further.is_empty() => {}
        [b'0', b'0'] => return None,
        version => {
            cold_path();
            match (byte_of(version)?, further) {
                // Version ff is forbidden.
                (0xff, _) => return None,
                // A higher version is read by these rules, if its flags end there or are followed by a dash.
                (_, [] | [b'-', ..]) => {}
                _ => return None,
            }
        }
    }
    // Flags that are not defined are set to zero when sent on, so they are not kept.
    Some(SpanContext::new(trace_id, span_id, TraceFlags::from_u8(flags), true))
}

/// Writes the `traceparent` of a span, always as version `00`.
#[inline]
pub fn format(span: SpanContext) -> Traceparent {
    let mut value = BLANK;
    fill_in(&mut value, span);
    Traceparent(value)
}

/// The bytes of a `traceparent`, to be kept. They are written where they stay: who copies what was just written waits for it.
#[inline]
pub(crate) fn kept(span: SpanContext) -> Box<[u8]> {
    let mut value = Box::new(BLANK);
    fill_in(&mut value, span);
    value
}

const BLANK: [u8; Traceparent::LEN] = *b"00-................................-................-0.";

#[inline]
fn fill_in(blank: &mut [u8; Traceparent::LEN], span: SpanContext) {
    let [_, _, _, ids @ .., _, _, flags] = blank;
    write_ids(span.trace_id(), span.span_id(), ids);
    // Two bits are defined, so the second digit says all.
    *flags = b'0' + span.flags().as_u8();
}

/// What a caller sent: its span, and the `tracestate` beside it; `None` if there is no valid `traceparent`.
#[inline]
pub fn extract(carrier: &(impl Extractor + ?Sized)) -> Option<(SpanContext, TraceState)> {
    let (span, state) = extract_parts(carrier, &carrier.w3c_lines())?;
    Some((span, state.unwrap_or_default()))
}

/// As [`extract`]; no `tracestate` where none came, or no valid one.
#[inline]
pub(super) fn extract_parts(
    carrier: &(impl Extractor + ?Sized),
    lines: &W3cLines<'_>,
) -> Option<(SpanContext, Option<TraceState>)> {
    let span = match lines.traceparent {
        Lines::None => None,
        Lines::One(line) => parse(line),
        Lines::Several => parse_only_line(carrier),
    };
    // Without a valid traceparent, tracestate is not looked at.
    let span = span?;
    let state = match lines.tracestate {
        Lines::None => return Some((span, None)),
        Lines::One(line) => TraceState::parse_line(line),
        Lines::Several => {
            let mut state = TraceStateParser::default();
            // Several lines are one list, in their order.
            carrier.get_all(TRACESTATE, &mut |line| state.line(line));
            state.finish()
        }
    };
    // A tracestate that is not valid does not affect traceparent.
    Some((span, state.ok().filter(|state| !state.is_empty())))
}

/// More than one traceparent is none.
fn parse_only_line(carrier: &(impl Extractor + ?Sized)) -> Option<SpanContext> {
    let mut lines = 0;
    let mut span = None;
    carrier.get_all(TRACEPARENT, &mut |line| {
        lines += 1;
        span = parse(line);
    });
    span.filter(|_| lines == 1)
}

/// Tells the next service about a span.
///
/// An empty `tracestate` is not sent, and one that the carrier holds from elsewhere is removed: it would be taken for that
/// of this trace.
#[inline]
pub fn inject(span: SpanContext, state: &TraceState, carrier: &mut (impl Injector + ?Sized)) {
    inject_parts(span, Some(state).filter(|state| !state.is_empty()), carrier);
}

/// As [`inject`]; a state that is there is not empty.
#[inline]
pub(super) fn inject_parts(
    span: SpanContext,
    state: Option<&TraceState>,
    carrier: &mut (impl Injector + ?Sized),
) {
    match state {
        Some(state) => {
            cold_path();
            carrier.set_field(TRACESTATE, FieldValue::shared(state.text()));
        }
        None => carrier.remove(TRACESTATE),
    }
    carrier.set_field(TRACEPARENT, FieldValue::traceparent(&Pending::new(span)));
}

/// Sets the header that nearly every call has.
// Away from what else hashes names, so that the compiler puts the hash's code here, too, and knows what comes out: it takes a
// multiplication a byte.
#[inline(never)]
pub(super) fn put_traceparent(headers: &mut HeaderMap, span: SpanContext) {
    // It fails only when 32 768 headers are there already.
    let _ = headers.try_insert(
        const { HeaderName::from_static("traceparent") },
        Text::of_traceparent(span).into_header_value(),
    );
}

/// The byte of two lower-case hex digits.
#[cold]
fn byte_of(digits: [u8; 2]) -> Option<u8> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let [high, low] = digits;
    Some(value(high)? << 4 | value(low)?)
}

impl Deref for Traceparent {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
