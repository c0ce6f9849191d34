//! What the queue keeps and what it drops, within which memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use super::chunk::{CHUNK_BYTES, Chunk, SPAN_BYTES_MAX};
use super::queue::{Queue, QueueLimits, STOCK_CHUNKS};
use crate::span::Scope;
use crate::telemetry::{DropReason, Stats};

#[test]
fn a_span_that_comes_after_the_worker_looked_for_the_last_time_is_lost_and_counted() {
    let limits = QueueLimits { chunk_bytes_max: 1 << 20, live_bytes_max: 1 << 20, spans_max: None };
    let queue = Queue::new(limits, 1);
    let stats = || {
        let mut stats = Stats::default();
        queue.read(&mut stats);
        (stats.queued, stats.dropped.count(DropReason::ShutDown))
    };
    // Its thread finds the slot busy and the queue open; the worker ends before the span is there.
    queue.while_busy(|| {
        queue.put(&[1; 10], Scope::UNNAMED);
        assert_eq!(stats(), (1, 0));
    });
    let mut taken = 0;
    queue.abandon(|chunk| {
        taken += chunk.len();
        queue.recycle(chunk);
    });
    queue.release_memory();
    assert_eq!(taken, 1);
    queue.export.taken.add(1);
    queue.export.dropped.of(DropReason::ShutDown).add(1);
    queue.while_busy(|| queue.put(&[2; 10], Scope::UNNAMED));
    assert_eq!(stats(), (0, 2));
    assert_eq!(queue.memory().0, 0);
}

#[test]
fn the_worker_is_woken_before_the_chunks_that_are_put_by_run_out_and_while_there_may_be_more() {
    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let queue = queue(1 << 20, 1);
    queue.stock_up();
    let stock = queue.stock();
    // Nobody waits for chunks: a batch is on its way, and hangs.
    queue.wake_at(usize::MAX);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut taken = 0;
    while queue.memory().0 + Chunk::MEMORY <= 1 << 20 {
        queue.register(&waker);
        let before = woken.0.load(Ordering::Relaxed);
        let free = queue.stock();
        queue.put(&[7; CHUNK_BYTES / 2], Scope::UNNAMED);
        if queue.stock() < free {
            taken += 1;
        }
        if woken.0.load(Ordering::Relaxed) > before {
            assert_eq!(queue.stock(), stock / 2 - 1);
            queue.stock_up();
        }
    }
    assert!(taken > stock * 5, "{taken} chunks, none of them made by a request");
    // There can be no more: nobody is woken for nothing.
    let before = woken.0.load(Ordering::Relaxed);
    for _ in 0..100 {
        queue.register(&waker);
        queue.put(&[7; CHUNK_BYTES / 2], Scope::UNNAMED);
    }
    assert_eq!(woken.0.load(Ordering::Relaxed), before);
    assert_eq!(queue.memory().0 / Chunk::MEMORY, (1 << 20) / Chunk::MEMORY);
}

/// A queue of so many slots, and room for so many bytes of chunks.
fn queue(chunk_bytes_max: usize, slots: usize) -> Queue {
    Queue::new(QueueLimits { chunk_bytes_max, live_bytes_max: 1 << 20, spans_max: None }, slots)
}

/// The counts, which have to add up, and the spans taken.
fn take_all(queue: &Queue) -> Stats {
    let mut taken = 0;
    let mut take = |chunk: Box<Chunk>| {
        taken += chunk.len() as u64;
        queue.recycle(chunk);
    };
    while let Some(chunk) = queue.take_sealed() {
        take(chunk);
    }
    queue.take_open(&mut take);
    queue.export.taken.add(taken);
    queue.export.exported.add(taken);
    let mut stats = Stats::default();
    queue.read(&mut stats);
    assert!(stats.is_balanced(), "{stats}");
    assert_eq!(stats.queued, 0, "{stats}");
    stats
}

#[test]
fn as_many_large_spans_as_memory_holds_are_all_counted() {
    let queue = queue(1 << 20, 2);
    for _ in 0..300 {
        queue.put(&[7; CHUNK_BYTES], Scope::UNNAMED);
    }
    assert!(queue.memory().0 <= 1 << 20);
    let stats = take_all(&queue);
    assert!(stats.exported > 50, "{stats}");
    assert_eq!(queue.memory().0, 0);
}

#[test]
fn a_large_span_takes_the_memory_of_chunks_that_nobody_uses() {
    let queue = queue(200_000, 2);
    while {
        queue.put(&[7; 1000], Scope::UNNAMED);
        !queue.is_under_pressure()
    } {}
    for _ in 0..100 {
        queue.put(&[7; 1000], Scope::UNNAMED);
    }
    let before = take_all(&queue);
    assert!(!queue.is_under_pressure());
    queue.put(&[7; SPAN_BYTES_MAX], Scope::UNNAMED);
    assert!(!queue.is_under_pressure(), "nothing is in use but the one span");
    assert_eq!(take_all(&queue).exported, before.exported + 1);
}

#[test]
fn pressure_ends_where_nothing_is_in_use() {
    // Too little for one large span.
    let queue = queue(40_000, 2);
    queue.put(&[7; SPAN_BYTES_MAX], Scope::UNNAMED);
    assert_eq!(take_all(&queue).dropped.count(DropReason::QueueFull), 1);
    assert!(!queue.is_under_pressure());
    // Nor is it left behind by a thread that was slow to say so.
    queue.pretend_pressure();
    assert!(!queue.is_under_pressure());
}

#[test]
fn chunks_are_put_by_within_the_bound() {
    for (bytes, stock) in [(1 << 20, 6), (64 << 20, STOCK_CHUNKS), (0, 0)] {
        let queue = queue(bytes, 2);
        queue.stock_up();
        queue.stock_up();
        assert_eq!(queue.stock(), stock);
        assert_eq!(queue.memory().0, stock * Chunk::MEMORY);
        assert_eq!(queue.memory_at_rest().0, queue.memory().0);
        assert!(!queue.is_under_pressure());
    }
}

#[test]
fn open_chunks_leave_memory_for_the_spans_of_every_thread() {
    let queue = &queue(10 * Chunk::MEMORY, 64);
    for _ in 0..100 {
        std::thread::scope(|scope| {
            scope.spawn(|| queue.put(&[7; 100], Scope::UNNAMED));
        });
    }
    assert!(!queue.is_under_pressure());
    assert_eq!(take_all(queue).exported, 100);
}

#[test]
fn a_bound_beyond_all_memory_is_none() {
    let queue = queue(usize::MAX / 16 * 10, 2);
    queue.put(&[7; 100], Scope::UNNAMED);
    assert_eq!(take_all(&queue).exported, 1);
}

#[test]
fn chunks_end_with_a_trace_where_the_traces_are_small() {
    let queue = queue(1 << 20, 1);
    for _ in 0..100 {
        for size in [150, 90, 200, 170, 130] {
            queue.put(&vec![7; size], Scope::UNNAMED);
        }
        queue.put_one(&[7; 300], Scope::UNNAMED, true);
    }
    let mut chunks = 0;
    while let Some(chunk) = queue.take_sealed() {
        assert!(chunk.frame(chunk.len() - 1).unwrap().local_root);
        assert!(chunk.bytes() > CHUNK_BYTES * 3 / 4, "little is left empty: {}", chunk.bytes());
        chunks += 1;
    }
    assert!(chunks > 5);
}
