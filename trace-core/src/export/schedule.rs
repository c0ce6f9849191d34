//! When what is done: the worker's decisions, without a clock, a thread or a socket.
//!
//! The worker asks for the next [`Step`] and takes it, until there is none; then it waits for the time that the last
//! step named, or for something to happen. What happens is told by the other methods. Every one is given the time.
//!
//! Spans are sent in the order in which they came: what is in flight is the oldest, then comes what is on disk, then what
//! waits in memory. So what waits is sent only while nothing is on disk, and put there only behind the rest.

mod backlog;

use std::time::{Duration, Instant};

use self::backlog::{Backlog, Storing, withdrawal};
use super::FlushError;
use super::batch::{Batch, BatchLimits, Part, Waiting};
use super::chunk::Chunk;
use super::retry::{Outcome, after};
use super::spool::StoreError;

pub(crate) use self::backlog::{STALLED, SpoolLimits};

/// What the worker is to do. `W` is whoever waits for an answer.
#[derive(Debug)]
pub(crate) enum Step<W> {
    /// Take what lies in open chunks, hand it over by [`push`](Schedule::push), and say so by [`swept`](Schedule::swept).
    Sweep,
    /// Send this, and tell the outcome by [`settled`](Schedule::settled).
    Send(Batch),
    /// Read the oldest batch on disk, and tell by [`found`](Schedule::found) what came.
    Read,
    /// Write this to disk, and tell by [`stored`](Schedule::stored) how that went.
    Store(Batch),
    /// Stop sending, because the time of the shutdown is nearly over: write what was in flight to disk
    /// ([`gave_up`](Schedule::gave_up)), or leave it there ([`left_on_disk`](Schedule::left_on_disk)).
    Withdraw,
    /// Tell somebody who waits.
    Answer(W, Result<(), FlushError>),
    /// The time of the shutdown is over: stop sending, tell the outcome of what was being sent, and count as lost these
    /// spans, and those that are being written.
    Abandon(usize),
    /// Nothing until this time, or until something happens.
    Wait(Instant),
    /// The shutdown is complete.
    Finish(End<W>),
}

/// The end of a shutdown.
#[derive(Debug)]
pub(crate) struct End<W> {
    /// Who waits for it.
    pub(crate) waiters: Vec<W>,
    /// What to tell them.
    pub(crate) result: Result<(), FlushError>,
    /// By when they want to be told.
    pub(crate) deadline: Instant,
}

#[derive(Debug)]
pub(crate) struct Schedule<W> {
    delay: Duration,
    waiting: Waiting,
    /// How many of the spans that wait, from the front, leave even if they do not fill a batch.
    due: usize,
    sweep_at: Instant,
    /// A sweep is wanted before its time.
    hurry: bool,
    /// What is being sent.
    in_flight: Option<InFlight>,
    /// The spool, where there is one.
    backlog: Option<Backlog>,
    /// The queue is bounded in spans, and half full.
    is_crowded: bool,
    /// The collector wants to be left alone until then.
    quiet_until: Option<Instant>,
    flushes: Vec<Flush<W>>,
    closing: Option<Closing<W>>,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    spans: usize,
    since: Instant,
    is_from_disk: bool,
}

/// What becomes of a batch that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is on disk.
    OnDisk,
    /// It is not, and goes on waiting: hand it over by [`put_back`](Schedule::put_back).
    Waits,
    /// It is lost.
    Lost,
}

/// Somebody waits until so many spans are settled, which are those that were there when it began.
#[derive(Debug)]
struct Flush<W> {
    waiter: W,
    deadline: Instant,
    /// `None` until the open chunks were swept for it.
    remaining: Option<usize>,
    failed: bool,
}

#[derive(Debug)]
struct Closing<W> {
    deadline: Instant,
    swept: bool,
    /// When sending ends so that the rest can be written; set where there is a spool.
    withdraw_at: Option<Instant>,
    withdrawn: bool,
    waiters: Vec<(W, Instant)>,
    result: Result<(), FlushError>,
}

