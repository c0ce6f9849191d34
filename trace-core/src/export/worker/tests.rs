mod spool;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use super::*;
use crate::export::fixture::SCOPE;
use crate::export::queue::QueueLimits;
use crate::telemetry::Stats;

/// Longer than any test takes, so that what happens is not due to a timer.
const LONG: Duration = Duration::from_secs(60);

const CONFIG: WorkerConfig = WorkerConfig {
    batch: BatchLimits { bytes_max: 1 << 20, spans_max: 10 },
    schedule_delay: LONG,
    retry: RetryLimits { attempt_timeout: LONG, batch_timeout: LONG },
    wake_chunks_max: 4,
};

/// What a scripted transport does with a batch.
#[derive(Clone, Copy)]
enum Do {
    Accept,
    Refuse,
    /// Fails without an answer; whether the batch was handed over.
    Fail(bool),
    Panic,
    /// Never ends; whether the batch was handed over.
    Hang(bool),
}

/// A transport that does as it is told, first things first, and the last thing for ever.
struct Script {
    acts: Mutex<Vec<Do>>,
    /// The first byte of every span that was accepted.
    accepted: Mutex<Vec<u8>>,
    attempts: Count,
}

/// A number that can be waited for.
#[derive(Default)]
struct Count(Mutex<usize>, Condvar);

impl Count {
    fn up(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }

    #[track_caller]
    fn wait_for(&self, least: usize) {
        let (count, timeout) =
            self.1.wait_timeout_while(self.0.lock().unwrap(), LONG, |count| *count < least).unwrap();
        assert!(!timeout.timed_out(), "{count} of {least}");
    }
}

impl Transport for Script {
    fn attempt<'a>(
        &'a self,
        parcel: &'a mut Parcel,
        _: Instant,
    ) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
        Box::pin(async move {
            let act = {
                let mut acts = self.acts.lock().unwrap();
                if acts.len() > 1 { acts.remove(0) } else { acts[0] }
            };
            self.attempts.up();
            if let Do::Hang(true) | Do::Fail(true) = act {
                parcel.arrival.hand_over();
            }
            let problem = || Problem::new(ProblemKind::Connection, "as told");
            match act {
                Do::Accept => {
                    let spans = parcel.spans().map(|frame| frame.span()[0]);
                    self.accepted.lock().unwrap().extend(spans);
                    Attempt::Accepted { rejected: 0, warning: None }
                }
                Do::Refuse => Attempt::Refused(problem()),
                Do::Fail(_) => {
                    Attempt::Failed { problem: problem(), answer: Answer::None, retry_after: None }
                }
                Do::Panic => panic!("as told"),
                Do::Hang(_) => std::future::pending().await,
            }
        })
    }
}

struct Rig {
    queue: &'static Queue,
    script: Arc<Script>,
    worker: WorkerHandle,
    ticks: Arc<Count>,
}

impl Rig {
    fn new(acts: &[Do]) -> Self {
        Self::with(acts, CONFIG, None)
    }

    fn with(acts: &[Do], config: WorkerConfig, spans_max: Option<usize>) -> Self {
        let limits = QueueLimits { chunk_bytes_max: 1 << 20, live_bytes_max: 1 << 20, spans_max };
        let queue: &'static Queue = Box::leak(Box::new(Queue::new(limits, 2)));
        let script = Arc::new(Script {
            acts: Mutex::new(acts.to_vec()),
            accepted: Mutex::default(),
            attempts: Count::default(),
        });
        let ticks = Arc::<Count>::default();
        let tick = Arc::clone(&ticks);
        let worker = start(queue, config, Arc::clone(&script) as _, None, move || tick.up()).unwrap();
        Self { queue, script, worker, ticks }
    }

    fn put(&self, spans: impl IntoIterator<Item = u8>) {
        spans.into_iter().for_each(|span| self.queue.put(&[span; 100], &SCOPE));
    }

    /// The counts, which have to add up.
    #[track_caller]
    fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.queue.read(&mut stats);
        assert!(stats.is_balanced(), "{stats}");
        stats
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.stats().dropped.count(reason)
    }

    fn accepted(&self) -> Vec<u8> {
        let mut accepted = self.script.accepted.lock().unwrap().clone();
        accepted.sort_unstable();
        accepted
    }
}

