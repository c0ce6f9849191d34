//! Which processors this thread may use, so that a server and its load do not take them from each other.

use std::io;
use std::mem;

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
        let pinned = std::thread::spawn(|| {
            let processor = *available().last().unwrap();
            pin(processor).unwrap();
            (processor, available())
        });
        let (processor, left) = pinned.join().unwrap();
        assert_eq!(left, [processor]);
        assert!(pin(usize::MAX).is_err());
    }
}
