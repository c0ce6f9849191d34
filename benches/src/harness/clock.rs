//! CPU time: what was worked, however often others had the processor meanwhile.

use std::io;

/// The CPU time of this thread so far, in nanoseconds.
pub(crate) fn thread_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The CPU time of all threads of this process so far, in nanoseconds.
pub(crate) fn process_ns() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The CPU time of all threads of another process so far, in nanoseconds.
///
/// # Errors
/// When the process is gone.
pub(crate) fn process_ns_of(process: u32) -> io::Result<u64> {
    let mut clock = 0;
    // SAFETY: `clock` is writable for the call, which keeps nothing of it.
    let error = unsafe { libc::clock_getcpuclockid(process as libc::pid_t, &mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    try_read(clock)
}

fn read(clock: libc::clockid_t) -> u64 {
    try_read(clock).expect("Linux has both clocks")
}

fn try_read(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the call, which keeps nothing of it.
    match unsafe { libc::clock_gettime(clock, &mut time) } {
        0 => Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_the_same_time_for_others() {
        let before = process_ns();
        let others = process_ns_of(std::process::id()).unwrap();
        assert!((before..=process_ns()).contains(&others));
        // One more than the highest that Linux gives.
        assert!(process_ns_of((1 << 22) + 1).is_err());
    }
}
