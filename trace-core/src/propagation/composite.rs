//! The formats in use, as one.

use std::fmt;

use super::{Extractor, Injector, baggage, trace_context};
use crate::context::{Baggage, SpanContext, TraceState};

/// The formats by which the context enters and leaves a process, in the order in which they are asked.
///
/// [`Propagator::default`] speaks what OpenTelemetry prescribes: [W3C Trace Context](trace_context) and [W3C Baggage](baggage).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Propagator {
    /// Each format at most once, from the front.
    formats: [Option<Format>; Format::ALL.len()],
}

/// Names in a list of formats that stand for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPropagators {
    names: Vec<String>,
    known: Propagator,
}

/// One way to write a context down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    TraceContext,
    Baggage,
}

/// What the formats found in a carrier.
#[derive(Debug, Default)]
struct Found {
    span: Option<SpanContext>,
    state: TraceState,
    baggage: Baggage,
}

impl Propagator {
    /// No format: nothing is read, nothing is written.
    pub const fn none() -> Self {
        Self { formats: [None; Format::ALL.len()] }
    }

    /// The formats of these names, as `OTEL_PROPAGATORS` lists them: `tracecontext`, `baggage`, or `none`.
    ///
    /// Case and white space do not matter, a name given twice counts once, and empty names count as not given.
    ///
    /// # Errors
    ///
    /// If a name is not known; the error holds the [rest of the list](UnknownPropagators::known).
    pub fn from_names<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Self, UnknownPropagators> {
        let mut known = Self::none();
        let mut unknown = Vec::new();
        for name in names {
            let name = name.as_ref().trim();
            match Format::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name)) {
                Some(format) => known.add(format),
                None if name.is_empty() || name.eq_ignore_ascii_case("none") => {}
                None => unknown.push(name.to_owned()),
            }
        }
        if unknown.is_empty() { Ok(known) } else { Err(UnknownPropagators { names: unknown, known }) }
    }

    /// The names of the headers that an injection may write.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.formats.into_iter().flatten().flat_map(Format::fields).copied()
    }

    fn add(&mut self, format: Format) {
        if !self.formats.contains(&Some(format))
            && let Some(free) = self.formats.iter_mut().find(|place| place.is_none())
        {
            *free = Some(format);
        }
    }
}

impl Format {
    const ALL: [Self; 2] = [Self::TraceContext, Self::Baggage];

    /// Its name in `OTEL_PROPAGATORS`.
    const fn name(self) -> &'static str {
        match self {
            Self::TraceContext => "tracecontext",
            Self::Baggage => "baggage",
        }
    }

    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::TraceContext => &[trace_context::TRACEPARENT, trace_context::TRACESTATE],
            Self::Baggage => &[baggage::BAGGAGE],
        }
    }

    #[inline]
    fn extract(self, carrier: &(impl Extractor + ?Sized), found: &mut Found) {
        match self {
            Self::TraceContext => {
                if let Some((span, state)) = trace_context::extract(carrier) {
                    found.span = Some(span);
                    found.state = state;
                }
            }
            Self::Baggage => found.baggage = baggage::extract(carrier),
        }
    }
}

impl UnknownPropagators {
    /// The names that are not known.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The formats of the other names of the list.
    pub fn known(&self) -> Propagator {
        self.known
    }
}

impl Default for Propagator {
    /// `tracecontext,baggage`.
    fn default() -> Self {
        Self { formats: [Some(Format::TraceContext), Some(Format::Baggage)] }
    }
}

impl fmt::Debug for Propagator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.formats.iter().flatten()).finish()
    }
}

impl fmt::Display for UnknownPropagators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown propagators {:?}; known are none", self.names)?;
        Format::ALL.iter().try_for_each(|format| write!(f, ", {}", format.name()))
    }
}

impl std::error::Error for UnknownPropagators {}
