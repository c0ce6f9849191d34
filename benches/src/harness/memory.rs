//! The memory of a process, as the kernel and the allocator tell it.

use std::fs;

/// Its pages in memory now, in bytes; 0 for one that is gone.
pub(crate) fn resident_bytes(process: u32) -> u64 {
    status_bytes(process, "VmRSS")
}

/// The most that this process ever had in memory, in bytes.
pub(crate) fn peak_bytes() -> u64 {
    status_bytes(std::process::id(), "VmHWM")
}

/// What this process's allocator has given out and not got back, in bytes, where the C library tells.
#[cfg(target_env = "gnu")]
pub(crate) fn live_bytes() -> u64 {
    // SAFETY: it takes nothing, and returns numbers.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn live_bytes() -> u64 {
    0
}

fn status_bytes(process: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    field_kib(&status, name).unwrap_or(0) * 1024
}

fn field_kib(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "Name:\tbenches\nVmRSSes:\t1 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(field_kib(status, "VmRSS"), Some(2048));
        assert_eq!(field_kib(status, "Vm"), None);
        assert_eq!(field_kib(status, "Name"), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_bytes(std::process::id()) > 0);
        assert!(peak_bytes() > 0);
    }
}
