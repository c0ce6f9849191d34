//! What tracing costs a request: this workspace's crates and their peers, measured side by side.
//!
//! `cargo run -p benches --release` answers all questions, and writes the answers to `RESULTS.md`, `results.json` and `plots` beside
//! the sources; `-- span middleware` answers two of them, and prints that. `-- --compare` says where this run is not what the
//! files tell. Each file beside this one asks a question and lists the subjects with their unit of work; `harness` does
//! the measuring.

mod bridge;
mod client;
mod export;
mod exporters;
mod flame;
mod grpc;
mod harness;
mod least;
mod middleware;
mod propagation;
mod scale;
mod service;
mod soak;
mod span;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use harness::{Bench, BenchResult, Callgrind, Collector, Comparison, Effort, Machine, Medium, Results, Task};

const BENCHES: &[&Bench] = &[
    &span::BENCH,
    &propagation::BENCH,
    &bridge::BENCH,
    &middleware::BENCH,
    &grpc::BENCH,
    &client::BENCH,
    &export::BENCH,
    &service::BENCH,
    &scale::BENCH,
];

/// Where the results are kept.
const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

/// The folder in it that has the pictures.
const PLOTS: &str = "plots";

/// Measures what tracing costs, beside its peers.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    wish: Wish,
}

#[derive(Debug, Args)]
struct Wish {
    /// Which questions to answer; all by default.
    names: Vec<String>,
    /// Fewer repetitions, and no instructions: two minutes for everything.
    #[arg(long)]
    quick: bool,
    /// How often each subject is measured, in a process of its own.
    #[arg(long)]
    repetitions: Option<usize>,
    /// Only the subjects whose names contain this.
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// Count no instructions.
    #[arg(long)]
    no_callgrind: bool,
    /// Keep callgrind's files in this folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_callgrind")]
    keep: Option<PathBuf>,
    /// Compare with the results that were written, and fail where counts or ratios differ.
    #[arg(long, conflicts_with = "only")]
    compare: bool,
    /// Write the results, as is done without being asked when all questions are answered in full.
    #[arg(long, conflicts_with_all = ["only", "compare"])]
    write: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows where the time of one traced request goes, in FLAME.md and a picture: needs perf and valgrind.
    Flame,
    /// Runs a service for minutes whose collector fails at random, and writes SOAK.md.
    Soak(soak::Wish),
    /// What the runner starts for each subject.
    #[command(hide = true)]
    Child(Child),
    /// What `export` starts.
    #[command(name = "child-export", hide = true)]
    Export {
        #[command(subcommand)]
        part: export::Part,
    },
    /// What `scale` starts.
    #[command(name = "child-scale", hide = true)]
    Scale(scale::Part),
    /// What `service` starts.
    #[command(name = "child-service", hide = true)]
    Service(service::Part),
    /// What `soak` starts.
    #[command(name = "child-soak", hide = true)]
    SoakPart(soak::Part),
}

#[derive(Debug, Args)]
struct Child {
    bench: String,
    case: String,
    entry: String,
    task: String,
    endpoint: String,
    units: usize,
    bursts: usize,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Flame) => flame::write(Path::new(FOLDER)).map(|()| ExitCode::SUCCESS),
        Some(Command::Soak(wish)) => {
            let holds = soak::run(&wish, Path::new(FOLDER), PLOTS)?;
            Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(Command::SoakPart(part)) => Ok(soak::work(&part).map(|()| ExitCode::SUCCESS)?),
        Some(Command::Child(child)) => work(child).map(|()| ExitCode::SUCCESS),
        Some(Command::Export { part }) => Ok(export::work(&part).map(|()| ExitCode::SUCCESS)?),
        Some(Command::Scale(part)) => Ok(scale::work(&part).map(|()| ExitCode::SUCCESS)?),
        Some(Command::Service(part)) => Ok(service::work(&part).map(|()| ExitCode::SUCCESS)?),
        None => answer(&arguments.wish),
    }
}

