//! Pictures beside the results, as SVG: written by hand, because whoever draws text without its font has to guess how long it is, and
//! then a name is best set to the left of its end, which SVG does by itself.
//!
//! They bring a background of their own, so that they are read on light and on dark pages.

use std::fmt::Write;

use super::{Axis, Bar, Plot, PlotKind, Series};

/// The picture as the text of an SVG file.
pub(crate) fn draw(plot: &Plot) -> String {
    match &plot.kind {
        PlotKind::Bars { unit, bars } => draw_bars(&plot.title, unit, bars),
        PlotKind::Lines { x, y, series } => draw_lines(&plot.title, x, y, series),
    }
}

/// What a page of GitHub shows without making it smaller.
const WIDTH: f64 = 800.0;
const MARGIN: f64 = 24.0;
/// Where what belongs to the title ends.
const HEAD: f64 = 56.0;
const TEXT_SIZE: f64 = 13.0;
/// Wide for a letter of [`TEXT_SIZE`] in any of the fonts, so that nothing is cut.
const LETTER: f64 = 7.4;
const TITLE_SIZE: f64 = 15.0;
/// Of a bold letter, as a part of the text's size.
const TITLE_LETTER: f64 = 0.53;

const FONTS: &str = "-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif";
const BACKGROUND: &str = "#ffffff";
const FRAME: &str = "#d0d7de";
const INK: &str = "#1f2328";
const PALE_INK: &str = "#59636e";
const OURS: &str = "#0969da";
const PEERS: &str = "#b6bfc9";
/// Of lines that are not ours, apart from each other also for who sees no colours: from dark to light.
const PEER_LINES: [&str; 6] = ["#953800", "#1a7f37", "#8250df", "#d4a72c", "#6e7781", "#e85aad"];

fn draw_bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    const STEP: f64 = 30.0;
    const THICKNESS: f64 = 18.0;
    let mut bars: Vec<&Bar> = bars.iter().collect();
    bars.sort_by(|a, b| a.value.total_cmp(&b.value));
    let values: Vec<String> = bars.iter().map(|bar| format!("{} {unit}", three_digits(bar.value))).collect();
    let longest = |texts: &mut dyn Iterator<Item = &str>| {
        texts.map(|text| text.chars().count()).max().unwrap_or(0) as f64 * LETTER
    };
    let left = MARGIN + longest(&mut bars.iter().map(|bar| &*bar.name)) + 10.0;
    let right = WIDTH - MARGIN - longest(&mut values.iter().map(|value| &**value)) - 10.0;
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);

    let height = HEAD + bars.len() as f64 * STEP + MARGIN / 2.0;
    let mut svg = Svg::new(title, height);
    for (index, (bar, value)) in bars.iter().zip(&values).enumerate() {
        let middle = HEAD + (index as f64 + 0.5) * STEP;
        // What is less than nothing is noise of what it is added to.
        let length = ((right - left) * bar.value.max(0.0) / most).max(1.0);
        let (colour, weight) = if bar.ours { (OURS, Weight::Bold) } else { (PEERS, Weight::Normal) };
        let top = middle - THICKNESS / 2.0;
        svg.rectangle((left, top), (length, THICKNESS), colour);
        svg.text((left - 10.0, middle), Anchor::End, weight, INK, &bar.name);
        svg.text((left + length + 8.0, middle), Anchor::Start, weight, INK, value);
    }
    svg.finish()
}

fn draw_lines(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    const HEIGHT: f64 = 420.0;
    const LEFT: f64 = MARGIN + 48.0;
    const RIGHT: f64 = WIDTH - MARGIN - 8.0;
    const BOTTOM: f64 = HEIGHT - 60.0;
    let mut svg = Svg::new(title, HEIGHT);
    let mut names = Legend { x: MARGIN, y: HEAD + 4.0 };
    let peers = series.iter().filter(|one| !one.ours).zip(PEER_LINES.into_iter().cycle());
    let ours = series.iter().filter(|one| one.ours).map(|one| (one, OURS));
    for (one, colour) in ours.clone().chain(peers.clone()) {
        names.add(&mut svg, one, colour);
    }
    // The y axis' label has a line of its own above the axis, where it is read without turning the head.
    let label = names.y + 28.0;
    svg.text((MARGIN, label), Anchor::Start, Weight::Normal, PALE_INK, &y.label);
    let top = label + 22.0;

    let points = || series.iter().flat_map(|one| &one.points);
    let across = Scale::new(x, points().map(|point| point.0), (LEFT, RIGHT));
    let along = Scale::new(y, points().map(|point| point.1), (BOTTOM, top));
    for tick in along.ticks() {
        let place = along.place(tick);
        svg.line(&[(LEFT, place), (RIGHT, place)], FRAME, 1.0);
        svg.text((LEFT - 8.0, place), Anchor::End, Weight::Normal, PALE_INK, &short(tick));
    }
    for tick in across.ticks() {
        let place = across.place(tick);
        svg.line(&[(place, BOTTOM), (place, BOTTOM + 5.0)], PALE_INK, 1.0);
        svg.text((place, BOTTOM + 17.0), Anchor::Middle, Weight::Normal, PALE_INK, &short(tick));
    }
    svg.line(&[(LEFT, BOTTOM), (RIGHT, BOTTOM)], PALE_INK, 1.0);
    svg.text(((LEFT + RIGHT) / 2.0, BOTTOM + 40.0), Anchor::Middle, Weight::Normal, PALE_INK, &x.label);
    // Ours is drawn last, so that it lies on top.
    for (one, colour) in peers.chain(ours) {
        let line: Vec<_> =
            one.points.iter().map(|point| (across.place(point.0), along.place(point.1))).collect();
        svg.line(&line, colour, if one.ours { 3.0 } else { 2.0 });
        // Many points are a line by themselves.
        if line.len() <= 24 {
            line.iter().for_each(|point| svg.dot(*point, colour));
        }
    }
    svg.finish()
}

