//! The thread that sends: it owns the runtime, the schedule and whatever is on its way.
//!
//! The host's runtime never matters. Commands come over a channel, full chunks by a waker that takes no lock, and
//! answers go back over a channel that needs no particular executor; the worker keeps every deadline itself. The disk is
//! the business of another thread ([`spool`](super::spool)), which is asked and answers over channels too. The
//! thread ends by `shutdown_background`, because a resolver that hangs must not hold up anybody's exit.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::future::poll_fn;
use std::hash::BuildHasher;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::task::{Context, Poll};
use std::thread::ThreadId;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::FlushError;
use super::batch::{Batch, BatchLimits, Lease, Part};
use super::chunk::Chunk;
use super::message::Arrival;
use super::queue::{ExportCounters, Queue};
use super::report::{Consequence, Reporter, end_of};
use super::retry::{Answer, Attempt, Next, Outcome, Problem, ProblemKind, Retry, RetryLimits, after};
use super::schedule::{self, Schedule, SpoolLimits, Step, Stored};
use super::spool::{Event, Found, Spool, StoreError};
use super::transport::{Content, Parcel, Transport};
use crate::clock::CALIBRATION;
use crate::config::{NO_TIMEOUT, SpoolConfig};
use crate::context::be_quiet;
use crate::id;
use crate::telemetry::DropReason;
use crate::telemetry::operations::{End, Failure, Status};

/// How the worker works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerConfig {
    pub(crate) batch: BatchLimits,
    pub(crate) schedule_delay: Duration,
    pub(crate) retry: RetryLimits,
    /// The worker is woken after so many sealed chunks at the latest, whatever is missing for a batch: large spans
    /// have chunks of their own.
    pub(crate) wake_chunks_max: usize,
}

/// The spool of a pipeline that has one.
#[derive(Clone, Debug)]
pub(crate) struct SpoolSetup {
    pub(crate) config: SpoolConfig,
    pub(crate) limits: SpoolLimits,
    /// The resource as the field of `ResourceSpans`.
    pub(crate) resource: Vec<u8>,
}

/// By which the rest of the process reaches the worker. It may outlive it.
#[derive(Clone, Debug)]
pub(crate) struct WorkerHandle {
    commands: mpsc::UnboundedSender<Command>,
    thread: ThreadId,
    /// The process that has the worker: one made by `fork` has not.
    generation: u32,
}

#[derive(Debug)]
enum Command {
    Flush { deadline: Instant, waiter: Waiter },
    Shutdown { deadline: Instant, waiter: Waiter },
}

/// Somebody who waits for an answer: a future on any executor, or a thread.
#[derive(Debug)]
enum Waiter {
    Future(oneshot::Sender<Result<(), FlushError>>),
    Thread(SyncSender<Result<(), FlushError>>),
}

/// How long a thread waits beyond its deadline for the worker to say how it ended. The worker keeps the deadline, and
/// answers within a millisecond of it; this is for one that is stuck.
const GRACE: Duration = Duration::from_millis(100);

/// Without any delay the worker would look for spans without end.
const SCHEDULE_DELAY_MIN: Duration = Duration::from_millis(1);

/// How often the clock is anchored.
const TICK: Duration = Duration::from_secs(1);

/// The most threads that resolve names and read certificates: one at a time, and spare ones for those that hang.
const BLOCKING_THREADS_MAX: usize = 4;

/// Starts the worker. `tick` is called at once, once more after [`CALIBRATION`], and then every second.
pub(crate) fn start(
    queue: &'static Queue,
    config: WorkerConfig,
    transport: Arc<dyn Transport>,
    spool: Option<SpoolSetup>,
    tick: impl Fn() + Send + 'static,
) -> io::Result<WorkerHandle> {
    let (commands, receiver) = mpsc::unbounded_channel();
    let generation = id::generation();
    let thread = std::thread::Builder::new().name("trace-export".to_owned()).spawn(move || {
        be_quiet();
        match build_runtime() {
            Ok(runtime) => {
                let worker = Worker::new(queue, config, transport, Box::new(tick), receiver);
                worker.with_spool(spool).run(runtime);
            }
            Err(error) => {
                Reporter::new(queue).stillborn(&error);
                queue.close();
                lose_everything(queue);
            }
        }
    })?;
    Ok(WorkerHandle { commands, thread: thread.thread().id(), generation })
}

