//! Whether a run agrees with an earlier one, as far as two runs can.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::results::{BenchResult, Figure, Results};
use super::statistics::{Count, Quartiles};

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
    /// How far a figure may be from the committed one, as a part of it, beyond what each of the two runs found by itself to vary:
    /// a count that depends on a hash map's seed is never the same twice.
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

/// What a run found out, and between what the process or the repetition had it lie: of counts all, of ratios the middle half.
#[derive(Clone, Copy, Debug)]
struct Compared {
    kind: Kind,
    /// What of it no run can tell: [`Kind::granularity`], or more.
    granularity: f64,
    least: f64,
    middle: f64,
    most: f64,
}

impl Compared {
    fn count(kind: Kind, Count { least, median, most }: Count) -> Self {
        Self { kind, granularity: kind.granularity(), least, middle: median, most }
    }

    fn ratio(Quartiles { lower, median, upper }: Quartiles) -> Self {
        let kind = Kind::Ratio;
        Self { kind, granularity: kind.granularity(), least: lower, middle: median, most: upper }
    }

    /// The same, of a count that is what is left of one by taking another away: to a thousandth of that one, which by itself
    /// varies so much, where it has sixty thousand instructions and a socket.
    fn beyond(self, base: Option<Count>) -> Self {
        let granularity = base.map_or(0.0, |base| base.median / 1000.0).max(self.granularity);
        Self { granularity, ..self }
    }

    fn agrees(&self, committed: &Self) -> bool {
        let allowed =
            (committed.middle.abs() * self.kind.tolerance()).max(self.granularity.max(committed.granularity));
        self.least <= committed.most + allowed && committed.least <= self.most + allowed
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { least, middle, most, .. } = self;
        write!(f, "{middle}")?;
        if least < most { write!(f, " ({least} to {most})") } else { Ok(()) }
    }
}

impl Comparison {
    /// Compares what this run measured; benches that only the committed one asked are left out.
    pub(crate) fn of(committed: &Results, now: &Results) -> Self {
        let mut before = figures(committed.benches.iter().filter(|bench| is_in(now, bench)));
        let mut comparison = Self::default();
        for (name, now) in figures(now.benches.iter()) {
            let Some(committed) = before.remove(&name) else {
                comparison.unmatched.push(format!("{name}: only now, {}", now.middle));
                continue;
            };
            comparison.compared += 1;
            if !now.agrees(&committed) {
                comparison.differing.push(format!("{name}: {now}, committed {committed}"));
            }
        }
        let left = before.into_iter();
        comparison
            .unmatched
            .extend(left.map(|(name, figure)| format!("{name}: only committed, {}", figure.middle)));
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
fn figures<'a>(benches: impl Iterator<Item = &'a BenchResult>) -> BTreeMap<String, Compared> {
    let mut figures = BTreeMap::new();
    for bench in benches {
        let mut add = |part: &str, what: &str, found: Option<Compared>| {
            let name = format!("{}, {part}, {what}", bench.name);
            figures.extend(found.map(|found| (name, found)));
        };
        for case in &bench.cases {
            let is_base = |figure: &&Figure| case.added_to.as_deref() == Some(&*figure.entry);
            let base = case.figures.iter().find(is_base).and_then(|base| base.instructions);
            for figure in &case.figures {
                let what = |unit| format!("{}, {unit}", figure.entry);
                let of = |kind| move |count| Compared::count(kind, count);
                let base = base.filter(|_| !is_base(&figure));
                let instructions = figure.instructions.map(of(Kind::Instructions));
                add(&case.name, &what("instructions"), instructions.map(|count| count.beyond(base)));
                add(&case.name, &what("allocations"), figure.allocations.map(of(Kind::Allocations)));
            }
            for ratio in &case.ratios {
                add(&case.name, &ratio.what(), ratio.measured.map(Compared::ratio));
            }
        }
        for section in &bench.sections {
            // What has a unit is a time or a load, or a loss that the goal itself judges.
            for goal in section.goals.iter().filter(|goal| goal.unit.is_empty()) {
                add(&section.title, &goal.what, goal.measured.map(Compared::ratio));
            }
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::super::results::{CaseResult, RatioResult};
    use super::super::{Clock, Goal, Machine, Section};
    use super::*;

    fn results(instructions: Option<f64>, allocations: f64, ratio: f64) -> Results {
        let figure = Figure {
            entry: "trace-core".to_owned(),
            ours: true,
            thread_ns_least: None,
            thread_ns: None,
            process_ns: None,
            instructions: instructions.and_then(|count| Count::of(&[count])),
            allocations: Count::of(&[allocations]),
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
    fn what_is_left_of_two_counts_is_as_exact_as_they_are() {
        let added = |base: f64, left: f64| {
            let mut results = results(Some(left), 8.0, 0.5);
            let case = &mut results.benches[0].cases[0];
            let bare = Figure {
                entry: "bare".to_owned(),
                instructions: Count::of(&[base]),
                ..case.figures[0].clone()
            };
            case.figures.push(bare);
            case.added_to = Some("bare".to_owned());
            results
        };
        let committed = added(60_000.0, 1450.0);
        assert!(Comparison::of(&committed, &added(60_000.0, 1505.0)).agrees());
        assert!(!Comparison::of(&committed, &added(60_000.0, 1515.0)).agrees());
        // The base itself is one count.
        assert!(!Comparison::of(&committed, &added(61_500.0, 1450.0)).agrees());
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
    fn what_varies_by_itself_agrees_if_it_is_in_reach() {
        let varying = |counts: &[f64], ratios: &[f64]| {
            let mut results = results(None, 8.0, 0.5);
            let case = &mut results.benches[0].cases[0];
            case.figures[0].instructions = Count::of(counts);
            case.ratios[0].measured = Quartiles::of(ratios);
            results
        };
        let committed = varying(&[1000.0, 1100.0, 1200.0], &[0.4, 0.5, 0.6]);
        assert!(Comparison::of(&committed, &varying(&[1215.0, 1300.0], &[0.55, 0.7])).agrees());
        let far = Comparison::of(&committed, &varying(&[1225.0, 1300.0], &[0.7, 0.8]));
        let differing = [
            "span, root, trace-core ÷ fastrace: 0.75 (0.725 to 0.775), committed 0.5 (0.45 to 0.55)",
            "span, root, trace-core, instructions: 1262.5 (1225 to 1300), committed 1100 (1000 to 1200)",
        ];
        assert_eq!(far.differing, differing);
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
