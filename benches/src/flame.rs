//! Where does the time of one traced request go? Every cost by its name, in [`costs`].
//!
//! perf says where the time goes, and callgrind where the instructions go; both are told by the same names. What axum does for
//! itself is measured beside it, in a router without a layer and in one whose layer does nothing.

mod costs;
mod counted;
mod sampled;
mod stack;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use inferno::flamegraph;

use costs::{COSTS, Owner};
use stack::{Frame, Resolver, Stacks};

use crate::harness::{COUNTED, Costs, Machine, Sink};
use crate::middleware::{self, BARE, IDENTITY, OURS};

/// The picture, in the folder of the text.
pub(crate) const PICTURE: &str = "plots/flame.svg";

/// The case of the bench whose request it is.
const CASE: &str = "sampled";

/// What a row of its own costs at least.
const LEAST_NS: f64 = 5.0;

/// As many requests in a burst as in the bench, so that they do the same.
const UNITS: usize = 400;

/// As many bursts as in the bench, to take the time without perf.
const BURSTS: usize = 60;

/// Bursts under perf: what costs 5 ns is then in more than a hundred samples.
const SAMPLED_BURSTS: usize = 40_000;

/// How often the time is taken, in turns.
const REPETITIONS: usize = 7;

/// Profiles a request and writes what was found into the folder.
pub(crate) fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    for tool in ["perf", "valgrind"] {
        let here = Command::new(tool).arg("--version").output();
        here.map_err(|error| {
            format!("{tool} is needed and does not run here (Debian: linux-perf, valgrind): {error}")
        })?;
    }
    let machine = Machine::describe();
    let flame = Flame::take()?;
    for cost in flame.missing() {
        eprintln!(
            "nothing was found of: {cost}. Its code may have another place now, which `costs` is to be told"
        );
    }
    let text = format!("{}\n{machine}\n", flame.text());
    fs::write(folder.join("FLAME.md"), &text)?;
    let picture = folder.join(PICTURE);
    picture.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(picture, flame.picture()?)?;
    println!("{text}");
    Ok(())
}

/// What something costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Price {
    ns: f64,
    instructions: f64,
}

/// What one request costs, and where.
struct Profile {
    whole: Price,
    parts: BTreeMap<Part, Price>,
    samples: f64,
}

/// The request without a layer, with one that does nothing, and with ours.
struct Flame {
    bare: Profile,
    identity: Profile,
    traced: Profile,
}

/// What belongs to an owner, by the calls from where it begins, the outermost first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    owner: Owner,
    calls: Vec<String>,
}

impl Flame {
    fn take() -> Result<Self, Box<dyn Error>> {
        let sink = Sink::start()?;
        let program = std::env::current_exe()?;
        let child = |entry: &str, task: &str, bursts: usize| {
            let mut command = Command::new(&program);
            command.args(["child", middleware::BENCH.name, CASE, entry, task]);
            command.arg(sink.endpoint()).args([UNITS.to_string(), bursts.to_string()]);
            command
        };

        let mut times = [BARE, IDENTITY, OURS].map(|entry| (entry, f64::INFINITY));
        for repetition in 0..REPETITIONS {
            eprintln!("flame, time: {} of {REPETITIONS}", repetition + 1);
            for (entry, least) in &mut times {
                let costs: Costs = output_of(&mut child(entry, "measure", BURSTS))?.trim().parse()?;
                *least = least.min(costs.thread_ns);
            }
        }
        let mut resolver = Resolver::new(&program)?;
        let mut profile = |(entry, ns): (&str, f64)| {
            eprintln!("flame, instructions and samples: {entry}");
            let counted = counted::count(&child(entry, "count", 0))?;
            let sampled = sampled::sample(&child(entry, "measure", SAMPLED_BURSTS), &resolver)?;
            Profile::of(ns, sampled, counted, &mut resolver)
        };
        let [bare, identity, traced] = times;
        Ok(Self { bare: profile(bare)?, identity: profile(identity)?, traced: profile(traced)? })
    }
}

