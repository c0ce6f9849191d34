//! What does tracing add to the CPU that a real server needs for a request?

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use axum_otel::{AxumOtelOnFailure, AxumOtelOnResponse, AxumOtelSpanCreator};
use clap::Args;
use opentelemetry_instrumentation_tower::http::server as otel_tower;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tower::layer::util::Identity;
use tracing::Level;

use crate::exporters::{self, Sampled};
use crate::harness::load::{self, Answered, Load, Pace};
use crate::harness::statistics::{median, quantile};
use crate::harness::{Axis, Bar, Bench, Goal, Plot, PlotKind, Section, Series, Table};
use crate::harness::{Collector, Effort, Hanging, Running, Sink};
use crate::harness::{memory, processors, refusing_endpoint};
use crate::least::LeastLayer;

pub(crate) const BENCH: Bench = Bench {
    name: "service",
    question: "What does tracing add to the CPU that a real server needs for a request? axum serves `GET /items/{id}` in a process \
               of its own, every request is sampled, and what is exported goes over OTLP/HTTP to a collector on the same host. All \
               requests name the same server; trace-axum has its address from the request before. *identity* is what axum itself \
               needs for any layer. *a ready span* is a bound: a layer that never looks at a request, and sends the same attributes \
               for each, encoded in advance, by our pipeline. With *the request read* it continues the caller's trace, and looks up \
               and checks what it would have to tell, but makes nothing of it.",
    cases: &[],
    sections: Some(sections),
};

/// A server, as one way to trace makes it.
struct Stack {
    name: &'static str,
    setup: fn(&Collector) -> Served,
    spans: Spans,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spans {
    None,
    /// Exported, and ready before the request came: a bound, and nobody's peer.
    Ready,
    Exported,
    /// And shown in time, with collectors that take nothing.
    ExportedAndWatched,
}

const BARE: &str = "bare";
const IDENTITY: &str = "identity";
const LEAST: &str = "a ready span";
const READING: &str = "a ready span, the request read";
const OURS: &str = "trace-axum";
const AXUM_TRACING: &str = "axum-tracing-opentelemetry";

/// The first one is what the others are compared with.
const STACKS: &[Stack] = &[
    Stack::new(BARE, bare, Spans::None),
    Stack::new(IDENTITY, identity, Spans::None),
    Stack::new(LEAST, |collector| least(collector, |layer| layer), Spans::Ready),
    Stack::new(READING, |collector| least(collector, LeastLayer::reading), Spans::Ready),
    Stack::new(OURS, ours, Spans::ExportedAndWatched),
    Stack::new("tower-http, nobody listening", tower_http, Spans::None),
    Stack::new("fastrace-axum", fastrace_axum, Spans::ExportedAndWatched),
    Stack::new("opentelemetry-instrumentation-tower", instrumentation_tower, Spans::ExportedAndWatched),
    Stack::new(AXUM_TRACING, axum_tracing_opentelemetry, Spans::Exported),
    Stack::new("tower-otel", tower_otel, Spans::Exported),
    Stack::new("axum-otel", axum_otel, Spans::Exported),
];

/// What a process serves, and how it sends what waits.
struct Served {
    router: Router,
    drain: Box<dyn Fn()>,
}

impl Served {
    fn new(router: Router) -> Self {
        Self { router, drain: Box::new(|| {}) }
    }

    fn drained_by(self, drain: impl Fn() + 'static) -> Self {
        Self { drain: Box::new(drain), ..self }
    }
}

fn router() -> Router {
    async fn item(Path(_id): Path<u64>) -> &'static str {
        "an item"
    }
    Router::new().route("/items/{id}", get(item))
}

fn bare(_: &Collector) -> Served {
    Served::new(router())
}

/// What axum itself needs for any layer.
fn identity(_: &Collector) -> Served {
    Served::new(router().layer(Identity::new()))
}

fn least(collector: &Collector, change: fn(LeastLayer) -> LeastLayer) -> Served {
    let tracer = exporters::ours(collector, Sampled::Yes);
    Served::new(router().layer(change(LeastLayer::new(tracer, "127.0.0.1"))))
        .drained_by(move || exporters::drain_ours(tracer))
}

fn ours(collector: &Collector) -> Served {
    let tracer = exporters::ours(collector, Sampled::Yes);
    let layer = trace_axum::TraceLayer::new().tracer(tracer);
    Served::new(router().layer(layer)).drained_by(move || exporters::drain_ours(tracer))
}

