//! Who made a span.

/// The instrumentation scope: the name and version of the code that makes spans, usually a crate's.
///
/// A scope is a `static` of the crate that makes the spans, so that a span carries no more of it than a reference:
///
/// ```
/// use trace_core::Scope;
///
/// static SCOPE: Scope = Scope::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
///
/// let span = trace_core::span("recount the stock").scope(&SCOPE).start();
/// # drop(span);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    name: &'static str,
    version: &'static str,
}

impl Scope {
    /// The scope of spans whose maker does not say who he is: no name, no version.
    pub(crate) const UNNAMED: &'static Self = &Self::new("", "");

    /// A scope with this name and version; either may be empty.
    pub const fn new(name: &'static str, version: &'static str) -> Self {
        Self { name, version }
    }

    /// The name of the crate, or whatever else makes the spans.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The version of what makes the spans.
    pub const fn version(&self) -> &'static str {
        self.version
    }
}
