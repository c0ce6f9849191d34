//! A disk that misbehaves on command, for tests.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::Operation;

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskFault {
    /// Nothing.
    #[default]
    None,
    /// There is no space: a write ends in the middle of a file, with an error.
    Full,
    /// What is there can be read, and nothing can be changed.
    ReadOnly,
    /// Nothing can be read either.
    Broken,
    /// Each call takes this long.
    Slow(Duration),
    /// No call returns, until something else is told.
    Hang,
    /// A write ends in the middle of a file and says that all is well, as after a power cut.
    Torn,
}

/// A handle to what is wrong with the disk of a spool; clones are handles to the same.
///
/// ```
/// use trace_core::config::SpoolConfig;
/// use trace_core::testing::{DiskFault, DiskFaults};
///
/// let faults = DiskFaults::default();
/// let spool = SpoolConfig::new("/var/spool/traces").with_faults(faults.clone());
/// // ... give the configuration to a pipeline ...
/// faults.behave(DiskFault::Full);
/// ```
#[derive(Clone, Debug, Default)]
pub struct DiskFaults(Arc<(Mutex<DiskFault>, Condvar)>);

/// While it is held, nothing else becomes wrong with the disk.
pub(super) type Permit<'a> = MutexGuard<'a, DiskFault>;

/// What becomes of an operation.
pub(super) enum Verdict {
    Do,
    /// A half of it, without a word.
    DoHalf,
    /// A half of it, and an error.
    Fail(io::Error),
}

impl DiskFaults {
    /// From now on, this is wrong with the disk. A call that is under way ends first.
    pub fn behave(&self, fault: DiskFault) {
        let (current, changed) = &*self.0;
        *current.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        changed.notify_all();
    }

    /// What becomes of an operation now, and a permit to be held while it is carried out. It may take its time.
    pub(super) fn judge(&self, operation: Operation) -> (Verdict, Permit<'_>) {
        let (current, changed) = &*self.0;
        let lock = || current.lock().unwrap_or_else(PoisonError::into_inner);
        if let DiskFault::Slow(delay) = { *lock() } {
            std::thread::sleep(delay);
        }
        let permit = changed
            .wait_while(lock(), |fault| *fault == DiskFault::Hang)
            .unwrap_or_else(PoisonError::into_inner);
        let fail = |kind: io::ErrorKind| Verdict::Fail(kind.into());
        let verdict = match (*permit, operation) {
            (DiskFault::Full, Operation::Write) => fail(io::ErrorKind::StorageFull),
            (DiskFault::ReadOnly, Operation::Change | Operation::Write) => {
                fail(io::ErrorKind::ReadOnlyFilesystem)
            }
            (DiskFault::Broken, _) => fail(io::ErrorKind::Other),
            (DiskFault::Torn, Operation::Write) => Verdict::DoHalf,
            _ => Verdict::Do,
        };
        (verdict, permit)
    }
}