fn tower_http(_: &Collector) -> Served {
    Served::new(router().layer(tower_http::trace::TraceLayer::new_for_http()))
}

fn fastrace_axum(collector: &Collector) -> Served {
    exporters::fastrace(collector);
    Served::new(router().layer(fastrace_axum::FastraceLayer::default())).drained_by(fastrace::flush)
}

/// Traces alone: its metrics are another question.
fn instrumentation_tower(collector: &Collector) -> Served {
    let provider = exporters::sdk(collector, Sampled::Yes);
    let layer = otel_tower::LayerBuilder::builder().with_metrics(false).build().expect("a valid layer");
    Served::new(router().layer(layer)).drained_by(move || exporters::drain_sdk(&provider))
}

fn axum_tracing_opentelemetry(collector: &Collector) -> Served {
    let drain = exporters::tracing(collector, Sampled::Yes);
    let layer = axum_tracing_opentelemetry::middleware::OtelAxumLayer::default();
    Served::new(router().layer(layer)).drained_by(drain)
}

fn tower_otel(collector: &Collector) -> Served {
    let drain = exporters::tracing(collector, Sampled::Yes);
    Served::new(router().layer(tower_otel::trace::HttpLayer::server(Level::INFO))).drained_by(drain)
}

fn axum_otel(collector: &Collector) -> Served {
    let drain = exporters::tracing_0_32(collector, Sampled::Yes);
    let layer = tower_http_0_6::trace::TraceLayer::new_for_http()
        .make_span_with(AxumOtelSpanCreator::new().level(Level::INFO))
        .on_response(AxumOtelOnResponse::new().level(Level::INFO))
        .on_failure(AxumOtelOnFailure::new());
    Served::new(router().layer(layer)).drained_by(drain)
}

/// As a browser sends it through an ingress that has begun the trace.
const REQUEST: &[u8] = b"GET /items/3419?page=2 HTTP/1.1\r\n\
host: items.example.com:8443\r\n\
user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
accept: application/json\r\n\
traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";

/// A process that serves.
#[derive(Debug, Args)]
pub(crate) struct Part {
    stack: String,
    endpoint: String,
    /// The only one that it may use.
    #[arg(long)]
    processor: Option<usize>,
}

/// What a serving process is asked for, by a line; it answers by one.
const DRAIN: &str = "drain";
const LIVE: &str = "live";

/// Says its port, and serves until nobody asks any more.
pub(crate) fn work(part: &Part) -> io::Result<()> {
    let stack = STACKS.iter().find(|stack| stack.name == part.stack);
    let stack = stack.ok_or_else(|| io::Error::other("there is no such stack"))?;
    if let Some(processor) = part.processor {
        processors::pin(processor)?;
    }
    let served = (stack.setup)(&Collector { endpoint: part.endpoint.clone() });
    // As `#[tokio::main]` makes it.
    let runtime = Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
    println!("{}", listener.local_addr()?.port());
    let service = served.router.into_make_service_with_connect_info::<SocketAddr>();
    runtime.spawn(async { axum::serve(listener, service).await });
    for line in io::stdin().lock().lines() {
        match line?.as_str() {
            DRAIN => {
                (served.drain)();
                println!("drained");
            }
            LIVE => println!("{}", memory::live_bytes()),
            other => return Err(io::Error::other(format!("there is no {other:?}"))),
        }
    }
    Ok(())
}

fn sections(effort: &Effort) -> io::Result<Vec<Section>> {
    let [load, server] = processors::apart().map_or([None; 2], |both| both.map(Some));
    let bench = Runner { effort, load, server };
    // The load and the collectors stay on the other one.
    processors::on(load, || bench.sections())
}

struct Runner<'a> {
    effort: &'a Effort,
    load: Option<usize>,
    server: Option<usize>,
}

/// What the collector does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Healthy,
    /// Nobody listens.
    Refusing,
    /// It accepts connections, and never answers.
    Hanging,
}

/// What came of one process.
#[derive(Clone, Copy)]
struct Measured {
    modest: Phase,
    full: Phase,
    resident_mib: f64,
}

