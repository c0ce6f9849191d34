//! The results as text: tables that read the same in a terminal and as markdown.

use std::fmt::Write;

use super::results::{BenchResult, CaseResult, RatioResult, Results};
use super::section::Verdict;
use super::statistics::{Count, Quartiles};
use super::{Goal, Plot, Section};

/// Where the text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// As it comes, without pictures.
    Terminal,
    /// In a folder that has the pictures in another one, of this name.
    File { plots: &'static str },
}

/// All of it, the goals first.
pub(crate) fn report(results: &Results, medium: Medium) -> String {
    let mut text = format!("{}\n{}", heading(results), summary(&results.benches));
    for bench in &results.benches {
        let _ = write!(text, "\n{}", answer(bench, medium));
    }
    text
}

/// What was measured, and how.
pub(crate) fn heading(results: &Results) -> String {
    format!("# Results\n\n{HOW}\n\n{}\n", results.machine)
}

/// What one bench found out.
pub(crate) fn answer(bench: &BenchResult, medium: Medium) -> String {
    let mut text = format!("## {}\n\n{}", bench.name, bench.question);
    if !bench.cases.is_empty() {
        let _ = write!(text, " *Repetitions: {}.*", bench.repetitions);
    }
    text.push('\n');
    for case in &bench.cases {
        let _ = write!(text, "\n### {}\n\n", case.name);
        picture(&mut text, medium, case.plot(&bench.name).as_ref());
        text.push_str(&table(&costs(case)));
        if !case.ratios.is_empty() {
            let heading = ["", "median", "quartiles", "instructions", "goal", ""].map(String::from).to_vec();
            let rows = case.ratios.iter().map(ratio_row);
            let _ = write!(text, "\n{}", table(&[heading].into_iter().chain(rows).collect::<Vec<_>>()));
        }
        for figure in &case.figures {
            if let Some(failure) = &figure.failure {
                let _ = write!(text, "\n`{}` failed: {failure}\n", figure.entry);
            }
        }
    }
    for section in &bench.sections {
        add_section(&mut text, section, medium);
    }
    text
}

/// All goals, and how many of them are met.
pub(crate) fn summary(benches: &[BenchResult]) -> String {
    let goals: Vec<_> =
        benches.iter().flat_map(of_bench).filter(|(_, goal)| goal.at_most.is_some()).collect();
    if goals.is_empty() {
        return String::new();
    }
    let met = goals.iter().filter(|(_, goal)| goal.verdict() == Verdict::Met).count();
    let rows = goals.iter().map(|(place, goal)| {
        let mut row = goal_row(goal);
        row[0] = format!("{place}: {}", row[0]);
        row
    });
    let rows: Vec<_> = [goal_heading()].into_iter().chain(rows).collect();
    format!("## Goals\n\n{met} of {} are met.\n\n{}", goals.len(), table(&rows))
}

const HOW: &str = "\
One unit of work each, in bursts of some 400 spans. *ns*: CPU time of the working thread. A repetition is new processes, one for \
each entry, which take turns of some milliseconds; each counts by those of its turns that were disturbed least (a tenth are quieter \
still), because what others do on the machine only adds. Each process has a second thread, which sleeps, as tokio's default \
runtime has: libc is faster in a process with one alone. Shown are the quietest of the repetitions, and their median. *to socket*: \
CPU time of the whole process for some 2 000 spans that are made and then sent, median. Instructions are callgrind's, of the \
working thread; allocations are those of the working thread, by the system's allocator; where they are not the same in every \
process, the least and the most stand beside the median. *attributes*: those of the span as it arrived at the collector. Ratios \
are of the working thread's time unless they say *to socket*, each taken in one repetition, and beside them stands that of the \
instructions; a goal is met when the upper quartile meets it.";

fn of_bench(bench: &BenchResult) -> impl Iterator<Item = (String, Goal)> {
    bench.goals().into_iter().map(|(part, goal)| (format!("{}, {part}", bench.name), goal))
}