impl WorkerConfig {
    fn schedule(&self, now: Instant) -> Schedule<Waiter> {
        Schedule::new(self.batch, self.schedule_delay.max(SCHEDULE_DELAY_MIN), now)
    }
}

impl WorkerHandle {
    /// Whether this process was forked from the one that has the worker.
    pub(crate) fn is_of_another_process(&self) -> bool {
        self.generation != id::generation()
    }

    /// Waits until all that has ended is sent, at most for `timeout`.
    pub(crate) fn flush(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), FlushError>> + Send + use<> {
        self.ask(timeout, |deadline, waiter| Command::Flush { deadline, waiter })
    }

    /// Sends what there is, at most for `timeout`, and ends the worker. Later calls wait for the first.
    pub(crate) fn shutdown(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), FlushError>> + Send + use<> {
        self.ask(timeout, |deadline, waiter| Command::Shutdown { deadline, waiter })
    }

    /// As [`flush`](Self::flush), for a thread that can wait.
    pub(crate) fn blocking_flush(&self, timeout: Duration) -> Result<(), FlushError> {
        self.ask_and_wait(timeout, |deadline, waiter| Command::Flush { deadline, waiter })
    }

    /// As [`shutdown`](Self::shutdown), for a thread that can wait.
    pub(crate) fn blocking_shutdown(&self, timeout: Duration) -> Result<(), FlushError> {
        self.ask_and_wait(timeout, |deadline, waiter| Command::Shutdown { deadline, waiter })
    }

    fn ask(
        &self,
        timeout: Duration,
        command: fn(Instant, Waiter) -> Command,
    ) -> impl Future<Output = Result<(), FlushError>> + Send + use<> {
        let commands = self.commands.clone();
        let generation = self.generation;
        async move {
            if generation != id::generation() {
                return Err(FlushError::Failed);
            }
            let (reply, answer) = oneshot::channel();
            let deadline = after(Instant::now(), timeout);
            if commands.send(command(deadline, Waiter::Future(reply))).is_err() {
                // A worker that has ended has nothing left to send.
                return Ok(());
            }
            // It answers always, unless it panicked.
            answer.await.unwrap_or(Err(FlushError::Failed))
        }
    }

    fn ask_and_wait(
        &self,
        timeout: Duration,
        command: fn(Instant, Waiter) -> Command,
    ) -> Result<(), FlushError> {
        if self.is_of_another_process() {
            return Err(FlushError::Failed);
        }
        let (reply, answer) = sync_channel(1);
        let deadline = after(Instant::now(), timeout);
        if self.commands.send(command(deadline, Waiter::Thread(reply))).is_err() {
            return Ok(());
        }
        if self.thread == std::thread::current().id() {
            // A panic hook, or a subscriber of logs: the worker does what it is asked for when this returns.
            return Err(FlushError::Timeout);
        }
        answer.recv_timeout(timeout.saturating_add(GRACE)).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Err(FlushError::Timeout),
            RecvTimeoutError::Disconnected => Err(FlushError::Failed),
        })
    }
}

impl Waiter {
    fn tell(self, result: Result<(), FlushError>) {
        // Whoever does not wait any more does not want to know.
        match self {
            Self::Future(reply) => drop(reply.send(result)),
            Self::Thread(reply) => drop(reply.try_send(result)),
        }
    }
}

fn build_runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("trace-export")
        .on_thread_start(be_quiet)
        .build()
}

struct Worker {
    queue: &'static Queue,
    config: WorkerConfig,
    transport: Arc<dyn Transport>,
    tick: Box<dyn Fn() + Send>,
    next_tick: Instant,
    commands: mpsc::UnboundedReceiver<Command>,
    schedule: Schedule<Waiter>,
    delivery: Option<Delivery>,
    spool: Option<Spool>,
    /// What the spool was asked to write, in the order of its answers.
    storing: VecDeque<Storing>,
    latest_stamp: u64,
    reporter: Arc<Reporter>,
    random: RandomState,
}