/// What came of a load, over all of its slices.
#[derive(Clone, Copy, Default)]
struct Phase {
    /// Per request, the median of the slices.
    cpu_us: f64,
    /// What it is more than that of the bare server in the slice beside, the median of the slices.
    added_us: f64,
    /// The same for the threads that serve requests.
    added_serving_us: f64,
    /// The part of the time in which the server worked.
    busy: f64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    /// Of the spans that requests should have made, as the collector counted.
    lost: f64,
}

/// How often each server has its turn, and for how long.
#[derive(Clone, Copy)]
struct Slices {
    count: usize,
    ms: u64,
}

/// What came of a load for a short time.
struct Slice {
    answered: Answered,
    cpu_ns: f64,
    serving_ns: f64,
    spans: u64,
}

/// A process that serves, and its collector.
struct Server {
    process: Running,
    port: u16,
    collector: Target,
}

/// Connections at full load: few, so that they wait little for each other.
const CONNECTIONS: u32 = 16;

/// At a modest one there are 4 000 requests a second.
const MODEST: Pace = Pace::Every(Duration::from_millis(4));

/// A server that holds more is stopped, before the machine has none left.
const RESIDENT_MIB_MAX: f64 = 1024.0;

/// Where memory is watched, it is looked at so often.
const LOOK: Duration = Duration::from_millis(250);

impl Stack {
    const fn new(name: &'static str, setup: fn(&Collector) -> Served, spans: Spans) -> Self {
        Self { name, setup, spans }
    }
}