impl Profile {
    /// Shares out the time as the samples are.
    fn of(
        ns: f64,
        sampled: Stacks,
        counted: Stacks,
        resolver: &mut Resolver,
    ) -> Result<Self, Box<dyn Error>> {
        let sampled = in_a_request(sampled, resolver);
        let samples: f64 = sampled.iter().map(|(_, count)| count).sum();
        if samples == 0.0 {
            return Err("no sample is in a request: perf and the debug information do not agree".into());
        }
        let mut parts: BTreeMap<Part, Price> = BTreeMap::new();
        for (frames, count) in sampled {
            parts.entry(Part::of(&frames)).or_default().ns += count * ns / samples;
        }
        for (frames, count) in in_a_request(counted, resolver) {
            parts.entry(Part::of(&frames)).or_default().instructions += count / (COUNTED * UNITS) as f64;
        }
        let whole = parts.values().fold(Price::default(), |sum, price| sum.plus(*price));
        Ok(Self { whole, parts, samples })
    }

    /// What each owner costs.
    fn owners(&self) -> BTreeMap<&Owner, Price> {
        let mut owners: BTreeMap<&Owner, Price> = BTreeMap::new();
        for (part, price) in &self.parts {
            let sum = owners.entry(&part.owner).or_default();
            *sum = sum.plus(*price);
        }
        owners
    }

    /// What axum costs, by its functions.
    fn of_axum(&self) -> BTreeMap<&str, Price> {
        let owners = self.owners().into_iter();
        let of_axum = owners.filter_map(|(owner, price)| match owner {
            Owner::Axum(function) => Some((&**function, price)),
            _ => None,
        });
        of_axum.collect()
    }
}

/// What was found inside of requests, by the calls.
fn in_a_request(stacks: Stacks, resolver: &mut Resolver) -> Vec<(Vec<Frame>, f64)> {
    let resolved = stacks.into_iter().map(|(stack, count)| (resolver.frames(&stack), count));
    resolved.filter(|(frames, _)| frames.iter().any(is_request)).collect()
}

/// Whether it is the bench's unit of work, with the request that it makes for itself.
fn is_request(frame: &Frame) -> bool {
    frame.file == "benches/src/middleware.rs" && (frame.function == "serve" || frame.text.contains("serve("))
}

impl Part {
    fn of(frames: &[Frame]) -> Self {
        let (owner, depth) = costs::owner(frames);
        // Where only the place is known it has to do.
        let name = |frame: &Frame| match &*frame.function {
            "" => format!("{}:{}", frame.file, frame.line),
            name => name.to_owned(),
        };
        let calls = frames[..depth].iter().rev().map(name);
        Self { owner, calls: calls.collect() }
    }
}

impl Price {
    fn plus(self, other: Self) -> Self {
        Self { ns: self.ns + other.ns, instructions: self.instructions + other.instructions }
    }

    fn minus(self, other: Self) -> Self {
        Self { ns: self.ns - other.ns, instructions: self.instructions - other.instructions }
    }
}

fn output_of(command: &mut Command) -> Result<String, Box<dyn Error>> {
    Ok(String::from_utf8_lossy(&run(command)?.stdout).into_owned())
}

fn errors_of(command: &mut Command) -> Result<String, Box<dyn Error>> {
    Ok(String::from_utf8_lossy(&run(command)?.stderr).into_owned())
}

fn run(command: &mut Command) -> Result<Output, Box<dyn Error>> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.trim_end().lines().last().unwrap_or("it said nothing");
    Err(format!("{}: {last}", command.get_program().display()).into())
}

impl Flame {
    /// What axum spends in the traced request, for itself and for the layer.
    fn axum(&self) -> Price {
        self.traced.of_axum().into_values().fold(Price::default(), Price::plus)
    }

