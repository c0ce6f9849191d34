//! What was found out, with all that the report shows: kept in a file beside it, for other programs and for later runs.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::child::Costs;
use super::runner::{self, Answer, Measured};
use super::statistics::{Count, Quartiles, known, least, median};
use super::{Bar, Bench, Clock, Effort, Goal, Machine, Plot, PlotKind, Ratio, Section};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) benches: Vec<BenchResult>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BenchResult {
    pub(crate) name: String,
    pub(crate) question: String,
    pub(crate) repetitions: usize,
    pub(crate) cases: Vec<CaseResult>,
    pub(crate) sections: Vec<Section>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CaseResult {
    pub(crate) name: String,
    pub(crate) added_to: Option<String>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) ratios: Vec<RatioResult>,
}

/// What a unit of work costs; where the case says so, beyond that of its base.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) entry: String,
    pub(crate) ours: bool,
    pub(crate) thread_ns_least: Option<f64>,
    pub(crate) thread_ns: Option<Quartiles>,
    pub(crate) process_ns: Option<Quartiles>,
    pub(crate) instructions: Option<Count>,
    pub(crate) allocations: Option<Count>,
    pub(crate) bytes: Option<f64>,
    pub(crate) attributes: Option<usize>,
    /// Why there is less than that.
    pub(crate) failure: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RatioResult {
    pub(crate) of: String,
    pub(crate) to: String,
    pub(crate) clock: Clock,
    pub(crate) measured: Option<Quartiles>,
    /// That of the instructions, which do not drift. Only the working thread's are counted.
    pub(crate) instructions: Option<f64>,
    pub(crate) at_most: Option<f64>,
}

/// The file's name.
const FILE: &str = "results.json";

impl Results {
    /// What an earlier run left in the folder, if there was one.
    ///
    /// # Errors
    ///
    /// It cannot be understood: it was written by another version of the benches, say.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, Box<dyn Error>> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| format!("{}: {error}", path.display()))?,
        };
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join(FILE), serde_json::to_string_pretty(self)? + "\n")
    }

    /// What can be kept of an earlier run when these benches are asked again: the answers of the others.
    ///
    /// # Errors
    ///
    /// It ran on another machine, or measured other versions: the figures cannot stand side by side.
    pub(crate) fn others(self, asked: &[&Bench], machine: &Machine) -> Result<Vec<BenchResult>, String> {
        let is_asked = |result: &BenchResult| asked.iter().any(|bench| bench.name == result.name);
        let others: Vec<_> = self.benches.into_iter().filter(|result| !is_asked(result)).collect();
        if !others.is_empty() && !machine.is_like(&self.machine) {
            return Err("the other benches' results are of another machine or other versions: run them all"
                .to_owned());
        }
        Ok(others)
    }

    /// Takes over what [`Self::others`] kept, without the benches that are no more.
    pub(crate) fn add(&mut self, others: Vec<BenchResult>, all: &[&Bench]) {
        self.benches.extend(others);
        let place = |result: &BenchResult| all.iter().position(|bench| bench.name == result.name);
        self.benches.retain(|result| place(result).is_some());
        self.benches.sort_by_key(place);
    }

    /// The entries that could not be measured.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Figure> {
        let figures = self.benches.iter().flat_map(|bench| &bench.cases).flat_map(|case| &case.figures);
        figures.filter(|figure| figure.failure.is_some())
    }
}

impl BenchResult {
    /// Measures what the bench asks for.
    pub(crate) fn measure(bench: &'static Bench, effort: &Effort) -> io::Result<Self> {
        let answers = runner::run(bench, effort)?;
        let sections = bench.sections.map_or(Ok(Vec::new()), |sections| sections(effort))?;
        Ok(Self {
            name: bench.name.to_owned(),
            question: bench.question.to_owned(),
            repetitions: effort.repetitions,
            cases: answers.iter().map(CaseResult::new).collect(),
            sections,
        })
    }