impl Runner<'_> {
    fn sections(&self) -> io::Result<Vec<Section>> {
        let stacks: Vec<_> =
            STACKS.iter().filter(|stack| stack.name == BARE || self.effort.wants(stack.name)).collect();
        let healthy = self.rounds(&stacks, Health::Healthy)?;
        let exporting: Vec<_> = stacks
            .iter()
            .copied()
            .filter(|stack| match stack.spans {
                Spans::None | Spans::Ready => stack.name == BARE,
                Spans::Exported => !self.effort.is_quick(),
                Spans::ExportedAndWatched => true,
            })
            .collect();
        let refusing = self.rounds(&exporting, Health::Refusing)?;
        let hanging = self.rounds(&exporting, Health::Hanging)?;
        Ok(vec![
            self.section("a healthy collector", "service-cpu", &healthy),
            self.section("a collector that refuses connections", "service-cpu-refusing", &refusing),
            self.section(
                "a collector that accepts connections and never answers",
                "service-cpu-hanging",
                &hanging,
            ),
            self.watched(Health::Refusing, "service-memory-refusing")?,
            self.watched(Health::Hanging, "service-memory-hanging")?,
        ])
    }

    /// Has all stacks served at once and loads them in turns, slice by slice, so that what disturbs one of them disturbs its
    /// neighbours too; and that again and again in new processes.
    fn rounds<'a>(&self, stacks: &[&'a Stack], health: Health) -> io::Result<Rounds<'a>> {
        let repetitions = match health {
            _ if self.effort.is_quick() => 1,
            Health::Healthy => self.effort.repetitions,
            Health::Refusing | Health::Hanging => self.effort.repetitions.min(3),
        };
        let mut rounds = Rounds { health, stacks: stacks.iter().map(|stack| (*stack, Vec::new())).collect() };
        for repetition in 0..repetitions {
            eprintln!("service, {health:?}: {} of {repetitions}", repetition + 1);
            for ((_, all), measured) in rounds.stacks.iter_mut().zip(self.repetition(stacks, health)?) {
                all.push(measured);
            }
        }
        Ok(rounds)
    }

    fn repetition(&self, stacks: &[&Stack], health: Health) -> io::Result<Vec<Measured>> {
        let (warm_up, full, modest) = if self.effort.is_quick() {
            let few = Slices { count: 3, ms: 60 };
            (100, few, few)
        } else {
            // Short enough that the slice of the bare server beside it is near, and long enough that a server works mostly with caches
            // of its own: in 30 ms it does so with what ten others have left, and sends as many batches that are not full. At a modest
            // load it would be mostly connecting.
            let slices = Slices { count: 16, ms: 100 };
            (300, slices, slices)
        };
        let load = |pace, ms| Load { connections: CONNECTIONS, pace, time: Duration::from_millis(ms) };
        let mut servers = Vec::new();
        for stack in stacks {
            let mut server = self.start(stack, Target::start(health)?)?;
            server.serve(load(Pace::Full, warm_up))?;
            servers.push(server);
        }
        let mut phase = |pace, slices: Slices| -> io::Result<Vec<Phase>> {
            let mut all: Vec<_> = servers.iter().map(|_| Vec::new()).collect();
            for turn in 0..slices.count {
                // Each comes first at some time, and none is always the one that is farthest from the bare one.
                for place in 0..servers.len() {
                    let next = (turn + place) % servers.len();
                    all[next].push(servers[next].serve(load(pace, slices.ms))?);
                }
            }
            let bare = &all[0];
            Ok(all.iter().map(|slices| Phase::of(slices, bare)).collect())
        };
        // What a collector that takes nothing does to a server shows most at full load.
        let modest = if health == Health::Healthy { modest } else { Slices { count: 0, ms: 0 } };
        let phases = phase(MODEST, modest)?.into_iter().zip(phase(Pace::Full, full)?);
        let resident = servers.iter().map(|server| server.process.resident_bytes() as f64 / MIB);
        let measured = phases.zip(resident);
        Ok(measured.map(|((modest, full), resident_mib)| Measured { modest, full, resident_mib }).collect())
    }

    fn start(&self, stack: &Stack, collector: Target) -> io::Result<Server> {
        let mut arguments = ["child-service", stack.name].map(String::from).to_vec();
        arguments.push(collector.endpoint());
        arguments.extend(self.server.map(|processor| format!("--processor={processor}")));
        let mut process = Running::start(arguments)?;
        let port = process.line()?.parse().map_err(io::Error::other)?;
        Ok(Server { process, port, collector })
    }

    /// What is resident while the collector takes nothing, at full load.
    fn watched(&self, health: Health, file: &str) -> io::Result<Section> {
        let seconds = if self.effort.is_quick() { 1 } else { 20 };
        let mut rows = vec![
            [
                "",
                "at the start, MiB",
                "at the end, MiB",
                "most, MiB",
                "given out by the allocator, most, MiB",
            ]
            .map(String::from)
            .to_vec(),
        ];
        let mut series = Vec::new();
        for stack in STACKS {
            if stack.spans != Spans::ExportedAndWatched || !self.effort.wants(stack.name) {
                continue;
            }
            eprintln!("service, memory, {health:?}: {}", stack.name);
            let looks = self.watch(stack, health, Duration::from_secs(seconds))?;
            let most = |of: fn(&Look) -> f64| looks.iter().map(of).fold(0.0, f64::max);
            let resident =
                |look: Option<&Look>| format!("{:.1}", look.map_or(f64::NAN, |look| look.resident_mib));
            rows.push(vec![
                stack.name.to_owned(),
                resident(looks.first()),
                resident(looks.last()),
                format!("{:.1}", most(|look| look.resident_mib)),
                format!("{:.1}", most(|look| look.live_mib)),
            ]);
            series.push(Series {
                name: stack.name.to_owned(),
                points: looks.iter().map(|look| (look.second, look.resident_mib)).collect(),
                ours: stack.name == OURS,
            });
        }
        let what = match health {
            Health::Healthy => "is healthy",
            Health::Refusing => "refuses connections",
            Health::Hanging => "accepts connections and never answers",
        };
        Ok(Section {
            title: format!("memory while the collector {what}"),
            note: format!(
                "{seconds} s at full load. Resident: pages of the whole process. Ours has a bound, 16 MiB by default; the SDK's \
                 is in spans, 2 048; fastrace has none, and a server is stopped beyond 1 GiB."
            ),
            tables: vec![Table { rows }],
            plots: vec![Plot {
                file: file.to_owned(),
                title: format!("Resident memory at full load while the collector {what}"),
                kind: PlotKind::Lines {
                    x: Axis { label: "seconds".to_owned(), logarithmic: false },
                    y: Axis { label: "MiB".to_owned(), logarithmic: true },
                    series,
                },
            }],
            goals: Vec::new(),
        })
    }

    fn watch(&self, stack: &Stack, health: Health, time: Duration) -> io::Result<Vec<Look>> {
        let mut server = self.start(stack, Target::start(health)?)?;
        let port = server.port;
        let load = Load { connections: CONNECTIONS, pace: Pace::Full, time };
        thread::scope(|scope| {
            let calling = scope.spawn(move || load::run(load, port, REQUEST));
            let mut looks: Vec<Look> = Vec::new();
            let start = Instant::now();
            while !calling.is_finished() {
                if looks.last().is_some_and(|look| look.resident_mib > RESIDENT_MIB_MAX) {
                    // The load ends with the server.
                    drop(server);
                    let _ = calling.join();
                    return Ok(looks);
                }
                let live: f64 = server.process.ask(LIVE)?.parse().map_err(io::Error::other)?;
                looks.push(Look {
                    second: start.elapsed().as_secs_f64(),
                    resident_mib: server.process.resident_bytes() as f64 / MIB,
                    live_mib: live / MIB,
                });
                thread::sleep(LOOK);
            }
            calling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(looks)
        })
    }

    fn section(&self, title: &str, file: &str, rounds: &Rounds<'_>) -> Section {
        let healthy = rounds.health == Health::Healthy;
        let mut tables = vec![rounds.table("at full load, 16 connections", |measured| &measured.full)];
        if healthy {
            tables.push(rounds.table("at 4 000 requests a second", |measured| &measured.modest));
        }
        let pinned = match (self.load, self.server) {
            (Some(load), Some(server)) => {
                format!(
                    "The server has processor {server} for itself; the load and the collector have {load}."
                )
            }
            _ => "There is one processor: the server shares it with the load and the collector.".to_owned(),
        };
        let drained = match healthy {
            true => "until every span is sent",
            false => "while the load lasts",
        };
        let note = format!(
            "{pinned} *CPU*: user and system time of the whole server process per request, {drained}; *added* is what a stack has \
             more than the bare one, which is loaded beside it, the median and the quartiles of the repetitions; and how much of it the \
             server's own thread needs, which requests wait for: the rest is the exporter's. *busy*: its CPU time by the clock on the \
             wall. Latencies are the client's, in µs: at full \
             load mostly the time in which others are served. *lost*: the part of the spans that the collector did not get. A stack \
             that loses spans does less work for them."
        );
        let bars = rounds.stacks.iter().filter(|(stack, _)| stack.name != BARE).map(|(stack, _)| Bar {
            name: stack.name.to_owned(),
            value: median(&rounds.added_us(stack.name, |measured| &measured.full)),
            ours: stack.name == OURS,
        });
        Section {
            title: title.to_owned(),
            note,
            tables,
            plots: vec![Plot {
                file: file.to_owned(),
                title: format!("CPU time added to a request, export included: {title}"),
                kind: PlotKind::Bars { unit: "µs".to_owned(), bars: bars.collect() },
            }],
            goals: if healthy { rounds.comparisons() } else { Vec::new() },
        }
    }
}

