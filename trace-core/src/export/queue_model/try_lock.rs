//! The lock of the slots, of loom's.

use super::sync;

#[path = "../try_lock/lock.rs"]
#[expect(clippy::duplicate_mod, reason = "it is the same lock, made of something else")]
mod lock;

pub(super) use lock::{TryLock, TryLockGuard};
