//! What becomes of a service whose collector fails at random, for minutes, at full load? A picture of memory, losses and
//! latencies over time, and the accounts at the end, as the service and as the collector have them.
//!
//! Not a comparison: nothing of the peers is here. It is beside the benches for their load and their pictures.

use std::error::Error;
use std::fmt::{self, Write};
use std::fs;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use clap::Args;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use trace_core::config::{ExporterConfig, OtlpConfig};
use trace_core::testing::{Behaviour, Collector};
use trace_core::{SpanKind, Tracer, db};

use crate::harness::load::{self, Load, Pace};
use crate::harness::statistics::{median, quantile};
use crate::harness::{Axis, Machine, Medium, Plot, PlotKind, Running, Section, Series, Table};
use crate::harness::{draw, memory, section};

/// How long, and how the collector fails.
#[derive(Debug, Args)]
pub(crate) struct Wish {
    /// For how many seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Two runs with the same seed have a collector that does the same at the same times.
    #[arg(long, default_value_t = 20_261_127)]
    seed: u64,
    /// Print the report, and write nothing.
    #[arg(long)]
    print: bool,
}

/// The process that serves.
#[derive(Debug, Args)]
pub(crate) struct Part {
    endpoint: String,
}

const FILE: &str = "SOAK.md";

/// Pictures of the soak begin with this.
pub(crate) const PICTURES: &str = "soak-";

/// What the serving process is asked for, by a line; it answers by one.
const LOOK: &str = "look";
const SHUTDOWN: &str = "shutdown";

/// The time that a shutdown has at the end, when the collector is healthy again.
const SHUTDOWN_TIME: Duration = Duration::from_secs(10);

/// Serves until nobody asks any more, with everything by default.
pub(crate) fn work(part: &Part) -> io::Result<()> {
    let mut otlp = OtlpConfig::default();
    otlp.endpoint = part.endpoint.parse().map_err(io::Error::other)?;
    let traces = Tracer::builder().service_name("soak").exporter(ExporterConfig::Otlp(otlp)).init();
    let runtime = Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
    println!("{}", listener.local_addr()?.port());
    let router = Router::new().route("/items/{id}", get(item)).layer(trace_axum::TraceLayer::new());
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    runtime.spawn(async { axum::serve(listener, service).await });
    for line in io::stdin().lock().lines() {
        match line?.as_str() {
            LOOK => {
                let stats = traces.stats();
                let (dropped, live) = (stats.dropped.total(), memory::live_bytes());
                println!(
                    "{} {} {} {} {dropped} {live}",
                    stats.started, stats.shed, stats.exported, stats.rejected
                );
            }
            SHUTDOWN => {
                let start = Instant::now();
                let result = traces.blocking_shutdown(SHUTDOWN_TIME);
                let stats = traces.stats();
                let balanced = stats.is_balanced();
                // What the collector may have without having said so is the one reason that is looked at below.
                let unknown = stats.dropped.count(trace_core::DropReason::OutcomeUnknown);
                let took_ms = start.elapsed().as_millis();
                println!(
                    "{} {} {unknown} {} {took_ms} {} {stats}",
                    stats.started,
                    stats.exported,
                    u8::from(balanced),
                    u8::from(result.is_ok())
                );
            }
            other => return Err(io::Error::other(format!("there is no {other:?}"))),
        }
    }
    Ok(())
}

/// A request of three spans.
async fn item() -> &'static str {
    db::query("postgresql").operation("SELECT").collection("items").start().end();
    trace_core::span("render").kind(SpanKind::Internal).in_scope(|| "an item")
}

const REQUEST: &[u8] = b"GET /items/3419 HTTP/1.1\r\nhost: items.example.com\r\n\r\n";

/// The spans of a request.
const SPANS: u64 = 3;

/// What the collector does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weather {
    Healthy,
    Unavailable,
    Throttled,
    Slow,
    Hanging,
    Resetting,
    Refusing,
    Rejecting,
    Partly,
}

impl Weather {
    const BAD: [Self; 8] = [
        Self::Unavailable,
        Self::Throttled,
        Self::Slow,
        Self::Hanging,
        Self::Resetting,
        Self::Refusing,
        Self::Rejecting,
        Self::Partly,
    ];

