//! The formats in use, as one.

use super::{Extractor, Injector, Lines, W3cLines, baggage, trace_context};
use crate::config::PropagatorName;
use crate::context::{Carried, Context};
use crate::hint::cold_path;

/// The formats by which the context enters and leaves a process.
///
/// [`Propagator::default`] speaks what OpenTelemetry prescribes: [W3C Trace Context](trace_context) and
/// [W3C Baggage](baggage). A carrier is an [`http::HeaderMap`], a string map, or whatever implements [`Extractor`] and
/// [`Injector`]; so a context crosses a queue like a connection:
///
/// ```
/// use std::collections::HashMap;
/// use trace_core::{Baggage, Context, Propagator};
///
/// let propagator = Propagator::default();
/// let received = HashMap::from([
///     ("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
///     ("Baggage", "tenant.id=acme"),
/// ]);
/// let context = propagator.extract(&received);
/// assert!(context.span_context().is_some_and(|caller| caller.is_sampled() && caller.is_remote()));
/// assert_eq!(context.baggage().get("tenant.id").as_deref(), Some("acme"));
///
/// let mut message = HashMap::<String, String>::new();
/// propagator.inject(&context, &mut message);
/// assert_eq!(message["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// assert_eq!(message["baggage"], "tenant.id=acme");
/// assert!(!message.contains_key("tracestate"), "an empty header is never sent");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Propagator {
    // Their headers differ, so that their order makes no difference.
    trace_context: bool,
    baggage: bool,
}

impl Propagator {
    /// No format: nothing is read, nothing is written (`OTEL_PROPAGATORS=none`).
    pub const fn none() -> Self {
        Self { trace_context: false, baggage: false }
    }

    /// These formats; a name given twice counts once.
    pub fn from_names(names: &[PropagatorName]) -> Self {
        Self {
            trace_context: names.contains(&PropagatorName::TraceContext),
            baggage: names.contains(&PropagatorName::Baggage),
        }
    }

    /// What came with a request or a message; where nothing valid came, a context of no trace, in which a new one starts.
    ///
    /// Baggage counts without a trace. Nothing that a caller sends makes this fail, and the work is bounded, whatever was
    /// sent: see [`TraceState`](crate::TraceState) and [`Baggage`](crate::Baggage) for what is dropped beyond their limits.
    #[inline]
    pub fn extract(&self, carrier: &(impl Extractor + ?Sized)) -> Context {
        self.extract_lines(carrier.w3c_lines(), || carrier)
    }

    /// As [`extract`](Self::extract), by these [lines](Extractor::w3c_lines) of a carrier, for who has them at hand. What they say is
    /// believed; the carrier is asked for, and looked at, where they say that more came than the ids: so a carrier that is made of what
    /// lies in registers is made for nobody else.
    #[inline(always)]
    pub fn extract_lines<E: Extractor>(&self, lines: W3cLines<'_>, carrier: impl FnOnce() -> E) -> Context {
        // Most callers send nothing beside the ids. Each way is a function that ends here: so the context is written where it goes.
        match lines {
            W3cLines { traceparent: Lines::One(line), tracestate: Lines::None, baggage: Lines::None } => {
                self.extract_ids(line)
            }
            W3cLines { traceparent: Lines::None, baggage: Lines::None, .. } => Context::new(),
            // A copy, because only what is looked at there needs a place in memory.
            _ => {
                cold_path();
                self.extract_more(&carrier(), &{ lines })
            }
        }
    }

    #[inline(always)]
    fn extract_ids(&self, traceparent: &[u8]) -> Context {
        let mut context = Context::new();
        if self.trace_context {
            context.span_context = trace_context::read(traceparent);
        }
        context
    }

    #[inline(never)]
    fn extract_more(&self, carrier: &impl Extractor, lines: &W3cLines<'_>) -> Context {
        let mut context = Context::new();
        let mut state = None;
        if self.trace_context
            && let Some((span, span_state)) = trace_context::extract_parts(carrier, lines)
        {
            context.span_context = Some(span);
            state = span_state;
        }
        let baggage = if self.baggage { baggage::extract_some(carrier, lines) } else { None };
        if state.is_none() && baggage.is_none() {
            return context;
        }
        let (trace_state, baggage) = (state.unwrap_or_default(), baggage.unwrap_or_default());
        context.with_carried(Carried { trace_state, baggage })
    }

    /// Sends the context along: the ids of its span, its tracestate and its baggage.
    ///
    /// What the carrier holds from elsewhere is replaced, or removed where the context has nothing of the kind: also a
    /// `baggage` that was set by hand, which belongs into the [context's](Context::with_baggage). A context of no trace leaves
    /// the ids and the tracestate as they are, and without baggage the `baggage` too. No empty header is written.
    pub fn inject(&self, context: &Context, carrier: &mut (impl Injector + ?Sized)) {
        let span = context.span_context();
        let carried = context.carried.as_deref();
        let baggage = carried.map(|carried| &carried.baggage).filter(|baggage| !baggage.is_empty());
        // What is taken away goes first: mostly the carrier is empty still, and there is nothing to look through.
        if self.baggage && (span.is_some() || baggage.is_some()) {
            baggage::inject_some(baggage, carrier);
        }
        if self.trace_context
            && let Some(span) = span
        {
            let state = carried.map(|carried| &carried.trace_state).filter(|state| !state.is_empty());
            trace_context::inject_parts(span, state, carrier);
        }
    }

    /// The names of the headers that [`inject`](Self::inject) may write: what to remove from a carrier that has to cross a
    /// border without its context.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        let trace_context = [trace_context::TRACEPARENT, trace_context::TRACESTATE];
        let trace_context = self.trace_context.then_some(trace_context).into_iter().flatten();
        trace_context.chain(self.baggage.then_some(baggage::BAGGAGE))
    }
}

impl Default for Propagator {
    /// `tracecontext,baggage`.
    fn default() -> Self {
        Self::from_names(&[PropagatorName::TraceContext, PropagatorName::Baggage])
    }
}

#[cfg(test)]
mod tests;
