//! How costs are measured: the parts that every bench shares.
//!
//! A [`Bench`] answers one question by a few [`Case`]s; a case has [`Entry`]s, one for each way to do the same work. The
//! runner gives each entry a process of its own, again and again, and lets them take turns burst by burst, so that what
//! disturbs the machine disturbs all of them; in its process, an entry becomes a [`Subject`] that does its unit of work in
//! bursts on the thread's own clock, and is drained off the clock.

pub(crate) mod allocator;
mod callgrind;
mod child;
pub(crate) mod clock;
mod compare;
mod grpc_sink;
pub(crate) mod load;
mod machine;
pub(crate) mod memory;
mod plot;
pub(crate) mod processors;
mod report;
mod results;
mod runner;
mod running;
mod section;
mod sink;
pub(crate) mod statistics;

use std::io;

use serde::{Deserialize, Serialize};

pub(crate) use callgrind::{command as callgrind_command, instructions};
pub(crate) use child::{COUNTED, Collector, Costs, Subject, Task, run as work};
pub(crate) use compare::Comparison;
pub(crate) use machine::Machine;
pub(crate) use plot::draw;
pub(crate) use report::{Medium, answer, heading, report, section, summary};
pub(crate) use results::{BenchResult, Results};
pub(crate) use runner::{Callgrind, Effort};
pub(crate) use running::Running;
pub(crate) use section::{Axis, Bar, Goal, Plot, PlotKind, Section, Series, Table};
pub(crate) use sink::{Hanging, Sink, refusing_endpoint};

/// One question, and what answers it.
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    pub(crate) question: &'static str,
    /// What is measured in bursts, by the runner.
    pub(crate) cases: &'static [Case],
    /// What the bench measures in its own way: processes that talk to each other, loads that grow.
    pub(crate) sections: Option<Sections>,
}

/// How a bench measures by itself.
pub(crate) type Sections = fn(&Effort) -> io::Result<Vec<Section>>;

/// The same work done in several ways.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// How many spans a unit of work makes: bursts are cut to some 400 spans.
    pub(crate) spans: usize,
    /// The entry whose costs are no tracing at all: the others are shown as what they add to it.
    pub(crate) added_to: Option<&'static str>,
    pub(crate) entries: &'static [Entry],
    pub(crate) ratios: &'static [Ratio],
}

/// One way to do the work.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// How many threads do it at once; the first one's costs are shown.
    pub(crate) threads: usize,
    pub(crate) setup: fn(&Collector) -> Subject,
}

/// Two entries compared, as they were measured right after each other.
pub(crate) struct Ratio {
    pub(crate) of: &'static str,
    pub(crate) to: &'static str,
    pub(crate) clock: Clock,
    /// The goal for the upper quartile.
    pub(crate) at_most: Option<f64>,
}

/// Whose time is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Clock {
    /// That of the thread that does the work: what a request waits for.
    Thread,
    /// That of the whole process until everything is sent.
    Process,
}

impl Entry {
    pub(crate) const fn new(name: &'static str, setup: fn(&Collector) -> Subject) -> Self {
        Self { name, threads: 1, setup }
    }

    pub(crate) const fn on_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Whether it is this workspace's, whose crates all are named alike.
    pub(crate) fn ours(&self) -> bool {
        self.name.starts_with("trace-")
    }
}

impl Ratio {
    pub(crate) const fn new(of: &'static str, to: &'static str, at_most: f64) -> Self {
        Self { of, to, clock: Clock::Thread, at_most: Some(at_most) }
    }

    /// A comparison without a goal.
    pub(crate) const fn shown(of: &'static str, to: &'static str) -> Self {
        Self { of, to, clock: Clock::Thread, at_most: None }
    }

    pub(crate) const fn by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }
}

impl Case {
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}
