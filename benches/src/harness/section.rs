//! What a bench has to say beyond bursts: tables, plots and goals of its own.

use serde::{Deserialize, Serialize};

use super::statistics::Quartiles;

/// A part of a bench's answer, below a heading.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) title: String,
    /// How it was measured, where that differs from the rest. Markdown.
    pub(crate) note: String,
    pub(crate) tables: Vec<Table>,
    pub(crate) plots: Vec<Plot>,
    /// Shown below the tables, and in the summary of all goals.
    pub(crate) goals: Vec<Goal>,
}

/// Rows of cells, the first one of them the heading. The first column is text, the others are numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Vec<String>>,
}

/// What is to be reached: met when the upper quartile is within the bound.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Goal {
    pub(crate) what: String,
    /// `None` if the figure is only shown, beside others that have a goal.
    pub(crate) at_most: Option<f64>,
    /// Nothing for a ratio.
    pub(crate) unit: String,
    /// `None` if nothing was measured.
    pub(crate) measured: Option<Quartiles>,
}

/// What became of a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    NotAsked,
    NotMeasured,
    Met,
    Missed,
}

/// A picture beside the results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plot {
    /// The name of its file, without what says that it is an SVG.
    pub(crate) file: String,
    pub(crate) title: String,
    pub(crate) kind: PlotKind,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum PlotKind {
    /// One bar for each name, with its value to its right, the shortest on top; those of this workspace stand out.
    Bars { unit: String, bars: Vec<Bar> },
    /// How something goes along an axis.
    Lines { x: Axis, y: Axis, series: Vec<Series> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) ours: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Axis {
    /// What is counted, with its unit.
    pub(crate) label: String,
    pub(crate) logarithmic: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) ours: bool,
}

impl Goal {
    /// A goal for a ratio, from its value in each repetition.
    pub(crate) fn ratio(what: impl Into<String>, ratios: &[f64], at_most: Option<f64>) -> Self {
        Self { what: what.into(), at_most, unit: String::new(), measured: Quartiles::of(ratios) }
    }

    /// A goal for what is counted in a unit, from its value in each repetition.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the benches to come"))]
    pub(crate) fn figure(what: impl Into<String>, unit: &str, values: &[f64], at_most: Option<f64>) -> Self {
        Self { unit: unit.to_owned(), ..Self::ratio(what, values, at_most) }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match (self.at_most, self.measured) {
            (None, _) => Verdict::NotAsked,
            (Some(_), None) => Verdict::NotMeasured,
            // What is compared is less than what disturbs it: nothing costs less than nothing.
            (Some(_), Some(measured)) if measured.lower < 0.0 => Verdict::NotMeasured,
            (Some(at_most), Some(measured)) if measured.upper <= at_most => Verdict::Met,
            (Some(_), Some(_)) => Verdict::Missed,
        }
    }
}
