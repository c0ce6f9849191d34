//! Where the instructions go: exact counts for each address, by callgrind.
//!
//! Callgrind tells apart by whom a function was called, through all callers, but not from which of several places in the
//! same caller: there the counts are shared out as those places' totals are.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::stack::{Place, Stacks};
use crate::harness::{callgrind_command, instructions};

/// Deeper than a request goes.
const CALLERS: &str = "--separate-callers=60";

/// So often can a function be inside itself before its calls are no longer told apart: futures poll futures.
const RECURSIONS: &str = "--separate-recs=8";

/// Runs a program under callgrind: its instructions by their stacks.
pub(crate) fn count(program: &Command) -> Result<Stacks, Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("flame.{}.callgrind", std::process::id()));
    let path = program.get_program().to_string_lossy().into_owned();
    let mut command = callgrind_command(Path::new(&path), &file, &["--dump-instr=yes", CALLERS, RECURSIONS]);
    let told = super::errors_of(command.args(program.get_args()))
        .and_then(|errors| Ok((errors, fs::read_to_string(&file)?)));
    fs::remove_file(&file).ok();
    let (errors, profile) = told?;
    let stacks = Graph::read(&profile, &path).stacks();
    let (all, told) = (stacks.values().sum::<f64>(), instructions(&errors).unwrap_or_default() as f64);
    if (all - told).abs() > told * 0.01 {
        return Err(format!("{told} instructions were counted, and {all} were found in the profile").into());
    }
    Ok(stacks)
}

/// Functions by the numbers that callgrind gives them, one for each chain of callers.
#[derive(Debug, Default, PartialEq)]
struct Graph {
    functions: HashMap<u32, Function>,
}

#[derive(Debug, Default, PartialEq)]
struct Function {
    /// Its name, if it is in a library.
    elsewhere: Option<String>,
    own: Vec<(u64, f64)>,
    calls: Vec<Call>,
}

#[derive(Debug, PartialEq)]
struct Call {
    from: u64,
    to: u32,
    /// With everything that is called there.
    cost: f64,
}

impl Graph {
    /// Reads callgrind's format, with the positions `instr line` and one event: see its manual.
    fn read(profile: &str, program: &str) -> Self {
        let mut graph = Self::default();
        let mut names = HashMap::new();
        let mut objects = HashMap::new();
        let (mut object, mut called_object) = (0, None);
        let (mut function, mut called, mut is_call) = (0, 0, false);
        let mut address = 0;
        for line in profile.lines() {
            if let Some((key, value)) = line.split_once('=') {
                match key {
                    "ob" => object = number(value, &mut objects),
                    "cob" => called_object = Some(number(value, &mut objects)),
                    "fn" => {
                        function = number(value, &mut names);
                        graph.name(function, objects.get(&object) == Some(&program), &names);
                    }
                    "cfn" => {
                        called = number(value, &mut names);
                        let object = called_object.take().unwrap_or(object);
                        graph.name(called, objects.get(&object) == Some(&program), &names);
                    }
                    // The line after it has the place of the call, and the cost.
                    "calls" => is_call = true,
                    _ => {}
                }
                continue;
            }
            let mut words = line.split(' ');
            let (Some(position), Some(_), Some(cost)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some(position), Ok(cost)) = (moved(address, position), cost.parse::<f64>()) else {
                continue;
            };
            address = position;
            let from = graph.functions.entry(function).or_default();
            if std::mem::take(&mut is_call) {
                from.calls.push(Call { from: address, to: called, cost });
            } else {
                from.own.push((address, cost));
            }
        }
        graph
    }

    fn name(&mut self, function: u32, is_here: bool, names: &HashMap<u32, &str>) {
        let elsewhere = || {
            // After its own name stand those of its callers.
            let name = names.get(&function).copied().unwrap_or_default();
            name.split('\'').next().unwrap_or(name).to_owned()
        };
        self.functions.entry(function).or_default().elsewhere = (!is_here).then(elsewhere);
    }

    fn stacks(&self) -> Stacks {
        let mut totals: HashMap<u32, f64> = HashMap::new();
        for call in self.functions.values().flat_map(|function| &function.calls) {
            *totals.entry(call.to).or_default() += call.cost;
        }
        let mut walk = Walk { graph: self, totals: &totals, callers: Vec::new(), stacks: HashMap::new() };
        for (number, function) in &self.functions {
            if !totals.contains_key(number) {
                walk.visit(function, 1.0);
            }
        }
        walk.stacks
    }
}

struct Walk<'a> {
    graph: &'a Graph,
    totals: &'a HashMap<u32, f64>,
    /// From the outermost inwards.
    callers: Vec<Place>,
    stacks: Stacks,
}

impl Walk<'_> {
    fn visit(&mut self, function: &Function, part: f64) {
        let place = |address| match &function.elsewhere {
            Some(name) => Place::Elsewhere(name.clone()),
            None => Place::Here(address),
        };
        for (address, cost) in &function.own {
            let stack = [place(*address)].into_iter().chain(self.callers.iter().rev().cloned()).collect();
            *self.stacks.entry(stack).or_insert(0.0) += cost * part;
        }
        // What goes round in circles is not told apart, and nothing that a request does is as deep.
        if self.callers.len() > 200 {
            return;
        }
        for call in &function.calls {
            let (Some(called), Some(total)) = (self.graph.functions.get(&call.to), self.totals.get(&call.to))
            else {
                continue;
            };
            if *total > 0.0 {
                self.callers.push(place(call.from));
                self.visit(called, part * call.cost / total);
                self.callers.pop();
            }
        }
    }
}

/// The number of a name, which is told where it comes first: `(7) name`, and later `(7)`.
fn number<'a>(value: &'a str, names: &mut HashMap<u32, &'a str>) -> u32 {
    let (number, name) = value.split_once(')').unwrap_or_default();
    let number = number.trim_start_matches('(').parse().unwrap_or_default();
    if !name.is_empty() {
        names.insert(number, name.trim_start());
    }
    number
}

/// A position: itself, or how far from the last one it is.
fn moved(last: u64, position: &str) -> Option<u64> {
    if position == "*" {
        return Some(last);
    }
    if let Some(address) = position.strip_prefix("0x") {
        return u64::from_str_radix(address, 16).ok();
    }
    if !position.starts_with(['+', '-']) {
        return None;
    }
    last.checked_add_signed(position.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_go_to_the_calls_that_made_them() {
        let profile = "\
positions: instr line
events: Ir
ob=(1) /a/benches
fl=(1) a.rs
fn=(1) main
0x1000 1 10
+4 2 5
cob=(2) /lib/libc.so.6
cfn=(2) malloc'main
calls=1 0x98930 3281
* 2 300
cob=(2)
cfn=(2)
calls=1 0x98930 3281
0x2000 9 100

ob=(2)
fn=(2)
0x98930 0 250
-2 0 150

totals: 415
";
        let malloc = |from| vec![Place::Elsewhere("malloc".to_owned()), Place::Here(from)];
        let expected = HashMap::from([
            (vec![Place::Here(0x1000)], 10.0),
            (vec![Place::Here(0x1004)], 5.0),
            (malloc(0x1004), 300.0),
            (malloc(0x2000), 100.0),
        ]);
        assert_eq!(Graph::read(profile, "/a/benches").stacks(), expected);
    }
}
