//! What a span is to its neighbours, and how it went.

/// The role of a span in its trace, as the OpenTelemetry trace API's `SpanKind` defines it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SpanKind {
    /// Work inside a process: the default.
    #[default]
    Internal = 1,
    /// A request served for a remote caller who waits for the answer.
    Server = 2,
    /// A call made to a remote service, with a wait for its answer.
    Client = 3,
    /// A message handed to a broker, or a job put off; nobody waits.
    Producer = 4,
    /// A message or job that was handed over, being processed.
    Consumer = 5,
}

impl SpanKind {
    /// The kind as it is written in tables and logs: `server`, `client` and so on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Server => "server",
            Self::Client => "client",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

/// How the work of a span went, as the OpenTelemetry trace API's status codes define it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StatusCode {
    /// Nobody said otherwise: the default, and the status of a success.
    #[default]
    Unset = 0,
    /// Somebody who knows declared the work a success; nothing that is set later changes it.
    Ok = 1,
    /// The work failed.
    Error = 2,
}