/// What a process holds at one time.
struct Look {
    second: f64,
    resident_mib: f64,
    live_mib: f64,
}

const MIB: f64 = (1 << 20) as f64;

/// All that was measured with one kind of collector.
struct Rounds<'a> {
    health: Health,
    stacks: Vec<(&'a Stack, Vec<Measured>)>,
}

impl Rounds<'_> {
    fn table(&self, what: &str, phase: fn(&Measured) -> &Phase) -> Table {
        let heading = [
            what,
            "CPU, µs",
            "added, µs",
            "quartiles",
            "of it while serving",
            "busy, %",
            "requests/s",
            "p50",
            "p99",
            "p99.9",
            "resident, MiB",
            "lost, %",
        ];
        let mut rows = vec![heading.map(String::from).to_vec()];
        for (stack, measured) in &self.stacks {
            let all = |of: &dyn Fn(&Measured) -> f64| median(&measured.iter().map(of).collect::<Vec<_>>());
            let added = self.added_us(stack.name, phase);
            let is_base = stack.name == BARE;
            let dash = || "–".to_owned();
            rows.push(vec![
                stack.name.to_owned(),
                format!("{:.2}", all(&|measured| phase(measured).cpu_us)),
                if is_base { dash() } else { format!("{:.2}", median(&added)) },
                if is_base {
                    dash()
                } else {
                    format!("{:.2} – {:.2}", quantile(&added, 0.25), quantile(&added, 0.75))
                },
                if is_base {
                    dash()
                } else {
                    format!("{:.2}", all(&|measured| phase(measured).added_serving_us))
                },
                format!("{:.0}", 100.0 * all(&|measured| phase(measured).busy)),
                format!("{:.0}", all(&|measured| phase(measured).requests_per_second)),
                format!("{:.0}", all(&|measured| phase(measured).p50_us)),
                format!("{:.0}", all(&|measured| phase(measured).p99_us)),
                format!("{:.0}", all(&|measured| phase(measured).p999_us)),
                format!("{:.1}", all(&|measured| measured.resident_mib)),
                match stack.spans {
                    Spans::None => dash(),
                    _ if self.health != Health::Healthy => dash(),
                    _ => format!("{:.1}", 100.0 * all(&|measured| phase(measured).lost)),
                },
            ]);
        }
        Table { rows }
    }

    fn comparisons(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        let full: fn(&Measured) -> &Phase = |measured| &measured.full;
        let modest: fn(&Measured) -> &Phase = |measured| &measured.modest;
        let cheapest = self.cheapest_peer(full);
        let mut compare = |ours: &str, peer: &Stack, when: &str, phase, at_most| {
            let both = self.added_us(ours, phase).into_iter().zip(self.added_us(peer.name, phase));
            let ratios: Vec<f64> = both.map(|(ours, peer)| ours / peer).collect();
            if !ratios.is_empty() {
                goals.push(Goal::ratio(format!("{ours} ÷ {}, {when}", peer.name), &ratios, at_most));
            }
        };
        for peer in self.peers() {
            let at_most = match peer.name {
                AXUM_TRACING => Some(0.1),
                name => (cheapest == Some(name)).then_some(0.25),
            };
            compare(OURS, peer, "at full load", full, at_most);
            if peer.name == AXUM_TRACING {
                compare(LEAST, peer, "at full load", full, None);
                compare(READING, peer, "at full load", full, None);
            }
        }
        // Where few requests come, most of their CPU time is spent on falling asleep and waking up: small differences drown in that.
        for peer in self.peers().filter(|peer| peer.spans != Spans::None) {
            compare(OURS, peer, "at 4 000/s", modest, None);
        }
        goals
    }

    fn peers(&self) -> impl Iterator<Item = &Stack> {
        let stacks = self.stacks.iter().map(|(stack, _)| *stack);
        stacks.filter(|stack| ![BARE, IDENTITY, LEAST, READING, OURS].contains(&stack.name))
    }

    /// Of those that export.
    fn cheapest_peer(&self, phase: fn(&Measured) -> &Phase) -> Option<&'static str> {
        let peers = self.peers().filter(|stack| stack.spans != Spans::None);
        let cost = |stack: &Stack| median(&self.added_us(stack.name, phase));
        peers.min_by(|one, other| cost(one).total_cmp(&cost(other))).map(|stack| stack.name)
    }

    /// What a stack needs more than the bare one, in each repetition.
    fn added_us(&self, name: &str, phase: fn(&Measured) -> &Phase) -> Vec<f64> {
        let found = self.stacks.iter().find(|(stack, _)| stack.name == name);
        let measured = found.map_or(&[][..], |(_, measured)| measured);
        measured.iter().map(|measured| phase(measured).added_us).collect()
    }
}

