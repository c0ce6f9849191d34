//! Does a span cost the same however many there are?

use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use fastrace::local::LocalSpan;
use fastrace::prelude::{Span as FastraceSpan, SpanContext as FastraceContext};
use opentelemetry::trace::{SpanKind, TraceContextExt, Tracer as _, TracerProvider as _};
use opentelemetry::{Context as SdkContext, KeyValue};
use trace_core::{Scope, semconv};

use crate::exporters::{self, Kind, Sampled};
use crate::harness::statistics::{median, quantile};
use crate::harness::{Axis, Bench, Goal, Plot, PlotKind, Section, Series, Table};
use crate::harness::{Collector, Effort, Running, Sink, Subject};
use crate::harness::{clock, memory};

pub(crate) const BENCH: Bench = Bench {
    name: "scale",
    question: "Does a span cost the thread that makes it the same however many there are: in a trace, on threads at once, and after a \
               process has made many? A root and its children with 3 attributes each.",
    cases: &[],
    sections: Some(sections),
};

fn sections(effort: &Effort) -> io::Result<Vec<Section>> {
    Ok(vec![section(effort, &TRACE)?, section(effort, &THREADS)?, section(effort, &REQUESTS)?])
}

/// What grows.
struct Growth {
    along: Along,
    title: &'static str,
    axis: &'static str,
    note: &'static str,
    points: &'static [usize],
    /// How many of the points are enough for a quick answer.
    quick_points: usize,
}

/// The names that a child process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Along {
    Trace,
    Threads,
    Requests,
}

const TRACE: Growth = Growth {
    along: Along::Trace,
    title: "spans a trace",
    axis: "spans a trace",
    note: "One thread; traces are made until some 400 spans have ended, or one trace if it has more, and then sent, off the clock.",
    points: &[1, 10, 100, 1_000, 10_000],
    quick_points: 5,
};

const THREADS: Growth = Growth {
    along: Along::Threads,
    title: "threads at once",
    axis: "threads",
    note: "Each thread makes 100 traces of 4 spans at a time; when all have, what they made is sent, off the clock. The threads' CPU \
           time, whoever waited for a processor meanwhile.",
    points: &[1, 2, 4, 8, 16, 32, 64],
    quick_points: 7,
};

const REQUESTS: Growth = Growth {
    along: Along::Requests,
    title: "requests that a process has served",
    axis: "requests",
    note: "Traces of 4 spans, one after the other in one process, sent every 100 traces, off the clock; the median cost since the \
           point before.",
    points: &[1_000, 10_000, 100_000, 1_000_000],
    quick_points: 2,
};

/// What one process found.
struct Run {
    points: Vec<Found>,
    /// The part of its spans that arrived.
    arrived: f64,
}

/// What was found at one point: the cost of a span, and what is resident then.
struct Found {
    cost_ns: f64,
    resident_bytes: f64,
}

