//! How often a batch is tried, when it is tried again, and what became of it.
//!
//! Which answers are worth another try is the OTLP specification's decision
//! ([failures over gRPC], [failures over HTTP]); the transports apply it, and give an [`Attempt`] each. Here is what
//! follows: jittered exponential backoff, never sooner than the collector asks for, and an end when the time is over.
//! Nothing here reads a clock or a generator of random numbers.
//!
//! [failures over gRPC]: https://opentelemetry.io/docs/specs/otlp/#failures
//! [failures over HTTP]: https://opentelemetry.io/docs/specs/otlp/#failures-1

use std::fmt;
use std::time::{Duration, Instant};

use crate::telemetry::operations::{End, Failure, Status, grpc_code_name};
use crate::telemetry::{DropReason, Fault};

/// How an attempt to send a batch ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The collector has it, but for so many spans that it rejected for good.
    Accepted { rejected: u64, warning: Option<Problem> },
    /// The collector refused it for good.
    Refused(Problem),
    /// It can be tried again.
    Failed { problem: Problem, answer: Answer, retry_after: Option<Duration> },
}

/// Whether a failed attempt was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The collector says that it did not take the batch.
    NotTaken,
    /// No answer came, or one from somebody in between who does not know.
    None,
}

/// What went wrong, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: ProblemKind,
    pub(crate) detail: String,
}

/// What went wrong, as far as it matters whether it was said already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ProblemKind {
    /// The exporter cannot be set up: a certificate cannot be read, or the endpoint makes no sense.
    Setup,
    /// The name of the collector cannot be resolved.
    Name,
    /// The connection cannot be made, or broke.
    Connection,
    /// Who is at the other end is not trusted, does not trust us, or does not speak TLS.
    Tls,
    /// No answer in time.
    Timeout,
    /// The collector's HTTP status.
    Http(u16),
    /// The collector's gRPC status.
    Grpc(u8),
    /// The collector took the batch, but not all of it, or not gladly.
    PartialSuccess,
    /// The output could not be written to.
    Output,
    /// The exporter panicked.
    Panic,
    /// The spool cannot be used, or not for this batch.
    SpoolFailed,
    /// There is no room in the spool.
    SpoolFull,
    /// A file of the spool is damaged.
    SpoolCorrupted,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The collector has it, but for so many rejected spans.
    Exported { rejected: u64 },
    /// The collector refused it.
    Rejected,
    /// It is lost.
    Dropped(DropReason),
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: this became of the batch.
    Settle(Outcome),
    /// To try again at this time.
    RetryAt(Instant),
}

/// How long a batch is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryLimits {
    /// For one attempt: `OTEL_EXPORTER_OTLP_TIMEOUT`.
    pub(crate) attempt_timeout: Duration,
    /// For all attempts of a batch: `OTEL_BSP_EXPORT_TIMEOUT`.
    pub(crate) batch_timeout: Duration,
}

/// The attempts of one batch.
#[derive(Debug)]
pub(crate) struct Retry {
    limits: RetryLimits,
    deadline: Instant,
    backoff: Duration,
    /// When the collector wants to be left alone until, by its latest answer.
    quiet_until: Option<Instant>,
}

/// The first wait: a collector that restarts, or moves to another node, is back within a few of them.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);

/// The longest wait: several fit into the 30 s that a batch has by default.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The longest that a collector can make us wait: it may ask for a year by mistake.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

impl Retry {
    pub(crate) fn new(limits: RetryLimits, now: Instant) -> Self {
        let deadline = after(now, limits.batch_timeout);
        Self { limits, deadline, backoff: BACKOFF_FIRST, quiet_until: None }
    }

    /// By when an attempt that begins now must have ended.
    pub(crate) fn attempt_deadline(&self, now: Instant) -> Instant {
        after(now, self.limits.attempt_timeout).min(self.deadline)
    }

    /// When the collector wants to be left alone until, after this batch too.
    pub(crate) const fn quiet_until(&self) -> Option<Instant> {
        self.quiet_until
    }

    /// What follows from an attempt. `may_have_arrived` tells whether the collector may have the batch by this or an
    /// earlier attempt, without having said so; `random` is any number.
    pub(crate) fn next(
        &mut self,
        attempt: &Attempt,
        may_have_arrived: bool,
        now: Instant,
        random: u64,
    ) -> Next {
        let retry_after = match attempt {
            Attempt::Accepted { rejected, .. } => {
                return Next::Settle(Outcome::Exported { rejected: *rejected });
            }
            Attempt::Refused(_) => return Next::Settle(Outcome::Rejected),
            Attempt::Failed { retry_after, .. } => *retry_after,
        };
        let wait = jittered(self.backoff, random);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.quiet_until = retry_after.map(|asked| now + asked.min(RETRY_AFTER_MAX));
        let retry_at = self.quiet_until.unwrap_or(now).max(now + wait);
        if retry_at < self.deadline {
            return Next::RetryAt(retry_at);
        }
        let reason = if may_have_arrived { DropReason::OutcomeUnknown } else { DropReason::ExportFailed };
        Next::Settle(Outcome::Dropped(reason))
    }
}