#[test]
fn a_flush_sends_all_that_has_ended() {
    let rig = Rig::new(&[Do::Accept]);
    rig.put(0..25);
    assert_eq!(rig.worker.blocking_flush(LONG), Ok(()));
    assert_eq!(rig.accepted(), Vec::from_iter(0..25));
    assert_eq!((rig.stats().exported, rig.stats().queued), (25, 0));
    rig.put(25..30);
    assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
    assert_eq!(rig.accepted(), Vec::from_iter(0..30));
}

#[test]
fn spans_leave_by_themselves_after_the_schedule_delay() {
    let rig =
        Rig::with(&[Do::Accept], WorkerConfig { schedule_delay: Duration::from_millis(1), ..CONFIG }, None);
    rig.put([1]);
    rig.script.attempts.wait_for(1);
    rig.put([2]);
    rig.script.attempts.wait_for(2);
}

#[test]
fn full_batches_leave_by_themselves_at_once() {
    let config = WorkerConfig { batch: BatchLimits { bytes_max: 30_000, spans_max: usize::MAX }, ..CONFIG };
    let rig = Rig::with(&[Do::Accept], config, None);
    // A chunk has 79 of these.
    rig.put((0..400).map(|i| i as u8));
    rig.script.attempts.wait_for(1);
}

#[test]
fn a_queue_that_is_bounded_in_spans_is_emptied_before_it_overflows() {
    let rig = Rig::with(&[Do::Accept], CONFIG, Some(20));
    rig.put(0..10);
    rig.script.attempts.wait_for(1);
    assert_eq!(rig.worker.blocking_flush(LONG), Ok(()));
    rig.put(10..20);
    rig.script.attempts.wait_for(2);
    assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
    assert_eq!(rig.stats().exported, 20);
}

#[test]
fn a_batch_that_is_refused_is_rejected_whole() {
    let rig = Rig::new(&[Do::Refuse, Do::Accept]);
    rig.put(0..15);
    assert_eq!(rig.worker.blocking_flush(LONG), Err(FlushError::Failed));
    assert_eq!((rig.stats().exported, rig.stats().rejected), (5, 10));
}

#[test]
fn a_batch_that_failed_is_sent_again() {
    let rig = Rig::new(&[Do::Fail(true), Do::Fail(false), Do::Accept]);
    rig.put(0..5);
    assert_eq!(rig.worker.blocking_flush(LONG), Ok(()));
    assert_eq!(rig.stats().exported, 5);
}

#[test]
fn a_batch_whose_time_is_over_is_dropped_by_what_is_known() {
    let soon = RetryLimits { attempt_timeout: LONG, batch_timeout: Duration::ZERO };
    let rig = Rig::with(&[Do::Fail(false), Do::Fail(true)], WorkerConfig { retry: soon, ..CONFIG }, None);
    rig.put(0..15);
    assert_eq!(rig.worker.blocking_flush(LONG), Err(FlushError::Failed));
    assert_eq!(rig.dropped(DropReason::ExportFailed), 10);
    assert_eq!(rig.dropped(DropReason::OutcomeUnknown), 5);
}

#[test]
fn a_batch_that_is_refused_after_an_attempt_without_an_answer_may_have_arrived() {
    let rig = Rig::new(&[Do::Fail(true), Do::Refuse, Do::Fail(false), Do::Refuse]);
    rig.put(0..15);
    assert_eq!(rig.worker.blocking_flush(LONG), Err(FlushError::Failed));
    assert_eq!(rig.dropped(DropReason::OutcomeUnknown), 10);
    assert_eq!(rig.stats().rejected, 5);
}

#[test]
fn an_exporter_that_panics_costs_its_batch_and_nothing_else() {
    let rig = Rig::new(&[Do::Panic, Do::Accept]);
    rig.put(0..15);
    assert_eq!(rig.worker.blocking_flush(LONG), Err(FlushError::Failed));
    assert_eq!(rig.dropped(DropReason::ExporterPanicked), 10);
    assert_eq!(rig.stats().exported, 5);
    rig.put(0..5);
    assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
    assert_eq!(rig.stats().exported, 10);
}