    /// The costs that nothing is claimed by.
    fn missing(&self) -> impl Iterator<Item = &'static str> {
        let owners = self.traced.owners();
        let missing = move |index: &usize| !owners.contains_key(&Owner::Cost(*index));
        (0..COSTS.len()).filter(missing).map(|index| COSTS[index].name)
    }

    fn text(&self) -> String {
        let (bare, identity, traced) = (self.bare.whole, self.identity.whole, self.traced.whole);
        let axum = self.axum();
        let of_one_row = self.traced.samples * LEAST_NS / traced.ns;
        let mut text = format!(
            "# One traced request\n\n\
             Where the time of one request goes that `trace-axum` traces: `GET /items/{{id}}` as the bench *middleware* serves it, case \
             *{CASE}*. `cargo run -p benches --release -- flame` wrote this.\n\n\
             ![Where trace-axum spends a request's time]({PICTURE})\n\n\
             *ns*: CPU time of the thread, the quietest of {REPETITIONS} processes as in the bench, shared out as {samples:.0} \
             samples of perf are; {LEAST_NS} ns are {of_one_row:.0} of them, and sure to about {error:.0} %. *Instructions* are \
             callgrind's, and exact but for what a function calls from several places, which is shared out among them. The \
             compiler mixes the instructions of neighbours, and the processor works on several at once: a small row's time may in \
             truth be its neighbour's, and what waits for memory is where the value is needed, not where it was written.\n\n",
            samples = self.traced.samples,
            error = 100.0 / of_one_row.sqrt(),
        );
        text.push_str("|  | ns | instructions |\n| --- | ---: | ---: |\n");
        for (name, price) in [
            ("the bare router, and the request made for it", bare),
            ("what axum does more for any layer, such as *identity*", identity.minus(bare)),
            (
                "what axum does more for this layer: what it moves, boxes and drops is larger, and it waits longer for what was written just before",
                axum.minus(identity),
            ),
            ("**what is ours**, below", traced.minus(axum)),
            ("the traced request", traced),
            ("added to the bare router, as the bench tells it", traced.minus(bare)),
        ] {
            let _ = writeln!(text, "| {name} | {:.0} | {:.0} |", price.ns, price.instructions);
        }

        text.push_str("\n## What is ours\n\nIn the order of a request:\n\n|  | ns | instructions | what it is |\n| --- | ---: | ---: | --- |\n");
        let owners = self.traced.owners();
        let (mut rest, mut names) = (Price::default(), Vec::new());
        for phase in phases() {
            let rows = owners.iter().filter(|(owner, _)| phase_of(owner) == Some(phase));
            let sum = rows.clone().fold(Price::default(), |sum, (_, price)| sum.plus(*price));
            if sum.ns == 0.0 {
                continue;
            }
            let _ = writeln!(text, "| **{phase}** | **{:.0}** | **{:.0}** | |", sum.ns, sum.instructions);
            for (owner, price) in rows {
                if price.ns < LEAST_NS {
                    rest = rest.plus(*price);
                    names.push(name(owner));
                    continue;
                }
                let (name, reason) = (name(owner), reason(owner));
                let _ = writeln!(text, "| {name} | {:.0} | {:.0} | {reason} |", price.ns, price.instructions);
            }
        }
        let names = names.join("; ");
        let _ = writeln!(
            text,
            "| of these, below {LEAST_NS} ns each | {:.0} | {:.0} | {names} |",
            rest.ns, rest.instructions
        );
        self.add_axum(&mut text);
        text
    }

    /// Where axum spends more than without a layer, by its functions.
    fn add_axum(&self, text: &mut String) {
        let _ = write!(
            text,
            "\n## What axum does more\n\n\
             By the innermost of its functions, with what the standard library does for it: *any layer* is *identity* less the bare \
             router, *this layer* is the traced request less *identity*. What is less in one function and more in another may be \
             the same work, inlined elsewhere; what `trace-tower` has here is dropped inside the span, and by the router without one.\n\n\
             |  | any layer, ns | instructions | this layer, ns | instructions |\n\
             | --- | ---: | ---: | ---: | ---: |\n"
        );
        let [bare, identity, traced] = [&self.bare, &self.identity, &self.traced].map(Profile::of_axum);
        let functions: BTreeSet<_> =
            [&bare, &identity, &traced].into_iter().flat_map(BTreeMap::keys).copied().collect();
        let of =
            |profile: &BTreeMap<&str, Price>, function| profile.get(function).copied().unwrap_or_default();
        let mut rest = [Price::default(); 2];
        let mut add = |name: &str, [any, this]: [Price; 2]| {
            let _ = writeln!(
                text,
                "| {name} | {:.0} | {:.0} | {:.0} | {:.0} |",
                any.ns, any.instructions, this.ns, this.instructions
            );
        };
        for function in functions {
            let [bare, identity, traced] = [&bare, &identity, &traced].map(|profile| of(profile, function));
            let more = [identity.minus(bare), traced.minus(identity)];
            if more.iter().any(|price| price.ns.abs() >= LEAST_NS) {
                add(&format!("`{function}`"), more);
            } else {
                rest = [rest[0].plus(more[0]), rest[1].plus(more[1])];
            }
        }
        add("all that differ by less", rest);
    }

    /// What is ours, as a flame graph: from left to right in the order of a request.
    fn picture(&self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut lines = Vec::new();
        for (Part { owner, calls }, price) in &self.traced.parts {
            if let Some(phase) = phase_of(owner) {
                let name = name(owner);
                let stack: Vec<_> =
                    [phase, &name].into_iter().chain(calls.iter().map(|call| &**call)).collect();
                lines.push(folded(&stack, price.ns));
            }
        }
        let mut options = flamegraph::Options::default();
        let (bare, traced, axum) = (self.bare.whole, self.traced.whole, self.axum());
        options.title = "Where trace-axum spends a request's time".to_owned();
        options.subtitle = Some(format!(
            "{:.0} ns. Not shown: {:.0} ns that axum spends more because there is a layer, and a bare router's {:.0} ns",
            traced.minus(axum).ns,
            axum.minus(bare).ns,
            bare.ns
        ));
        options.image_width = Some(1200);
        options.count_name = "ns".to_owned();
        options.factor = 1.0 / FOLDED_NS;
        options.font_size = 11;
        options.font_type = "Helvetica, Arial, sans-serif".to_owned();
        options.bgcolors = Some(flamegraph::color::BackgroundColor::Flat((255, 255, 255).into()));
        // The same names have the same colours when it is made again.
        options.deterministic = true;
        // A picture, and not a program: what it shows is all there is, and none of it is written by others.
        options.no_javascript = true;
        // In the order of the lines, which is taken to be from the last to the first.
        options.flame_chart = true;
        lines.reverse();
        let mut svg = Vec::new();
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
        Ok(svg)
    }
}

