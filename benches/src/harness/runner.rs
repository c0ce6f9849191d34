//! The runner: starts itself again for each subject and repetition, lets the processes of a repetition take turns, and gathers what
//! they say.
//!
//! A turn is a few milliseconds: machines that others work on too have another speed from one minute to the next, and
//! what is compared has to be measured at the same. Of its turns, those count in which a process was disturbed least.

use std::io;
use std::path::{Path, PathBuf};

use super::child::{self, Costs, FILL, READY, Round};
use super::sink::{Arrived, Sink};
use super::statistics::undisturbed;
use super::{Bench, Case, Entry, Running, callgrind};

/// How much is done for an answer.
#[derive(Clone, Debug)]
pub(crate) struct Effort {
    pub(crate) repetitions: usize,
    /// The turns of each process, which are a burst or several.
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
            self.measure(case, &mut measured)?;
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

    /// One repetition: a process for each entry, all there at once, of which one works.
    fn measure(&self, case: &Case, measured: &mut [Measured]) -> io::Result<()> {
        let mut players = Vec::new();
        for measured in measured {
            // What another process sent at its very end.
            self.sink.take_arrived();
            let player = Running::start(self.arguments(case, measured.entry, "rounds"))
                .and_then(|running| Player::ready(running, measured.entry.threads));
            measured.arrived = self.sink.take_arrived().or(measured.arrived.take());
            match player {
                Ok(player) => players.push((measured, player)),
                Err(failure) => measured.failure = Some(failure.to_string()),
            }
        }
        for turn in 0..self.effort.bursts {
            // Each comes first as often as every other.
            if !players.is_empty() {
                players.rotate_left(1);
            }
            for (_, player) in &mut players {
                player.play(turn % FILL == 0);
            }
        }
        for (measured, player) in players {
            match player.costs() {
                Ok(costs) => measured.costs.push(costs),
                Err(failure) => measured.failure = Some(failure.to_string()),
            }
        }
        Ok(())
    }

    fn instructions(&self, case: &Case, entry: &Entry) -> io::Result<Option<f64>> {
        let kept = match &self.effort.callgrind {
            Callgrind::Keeps(folder) => Some(folder.join(file_name(self.bench, case, entry))),
            _ => None,
        };
        let out = kept.as_deref().unwrap_or(Path::new("/dev/null"));
        let mut command = callgrind::command(&self.program, out, &[]);
        let output = command.args(self.arguments(case, entry, "count")).output()?;
        let all = callgrind::instructions(&String::from_utf8_lossy(&output.stderr));
        let units = (child::COUNTED * units(case)) as f64;
        Ok(all.filter(|_| output.status.success()).map(|all| all as f64 / units))
    }

    fn arguments(&self, case: &Case, entry: &Entry, task: &str) -> Vec<String> {
        let words = ["child", self.bench.name, case.name, entry.name, task, &self.sink.endpoint()];
        let numbers = [units(case), self.effort.bursts];
        words.into_iter().map(String::from).chain(numbers.map(|number| number.to_string())).collect()
    }
}

/// A process of one repetition, and what it has said so far.
struct Player {
    running: Running,
    threads: usize,
    thread_ns: Vec<f64>,
    process_ns: Vec<f64>,
    /// Why it says no more.
    failure: Option<io::Error>,
}

impl Player {
    /// Waits until it is warm.
    fn ready(mut running: Running, threads: usize) -> io::Result<Self> {
        match running.line()? {
            line if line == READY => {
                Ok(Self { running, threads, thread_ns: Vec::new(), process_ns: Vec::new(), failure: None })
            }
            line => Err(io::Error::other(line)),
        }
    }

    /// Takes a turn, now and then one for the whole process too.
    fn play(&mut self, with_process: bool) {
        if self.failure.is_some() {
            return;
        }
        let result = self.turn(with_process);
        self.failure = result.err();
    }

    fn turn(&mut self, with_process: bool) -> io::Result<()> {
        let [thread_ns] = self.running.ask_numbers(Round::Thread.word())?;
        self.thread_ns.push(thread_ns);
        // Of several threads at once it would be that of all.
        if with_process && self.threads == 1 {
            let [process_ns] = self.running.ask_numbers(Round::Process.word())?;
            self.process_ns.push(process_ns);
        }
        Ok(())
    }

    fn costs(mut self) -> io::Result<Costs> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let [allocations, bytes] = self.running.ask_numbers(Round::Allocations.word())?;
        let (thread_ns, process_ns) = (undisturbed(&self.thread_ns), undisturbed(&self.process_ns));
        Ok(Costs { thread_ns, process_ns, allocations, bytes })
    }
}

fn units(case: &Case) -> usize {
    (BURST_SPANS / case.spans).max(1)
}

fn file_name(bench: &Bench, case: &Case, entry: &Entry) -> String {
    let name = format!("callgrind.{}.{}.{}", bench.name, case.name, entry.name);
    name.replace([' ', ',', '/'], "-")
}

impl Measured {
    fn nothing_yet(entry: &'static Entry) -> Self {
        Self { entry, costs: Vec::new(), instructions: Vec::new(), arrived: None, failure: None }
    }
}
