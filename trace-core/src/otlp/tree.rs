//! The spans of a trace, joined: who caused whom, whether anything is missing, and how it reads on a terminal.
//!
//! Spans come in any order and from several processes, so a tree may have gaps. Nothing is hidden for it: a span whose
//! parent is not there stands at the top, and [`TraceTree::check`] names it.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::time::Duration;

use super::{OwnedValue, SpanData};
use crate::{SpanId, SpanKind, TraceId};

/// The spans of one trace as a tree.
///
/// [`Display`](fmt::Display) prints it for a person, one span a line: the service, the name under its parent's, a bar
/// that shows when the span ran, its duration, its kind, its outcome and what it spoke to.
///
/// ```text
/// trace 0af7651916cd43dd8448eb211c80319c · 2 services · 3 spans · 12.4 ms
///
/// gateway  POST /orders        ████████████████████  12.4 ms  server  201
/// gateway  └─ POST              █████████████████    11.0 ms  client  201
/// orders      └─ POST /orders     ██████████████     9.02 ms  server  201
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TraceTree {
    trace_id: TraceId,
    /// By their start.
    spans: Vec<SpanData>,
    /// Of each span, in the order of `spans`.
    children: Vec<Vec<usize>>,
    /// The spans whose parent is not here, in the order of `spans`.
    tops: Vec<usize>,
    end_unix_nano: u64,
}

/// Why the spans of a trace are not one whole tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TreeError {
    /// Every span has a parent.
    NoRoot,
    /// More than one span has no parent: their names.
    SeveralRoots(Vec<String>),
    /// A span's parent is not there.
    Orphan {
        /// The name of the span.
        name: String,
        /// The id of the span.
        span_id: SpanId,
        /// The id of the parent that is missing.
        parent_span_id: SpanId,
    },
    /// Two spans have the same id.
    Duplicate(SpanId),
    /// A span is its own ancestor.
    Cycle(SpanId),
}

/// How a tree is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TreeStyle {
    /// Without colours: for files, pipes and tests.
    #[default]
    Plain,
    /// With the colours of an ANSI terminal.
    Ansi,
}

impl TraceTree {
    /// Sorts spans into the trees of their traces; the trace whose first span comes first is at the front.
    pub fn group(spans: impl IntoIterator<Item = SpanData>) -> Vec<Self> {
        let mut places = HashMap::new();
        let mut traces: Vec<(TraceId, Vec<SpanData>)> = Vec::new();
        for span in spans {
            let place = *places.entry(span.trace_id).or_insert_with(|| {
                traces.push((span.trace_id, Vec::new()));
                traces.len() - 1
            });
            traces[place].1.push(span);
        }
        traces.into_iter().map(|(trace_id, spans)| Self::join(trace_id, spans)).collect()
    }

    /// The tree of the spans that belong to this trace; empty when there is none.
    pub fn of(trace_id: TraceId, spans: impl IntoIterator<Item = SpanData>) -> Self {
        Self::join(trace_id, spans.into_iter().filter(|span| span.trace_id == trace_id).collect())
    }

    fn join(trace_id: TraceId, mut spans: Vec<SpanData>) -> Self {
        spans.sort_by_key(|span| span.start_unix_nano);
        let mut places = HashMap::with_capacity(spans.len());
        for (place, span) in spans.iter().enumerate() {
            places.entry(span.span_id).or_insert(place);
        }
        let mut children = vec![Vec::new(); spans.len()];
        let mut tops = Vec::new();
        for (place, span) in spans.iter().enumerate() {
            match span.parent_span_id.and_then(|parent| places.get(&parent)) {
                Some(&parent) => children[parent].push(place),
                None => tops.push(place),
            }
        }
        let end_unix_nano = spans.iter().map(|span| span.end_unix_nano).max().unwrap_or(0);
        Self { trace_id, spans, children, tops, end_unix_nano }
    }

    /// The id of the trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The spans by their start.
    pub fn spans(&self) -> &[SpanData] {
        &self.spans
    }

    /// The span without a parent that started first.
    pub fn root(&self) -> Option<&SpanData> {
        self.spans.iter().find(|span| span.parent_span_id.is_none())
    }

    /// The span with this id.
    pub fn get(&self, span_id: SpanId) -> Option<&SpanData> {
        self.spans.iter().find(|span| span.span_id == span_id)
    }

    /// The spans that name this one as their parent, by their start.
    pub fn children(&self, span_id: SpanId) -> impl Iterator<Item = &SpanData> {
        let place = self.spans.iter().position(|span| span.span_id == span_id);
        let children = place.map_or(&[][..], |place| &self.children[place]);
        children.iter().map(|&child| &self.spans[child])
    }

