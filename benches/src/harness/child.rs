//! One subject in its own process: bursts of its unit of work, measured in one of three ways.

use std::hint;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::statistics::{median, undisturbed};
use super::{Entry, allocator, callgrind, clock};

/// Where the subject sends its spans.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    /// OTLP over HTTP, path included.
    pub(crate) endpoint: String,
}

/// Does the work that it is given, and measures it.
type Measure<'a> = dyn FnMut(&mut dyn FnMut()) + 'a;

/// Has a number of units measured.
type Burst = dyn Fn(usize, &mut Measure<'_>) + Sync;

/// One way to do the work, set up and ready.
pub(crate) struct Subject {
    burst: Box<Burst>,
    drain: Box<dyn Fn() + Sync>,
}

impl Subject {
    /// A subject whose unit of work needs nothing.
    pub(crate) fn new(unit: impl Fn() + Sync + 'static) -> Self {
        Self::with_input(|| (), move |()| unit())
    }

    /// A subject whose unit of work uses something up, which is made off the clock.
    pub(crate) fn with_input<I>(
        prepare: impl Fn() -> I + Sync + 'static,
        unit: impl Fn(I) + Sync + 'static,
    ) -> Self {
        Self {
            burst: Box::new(move |units, measure| {
                let mut inputs: Vec<I> = (0..units).map(|_| prepare()).collect();
                measure(&mut || inputs.drain(..).for_each(&unit));
            }),
            drain: Box::new(|| {}),
        }
    }

    /// Sends what the bursts left behind; off the thread's clock, and on that of the process.
    pub(crate) fn drained_by(mut self, drain: impl Fn() + Sync + 'static) -> Self {
        self.drain = Box::new(drain);
        self
    }

    /// Does the units of work.
    pub(crate) fn work(&self, units: usize) {
        self.burst(units, &mut |work| work());
    }

    /// Sends what waits.
    pub(crate) fn drain(&self) {
        (self.drain)();
    }

    fn burst(&self, units: usize, measure: &mut Measure<'_>) {
        (self.burst)(units, measure);
    }

    fn warm_up(&self, units: usize, time: Duration) {
        let start = Instant::now();
        let mut bursts = 0;
        while bursts < WARM_UP || start.elapsed() < time {
            self.burst(units, &mut |work| work());
            (self.drain)();
            bursts += 1;
        }
    }
}

/// What a process is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Times, and then allocations, at once.
    Measure,
    /// The same, a [`Round`] at a time, as it is asked for line by line.
    Rounds,
    /// A few bursts for callgrind to count.
    Count,
}

/// A part of the measuring: short, so that one after the other may have its turn while the machine is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// The time of the working thread.
    Thread,
    /// The time of the process for [`FILL`] bursts that are sent.
    Process,
    /// Allocations and their bytes.
    Allocations,
}

impl Round {
    const ALL: [Self; 3] = [Self::Thread, Self::Process, Self::Allocations];

    /// As the child is asked for it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Process => "process",
            Self::Allocations => "allocations",
        }
    }
}

/// What a child says when it is ready for its first round.
pub(crate) const READY: &str = "ready";

/// What a unit of work costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Costs {
    pub(crate) thread_ns: f64,
    pub(crate) process_ns: f64,
    pub(crate) allocations: f64,
    pub(crate) bytes: f64,
}

/// How many bursts a process makes before it measures: allocators, pools, caches and branch predictors settle in a few.
const WARM_UP: usize = 12;

/// And for how long: clocks are calibrated meanwhile.
const WARM_UP_TIME: Duration = Duration::from_millis(60);

/// How long each works before the next one has its turn, warm from working as long before: until its code and its memory are back in
/// the second-level cache, which a dozen others have used meanwhile. By turns of a quarter, what was compared differed by as much
/// as a tenth from one run to the next.
const TURN: Duration = Duration::from_millis(4);

/// How many bursts threads do together in a turn.
const AT_ONCE: usize = 12;