/// The lines' names with their colours, side by side below the title.
struct Legend {
    x: f64,
    y: f64,
}

impl Legend {
    fn add(&mut self, svg: &mut Svg, series: &Series, colour: &str) {
        const SWATCH: f64 = 22.0;
        let width = SWATCH + 8.0 + series.name.chars().count() as f64 * LETTER + 16.0;
        if self.x + width > WIDTH - MARGIN && self.x > MARGIN {
            (self.x, self.y) = (MARGIN, self.y + 22.0);
        }
        svg.line(&[(self.x, self.y), (self.x + SWATCH, self.y)], colour, 4.0);
        let weight = if series.ours { Weight::Bold } else { Weight::Normal };
        svg.text((self.x + SWATCH + 8.0, self.y), Anchor::Start, weight, INK, &series.name);
        self.x += width;
    }
}

/// From values to places along one axis.
struct Scale {
    least: f64,
    most: f64,
    logarithmic: bool,
    start: f64,
    end: f64,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, (start, end): (f64, f64)) -> Self {
        let logarithmic = axis.logarithmic;
        let shown = values.filter(|value| value.is_finite() && (*value > 0.0 || !logarithmic));
        let (least, most) =
            shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (least, most) = match (least <= most, logarithmic) {
            (false, _) => (1.0, 10.0),
            // Whole decades are too much room for a few values, and a step more than them is enough.
            (true, true) => (step_below(least), step_above(most)),
            // Bars and lines of costs begin at nothing: what is flat has to look flat.
            (true, false) => {
                let least = least.min(0.0);
                let step = step_above((most - least).max(f64::MIN_POSITIVE) / 5.0);
                (least, (most / step).ceil() * step)
            }
        };
        let most = if most > least { most } else { least + 1.0 };
        Self { least, most, logarithmic, start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.least) / self.least).ln() / (self.most / self.least).ln()
        } else {
            (value - self.least) / (self.most - self.least)
        };
        self.start + (self.end - self.start) * part
    }

    /// Round values, few enough to be read.
    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            let step = step_above((self.most - self.least) / 6.0);
            let first = (self.least / step).ceil() as i64;
            return (first..).map(|n| n as f64 * step).take_while(|v| *v <= self.most * 1.0001).collect();
        }
        let decades = (self.most / self.least).log10();
        let digits: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let (first, last) = (self.least.log10().floor() as i32, self.most.log10().ceil() as i32);
        let all = (first..=last).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        all.filter(|v| *v >= self.least * 0.9999 && *v <= self.most * 1.0001).collect()
    }
}

/// The next of 1, 2, 5, 10 and so on that is not less.
fn step_above(value: f64) -> f64 {
    let power = 10f64.powi(value.log10().floor() as i32);
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| value <= digit * power * 1.0001);
    digit.unwrap_or(10.0) * power
}

/// The next of them that is not more.
fn step_below(value: f64) -> f64 {
    let power = 10f64.powi(value.log10().floor() as i32);
    let digit = [5.0, 2.0, 1.0].into_iter().find(|digit| value >= digit * power * 0.9999);
    digit.unwrap_or(1.0) * power
}