    /// Healthy every other time.
    fn next(self, random: &mut fastrand::Rng) -> (Self, Duration) {
        let weather = match self {
            Self::Healthy => *random.choice(&Self::BAD).unwrap_or(&Self::Unavailable),
            _ => Self::Healthy,
        };
        (weather, Duration::from_millis(random.u64(200..8_000)))
    }

    fn behaviour(self) -> Behaviour {
        match self {
            Self::Healthy => Behaviour::Accept,
            Self::Unavailable => Behaviour::unavailable(),
            Self::Throttled => Behaviour::throttled(Duration::from_secs(1)),
            Self::Slow => Behaviour::Delay(Duration::from_millis(300)),
            Self::Hanging => Behaviour::Hang,
            Self::Resetting => Behaviour::Reset,
            Self::Refusing => Behaviour::Refuse,
            Self::Rejecting => Behaviour::rejecting(),
            Self::Partly => {
                Behaviour::PartialSuccess { rejected: 7, message: "seven are too many".to_owned() }
            }
        }
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "takes everything",
            Self::Unavailable => "answers 503",
            Self::Throttled => "answers 429, asks for a second",
            Self::Slow => "answers after 300 ms",
            Self::Hanging => "reads, and never answers",
            Self::Resetting => "resets connections",
            Self::Refusing => "refuses connections",
            Self::Rejecting => "answers 400",
            Self::Partly => "rejects seven spans of each request",
        })
    }
}

/// A second of it.
struct Second {
    at: f64,
    weather: Weather,
    requests: u64,
    /// Of requests, in µs.
    p50: f64,
    p99: f64,
    p999: f64,
    resident_mib: f64,
    live_mib: f64,
    /// Spans since the start.
    started: f64,
    shed: f64,
    exported: f64,
    rejected: f64,
    dropped: f64,
}

/// As the service said at its end.
struct End {
    started: u64,
    exported: u64,
    /// Those of which the collector did not say whether it has them.
    unknown: u64,
    balanced: bool,
    took_ms: u64,
    in_full: bool,
    stats: String,
}

/// The spans that the collector kept, as it has them.
struct Received {
    spans: u64,
    /// Those that are the second of their id.
    again: u64,
}

/// Runs it, and writes or prints what came of it.
pub(crate) fn run(wish: &Wish, folder: &Path, plots: &'static str) -> Result<bool, Box<dyn Error>> {
    let ids: Arc<Mutex<Vec<u64>>> = Arc::default();
    let kept = Arc::clone(&ids);
    let collector = Collector::builder()
        .deliver_to(move |spans| {
            let mut ids = kept.lock().unwrap_or_else(PoisonError::into_inner);
            ids.extend(spans.iter().map(|span| span.span_id.to_u64()));
        })
        .start_blocking()?;
    let machine = Machine::describe();
    let mut server =
        Running::start(["child-soak".to_owned(), format!("{}/v1/traces", collector.http_endpoint())])?;
    let port = server.line()?.parse()?;
    // Allocators and pools settle.
    load::run(
        Load { connections: CONNECTIONS, pace: Pace::Full, time: Duration::from_secs(3) },
        port,
        REQUEST,
    )?;

    let mut random = fastrand::Rng::with_seed(wish.seed);
    let start = Instant::now();
    let (mut weather, mut changes_at) = (Weather::Healthy, start + Duration::from_secs(2));
    let mut seconds: Vec<Second> = Vec::new();
    while start.elapsed() < Duration::from_secs(wish.seconds) {
        let calling = thread::spawn(move || {
            let load = Load { connections: CONNECTIONS, pace: Pace::Full, time: Duration::from_secs(1) };
            load::run(load, port, REQUEST)
        });
        // What it did for the longest of the second.
        let at_start = weather;
        while !calling.is_finished() {
            if Instant::now() >= changes_at {
                let lasting;
                (weather, lasting) = weather.next(&mut random);
                changes_at = Instant::now() + lasting;
                collector.behave(weather.behaviour());
            }
            thread::sleep(Duration::from_millis(5));
        }
        let answered = calling.join().map_err(|_| "the load panicked")??;
        let [started, shed, exported, rejected, dropped, live] = {
            let line = server.ask(LOOK)?;
            let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            <[f64; 6]>::try_from(numbers).map_err(|_| format!("the service said {line:?}"))?
        };
        let second = Second {
            at: start.elapsed().as_secs_f64(),
            weather: at_start,
            requests: answered.requests,
            p50: answered.latency_us(0.5),
            p99: answered.latency_us(0.99),
            p999: answered.latency_us(0.999),
            resident_mib: server.resident_bytes() as f64 / MIB,
            live_mib: live / MIB,
            started,
            shed,
            exported,
            rejected,
            dropped,
        };
        if seconds.len().is_multiple_of(30) {
            eprintln!(
                "soak: {:.0} of {} s, {} requests in this one",
                second.at, wish.seconds, second.requests
            );
        }
        seconds.push(second);
    }
    collector.behave(Behaviour::Accept);
    let end = End::parse(&server.ask(SHUTDOWN)?)?;
    let received = Received::of(&mut ids.lock().unwrap_or_else(PoisonError::into_inner));
    let report = Report { wish, machine, seconds: &seconds, end: &end, received: &received };
    let section = report.section();
    if wish.print {
        println!("{}", report.text(&section, Medium::Terminal));
    } else {
        fs::write(folder.join(FILE), report.text(&section, Medium::File { plots }))?;
        for plot in &section.plots {
            fs::write(folder.join(plots).join(format!("{}.svg", plot.file)), draw(plot))?;
        }
    }
    Ok(report.claims().iter().all(|claim| claim.holds))
}

