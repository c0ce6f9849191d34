//! What the services of one request tell each other besides the trace.

/// The members of `baggage`, checked, in order, in the form that is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    text: String,
}

impl Baggage {
    /// No members.
    #[inline]
    pub const fn new() -> Self {
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
