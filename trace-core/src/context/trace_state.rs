//! What other tracing systems say about a trace, carried along unchanged.

/// The members of `tracestate`, checked, in order, without white space and empty members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceState {
    text: String,
}

impl TraceState {
    /// No members.
    #[inline]
    pub const fn empty() -> Self {
        Self { text: String::new() }
    }

    /// Whether there are no members; then no header is sent.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The members as one header value.
    #[inline]
    pub const fn as_str(&self) -> &str {
        self.text.as_str()
    }
}