/// A part of an answer.
pub(crate) fn section(section: &Section, medium: Medium) -> String {
    let mut text = String::new();
    add_section(&mut text, section, medium);
    text
}

fn add_section(text: &mut String, section: &Section, medium: Medium) {
    let _ = write!(text, "\n### {}\n", section.title);
    if !section.note.is_empty() {
        let _ = write!(text, "\n{}\n", section.note);
    }
    if medium != Medium::Terminal && !section.plots.is_empty() {
        text.push('\n');
        section.plots.iter().for_each(|plot| picture(text, medium, Some(plot)));
        // The next part brings an empty line of its own.
        text.pop();
    }
    for rows in &section.tables {
        let _ = write!(text, "\n{}", table(&rows.rows));
    }
    if !section.goals.is_empty() {
        let rows: Vec<_> = [goal_heading()].into_iter().chain(section.goals.iter().map(goal_row)).collect();
        let _ = write!(text, "\n{}", table(&rows));
    }
}

/// A line for the picture, and an empty one.
fn picture(text: &mut String, medium: Medium, plot: Option<&Plot>) {
    if let (Medium::File { plots }, Some(Plot { file, title, .. })) = (medium, plot) {
        let _ = write!(text, "![{title}]({plots}/{file}.svg)\n\n");
    }
}

fn costs(case: &CaseResult) -> Vec<Vec<String>> {
    let name = case.added_to.as_ref().map_or(String::new(), |name| format!("added to *{name}*"));
    let columns = ["ns", "ns, median", "to socket", "instructions", "allocations", "bytes", "attributes"];
    let heading = [name].into_iter().chain(columns.map(String::from)).collect();
    let rows = case.figures.iter().map(|figure| {
        vec![
            figure.entry.clone(),
            number(figure.thread_ns_least),
            number(figure.thread_ns.map(|ns| ns.median)),
            number(figure.process_ns.map(|ns| ns.median)),
            count(figure.instructions, number),
            count(figure.allocations, fine),
            number(figure.bytes),
            number(figure.attributes.map(|number| number as f64)),
        ]
    });
    [heading].into_iter().chain(rows).collect()
}

fn ratio_row(ratio: &RatioResult) -> Vec<String> {
    let instructions = ratio.instructions.map_or(String::new(), |ratio| format!("{ratio:.2}"));
    let [median, quartiles] = spread(ratio.measured, hundredths);
    let goal = ratio.goal();
    let (bound, verdict) = (bound(&goal), verdict(&goal));
    vec![goal.what, median, quartiles, instructions, bound, verdict]
}

fn goal_heading() -> Vec<String> {
    ["", "median", "quartiles", "goal", ""].map(String::from).to_vec()
}

fn goal_row(goal: &Goal) -> Vec<String> {
    let format = if goal.unit.is_empty() { hundredths } else { |value| fine(Some(value)) };
    let [median, quartiles] = spread(goal.measured, format);
    vec![goal.what.clone(), median, quartiles, bound(goal), verdict(goal)]
}

fn spread(measured: Option<Quartiles>, format: fn(f64) -> String) -> [String; 2] {
    measured.map_or(["–".to_owned(), "–".to_owned()], |Quartiles { lower, median, upper }| {
        [format(median), format!("{} – {}", format(lower), format(upper))]
    })
}

fn bound(goal: &Goal) -> String {
    let bound = goal.at_most.map_or(String::new(), |at_most| format!("≤ {at_most} {}", goal.unit));
    bound.trim_end().to_owned()
}

fn verdict(goal: &Goal) -> String {
    let verdict = match goal.verdict() {
        Verdict::NotAsked => "",
        Verdict::NotMeasured => "not measured",
        Verdict::Met => "met",
        Verdict::Missed => "**missed**",
    };
    verdict.to_owned()
}

fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}

fn number(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.0}"))
}

/// A count; where it is not that of every process, also the least and the most.
fn count(count: Option<Count>, format: fn(Option<f64>) -> String) -> String {
    let Some(Count { least, median, most }) = count else { return format(None) };
    let text = format(Some(median));
    if most - least <= median.abs() * COUNT_SPREAD {
        text
    } else {
        format!("{text} ({} – {})", format(Some(least)), format(Some(most)))
    }
}