/// How many bursts are sent at once where the time of the whole process is measured: some 2 000 spans, which are a request by
/// our defaults, and as many as the SDK's queue holds. To wake a worker for fewer costs more than what it does then.
pub(crate) const FILL: usize = 5;

/// How many bursts callgrind counts: every one costs the same number of instructions, but for what a hash map or an
/// arena does now and then.
pub(crate) const COUNTED: usize = 4;

/// Does one task and prints what it found.
pub(crate) fn run(entry: &Entry, collector: &Collector, task: Task, units: usize, bursts: usize) {
    // As tokio's default runtime has. libc saves what threads need, locks and cancellation, as long as there is only one, so that
    // what starts none of its own would be measured in a world that it does not live in.
    thread::spawn(|| {
        loop {
            thread::park()
        }
    });
    let set_up = || (entry.setup)(collector);
    match task {
        Task::Measure => {
            let subject = set_up();
            subject.warm_up(units, WARM_UP_TIME);
            println!("{}", measure(&subject, entry.threads, units, bursts).line());
        }
        Task::Rounds => {
            let subject = set_up();
            subject.warm_up(units, WARM_UP_TIME);
            answer_rounds(&subject, entry.threads, units);
        }
        // On a thread of its own, whose stack begins with a page. Where that of the first one begins is up to the length of the program's
        // path, its arguments and its environment, and copying to and from there takes a dozen instructions more or less by that.
        Task::Count => thread::scope(|scope| {
            scope.spawn(|| count(&set_up(), units));
        }),
    }
}

/// Does a few bursts that callgrind counts.
fn count(subject: &Subject, units: usize) {
    // By a number of bursts alone: how many there were before changes what is counted, where a table grows.
    subject.warm_up(units, Duration::ZERO);
    for _ in 0..COUNTED {
        subject.burst(units, &mut callgrind::collected);
        (subject.drain)();
    }
}

fn measure(subject: &Subject, threads: usize, units: usize, bursts: usize) -> Costs {
    let (thread_ns, process_ns) = match threads {
        1 => time(subject, units, bursts),
        _ => (time_at_once(subject, threads, units, bursts), f64::NAN),
    };
    let (allocations, bytes) = allocations(subject, units);
    Costs { thread_ns, process_ns, allocations, bytes }
}

/// Does the rounds that are asked for on the input, and says what each found, until there are no more.
fn answer_rounds(subject: &Subject, threads: usize, units: usize) {
    println!("{READY}");
    for line in io::stdin().lines().map_while(Result::ok) {
        // Others had the processor, and its caches are theirs.
        for_a_turn(|| {
            subject.work(units);
            subject.drain();
        });
        match Round::ALL.into_iter().find(|round| round.word() == line) {
            Some(Round::Thread) if threads > 1 => {
                println!("{}", time_at_once(subject, threads, units, AT_ONCE));
            }
            Some(Round::Thread) => println!("{}", median(&for_a_turn(|| thread_burst(subject, units)))),
            Some(Round::Process) => println!("{}", process_fill(subject, units)),
            Some(Round::Allocations) => {
                let (number, bytes) = allocations(subject, units);
                println!("{number} {bytes}");
            }
            None => return,
        }
    }
}

/// Does something for [`TURN`], and at least once.
fn for_a_turn<T>(mut work: impl FnMut() -> T) -> Vec<T> {
    let start = Instant::now();
    let mut results = Vec::new();
    while results.is_empty() || start.elapsed() < TURN {
        results.push(work());
    }
    results
}

/// A unit's allocations on its thread, and their bytes.
fn allocations(subject: &Subject, units: usize) -> (f64, f64) {
    let mut counted = allocator::Allocations::default();
    for _ in 0..COUNTED {
        subject.burst(units, &mut |work| {
            let burst = allocator::count(work);
            counted.number += burst.number;
            counted.bytes += burst.bytes;
        });
        subject.drain();
    }
    let all = (COUNTED * units) as f64;
    (counted.number as f64 / all, counted.bytes as f64 / all)
}

