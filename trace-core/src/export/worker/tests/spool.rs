//! The spool and the worker against a model: whatever happens in whatever order, every span is accounted for, order is kept,
//! and what was on disk arrives.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::export::chunk::Chunk;
use crate::export::spool::faults::{DiskFault, DiskFaults};
use crate::export::spool::record::SpoolRecord;
use crate::otlp::{decode_request, sample};

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// So many spans end.
    Spans(u8),
    /// From now on the collector does this.
    Collector(Mood),
    /// From now on this is wrong with the disk.
    Disk(DiskFault),
    /// The worker gets so many milliseconds.
    Time(u8),
    /// A shutdown with so many milliseconds, and a start.
    Restart(u8),
    /// A kill, and a start.
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Accepts,
    Rejects,
    /// Says that it did not take it.
    Fails,
    /// Takes it and never says so.
    Swallows,
    /// Never answers, and did not take it.
    Hangs,
    Panics,
}

/// A collector that remembers the numbers of spans.
struct Backend {
    mood: tokio::sync::watch::Sender<Mood>,
    arrivals: Arc<Mutex<Arrivals>>,
}

#[derive(Default)]
struct Arrivals {
    /// In the order of their first arrival.
    accepted: Vec<u64>,
    rejected: BTreeSet<u64>,
}

impl Backend {
    fn new(mood: Mood, arrivals: &Arc<Mutex<Arrivals>>) -> Arc<Self> {
        Arc::new(Self { mood: tokio::sync::watch::Sender::new(mood), arrivals: Arc::clone(arrivals) })
    }

    fn accept(&self, numbers: Vec<u64>) {
        let accepted = &mut self.arrivals.lock().unwrap().accepted;
        for number in numbers {
            if !accepted.contains(&number) {
                accepted.push(number);
            }
        }
    }
}

/// The numbers of the spans in a request.
fn numbers(request: &[u8]) -> Vec<u64> {
    let spans = decode_request(request).unwrap();
    spans.iter().map(|span| u64::from_be_bytes(span.span_id.to_bytes())).collect()
}

impl Transport for Backend {
    fn attempt<'a>(
        &'a self,
        parcel: &'a mut Parcel,
        _: Instant,
    ) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
        Box::pin(async move {
            let mut moods = self.mood.subscribe();
            let mut body = parcel.wire(b"", false).await.body(bytes::Bytes::new(), &Arc::default());
            let mut request = Vec::new();
            loop {
                match body.next_piece() {
                    piece if piece.is_empty() => break,
                    piece => request.extend_from_slice(&piece),
                }
            }
            let numbers = numbers(&request);
            let failed = |answer| {
                let problem = Problem::new(ProblemKind::Connection, "as told");
                Attempt::Failed { problem, answer, retry_after: None }
            };
            // For as long as this is looked at, the mood does not change.
            let mood = *moods.borrow_and_update();
            match mood {
                Mood::Accepts => {
                    self.accept(numbers);
                    Attempt::Accepted { rejected: 0, warning: None }
                }
                Mood::Rejects => {
                    self.arrivals.lock().unwrap().rejected.extend(numbers);
                    Attempt::Refused(Problem::new(ProblemKind::Http(400), "as told"))
                }
                Mood::Fails => failed(Answer::NotTaken),
                Mood::Swallows => {
                    self.accept(numbers);
                    parcel.arrival.hand_over();
                    let _ = moods.changed().await;
                    failed(Answer::None)
                }
                Mood::Hangs => {
                    let _ = moods.changed().await;
                    failed(Answer::None)
                }
                Mood::Panics => panic!("as told"),
            }
        })
    }
}

fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("trace-core-model-{}-{number}", std::process::id()));
    // One that is left over from a process that had the same id.
    let _ = fs::remove_dir_all(&path);
    path
}

/// A worker with a spool.
struct Life {
    queue: &'static Queue,
    worker: WorkerHandle,
    backend: Arc<Backend>,
    disk: DiskFaults,
    directory: PathBuf,
    bytes_max: u64,
}

impl Life {
    fn start(directory: PathBuf, backend: Arc<Backend>, bytes_max: u64, fault: DiskFault) -> Self {
        Self::with_tick(directory, backend, bytes_max, fault, || {})
    }

