//! The lock itself, made of whatever `super::sync` is.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

use super::sync::{AtomicBool, UnsafeCell};

/// A value that one thread at a time may look at.
#[derive(Default)]
pub(in crate::export) struct TryLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by nobody but the holder of the one guard, so that sharing the lock is handing the value from
// thread to thread.
unsafe impl<T: Send> Sync for TryLock<T> {}

impl<T> TryLock<T> {
    /// The value, if nobody has it.
    #[inline]
    pub(in crate::export) fn try_lock(&self) -> Option<TryLockGuard<'_, T>> {
        // Looked at first: who only looks does not take the cache line away from the holder.
        let is_free = !self.held.load(Ordering::Relaxed);
        let is_ours =
            is_free && self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !is_ours {
            // No guard may come into being here, because its end would give the lock back.
            return None;
        }
        Some(TryLockGuard { lock: self, exclusive: PhantomData })
    }
}

impl<T> fmt::Debug for TryLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryLock").field("held", &self.held).finish_non_exhaustive()
    }
}

/// The value of a [`TryLock`], until this is dropped, also by a panic.
#[must_use = "the lock is given back when this is dropped"]
pub(in crate::export) struct TryLockGuard<'a, T> {
    lock: &'a TryLock<T>,
    /// A guard is shared between threads only where its value may be.
    exclusive: PhantomData<&'a mut T>,
}

impl<T> Deref for TryLockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: there is one guard at a time, and this is it; it is borrowed as long as the reference lives.
        self.lock.value.with(|value| unsafe { &*value })
    }
}

impl<T> DerefMut for TryLockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and it is borrowed exclusively.
        self.lock.value.with_mut(|value| unsafe { &mut *value })
    }
}

impl<T> Drop for TryLockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: what was done to the value is seen by the next holder.
        self.lock.held.store(false, Ordering::Release);
    }
}
