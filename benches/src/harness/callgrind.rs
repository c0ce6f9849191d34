//! Instructions, counted by valgrind's callgrind: they do not drift with the machine's load.

use std::path::Path;
use std::process::Command;

/// Does the work while callgrind counts. The name is what [`command`] asks callgrind to look for.
#[inline(never)]
pub(crate) fn collected(work: &mut dyn FnMut()) {
    work();
    // Without something after the call it would become a jump, and callgrind would miss the end.
    std::hint::black_box(());
}

/// Whether valgrind is here.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("valgrind").arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok().map(|version| version.trim().to_owned())
}

/// A command that runs `program` under callgrind, which counts nothing but the thread that is inside [`collected`],
/// and writes where the instructions went to `out`, in more detail if there are options for it.
pub(crate) fn command(program: &Path, out: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no"]).args(options);
    command.arg("--toggle-collect=*callgrind::collected*");
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(program);
    command
}

/// The number of instructions that callgrind says it counted.
pub(crate) fn instructions(stderr: &str) -> Option<u64> {
    stderr.lines().rev().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_valgrind_says() {
        let stderr = "==7== Events    : Ir\n==7== Collected : 1234\n==7== \n";
        assert_eq!(instructions(stderr), Some(1234));
        assert_eq!(instructions("==7== nothing"), None);
    }
}