    fn with_tick(
        directory: PathBuf,
        backend: Arc<Backend>,
        bytes_max: u64,
        fault: DiskFault,
        tick: impl Fn() + Send + 'static,
    ) -> Self {
        let queue_limits = QueueLimits { chunk_bytes_max: 1 << 20, live_bytes_max: 1 << 20, spans_max: None };
        let queue: &'static Queue = Box::leak(Box::new(Queue::new(queue_limits, 1)));
        let disk = DiskFaults::default();
        disk.behave(fault);
        let mut config = SpoolConfig::new(&directory).with_faults(disk.clone());
        config.bytes_max = bytes_max;
        let limits =
            SpoolLimits { waiting_bytes_max: 3 * Chunk::MEMORY, stalled_after: Duration::from_millis(1) };
        let setup = SpoolSetup { config, limits, resource: Vec::new() };
        let retry = RetryLimits { attempt_timeout: LONG, batch_timeout: Duration::ZERO };
        let transport = Arc::clone(&backend);
        wait_for_locks(&directory);
        let worker = start(queue, WorkerConfig { retry, ..CONFIG }, transport, Some(setup), tick).unwrap();
        Self { queue, worker, backend, disk, directory, bytes_max }
    }

    /// Spans end, and are handed over to the worker.
    fn end(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let mut span = sample::plain_span("x");
            span.span_id = crate::SpanId::from_bytes(number.to_be_bytes()).unwrap();
            self.queue.put(&sample::to_span(&span).encode_to_vec(), &SCOPE);
        }
        self.meet();
    }

    /// Waits until the worker has come by once more.
    fn meet(&self) {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(self.worker.flush(Duration::ZERO));
    }

    /// The counts, when all is over.
    fn end_of_life(&self, timeout: Duration) -> Stats {
        let _ = self.worker.blocking_shutdown(timeout);
        // A worker that gets no processor in time is not waited for by its shutdown.
        let start = Instant::now();
        while self.queue.memory().0 > 0 {
            assert!(start.elapsed() < LONG);
            std::thread::yield_now();
        }
        let mut stats = Stats::default();
        self.queue.read(&mut stats);
        assert!(stats.is_balanced() && stats.queued == 0, "{stats}");
        stats
    }

    /// What a kill leaves: a directory as it was at that moment; and how many spans were lost before it, or with it.
    fn kill(self) -> (u64, PathBuf) {
        self.disk.behave(DiskFault::Hang);
        let copy = new_directory();
        let on_disk = copy_directory(&self.directory, &copy);
        // What the disk did before is known to the worker now, but for a file that is being dropped for want of room.
        self.meet();
        let mut stats = Stats::default();
        self.queue.read(&mut stats);
        let being_dropped = stats.spooled.saturating_sub(on_disk);
        assert!(being_dropped == 0 || self.bytes_max < u64::MAX, "{on_disk} are on disk: {stats}");
        // It is still there, and shows nobody what it does from now on.
        self.backend.mood.send_replace(Mood::Hangs);
        self.disk.behave(DiskFault::Broken);
        self.end_of_life(Duration::ZERO);
        let _ = fs::remove_dir_all(&self.directory);
        (stats.dropped.total() + stats.queued + being_dropped, copy)
    }
}

/// Waits until nobody has what an earlier life left: its locks go with its thread, but another test may have forked a process
/// meanwhile, which has them too for as long as it lives.
fn wait_for_locks(directory: &Path) {
    let start = Instant::now();
    for lane in fs::read_dir(directory).into_iter().flatten() {
        let lock = lane.unwrap().path().join("lock");
        while fs::File::open(&lock).is_ok_and(|file| fs4::FileExt::try_lock(&file).is_err()) {
            assert!(start.elapsed() < LONG, "{} is locked", lock.display());
            std::thread::yield_now();
        }
    }
}

/// Says how many spans are in the files.
fn copy_directory(from: &Path, to: &Path) -> u64 {
    let mut spans = 0;
    for lane in fs::read_dir(from).into_iter().flatten() {
        let lane = lane.unwrap().path();
        let copy = to.join(lane.file_name().unwrap());
        fs::create_dir_all(&copy).unwrap();
        for file in fs::read_dir(&lane).unwrap() {
            let file = file.unwrap().path();
            let bytes = fs::read(&file).unwrap();
            spans += SpoolRecord::read(&bytes).map_or(0, |record| u64::from(record.spans));
            fs::write(copy.join(file.file_name().unwrap()), bytes).unwrap();
        }
    }
    spans
}

fn event() -> impl Strategy<Value = Event> {
    let mood = prop_oneof![
        4 => Just(Mood::Accepts),
        1 => Just(Mood::Rejects),
        4 => Just(Mood::Fails),
        1 => Just(Mood::Swallows),
        2 => Just(Mood::Hangs),
        1 => Just(Mood::Panics),
    ];
    let fault = prop_oneof![
        3 => Just(DiskFault::None),
        1 => Just(DiskFault::Full),
        1 => Just(DiskFault::ReadOnly),
        1 => Just(DiskFault::Slow(Duration::from_millis(1))),
    ];
    prop_oneof![
        6 => (1u8..60).prop_map(Event::Spans),
        3 => mood.prop_map(Event::Collector),
        1 => fault.prop_map(Event::Disk),
        3 => (0u8..40).prop_map(Event::Time),
        1 => (0u8..200).prop_map(Event::Restart),
        1 => Just(Event::Kill),
    ]
}