fn answer(wish: &Wish) -> Result<ExitCode, Box<dyn Error>> {
    let benches = wish.benches()?;
    let machine = Machine::describe();
    let effort = wish.effort(&machine)?;
    // What was written before can stand in the way of what is wished: better now than when all is measured.
    let written = || Results::read(Path::new(FOLDER));
    let committed =
        if wish.compare { Some(written()?.ok_or("there is no results.json to compare with")?) } else { None };
    let others = if wish.writes() && benches.len() < BENCHES.len() {
        written()?.map_or(Ok(Vec::new()), |earlier| earlier.others(&benches, &machine))?
    } else {
        Vec::new()
    };

    let mut results = Results { machine, benches: Vec::new() };
    println!("{}", harness::heading(&results));
    for bench in benches {
        let result = BenchResult::measure(bench, &effort)?;
        println!("{}", harness::answer(&result, Medium::Terminal));
        results.benches.push(result);
    }
    println!("{}", harness::summary(&results.benches));
    let comparison = committed.map(|committed| Comparison::of(&committed, &results));
    if let Some(comparison) = &comparison {
        println!("## Compared\n\n{comparison}");
    }
    let failed = results.failures().count();
    if wish.writes() && failed == 0 {
        results.add(others, BENCHES);
        write(&results)?;
    }
    let agrees = comparison.is_none_or(|comparison| comparison.agrees());
    Ok(if failed == 0 && agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts the results beside the benches: as text, as pictures, and for programs.
fn write(results: &Results) -> Result<(), Box<dyn Error>> {
    let folder = Path::new(FOLDER);
    results.write(folder)?;
    fs::write(folder.join("RESULTS.md"), harness::report(results, Medium::File { plots: PLOTS }))?;
    // All of them are drawn again: none is left of a case that has another name now. The flame and the soak have theirs.
    let plots = folder.join(PLOTS);
    fs::create_dir_all(&plots)?;
    for file in fs::read_dir(&plots)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path != folder.join(flame::PICTURE) && !name.starts_with(soak::PICTURES) {
            fs::remove_file(path)?;
        }
    }
    for plot in results.benches.iter().flat_map(BenchResult::plots) {
        fs::write(plots.join(format!("{}.svg", plot.file)), harness::draw(&plot))?;
    }
    Ok(())
}

impl Wish {
    fn benches(&self) -> Result<Vec<&'static Bench>, String> {
        if let Some(unknown) = self.names.iter().find(|name| BENCHES.iter().all(|bench| bench.name != **name))
        {
            let known: Vec<_> = BENCHES.iter().map(|bench| bench.name).collect();
            return Err(format!("there is no bench {unknown:?}; there are: {}", known.join(", ")));
        }
        let is_wanted =
            |bench: &&&Bench| self.names.is_empty() || self.names.iter().any(|name| name == bench.name);
        Ok(BENCHES.iter().filter(is_wanted).copied().collect())
    }

    fn effort(&self, machine: &Machine) -> Result<Effort, Box<dyn Error>> {
        // Callgrind takes several times as long as all else: whoever is in a hurry has it if instructions are the point.
        let counts = !self.no_callgrind && (!self.quick || self.compare || self.keep.is_some());
        Ok(Effort {
            repetitions: self.repetitions.unwrap_or(if self.quick { 2 } else { 7 }),
            bursts: if self.quick { 10 } else { 40 },
            callgrind: match &self.keep {
                _ if !counts || machine.valgrind.is_none() => Callgrind::Absent,
                Some(folder) => Callgrind::Keeps(std::path::absolute(folder)?),
                None => Callgrind::Counts,
            },
            only: self.only.clone(),
        })
    }

    /// Whether the answers are worth to be kept, or somebody says that they are.
    fn writes(&self) -> bool {
        let in_full = self.names.is_empty()
            && !self.quick
            && self.repetitions.is_none()
            && self.only.is_none()
            && !self.no_callgrind;
        self.write || (in_full && !self.compare)
    }
}

fn work(child: Child) -> Result<(), Box<dyn Error>> {
    let Child { bench, case, entry, task, endpoint, units, bursts } = child;
    let entry = BENCHES
        .iter()
        .filter(|known| known.name == bench)
        .flat_map(|bench| bench.cases)
        .filter(|known| known.name == case)
        .find_map(|case| case.entry(&entry))
        .ok_or_else(|| format!("there is no {bench}, {case}, {entry}"))?;
    let task = match task.as_str() {
        "measure" => Task::Measure,
        "rounds" => Task::Rounds,
        "count" => Task::Count,
        other => return Err(format!("there is no task {other:?}").into()),
    };
    harness::work(entry, &Collector { endpoint }, task, units, bursts);
    Ok(())
}