/// A batch on its way.
struct Delivery {
    spans: u64,
    origin: Origin,
    begun: Instant,
    arrival: Arc<Arrival>,
    task: JoinHandle<(Outcome, Option<Instant>)>,
}

/// Where a batch on its way comes from.
enum Origin {
    Memory { batch: Arc<Batch>, stamp: u64 },
    Disk { number: u64 },
}

/// A batch that is being written.
struct Storing {
    batch: Arc<Batch>,
    /// Whether it was tried to send it.
    was_sent: bool,
    /// Why it is lost if it is not written.
    reason: DropReason,
}

/// How long a shutdown may take that nobody waits for, because the worker failed during one that somebody waited for.
const SHUTDOWN_AFTER_FAULT: Duration = Duration::from_secs(1);

impl Worker {
    fn new(
        queue: &'static Queue,
        config: WorkerConfig,
        transport: Arc<dyn Transport>,
        tick: Box<dyn Fn() + Send>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let now = Instant::now();
        Self {
            queue,
            config,
            transport,
            tick,
            next_tick: now,
            commands,
            schedule: config.schedule(now),
            delivery: None,
            spool: None,
            storing: VecDeque::new(),
            latest_stamp: 0,
            reporter: Arc::new(Reporter::new(queue)),
            random: RandomState::new(),
        }
    }

    fn with_spool(mut self, setup: Option<SpoolSetup>) -> Self {
        let Some(SpoolSetup { config, limits, resource }) = setup else { return self };
        match Spool::start(config, resource, self.stamp()) {
            Ok(spool) => {
                let now = Instant::now();
                self.spool = Some(spool);
                self.schedule = self.config.schedule(now).with_spool(limits, now);
            }
            Err(error) => {
                let problem =
                    Problem::new(ProblemKind::SpoolFailed, format!("its thread cannot start: {error}"));
                self.reporter.problem(&problem, Consequence::Loss, "nothing is spooled");
            }
        }
        self
    }

    /// The microsecond, by the wall clock, in which a batch is made; never the same twice, and never backwards.
    fn stamp(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Good for half a million years.
        self.latest_stamp = (now.as_micros() as u64).max(self.latest_stamp + 1);
        self.latest_stamp
    }

