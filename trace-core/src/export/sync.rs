//! What the queue is made of, in the shape in which loom has it: `queue_model` makes the same queue of loom's.

use std::cell::Cell;

pub(super) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering, fence};
pub(super) use std::thread::yield_now;

pub(super) use atomic_waker::AtomicWaker;
pub(super) use crossbeam_queue::ArrayQueue;

thread_local! {
    /// The slot that this thread tries first: threads get them in turn, and move on when they meet.
    static SLOT_HINT: Cell<usize> = const { Cell::new(usize::MAX) };
}

static NEXT_HINT: AtomicUsize = AtomicUsize::new(0);

#[inline]
pub(super) fn slot_hint() -> usize {
    SLOT_HINT
        .try_with(|hint| {
            if hint.get() == usize::MAX {
                // Never `usize::MAX` itself: the counter would have to pass every other number first.
                hint.set(NEXT_HINT.fetch_add(1, Ordering::Relaxed));
            }
            hint.get()
        })
        .unwrap_or(0)
}

/// A thread whose locals are gone tries the first slot each time.
#[inline]
pub(super) fn set_slot_hint(slot: usize) {
    let _ = SLOT_HINT.try_with(|hint| hint.set(slot));
}
