//! What `super::super::sync` has, of loom's.

use std::cell::Cell;
use std::collections::VecDeque;
use std::task::Waker;

use loom::sync::Mutex;
use loom::sync::atomic::Ordering;

pub(super) use loom::cell::UnsafeCell;
pub(super) use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, fence};
pub(super) use loom::thread::yield_now;

/// A list behind a lock. Its length is told by an atomic beside it and relaxed, so that whoever only asks for it learns
/// nothing else.
pub(super) struct ArrayQueue<T> {
    list: Mutex<VecDeque<T>>,
    len: AtomicUsize,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { list: Mutex::new(VecDeque::new()), len: AtomicUsize::new(0), capacity }
    }

    pub(super) fn push(&self, value: T) -> Result<(), T> {
        let mut list = self.list.lock().unwrap();
        if list.len() == self.capacity {
            return Err(value);
        }
        list.push_back(value);
        self.len.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn pop(&self) -> Option<T> {
        let mut list = self.list.lock().unwrap();
        let value = list.pop_front()?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }
}

/// A waker behind a lock.
#[derive(Default)]
pub(super) struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub(super) fn register(&self, waker: &Waker) {
        *self.0.lock().unwrap() = Some(waker.clone());
    }

    pub(super) fn wake(&self) {
        let waker = self.0.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

loom::thread_local! {
    /// Everybody begins with the same slot, so that they meet.
    static SLOT_HINT: Cell<usize> = Cell::new(0);
}

pub(super) fn slot_hint() -> usize {
    SLOT_HINT.with(Cell::get)
}

pub(super) fn set_slot_hint(slot: usize) {
    SLOT_HINT.with(|hint| hint.set(slot));
}