    /// Goals and what is shown beside them, each with the case or section that it belongs to.
    pub(crate) fn goals(&self) -> Vec<(&str, Goal)> {
        let mut goals = Vec::new();
        for case in &self.cases {
            goals.extend(case.ratios.iter().map(|ratio| (&*case.name, ratio.goal())));
        }
        for section in &self.sections {
            goals.extend(section.goals.iter().map(|goal| (&*section.title, goal.clone())));
        }
        goals
    }

    /// Those of the cases, and those that the sections brought.
    pub(crate) fn plots(&self) -> Vec<Plot> {
        let cases = self.cases.iter().filter_map(|case| case.plot(&self.name));
        cases.chain(self.sections.iter().flat_map(|section| section.plots.iter().cloned())).collect()
    }
}

impl CaseResult {
    fn new(answer: &Answer) -> Self {
        let base = answer.case.added_to.and_then(|name| find(answer, name));
        Self {
            name: answer.case.name.to_owned(),
            added_to: answer.case.added_to.map(String::from),
            figures: answer.measured.iter().map(|measured| Figure::new(measured, base)).collect(),
            ratios: answer
                .case
                .ratios
                .iter()
                .filter_map(|ratio| RatioResult::new(answer, ratio, base))
                .collect(),
        }
    }

    /// What the working thread does, entry by entry; `None` without anything to compare.
    pub(crate) fn plot(&self, bench: &str) -> Option<Plot> {
        let base = |figure: &&Figure| self.added_to.as_deref() == Some(&*figure.entry);
        let bar = |figure: &Figure| {
            let value = figure.thread_ns?.median;
            Some(Bar { name: figure.entry.clone(), value, ours: figure.ours })
        };
        let bars: Vec<_> = self.figures.iter().filter(|figure| !base(figure)).filter_map(bar).collect();
        let added =
            self.added_to.as_ref().map_or("per unit of work".to_owned(), |base| format!("added to {base}"));
        (bars.len() > 1).then(|| Plot {
            file: file_name(&[bench, &self.name]),
            title: format!("{bench}, {}: thread's CPU time {added}", self.name),
            kind: PlotKind::Bars { unit: "ns".to_owned(), bars },
        })
    }
}

impl Figure {
    fn new(measured: &Measured, base: Option<&Measured>) -> Self {
        let base = base.filter(|base| !std::ptr::eq(*base, measured));
        let added = |of: fn(&Costs) -> f64| pairs(measured, base, of);
        let thread_ns = added(|costs| costs.thread_ns);
        // The quietest of each, and not of the differences: that would be the one with the most disturbed base.
        let quietest = |of: &Measured| least(&pairs(of, None, |costs| costs.thread_ns));
        Self {
            entry: measured.entry.name.to_owned(),
            ours: measured.entry.ours(),
            thread_ns_least: known(quietest(measured) - base.map_or(0.0, quietest)),
            thread_ns: Quartiles::of(&thread_ns),
            process_ns: Quartiles::of(&added(|costs| costs.process_ns)),
            instructions: Count::of(&instructions(measured, base)),
            allocations: Count::of(&added(|costs| costs.allocations)),
            bytes: known(median(&added(|costs| costs.bytes))),
            attributes: measured.arrived.as_ref().map(|arrived| arrived.attributes),
            failure: measured.failure.clone(),
        }
    }
}

impl RatioResult {
    fn new(answer: &Answer, ratio: &Ratio, base: Option<&Measured>) -> Option<Self> {
        let (of, to) = (find(answer, ratio.of)?, find(answer, ratio.to)?);
        let clock: fn(&Costs) -> f64 = match ratio.clock {
            Clock::Thread => |costs| costs.thread_ns,
            Clock::Process => |costs| costs.process_ns,
        };
        let ratios: Vec<f64> =
            pairs(of, base, clock).into_iter().zip(pairs(to, base, clock)).map(|(of, to)| of / to).collect();
        let counted = match ratio.clock {
            Clock::Thread => median(&instructions(of, base)) / median(&instructions(to, base)),
            Clock::Process => f64::NAN,
        };
        Some(Self {
            of: ratio.of.to_owned(),
            to: ratio.to.to_owned(),
            clock: ratio.clock,
            measured: Quartiles::of(&ratios),
            instructions: known(counted),
            at_most: ratio.at_most,
        })
    }

