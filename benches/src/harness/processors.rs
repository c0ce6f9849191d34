//! Which processors this thread may use, so that what is measured and what is beside it do not take them from each other.

use std::io;
use std::mem;
use std::panic;
use std::thread;

/// Those that this thread may use now.
pub(crate) fn available() -> Vec<usize> {
    let mut set = empty();
    // SAFETY: `set` is writable for the call and as large as is said.
    let result = unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) };
    if result != 0 {
        return Vec::new();
    }
    // SAFETY: the numbers are below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|&processor| unsafe { libc::CPU_ISSET(processor, &set) }).collect()
}

/// One for all that is beside what is measured, and another one for that; nothing where there is one alone.
pub(crate) fn apart() -> Option<[usize; 2]> {
    available().first_chunk().copied()
}

/// Does something on a thread that stays on a processor, if one is given, as does all that it starts. The caller's own thread goes on
/// everywhere.
///
/// # Errors
/// Those of the work, and when the system does not let it.
pub(crate) fn on<T: Send>(
    processor: Option<usize>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let pinned = || {
        if let Some(processor) = processor {
            pin(processor)?;
        }
        work()
    };
    thread::scope(|scope| scope.spawn(pinned).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// Keeps this thread, and all that it starts from now on, on one processor.
///
/// # Errors
/// When the system does not let it.
pub(crate) fn pin(processor: usize) -> io::Result<()> {
    let mut set = empty();
    if processor >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is below the set's size.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: `set` is readable for the call and as large as is said.
    match unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn empty() -> libc::cpu_set_t {
    // SAFETY: it is an array of numbers, for which zeros are the empty set.
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_processor() {
        let before = available();
        let processor = *before.last().unwrap();
        let left = on(Some(processor), || Ok((available(), thread::spawn(available).join().unwrap())));
        assert_eq!(left.unwrap(), (vec![processor], vec![processor]));
        assert_eq!(on(None, || Ok(available())).unwrap(), before);
        assert_eq!(available(), before);
        assert!(on(Some(usize::MAX), || Ok(())).is_err());
        assert!(pin(usize::MAX).is_err());
    }
}
