//! What tracing costs a request: this workspace's crates and their peers, measured side by side.
//!
//! `cargo run -p benches --release -- span middleware` answers two questions, and without names all of them. Each file beside this
//! one asks a question and lists the subjects with their unit of work; `harness` does the measuring.

mod export;
mod exporters;
mod harness;
mod middleware;
mod scale;
mod service;
mod span;

use std::error::Error;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use harness::{Bench, Callgrind, Collector, Effort, Machine, Report, Task};

const BENCHES: &[&Bench] =
    &[&span::BENCH, &middleware::BENCH, &export::BENCH, &service::BENCH, &scale::BENCH];

/// Where `--write` puts the results.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/RESULTS.md");

/// Measures what tracing costs, beside its peers.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    child: Option<Part>,
    #[command(flatten)]
    wish: Wish,
}

#[derive(Debug, Args)]
struct Wish {
    /// Which questions to answer; all by default.
    names: Vec<String>,
    /// Fewer repetitions: a minute or two for everything.
    #[arg(long)]
    quick: bool,
    /// How often each subject is measured, in a process of its own.
    #[arg(long)]
    repetitions: Option<usize>,
    /// Only the subjects whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// Count no instructions.
    #[arg(long)]
    no_callgrind: bool,
    /// Keep callgrind's files in this folder.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Write the results to RESULTS.md beside the benches.
    #[arg(long)]
    write: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// What the runner starts for each subject.
    #[command(hide = true)]
    Child {
        bench: String,
        case: String,
        entry: String,
        task: String,
        endpoint: String,
        units: usize,
        bursts: usize,
    },
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
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    match arguments.child {
        Some(child) => work(child),
        None => answer(&arguments.wish),
    }
}

fn answer(wish: &Wish) -> Result<(), Box<dyn Error>> {
    if let Some(unknown) = wish.names.iter().find(|name| BENCHES.iter().all(|bench| bench.name != **name)) {
        let known: Vec<_> = BENCHES.iter().map(|bench| bench.name).collect();
        return Err(format!("there is no bench {unknown:?}; there are: {}", known.join(", ")).into());
    }
    let machine = Machine::describe();
    let effort = Effort {
        repetitions: wish.repetitions.unwrap_or(if wish.quick { 3 } else { 7 }),
        bursts: if wish.quick { 25 } else { 60 },
        callgrind: match &wish.keep {
            _ if wish.no_callgrind || machine.valgrind.is_none() => Callgrind::Absent,
            Some(folder) => Callgrind::Keeps(std::path::absolute(folder)?),
            None => Callgrind::Counts,
        },
        only: wish.only.clone(),
    };
    let mut report = Report::new(&machine);
    println!("{}", report.text());
    for bench in
        BENCHES.iter().filter(|bench| wish.names.is_empty() || wish.names.iter().any(|n| n == bench.name))
    {
        println!("{}", report.add(bench, &harness::run(bench, &effort)?));
        if let Some(sections) = bench.sections {
            println!("{}", report.add_sections(&sections(&effort)?));
        }
    }
    if wish.write {
        std::fs::write(RESULTS, report.text())?;
    }
    Ok(())
}

fn work(child: Part) -> Result<(), Box<dyn Error>> {
    let (bench, case, entry, task, endpoint, units, bursts) = match child {
        Part::Child { bench, case, entry, task, endpoint, units, bursts } => {
            (bench, case, entry, task, endpoint, units, bursts)
        }
        Part::Export { part } => return Ok(export::work(&part)?),
        Part::Scale(part) => return Ok(scale::work(&part)?),
        Part::Service(part) => return Ok(service::work(&part)?),
    };
    let entry = BENCHES
        .iter()
        .filter(|known| known.name == bench)
        .flat_map(|bench| bench.cases)
        .filter(|known| known.name == case)
        .find_map(|case| case.entry(&entry))
        .ok_or_else(|| format!("there is no {bench}, {case}, {entry}"))?;
    let task = match task.as_str() {
        "measure" => Task::Measure,
        "count" => Task::Count,
        other => return Err(format!("there is no task {other:?}").into()),
    };
    harness::work(entry, &Collector { endpoint }, task, units, bursts);
    Ok(())
}