    /// Every span with its depth, a parent before its children. What stands at the top has depth zero.
    pub fn walk(&self) -> impl Iterator<Item = (usize, &SpanData)> {
        self.lines().into_iter().map(|line| (line.depth, &self.spans[line.place]))
    }

    /// The names of the services in the order in which the trace reached them.
    pub fn services(&self) -> Vec<&str> {
        let mut services = Vec::new();
        for span in &self.spans {
            if !services.contains(&span.service_name()) {
                services.push(span.service_name());
            }
        }
        services
    }

    /// How many spans ended in an error.
    pub fn errors(&self) -> usize {
        self.spans.iter().filter(|span| span.is_error()).count()
    }

    /// When the first span started, in nanoseconds since 1970-01-01 00:00 UTC; zero for an empty tree.
    pub fn start_unix_nano(&self) -> u64 {
        self.spans.first().map_or(0, |span| span.start_unix_nano)
    }

    /// From the start of the first span to the end of the last.
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.end_unix_nano.saturating_sub(self.start_unix_nano()))
    }

    /// Whether this is one whole tree: one root, every other span's parent there, no id twice.
    ///
    /// # Errors
    /// The first thing that is wrong, what is wrong with ids before what is wrong with parents.
    pub fn check(&self) -> Result<(), TreeError> {
        self.check_parents(None)
    }

    /// The same for a trace that somebody else began: exactly one span, the first, has this parent, which is not here.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_under(&self, parent: SpanId) -> Result<(), TreeError> {
        self.check_parents(Some(parent))
    }

    fn check_parents(&self, caller: Option<SpanId>) -> Result<(), TreeError> {
        let mut seen = HashMap::new();
        for span in &self.spans {
            if seen.insert(span.span_id, ()).is_some() {
                return Err(TreeError::Duplicate(span.span_id));
            }
        }
        let mut roots = Vec::new();
        for &place in &self.tops {
            let span = &self.spans[place];
            match span.parent_span_id {
                parent if parent == caller => roots.push(span.name.clone()),
                None => roots.push(span.name.clone()),
                Some(parent_span_id) => {
                    return Err(TreeError::Orphan {
                        name: span.name.clone(),
                        span_id: span.span_id,
                        parent_span_id,
                    });
                }
            }
        }
        let mut reached = vec![false; self.spans.len()];
        for line in self.lines_below(&self.tops) {
            reached[line.place] = true;
        }
        if let Some(place) = reached.iter().position(|reached| !reached) {
            return Err(TreeError::Cycle(self.spans[place].span_id));
        }
        match roots.len() {
            0 => Err(TreeError::NoRoot),
            1 => Ok(()),
            _ => Err(TreeError::SeveralRoots(roots)),
        }
    }

    /// The tree without ids and times: two traces of the same request have equal shapes. One line a span, indented,
    /// with service, name and kind; siblings are sorted by their text, because concurrent ones have no order. The text
    /// grows with the depth of each span: it is made for tests, not for traces of strangers.
    pub fn shape(&self) -> String {
        // Post-order without recursion: a hostile trace may be as deep as it has spans.
        let mut shapes: Vec<String> = vec![String::new(); self.spans.len()];
        let mut tops = Vec::new();
        for line in self.lines().into_iter().rev() {
            let span = &self.spans[line.place];
            let mut below: Vec<String> =
                self.children[line.place].iter().map(|&child| std::mem::take(&mut shapes[child])).collect();
            below.sort_unstable();
            let mut shape = String::new();
            let _ = writeln!(
                shape,
                "{:indent$}{}: {} ({})",
                "",
                span.service_name(),
                span.name,
                span.kind.as_str(),
                indent = 2 * line.depth
            );
            shape.extend(below);
            if line.depth == 0 {
                tops.push(shape);
            } else {
                shapes[line.place] = shape;
            }
        }
        tops.sort_unstable();
        tops.concat()
    }

    /// Prints the tree in this style.
    pub fn styled(&self, style: TreeStyle) -> impl fmt::Display + '_ {
        Styled { tree: self, style }
    }

    /// Every span once: what is below the tops, then what hangs in a cycle.
    fn lines(&self) -> Vec<Line> {
        let mut lines = self.lines_below(&self.tops);
        if lines.len() < self.spans.len() {
            let mut reached = vec![false; self.spans.len()];
            for line in &lines {
                reached[line.place] = true;
            }
            let lost = (0..self.spans.len()).filter(|&place| !reached[place]);
            lines.extend(lost.map(|place| Line { place, depth: 0, last: true }));
        }
        lines
    }

    fn lines_below(&self, tops: &[usize]) -> Vec<Line> {
        let mut lines = Vec::with_capacity(self.spans.len());
        let mut open: Vec<Line> =
            tops.iter().rev().map(|&place| Line { place, depth: 0, last: true }).collect();
        while let Some(line) = open.pop() {
            let children = &self.children[line.place];
            for (index, &place) in children.iter().enumerate().rev() {
                open.push(Line { place, depth: line.depth + 1, last: index + 1 == children.len() });
            }
            lines.push(line);
        }
        lines
    }
}