/// A unit's time on its thread, in nanoseconds.
fn thread_burst(subject: &Subject, units: usize) -> f64 {
    let mut time = 0;
    subject.burst(units, &mut |work| {
        let start = clock::thread_ns();
        work();
        time = clock::thread_ns() - start;
    });
    subject.drain();
    time as f64 / units as f64
}

/// A unit's time in the whole process until it is sent, in nanoseconds.
fn process_fill(subject: &Subject, units: usize) -> f64 {
    let start = clock::process_ns();
    for _ in 0..FILL {
        subject.work(units);
    }
    subject.drain();
    (clock::process_ns() - start) as f64 / (FILL * units) as f64
}

/// A unit's time on its thread and in the whole process, in nanoseconds, as the least disturbed bursts have it.
fn time(subject: &Subject, units: usize, bursts: usize) -> (f64, f64) {
    let on_thread: Vec<_> = (0..bursts).map(|_| thread_burst(subject, units)).collect();
    let in_process: Vec<_> = (0..bursts.div_ceil(FILL)).map(|_| process_fill(subject, units)).collect();
    (undisturbed(&on_thread), undisturbed(&in_process))
}

/// A unit's time on the first thread while others do the same.
fn time_at_once(subject: &Subject, threads: usize, units: usize, bursts: usize) -> f64 {
    let at_start = AtomicUsize::new(0);
    let at_end = AtomicUsize::new(0);
    // Spinning, because a thread that is woken begins when a short burst is over.
    let meet = |place: &AtomicUsize, round: usize| {
        place.fetch_add(1, Ordering::AcqRel);
        while place.load(Ordering::Acquire) < threads * (round + 1) {
            hint::spin_loop();
        }
    };
    let work = |thread: usize| {
        let mut times = Vec::with_capacity(bursts);
        for round in 0..bursts {
            subject.burst(units, &mut |work| {
                meet(&at_start, round);
                let start = clock::thread_ns();
                work();
                times.push((clock::thread_ns() - start) as f64 / units as f64);
            });
            if thread == 0 {
                (subject.drain)();
            }
            meet(&at_end, round);
        }
        median(&times)
    };
    thread::scope(|scope| {
        for thread in 1..threads {
            scope.spawn(move || work(thread));
        }
        work(0)
    })
}

impl Costs {
    fn line(&self) -> String {
        let Self { thread_ns, process_ns, allocations, bytes } = self;
        format!("{thread_ns} {process_ns} {allocations} {bytes}")
    }
}

impl FromStr for Costs {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [thread_ns, process_ns, allocations, bytes] = numbers[..] else {
            return Err(format!("not four numbers: {line:?}"));
        };
        Ok(Self { thread_ns, process_ns, allocations, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_read_as_they_were_printed() {
        let costs = Costs { thread_ns: 54.5, process_ns: 200.0, allocations: 0.0, bytes: 0.25 };
        assert_eq!(costs.line().parse(), Ok(costs));
        assert!("1 2 3".parse::<Costs>().is_err());
    }

    #[test]
    fn allocations_off_the_clock_are_not_counted() {
        let subject = Subject::with_input(|| vec![0u8; 100], drop).drained_by(|| drop(vec![0u8; 100]));
        let costs = measure(&subject, 1, 8, 3);
        assert_eq!((costs.allocations, costs.bytes), (0.0, 0.0));
        let subject = Subject::new(|| drop(hint::black_box(vec![0u8; 100])));
        let costs = measure(&subject, 1, 8, 3);
        assert_eq!((costs.allocations, costs.bytes), (1.0, 100.0));
    }

    #[test]
    fn threads_at_once_all_do_every_burst() {
        let units = std::sync::Arc::new(AtomicUsize::new(0));
        let count = units.clone();
        let subject = Subject::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        time_at_once(&subject, 2, 10, 5);
        assert_eq!(units.load(Ordering::Relaxed), 100);
    }
}
