//! Where the time goes: samples of the thread's stack, taken by perf.
//!
//! The event is the kernel's own clock, which is there in virtual machines too. Stacks are unwound by the tables that panics need,
//! so that the program is the one that is measured everywhere else.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::process::Command;

use super::stack::{Place, Resolver, Stacks};

/// Samples a second. More of them disturb what they measure, because each copies the stack.
const RATE: &str = "1999";

/// Enough of the stack for everything between a request and the deepest call in it.
const STACK_BYTES: &str = "dwarf,8192";

/// Runs a program under perf: its samples by their stacks.
pub(crate) fn sample(program: &Command, resolver: &Resolver) -> Result<Stacks, Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("flame.{}.perf", std::process::id()));
    let mut record = Command::new("perf");
    record.args(["record", "--quiet", "--event=cpu-clock:u", "--freq", RATE, "--call-graph", STACK_BYTES]);
    record.arg("--output").arg(&file).arg(program.get_program()).args(program.get_args());
    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "--fields=ip,sym,dso", "--input"]).arg(&file);
    let script = super::output_of(&mut record).and_then(|_| super::output_of(&mut script));
    // It is large, and it may not be there.
    fs::remove_file(&file).ok();
    let name = program.get_program().to_string_lossy();
    Ok(stacks(&script?, &name, |offset| resolver.address(offset)))
}

/// Reads what `perf script` prints: a block of lines for each sample, each line an address, a name and a file.
fn stacks(script: &str, program: &str, address: impl Fn(u64) -> Option<u64>) -> Stacks {
    let mut stacks = HashMap::new();
    for block in script.split("\n\n") {
        let mut stack = Vec::new();
        for line in block.lines() {
            let Some(place) = place(line, program, &address, stack.is_empty()) else { continue };
            stack.push(place);
        }
        if !stack.is_empty() {
            *stacks.entry(stack).or_insert(0.0) += 1.0;
        }
    }
    stacks
}

fn place(
    line: &str,
    program: &str,
    address: impl Fn(u64) -> Option<u64>,
    is_innermost: bool,
) -> Option<Place> {
    let (offset, rest) = line.trim().split_once(' ')?;
    let (name, file) = rest.rsplit_once(" (")?;
    if file.trim_end_matches(')') != program {
        return Some(Place::Elsewhere(name.to_owned()));
    }
    let offset = u64::from_str_radix(offset, 16).ok()?;
    // A caller is told by where the call returns to, which may be another line.
    address(offset - u64::from(!is_innermost)).map(Place::Here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_counted_by_their_stacks() {
        let script = "\
\t           98a9a malloc (/usr/lib/libc.so.6)
\t          29aa83 <A<K,V> as B>::clone (x) (/a/benches)
\tffffffffffffffff [unknown] ([unknown])

\t          29aa83 main (/a/benches)

\t          29aa83 main (/a/benches)
";
        let stacks = stacks(script, "/a/benches", |offset| Some(offset + 0x1000));
        let elsewhere = |name: &str| Place::Elsewhere(name.to_owned());
        let call = vec![elsewhere("malloc"), Place::Here(0x29_ba82), elsewhere("[unknown]")];
        assert_eq!(stacks, HashMap::from([(call, 1.0), (vec![Place::Here(0x29_ba83)], 2.0)]));
    }
}
