//! A process of this program that works beside the runner, and that can be spoken with line by line.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::{clock, memory};

/// The process. It is stopped when this is dropped.
pub(crate) struct Running {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Running {
    /// Starts this program again with other arguments.
    pub(crate) fn start(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let said = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, said: BufReader::new(said) })
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// When it ends instead; why, it says on the error output.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.said.read_line(&mut line)? {
            0 => Err(io::Error::other("a measured process ended early")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// The next line that it says, which is so many numbers.
    ///
    /// # Errors
    /// When it is anything else.
    pub(crate) fn numbers<const N: usize>(&mut self) -> io::Result<[f64; N]> {
        numbers(&self.line()?)
    }

    /// Says a line, and waits for one.
    pub(crate) fn ask(&mut self, line: &str) -> io::Result<String> {
        let orders = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(orders, "{line}")?;
        self.line()
    }

    /// Says a line, and waits for one of so many numbers.
    ///
    /// # Errors
    /// When it is anything else.
    pub(crate) fn ask_numbers<const N: usize>(&mut self, line: &str) -> io::Result<[f64; N]> {
        numbers(&self.ask(line)?)
    }

    /// Its CPU time so far, user and system, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> io::Result<u64> {
        clock::process_ns_of(self.child.id())
    }

    /// The CPU time so far of those of its threads that have this name, in nanoseconds.
    pub(crate) fn threads_ns(&self, name: &str) -> io::Result<u64> {
        let mut all = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let thread = thread?.path();
            // One that ends meanwhile has no files any more.
            let read = |file| fs::read_to_string(thread.join(file)).unwrap_or_default();
            if read("comm").trim_end() == name {
                all += first_number(&read("schedstat")).unwrap_or(0);
            }
        }
        Ok(all)
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        memory::resident_bytes(self.child.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of `schedstat`: the time on a processor.
fn first_number(line: &str) -> Option<u64> {
    line.split_whitespace().next()?.parse().ok()
}

fn numbers<const N: usize>(line: &str) -> io::Result<[f64; N]> {
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().map_err(|_| io::Error::other(format!("a measured process said {line:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_numbers() {
        assert_eq!(numbers("1 2.5  3").unwrap(), [1.0, 2.5, 3.0]);
        assert!(numbers::<2>("1 two").is_err());
        assert!(numbers::<1>("1 2").is_err());
    }

    #[test]
    fn a_threads_time_is_the_first_number() {
        assert_eq!(first_number("226042000 14110 7\n"), Some(226_042_000));
        assert_eq!(first_number(""), None);
    }
}
