//! The runner: starts itself again for each subject and repetition, in turns, and gathers what the processes say.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::child::{self, Costs};
use super::sink::{Arrived, Sink};
use super::{Bench, Case, Entry, callgrind};

/// How much is done for an answer.
#[derive(Clone, Debug)]
pub(crate) struct Effort {
    pub(crate) repetitions: usize,
    /// Measured bursts of one process.
    pub(crate) bursts: usize,
    /// Whether instructions are counted, and where callgrind's files are kept: for nothing else than to look at them.
    pub(crate) callgrind: Callgrind,
    /// Nothing but the entries whose names have this in them.
    pub(crate) only: Option<String>,
}

impl Effort {
    /// Whether an answer in seconds is wanted: benches that measure in their own way make shorter runs then.
    pub(crate) fn is_quick(&self) -> bool {
        self.repetitions < 5
    }

    /// Whether this is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|part| name.contains(part))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Callgrind {
    Absent,
    Counts,
    Keeps(PathBuf),
}

/// What was found out about one entry, over all repetitions.
pub(crate) struct Measured {
    pub(crate) entry: &'static Entry,
    pub(crate) costs: Vec<Costs>,
    /// Those of each process that callgrind watched.
    pub(crate) instructions: Vec<f64>,
    pub(crate) arrived: Option<Arrived>,
    /// Why there is nothing.
    pub(crate) failure: Option<String>,
}

pub(crate) struct Answer {
    pub(crate) case: &'static Case,
    pub(crate) measured: Vec<Measured>,
}

/// Measures all cases of a bench.
pub(crate) fn run(bench: &'static Bench, effort: &Effort) -> io::Result<Vec<Answer>> {
    let runner = Runner { bench, effort, program: std::env::current_exe()?, sink: Sink::start()? };
    bench.cases.iter().map(|case| runner.answer(case)).collect()
}

struct Runner<'a> {
    bench: &'static Bench,
    effort: &'a Effort,
    program: PathBuf,
    sink: Sink,
}

/// A burst is some 400 spans: long against reading the clock, short against a time slice, and less than the batch of
/// any exporter.
const BURST_SPANS: usize = 400;

/// How many processes have their instructions counted: the seed of a hash map and the state of an allocator are those of a
/// process, and some of what is measured depends on them.
const COUNTS: usize = 3;

impl Runner<'_> {
    fn answer(&self, case: &'static Case) -> io::Result<Answer> {
        let wanted = |entry: &&Entry| {
            let only = self.effort.only.as_deref();
            // What others are compared with is always needed.
            only.is_none_or(|part| entry.name.contains(part) || case.added_to == Some(entry.name))
        };
        let mut measured: Vec<Measured> =
            case.entries.iter().filter(wanted).map(Measured::nothing_yet).collect();
        for repetition in 0..self.effort.repetitions {
            eprintln!(
                "{}, {}: {} of {}",
                self.bench.name,
                case.name,
                repetition + 1,
                self.effort.repetitions
            );
            for measured in &mut measured {
                measured.add(self.measure(case, measured.entry)?);
                measured.arrived = self.sink.take_arrived().or(measured.arrived.take());
            }
        }
        if self.effort.callgrind != Callgrind::Absent {
            eprintln!("{}, {}: instructions", self.bench.name, case.name);
            for measured in measured.iter_mut().filter(|measured| measured.entry.threads == 1) {
                for _ in 0..COUNTS {
                    measured.instructions.extend(self.instructions(case, measured.entry)?);
                }
            }
        }
        Ok(Answer { case, measured })
    }

    fn measure(&self, case: &Case, entry: &Entry) -> io::Result<Result<Costs, String>> {
        // What another process sent at its very end.
        self.sink.take_arrived();
        let mut command = Command::new(&self.program);
        self.arguments(&mut command, case, entry, "measure");
        let output = command.stderr(Stdio::piped()).output()?;
        if !output.status.success() {
            return Ok(Err(last_line(&output.stderr)));
        }
        Ok(last_line(&output.stdout).parse())
    }

    fn instructions(&self, case: &Case, entry: &Entry) -> io::Result<Option<f64>> {
        let kept = match &self.effort.callgrind {
            Callgrind::Keeps(folder) => Some(folder.join(file_name(self.bench, case, entry))),
            _ => None,
        };
        let out = kept.as_deref().unwrap_or(Path::new("/dev/null"));
        let mut command = callgrind::command(&self.program, out, &[]);
        self.arguments(&mut command, case, entry, "count");
        let output = command.output()?;
        let all = callgrind::instructions(&String::from_utf8_lossy(&output.stderr));
        let units = (child::COUNTED * units(case)) as f64;
        Ok(all.filter(|_| output.status.success()).map(|all| all as f64 / units))
    }

    fn arguments(&self, command: &mut Command, case: &Case, entry: &Entry, task: &str) {
        command.args(["child", self.bench.name, case.name, entry.name, task]);
        command.arg(self.sink.endpoint());
        command.args([units(case).to_string(), self.effort.bursts.to_string()]);
    }
}

fn units(case: &Case) -> usize {
    (BURST_SPANS / case.spans).max(1)
}

fn file_name(bench: &Bench, case: &Case, entry: &Entry) -> String {
    let name = format!("callgrind.{}.{}.{}", bench.name, case.name, entry.name);
    name.replace([' ', ',', '/'], "-")
}

fn last_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim_end().lines().last().unwrap_or("it said nothing").to_owned()
}

impl Measured {
    fn nothing_yet(entry: &'static Entry) -> Self {
        Self { entry, costs: Vec::new(), instructions: Vec::new(), arrived: None, failure: None }
    }

    fn add(&mut self, result: Result<Costs, String>) {
        match result {
            Ok(costs) => self.costs.push(costs),
            Err(failure) => self.failure = Some(failure),
        }
    }
}