/// The name of the threads of the server's runtime, which no exporter's have.
const SERVING: &str = "tokio-rt-worker";

impl Server {
    /// Calls it, until all that came of that is sent.
    fn serve(&mut self, load: Load) -> io::Result<Slice> {
        let spans = self.collector.spans();
        let (cpu, serving) = (self.process.cpu_ns()?, self.process.threads_ns(SERVING)?);
        let answered = load::run(load, self.port, REQUEST)?;
        self.collector.drain(&mut self.process)?;
        Ok(Slice {
            answered,
            cpu_ns: (self.process.cpu_ns()? - cpu) as f64,
            serving_ns: (self.process.threads_ns(SERVING)? - serving) as f64,
            spans: self.collector.spans() - spans,
        })
    }
}

impl Slice {
    fn cpu_us(&self) -> f64 {
        self.cpu_ns / 1e3 / self.answered.requests as f64
    }

    fn serving_us(&self) -> f64 {
        self.serving_ns / 1e3 / self.answered.requests as f64
    }
}

impl Phase {
    fn of(slices: &[Slice], bare: &[Slice]) -> Self {
        let mut all = Answered::nothing_yet();
        slices.iter().for_each(|slice| all.add(&slice.answered));
        let cpu_ns: f64 = slices.iter().map(|slice| slice.cpu_ns).sum();
        let spans: u64 = slices.iter().map(|slice| slice.spans).sum();
        let added = |cost: fn(&Slice) -> f64| -> f64 {
            let pairs = slices.iter().zip(bare);
            median(&pairs.map(|(slice, bare)| cost(slice) - cost(bare)).collect::<Vec<_>>())
        };
        let requests = all.requests as f64;
        Self {
            cpu_us: median(&slices.iter().map(Slice::cpu_us).collect::<Vec<_>>()),
            added_us: added(Slice::cpu_us),
            added_serving_us: added(Slice::serving_us),
            busy: cpu_ns / all.time.as_nanos() as f64,
            requests_per_second: requests / all.time.as_secs_f64(),
            p50_us: all.latency_us(0.5),
            p99_us: all.latency_us(0.99),
            p999_us: all.latency_us(0.999),
            lost: 1.0 - spans as f64 / requests,
        }
    }
}