/// A span's place in the printed tree.
struct Line {
    place: usize,
    depth: usize,
    /// No sibling follows.
    last: bool,
}

impl fmt::Display for TraceTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.styled(TreeStyle::Plain).fmt(f)
    }
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoot => f.write_str("no span is the root"),
            Self::SeveralRoots(names) => {
                write!(f, "{} spans have no parent: {}", names.len(), names.join(", "))
            }
            Self::Orphan { name, span_id, parent_span_id } => {
                write!(f, "the parent {parent_span_id} of the span {name:?} ({span_id}) is not there")
            }
            Self::Duplicate(span_id) => write!(f, "two spans have the id {span_id}"),
            Self::Cycle(span_id) => write!(f, "the span {span_id} is its own ancestor"),
        }
    }
}

impl std::error::Error for TreeError {}

struct Styled<'a> {
    tree: &'a TraceTree,
    style: TreeStyle,
}

/// The bar of a span is this many columns wide: what is left of 120 columns beside names and outcomes.
const BAR_COLUMNS: usize = 28;

/// Deeper spans are printed at this depth, so that a chain of thousands stays readable.
const DEPTH_MAX: usize = 24;

/// What a span spoke to is cut at this many characters.
const DETAIL_CHARS_MAX: usize = 60;

/// A name is cut at this many characters.
const NAME_CHARS_MAX: usize = 60;

impl fmt::Display for Styled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = self.tree;
        self.head(f)?;
        let services = tree.services();
        let service_columns =
            services.iter().map(|name| cleaned(name, 24).chars().count()).max().unwrap_or(0);
        let lines = tree.lines();
        let mut rails: Vec<bool> = Vec::new();
        let names: Vec<(String, String)> = lines
            .iter()
            .map(|line| (rail(&mut rails, line), cleaned(&tree.spans[line.place].name, NAME_CHARS_MAX)))
            .collect();
        let columns = |(rail, name): &(String, String)| rail.chars().count() + name.chars().count();
        let name_columns = names.iter().map(columns).max().unwrap_or(0);
        for (line, name) in lines.iter().zip(&names) {
            let span = &tree.spans[line.place];
            let service = cleaned(span.service_name(), 24);
            let ordinal = services.iter().position(|name| *name == span.service_name()).unwrap_or(0);
            let padding = name_columns - columns(name);
            let colour = Paint(self.style, SERVICE_COLOURS[ordinal % SERVICE_COLOURS.len()]);
            let dim = Paint(self.style, "2");
            write!(f, "{}", colour.over(format_args!("{service:service_columns$}")))?;
            write!(f, "  {}{}", dim.over(format_args!("{}", name.0)), name.1)?;
            write!(f, "{:padding$}  {}", "", colour.over(format_args!("{}", self.bar(span))))?;
            write!(f, "  {:>8}", short(span.duration()))?;
            let mut rest = String::new();
            if let Some(outcome) = outcome(span) {
                let _ = write!(rest, "  {outcome}");
            }
            if span.is_error() {
                let what = span.attribute("error.type").map_or_else(String::new, |what| format!(" {what}"));
                let failed = Paint(self.style, "1;31");
                let _ =
                    write!(rest, "  {}", failed.over(format_args!("✗{}", cleaned(&what, DETAIL_CHARS_MAX))));
            }
            if let Some(detail) = detail(span) {
                let _ =
                    write!(rest, "  {}", dim.over(format_args!("{}", cleaned(&detail, DETAIL_CHARS_MAX))));
            }
            let kind = if span.kind == SpanKind::Internal { "" } else { span.kind.as_str() };
            let kind_columns = if rest.is_empty() { 0 } else { 8 };
            if kind.len() + kind_columns > 0 {
                write!(f, "  {}", dim.over(format_args!("{kind:kind_columns$}")))?;
            }
            writeln!(f, "{rest}")?;
        }
        Ok(())
    }
}

