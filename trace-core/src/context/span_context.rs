//! What a span tells the next service about itself: which trace, which span, and the flags.

use std::fmt;

use crate::id::{SpanId, TraceId};

/// The flags of a trace: whether it is sampled, and whether its id is random.
///
/// Two bits are defined; the others are reserved, have to be sent as zero ([W3C Trace Context Level 2, other flags]), and
/// are therefore never kept.
///
/// ```
/// use trace_core::TraceFlags;
///
/// let flags = TraceFlags::from_u8(0xff);
/// assert_eq!(flags.as_u8(), 0x03);
/// assert!(flags.is_sampled() && flags.is_random());
/// assert_eq!(flags.with_sampled(false), TraceFlags::RANDOM);
/// ```
///
/// [W3C Trace Context Level 2, other flags]: https://www.w3.org/TR/trace-context-2/#other-flags
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TraceFlags(u8);

/// The part of a span that travels: its ids and flags, and whether it came from another process.
///
/// ```
/// use trace_core::{SpanContext, SpanId, TraceFlags, TraceId};
///
/// let here = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::RANDOM.with_sampled(true), false);
/// assert!(here.is_sampled());
/// assert!(!here.is_remote());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanContext {
    trace_id: TraceId,
    span_id: SpanId,
    /// The flags, and whether the span lives in another process. As wide as it is, it leaves no gap: with two bytes instead,
    /// the compiler copies a span context in overlapping pieces, which the processor then has to wait for.
    bits: u64,
}

/// The bit beside the eight flags.
const REMOTE: u64 = 1 << 8;

impl TraceFlags {
    /// No flag: not sampled, and nothing known about the randomness of the trace id.
    pub const NONE: Self = Self(0);
    /// Somebody up the line may have recorded this trace
    /// ([sampled flag](https://www.w3.org/TR/trace-context-2/#sampled-flag)).
    pub const SAMPLED: Self = Self(1);
    /// The right-most seven bytes of the trace id are random
    /// ([random trace id flag](https://www.w3.org/TR/trace-context-2/#random-trace-id-flag)).
    pub const RANDOM: Self = Self(2);

    /// These flags, without the bits that are not defined.
    #[inline]
    pub const fn from_u8(bits: u8) -> Self {
        Self(bits & (Self::SAMPLED.0 | Self::RANDOM.0))
    }

    /// The flags as the byte of `traceparent` and of OTLP.
    #[inline]
    pub const fn as_u8(self) -> u8 {
        self.0
    }

    /// Whether [`SAMPLED`](Self::SAMPLED) is set.
    #[inline]
    pub const fn is_sampled(self) -> bool {
        self.0 & Self::SAMPLED.0 != 0
    }

    /// Whether [`RANDOM`](Self::RANDOM) is set.
    #[inline]
    pub const fn is_random(self) -> bool {
        self.0 & Self::RANDOM.0 != 0
    }

    /// These flags with [`SAMPLED`](Self::SAMPLED) set or cleared; the random flag is passed on as it is, because it
    /// speaks of the trace id, which stays.
    #[inline]
    #[must_use]
    pub const fn with_sampled(self, sampled: bool) -> Self {
        Self(self.0 & !Self::SAMPLED.0 | sampled as u8)
    }
}

impl SpanContext {
    /// Puts the parts together; `is_remote` when they were read from a request or a message.
    #[inline]
    pub const fn new(trace_id: TraceId, span_id: SpanId, flags: TraceFlags, is_remote: bool) -> Self {
        let remote = if is_remote { REMOTE } else { 0 };
        Self { trace_id, span_id, bits: flags.0 as u64 | remote }
    }

    /// The trace that the span belongs to.
    #[inline]
    pub const fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The span itself.
    #[inline]
    pub const fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// The flags of the trace, as far as this span knows them.
    #[inline]
    pub const fn flags(&self) -> TraceFlags {
        TraceFlags(self.bits as u8)
    }

    /// Whether the span was sampled: [`TraceFlags::is_sampled`] of its flags.
    #[inline]
    pub const fn is_sampled(&self) -> bool {
        self.flags().is_sampled()
    }

    /// Whether the span lives in another process.
    #[inline]
    pub const fn is_remote(&self) -> bool {
        self.bits & REMOTE != 0
    }
}

impl fmt::Debug for TraceFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceFlags({:02x})", self.0)
    }
}

impl fmt::Debug for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanContext")
            .field("trace_id", &self.trace_id)
            .field("span_id", &self.span_id)
            .field("flags", &self.flags())
            .field("is_remote", &self.is_remote())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_flags_are_zeroed_and_known_ones_kept() {
        for bits in 0..=u8::MAX {
            let flags = TraceFlags::from_u8(bits);
            assert_eq!(flags.as_u8(), bits & 0x03);
            assert_eq!(flags.is_sampled(), bits & 0x01 != 0);
            assert_eq!(flags.is_random(), bits & 0x02 != 0);
        }
    }

    #[test]
    fn a_sampling_decision_leaves_the_random_flag_alone() {
        for bits in 0..4 {
            for sampled in [false, true] {
                let flags = TraceFlags::from_u8(bits).with_sampled(sampled);
                assert_eq!(flags.as_u8(), bits & 0x02 | u8::from(sampled));
            }
        }
    }

    #[test]
    fn a_span_context_and_its_absence_fit_into_two_words_and_two_ids() {
        assert_eq!(size_of::<Option<SpanContext>>(), 32);
    }
}
