//! What the collector does with a request, so that a test can provoke every answer an exporter must survive.
//!
//! One value per fault. The protocols differ only in how the same fault is spelled, so a fault that is an answer carries
//! both spellings.

use std::collections::VecDeque;
use std::time::Duration;

/// What a [`Collector`](super::Collector) does with a request.
///
/// The spans of a request are kept only where the behaviour says so.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Behaviour {
    /// Keeps the spans and answers at once: what a healthy collector does.
    Accept,
    /// Keeps the spans on arrival and answers only after this long, so that a sender with a shorter timeout may send
    /// them again.
    Delay(Duration),
    /// Reads the request and never answers. Keeps nothing.
    Hang,
    /// Answers with a failure. Keeps nothing.
    Fail {
        /// The status on the HTTP port.
        http: u16,
        /// The status code on the gRPC port.
        grpc: i32,
        /// How long the sender is asked to wait: `Retry-After` in whole seconds over HTTP, `google.rpc.RetryInfo` over
        /// gRPC.
        retry_after: Option<Duration>,
    },
    /// Answers that the first spans of the request were rejected, and keeps the others.
    PartialSuccess {
        /// How many are rejected; at most as many as came.
        rejected: usize,
        /// What the answer says about them.
        message: String,
    },
    /// Reads the request, then resets its connection. Keeps nothing.
    Reset,
    /// Is not there: connections are closed, and new ones refused, until the behaviour changes again.
    Refuse,
}

impl Behaviour {
    /// An answer that asks for a retry: 503, `UNAVAILABLE`.
    pub const fn unavailable() -> Self {
        Self::Fail { http: 503, grpc: 14, retry_after: None }
    }

    /// An answer that asks for a retry after a pause: 429 with `Retry-After`, `RESOURCE_EXHAUSTED` with `RetryInfo`.
    pub const fn throttled(retry_after: Duration) -> Self {
        Self::Fail { http: 429, grpc: 8, retry_after: Some(retry_after) }
    }

    /// An answer after which a retry is pointless: 400, `INVALID_ARGUMENT`.
    pub const fn rejecting() -> Self {
        Self::Fail { http: 400, grpc: 3, retry_after: None }
    }

    /// An answer with these statuses.
    pub const fn fail(http: u16, grpc: i32) -> Self {
        Self::Fail { http, grpc, retry_after: None }
    }
}

/// The behaviour of each request to come: first those told of single requests, in their order, then the standing one.
#[derive(Debug)]
pub(super) struct Plan {
    next: VecDeque<Behaviour>,
    standing: Behaviour,
}

impl Plan {
    pub(super) fn new() -> Self {
        Self { next: VecDeque::new(), standing: Behaviour::Accept }
    }

    /// From now on. What was planned for single requests is forgotten.
    pub(super) fn stand(&mut self, behaviour: Behaviour) {
        self.next.clear();
        self.standing = behaviour;
    }

    pub(super) fn once(&mut self, behaviour: Behaviour) {
        self.next.push_back(behaviour);
    }

    pub(super) fn refuses(&self) -> bool {
        self.standing == Behaviour::Refuse
    }

    /// The behaviour of a request that has been read. A collector that is not there has read none: a connection that
    /// was open when it went away is reset.
    pub(super) fn take(&mut self) -> Behaviour {
        match self.next.pop_front().unwrap_or_else(|| self.standing.clone()) {
            Behaviour::Refuse => Behaviour::Reset,
            other => other,
        }
    }
}