/// Processes whose counts differ by less than this part of them count the same.
const COUNT_SPREAD: f64 = 0.02;

/// A number that is nearly always whole.
fn fine(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if (value - value.round()).abs() < 0.005 => format!("{value:.0}"),
        Some(value) => hundredths(value),
    }
}

/// Markdown, with its columns in line. The first column is text, the others are numbers.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = " ".repeat(width - cell.chars().count());
            let _ = if column == 0 { write!(text, "| {cell}{gap} ") } else { write!(text, "| {gap}{cell} ") };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(width - usize::from(column > 0));
                let _ = if column == 0 { write!(text, "| {dashes} ") } else { write!(text, "| {dashes}: ") };
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{PlotKind, Table};
    use super::*;

    #[test]
    fn columns_are_in_line() {
        let rows = [["", "ns"], ["fastrace", "406"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows), "|          |  ns |\n| -------- | --: |\n| fastrace | 406 |\n");
    }

    #[test]
    fn whole_numbers_show_no_fraction() {
        assert_eq!([Some(8.0), Some(8.004), Some(0.25), None].map(fine), ["8", "8", "0.25", "–"]);
    }

    #[test]
    fn a_goal_is_met_by_its_upper_quartile() {
        let goal = |values: &[f64]| goal_row(&Goal::ratio("a ÷ b", values, Some(0.5)));
        assert_eq!(goal(&[0.4, 0.4, 0.4]), ["a ÷ b", "0.40", "0.40 – 0.40", "≤ 0.5", "met"]);
        assert_eq!(goal(&[0.4, 0.4, 0.7]), ["a ÷ b", "0.40", "0.40 – 0.55", "≤ 0.5", "**missed**"]);
        assert_eq!(goal(&[])[4], "not measured");
        assert_eq!(goal(&[-0.4, 0.1, 0.2])[4], "not measured");
        let lost = goal_row(&Goal::figure("lost", "spans", &[0.0, 12.0], Some(0.0)));
        assert_eq!(lost, ["lost", "6", "3 – 9", "≤ 0 spans", "**missed**"]);
        assert_eq!(goal_row(&Goal::ratio("shown", &[0.4], None))[3..], ["", ""]);
    }

    fn bench() -> BenchResult {
        let plot = Plot {
            file: "memory".to_owned(),
            title: "memory over time".to_owned(),
            kind: PlotKind::Bars { unit: "MiB".to_owned(), bars: Vec::new() },
        };
        BenchResult {
            name: "service".to_owned(),
            question: "What?".to_owned(),
            repetitions: 1,
            cases: Vec::new(),
            sections: vec![Section {
                title: "memory".to_owned(),
                note: "Of the process.".to_owned(),
                tables: vec![Table { rows: vec![vec!["".to_owned(), "MiB".to_owned()]] }],
                plots: vec![plot],
                goals: vec![Goal::ratio("a ÷ b", &[0.4], Some(0.5)), Goal::ratio("shown", &[0.4], None)],
            }],
        }
    }

    #[test]
    fn pictures_are_shown_in_files_only() {
        let text = answer(&bench(), Medium::File { plots: "plots" });
        let start = "## service\n\nWhat?\n\n### memory\n\nOf the process.\n\n![memory over time](plots/memory.svg)\n\n|     | MiB |\n";
        assert!(text.starts_with(start), "{text}");
        let text = answer(&bench(), Medium::Terminal);
        assert!(
            text.starts_with("## service\n\nWhat?\n\n### memory\n\nOf the process.\n\n|     | MiB |\n"),
            "{text}"
        );
    }

    #[test]
    fn the_summary_says_where_a_goal_belongs() {
        let summary = summary(&[bench()]);
        assert!(summary.starts_with("## Goals\n\n1 of 1 are met.\n"), "{summary}");
        assert!(summary.contains("| service, memory: a ÷ b |"), "{summary}");
    }
}
