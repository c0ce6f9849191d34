//! The header `baggage` ([W3C Baggage](https://www.w3.org/TR/baggage/)).

use super::{Extractor, FieldValue, Injector, Lines, W3cLines};
use crate::context::{Baggage, BaggageParser};
use crate::hint::cold_path;

/// The header that carries names and values along. Sent in lower case, received in any.
pub const BAGGAGE: &str = "baggage";

/// What a caller sent along; it does not need a `traceparent` beside it.
///
/// Several lines are one list in their order; members that break the grammar or the limits are left out, as
/// [`Baggage::parse_lines`] says.
#[inline]
pub fn extract(carrier: &(impl Extractor + ?Sized)) -> Baggage {
    extract_some(carrier, &carrier.w3c_lines()).unwrap_or_default()
}

/// As [`extract`]; none where no member came.
#[inline]
pub(super) fn extract_some(carrier: &(impl Extractor + ?Sized), lines: &W3cLines<'_>) -> Option<Baggage> {
    let baggage = match lines.baggage {
        Lines::None => return None,
        Lines::One(line) => Baggage::parse_line(line),
        Lines::Several => {
            let mut parser = BaggageParser::default();
            carrier.get_all(BAGGAGE, &mut |line| parser.line(line));
            parser.finish()
        }
    };
    (!baggage.is_empty()).then_some(baggage)
}

/// Sends baggage along, instead of what the carrier holds.
///
/// An empty one is not sent, and a header that the carrier holds from elsewhere is removed: it would be taken for this one.
/// So is one that was set by hand: what is to be sent is put into the [`Baggage`].
#[inline]
pub fn inject(baggage: &Baggage, carrier: &mut (impl Injector + ?Sized)) {
    inject_some(Some(baggage).filter(|baggage| !baggage.is_empty()), carrier);
}

/// As [`inject`]; baggage that is there is not empty.
#[inline]
pub(super) fn inject_some(baggage: Option<&Baggage>, carrier: &mut (impl Injector + ?Sized)) {
    match baggage {
        Some(baggage) => {
            cold_path();
            carrier.set_field(BAGGAGE, FieldValue::shared(baggage.text()));
        }
        None => carrier.remove(BAGGAGE),
    }
}
