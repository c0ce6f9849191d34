//! The same queue, made of loom's atomics, in every order that threads may come in, and with every value that the memory
//! model lets them see: no span is lost, none is taken twice, nothing waits for anybody, and no wake-up is missed.
//!
//! The rings are assumed to be what their crate says (`crossbeam-queue`; `ring` puts it under load): here they are lists behind a lock, whose lengths are read past it, so that nobody is told
//! more than he would be. So is the waker, which is a flag to wait for. Counters are the production code's own: loom sees
//! what they come to, and not how they are written, which is the lock's business (`try_lock::model`).

#[path = "../queue.rs"]
#[expect(clippy::duplicate_mod, reason = "it is the same queue, made of something else")]
#[allow(dead_code, reason = "the models need a part of it")]
mod queue;
mod ring;
mod sync;
mod try_lock;

use std::task::Wake;

use loom::sync::Arc;
use loom::thread;

use self::queue::{Queue, QueueLimits};
use super::chunk;
use crate::span::Scope;
use crate::telemetry::{DropReason, Stats};

/// A span that fills a chunk, so that the next one seals it.
fn span(number: u8) -> Vec<u8> {
    vec![number; chunk::CHUNK_BYTES / 2 + 1]
}

fn put(queue: &Queue, spans: &[u8]) {
    spans.iter().for_each(|number| queue.put(&span(*number), Scope::UNNAMED));
}

/// A queue of so many slots, with memory for so many chunks.
fn queue(slots: usize, chunks: usize) -> Arc<Queue> {
    let chunk_bytes_max = chunks * chunk::Chunk::MEMORY;
    Arc::new(Queue::new(QueueLimits { chunk_bytes_max, live_bytes_max: 1 << 20, spans_max: None }, slots))
}

/// All orders in which a thread is interrupted so often and no more: the others take minutes.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// The worker's part: takes spans, and remembers which.
#[derive(Default)]
struct Taken(Vec<u8>);

impl Taken {
    fn take(&mut self, queue: &Queue, chunk: Box<chunk::Chunk>) {
        self.0.extend(chunk.frames().map(|frame| frame.span()[0]));
        queue.export.taken.add(chunk.len() as u64);
        queue.export.exported.add(chunk.len() as u64);
        queue.recycle(chunk);
    }

    fn sealed(&mut self, queue: &Queue) {
        while let Some(chunk) = queue.take_sealed() {
            self.take(queue, chunk);
        }
    }

    fn all(&mut self, queue: &Queue) {
        self.sealed(queue);
        queue.take_open(|chunk| self.take(queue, chunk));
    }

    /// At rest, these spans were taken, each once, and the counts say the same; so many were dropped.
    fn settle(mut self, queue: &Queue, put: u64, reason: DropReason) -> Vec<u8> {
        self.0.sort_unstable();
        let stats = stats(queue);
        assert!(stats.is_balanced(), "{stats}");
        assert_eq!((stats.started, stats.queued), (put, 0), "{stats}");
        assert_eq!(stats.exported, self.0.len() as u64, "{stats}");
        assert_eq!(stats.exported + stats.dropped.count(reason), put, "{stats}");
        assert_eq!(queue.memory(), queue.memory_at_rest(), "what is accounted for is what there is");
        let mut once = self.0.clone();
        once.dedup();
        assert_eq!(once, self.0, "a span was taken twice");
        self.0
    }
}

fn stats(queue: &Queue) -> Stats {
    let mut stats = Stats::default();
    queue.read(&mut stats);
    stats
}

#[test]
fn every_span_is_taken_once_whoever_comes_when() {
    check(1, || {
        let queue = queue(1, 8);
        let puts = [&[1, 2][..], &[3]].map(|spans| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || put(&queue, spans))
        });
        let mut taken = Taken::default();
        taken.all(&queue);
        for put in puts {
            put.join().unwrap();
        }
        taken.all(&queue);
        assert_eq!(taken.settle(&queue, 3, DropReason::QueueFull), [1, 2, 3]);
    });
}

#[test]
fn where_memory_is_short_a_span_is_dropped_and_none_is_lost_without_a_word() {
    check(1, || {
        let queue = queue(1, 2);
        let puts = [&[1, 2][..], &[3]].map(|spans| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || put(&queue, spans))
        });
        let mut taken = Taken::default();
        taken.all(&queue);
        assert!(queue.memory().0 <= 3 * chunk::Chunk::MEMORY, "one more is asked for, and given back");
        for put in puts {
            put.join().unwrap();
        }
        taken.all(&queue);
        assert!(queue.memory().0 <= 2 * chunk::Chunk::MEMORY);
        assert!(taken.settle(&queue, 3, DropReason::QueueFull).len() >= 2);
    });
}

/// What wakes the worker.
struct Bell(loom::sync::Notify);

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

#[test]
fn a_worker_that_waits_for_a_chunk_is_woken_when_it_is_there() {
    check(2, || {
        let queue = queue(2, 8);
        // It was busy, and wanted to hear of nothing.
        queue.wake_at(usize::MAX);
        let other = Arc::clone(&queue);
        // The second span seals the first one's chunk.
        let puts = thread::spawn(move || put(&other, &[1, 2]));
        let bell = std::sync::Arc::new(Bell(loom::sync::Notify::new()));
        let waker = bell.clone().into();
        loop {
            queue.register(&waker);
            if queue.wake_at(1) {
                break;
            }
            // Loom fails here where everybody else is done and nobody has woken the worker.
            bell.0.wait();
        }
        let mut taken = Taken::default();
        taken.sealed(&queue);
        assert_eq!(taken.0, [1], "it is there");
        puts.join().unwrap();
        taken.all(&queue);
        assert_eq!(taken.settle(&queue, 2, DropReason::QueueFull), [1, 2]);
    });
}

#[test]
fn a_span_that_ends_while_the_queue_is_closed_is_taken_or_counted_as_lost() {
    check(1, || {
        let queue = queue(1, 8);
        let puts = [[1], [2]].map(|spans| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || put(&queue, &spans))
        });
        // As the worker ends.
        let mut taken = Taken::default();
        queue.close();
        taken.sealed(&queue);
        queue.abandon(|chunk| taken.take(&queue, chunk));
        for put in puts {
            put.join().unwrap();
        }
        // Nobody looks any more.
        assert!(queue.take_sealed().is_none());
        queue.take_open(|_| panic!("a span was left behind"));
        taken.settle(&queue, 2, DropReason::ShutDown);
    });
}

#[test]
fn a_span_that_finds_every_slot_busy_waits_for_none_of_them() {
    check(3, || {
        let queue = queue(2, 8);
        let other = Arc::clone(&queue);
        // Whoever holds the slots waits for the one who puts spans: if that one waited for a slot, both would for ever.
        queue.while_busy(|| thread::spawn(move || put(&other, &[1, 2])).join().unwrap());
        let mut taken = Taken::default();
        taken.all(&queue);
        assert_eq!(taken.settle(&queue, 2, DropReason::QueueFull), [1, 2]);
    });
}