impl Styled<'_> {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = self.tree;
        let bold = Paint(self.style, "1");
        write!(f, "trace {}", bold.over(format_args!("{}", tree.trace_id)))?;
        write!(f, " · {}", counted(tree.services().len(), "service"))?;
        write!(f, " · {}", counted(tree.spans.len(), "span"))?;
        write!(f, " · {}", short(tree.duration()))?;
        if tree.errors() > 0 {
            let failed = Paint(self.style, "1;31");
            write!(f, " · {}", failed.over(format_args!("{}", counted(tree.errors(), "error"))))?;
        }
        f.write_str("\n\n")
    }

    /// When the span ran, within the trace. Every span shows at least one column.
    fn bar(&self, span: &SpanData) -> String {
        let whole = (self.tree.duration().as_nanos() as f64).max(1.0);
        let column = |nanos: u64| {
            let part = nanos.saturating_sub(self.tree.start_unix_nano()) as f64 / whole;
            // Within the bar even for a span whose clock is elsewhere.
            ((part * BAR_COLUMNS as f64).round() as usize).min(BAR_COLUMNS)
        };
        let from = column(span.start_unix_nano).min(BAR_COLUMNS - 1);
        let to = column(span.end_unix_nano).max(from + 1);
        format!("{}{}{}", " ".repeat(from), "█".repeat(to - from), " ".repeat(BAR_COLUMNS - to))
    }
}

/// One colour each for the services, apart from red, which says that something failed.
const SERVICE_COLOURS: [&str; 5] = ["36", "32", "35", "33", "34"];

/// Text between an ANSI sequence and its end, or bare.
struct Paint(TreeStyle, &'static str);

impl Paint {
    fn over<'a>(&'a self, text: fmt::Arguments<'a>) -> Painted<'a> {
        Painted(self, text)
    }
}

struct Painted<'a>(&'a Paint, fmt::Arguments<'a>);

impl fmt::Display for Painted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.0 {
            TreeStyle::Plain => f.write_fmt(self.1),
            TreeStyle::Ansi => write!(f, "\x1b[{}m{}\x1b[0m", self.0.1, self.1),
        }
    }
}

/// The lines that lead to a span from its parent. `rails` holds, for each depth, whether a sibling still follows there.
fn rail(rails: &mut Vec<bool>, line: &Line) -> String {
    if line.depth == 0 {
        rails.clear();
        return String::new();
    }
    rails.truncate(line.depth - 1);
    let mut text = String::new();
    for &goes_on in rails.iter().take(DEPTH_MAX) {
        text.push_str(if goes_on { "│  " } else { "   " });
    }
    rails.push(!line.last);
    if line.depth > DEPTH_MAX {
        let _ = write!(text, "{}⋯ ", line.depth);
    } else {
        text.push_str(if line.last { "└─ " } else { "├─ " });
    }
    text
}

/// The protocol's own word for how it went.
fn outcome(span: &SpanData) -> Option<String> {
    let code = ["http.response.status_code", "rpc.status_code", "db.response.status_code"]
        .into_iter()
        .find_map(|key| span.attribute(key))?;
    Some(cleaned(&code.to_string(), 24))
}

/// What a person asks next about a span of this kind.
fn detail(span: &SpanData) -> Option<String> {
    let mut detail = String::new();
    if let Some(OwnedValue::I64(count)) = span.attribute("http.request.resend_count") {
        let _ = write!(detail, "resend {count}  ");
    }
    let told = ["db.query.text", "url.full"].into_iter().find_map(|key| span.attribute(key));
    match (told, span.kind) {
        (Some(text), _) => detail.push_str(&text.to_string()),
        (None, SpanKind::Client) => {
            if let Some(address) = span.attribute("server.address") {
                let _ = write!(detail, "{address}");
            }
            if let Some(port) = span.attribute("server.port") {
                let _ = write!(detail, ":{port}");
            }
        }
        (None, SpanKind::Server) => {
            if let Some(path) = span.attribute("url.path") {
                let _ = write!(detail, "{path}");
            }
        }
        (None, _) => {}
    }
    (!detail.is_empty()).then_some(detail)
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Three digits and a unit: what a person compares at a glance.
fn short(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos} ns"),
        1_000..1_000_000 => (nanos as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    let decimals = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// Text from outside, safe on a terminal: no control characters, nothing that turns the writing round, and no longer
/// than it should be.
fn cleaned(text: &str, chars_max: usize) -> String {
    let mut clean = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == chars_max {
            clean.push('…');
            break;
        }
        match character {
            '\n' | '\r' | '\t' => clean.push(' '),
            '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'
            | '\u{2029}' => {
                clean.push('\u{fffd}');
            }
            character if character.is_control() => clean.push('\u{fffd}'),
            character => clean.push(character),
        }
    }
    clean
}

#[cfg(test)]
mod tests;