/// Between a half and the whole of a wait, so that the processes that lost a collector together do not return together.
fn jittered(wait: Duration, random: u64) -> Duration {
    // The top 32 bits as a fraction of one.
    let fraction = (random >> 32) as f64 / f64::from(u32::MAX);
    wait.mul_f64(0.5 + fraction / 2.0)
}

/// A moment that may lie beyond what the clock can hold: then a moment that never comes.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    /// Thirty years.
    const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    now.checked_add(wait).unwrap_or(now + NEVER)
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl ProblemKind {
    /// Whose fault it is that a batch did not arrive: what the health follows from. `None` where it says nothing of that; if
    /// spans were lost, the counters tell.
    pub(crate) const fn fault(self) -> Option<Fault> {
        Some(match self {
            // Who says that something is wrong with a batch that he has taken is there, and takes batches.
            Self::PartialSuccess => return None,
            // What the disk costs shows in the counters.
            Self::SpoolFailed | Self::SpoolFull | Self::SpoolCorrupted => return None,
            Self::Setup | Self::Tls => Fault::Configuration,
            Self::Name => Fault::ConfigurationIfNew,
            // Somebody else is there who does not speak OTLP (a status of success is told of only where gRPC's is
            // missing), the path or the method is not his, or he does not know us.
            Self::Http(200..=399 | 401 | 403 | 404 | 405 | 407 | 410 | 415) => Fault::Configuration,
            // PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED.
            Self::Grpc(7 | 12 | 16) => Fault::Configuration,
            Self::Connection | Self::Timeout | Self::Http(_) | Self::Grpc(_) | Self::Output | Self::Panic => {
                Fault::Passing
            }
        })
    }

    /// How an operation ends that ends with this.
    pub(crate) const fn end(self) -> End {
        let (failed, status) = match self {
            Self::Http(status) => (Failure::Status, Status::Http(status)),
            Self::Grpc(code) => (Failure::Status, Status::Grpc(code)),
            Self::Setup => (Failure::Setup, Status::None),
            Self::Name => (Failure::Name, Status::None),
            Self::Connection => (Failure::Connection, Status::None),
            Self::Tls => (Failure::Tls, Status::None),
            Self::Timeout => (Failure::Timeout, Status::None),
            Self::PartialSuccess => (Failure::Rejected, Status::None),
            Self::Output => (Failure::Output, Status::None),
            Self::Panic => (Failure::Panicked, Status::None),
            // These end no operation.
            Self::SpoolFailed | Self::SpoolFull | Self::SpoolCorrupted => (Failure::Other, Status::None),
        };
        End { failed: Some(failed), status }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ProblemKind::Setup => f.write_str("the exporter cannot be set up")?,
            ProblemKind::Name => f.write_str("the collector's name cannot be resolved")?,
            ProblemKind::Connection => f.write_str("the connection failed")?,
            ProblemKind::Tls => f.write_str("TLS failed")?,
            ProblemKind::Timeout => f.write_str("no answer in time")?,
            ProblemKind::Http(status) => write!(f, "the collector answered {status}")?,
            ProblemKind::Grpc(code) => write!(f, "the collector answered {}", grpc_code_name(code))?,
            ProblemKind::PartialSuccess => f.write_str("the collector did not take everything")?,
            ProblemKind::Output => f.write_str("the output cannot be written")?,
            ProblemKind::Panic => f.write_str("the exporter panicked")?,
            ProblemKind::SpoolFailed => f.write_str("the spool cannot be used")?,
            ProblemKind::SpoolFull => f.write_str("the spool is full")?,
            ProblemKind::SpoolCorrupted => f.write_str("a file of the spool is damaged")?,
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RetryLimits =
        RetryLimits { attempt_timeout: Duration::from_secs(10), batch_timeout: Duration::from_secs(30) };

    fn failed(retry_after: Option<Duration>) -> Attempt {
        let problem = Problem::new(ProblemKind::Http(503), "");
        Attempt::Failed { problem, answer: Answer::NotTaken, retry_after }
    }

    /// The waits between attempts that fail at once, until the batch is given up.
    fn waits(random: u64, retry_after: Option<Duration>) -> (Vec<Duration>, Outcome) {
        let mut now = Instant::now();
        let mut retry = Retry::new(LIMITS, now);
        let mut waits = Vec::new();
        loop {
            match retry.next(&failed(retry_after), false, now, random) {
                Next::RetryAt(at) => {
                    waits.push(at - now);
                    now = at;
                }
                Next::Settle(outcome) => return (waits, outcome),
            }
        }
    }

    #[test]
    fn waits_double_up_to_a_bound_within_the_time_of_the_batch() {
        let (waits, outcome) = waits(u64::MAX, None);
        let millis: Vec<_> = waits.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000]);
        assert_eq!(outcome, Outcome::Dropped(DropReason::ExportFailed));
    }

    #[test]
    fn jitter_takes_up_to_half_of_a_wait_away() {
        let millis: Vec<_> = waits(0, None).0.iter().take(3).map(Duration::as_millis).collect();
        assert_eq!(millis, [100, 200, 400]);
    }

    #[test]
    fn the_collector_is_never_asked_sooner_than_it_wants() {
        let (waits, _) = waits(0, Some(Duration::from_secs(7)));
        assert!(waits.iter().all(|wait| *wait == Duration::from_secs(7)), "{waits:?}");
        assert_eq!(waits.len(), 4);
        // A collector that wants no wait does not make us hurry.
        assert_eq!(self::waits(0, Some(Duration::ZERO)).0[0], Duration::from_millis(100));
    }

    #[test]
    fn a_wait_beyond_the_time_of_the_batch_ends_it_and_lasts_for_the_next() {
        let now = Instant::now();
        let mut retry = Retry::new(LIMITS, now);
        let minute = Duration::from_secs(60);
        let next = retry.next(&failed(Some(minute)), false, now, 0);
        assert_eq!(next, Next::Settle(Outcome::Dropped(DropReason::ExportFailed)));
        assert_eq!(retry.quiet_until(), Some(now + minute));

        retry.next(&failed(Some(Duration::MAX)), false, now, 0);
        assert_eq!(retry.quiet_until(), Some(now + RETRY_AFTER_MAX));
    }

    #[test]
    fn an_attempt_ends_with_its_own_time_or_with_that_of_the_batch() {
        let now = Instant::now();
        let retry = Retry::new(LIMITS, now);
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(retry.attempt_deadline(now), at(10));
        assert_eq!(retry.attempt_deadline(at(25)), at(30));
        let endless = RetryLimits { attempt_timeout: Duration::MAX, batch_timeout: Duration::MAX };
        assert!(Retry::new(endless, now).attempt_deadline(now) > at(1_000_000));
    }

    #[test]
    fn answers_settle_a_batch() {
        let now = Instant::now();
        let settle = |attempt, may_have_arrived| {
            Retry::new(RetryLimits { batch_timeout: Duration::ZERO, ..LIMITS }, now).next(
                &attempt,
                may_have_arrived,
                now,
                0,
            )
        };
        let problem = || Problem::new(ProblemKind::Http(400), "");
        let accepted = Attempt::Accepted { rejected: 3, warning: None };
        assert_eq!(settle(accepted, true), Next::Settle(Outcome::Exported { rejected: 3 }));
        assert_eq!(settle(Attempt::Refused(problem()), true), Next::Settle(Outcome::Rejected));
        assert_eq!(settle(failed(None), true), Next::Settle(Outcome::Dropped(DropReason::OutcomeUnknown)));
        assert_eq!(settle(failed(None), false), Next::Settle(Outcome::Dropped(DropReason::ExportFailed)));
    }

    #[test]
    fn what_time_does_not_mend_is_a_fault_of_the_configuration() {
        let is_configuration = |kind: &ProblemKind| kind.fault() == Some(Fault::Configuration);
        let http: Vec<_> =
            (400..600).filter(|status| is_configuration(&ProblemKind::Http(*status))).collect();
        assert_eq!(http, [401, 403, 404, 405, 407, 410, 415]);
        let grpc: Vec<_> = (1..20).filter(|code| is_configuration(&ProblemKind::Grpc(*code))).collect();
        assert_eq!(grpc, [7, 12, 16]);
        for kind in [ProblemKind::Connection, ProblemKind::Timeout, ProblemKind::Panic, ProblemKind::Output] {
            assert_eq!(kind.fault(), Some(Fault::Passing), "{kind:?}");
        }
    }

    #[test]
    fn problems_read_as_sentences() {
        let text = |kind, detail: &str| Problem::new(kind, detail).to_string();
        assert_eq!(text(ProblemKind::Grpc(14), "try later"), "the collector answered UNAVAILABLE: try later");
        assert_eq!(text(ProblemKind::Http(503), ""), "the collector answered 503");
        assert_eq!(text(ProblemKind::Grpc(200), ""), "the collector answered UNKNOWN");
    }
}