fn section(effort: &Effort, growth: &Growth) -> io::Result<Section> {
    let points = if effort.is_quick() { &growth.points[..growth.quick_points] } else { growth.points };
    let repetitions = if effort.is_quick() { 1 } else { effort.repetitions.min(3) };
    let kinds: Vec<_> = Kind::ALL.into_iter().filter(|kind| effort.wants(kind.name())).collect();
    let mut runs: Vec<Vec<Run>> = kinds.iter().map(|_| Vec::new()).collect();
    for repetition in 0..repetitions {
        eprintln!("scale, {}: {} of {repetitions}", growth.title, repetition + 1);
        for (kind, runs) in kinds.iter().zip(&mut runs) {
            runs.push(run(*kind, growth, points, effort)?);
        }
    }
    let costs =
        |runs: &[Run], point: usize| runs.iter().map(|run| run.points[point].cost_ns).collect::<Vec<_>>();
    let mut heading = vec![format!("ns a span, by {}", growth.title)];
    heading.extend(kinds.iter().flat_map(|kind| [kind.name().to_owned(), "quartiles".to_owned()]));
    let mut rows = vec![heading];
    for (place, point) in points.iter().enumerate() {
        let mut row = vec![point.to_string()];
        for runs in &runs {
            let costs = costs(runs, place);
            row.push(format!("{:.0}", median(&costs)));
            row.push(format!("{:.0} – {:.0}", quantile(&costs, 0.25), quantile(&costs, 0.75)));
        }
        rows.push(row);
    }
    let mut add = |name: &str, of: &dyn Fn(&[Run]) -> String| {
        let cells = runs.iter().flat_map(|runs| [of(runs), String::new()]);
        rows.push([name.to_owned()].into_iter().chain(cells).collect());
    };
    let last = points.len() - 1;
    add("resident at the end, MiB", &|runs| {
        let resident = runs.iter().map(|run| run.points[last].resident_bytes / f64::from(1 << 20));
        format!("{:.1}", median(&resident.collect::<Vec<_>>()))
    });
    add("spans that arrived, %", &|runs| {
        let arrived: Vec<f64> = runs.iter().map(|run| run.arrived * 100.0).collect();
        format!("{:.1}", median(&arrived))
    });
    let mut goals = Vec::new();
    for (kind, runs) in kinds.iter().zip(&runs) {
        let grown = costs(runs, last).into_iter().zip(costs(runs, 0)).map(|(last, first)| last / first);
        let name = format!("{}, {} ÷ {}", kind.name(), points[last], points[0]);
        goals.push(Goal::ratio(name, &grown.collect::<Vec<_>>(), None));
    }
    let series = kinds.iter().zip(&runs).map(|(kind, runs)| Series {
        name: kind.name().to_owned(),
        points: points.iter().enumerate().map(|(at, x)| (*x as f64, median(&costs(runs, at)))).collect(),
        ours: *kind == Kind::Ours,
    });
    let plot = Plot {
        file: format!("scale-{}", growth.along.word()),
        title: format!("CPU time per span, by {}", growth.title),
        kind: PlotKind::Lines {
            x: Axis { label: growth.axis.to_owned(), logarithmic: true },
            y: Axis { label: "ns per span".to_owned(), logarithmic: true },
            series: series.collect(),
        },
    };
    Ok(Section {
        title: growth.title.to_owned(),
        note: format!(
            "{} A tracer that loses spans, because more end at once than its queue holds, has less to do for them.",
            growth.note
        ),
        tables: vec![Table { rows }],
        plots: vec![plot],
        goals,
    })
}

fn run(kind: Kind, growth: &Growth, points: &[usize], effort: &Effort) -> io::Result<Run> {
    let sink = Sink::start()?;
    let mut arguments = ["child-scale", kind.word(), growth.along.word()].map(String::from).to_vec();
    arguments.extend([sink.endpoint(), effort.bursts.div_ceil(2).to_string()]);
    arguments.extend(points.iter().map(usize::to_string));
    let mut process = Running::start(arguments)?;
    let mut found = Vec::new();
    for _ in points {
        let [cost_ns, resident_bytes] = process.numbers()?;
        found.push(Found { cost_ns, resident_bytes });
    }
    let [made] = process.numbers()?;
    Ok(Run { points: found, arrived: sink.tally().spans as f64 / made })
}

impl Along {
    const fn word(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Threads => "threads",
            Self::Requests => "requests",
        }
    }
}

/// What a process of this bench is started for.
#[derive(Debug, Args)]
pub(crate) struct Part {
    kind: Kind,
    along: Along,
    endpoint: String,
    /// How often a point is measured, at the least.
    bursts: usize,
    points: Vec<usize>,
}

/// Measures the points, and prints for each what a span costs and what is resident after it; and at last how many spans there were.
pub(crate) fn work(part: &Part) -> io::Result<()> {
    let tracing = Tracing::new(part.kind, &Collector { endpoint: part.endpoint.clone() });
    let subject = tracing.subject(TRACE_SPANS);
    let mut made = warm_up(&subject);
    let mut served = 0;
    // What a process has served it cannot serve for the first time again.
    let rounds = if part.along == Along::Requests { 1 } else { ROUNDS };
    let bursts = part.bursts.div_ceil(rounds);
    let mut costs: Vec<_> = part.points.iter().map(|_| Vec::new()).collect();
    let mut resident = vec![0; part.points.len()];
    for _ in 0..rounds {
        for (place, &point) in part.points.iter().enumerate() {
            costs[place].extend(match part.along {
                Along::Trace => in_a_trace(&tracing.subject(point), point, bursts, &mut made),
                Along::Threads => on_threads(&subject, point, bursts, &mut made),
                Along::Requests => after_requests(&subject, point, &mut served, &mut made),
            });
            resident[place] = memory::resident_bytes(std::process::id());
        }
    }
    for (costs, resident) in costs.iter().zip(resident) {
        println!("{} {resident}", median(costs));
    }
    println!("{made}");
    Ok(())
}