/// Units of a flame graph in a nanosecond: it counts in whole ones.
const FOLDED_NS: f64 = 100.0;

/// A line of a flame graph: what is less than nothing is not drawn.
fn folded(stack: &[&str], ns: f64) -> String {
    let stack: Vec<_> = stack.iter().map(|name| name.replace(';', ",").replace('`', "")).collect();
    format!("{} {:.0}", stack.join(";"), (ns * FOLDED_NS).max(0.0))
}

const UNNAMED: &str = "not named yet";

/// From the first to the last.
fn phases() -> Vec<&'static str> {
    let mut phases: Vec<_> = COSTS.iter().map(|cost| cost.phase).chain([UNNAMED]).collect();
    phases.dedup();
    phases
}

/// `None` for what is not ours.
fn phase_of(owner: &Owner) -> Option<&'static str> {
    match owner {
        Owner::Cost(index) => Some(COSTS[*index].phase),
        Owner::Unnamed(_) => Some(UNNAMED),
        Owner::Axum(_) => None,
    }
}

fn name(owner: &Owner) -> String {
    match owner {
        Owner::Cost(index) => COSTS[*index].name.to_owned(),
        Owner::Unnamed(function) | Owner::Axum(function) => format!("`{function}`"),
    }
}

fn reason(owner: &Owner) -> &'static str {
    match owner {
        Owner::Cost(index) => COSTS[*index].reason,
        Owner::Unnamed(_) | Owner::Axum(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flame() -> Flame {
        let part = |owner: &Owner, calls: &[&str], ns| {
            let calls = calls.iter().map(|&call| call.to_owned()).collect();
            (Part { owner: owner.clone(), calls }, Price { ns, instructions: ns * 10.0 })
        };
        let profile = |parts: &[(Part, Price)]| {
            let parts: BTreeMap<Part, Price> = parts.iter().cloned().collect();
            let whole = parts.values().fold(Price::default(), |sum, price| sum.plus(*price));
            Profile { whole, parts, samples: 4000.0 }
        };
        let [poll, call] = ["axum/route.rs: poll", "axum/route.rs: call"].map(|f| Owner::Axum(f.to_owned()));
        let unnamed = Owner::Unnamed("trace-core/id.rs: f".to_owned());
        Flame {
            bare: profile(&[part(&poll, &[], 100.0)]),
            identity: profile(&[part(&poll, &[], 106.0), part(&call, &[], 4.0)]),
            traced: profile(&[
                part(&poll, &[], 128.0),
                part(&call, &[], 2.0),
                part(&Owner::Cost(0), &["new"], 40.0),
                part(&Owner::Cost(0), &["new", "[u8; 8]"], 20.0),
                part(&Owner::Cost(1), &[], 4.0),
                part(&unnamed, &["f"], 6.0),
            ]),
        }
    }

    #[test]
    fn every_cost_has_a_row_unless_it_is_small() {
        let text = flame().text();
        for row in [
            "| **what is ours**, below | 70 | 700 |",
            "| added to the bare router, as the bench tells it | 100 | 1000 |",
            "| **before the service: the span starts** | **64** | **640** | |",
            "| headers looked through | 60 | 600 | One pass",
            "| **not named yet** | **6** | **60** | |",
            "| `trace-core/id.rs: f` | 6 | 60 |  |",
            "| of these, below 5 ns each | 4 | 40 | trace context read |",
            "| `axum/route.rs: poll` | 6 | 60 | 22 | 220 |",
            "| all that differ by less | 4 | 40 | -2 | -20 |",
            "5 ns are 100 of them, and sure to about 10 %",
        ] {
            assert!(text.contains(row), "{row}\n{text}");
        }
        assert!(flame().missing().all(|name| name != COSTS[0].name && name != COSTS[1].name));
        assert_eq!(flame().missing().count(), COSTS.len() - 2);
    }

    #[test]
    fn the_picture_shows_what_is_ours() {
        let svg = String::from_utf8(flame().picture().unwrap()).unwrap();
        assert!(svg.contains("headers looked through (60 ns") && svg.contains("[u8, 8] (20 ns"), "{svg}");
        assert!(!svg.contains(">axum"), "{svg}");
    }

    #[test]
    fn a_unit_of_work_is_known_by_its_source() {
        let frame = |function: &str, text: &str| Frame {
            function: function.to_owned(),
            file: "benches/src/middleware.rs".to_owned(),
            line: 1,
            text: text.into(),
        };
        assert!(is_request(&frame("serve", "let mut body = pin!(response.into_body());")));
        assert!(is_request(&frame("{closure#0}", "Subject::new(move || serve(router.clone(), ..))")));
        assert!(!is_request(&frame("{closure#0}", "exporters::drain_ours(tracer)")));
    }
}
