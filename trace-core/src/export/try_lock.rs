//! A lock that is only ever tried: taken by one exchange, given back by one store.
//!
//! A mutex has to know whether somebody sleeps for it, so that giving it back is an exchange too, which takes as long as
//! writing the attributes of a span. Nobody ever sleeps for this one.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// A value that one thread at a time may look at.
#[derive(Default)]
pub(crate) struct TryLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by nobody but the holder of the one guard, so that sharing the lock is handing the value from
// thread to thread.
unsafe impl<T: Send> Sync for TryLock<T> {}

impl<T> TryLock<T> {
    /// The value, if nobody has it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<TryLockGuard<'_, T>> {
        // Looked at first: who only looks does not take the cache line away from the holder.
        let held = self.held.load(Ordering::Relaxed) || self.held.swap(true, Ordering::Acquire);
        if held {
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
pub(crate) struct TryLockGuard<'a, T> {
    lock: &'a TryLock<T>,
    /// A guard is shared between threads only where its value may be.
    exclusive: PhantomData<&'a mut T>,
}

impl<T> Deref for TryLockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: there is one guard at a time, and this is it; it is borrowed as long as the reference lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for TryLockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and it is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for TryLockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: what was done to the value is seen by the next holder.
        self.lock.held.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let lock = TryLock::<u32>::default();
        let first = lock.try_lock().expect("nobody has it");
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none(), "looking leaves it as it is");
        drop(first);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn a_panic_gives_it_back() {
        let lock = TryLock::<u32>::default();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut value = lock.try_lock().expect("nobody has it");
            *value = 7;
            std::panic::resume_unwind(Box::new("on purpose"));
        }));
        assert!(panic.is_err());
        assert_eq!(lock.try_lock().as_deref(), Some(&7));
    }

    #[test]
    fn no_change_is_lost_among_threads() {
        let lock = TryLock::<u64>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut done = 0;
                    while done < 10_000 {
                        if let Some(mut value) = lock.try_lock() {
                            *value += 1;
                            done += 1;
                        }
                    }
                });
            }
        });
        assert_eq!(lock.try_lock().as_deref(), Some(&40_000));
    }
}