impl<W> Schedule<W> {
    /// Spans wait at most for `delay` until they are sent.
    pub(crate) fn new(limits: BatchLimits, delay: Duration, now: Instant) -> Self {
        Self {
            delay,
            waiting: Waiting::new(limits),
            due: 0,
            sweep_at: after(now, delay),
            hurry: false,
            in_flight: None,
            backlog: None,
            is_crowded: false,
            quiet_until: None,
            flushes: Vec::new(),
            closing: None,
        }
    }

    /// With a spool, whose directory is being opened.
    pub(crate) fn with_spool(self, limits: SpoolLimits, now: Instant) -> Self {
        Self { backlog: Some(Backlog::opening(limits, now)), ..self }
    }

    /// Takes over the spans of a schedule that failed, and what it knew of the spool. They are written to disk first: what
    /// made it fail may do so again.
    pub(crate) fn salvage(&mut self, failed: Self) {
        self.waiting = failed.waiting;
        self.backlog = failed.backlog;
        if let Some(backlog) = &mut self.backlog {
            backlog.due = self.waiting.len();
        }
    }

    // What happens.

    /// Spans came.
    pub(crate) fn push(&mut self, part: Part) {
        self.waiting.push(part);
    }

    /// The open chunks, and all sealed before, were handed over.
    pub(crate) fn swept(&mut self, now: Instant) {
        self.sweep_at = after(now, self.delay);
        self.hurry = false;
        self.due = self.waiting.len();
        let unsettled = self.unsettled();
        for flush in &mut self.flushes {
            flush.remaining.get_or_insert(unsettled);
        }
        if let Some(closing) = &mut self.closing {
            closing.swept = true;
        }
    }

    /// The batch in flight is settled.
    pub(crate) fn settled(&mut self, outcome: Outcome, quiet_until: Option<Instant>) {
        self.quiet_until = quiet_until;
        let Some(in_flight) = self.in_flight.take() else { return };
        if in_flight.is_from_disk
            && let Some(backlog) = &mut self.backlog
        {
            backlog.spans = backlog.spans.saturating_sub(in_flight.spans);
        }
        self.settle_oldest(in_flight.spans, outcome != Outcome::Exported { rejected: 0 });
    }

    /// Batches are made and settled in the order in which spans came, so these are the oldest.
    fn settle_oldest(&mut self, spans: usize, failed: bool) {
        for flush in &mut self.flushes {
            if let Some(remaining @ 1..) = &mut flush.remaining {
                *remaining = remaining.saturating_sub(spans);
                flush.failed |= failed;
            }
        }
        self.fail_closing(failed);
    }

    fn fail_closing(&mut self, failed: bool) {
        if let Some(closing) = &mut self.closing
            && failed
        {
            closing.fail(FlushError::Failed);
        }
    }

    // What happens to the spool.

    /// The directory was opened, or cannot be used for now.
    pub(crate) fn opened(&mut self, is_usable: bool, now: Instant) {
        if let Some(backlog) = &mut self.backlog {
            backlog.opened(is_usable, now);
        }
    }

    /// So many spans of earlier processes are on disk: they are older than all others.
    pub(crate) fn recovered(&mut self, spans: usize) {
        let Some(backlog) = &mut self.backlog else { return };
        backlog.spans += spans;
        for flush in &mut self.flushes {
            if let Some(remaining) = &mut flush.remaining {
                *remaining += spans;
            }
        }
    }

    /// Spans on disk were lost, but none of a batch in flight.
    pub(crate) fn lost(&mut self, spans: usize) {
        if let Some(backlog) = &mut self.backlog {
            backlog.spans = backlog.spans.saturating_sub(spans);
        }
        let in_flight = self.in_flight.map_or(0, |in_flight| in_flight.spans);
        for flush in &mut self.flushes {
            if let Some(remaining) = &mut flush.remaining
                && *remaining > in_flight
            {
                *remaining -= spans.min(*remaining - in_flight);
                flush.failed = true;
            }
        }
        self.fail_closing(true);
    }

    /// A batch of so many spans, which was in flight, is given up and being written to disk.
    pub(crate) fn gave_up(&mut self, spans: usize, quiet_until: Option<Instant>, now: Instant) {
        self.quiet_until = quiet_until;
        self.in_flight = None;
        if let Some(backlog) = &mut self.backlog {
            backlog.store(Storing { spans, was_in_flight: true }, now);
        }
    }