#[test]
fn a_shutdown_with_an_exporter_that_hangs_returns_by_its_deadline_and_counts_the_rest() {
    for (handed_over, reason) in [(true, DropReason::OutcomeUnknown), (false, DropReason::ShutDown)] {
        let rig = Rig::new(&[Do::Hang(handed_over)]);
        rig.put(0..15);
        let start = Instant::now();
        let timeout = Duration::from_millis(200);
        assert_eq!(rig.worker.blocking_shutdown(timeout), Err(FlushError::Timeout));
        assert!(start.elapsed() >= timeout && start.elapsed() < timeout + LONG / 10, "{:?}", start.elapsed());
        // All memory for finished spans is given back; a worker that gets no processor in time is not waited for.
        while rig.queue.memory().0 > 0 && start.elapsed() < LONG {
            std::thread::yield_now();
        }
        assert_eq!(rig.queue.memory().0, 0);
        let stats = rig.stats();
        assert_eq!(stats.dropped.total(), 15);
        assert!(stats.dropped.count(reason) >= 10, "{stats}");
    }
}

#[test]
fn spans_that_end_after_the_shutdown_are_dropped_and_counted() {
    let rig = Rig::new(&[Do::Accept]);
    rig.put(0..5);
    assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
    rig.put(5..7);
    assert_eq!(rig.accepted(), Vec::from_iter(0..5));
    assert_eq!(rig.dropped(DropReason::ShutDown), 2);
}

#[test]
fn no_span_is_left_behind_when_many_threads_end_spans_during_the_shutdown() {
    for _ in 0..20 {
        let rig = Rig::new(&[Do::Accept]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| rig.put(0..200));
            }
            rig.put(0..100);
            assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
        });
        let stats = rig.stats();
        assert_eq!((stats.started, stats.queued), (1_700, 0), "{stats}");
        assert_eq!(stats.exported, rig.accepted().len() as u64);
    }
}

#[test]
fn a_worker_that_has_ended_answers_at_once() {
    let rig = Rig::new(&[Do::Accept]);
    assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
    assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
    assert_eq!(rig.worker.blocking_flush(LONG), Ok(()));
}

#[test]
fn shutdowns_and_flushes_from_many_threads_all_return() {
    let rig = Rig::new(&[Do::Accept]);
    rig.put(0..50);
    std::thread::scope(|scope| {
        for i in 0..16 {
            let worker = rig.worker.clone();
            scope.spawn(move || {
                let done =
                    if i % 2 == 0 { worker.blocking_flush(LONG) } else { worker.blocking_shutdown(LONG) };
                assert_eq!(done, Ok(()));
            });
        }
    });
    assert_eq!(rig.stats().exported, 50);
}

#[test]
fn a_future_of_a_flush_needs_no_runtime() {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let rig = Rig::new(&[Do::Accept]);
    rig.put(0..5);
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut shutdown = pin!(rig.worker.shutdown(LONG));
    let result = loop {
        match shutdown.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => break result,
            Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(result, Ok(()));
    assert_eq!(rig.stats().exported, 5);
}

#[test]
fn a_flush_that_nobody_waits_for_changes_nothing() {
    let rig = Rig::new(&[Do::Accept]);
    rig.put(0..5);
    {
        let mut flush = pin!(rig.worker.flush(LONG));
        let _ = flush.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
    }
    assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
    assert_eq!(rig.stats().exported, 5);
}

#[test]
fn the_clock_is_anchored_at_once_and_again_when_it_can_be_measured() {
    let rig = Rig::new(&[Do::Accept]);
    rig.ticks.wait_for(2);
    assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
}

#[test]
fn a_fault_of_the_worker_itself_loses_what_it_had_and_it_goes_on() {
    let limits = QueueLimits { chunk_bytes_max: 1 << 20, live_bytes_max: 1 << 20, spans_max: None };
    let queue: &'static Queue = Box::leak(Box::new(Queue::new(limits, 1)));
    let ticks = Arc::new(AtomicUsize::new(0));
    let tick = {
        let ticks = Arc::clone(&ticks);
        move || {
            if ticks.fetch_add(1, Ordering::SeqCst) < 2 {
                panic!("as told");
            }
        }
    };
    let script = Arc::new(Script {
        acts: Mutex::new(vec![Do::Accept]),
        accepted: Mutex::default(),
        attempts: Count::default(),
    });
    let worker = start(queue, CONFIG, Arc::clone(&script) as _, None, tick).unwrap();
    queue.put(&[1; 10], &SCOPE);
    // A flush that meets the fault fails, and one after it does not.
    while worker.blocking_flush(LONG).is_err() {}
    queue.put(&[2; 10], &SCOPE);
    assert_eq!(worker.blocking_shutdown(LONG), Ok(()));
    let mut stats = Stats::default();
    queue.read(&mut stats);
    assert!(stats.is_balanced() && stats.exported >= 1, "{stats}");
}

#[test]
fn the_exporters_own_work_makes_no_spans() {
    /// Whether the current context forbids spans on the worker's thread, and on one that works for it.
    struct Curious(Mutex<Vec<bool>>);
    impl Transport for Curious {
        fn attempt<'a>(
            &'a self,
            _: &'a mut Parcel,
            _: Instant,
        ) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
            fn is_quiet() -> bool {
                let tracer = crate::Context::current().tracer();
                tracer.is_some_and(|tracer| tracer.pipeline().is_none())
            }
            Box::pin(async {
                let elsewhere = tokio::task::spawn_blocking(is_quiet).await.unwrap();
                self.0.lock().unwrap().extend([is_quiet(), elsewhere]);
                Attempt::Accepted { rejected: 0, warning: None }
            })
        }
    }
    let limits = QueueLimits { chunk_bytes_max: 1 << 20, live_bytes_max: 1 << 20, spans_max: None };
    let queue: &'static Queue = Box::leak(Box::new(Queue::new(limits, 1)));
    let curious = Arc::new(Curious(Mutex::default()));
    let worker = start(queue, CONFIG, Arc::clone(&curious) as _, None, || {}).unwrap();
    queue.put(&[1; 10], &SCOPE);
    assert_eq!(worker.blocking_shutdown(LONG), Ok(()));
    assert_eq!(*curious.0.lock().unwrap(), [true, true]);
}