const CONNECTIONS: u32 = 32;

const MIB: f64 = (1 << 20) as f64;

impl End {
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.splitn(7, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let numbers = [(); 6].map(|()| number());
        let [Some(started), Some(exported), Some(unknown), Some(balanced), Some(took_ms), Some(in_full)] =
            numbers
        else {
            return Err(format!("the service said {line:?}"));
        };
        let stats = words.next().unwrap_or_default().to_owned();
        Ok(Self {
            started,
            exported,
            unknown,
            balanced: balanced == 1,
            took_ms,
            in_full: in_full == 1,
            stats,
        })
    }
}

impl Received {
    fn of(ids: &mut Vec<u64>) -> Self {
        let all = ids.len() as u64;
        ids.sort_unstable();
        ids.dedup();
        Self { spans: ids.len() as u64, again: all - ids.len() as u64 }
    }
}

/// What a run has to show.
struct Claim {
    what: &'static str,
    found: String,
    holds: bool,
}

struct Report<'a> {
    wish: &'a Wish,
    machine: Machine,
    seconds: &'a [Second],
    end: &'a End,
    received: &'a Received,
}

/// How much more memory may be in use in the last third than in the first, as a part of that: what an allocator keeps differs from
/// moment to moment, and what leaks grows with the time.
const GROWTH_MAX: f64 = 0.05;

/// And beyond that, what does not matter in any case.
const GROWTH_MIB: f64 = 1.0;

