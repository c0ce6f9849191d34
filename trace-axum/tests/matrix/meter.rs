//! An allocator that counts: what is allocated for requests, and what is alive in the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) struct Meter;

thread_local! {
    /// Where this thread's allocations are put down, if they are.
    static LEDGER: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
}

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// This thread's allocations are put down there, for as long as this lives.
pub(crate) fn charge(ledger: &'static AtomicU64) -> Charge {
    Charge(LEDGER.replace(Some(ledger)))
}

pub(crate) struct Charge(Option<&'static AtomicU64>);

impl Drop for Charge {
    fn drop(&mut self) {
        LEDGER.set(self.0);
    }
}

/// The bytes that are allocated now.
pub(crate) fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// The most bytes that were allocated at a time since the last call, and now counts anew.
pub(crate) fn take_peak() -> usize {
    PEAK.swap(live(), Ordering::Relaxed)
}

fn count(grown: usize, shrunk: usize) {
    // A thread whose locals are gone serves nobody.
    let _ = LEDGER.try_with(|ledger| {
        if let Some(ledger) = ledger.get() {
            ledger.fetch_add(1, Ordering::Relaxed);
        }
    });
    let live = LIVE
        .fetch_add(grown.wrapping_sub(shrunk), Ordering::Relaxed)
        .wrapping_add(grown)
        .wrapping_sub(shrunk);
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's contract is ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's contract is ours.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size, layout.size());
        // SAFETY: the caller's contract is ours.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is ours.
        unsafe { System.dealloc(memory, layout) }
    }
}