#[test]
fn a_fault_of_the_worker_itself_costs_nothing_where_there_is_a_spool() {
    let arrivals = Arc::<Mutex<Arrivals>>::default();
    let (faults, fault) = (Arc::new(Count::default()), Arc::new(AtomicU32::new(0)));
    let tick = {
        let (faults, fault) = (Arc::clone(&faults), Arc::clone(&fault));
        move || {
            if fault.swap(0, Ordering::SeqCst) == 1 {
                faults.up();
                panic!("as told");
            }
        }
    };
    let backend = Backend::new(Mood::Hangs, &arrivals);
    let life = Life::with_tick(new_directory(), backend, u64::MAX, DiskFault::None, tick);
    // A batch in flight, and one and a half that wait.
    life.end(1..26);
    fault.store(1, Ordering::SeqCst);
    faults.wait_for(1);
    life.end(26..30);
    life.backend.mood.send_replace(Mood::Accepts);
    assert_eq!(life.worker.blocking_flush(LONG), Ok(()));
    let stats = life.end_of_life(LONG);
    assert_eq!((stats.exported, stats.dropped.total()), (29, 0), "{stats}");
    assert_eq!(arrivals.lock().unwrap().accepted, Vec::from_iter(1..30));
    let _ = fs::remove_dir_all(&life.directory);
}

/// Plays the events, and then an end in which all is well.
fn play(events: &[Event], bytes_max: u64) {
    let arrivals = Arc::<Mutex<Arrivals>>::default();
    let (mut mood, mut fault) = (Mood::Accepts, DiskFault::None);
    let (mut made, mut lost, mut disk_was_well) = (0, 0, true);
    let mut life = Life::start(new_directory(), Backend::new(mood, &arrivals), bytes_max, fault);
    for event in events {
        match *event {
            Event::Spans(count) => {
                life.end(made + 1..made + 1 + u64::from(count));
                made += u64::from(count);
            }
            Event::Collector(next) => {
                mood = next;
                life.backend.mood.send_replace(mood);
            }
            Event::Disk(next) => {
                fault = next;
                life.disk.behave(fault);
                disk_was_well &= fault == DiskFault::None;
            }
            Event::Time(millis) => std::thread::sleep(Duration::from_millis(millis.into())),
            Event::Restart(millis) => {
                lost += life.end_of_life(Duration::from_millis(millis.into())).dropped.total();
                life = Life::start(life.directory, Backend::new(mood, &arrivals), bytes_max, fault);
            }
            Event::Kill => {
                let (dropped, directory) = life.kill();
                lost += dropped;
                life = Life::start(directory, Backend::new(mood, &arrivals), bytes_max, fault);
            }
        }
    }

    lost += life.end_of_life(Duration::from_millis(100)).dropped.total();
    let last = Life::start(life.directory, Backend::new(Mood::Accepts, &arrivals), u64::MAX, DiskFault::None);
    let start = Instant::now();
    let stats = last.end_of_life(LONG);
    lost += stats.dropped.total();
    assert_eq!(stats.spooled, 0, "{stats}");
    assert!(start.elapsed() < LONG / 2, "nothing but its deadline woke the worker");
    let _ = fs::remove_dir_all(&last.directory);

    let arrivals = arrivals.lock().unwrap();
    let Arrivals { accepted, rejected } = &*arrivals;
    let arrived: BTreeSet<u64> = accepted.iter().chain(rejected).copied().collect();
    let missing = made - arrived.len() as u64;
    assert!(missing <= lost, "{missing} of {made} are missing, and {lost} are known to be lost");
    // A disk that fails does not hold up the collector, at the expense of order.
    if disk_was_well {
        assert!(accepted.is_sorted(), "{accepted:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn whatever_happens_every_span_is_accounted_for_and_what_was_on_disk_arrives_in_order(
        plays in vec((vec(event(), 1..25), prop_oneof![Just(40_960u64), Just(u64::MAX)]), 8),
    ) {
        // Most of their time they wait.
        let results: Vec<_> = std::thread::scope(|scope| {
            let play = |(events, bytes_max): &(Vec<Event>, u64)| {
                let (events, bytes_max) = (events.clone(), *bytes_max);
                scope.spawn(move || play(&events, bytes_max))
            };
            let threads: Vec<_> = plays.iter().map(play).collect();
            threads.into_iter().map(|thread| thread.join().is_ok()).collect()
        });
        let failed = plays.iter().zip(results).find(|(_, is_good)| !is_good);
        prop_assert!(failed.is_none(), "{failed:?}");
    }
}