    /// The batch in flight came from disk, and stays there.
    pub(crate) fn left_on_disk(&mut self, quiet_until: Option<Instant>) {
        self.quiet_until = quiet_until;
        self.in_flight = None;
    }

    /// The oldest of the batches that are being written was written, or not. Says what becomes of it.
    pub(crate) fn stored(&mut self, result: Result<(), StoreError>, now: Instant) -> Stored {
        let withdrawn = self.is_withdrawn();
        let Some(backlog) = &mut self.backlog else { return Stored::Lost };
        let failed = result == Err(StoreError::Failed);
        backlog.answered(!failed, now);
        let Some(Storing { spans, was_in_flight }) = backlog.stored() else { return Stored::Lost };
        if result.is_ok() {
            backlog.spans += spans;
            return Stored::OnDisk;
        }
        backlog.due = 0;
        if failed && !was_in_flight && !withdrawn {
            return Stored::Waits;
        }
        self.settle_oldest(spans, true);
        Stored::Lost
    }

    /// Takes back a batch that could not be written.
    pub(crate) fn put_back(&mut self, batch: Batch) {
        self.due += batch.len();
        self.waiting.put_back(batch);
    }

    /// The oldest batch was read, and has so many spans; `None` if there was none, an error if the disk failed. Says whether
    /// to send it.
    pub(crate) fn found(&mut self, spans: Result<Option<usize>, ()>, now: Instant) -> bool {
        let may_send = self.in_flight.is_none() && !self.is_withdrawn();
        let Some(backlog) = &mut self.backlog else { return false };
        backlog.answered(spans.is_ok(), now);
        backlog.is_reading = false;
        match spans {
            Ok(Some(spans)) if may_send => {
                self.in_flight = Some(InFlight { spans, since: now, is_from_disk: true });
                true
            }
            Ok(Some(_)) => false,
            // What was thought to be there is not: it must not be looked for without end.
            Ok(None) => {
                backlog.spans = 0;
                false
            }
            Err(()) => false,
        }
    }

    /// There is no spool any more.
    pub(crate) fn spool_is_gone(&mut self) {
        self.backlog = None;
    }

    /// Somebody wants to know when all that is there now is settled.
    pub(crate) fn flush(&mut self, waiter: W, deadline: Instant) {
        self.flushes.push(Flush { waiter, deadline, remaining: None, failed: false });
    }

    /// Somebody wants the end, at the latest at `deadline`. The first one's deadline holds; others wait for it, as long
    /// as they want to.
    pub(crate) fn close(&mut self, waiter: W, deadline: Instant) {
        self.closing_by(deadline, Ok(())).waiters.push((waiter, deadline));
    }

    /// The end is wanted soon, and somebody who waited for it knows already that it failed.
    pub(crate) fn close_by(&mut self, deadline: Instant) {
        self.closing_by(deadline, Err(FlushError::Failed));
    }

    fn closing_by(&mut self, deadline: Instant, result: Result<(), FlushError>) -> &mut Closing<W> {
        self.closing.get_or_insert_with(|| Closing {
            deadline,
            swept: false,
            withdraw_at: None,
            withdrawn: false,
            waiters: Vec::new(),
            result,
        })
    }

    /// Whether spans should leave although no batch is full, because the queue may overflow.
    pub(crate) fn crowded(&mut self, is_crowded: bool) {
        self.is_crowded = is_crowded;
        self.hurry = is_crowded && (self.is_ready() || self.backlog.is_some());
    }

    // What to do.

