//! Whether a run agrees with an earlier one, as far as two runs can.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::results::{BenchResult, Results};

/// What two runs disagree on, in sentences.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) compared: usize,
    pub(crate) differing: Vec<String>,
    /// What only one of them has: another machine has no valgrind, a bench is new.
    pub(crate) unmatched: Vec<String>,
}

/// What two runs have in common: times are the machine's, counts and ratios are the code's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Instructions,
    Allocations,
    Ratio,
}

impl Kind {
    /// How far a figure may be from the committed one, as a part of it.
    fn tolerance(self) -> f64 {
        match self {
            Self::Instructions | Self::Allocations => 0.02,
            Self::Ratio => 0.15,
        }
    }

    /// What no more than a rounding is, or what happens in one of two runs: a table grows, an id has a leading zero.
    fn granularity(self) -> f64 {
        match self {
            Self::Instructions => 5.0,
            Self::Allocations => 0.01,
            Self::Ratio => 0.01,
        }
    }
}

impl Comparison {
    /// Compares what this run measured; benches that only the committed one asked are left out.
    pub(crate) fn of(committed: &Results, now: &Results) -> Self {
        let mut before = figures(committed.benches.iter().filter(|bench| is_in(now, bench)));
        let mut comparison = Self::default();
        for (name, (kind, value)) in figures(now.benches.iter()) {
            let Some((_, committed)) = before.remove(&name) else {
                comparison.unmatched.push(format!("{name}: only now, {value}"));
                continue;
            };
            comparison.compared += 1;
            let allowed = (committed.abs() * kind.tolerance()).max(kind.granularity());
            if (value - committed).abs() > allowed {
                comparison.differing.push(format!("{name}: {value}, committed {committed}"));
            }
        }
        let left = before.into_iter();
        comparison
            .unmatched
            .extend(left.map(|(name, (_, value))| format!("{name}: only committed, {value}")));
        comparison
    }

    pub(crate) fn agrees(&self) -> bool {
        self.differing.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared, differing, unmatched } = self;
        for line in unmatched {
            writeln!(f, "{line}")?;
        }
        for line in differing {
            writeln!(f, "{line}: **differs**")?;
        }
        f.write_char('\n')?;
        write!(f, "{} of {compared} figures agree with the committed ones", compared - differing.len())?;
        write!(f, "; {} are in one of both only.", unmatched.len())
    }
}

fn is_in(results: &Results, bench: &BenchResult) -> bool {
    results.benches.iter().any(|other| other.name == bench.name)
}

/// All that can be compared, by a name that says where it stands in the report.
fn figures<'a>(benches: impl Iterator<Item = &'a BenchResult>) -> BTreeMap<String, (Kind, f64)> {
    let mut figures = BTreeMap::new();
    for bench in benches {
        let mut add = |part: &str, what: &str, kind, value: Option<f64>| {
            let name = format!("{}, {part}, {what}", bench.name);
            figures.extend(value.map(|value| (name, (kind, value))));
        };
        for case in &bench.cases {
            for figure in &case.figures {
                let what = |unit| format!("{}, {unit}", figure.entry);
                add(&case.name, &what("instructions"), Kind::Instructions, figure.instructions);
                add(&case.name, &what("allocations"), Kind::Allocations, figure.allocations);
            }
            for ratio in &case.ratios {
                add(&case.name, &ratio.what(), Kind::Ratio, ratio.measured.map(|measured| measured.median));
            }
        }
        for section in &bench.sections {
            // What has a unit is a time or a load, or a loss that the goal itself judges.
            for goal in section.goals.iter().filter(|goal| goal.unit.is_empty()) {
                add(&section.title, &goal.what, Kind::Ratio, goal.measured.map(|measured| measured.median));
            }
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::super::results::{CaseResult, Figure, RatioResult};
    use super::super::statistics::Quartiles;
    use super::super::{Clock, Goal, Machine, Section};
    use super::*;

    fn results(instructions: Option<f64>, allocations: f64, ratio: f64) -> Results {
        let figure = Figure {
            entry: "trace-core".to_owned(),
            ours: true,
            thread_ns_least: None,
            thread_ns: None,
            process_ns: None,
            instructions,
            allocations: Some(allocations),
            bytes: None,
            attributes: None,
            failure: None,
        };
        let ratio_result = RatioResult {
            of: "trace-core".to_owned(),
            to: "fastrace".to_owned(),
            clock: Clock::Thread,
            measured: Quartiles::of(&[ratio]),
            instructions: None,
            at_most: None,
        };
        let case = CaseResult {
            name: "root".to_owned(),
            added_to: None,
            figures: vec![figure],
            ratios: vec![ratio_result],
        };
        let section = Section {
            title: "bursts".to_owned(),
            note: String::new(),
            tables: Vec::new(),
            plots: Vec::new(),
            goals: vec![
                Goal::ratio("a ÷ b", &[ratio], Some(1.0)),
                Goal::figure("lost", "spans", &[ratio], None),
            ],
        };
        let bench = BenchResult {
            name: "span".to_owned(),
            question: String::new(),
            repetitions: 1,
            cases: vec![case],
            sections: vec![section],
        };
        Results { machine: Machine::describe(), benches: vec![bench] }
    }

    #[test]
    fn what_is_within_bounds_agrees() {
        let committed = results(Some(1000.0), 8.0, 0.5);
        let comparison = Comparison::of(&committed, &results(Some(1020.0), 8.1, 0.57));
        assert_eq!(comparison, Comparison { compared: 4, ..Comparison::default() });
        assert!(comparison.agrees());
    }

    #[test]
    fn each_figure_beyond_its_bounds_is_named() {
        let committed = results(Some(1000.0), 8.0, 0.5);
        let comparison = Comparison::of(&committed, &results(Some(979.0), 9.0, 0.58));
        let differing = [
            "span, bursts, a ÷ b: 0.58, committed 0.5",
            "span, root, trace-core ÷ fastrace: 0.58, committed 0.5",
            "span, root, trace-core, allocations: 9, committed 8",
            "span, root, trace-core, instructions: 979, committed 1000",
        ];
        assert_eq!(comparison.differing, differing);
        assert!(!comparison.agrees());
    }

    #[test]
    fn an_allocation_where_there_was_none_differs() {
        let committed = results(None, 0.0, 0.5);
        assert!(Comparison::of(&committed, &results(None, 0.005, 0.5)).agrees());
        assert!(!Comparison::of(&committed, &results(None, 0.1, 0.5)).agrees());
    }

    #[test]
    fn what_only_one_of_both_has_is_said_and_does_not_differ() {
        let comparison = Comparison::of(&results(Some(1000.0), 8.0, 0.5), &results(None, 8.0, 0.5));
        assert!(comparison.agrees());
        assert_eq!(comparison.unmatched, ["span, root, trace-core, instructions: only committed, 1000"]);
        let comparison = Comparison::of(&results(None, 8.0, 0.5), &results(Some(1000.0), 8.0, 0.5));
        assert_eq!(comparison.unmatched, ["span, root, trace-core, instructions: only now, 1000"]);
    }

    #[test]
    fn a_bench_that_was_not_asked_is_left_out() {
        let mut now = results(None, 8.0, 0.5);
        now.benches.clear();
        assert_eq!(Comparison::of(&results(None, 8.0, 0.5), &now), Comparison::default());
    }
}
