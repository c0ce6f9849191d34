//! Which threads are our own.
//!
//! The libraries that carry spans to a collector are instrumented themselves: a span made for each request that exports spans would
//! never end. What they do happens on threads of the worker's runtime, which are marked here, and is not looked at.

use std::cell::Cell;

thread_local! {
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one of the worker's, for good.
#[cfg_attr(not(test), allow(dead_code, reason = "for the worker's threads"))]
pub(crate) fn mark_worker_thread() {
    IS_OURS.set(true);
}

/// Whether this thread is one of the worker's.
#[inline]
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "asked by those who listen to libraries"))]
pub(crate) fn is_worker_thread() -> bool {
    // A thread whose locals are gone is at its end, and makes no spans.
    IS_OURS.try_with(Cell::get).unwrap_or(true)
}
