//! How the pipeline watches itself: every span that was started is in exactly one of these counts.
//!
//! Each way to lose a span has a name, and each name a counter, declared once, in [`DropReason`]. A counter has one
//! writer at a time, so counting needs no contended instruction; reading sums them up.
//!
//! What follows from the counts, and from how batches fare, is in [`health`]; how long batches take, in [`operations`];
//! and the way by which people are told, in [`log`].

mod component;
mod health;
pub(crate) mod log;
pub(crate) mod operations;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::SpanContext;

#[cfg_attr(not(feature = "metrics"), expect(unused_imports, reason = "metrics alone name one"))]
pub(crate) use self::component::Component;
pub(crate) use self::component::Components;
pub use self::health::Health;
pub(crate) use self::health::{Fault, Published, Watch};
pub use self::operations::{OPERATION_BOUNDS_SECONDS, Operation};

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
    /// The [`started`](Self::started), by where their parent is.
    pub started_by_parent: ByParent,
    /// The [`sampled_out`](Self::sampled_out) and the [`shed`](Self::shed), by where their parent is.
    pub not_recorded_by_parent: ByParent,
    /// Spans that were handed over to be sent or spooled, since the start. With the [`recovered`](Self::recovered) ones, they are
    /// on their way, [`spooled`](Self::spooled), exported, rejected or [`dropped_by_exporter`](Self::dropped_by_exporter).
    pub submitted: u64,
    /// Of the [`queued`](Self::queued) and the [`spooled`](Self::spooled), those that are being sent at the moment.
    pub in_flight: u64,
    /// Of the [`dropped`](Self::dropped), those that were being sent, written to disk, or there, when they were.
    pub dropped_by_exporter: Dropped,
    /// The most finished spans that may wait, where the configuration counts in spans (`OTEL_BSP_MAX_QUEUE_SIZE`).
    pub queue_spans_max: Option<u64>,
    /// The memory that is taken for spans, in bytes: live and finished ones, and what is put by for more.
    pub memory_bytes: u64,
    /// The most that [`memory_bytes`](Self::memory_bytes) can be: fourteen sixteenths of
    /// [`Config::memory_bytes_max`](crate::config::Config::memory_bytes_max); the rest is for requests under way.
    pub memory_bytes_max: u64,
    /// How the batches fared, and how long they took, by how that ended.
    pub operations: Vec<Operation>,
}

/// Spans by where their parent is: `otel.span.parent.origin`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ByParent {
    /// They have no parent.
    pub none: u64,
    /// The parent is a span of this process.
    pub local: u64,
    /// The parent is a span of a caller.
    pub remote: u64,
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
        write!(
            f,
            "}},\"sampled_out\":{},\"shed\":{},\"submitted\":{},\"in_flight\":{},\"memory_bytes\":{},\
             \"memory_bytes_max\":{},\"operations\":[",
            self.sampled_out,
            self.shed,
            self.submitted,
            self.in_flight,
            self.memory_bytes,
            self.memory_bytes_max
        )?;
        for (i, operation) in self.operations.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{operation}")?;
        }
        f.write_str("]}")
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

/// Where the parent of a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParentOrigin {
    None,
    Local,
    Remote,
}

impl ParentOrigin {
    #[inline]
    pub(crate) fn of(parent: Option<&SpanContext>) -> Self {
        match parent {
            None => Self::None,
            Some(parent) if parent.is_remote() => Self::Remote,
            Some(_) => Self::Local,
        }
    }
}

/// One counter for each place where a parent can be. A span is counted in one of them, so that to tell them apart costs
/// nothing but to choose.
#[derive(Debug, Default)]
pub(crate) struct ParentCounters([Counter; 3]);

impl ParentCounters {
    #[inline]
    pub(crate) fn of(&self, origin: ParentOrigin) -> &Counter {
        &self.0[origin as usize]
    }

    pub(crate) fn sum_into(&self, by_parent: &mut ByParent) {
        let [none, local, remote] = self.0.each_ref().map(Counter::get);
        by_parent.none += none;
        by_parent.local += local;
        by_parent.remote += remote;
    }
}

impl ByParent {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.none + self.local + self.remote
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
             \"spool_corrupted\":0},\"sampled_out\":0,\"shed\":0,\
             \"submitted\":0,\"in_flight\":0,\"memory_bytes\":0,\"memory_bytes_max\":0,\"operations\":[]}"
        );
    }
}