impl Report<'_> {
    fn requests(&self) -> u64 {
        self.seconds.iter().map(|second| second.requests).sum()
    }

    /// The medians of the first third and of the last.
    fn thirds(&self, of: fn(&Second) -> f64) -> (f64, f64) {
        let third = self.seconds.len().div_ceil(3);
        let values: Vec<f64> = self.seconds.iter().map(of).collect();
        (median(&values[..third]), median(&values[values.len() - third..]))
    }

    fn claims(&self) -> Vec<Claim> {
        let Self { end, received, .. } = self;
        let flat = |(first, last): (f64, f64)| last <= first * (1.0 + GROWTH_MAX) + GROWTH_MIB;
        let growth =
            |(first, last): (f64, f64)| format!("{first:.1} MiB in the first third, {last:.1} in the last");
        let (resident, live) =
            (self.thirds(|second| second.resident_mib), self.thirds(|second| second.live_mib));
        let doubtful = received.spans.saturating_sub(end.exported);
        vec![
            Claim {
                what: "every request was answered by 200",
                // The load fails by anything else.
                found: format!("{} requests", self.requests()),
                holds: self.requests() > 0,
            },
            Claim { what: "memory is flat: resident", found: growth(resident), holds: flat(resident) },
            Claim {
                what: "memory is flat: given out by the allocator",
                found: growth(live),
                holds: flat(live),
            },
            Claim {
                what: "every started span is exported, rejected, or dropped for a reason",
                found: format!("{} spans", end.started),
                holds: end.balanced,
            },
            Claim {
                what: "what the service counts as exported is what the collector has, but for spans of an unknown outcome",
                found: format!(
                    "{} exported, {} different ones received, and {} of an unknown outcome",
                    end.exported, received.spans, end.unknown
                ),
                holds: received.spans >= end.exported && doubtful <= end.unknown,
            },
            Claim {
                what: "the shutdown sent what was left, by its deadline",
                found: format!("{} ms of {}", end.took_ms, SHUTDOWN_TIME.as_millis()),
                holds: end.in_full && u128::from(end.took_ms) <= SHUTDOWN_TIME.as_millis() + 1_000,
            },
        ]
    }

    fn section(&self) -> Section {
        let claims = self.claims().into_iter().map(|claim| {
            let verdict = if claim.holds { "holds" } else { "**does not hold**" };
            vec![claim.what.to_owned(), claim.found, verdict.to_owned()]
        });
        let heading = ["", "found", ""].map(String::from).to_vec();
        let claims = Table { rows: [heading].into_iter().chain(claims).collect() };
        Section {
            title: "What came of it".to_owned(),
            note: String::new(),
            tables: vec![claims, self.by_weather()],
            plots: self.plots(),
            goals: Vec::new(),
        }
    }

    /// Whether those who ask notice what the collector does.
    fn by_weather(&self) -> Table {
        let heading = ["the collector", "seconds", "requests/s", "p50, µs", "p99, µs", "p99.9, µs"]
            .map(String::from)
            .to_vec();
        let mut all: Vec<Weather> = self.seconds.iter().map(|second| second.weather).collect();
        all.sort_unstable();
        all.dedup();
        let rows = all.into_iter().map(|weather| {
            let seconds = || self.seconds.iter().filter(|second| second.weather == weather);
            let middle =
                |of: fn(&Second) -> f64| format!("{:.0}", median(&seconds().map(of).collect::<Vec<_>>()));
            vec![
                weather.to_string(),
                seconds().count().to_string(),
                middle(|second| second.requests as f64),
                middle(|second| second.p50),
                middle(|second| second.p99),
                middle(|second| second.p999),
            ]
        });
        Table { rows: [heading].into_iter().chain(rows).collect() }
    }

    fn plots(&self) -> Vec<Plot> {
        let line = |name: &str, ours, of: &dyn Fn(&Second) -> f64| Series {
            name: name.to_owned(),
            points: self.seconds.iter().map(|second| (second.at, of(second))).collect(),
            ours,
        };
        let bad = |least: f64, most: f64| {
            move |second: &Second| match second.weather {
                Weather::Healthy => least,
                _ => most,
            }
        };
        let axis = |label: &str, logarithmic| Axis { label: label.to_owned(), logarithmic };
        let plot = |file: &str, title: &str, y, series| Plot {
            file: format!("{PICTURES}{file}"),
            title: title.to_owned(),
            kind: PlotKind::Lines { x: axis("seconds", false), y, series },
        };
        let most = self.seconds.iter().map(|second| second.resident_mib).fold(0.0, f64::max);
        vec![
            plot(
                "memory",
                "Memory of the service while its collector fails at random",
                axis("MiB", false),
                vec![
                    line("resident", true, &|second| second.resident_mib),
                    line("given out by the allocator", false, &|second| second.live_mib),
                    line("the collector fails", false, &bad(0.0, most / 10.0)),
                ],
            ),
            plot(
                "spans",
                "What became of the spans",
                axis("millions of spans", false),
                vec![
                    line("started", false, &|second| second.started / 1e6),
                    line("exported", true, &|second| second.exported / 1e6),
                    line("dropped", false, &|second| second.dropped / 1e6),
                    line("rejected", false, &|second| second.rejected / 1e6),
                    line("shed, with all spans of their requests", false, &|second| {
                        second.shed * SPANS as f64 / 1e6
                    }),
                ],
            ),
            plot(
                "latency",
                "Latency of requests while the collector fails at random",
                axis("µs", true),
                vec![
                    line("p50", true, &|second| second.p50),
                    line("p99", false, &|second| second.p99),
                    line("p99.9", false, &|second| second.p999),
                ],
            ),
        ]
    }

    fn text(&self, section_: &Section, medium: Medium) -> String {
        let Self { wish, machine, end, received, .. } = self;
        let latency =
            |of: fn(&Second) -> f64, part| quantile(&self.seconds.iter().map(of).collect::<Vec<_>>(), part);
        // The peers' versions do not matter here.
        let machine = machine.to_string();
        let machine = machine.lines().next().unwrap_or_default();
        let mut text = format!(
            "# Soak\n\n\
             An axum service is called over {CONNECTIONS} connections as fast as it answers, for {} s, and makes {SPANS} spans of \
             each request; every setting is the default. Its collector takes everything every other time, and in between it fails, in a \
             way and for a time that are drawn by lot (seed {}). The service, the load and the collector share this machine, so that \
             the collector, which decodes every span, takes fewer than are made even when it is healthy. \
             `cargo run -p benches --release -- soak` wrote this.\n\n{machine}\n",
            wish.seconds, wish.seed
        );
        let _ = write!(text, "{}", section(section_, medium));
        let _ = write!(
            text,
            "\nThe median second has a p50 of {:.0} µs and a p99.9 of {:.0} µs; the worst one of a hundred a p99.9 of {:.0} µs. \
             {} spans came to the collector more than once.\n\n\
             The service's own account at its end:\n\n```json\n{}\n```\n",
            latency(|second| second.p50, 0.5),
            latency(|second| second.p999, 0.5),
            latency(|second| second.p999, 0.99),
            received.again,
            end.stats
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(resident_mib: f64) -> Second {
        Second {
            at: 1.0,
            weather: Weather::Healthy,
            requests: 10,
            p50: 1.0,
            p99: 2.0,
            p999: 3.0,
            resident_mib,
            live_mib: 10.0,
            started: 30.0,
            shed: 0.0,
            exported: 28.0,
            rejected: 0.0,
            dropped: 2.0,
        }
    }

    fn failing(resident: &[f64], end: &str, mut ids: Vec<u64>) -> Vec<&'static str> {
        let seconds: Vec<Second> = resident.iter().map(|mib| second(*mib)).collect();
        let wish = Wish { seconds: 3, seed: 1, print: true };
        let (end, received) = (End::parse(end).unwrap(), Received::of(&mut ids));
        let report = Report {
            wish: &wish,
            machine: Machine::describe(),
            seconds: &seconds,
            end: &end,
            received: &received,
        };
        report.claims().into_iter().filter(|claim| !claim.holds).map(|claim| claim.what).collect()
    }

    #[test]
    fn each_claim_is_judged() {
        let good = "30 28 2 1 50 1 {}";
        assert_eq!(failing(&[20.0, 30.0, 20.5], good, (0..28).chain([3]).collect()), [""; 0]);
        assert_eq!(
            failing(&[20.0; 3], good, (0..30).collect()),
            [""; 0],
            "the unknown ones may have arrived"
        );
        assert_eq!(failing(&[20.0, 30.0, 23.0], good, (0..28).collect()), ["memory is flat: resident"]);
        assert_eq!(failing(&[20.0; 3], good, (0..27).collect()).len(), 1, "exported and not received");
        assert_eq!(failing(&[20.0; 3], good, (0..31).collect()).len(), 1, "received and dropped");
        assert_eq!(failing(&[20.0; 3], "30 28 2 0 50 1 {}", (0..28).collect()).len(), 1, "not balanced");
        assert_eq!(failing(&[20.0; 3], "30 28 2 1 11001 1 {}", (0..28).collect()).len(), 1, "too late");
        assert!(End::parse("30 28").is_err());
    }

    #[test]
    fn the_collector_is_healthy_every_other_time_and_fails_in_every_way() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut weather, mut seen) = (Weather::Healthy, Vec::new());
        for _ in 0..200 {
            let before = weather;
            weather = before.next(&mut random).0;
            assert_ne!(before == Weather::Healthy, weather == Weather::Healthy);
            seen.push(weather);
        }
        assert!(Weather::BAD.iter().all(|bad| seen.contains(bad)));
    }
}
