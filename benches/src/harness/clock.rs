//! CPU time: what was worked, however often others had the processor meanwhile.

/// The CPU time of this thread so far, in nanoseconds.
pub(crate) fn thread_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The CPU time of all threads of this process so far, in nanoseconds.
pub(crate) fn process_ns() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the call, which keeps nothing of it.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "Linux has both clocks");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