/// How often a process goes through the points: what disturbs it for a while disturbs some of the bursts at each.
const ROUNDS: usize = 4;

/// Makes spans until clocks are calibrated and buffers have grown, and says how many.
fn warm_up(subject: &Subject) -> usize {
    let start = Instant::now();
    let mut made = 0;
    while start.elapsed() < WARM_UP_TIME {
        subject.work(BURST_TRACES);
        subject.drain();
        made += BURST_TRACES * TRACE_SPANS;
    }
    made
}

/// How long a process works before anything is measured.
const WARM_UP_TIME: Duration = Duration::from_millis(150);

/// The traces between two drains, where their spans do not grow.
const BURST_TRACES: usize = BURST_SPANS / TRACE_SPANS;

/// The spans between two drains, where not one trace has more: as in the bursts of the other benches.
const BURST_SPANS: usize = 400;

/// The spans of a trace, where they do not grow.
const TRACE_SPANS: usize = 4;

/// The traces that a thread makes between two drains, where there are many threads.
const THREAD_TRACES: usize = 100;

/// Bursts at each point that are not measured either.
const WARM_UP: usize = 3;

fn in_a_trace(subject: &Subject, spans: usize, bursts: usize, made: &mut usize) -> Vec<f64> {
    let traces = (BURST_SPANS / spans).max(1);
    let mut costs = Vec::new();
    for burst in 0..WARM_UP + bursts {
        let cost = burst_ns(subject, traces) / (traces * spans) as f64;
        subject.drain();
        *made += traces * spans;
        if burst >= WARM_UP {
            costs.push(cost);
        }
    }
    costs
}

fn on_threads(subject: &Subject, threads: usize, bursts: usize, made: &mut usize) -> Vec<f64> {
    let sleeping = Barrier::new(threads);
    let arrived = AtomicUsize::new(0);
    let work = |thread: usize| {
        let mut times = Vec::new();
        for burst in 0..WARM_UP + bursts {
            sleeping.wait();
            // Then all of them are awake: a thread that has yet to be woken begins when a short burst is over.
            arrived.fetch_add(1, Ordering::AcqRel);
            while arrived.load(Ordering::Acquire) < threads * (burst + 1) {
                thread::yield_now();
            }
            times.push(burst_ns(subject, THREAD_TRACES));
            sleeping.wait();
            if thread == 0 {
                subject.drain();
            }
        }
        times
    };
    let times: Vec<Vec<f64>> = thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        let mut times = vec![work(0)];
        times.extend(others.into_iter().filter_map(|thread| thread.join().ok()));
        times
    });
    *made += threads * (WARM_UP + bursts) * THREAD_TRACES * TRACE_SPANS;
    let spans = (threads * THREAD_TRACES * TRACE_SPANS) as f64;
    let burst = |burst: usize| times.iter().map(|times| times[burst]).sum::<f64>() / spans;
    (WARM_UP..WARM_UP + bursts).map(burst).collect()
}

/// Serves until there were so many requests in all.
fn after_requests(subject: &Subject, requests: usize, served: &mut usize, made: &mut usize) -> Vec<f64> {
    let mut costs = Vec::new();
    while *served < requests {
        costs.push(burst_ns(subject, BURST_TRACES) / BURST_SPANS as f64);
        subject.drain();
        *served += BURST_TRACES;
        *made += BURST_SPANS;
    }
    costs
}

fn burst_ns(subject: &Subject, traces: usize) -> f64 {
    let start = clock::thread_ns();
    subject.work(traces);
    (clock::thread_ns() - start) as f64
}

static SCOPE: Scope = Scope::new("benches", env!("CARGO_PKG_VERSION"));

