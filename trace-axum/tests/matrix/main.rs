//! The matrix: every fault, by both protocols, on every kind of runtime and on none. Whatever happens to the collector, to
//! the network before it, to its name and to its certificate:
//!
//! - requests are answered, and each costs the same allocations and the same system calls as with a healthy collector;
//! - memory stays within its bound, at full load;
//! - a shutdown returns by its deadline;
//! - every span is accounted for, and the collector's own list agrees;
//! - what arrives while memory is short arrives as whole traces.
//!
//! Each case is a line on standard output: `cargo test -p trace-axum --test matrix` prints what was measured. The program has
//! a `main` of its own, because what is measured in one case must not be disturbed by another, and because it measures
//! itself from outside. Two of its tests need more than a Rust toolchain and are steps of their own in `.ci/run`: `-- --strace`
//! counts system calls, `-- --network-namespaces` cuts a real network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod accounts;
mod allocations;
mod backend;
mod bracket;
mod calls;
mod host;
mod memory;
mod meter;
mod partition;
mod whole;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[global_allocator]
static METER: meter::Meter = meter::Meter;

/// A test, by what it proves.
struct Test {
    name: &'static str,
    run: fn(),
    /// What it needs beyond a Rust toolchain, and the argument that says it is there.
    needs: Option<(&'static str, &'static str)>,
}

const TESTS: [Test; 6] = [
    Test {
        name: "requests_are_answered_spans_accounted_for_and_shutdowns_in_time",
        run: accounts::test,
        needs: None,
    },
    Test {
        name: "a_request_allocates_what_it_does_with_a_healthy_collector",
        run: allocations::test,
        needs: None,
    },
    Test { name: "memory_stays_within_its_bound_at_full_load", run: memory::test, needs: None },
    Test { name: "traces_arrive_whole_when_memory_is_short", run: whole::test, needs: None },
    Test {
        name: "a_request_makes_the_system_calls_that_it_does_with_a_healthy_collector",
        run: calls::test,
        needs: Some(("strace", "--strace")),
    },
    Test {
        name: "a_network_that_is_cut_costs_no_request_and_heals",
        run: partition::test,
        needs: Some(("root, ip and nft", "--network-namespaces")),
    },
];

/// Set for the processes that a test starts and measures from outside: what they are to do.
const CHILD: &str = "TRACE_AXUM_MATRIX_CHILD";

fn main() -> ExitCode {
    if let Ok(task) = std::env::var(CHILD) {
        match task.split_once(' ') {
            Some(("calls", case)) => calls::child(case),
            Some(("memory", case)) => memory::child(case),
            Some(("partition", case)) => partition::child(case),
            _ => panic!("no such task: {task}"),
        }
        backend::clean_up();
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    // Those that need something run when they are told that it is there, and then alone.
    let needs: Vec<&str> = TESTS.iter().filter_map(|test| test.needs).map(|(_, argument)| argument).collect();
    let told = needs.into_iter().find(|argument| has(argument));
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |test: &Test| {
        test.needs.map(|(_, argument)| argument) == told
            && (filters.is_empty() || filters.iter().any(|filter| test.name.contains(&***filter)))
    };
    if has("--list") {
        TESTS.iter().filter(|test| is_wanted(test)).for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for Test { name, run, .. } in TESTS.iter().filter(|test| is_wanted(test)) {
        println!("\n== {name}");
        let began = Instant::now();
        let passed = catch_unwind(run).is_ok();
        failed += usize::from(!passed);
        println!("== {name}: {} after {:.1?}", if passed { "ok" } else { "FAILED" }, began.elapsed());
    }
    backend::clean_up();
    for test in TESTS.iter().filter(|_| told.is_none()) {
        if let Some((what, argument)) = test.needs {
            println!(
                "\nNOT RUN: {}, which needs {what}; `-- {argument}` runs it, as `.ci/run` does",
                test.name
            );
        }
    }
    println!("\ntest result: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a test for each of these, some at a time; each gives its line of the matrix. All are run, and those that fail are
/// named at the end.
fn each<T: Send + Sync>(cases: &[T], at_a_time: usize, test: impl Fn(&T) -> Result<String, String> + Sync) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match test(case) {
                        Ok(line) => println!("{line}"),
                        Err(why) => {
                            println!("FAILED: {why}");
                            failures.lock().unwrap().push(why);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// An error that says what is wrong, unless it is as it should be.
macro_rules! ensure {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}
use ensure;
