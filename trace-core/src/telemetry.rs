//! How the pipeline watches itself: every span that was started is in exactly one of these counts.
//!
//! Each way to lose a span has a name, and each name a counter, declared once, in [`DropReason`]. A counter has one
//! writer at a time, so counting needs no contended instruction; reading sums them up.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a recorded span did not reach the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The memory for finished spans was used up when the span ended.
    QueueFull,
    /// The memory for live spans was used up when the span, a child in a recorded trace, started.
    LiveLimit,
    /// The span ended after its pipeline was shut down, or was still waiting at the shutdown's deadline.
    ShutDown,
    /// Every attempt to send the span's batch failed, and the collector is known not to have it.
    ExportFailed,
    /// The batch was sent, and its answer never came: the collector may have it. This also counts a batch that was lost
    /// on disk, or on the way there, after such an attempt.
    OutcomeUnknown,
    /// The exporter panicked with the span in its hands.
    ExporterPanicked,
    /// There was no room for the span's batch on disk, or newer ones needed its room.
    SpoolFull,
    /// The disk did not take the span's batch, or not by the shutdown's deadline, or does not give it back.
    ///
    /// A batch that a slow disk takes after the deadline is sent by the next start all the same.
    SpoolFailed,
    /// The file with the span's batch was torn or changed.
    SpoolCorrupted,
}

impl DropReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::QueueFull,
        Self::LiveLimit,
        Self::ShutDown,
        Self::ExportFailed,
        Self::OutcomeUnknown,
        Self::ExporterPanicked,
        Self::SpoolFull,
        Self::SpoolFailed,
        Self::SpoolCorrupted,
    ];

    /// The reason as it is written in logs and metrics: the value of `error.type` in OpenTelemetry's
    /// `otel.sdk.processor.span.processed`, where the semantic conventions have one.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::LiveLimit => "live_limit",
            Self::ShutDown => "already_shutdown",
            Self::ExportFailed => "export_failed",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::ExporterPanicked => "exporter_panicked",
            Self::SpoolFull => "spool_full",
            Self::SpoolFailed => "spool_failed",
            Self::SpoolCorrupted => "spool_corrupted",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of every span of a pipeline, in spans.
///
/// Whenever the pipeline is at rest (no span is starting or ending, and no batch changes hands)
/// `started + recovered = live + held + queued + spooled + exported + rejected + dropped`, exactly. While it works, the counts are
/// read one after the other, and a span on its way may be seen twice or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Recorded spans that were started.
    pub started: u64,
    /// Spans of earlier processes that were found on disk: not among the started.
    pub recovered: u64,
    /// Started and not ended yet.
    pub live: u64,
    /// Ended, and kept back until their trace is decided. Nothing does that yet: 0.
    pub held: u64,
    /// Ended, and on their way to the collector.
    pub queued: u64,
    /// On disk, to be sent later or being sent: they survive the process. See [`SpoolConfig`](crate::config::SpoolConfig).
    pub spooled: u64,
    /// Acknowledged by the collector, or printed by the console exporter.
    pub exported: u64,
    /// Refused by the collector, for good.
    pub rejected: u64,
    /// Lost, by reason.
    pub dropped: Dropped,
    /// Spans that the sampler left out: not among the started.
    pub sampled_out: u64,
    /// Local roots that were not recorded because memory was short: not among the started.
    pub shed: u64,
}

impl Stats {
    /// Whether every span that was started or recovered is in one of the other counts. At rest, it is.
    pub fn is_balanced(&self) -> bool {
        self.started + self.recovered
            == self.live
                + self.held
                + self.queued
                + self.spooled
                + self.exported
                + self.rejected
                + self.dropped.total()
    }
}

/// One JSON object on one line, so that a log shipper can read it.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{{\"started\":{},\"recovered\":{},\"live\":{},\"held\":{},\"queued\":{},\"spooled\":{},\"exported\":{},\"rejected\":{},\
             \"dropped\":{{",
            self.started,
            self.recovered,
            self.live,
            self.held,
            self.queued,
            self.spooled,
            self.exported,
            self.rejected
        )?;
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}\"{reason}\":{}", self.dropped.count(reason))?;
        }
        write!(f, "}},\"sampled_out\":{},\"shed\":{}}}", self.sampled_out, self.shed)
    }
}

/// Lost spans, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped([u64; DropReason::ALL.len()]);

impl Dropped {
    /// The spans lost for this reason.
    pub fn count(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// The spans lost for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, reason: DropReason, spans: u64) {
        self.0[reason as usize] += spans;
    }
}

/// A number that one thread at a time changes and any may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// For the holder of the lock, or the owner, that makes this the only writer: a load and a store, where a shared
    /// counter needs a locked instruction.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// As [`add`](Self::add), downwards. A counter that goes up in one slot and down in another may pass below zero;
    /// the sum over the slots does not.
    pub(crate) fn sub(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    /// For writers that nothing keeps apart.
    pub(crate) fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each way to lose a span.
#[derive(Debug, Default)]
pub(crate) struct DropCounters([Counter; DropReason::ALL.len()]);

impl DropCounters {
    pub(crate) fn of(&self, reason: DropReason) -> &Counter {
        &self.0[reason as usize]
    }

    pub(crate) fn sum_into(&self, dropped: &mut Dropped) {
        for reason in DropReason::ALL {
            dropped.add(reason, self.of(reason).get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let counters = DropCounters::default();
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            counters.of(reason).add(1 << i);
        }
        let mut dropped = Dropped::default();
        counters.sum_into(&mut dropped);
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(dropped.count(reason), 1 << i, "{reason}");
        }
    }

    #[test]
    fn stats_are_one_line_of_json() {
        let mut stats = Stats { started: 3, exported: 2, ..Stats::default() };
        stats.dropped.add(DropReason::QueueFull, 1);
        assert!(stats.is_balanced());
        assert_eq!(
            stats.to_string(),
            "{\"started\":3,\"recovered\":0,\"live\":0,\"held\":0,\"queued\":0,\"spooled\":0,\"exported\":2,\"rejected\":0,\
             \"dropped\":{\"queue_full\":1,\"live_limit\":0,\"already_shutdown\":0,\"export_failed\":0,\
             \"outcome_unknown\":0,\"exporter_panicked\":0,\"spool_full\":0,\"spool_failed\":0,\
             \"spool_corrupted\":0},\"sampled_out\":0,\"shed\":0}"
        );
    }
}