    pub(crate) fn what(&self) -> String {
        let clock = match self.clock {
            Clock::Thread => "",
            Clock::Process => ", to socket",
        };
        format!("{} ÷ {}{clock}", self.of, self.to)
    }

    pub(crate) fn goal(&self) -> Goal {
        Goal { what: self.what(), at_most: self.at_most, unit: String::new(), measured: self.measured }
    }
}

/// A cost in each repetition, less that of the base in the same one.
fn pairs(measured: &Measured, base: Option<&Measured>, of: fn(&Costs) -> f64) -> Vec<f64> {
    let costs = measured.costs.iter().map(of);
    match base {
        Some(base) => costs.zip(base.costs.iter().map(of)).map(|(cost, base)| cost - base).collect(),
        None => costs.collect(),
    }
}

/// Those of each process, less the base's: its median, because which of its processes would be taken from which is all the same.
fn instructions(measured: &Measured, base: Option<&Measured>) -> Vec<f64> {
    let base = base.map_or(0.0, |base| median(&base.instructions));
    measured.instructions.iter().map(|all| all - base).collect()
}

/// Lower-case words with hyphens between them.
fn file_name(parts: &[&str]) -> String {
    let text = parts.join(" ").to_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

fn find<'a>(answer: &'a Answer, name: &str) -> Option<&'a Measured> {
    answer.measured.iter().find(|measured| measured.entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(name: &str) -> BenchResult {
        let name = name.to_owned();
        BenchResult { name, question: String::new(), repetitions: 1, cases: Vec::new(), sections: Vec::new() }
    }

    const ALL: [Bench; 3] = {
        const fn bench(name: &'static str) -> Bench {
            Bench { name, question: "", cases: &[], sections: None }
        }
        [bench("span"), bench("middleware"), bench("client")]
    };

    fn results(benches: &[&str]) -> Results {
        Results { machine: Machine::describe(), benches: benches.iter().map(|name| bench(name)).collect() }
    }

    #[test]
    fn what_was_not_asked_again_is_kept_in_its_place() {
        let mut new = results(&["middleware"]);
        new.benches[0].repetitions = 7;
        let earlier = results(&["middleware", "client", "span", "gone"]);
        let others = earlier.others(&[&ALL[1]], &new.machine).unwrap();
        new.add(others, &ALL.iter().collect::<Vec<_>>());
        let order: Vec<_> = new.benches.iter().map(|bench| (&*bench.name, bench.repetitions)).collect();
        assert_eq!(order, [("span", 1), ("middleware", 7), ("client", 1)]);
    }

    #[test]
    fn nothing_is_kept_of_another_machine() {
        let mut earlier = results(&["span", "client"]);
        earlier.machine.kernel = "another".to_owned();
        let here = Machine::describe();
        assert!(earlier.clone().others(&[&ALL[2]], &here).is_err());
        assert_eq!(earlier.others(&[&ALL[2], &ALL[0]], &here).unwrap().len(), 0);
    }

    #[test]
    fn files_are_read_as_they_were_written() {
        let folder = std::env::temp_dir().join(format!("benches-results-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut written = results(&["span"]);
        written.benches[0].sections.push(Section {
            title: "memory".to_owned(),
            note: String::new(),
            tables: Vec::new(),
            plots: Vec::new(),
            goals: vec![Goal::ratio("a", &[], Some(0.5)), Goal::figure("b", "spans", &[1.0], None)],
        });
        written.write(&folder).unwrap();
        let read = Results::read(&folder).unwrap().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(format!("{read:?}"), format!("{written:?}"));
        assert!(Results::read(&folder).unwrap().is_none());
    }

    #[test]
    fn file_names_are_words_and_hyphens() {
        assert_eq!(file_name(&["span", "root, 10 × GET /a_b"]), "span-root-10-get-a-b");
    }
}