#[test]
fn whoever_waits_on_the_workers_own_thread_is_told_at_once() {
    /// Asks for a flush and a shutdown while it sends, as a panic hook or a subscriber of logs might.
    #[derive(Default)]
    struct Selfish(std::sync::OnceLock<WorkerHandle>, Mutex<Vec<Result<(), FlushError>>>);
    impl Transport for Selfish {
        fn attempt<'a>(
            &'a self,
            _: &'a mut Parcel,
            _: Instant,
        ) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
            Box::pin(async {
                let worker = self.0.wait();
                self.1.lock().unwrap().extend([worker.blocking_flush(LONG), worker.blocking_shutdown(LONG)]);
                Attempt::Accepted { rejected: 0, warning: None }
            })
        }
    }
    let limits = QueueLimits { chunk_bytes_max: 1 << 20, live_bytes_max: 1 << 20, spans_max: None };
    let queue: &'static Queue = Box::leak(Box::new(Queue::new(limits, 1)));
    let selfish = Arc::new(Selfish::default());
    let worker = start(queue, CONFIG, Arc::clone(&selfish) as _, None, || {}).unwrap();
    selfish.0.set(worker.clone()).unwrap();
    queue.put(&[1; 10], &SCOPE);
    let begin = Instant::now();
    assert_eq!(worker.blocking_flush(LONG), Ok(()));
    assert_eq!(worker.blocking_shutdown(LONG), Ok(()));
    assert!(begin.elapsed() < LONG / 2);
    assert_eq!(*selfish.1.lock().unwrap(), [Err(FlushError::Timeout); 2]);
}

/// A `fork` copies the thread that calls it, and no other.
#[cfg(unix)]
#[test]
fn a_process_without_the_worker_is_told_at_once() {
    let rig = Rig::new(&[Do::Accept]);
    rig.put(0..5);
    // SAFETY: the child looks at what it was given, and leaves without running anybody's destructors.
    match unsafe { libc::fork() } {
        0 => {
            let mut flush = pin!(rig.worker.flush(LONG));
            let ready = flush.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
            let failed = Err(FlushError::Failed);
            let told = ready == Poll::Ready(failed) && rig.worker.blocking_shutdown(LONG) == failed;
            // SAFETY: as above.
            unsafe { libc::_exit(if told { 0 } else { 1 }) }
        }
        child => {
            let mut status = -1;
            // SAFETY: the status is written to memory of ours.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
        }
    }
    assert_eq!(rig.worker.blocking_shutdown(LONG), Ok(()));
    assert_eq!(rig.stats().exported, 5);
}