/// As many places as say something.
fn three_digits(value: f64) -> String {
    match value.abs() {
        // What three places do not show is nothing.
        size if size < 0.0005 => "0".to_owned(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A round value, as it stands beside an axis.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    // Six places are more than a round value has, and fewer than a sum of steps is wrong by.
    let text = format!("{value:.6}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Normal,
    Bold,
}

struct Svg {
    text: String,
}

impl Svg {
    fn new(title: &str, height: f64) -> Self {
        // A long title is smaller, so that it ends where the picture does.
        let letters = title.chars().count().max(1) as f64;
        let size = ((WIDTH - 2.0 * MARGIN) / (letters * TITLE_LETTER)).min(TITLE_SIZE);
        let escaped = escaped(title);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"{FONTS}\" font-size=\"{TEXT_SIZE}\">\n<title>{escaped}</title>\n",
        );
        let (width, inner) = (WIDTH - 1.0, height - 1.0);
        let _ = writeln!(
            text,
            "<rect x=\"0.5\" y=\"0.5\" width=\"{width}\" height=\"{inner}\" rx=\"6\" fill=\"{BACKGROUND}\" stroke=\"{FRAME}\"/>"
        );
        let _ = writeln!(
            text,
            "<text x=\"{MARGIN}\" y=\"34\" font-size=\"{size:.1}\" font-weight=\"600\" fill=\"{INK}\">{escaped}</text>"
        );
        Self { text }
    }

    fn rectangle(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        let _ = writeln!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" fill=\"{colour}\"/>"
        );
    }

    fn line(&mut self, points: &[(f64, f64)], colour: &str, thickness: f64) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _ = writeln!(
            self.text,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{thickness}\" stroke-linejoin=\"round\"/>"
        );
    }

    fn dot(&mut self, (x, y): (f64, f64), colour: &str) {
        let _ = writeln!(self.text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>");
    }

    /// Its middle is at the height that is given.
    fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, weight: Weight, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = match weight {
            Weight::Normal => "",
            Weight::Bold => " font-weight=\"600\"",
        };
        // Not all programs that draw SVG know where a font's middle is.
        let y = y + TEXT_SIZE * 0.35;
        let text = escaped(text);
        let _ = writeln!(
            self.text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{weight} fill=\"{colour}\">{text}</text>"
        );
    }

    fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(bars: &[(&str, f64)]) -> String {
        let bar = |(name, value): &(&str, f64)| Bar {
            name: (*name).to_owned(),
            value: *value,
            ours: *name == "trace-core",
        };
        draw_bars("a <b> & c", "ns", &bars.iter().map(bar).collect::<Vec<_>>())
    }

    #[test]
    fn the_shortest_bar_is_on_top_and_ours_stands_out() {
        let svg = bars(&[("fastrace", 402.0), ("trace-core", 127.25), ("noise", -3.0)]);
        let place = |text: &str| svg.find(text).unwrap();
        assert!(place("noise") < place("trace-core") && place("trace-core") < place("fastrace"), "{svg}");
        assert_eq!(svg.matches(OURS).count(), 1);
        assert!(svg.contains(">127 ns<") && svg.contains(">-3.00 ns<"), "{svg}");
    }

    #[test]
    fn what_means_something_to_xml_is_escaped() {
        assert!(bars(&[]).contains("<title>a &lt;b&gt; &amp; c</title>"));
    }

    #[test]
    fn an_axis_ends_at_round_values() {
        let scale = |logarithmic, values: &[f64]| {
            let axis = Axis { label: String::new(), logarithmic };
            Scale::new(&axis, values.iter().copied(), (0.0, 100.0))
        };
        let linear = scale(false, &[3.0, 17.0]);
        assert_eq!(linear.ticks(), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!((linear.place(0.0), linear.place(5.0), linear.place(20.0)), (0.0, 25.0, 100.0));
        let logarithmic = scale(true, &[1.0, 64.0]);
        assert_eq!(logarithmic.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(logarithmic.place(10.0), 50.0);
        assert_eq!(scale(true, &[1.0, 1e4]).ticks(), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        // Nothing, and nothing but one value.
        assert!(scale(true, &[]).place(5.0).is_finite());
        assert!(scale(false, &[0.0]).place(0.0).is_finite());
        assert!(scale(true, &[1.0]).place(1.0).is_finite());
    }

    #[test]
    fn numbers_are_as_long_as_they_say_something() {
        let texts = [4321.2, 131.4, 29.44, 5.234, 0.4567, 0.0].map(three_digits);
        assert_eq!(texts, ["4321", "131", "29.4", "5.23", "0.457", "0"]);
        assert_eq!([0.0, 0.2, 50.0, 20_000.0, 1e6].map(short), ["0", "0.2", "50", "20 k", "1 M"]);
    }

    #[test]
    fn every_line_is_named() {
        let axis = |label: &str| Axis { label: label.to_owned(), logarithmic: true };
        let one = |name: &str, ours| Series {
            name: name.to_owned(),
            points: vec![(1.0, 100.0), (10.0, 120.0)],
            ours,
        };
        let series: Vec<_> =
            (0..9).map(|n| one(&format!("peer {n}"), false)).chain([one("trace-core", true)]).collect();
        let svg = draw_lines("scale", &axis("threads"), &axis("ns per span"), &series);
        assert!(series.iter().all(|one| svg.contains(&format!(">{}<", one.name))), "{svg}");
        assert!(svg.contains(">threads<") && svg.contains(">ns per span<"), "{svg}");
    }
}
