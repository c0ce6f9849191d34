//! The answers as text: tables that read the same in a terminal and as markdown.

use std::fmt::Write;

use super::child::Costs;
use super::runner::{Answer, Measured};
use super::statistics::{least, median, quantile};
use super::{Bench, Clock, Machine, Ratio, Section};

/// What is printed, and written to a file if that is wanted.
pub(crate) struct Report {
    text: String,
}

impl Report {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self { text: format!("# Results\n\n{HOW}\n\n{machine}\n") }
    }

    pub(crate) fn add(&mut self, bench: &Bench, answers: &[Answer]) -> &str {
        let before = self.text.len();
        let text = &mut self.text;
        let _ = write!(text, "\n## {}\n\n{}\n", bench.name, bench.question);
        for answer in answers {
            let _ = write!(text, "\n### {}\n\n{}", answer.case.name, table(&costs(answer)));
            let ratios: Vec<_> =
                answer.case.ratios.iter().filter_map(|ratio| ratio_row(answer, ratio)).collect();
            if !ratios.is_empty() {
                let _ = write!(text, "\n{}", table(&[vec![ratio_heading()], ratios].concat()));
            }
            for measured in &answer.measured {
                if let Some(failure) = &measured.failure {
                    let _ = write!(text, "\n`{}` failed: {failure}\n", measured.entry.name);
                }
            }
        }
        &self.text[before..]
    }

    pub(crate) fn add_sections(&mut self, sections: &[Section]) -> &str {
        let before = self.text.len();
        for section in sections {
            let _ = write!(self.text, "\n### {}\n\n{}\n", section.title, section.note);
            for rows in section.tables.iter().map(|table| &table.rows) {
                let _ = write!(self.text, "\n{}", table(rows));
            }
            let ratios: Vec<_> = section
                .goals
                .iter()
                .map(|goal| ratio_cells(goal.what.clone(), &goal.ratios, goal.at_most))
                .collect();
            if !ratios.is_empty() {
                let _ = write!(self.text, "\n{}", table(&[vec![ratio_heading()], ratios].concat()));
            }
        }
        &self.text[before..]
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

const HOW: &str = "\
One unit of work each, in bursts of some 400 spans. *ns*: CPU time of the working thread, the quietest of the \
repetitions, and their median. *to socket*: CPU time of the whole process until everything is sent, median. \
Instructions are callgrind's, of the working thread; allocations are those of the working thread, by the system's \
allocator. *attributes*: those of the span as it arrived at the collector. Ratios are of the working thread's time \
unless they say *to socket*, each taken between neighbours in one repetition; a goal is met when the upper quartile \
meets it.";

fn costs(answer: &Answer) -> Vec<Vec<String>> {
    let case = answer.case;
    let base = case.added_to.and_then(|name| find(answer, name));
    let name = case.added_to.map_or(String::new(), |name| format!("added to *{name}*"));
    let mut heading = vec![name];
    let columns = ["ns", "ns, median", "to socket", "instructions", "allocations", "bytes", "attributes"];
    heading.extend(columns.map(String::from));
    let mut rows = vec![heading];
    for measured in &answer.measured {
        let base = base.filter(|base| !std::ptr::eq(*base, measured));
        let added = |of: fn(&Costs) -> f64| -> Vec<f64> { pairs(measured, base, of) };
        let thread = added(|costs| costs.thread_ns);
        let instructions =
            measured.instructions.map(|all| all - base.and_then(|b| b.instructions).unwrap_or(0.0));
        rows.push(vec![
            measured.entry.name.to_owned(),
            number(least(&thread)),
            number(median(&thread)),
            number(median(&added(|costs| costs.process_ns))),
            instructions.map_or("–".to_owned(), number),
            fine(median(&added(|costs| costs.allocations))),
            number(median(&added(|costs| costs.bytes))),
            measured.arrived.as_ref().map_or("–".to_owned(), |arrived| arrived.attributes.to_string()),
        ]);
    }
    rows
}

fn ratio_row(answer: &Answer, ratio: &Ratio) -> Option<Vec<String>> {
    let base = answer.case.added_to.and_then(|name| find(answer, name));
    let (of, to) = (find(answer, ratio.of)?, find(answer, ratio.to)?);
    let clock: fn(&Costs) -> f64 = match ratio.clock {
        Clock::Thread => |costs| costs.thread_ns,
        Clock::Process => |costs| costs.process_ns,
    };
    let ratios: Vec<f64> =
        pairs(of, base, clock).into_iter().zip(pairs(to, base, clock)).map(|(of, to)| of / to).collect();
    let clock = match ratio.clock {
        Clock::Thread => "",
        Clock::Process => ", to socket",
    };
    Some(ratio_cells(format!("{} ÷ {}{clock}", ratio.of, ratio.to), &ratios, ratio.at_most))
}

fn ratio_heading() -> Vec<String> {
    ["", "median", "quartiles", "goal", ""].map(String::from).to_vec()
}

fn ratio_cells(what: String, ratios: &[f64], at_most: Option<f64>) -> Vec<String> {
    let upper = quantile(ratios, 0.75);
    vec![
        what,
        format!("{:.2}", median(ratios)),
        format!("{:.2} – {upper:.2}", quantile(ratios, 0.25)),
        at_most.map_or(String::new(), |goal| format!("≤ {goal}")),
        match at_most {
            Some(goal) if upper <= goal => "met".to_owned(),
            Some(_) => "**missed**".to_owned(),
            None => String::new(),
        },
    ]
}

/// A cost in each repetition, less that of the base in the same one.
fn pairs(measured: &Measured, base: Option<&Measured>, of: fn(&Costs) -> f64) -> Vec<f64> {
    let costs = measured.costs.iter().map(of);
    match base {
        Some(base) => costs.zip(base.costs.iter().map(of)).map(|(cost, base)| cost - base).collect(),
        None => costs.collect(),
    }
}

fn find<'a>(answer: &'a Answer, name: &str) -> Option<&'a Measured> {
    answer.measured.iter().find(|measured| measured.entry.name == name)
}

fn number(value: f64) -> String {
    if value.is_nan() { "–".to_owned() } else { format!("{value:.0}") }
}

/// A number that is nearly always whole.
fn fine(value: f64) -> String {
    match value {
        value if value.is_nan() => "–".to_owned(),
        value if (value - value.round()).abs() < 0.005 => format!("{value:.0}"),
        value => format!("{value:.2}"),
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
    use super::*;

    #[test]
    fn columns_are_in_line() {
        let rows = [["", "ns"], ["fastrace", "406"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows), "|          |  ns |\n| -------- | --: |\n| fastrace | 406 |\n");
    }

    #[test]
    fn whole_numbers_show_no_fraction() {
        assert_eq!([fine(8.0), fine(8.004), fine(0.25), fine(f64::NAN)], ["8", "8", "0.25", "–"]);
    }
}
