//! What the schedule knows of the spool: how much is on disk, and what the disk owes an answer to.
//!
//! A disk is *sick* while it rests after a failure, and while an answer is overdue. Then spans in memory go to the collector
//! past those on disk: order is worth less than a healthy collector.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::after;

/// When the spool is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpoolLimits {
    /// Spans that wait are written once they take so much memory, in bytes, while the collector takes none.
    pub(crate) waiting_bytes_max: usize,
    /// How long a batch is on its way until the collector is taken to accept none.
    pub(crate) stalled_after: Duration,
}

/// The default of [`SpoolLimits::stalled_after`]: less than the memory for spans lasts at any rate that services have, and
/// more than a healthy collector takes.
pub(crate) const STALLED: Duration = Duration::from_millis(500);

/// How long a disk that failed is left alone.
const REST: Duration = Duration::from_secs(10);

/// How long a disk may take for an answer until nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much of a shutdown's time is kept for writing what could not be sent: a quarter, and no more than a disk takes for
/// all that memory holds, but so much that even a hasty shutdown can write.
const RESERVE_MAX: Duration = Duration::from_secs(2);
const RESERVE_MIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Backlog {
    limits: SpoolLimits,
    /// The directory is being opened, and nobody knows yet what is in it.
    is_opening: bool,
    /// The spans on disk, those of a file that is being sent included.
    pub(super) spans: usize,
    /// The batches that are being written, in the order of their answers.
    storing: VecDeque<Storing>,
    /// The oldest file is being read.
    pub(super) is_reading: bool,
    /// How many of the spans that wait, from the front, are to be written whatever the memory.
    pub(super) due: usize,
    /// How many answers the disk owes, and since when the next one.
    owed: usize,
    owed_since: Instant,
    resting_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Storing {
    pub(super) spans: usize,
    /// It was in flight, so that it is older than all that is on disk.
    pub(super) was_in_flight: bool,
}

impl Backlog {
    /// The directory is being opened.
    pub(super) const fn opening(limits: SpoolLimits, now: Instant) -> Self {
        Self {
            limits,
            is_opening: true,
            spans: 0,
            storing: VecDeque::new(),
            is_reading: false,
            due: 0,
            owed: 1,
            owed_since: now,
            resting_until: None,
        }
    }

    pub(super) fn opened(&mut self, is_usable: bool, now: Instant) {
        self.is_opening = false;
        self.answered(is_usable, now);
    }

    /// Whether it is worth waiting for what may be in the directory.
    pub(super) fn is_opening(&self, now: Instant) -> bool {
        self.is_opening && !self.is_sick(now)
    }

    pub(super) fn store(&mut self, storing: Storing, now: Instant) {
        self.storing.push_back(storing);
        self.ask(now);
    }

    pub(super) fn read(&mut self, now: Instant) {
        self.is_reading = true;
        self.ask(now);
    }

    fn ask(&mut self, now: Instant) {
        if self.owed == 0 {
            self.owed_since = now;
        }
        self.owed += 1;
    }

    /// The disk gave an answer.
    pub(super) fn answered(&mut self, is_well: bool, now: Instant) {
        self.owed = self.owed.saturating_sub(1);
        self.owed_since = now;
        self.resting_until = (!is_well).then(|| after(now, REST));
    }

    /// The batch that the answer is about.
    pub(super) fn stored(&mut self) -> Option<Storing> {
        self.storing.pop_front()
    }

    /// The spans of the batches that are being written.
    pub(super) fn storing(&self) -> usize {
        self.storing.iter().map(|storing| storing.spans).sum()
    }

    /// Nobody waits for the batches that are being written any more.
    pub(super) fn forget_storing(&mut self) {
        self.storing.clear();
    }

    /// Whether a batch that waited is being written: one at a time, so that what is on its way takes no more memory.
    pub(super) fn is_storing_what_waited(&self) -> bool {
        self.storing.iter().any(|storing| !storing.was_in_flight)
    }

    pub(super) fn is_sick(&self, now: Instant) -> bool {
        self.resting_until.is_some_and(|until| now < until)
            || (self.owed > 0 && now >= after(self.owed_since, PATIENCE))
    }

    /// Whether what is in memory has to wait for the disk.
    pub(super) fn is_first(&self) -> bool {
        self.spans > 0 || self.owed > 0
    }

    /// Whether the oldest file can be read, if there is one.
    pub(super) fn can_be_read(&self) -> bool {
        self.spans > 0 && !self.is_reading && !self.storing.iter().any(|storing| storing.was_in_flight)
    }

    /// When a batch that is sent since then has been on its way for too long.
    pub(super) fn stalled_at(&self, since: Instant) -> Instant {
        after(since, self.limits.stalled_after)
    }

    pub(super) const fn is_beyond_memory(&self, waiting_bytes: usize) -> bool {
        waiting_bytes >= self.limits.waiting_bytes_max
    }

    /// How much memory is left for spans that wait until they are written.
    pub(super) const fn memory_left(&self, waiting_bytes: usize) -> usize {
        self.limits.waiting_bytes_max.saturating_sub(waiting_bytes)
    }

    /// When the disk becomes sick or well by itself.
    pub(super) fn times(&self) -> impl Iterator<Item = Instant> {
        let overdue = (self.owed > 0).then(|| after(self.owed_since, PATIENCE));
        self.resting_until.into_iter().chain(overdue)
    }
}

/// By when a shutdown stops sending, to write what is left.
pub(super) fn withdrawal(now: Instant, deadline: Instant) -> Instant {
    let time = deadline.saturating_duration_since(now);
    let reserve = (time / 4).clamp(RESERVE_MIN, RESERVE_MAX).min(time);
    deadline.checked_sub(reserve).unwrap_or(now)
}