    fn run(mut self, runtime: Runtime) {
        let schedule::End { waiters, result, deadline } = loop {
            // A panic here is a fault of ours, and must not become the service's.
            match catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.work()))) {
                Ok(end) => break end,
                Err(_) => {
                    let _runtime = runtime.enter();
                    self.start_again();
                }
            }
        };
        let finish =
            async { tokio::time::timeout_at(deadline.into(), self.transport.finish(deadline)).await };
        let _ = catch_unwind(AssertUnwindSafe(|| runtime.block_on(finish)));
        let _ = catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.close_spool(deadline))));
        // Requests that were given up, and connections, go with the runtime, and with them the last chunks.
        runtime.shutdown_background();
        drop(self.delivery);
        lose_everything(self.queue);
        self.queue.release_memory();
        self.reporter.ended();
        // No command comes after this.
        self.commands.close();
        while let Ok(Command::Flush { waiter, .. } | Command::Shutdown { waiter, .. }) =
            self.commands.try_recv()
        {
            waiter.tell(result);
        }
        waiters.into_iter().for_each(|waiter| waiter.tell(result));
    }

    /// Works until somebody shuts it down.
    async fn work(&mut self) -> schedule::End<Waiter> {
        self.tick(CALIBRATION);
        let mut sleep = pin!(tokio::time::sleep_until(self.next_tick.into()));
        poll_fn(|cx| self.poll(cx, sleep.as_mut())).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<schedule::End<Waiter>> {
        self.queue.register(cx.waker());
        self.take_outcome(cx);
        self.schedule.crowded(self.queue.is_filling());
        loop {
            self.take_commands(cx);
            // First: a batch that was read is on its way from then on, and whoever wants to be woken by it looks at it.
            self.take_events(cx);
            self.take_outcome(cx);
            self.take_sealed();
            let now = Instant::now();
            if now >= self.next_tick {
                self.tick(TICK);
            }
            match self.schedule.next(now) {
                Step::Sweep => {
                    self.take_sealed();
                    self.take_open();
                    self.schedule.swept(now);
                }
                Step::Send(batch) => self.send(batch),
                Step::Read => self.read(),
                Step::Store(batch) => {
                    let stamp = self.stamp();
                    self.store(Arc::new(batch), stamp, None);
                }
                Step::Withdraw => self.give_up(None, now),
                Step::Answer(waiter, result) => waiter.tell(result),
                Step::Abandon(lost) => {
                    self.queue.export.settle(lost as u64, Outcome::Dropped(DropReason::ShutDown));
                    self.abandon_storing();
                    self.abandon_delivery();
                }
                Step::Finish(end) => return Poll::Ready(end),
                Step::Wait(until) => {
                    if self.has_more() {
                        continue;
                    }
                    self.queue.stock_up();
                    sleep.as_mut().reset(until.min(self.next_tick).into());
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn tick(&mut self, next: Duration) {
        (self.tick)();
        self.reporter.look(Instant::now());
        // Counted from its end: a tick that is early by what the first one took would find the processor's counter not
        // calibrated yet, and leave the slower clock in use for another second.
        self.next_tick = Instant::now() + next;
    }

    /// Begins anew. Without a spool, what was in hand is lost; with one, it is written to disk.
    fn start_again(&mut self) {
        let now = Instant::now();
        let failed = std::mem::replace(&mut self.schedule, self.config.schedule(now));
        if self.spool.is_some() {
            self.schedule.salvage(failed);
            self.give_up(None, now);
        } else {
            let (export, outcome) = (&self.queue.export, Outcome::Dropped(DropReason::ExporterPanicked));
            let mut lost = failed.in_memory() as u64;
            if let Some(delivery) = self.delivery.take() {
                delivery.task.abort();
                export.in_flight.sub(delivery.spans);
                export.settle_submitted(delivery.spans, outcome);
                lost = lost.saturating_sub(delivery.spans);
            }
            export.settle(lost, outcome);
        }
        if self.queue.is_closed() {
            let time = if self.spool.is_some() { SHUTDOWN_AFTER_FAULT } else { Duration::ZERO };
            self.schedule.close_by(after(now, time));
        }
    }

    /// Says how many sealed chunks are worth waking up for, and whether so many are there already.
    fn has_more(&self) -> bool {
        let chunks = self.schedule.wake_at_chunks();
        self.queue.wake_at(chunks.map_or(usize::MAX, |chunks| chunks.min(self.config.wake_chunks_max)))
    }

    fn take_commands(&mut self, cx: &mut Context<'_>) {
        // The channel ends when the pipeline's last handle goes, which is never.
        while let Poll::Ready(Some(command)) = self.commands.poll_recv(cx) {
            match command {
                Command::Flush { deadline, waiter } => self.schedule.flush(waiter, deadline),
                Command::Shutdown { deadline, waiter } => {
                    self.queue.close();
                    self.schedule.close(waiter, deadline);
                }
            }
        }
    }

    fn take_sealed(&mut self) {
        while let Some(chunk) = self.queue.take_sealed() {
            self.schedule.push(take(self.queue, chunk));
        }
    }

    fn take_open(&mut self) {
        let Self { queue, schedule, .. } = self;
        let queue: &'static Queue = queue;
        queue.take_open(|chunk| schedule.push(take(queue, chunk)));
    }

    fn send(&mut self, batch: Batch) {
        let (batch, stamp) = (Arc::new(batch), self.stamp());
        let (spans, content) = (batch.len() as u64, Content::Spans(Arc::clone(&batch)));
        self.deliver(spans, Origin::Memory { batch, stamp }, content, self.config.retry);
    }

    fn deliver(&mut self, spans: u64, origin: Origin, content: Content, limits: RetryLimits) {
        let arrival = Arc::new(Arrival::default());
        let parcel = Parcel::new(content, Arc::clone(&arrival));
        let errand = Errand {
            transport: Arc::clone(&self.transport),
            reporter: Arc::clone(&self.reporter),
            random: self.random.clone(),
            has_spool: self.spool.is_some(),
        };
        let task = tokio::spawn(errand.deliver(parcel, limits));
        let export = &self.queue.export;
        if let Origin::Memory { .. } = origin {
            export.submitted.add(spans);
        }
        export.in_flight.add(spans);
        self.delivery = Some(Delivery { spans, origin, begun: Instant::now(), arrival, task });
    }

    fn take_outcome(&mut self, cx: &mut Context<'_>) {
        let Some(delivery) = &mut self.delivery else { return };
        let Poll::Ready(result) = Pin::new(&mut delivery.task).poll(cx) else { return };
        let (outcome, quiet_until) = result.unwrap_or_else(|_| {
            // What panicked once may panic again when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| self.transport.start_over()));
            let problem = Problem::new(ProblemKind::Panic, "");
            self.reporter.problem(&problem, Consequence::Loss, "its batch is dropped");
            self.reporter.operation(problem.kind.end(), delivery.begun.elapsed());
            (Outcome::Dropped(DropReason::ExporterPanicked), None)
        });
        match outcome {
            Outcome::Dropped(DropReason::ExportFailed | DropReason::OutcomeUnknown)
                if self.spool.is_some() =>
            {
                self.give_up(quiet_until, Instant::now());
            }
            _ => self.settle(outcome, quiet_until),
        }
    }

    /// Stops sending, at the end of a shutdown's time.
    fn abandon_delivery(&mut self) {
        let Some(delivery) = &self.delivery else { return };
        delivery.task.abort();
        let reason =
            if delivery.arrival.is_possible() { DropReason::OutcomeUnknown } else { DropReason::ShutDown };
        let end = End { failed: Some(Failure::ShutDown), status: Status::None };
        self.reporter.operation(end, delivery.begun.elapsed());
        self.settle(Outcome::Dropped(reason), None);
    }

    fn settle(&mut self, outcome: Outcome, quiet_until: Option<Instant>) {
        let Some(delivery) = self.delivery.take() else { return };
        let outcome = match outcome {
            // That the collector does not want it now says nothing of an attempt that it did not answer. It is settled all the
            // same: what is refused is not worth a place on disk.
            Outcome::Rejected if delivery.arrival.is_possible() => {
                Outcome::Dropped(DropReason::OutcomeUnknown)
            }
            outcome => outcome,
        };
        let export = &self.queue.export;
        export.in_flight.sub(delivery.spans);
        match delivery.origin {
            Origin::Memory { .. } => export.settle_submitted(delivery.spans, outcome),
            Origin::Disk { number } => {
                export.settle_spooled(delivery.spans, outcome);
                // Not before: whoever is killed in between sends it once more.
                if let Some(spool) = &self.spool {
                    spool.remove(number);
                }
            }
        }
        self.schedule.settled(outcome, quiet_until);
        if outcome != (Outcome::Exported { rejected: 0 }) {
            // Whoever is told that his flush failed finds the reason in the health.
            self.reporter.look(Instant::now());
        }
    }

    // What the spool does.

    /// Stops sending what is in flight: it is written to disk, or stays there.
    fn give_up(&mut self, quiet_until: Option<Instant>, now: Instant) {
        let Some(Delivery { spans, origin, arrival, task, .. }) = self.delivery.take() else { return };
        task.abort();
        self.queue.export.in_flight.sub(spans);
        let may_have_arrived = arrival.is_possible();
        match origin {
            Origin::Memory { batch, stamp } => {
                self.schedule.gave_up(batch.len(), quiet_until, now);
                self.store(batch, stamp, Some(may_have_arrived));
            }
            Origin::Disk { .. } => {
                self.schedule.left_on_disk(quiet_until);
                if let Some(spool) = &self.spool {
                    spool.put_back(may_have_arrived);
                }
            }
        }
    }

    /// Has a batch written to disk. `sent` tells of one that was sent before, whether the collector may have it.
    fn store(&mut self, batch: Arc<Batch>, stamp: u64, sent: Option<bool>) {
        let may_have_arrived = sent == Some(true);
        let reason = if may_have_arrived { DropReason::OutcomeUnknown } else { DropReason::SpoolFailed };
        self.storing.push_back(Storing { batch: Arc::clone(&batch), was_sent: sent.is_some(), reason });
        if self.spool.as_ref().is_none_or(|spool| !spool.put(batch, stamp, may_have_arrived)) {
            self.lose_spool();
        }
    }

    fn read(&mut self) {
        if self.spool.as_ref().is_none_or(|spool| !spool.take_oldest()) {
            self.lose_spool();
        }
    }

    fn take_events(&mut self, cx: &mut Context<'_>) {
        while let Some(spool) = &mut self.spool
            && let Poll::Ready(event) = spool.poll_event(cx)
        {
            match event {
                Some(event) => self.take_event(event, Instant::now()),
                None => self.lose_spool(),
            }
        }
    }

    fn take_event(&mut self, event: Event, now: Instant) {
        let export = &self.queue.export;
        match event {
            Event::Opened { is_usable } => self.schedule.opened(is_usable, now),
            Event::Recovered(spans) => {
                export.recovered.add(spans);
                export.spooled.add(spans);
                self.schedule.recovered(spans as usize);
            }
            Event::Lost { spans, reason } => {
                export.settle_spooled(spans, Outcome::Dropped(reason));
                self.schedule.lost(spans as usize);
            }
            Event::Trouble(problem) => {
                let what_follows = match problem.kind {
                    ProblemKind::SpoolFull => {
                        "the oldest spans on disk are dropped, or what has no room there"
                    }
                    ProblemKind::SpoolCorrupted => "it is dropped",
                    _ => "spans that cannot be sent may be dropped",
                };
                self.reporter.problem(&problem, Consequence::Loss, what_follows);
            }
            Event::Stored(result) => self.stored(result, now),
            Event::Oldest(found) => self.found(found, now),
        }
    }

    fn stored(&mut self, result: Result<(), StoreError>, now: Instant) {
        // Those that were abandoned are settled already.
        let Some(Storing { batch, was_sent, reason }) = self.storing.pop_front() else { return };
        let (export, spans) = (&self.queue.export, batch.len() as u64);
        let stored = self.schedule.stored(result, now);
        if !was_sent && stored != Stored::Waits {
            export.submitted.add(spans);
        }
        match stored {
            Stored::OnDisk => export.stored(spans),
            Stored::Waits => self.schedule.put_back(Arc::unwrap_or_clone(batch)),
            Stored::Lost => {
                let reason = match (reason, result) {
                    (DropReason::SpoolFailed, Err(StoreError::Full)) => DropReason::SpoolFull,
                    _ => reason,
                };
                export.settle_submitted(spans, Outcome::Dropped(reason));
            }
        }
    }

    fn found(&mut self, found: io::Result<Option<Found>>, now: Instant) {
        let spans = found.as_ref().map(|found| found.as_ref().map(|found| found.spans as usize));
        let is_to_be_sent = self.schedule.found(spans.map_err(drop), now);
        let Ok(Some(Found { number, spans, message })) = found else { return };
        if is_to_be_sent {
            // What is on disk can wait for the collector.
            let limits = RetryLimits { batch_timeout: NO_TIMEOUT, ..self.config.retry };
            self.deliver(spans, Origin::Disk { number }, Content::Stored(message), limits);
        } else if let Some(spool) = &self.spool {
            spool.put_back(false);
        }
    }

    /// Nobody waits any more for what is being written.
    fn abandon_storing(&mut self) {
        let Some(spool) = &self.spool else { return };
        spool.give_up();
        for Storing { batch, was_sent, reason } in self.storing.drain(..) {
            let (export, spans) = (&self.queue.export, batch.len() as u64);
            if !was_sent {
                export.submitted.add(spans);
            }
            export.settle_submitted(spans, Outcome::Dropped(reason));
        }
    }

    /// The spool's thread is gone: what it had on disk stays for the next start, and what it should have written goes the
    /// way of a failed write.
    fn lose_spool(&mut self) {
        self.spool = None;
        let now = Instant::now();
        while !self.storing.is_empty() {
            self.stored(Err(StoreError::Failed), now);
        }
        self.schedule.spool_is_gone();
        let problem = Problem::new(ProblemKind::SpoolFailed, "its thread has ended");
        self.reporter.problem(&problem, Consequence::Loss, "nothing is spooled any more");
    }

    /// Lets go of the directory, so that the next pipeline finds it free.
    async fn close_spool(&mut self, deadline: Instant) {
        let Some(mut spool) = self.spool.take() else { return };
        spool.close();
        let deadline = deadline.max(Instant::now() + GRACE / 2);
        let export = &self.queue.export;
        while let Ok(Some(event)) = tokio::time::timeout_at(deadline.into(), spool.next()).await {
            match event {
                Event::Recovered(spans) => {
                    export.recovered.add(spans);
                    export.spooled.add(spans);
                }
                Event::Lost { spans, reason } => export.settle_spooled(spans, Outcome::Dropped(reason)),
                // Nobody is left to hear of it, or it is settled already.
                _ => {}
            }
        }
    }
}

/// A chunk out of the queue, counted.
fn take(queue: &'static Queue, chunk: Box<Chunk>) -> Part {
    let spans = chunk.len() as u64;
    queue.export.taken.add(spans);
    queue.export.pending.add(spans);
    Part::whole(Lease::new(queue, chunk))
}

/// Counts as lost what is left in a queue that is closed.
fn lose_everything(queue: &'static Queue) {
    let mut lost = 0;
    queue.abandon(|chunk| lost += take(queue, chunk).len() as u64);
    queue.export.settle(lost, Outcome::Dropped(DropReason::ShutDown));
}

/// What the delivery of a batch needs.
struct Errand {
    transport: Arc<dyn Transport>,
    reporter: Arc<Reporter>,
    random: RandomState,
    /// Whether a batch whose attempts have all failed is not lost.
    has_spool: bool,
}

impl Errand {
    /// Tries until the batch is settled; also says how long the collector wants to be left alone.
    async fn deliver(self, mut parcel: Parcel, limits: RetryLimits) -> (Outcome, Option<Instant>) {
        let begun = Instant::now();
        let mut retry = Retry::new(limits, begun);
        loop {
            parcel.arrival.begin();
            let deadline = retry.attempt_deadline(Instant::now());
            let attempt = self.transport.attempt(&mut parcel, deadline).await;
            match &attempt {
                Attempt::Failed { answer: Answer::None, .. } => parcel.arrival.lose_sight(),
                _ => parcel.arrival.answered(),
            }
            let now = Instant::now();
            let next = retry.next(&attempt, parcel.arrival.is_possible(), now, self.random.hash_one(now));
            self.reporter.attempted(&attempt, next, self.has_spool);
            match next {
                Next::Settle(outcome) => {
                    let end = end_of(&attempt, parcel.http_status, self.transport.is_grpc());
                    self.reporter.operation(end, begun.elapsed());
                    return (outcome, retry.quiet_until());
                }
                Next::RetryAt(at) => tokio::time::sleep_until(at.into()).await,
            }
        }
    }
}

impl ExportCounters {
    /// Counts what became of spans that never left.
    fn settle(&self, spans: u64, outcome: Outcome) {
        self.pending.sub(spans);
        self.count(spans, outcome);
    }

    /// Counts what became of spans that were to be sent, or to be written to disk.
    fn settle_submitted(&self, spans: u64, outcome: Outcome) {
        self.count_failed(spans, outcome);
        self.settle(spans, outcome);
    }

    /// Counts what became of spans that were on disk.
    fn settle_spooled(&self, spans: u64, outcome: Outcome) {
        self.count_failed(spans, outcome);
        self.spooled.sub(spans);
        self.count(spans, outcome);
    }

    /// Counts spans that were pending and are on disk now.
    fn stored(&self, spans: u64) {
        self.pending.sub(spans);
        self.spooled.add(spans);
    }

    fn count_failed(&self, spans: u64, outcome: Outcome) {
        if let Outcome::Dropped(reason) = outcome {
            self.failed.of(reason).add(spans);
        }
    }

    fn count(&self, spans: u64, outcome: Outcome) {
        match outcome {
            Outcome::Exported { rejected } => {
                // A collector cannot reject more than it was sent.
                let rejected = rejected.min(spans);
                self.rejected.add(rejected);
                self.exported.add(spans - rejected);
            }
            Outcome::Rejected => self.rejected.add(spans),
            Outcome::Dropped(reason) => self.dropped.of(reason).add(spans),
        }
    }
}

#[cfg(test)]
mod tests;
