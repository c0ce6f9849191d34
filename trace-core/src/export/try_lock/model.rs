//! The same lock, made of loom's atomics and cells, in every order that threads may come in, and with every value that the
//! memory model lets them see.
//!
//! The file is taken in a second time, instead of being built for `cfg(loom)`: that name changes our dependencies as well
//! (tokio has no sockets then), and would have all of them built once more. So it is checked by every `cargo test`.

use loom::sync::Arc;
use loom::thread;

use lock::TryLock;

#[expect(clippy::duplicate_mod, reason = "it is the same lock, made of something else")]
#[path = "lock.rs"]
mod lock;

mod sync {
    pub(super) use loom::cell::UnsafeCell;
    pub(super) use loom::sync::atomic::AtomicBool;
}

#[test]
fn whoever_has_the_lock_is_alone_and_sees_what_was_done_before() {
    /// Counts, if nobody else does, and tells from where.
    fn count(lock: &TryLock<u32>) -> Option<u32> {
        // Loom fails here where somebody else has the value, or where what he did to it may not be seen yet.
        let mut value = lock.try_lock()?;
        *value += 1;
        Some(*value)
    }

    let mut model = loom::model::Builder::new();
    // All of it takes five seconds, and minutes under AddressSanitizer: a thread is interrupted so often and no more.
    model.preemption_bound = Some(3);
    model.check(|| {
        let lock = Arc::new(TryLock::<u32>::default());
        let others = [Arc::clone(&lock), Arc::clone(&lock)].map(|lock| thread::spawn(move || count(&lock)));
        let mut counted = vec![count(&lock)];
        counted.extend(others.map(|other| other.join().unwrap()));
        let mut counted: Vec<_> = counted.into_iter().flatten().collect();
        counted.sort_unstable();
        // That the lock is free by now, loom does not know: to it, a swap that failed may still come after the lock was given
        // back, although it follows the very value that it read.
        assert!(matches!(counted[..], [1] | [1, 2] | [1, 2, 3]), "{counted:?}");
    });
}

#[test]
fn a_lock_that_is_held_stays_so_however_often_it_is_tried() {
    loom::model(|| {
        let lock = Arc::new(TryLock::<u32>::default());
        let mut value = lock.try_lock().expect("nobody has it");
        let others = [Arc::clone(&lock), Arc::clone(&lock)]
            .map(|lock| thread::spawn(move || lock.try_lock().is_some()));
        *value = 7;
        for other in others {
            assert!(!other.join().unwrap());
        }
        assert!(lock.try_lock().is_none());
        drop(value);
        assert_eq!(lock.try_lock().as_deref(), Some(&7));
    });
}

#[test]
fn a_lock_that_was_given_back_can_be_taken_by_whoever_knows_it() {
    loom::model(|| {
        let lock = Arc::new(TryLock::<u32>::default());
        let other = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || *lock.try_lock().expect("nobody has it") = 7)
        };
        other.join().unwrap();
        assert_eq!(lock.try_lock().as_deref(), Some(&7));
    });
}
