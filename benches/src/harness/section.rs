//! What a bench has to say beyond bursts: tables and plots of its own.

/// A part of a bench's answer, below a heading.
pub(crate) struct Section {
    pub(crate) title: String,
    /// How it was measured, where that differs from the rest. Markdown.
    pub(crate) note: String,
    pub(crate) tables: Vec<Table>,
    pub(crate) plots: Vec<Plot>,
    pub(crate) goals: Vec<Goal>,
}

/// Two things compared: the ratio in each repetition, and the goal for its upper quartile, if there is one.
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) at_most: Option<f64>,
    pub(crate) ratios: Vec<f64>,
}

/// Rows of cells, the first one of them the heading. The first column is text, the others are numbers.
pub(crate) struct Table {
    pub(crate) rows: Vec<Vec<String>>,
}

/// A picture beside the results.
pub(crate) struct Plot {
    /// The name of its file, without what says that it is an SVG.
    pub(crate) file: String,
    pub(crate) title: String,
    pub(crate) kind: PlotKind,
}

pub(crate) enum PlotKind {
    /// One bar for each name, with the text to its right; those of this workspace stand out.
    Bars { unit: String, bars: Vec<Bar> },
    /// How something goes along an axis.
    Lines { x: Axis, y: Axis, series: Vec<Series> },
}

pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) ours: bool,
}

pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) logarithmic: bool,
}

pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) ours: bool,
}

impl Goal {
    pub(crate) fn ratio(what: impl Into<String>, ratios: &[f64], at_most: Option<f64>) -> Self {
        Self { what: what.into(), at_most, ratios: ratios.to_vec() }
    }
}
