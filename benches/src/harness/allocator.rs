//! What the working thread allocates, and what the whole process does, counted exactly.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The system's allocator with a count of the allocations of each thread, while anybody counts.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by whoever counts, because there is one count for all.
static COUNTER: Mutex<()> = Mutex::new(());

/// Off while time is measured: then an allocation costs one load more than without this allocator.
static COUNTING: AtomicBool = AtomicBool::new(false);

/// Those of all threads, while anybody counts.
static ALL_NUMBER: AtomicU64 = AtomicU64::new(0);
static ALL_BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNT: Cell<Allocations> = const { Cell::new(Allocations { number: 0, bytes: 0 }) };
}

/// Allocations and their bytes; growing a block counts as one of the new size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allocations {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
}

/// What this thread allocates while it does the work.
pub(crate) fn count(work: impl FnOnce()) -> Allocations {
    let _counter = COUNTER.lock().unwrap_or_else(PoisonError::into_inner);
    COUNT.set(Allocations::default());
    COUNTING.store(true, Ordering::Relaxed);
    work();
    COUNTING.store(false, Ordering::Relaxed);
    COUNT.get()
}

/// What all threads allocate while this one makes something and then has it sent, less what the making allocated here.
pub(crate) fn count_sending(make: impl FnOnce(), send: impl FnOnce()) -> Allocations {
    let _counter = COUNTER.lock().unwrap_or_else(PoisonError::into_inner);
    ALL_NUMBER.store(0, Ordering::Relaxed);
    ALL_BYTES.store(0, Ordering::Relaxed);
    COUNT.set(Allocations::default());
    COUNTING.store(true, Ordering::Relaxed);
    make();
    let made = COUNT.get();
    send();
    COUNTING.store(false, Ordering::Relaxed);
    Allocations {
        number: ALL_NUMBER.load(Ordering::Relaxed) - made.number,
        bytes: ALL_BYTES.load(Ordering::Relaxed) - made.bytes,
    }
}

impl Counting {
    #[inline]
    fn note(size: usize) {
        if COUNTING.load(Ordering::Relaxed) {
            ALL_NUMBER.fetch_add(1, Ordering::Relaxed);
            ALL_BYTES.fetch_add(size as u64, Ordering::Relaxed);
            // A thread whose locals are gone is not the one that works.
            let _ = COUNT.try_with(|count| {
                let Allocations { number, bytes } = count.get();
                count.set(Allocations { number: number + 1, bytes: bytes + size as u64 });
            });
        }
    }
}

// SAFETY: every call is handed to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_one_allocation_of_its_size() {
        let mut kept = None;
        assert_eq!(count(|| kept = Some(Box::new([1u64; 4]))), Allocations { number: 1, bytes: 32 });
        assert!(kept.is_some());
    }

    #[test]
    fn what_other_threads_allocate_belongs_to_the_sending() {
        let sent = || {
            let thread = std::thread::spawn(|| drop(std::hint::black_box(vec![0u8; 1 << 20])));
            thread.join().expect("it only allocates");
        };
        let allocations = count_sending(|| drop(std::hint::black_box(vec![0u8; 1 << 24])), sent);
        // Other tests run meanwhile.
        assert!(allocations.bytes >= 1 << 20 && allocations.number >= 1);
    }
}
