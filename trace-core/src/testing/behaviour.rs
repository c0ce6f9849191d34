//! What the collector does with a request, so that a test can provoke every answer an exporter must survive.
//!
//! One value per fault. The protocols differ only in how the same fault is spelled, so a fault that is an answer carries
//! both spellings. A collector that is sometimes well is a schedule of these: [`Behaviour::flapping`] makes a random one.

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
    /// Keeps the spans and answers as it should, one byte at a time, and this long before each. It goes on so on the
    /// same connection, whatever is asked there next.
    Drip(Duration),
    /// Keeps the spans, and closes the connection in the middle of the answer.
    BreakOff {
        /// How many bytes of the answer are sent before, its head included.
        after_bytes: usize,
    },
    /// Sends nonsense in place of an answer, and closes the connection. Keeps nothing.
    Garbage {
        /// How many bytes of it, if they are taken.
        bytes: u64,
    },
    /// Keeps the spans and begins to answer that all is well; the message of the answer is nonsense without end.
    Flood {
        /// How many bytes of it, if they are taken.
        bytes: u64,
    },
    /// Reads the request, then resets its connection. Keeps nothing.
    Reset,
    /// Stands still, as a process does that was stopped: the kernel takes connections, and nobody reads from them, nor
    /// from those that were open, nor answers. When the behaviour changes it goes on where it was.
    Freeze,
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

    /// A schedule without end for [`Collector::play`](super::Collector::play): well and ill in turn, ill in another way
    /// each time, and each for a while between nothing and twice `pace`. The same `seed` makes the same schedule.
    pub fn flapping(seed: u64, pace: Duration) -> impl Iterator<Item = (Self, Duration)> + Send + use<> {
        let mut random = Random::new(seed);
        let mut well = false;
        std::iter::from_fn(move || {
            well = !well;
            let behaviour = if well { Self::Accept } else { Self::any_fault(&mut random) };
            Some((behaviour, pace.mul_f64(2.0 * random.fraction())))
        })
    }

    fn any_fault(random: &mut Random) -> Self {
        let soon = Duration::from_millis(random.below(20));
        match random.below(13) {
            0 => Self::Delay(soon),
            1 => Self::Hang,
            2 => Self::unavailable(),
            3 => Self::throttled(Duration::ZERO),
            4 => Self::rejecting(),
            5 => Self::fail(502, 10),
            6 => Self::PartialSuccess { rejected: 1, message: "one of them".to_owned() },
            7 => Self::Drip(soon),
            8 => Self::BreakOff { after_bytes: random.below(60) as usize },
            9 => Self::Garbage { bytes: random.below(100_000) },
            10 => Self::Reset,
            11 => Self::Freeze,
            _ => Self::Refuse,
        }
    }

    /// Whether the spans of a request are kept, all but those that are rejected.
    pub(super) const fn keeps(&self) -> bool {
        matches!(
            self,
            Self::Accept
                | Self::Delay(_)
                | Self::PartialSuccess { .. }
                | Self::Drip(_)
                | Self::BreakOff { .. }
                | Self::Flood { .. }
        )
    }

    /// What the doors have to do with it.
    pub(super) const fn stance(&self) -> Stance {
        match self {
            Self::Refuse => Stance::Shut,
            Self::Freeze => Stance::Frozen,
            _ => Stance::Open,
        }
    }
}

/// What a port does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    Open,
    /// Holds still.
    Frozen,
    /// Is bound, but does not listen.
    Shut,
}

/// Numbers that are as good as random for a test, and the same for the same seed (xorshift64*).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        // Zero is the one state that it never leaves; neighbours among the seeds must not begin alike.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to one less than `end`.
    pub(super) const fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// From 0 to 1, which it does not reach.
    pub(super) fn fraction(&mut self) -> f64 {
        // 53 bits are what an `f64` holds.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The behaviour of each request to come: first those told of single requests, in their order, then the standing one.
#[derive(Debug)]
pub(super) struct Plan {
    next: VecDeque<Behaviour>,
    standing: Behaviour,
}

impl Default for Plan {
    fn default() -> Self {
        Self { next: VecDeque::new(), standing: Behaviour::Accept }
    }
}

impl Plan {
    pub(super) const fn stance(&self) -> Stance {
        self.standing.stance()
    }

    /// From now on. What was planned for single requests is forgotten.
    pub(super) fn stand(&mut self, behaviour: Behaviour) {
        self.next.clear();
        self.standing = behaviour;
    }

    pub(super) fn once(&mut self, behaviour: Behaviour) {
        self.next.push_back(behaviour);
    }

    /// The behaviour of a request that has been read. A collector that is not there, or stands still, has read none: a
    /// connection that was open when it went away is reset, and a request that was just read is not answered.
    pub(super) fn take(&mut self) -> Behaviour {
        match self.next.pop_front().unwrap_or_else(|| self.standing.clone()) {
            Behaviour::Refuse => Behaviour::Reset,
            Behaviour::Freeze => Behaviour::Hang,
            other => other,
        }
    }
}