/// The collector of one process.
enum Target {
    Healthy(Sink),
    Refusing(String),
    Hanging(Hanging),
}

impl Target {
    fn start(health: Health) -> io::Result<Self> {
        Ok(match health {
            Health::Healthy => Self::Healthy(Sink::start()?),
            Health::Refusing => Self::Refusing(refusing_endpoint()?),
            Health::Hanging => Self::Hanging(Hanging::start()?),
        })
    }

    fn endpoint(&self) -> String {
        match self {
            Self::Healthy(sink) => sink.endpoint(),
            Self::Refusing(endpoint) => endpoint.clone(),
            Self::Hanging(hanging) => hanging.endpoint(),
        }
    }

    /// Has the server send what waits, where that comes to an end.
    fn drain(&self, server: &mut Running) -> io::Result<()> {
        if let Self::Healthy(_) = self {
            server.ask(DRAIN)?;
        }
        Ok(())
    }

    fn spans(&self) -> u64 {
        match self {
            Self::Healthy(sink) => sink.tally().spans,
            Self::Refusing(_) | Self::Hanging(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_compared_with_the_slice_beside() {
        let slice = |cpu_ns| {
            let mut answered = Answered::nothing_yet();
            (answered.requests, answered.time) = (2, Duration::from_micros(20));
            Slice { answered, cpu_ns, serving_ns: cpu_ns / 2.0, spans: 1 }
        };
        let bare = [10_000.0, 20_000.0, 10_000.0].map(slice);
        let stack = [14_000.0, 26_000.0, 12_000.0].map(slice);
        let phase = Phase::of(&stack, &bare);
        assert_eq!((phase.cpu_us, phase.added_us, phase.added_serving_us), (7.0, 2.0, 1.0));
        assert_eq!((phase.lost, phase.requests_per_second), (0.5, 100_000.0));
        assert!((phase.busy - 52.0 / 60.0).abs() < 1e-9);
    }

    #[test]
    fn goals_are_set_by_the_cheapest_that_exports() {
        let measured = |added_us| Measured {
            modest: Phase::default(),
            full: Phase { added_us, ..Phase::default() },
            resident_mib: 0.0,
        };
        let stacks = [
            (BARE, 0.0),
            (IDENTITY, 0.1),
            (LEAST, 0.7),
            (READING, 0.8),
            (OURS, 1.0),
            ("tower-http, nobody listening", 0.5),
            ("fastrace-axum", 5.0),
            (AXUM_TRACING, 8.0),
        ];
        let stacks = stacks.iter().filter_map(|(name, added_us)| {
            let stack = STACKS.iter().find(|stack| stack.name == *name)?;
            Some((stack, vec![measured(*added_us)]))
        });
        let rounds = Rounds { health: Health::Healthy, stacks: stacks.collect() };
        assert_eq!(rounds.cheapest_peer(|measured| &measured.full), Some("fastrace-axum"));
        let goals: Vec<_> = rounds.comparisons().iter().map(|goal| goal.at_most).collect();
        assert_eq!(goals, [None, Some(0.25), Some(0.1), None, None, None, None]);
    }

    #[test]
    fn every_stack_has_its_own_name() {
        for (place, stack) in STACKS.iter().enumerate() {
            assert!(STACKS[..place].iter().all(|before| before.name != stack.name), "{}", stack.name);
        }
        assert_eq!(STACKS[0].name, BARE);
    }
}
