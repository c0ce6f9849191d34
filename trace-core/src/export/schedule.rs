//! When what is done: the worker's decisions, without a clock, a thread or a socket.
//!
//! The worker asks for the next [`Step`] and takes it, until there is none; then it waits for the time that the last
//! step named, or for something to happen. What happens is told by the other methods. Every one is given the time.

use std::time::{Duration, Instant};

use super::FlushError;
use super::batch::{Batch, BatchLimits, Part, Waiting};
use super::retry::{Outcome, after};

/// What the worker is to do. `W` is whoever waits for an answer.
#[derive(Debug)]
pub(crate) enum Step<W> {
    /// Take what lies in open chunks, hand it over by [`push`](Schedule::push), and say so by [`swept`](Schedule::swept).
    Sweep,
    /// Send this, and tell the outcome by [`settled`](Schedule::settled).
    Send(Batch),
    /// Tell somebody who waits.
    Answer(W, Result<(), FlushError>),
    /// The time of the shutdown is over: stop sending, tell the outcome of what was being sent, and count these spans
    /// as lost.
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
    /// The spans being sent.
    in_flight: Option<usize>,
    /// The collector wants to be left alone until then.
    quiet_until: Option<Instant>,
    flushes: Vec<Flush<W>>,
    closing: Option<Closing<W>>,
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
            quiet_until: None,
            flushes: Vec::new(),
            closing: None,
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
        let spans = self.in_flight.take().unwrap_or(0);
        self.quiet_until = quiet_until;
        let failed = outcome != Outcome::Exported { rejected: 0 };
        // Batches are made and settled in the order in which spans came, so these are the oldest.
        for flush in &mut self.flushes {
            if let Some(remaining @ 1..) = &mut flush.remaining {
                *remaining = remaining.saturating_sub(spans);
                flush.failed |= failed;
            }
        }
        if let Some(closing) = &mut self.closing
            && failed
        {
            closing.fail(FlushError::Failed);
        }
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

    /// The end is wanted at once, and somebody who waited for it knows already that it failed.
    pub(crate) fn close_now(&mut self, now: Instant) {
        self.closing_by(now, Err(FlushError::Failed));
    }

    fn closing_by(&mut self, deadline: Instant, result: Result<(), FlushError>) -> &mut Closing<W> {
        self.closing.get_or_insert_with(|| Closing { deadline, swept: false, waiters: Vec::new(), result })
    }

    /// Spans should leave although no batch is full, because the queue may overflow.
    pub(crate) fn hurry(&mut self) {
        self.hurry = self.is_ready();
    }

    // What to do.

    /// The next step. To be asked for again after each, but [`Wait`](Step::Wait) and [`Finish`](Step::Finish).
    pub(crate) fn next(&mut self, now: Instant) -> Step<W> {
        if now >= self.sweep_at || self.wants_sweep() {
            return Step::Sweep;
        }
        if let Some(step) = self.answer(now) {
            return step;
        }
        if self.closing.as_ref().is_some_and(|closing| now >= closing.deadline) && self.unsettled() > 0 {
            return self.abandon();
        }
        if self.may_send(now)
            && let Some(batch) = self.waiting.take_batch()
        {
            self.due = self.due.saturating_sub(batch.len());
            self.in_flight = Some(batch.len());
            return Step::Send(batch);
        }
        if self.unsettled() == 0
            && self.flushes.is_empty()
            && let Some(closing) = self.closing.take()
        {
            let waiters = closing.waiters.into_iter().map(|(waiter, _)| waiter).collect();
            return Step::Finish(End { waiters, result: closing.result, deadline: closing.deadline });
        }
        Step::Wait(self.next_time())
    }

    /// After how many sealed chunks there is something to do; `None` when they do not matter now.
    pub(crate) fn wake_at_chunks(&self) -> Option<usize> {
        self.is_ready().then(|| self.waiting.chunks_missing())
    }

    /// Whether a batch could be sent, if there were one.
    const fn is_ready(&self) -> bool {
        self.in_flight.is_none() && self.quiet_until.is_none()
    }

    fn wants_sweep(&self) -> bool {
        self.hurry
            || self.flushes.iter().any(|flush| flush.remaining.is_none())
            || self.closing.as_ref().is_some_and(|closing| !closing.swept)
    }

    /// The spans that wait and those that are being sent.
    pub(crate) fn unsettled(&self) -> usize {
        self.waiting.len() + self.in_flight.unwrap_or(0)
    }

    fn may_send(&mut self, now: Instant) -> bool {
        if self.quiet_until.is_some_and(|until| now >= until) {
            self.quiet_until = None;
        }
        self.is_ready() && (self.due > 0 || self.waiting.is_full())
    }

    /// The answer to somebody whose spans are settled, or whose time is over.
    fn answer(&mut self, now: Instant) -> Option<Step<W>> {
        let done = |flush: &Flush<W>| flush.remaining == Some(0) || now >= flush.deadline;
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
        for flush in &mut self.flushes {
            flush.remaining = Some(self.in_flight.unwrap_or(0));
            flush.failed = true;
        }
        if let Some(closing) = &mut self.closing {
            closing.fail(FlushError::Timeout);
        }
        Step::Abandon(lost)
    }

    fn next_time(&self) -> Instant {
        let flushes = self.flushes.iter().map(|flush| flush.deadline);
        let closing = self.closing.iter().flat_map(|closing| {
            closing.waiters.iter().map(|(_, deadline)| *deadline).chain([closing.deadline])
        });
        let quiet = self.quiet_until.filter(|_| self.waiting.len() > 0);
        flushes.chain(closing).chain(quiet).fold(self.sweep_at, Instant::min)
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