    /// The next step. To be asked for again after each, but [`Wait`](Step::Wait) and [`Finish`](Step::Finish).
    pub(crate) fn next(&mut self, now: Instant) -> Step<W> {
        if self.quiet_until.is_some_and(|until| now >= until) {
            self.quiet_until = None;
        }
        if (now >= self.sweep_at && self.may_sweep()) || self.wants_sweep() {
            return Step::Sweep;
        }
        if self.is_withdrawn() && self.in_memory() == 0 {
            self.fail_flushes();
        }
        if let Some(step) = self.answer(now) {
            return step;
        }
        if self.wants_withdrawal(now) {
            return Step::Withdraw;
        }
        if self.closing.as_ref().is_some_and(|closing| now >= closing.deadline) && self.in_memory() > 0 {
            return self.abandon();
        }
        if self.wants_store(now)
            && let Some(batch) = self.waiting.take_batch()
        {
            self.due = self.due.saturating_sub(batch.len());
            if let Some(backlog) = &mut self.backlog {
                backlog.due = backlog.due.saturating_sub(batch.len());
                backlog.store(Storing { spans: batch.len(), was_in_flight: false }, now);
            }
            return Step::Store(batch);
        }
        if self.may_send() {
            if let Some(backlog) = &mut self.backlog
                && backlog.is_first()
                && !backlog.is_sick(now)
            {
                if backlog.can_be_read() {
                    backlog.read(now);
                    return Step::Read;
                }
            } else if (self.due > 0 || self.waiting.is_full())
                && let Some(batch) = self.waiting.take_batch()
            {
                self.due = self.due.saturating_sub(batch.len());
                self.in_flight = Some(InFlight { spans: batch.len(), since: now, is_from_disk: false });
                return Step::Send(batch);
            }
        }
        let is_done = match self.is_withdrawn() {
            true => self.in_memory() == 0,
            false => self.unsettled() == 0 && !self.is_opening(now),
        };
        if is_done
            && self.flushes.is_empty()
            && let Some(closing) = self.closing.take()
        {
            let waiters = closing.waiters.into_iter().map(|(waiter, _)| waiter).collect();
            return Step::Finish(End { waiters, result: closing.result, deadline: closing.deadline });
        }
        Step::Wait(self.next_time(now))
    }

    /// After how many sealed chunks there is something to do; `None` when they do not matter now.
    pub(crate) fn wake_at_chunks(&self) -> Option<usize> {
        if self.is_ready() && !self.backlog.as_ref().is_some_and(Backlog::is_first) {
            return Some(self.waiting.chunks_missing());
        }
        let left = self.backlog.as_ref()?.memory_left(self.waiting.memory());
        // Beyond it, they are taken when there is something to do.
        (left > 0).then(|| left.div_ceil(Chunk::MEMORY))
    }

    /// Whether a batch could be sent, if there were one.
    const fn is_ready(&self) -> bool {
        self.in_flight.is_none() && self.quiet_until.is_none()
    }

