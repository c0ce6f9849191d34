//! How much memory a pipeline takes at full load, all of it: the allocator of a process that has nothing else is counted.
//!
//! The collector and the network are this process's; the pipeline is in another one, which is told where to export to, and
//! tells what it measured.

use std::io::{BufRead, BufReader, Write, stdin};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use trace_core::config::{Compression, OtlpConfig, Protocol};
use trace_core::testing::Names;
use trace_core::{DropReason, Span, Tracer};

use crate::backend::{Backend, Fault, Kind, NAME, PROTOCOLS, faults};
use crate::host::{MEMORY, TIMEOUTS, pipeline};
use crate::{CHILD, each, ensure, meter};

/// Each has threads that do nothing but make spans.
const AT_A_TIME: usize = 2;

/// Threads at full load, and for how long.
const THREADS: usize = 3;
const LOAD: Duration = Duration::from_millis(250);

/// The spans that a thread keeps open: together more than there is memory for.
const LIVE: usize = 1_000;

const DEADLINE: Duration = Duration::from_millis(300);
const SLACK: Duration = Duration::from_secs(1);

/// What may be beyond the bound, in percent.
const BEYOND_MAX: usize = 10;

pub(crate) fn test() {
    each(&PROTOCOLS, AT_A_TIME, |protocol| {
        let mut child = Command::new(std::env::current_exe().map_err(|error| error.to_string())?)
            .env(CHILD, "memory of a pipeline")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut tell = child.stdin.take().unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        let (mut lines, mut wrong) = (Vec::new(), Vec::new());
        for fault in faults() {
            let name = format!("{:28} {:13}", fault.name, protocol.to_string());
            let backend = Backend::new(&fault, *protocol);
            let certificate = backend.otlp.certificate.clone().unwrap_or_default();
            writeln!(tell, "{}\t{}\t{}", fault.name, backend.otlp.endpoint, certificate.display()).unwrap();
            let mut measured = String::new();
            told.read_line(&mut measured).map_err(|error| format!("{name} {error}"))?;
            ensure!(!measured.is_empty(), "{name} the process has ended");
            let (is_right, measured) = measured.trim_end().split_once(' ').unwrap();
            if is_right == "right" { &mut lines } else { &mut wrong }.push(format!("{name} {measured}"));
        }
        drop(tell);
        let _ = child.wait();
        ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        Ok(lines.join("\n"))
    });
}

/// What is measured, in a process of its own.
pub(crate) fn child(_: &str) {
    // What is made once in a process is made before anything is counted.
    for protocol in PROTOCOLS {
        let mut otlp = OtlpConfig::new(protocol);
        otlp.endpoint = "http://127.0.0.1:1/v1/traces".parse().unwrap();
        let traces = pipeline(otlp, TIMEOUTS);
        work(traces.tracer());
        let _ = traces.blocking_shutdown(Duration::from_millis(50));
    }
    for line in stdin().lines() {
        let line = line.unwrap();
        let mut told = line.split('\t');
        let mut next = || told.next().unwrap();
        let name = next();
        let fault = faults().into_iter().find(|fault| fault.name == name).unwrap();
        let endpoint = next();
        // A path is what HTTP has.
        let protocol = if endpoint.ends_with("/v1/traces") { Protocol::HttpProtobuf } else { Protocol::Grpc };
        let mut otlp = OtlpConfig::new(protocol);
        otlp.endpoint = endpoint.parse().unwrap();
        otlp.certificate = Some(next()).filter(|path| !path.is_empty()).map(PathBuf::from);
        match measure(&fault, otlp) {
            Ok(line) => println!("right {line}"),
            Err(line) => println!("wrong {line}"),
        }
    }
}

fn measure(fault: &Fault, mut otlp: OtlpConfig) -> Result<String, String> {
    let names = Names::new();
    if matches!(fault.kind, Kind::NameHangs | Kind::NameFails | Kind::Moves) {
        otlp.resolver = names.resolver();
        match fault.kind {
            Kind::NameHangs => names.hang(NAME),
            Kind::NameFails => names.fail(NAME),
            _ => names.point(NAME, IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }
    otlp.compression = Compression::Gzip;
    // What is the service's own is there before.
    let large = "x".repeat(60_000);
    let mut kept: Vec<Vec<Span>> = (0..THREADS).map(|_| Vec::with_capacity(LIVE)).collect();
    let before = meter::live();
    meter::take_peak();
    let traces = pipeline(otlp, TIMEOUTS);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for live in &mut kept {
            scope.spawn(|| {
                let mut attempts = 0;
                while !stop.load(Ordering::Relaxed) {
                    if attempts == LIVE {
                        live.clear();
                        attempts = 0;
                    }
                    attempts += 1;
                    // Spans that stay, until there is no memory for live ones. One that is not recorded is no more than its context,
                    // which is whose the span is.
                    live.extend(Some(traces.span("GET /events").root().start()).filter(Span::is_recording));
                    work(traces.tracer());
                    if attempts % 50 == 0 {
                        // As large as a span can be.
                        traces.span("upload").root().start().set_attribute("body", &*large);
                    }
                }
            });
        }
        std::thread::sleep(LOAD);
        stop.store(true, Ordering::Relaxed);
    });
    kept.iter_mut().for_each(Vec::clear);
    let asked = Instant::now();
    let _ = traces.blocking_shutdown(DEADLINE);
    let took = asked.elapsed();
    while traces.stats().queued > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let stats = traces.stats();
    let peak = meter::take_peak() - before;
    let line = format!(
        "at most {} KiB of {} ({} %); started {}, shed {}, dropped {} (no memory {}), exported {}, rejected {}; shutdown {took:.0?}",
        peak / 1024,
        MEMORY / 1024,
        peak * 100 / MEMORY,
        stats.started,
        stats.shed,
        stats.dropped.total(),
        stats.dropped.count(DropReason::QueueFull) + stats.dropped.count(DropReason::LiveLimit),
        stats.exported,
        stats.rejected
    );
    ensure!(peak <= MEMORY + MEMORY * BEYOND_MAX / 100, "too much memory: {line}");
    ensure!(stats.is_balanced() && stats.live == 0, "the account is wrong: {stats}; {line}");
    ensure!(took < DEADLINE + SLACK, "the shutdown was late: {line}");
    Ok(line)
}

/// A trace of six spans, of some 1.5 KiB.
pub(crate) fn work(tracer: Tracer) {
    let mut root = tracer.span("GET /orders/{id}").start();
    root.set_attribute("http.route", "/orders/{id}");
    root.enter(|| {
        for _ in 0..5 {
            let mut child = trace_core::span("SELECT orders").start();
            child.set_attribute("db.query.text", QUERY);
        }
    });
}

const QUERY: &str =
    "SELECT id, customer, total, currency, placed_at, shipped_at FROM orders WHERE customer = ? LIMIT 20";