const QUERY: &str = "SELECT orders";

/// A tracer that is set up.
enum Tracing {
    Ours(trace_core::Tracer),
    Sdk(opentelemetry_sdk::trace::SdkTracerProvider),
    Fastrace,
}

impl Tracing {
    fn new(kind: Kind, collector: &Collector) -> Self {
        match kind {
            Kind::Ours => Self::Ours(exporters::ours(collector, Sampled::Yes)),
            Kind::Sdk => Self::Sdk(exporters::sdk(collector, Sampled::Yes)),
            Kind::Fastrace => {
                exporters::fastrace(collector);
                Self::Fastrace
            }
        }
    }

    /// Makes traces of so many spans: a root and its children.
    fn subject(&self, spans: usize) -> Subject {
        match self {
            Self::Ours(tracer) => {
                let tracer = *tracer;
                Subject::new(move || trace_ours(tracer, spans))
                    .drained_by(move || exporters::drain_ours(tracer))
            }
            Self::Sdk(provider) => {
                let (tracer, provider) = (provider.tracer("benches"), provider.clone());
                Subject::new(move || trace_sdk(&tracer, spans))
                    .drained_by(move || exporters::drain_sdk(&provider))
            }
            Self::Fastrace => Subject::new(move || trace_fastrace(spans)).drained_by(fastrace::flush),
        }
    }
}

fn trace_ours(tracer: trace_core::Tracer, spans: usize) {
    let query = |span: trace_core::SpanBuilder<'static>, rows: i64| {
        span.kind(trace_core::SpanKind::Client)
            .scope(&SCOPE)
            .attribute(semconv::DB_SYSTEM_NAME, "postgresql")
            .attribute(semconv::DB_COLLECTION_NAME, "orders")
            .attribute(semconv::DB_RESPONSE_RETURNED_ROWS, rows)
    };
    query(tracer.span(QUERY), 0).in_scope(|| {
        for rows in 1..spans {
            drop(query(trace_core::span(QUERY), rows as i64));
        }
    });
}

fn trace_sdk(tracer: &opentelemetry_sdk::trace::SdkTracer, spans: usize) {
    let query = |context: &SdkContext, rows: i64| {
        let builder = tracer.span_builder(QUERY).with_kind(SpanKind::Client).with_attributes([
            KeyValue::new("db.system.name", "postgresql"),
            KeyValue::new("db.collection.name", "orders"),
            KeyValue::new("db.response.returned_rows", rows),
        ]);
        tracer.build_with_context(builder, context)
    };
    let root = SdkContext::new();
    let context = root.with_span(query(&root, 0));
    for rows in 1..spans {
        drop(query(&context, rows as i64));
    }
}

fn trace_fastrace(spans: usize) {
    let properties = |rows: usize| {
        [
            ("span.kind", "client".into()),
            ("db.system.name", "postgresql".into()),
            ("db.collection.name", "orders".into()),
            ("db.response.returned_rows", std::borrow::Cow::from(rows.to_string())),
        ]
    };
    let root = FastraceSpan::root(QUERY, FastraceContext::random()).with_properties(|| properties(0));
    let _current = root.set_local_parent();
    for rows in 1..spans {
        let _child = LocalSpan::enter_with_local_parent(QUERY).with_properties(|| properties(rows));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn every_way_to_grow_says_how_many_spans_it_made() {
        let units = Arc::new(AtomicUsize::new(0));
        let count = units.clone();
        let subject = Subject::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let mut made = 0;
        on_threads(&subject, 3, 2, &mut made);
        assert_eq!(made, units.swap(0, Ordering::Relaxed) * TRACE_SPANS);
        made = 0;
        in_a_trace(&subject, 30, 2, &mut made);
        assert_eq!(made, units.swap(0, Ordering::Relaxed) * 30);
        made = 0;
        let mut served = 0;
        after_requests(&subject, 1_000, &mut served, &mut made);
        after_requests(&subject, 2_000, &mut served, &mut made);
        assert_eq!(made, units.load(Ordering::Relaxed) * TRACE_SPANS);
        assert_eq!((served, made), (2_000, 8_000));
    }
}
