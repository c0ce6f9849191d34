//! The thread that sends: it owns the runtime, the schedule and whatever is on its way.
//!
//! The host's runtime never matters. Commands come over a channel, full chunks by a waker that takes no lock, and
//! answers go back over a channel that needs no particular executor; the worker keeps every deadline itself. The
//! thread ends by `shutdown_background`, because a resolver that hangs must not hold up anybody's exit.

use std::collections::hash_map::RandomState;
use std::future::poll_fn;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::FlushError;
use super::batch::{Batch, BatchLimits, Lease, Part};
use super::chunk::Chunk;
use super::message::Arrival;
use super::queue::{ExportCounters, Queue};
use super::report::{Consequence, Reports, write_apart};
use super::retry::{Answer, Attempt, Next, Outcome, Problem, ProblemKind, Retry, RetryLimits, after};
use super::schedule::{End, Schedule, Step};
use super::transport::{Parcel, Transport};
use crate::clock::CALIBRATION;
use crate::id;
use crate::telemetry::DropReason;

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
    tick: impl Fn() + Send + 'static,
) -> io::Result<WorkerHandle> {
    let (commands, receiver) = mpsc::unbounded_channel();
    let generation = id::generation();
    let thread = std::thread::Builder::new().name("trace-export".to_owned()).spawn(move || {
        be_quiet();
        match build_runtime() {
            Ok(runtime) => Worker::new(queue, config, transport, Box::new(tick), receiver).run(runtime),
            Err(error) => {
                say(&format!("trace-core: the export thread cannot work: {error}; all spans are dropped"));
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
        if self.generation != id::generation() {
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

/// No span is made of what the exporter itself does, on this thread and those that work for it: its spans would have
/// to be exported too.
pub(crate) fn be_quiet() {
    let context = crate::Context { tracer: Some(crate::Tracer::disabled()), ..crate::Context::new() };
    // For as long as the thread lives.
    std::mem::forget(context.attach());
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
    reports: Arc<Mutex<Reports>>,
    random: RandomState,
}

/// A batch on its way.
struct Delivery {
    spans: u64,
    arrival: Arc<Arrival>,
    task: JoinHandle<(Outcome, Option<Instant>)>,
}

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
            reports: Arc::default(),
            random: RandomState::new(),
        }
    }

    fn run(mut self, runtime: Runtime) {
        let End { waiters, result, deadline } = loop {
            // A panic here is a fault of ours, and must not become the service's.
            match catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.work()))) {
                Ok(end) => break end,
                Err(_) => self.start_again(),
            }
        };
        let finish =
            async { tokio::time::timeout_at(deadline.into(), self.transport.finish(deadline)).await };
        let _ = catch_unwind(AssertUnwindSafe(|| runtime.block_on(finish)));
        // Requests that were given up, and connections, go with the runtime, and with them the last chunks.
        runtime.shutdown_background();
        drop(self.delivery);
        lose_everything(self.queue);
        self.queue.release_memory();
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
    async fn work(&mut self) -> End<Waiter> {
        self.tick(CALIBRATION);
        let mut sleep = pin!(tokio::time::sleep_until(self.next_tick.into()));
        poll_fn(|cx| self.poll(cx, sleep.as_mut())).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<End<Waiter>> {
        self.queue.register(cx.waker());
        self.take_outcome(cx);
        if self.queue.is_filling() {
            self.schedule.hurry();
        }
        loop {
            self.take_commands(cx);
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
                Step::Answer(waiter, result) => waiter.tell(result),
                Step::Abandon(lost) => {
                    self.queue.export.settle(lost as u64, Outcome::Dropped(DropReason::ShutDown));
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
        // Counted from its end: a tick that is early by what the first one took would find the processor's counter not
        // calibrated yet, and leave the slower clock in use for another second.
        self.next_tick = Instant::now() + next;
    }

    /// Gives up whatever was in hand, and begins anew.
    fn start_again(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            delivery.task.abort();
        }
        let lost = std::mem::replace(&mut self.schedule, self.config.schedule(Instant::now())).unsettled();
        self.queue.export.settle(lost as u64, Outcome::Dropped(DropReason::ExporterPanicked));
        if self.queue.is_closed() {
            self.schedule.close_now(Instant::now());
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
        let arrival = Arc::new(Arrival::default());
        let spans = batch.len() as u64;
        let parcel = Parcel::new(batch, Arc::clone(&arrival));
        let errand = Errand {
            transport: Arc::clone(&self.transport),
            reports: Arc::clone(&self.reports),
            random: self.random.clone(),
        };
        let task = tokio::spawn(errand.deliver(parcel, self.config.retry));
        self.delivery = Some(Delivery { spans, arrival, task });
    }

    fn take_outcome(&mut self, cx: &mut Context<'_>) {
        let Some(delivery) = &mut self.delivery else { return };
        let Poll::Ready(result) = Pin::new(&mut delivery.task).poll(cx) else { return };
        let (outcome, quiet_until) = result.unwrap_or_else(|_| {
            let problem = Problem::new(ProblemKind::Panic, "");
            report(&self.reports, &problem, Consequence::Loss, "its batch is dropped");
            (Outcome::Dropped(DropReason::ExporterPanicked), None)
        });
        self.settle(outcome, quiet_until);
    }

    /// Stops sending, at the end of a shutdown's time.
    fn abandon_delivery(&mut self) {
        let Some(delivery) = &self.delivery else { return };
        delivery.task.abort();
        let reason =
            if delivery.arrival.is_possible() { DropReason::OutcomeUnknown } else { DropReason::ShutDown };
        self.settle(Outcome::Dropped(reason), None);
    }

    fn settle(&mut self, outcome: Outcome, quiet_until: Option<Instant>) {
        if let Some(delivery) = self.delivery.take() {
            self.queue.export.settle(delivery.spans, outcome);
            self.schedule.settled(outcome, quiet_until);
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
    reports: Arc<Mutex<Reports>>,
    random: RandomState,
}

impl Errand {
    /// Tries until the batch is settled; also says how long the collector wants to be left alone.
    async fn deliver(self, mut parcel: Parcel, limits: RetryLimits) -> (Outcome, Option<Instant>) {
        let mut retry = Retry::new(limits, Instant::now());
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
            self.report(&attempt, next);
            match next {
                Next::Settle(outcome) => return (outcome, retry.quiet_until()),
                Next::RetryAt(at) => tokio::time::sleep_until(at.into()).await,
            }
        }
    }

    fn report(&self, attempt: &Attempt, next: Next) {
        let (problem, consequence, what_follows) = match (attempt, next) {
            (Attempt::Accepted { warning: None, .. }, _) => return,
            (Attempt::Accepted { rejected: 0, warning: Some(problem) }, _) => {
                (problem, Consequence::Harmless, "nothing was rejected".to_owned())
            }
            (Attempt::Accepted { rejected, warning: Some(problem) }, _) => {
                (problem, Consequence::Loss, format!("{rejected} spans are rejected"))
            }
            (Attempt::Refused(problem), _) => (problem, Consequence::Loss, "spans are rejected".to_owned()),
            (Attempt::Failed { problem, .. }, Next::RetryAt(_)) => {
                (problem, Consequence::Harmless, "trying again".to_owned())
            }
            (Attempt::Failed { problem, .. }, Next::Settle(_)) => {
                (problem, Consequence::Loss, "spans are dropped".to_owned())
            }
        };
        report(&self.reports, problem, consequence, &what_follows);
    }
}

/// Writes a line about a problem, if its like was not reported lately.
fn report(reports: &Arc<Mutex<Reports>>, problem: &Problem, consequence: Consequence, what_follows: &str) {
    let line = reports.lock().unwrap_or_else(PoisonError::into_inner).line(
        problem,
        consequence,
        what_follows,
        Instant::now(),
    );
    if let Some(line) = line {
        write_apart(reports, line, say);
    }
}

fn say(line: &str) {
    // There is nobody to tell that standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

impl ExportCounters {
    /// Counts what became of spans that were pending.
    fn settle(&self, spans: u64, outcome: Outcome) {
        self.pending.sub(spans);
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