    /// Whether what earlier processes left may be found any moment.
    fn is_opening(&self, now: Instant) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.is_opening(now))
    }

    fn is_withdrawn(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.withdrawn)
    }

    /// Whether what waits is to be written, as far as it fills a batch or has to.
    fn wants_store(&self, now: Instant) -> bool {
        let Some(backlog) = &self.backlog else { return false };
        if backlog.is_storing_what_waited() {
            return false;
        }
        if self.is_withdrawn() || backlog.due > 0 {
            return true;
        }
        let is_short = self.is_crowded || backlog.is_beyond_memory(self.waiting.memory());
        is_short && !backlog.is_sick(now) && !self.is_taking(now)
    }

    /// Whether the collector is known to take batches, or may be about to.
    fn is_taking(&self, now: Instant) -> bool {
        let Some(backlog) = &self.backlog else { return true };
        let is_stalled = self.in_flight.is_some_and(|in_flight| now >= backlog.stalled_at(in_flight.since));
        !is_stalled && backlog.spans + backlog.storing() == 0 && self.quiet_until.is_none()
    }

    /// Marks the time at which a shutdown stops sending, where the rest can be written.
    fn wants_withdrawal(&mut self, now: Instant) -> bool {
        let unsettled = self.unsettled();
        let (Some(backlog), Some(closing)) = (&mut self.backlog, &mut self.closing) else { return false };
        let withdraw_at = *closing.withdraw_at.get_or_insert_with(|| withdrawal(now, closing.deadline));
        if closing.withdrawn || (unsettled == 0 && !backlog.is_opening(now)) || now < withdraw_at {
            return false;
        }
        closing.withdrawn = true;
        closing.fail(FlushError::Timeout);
        backlog.due = 0;
        true
    }

    /// Whether it is of use to take what lies in open chunks before somebody asks for it: each chunk that is taken half empty keeps
    /// its memory until its spans are sent, and while a collector hangs, nothing is.
    const fn may_sweep(&self) -> bool {
        self.is_ready() || self.backlog.is_some()
    }

    fn wants_sweep(&self) -> bool {
        self.hurry
            || self.flushes.iter().any(|flush| flush.remaining.is_none())
            || self.closing.as_ref().is_some_and(|closing| !closing.swept)
    }

    /// The spans that only memory holds.
    pub(crate) fn in_memory(&self) -> usize {
        let storing = self.backlog.as_ref().map_or(0, Backlog::storing);
        let in_flight = self.in_flight.filter(|in_flight| !in_flight.is_from_disk);
        self.waiting.len() + storing + in_flight.map_or(0, |in_flight| in_flight.spans)
    }

    /// All spans that the collector does not have yet.
    fn unsettled(&self) -> usize {
        self.in_memory() + self.backlog.as_ref().map_or(0, |backlog| backlog.spans)
    }

    fn may_send(&self) -> bool {
        self.is_ready() && !self.is_withdrawn()
    }

    /// The answer to somebody whose spans are settled, or whose time is over.
    fn answer(&mut self, now: Instant) -> Option<Step<W>> {
        let is_opening = self.is_opening(now) && !self.is_withdrawn();
        let done = |flush: &Flush<W>| (flush.remaining == Some(0) && !is_opening) || now >= flush.deadline;
        if let Some(index) = self.flushes.iter().position(done) {
            let flush = self.flushes.remove(index);
            let result = match flush.remaining {
                Some(0) if flush.failed => Err(FlushError::Failed),
                Some(0) => Ok(()),
                _ => Err(FlushError::Timeout),
            };
            return Some(Step::Answer(flush.waiter, result));
        }
        let closing = self.closing.as_mut()?;
        // Whoever gave the deadline that holds is told when all is over, which is at once.
        let index = closing
            .waiters
            .iter()
            .position(|(_, deadline)| *deadline < closing.deadline && now >= *deadline)?;
        let (waiter, _) = closing.waiters.remove(index);
        Some(Step::Answer(waiter, Err(FlushError::Timeout)))
    }

    fn abandon(&mut self) -> Step<W> {
        let lost = self.waiting.len();
        while self.waiting.take_batch().is_some() {}
        self.due = 0;
        if let Some(backlog) = &mut self.backlog {
            backlog.forget_storing();
        }
        self.fail_flushes();
        if let Some(closing) = &mut self.closing {
            closing.withdrawn = true;
            closing.fail(FlushError::Timeout);
        }
        Step::Abandon(lost)
    }

    /// Nobody has to wait for more than what is in flight.
    fn fail_flushes(&mut self) {
        let in_flight = self.in_flight.map_or(0, |in_flight| in_flight.spans);
        for flush in &mut self.flushes {
            flush.remaining = Some(in_flight);
            flush.failed = true;
        }
    }

    fn next_time(&self, now: Instant) -> Instant {
        let flushes = self.flushes.iter().map(|flush| flush.deadline);
        let closing = self.closing.iter().flat_map(|closing| {
            let withdraw_at = closing.withdraw_at.filter(|_| !closing.withdrawn);
            closing.waiters.iter().map(|(_, deadline)| *deadline).chain([closing.deadline]).chain(withdraw_at)
        });
        // These have passed without consequence, or are yet to come.
        let spool = self.backlog.iter().flat_map(|backlog| {
            let in_flight = self.in_flight.filter(|_| self.waiting.len() > 0);
            let stalled = in_flight.map(|in_flight| backlog.stalled_at(in_flight.since));
            backlog.times().chain(stalled).filter(|time| *time > now)
        });
        let sweep_at = if self.may_sweep() { self.sweep_at } else { after(now, Duration::MAX) };
        flushes.chain(closing).chain(self.quiet_until).chain(spool).fold(sweep_at, Instant::min)
    }
}

impl<W> Closing<W> {
    /// That the time was over says more than that something failed.
    fn fail(&mut self, error: FlushError) {
        if self.result != Err(FlushError::Timeout) {
            self.result = Err(error);
        }
    }
}

#[cfg(test)]
mod tests;
