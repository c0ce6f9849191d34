//! A service that is killed at any moment loses nothing that was on its disk.
//!
//! A child process, which is this very test's executable, makes spans as fast as its disk takes them, while its collector
//! comes and goes, and says over a pipe how many it knows to be safe. It is killed at a random moment. What it left is read
//! from disk by the reader of the format, then sent by the next start; and each span carries its own id as an attribute, so
//! that one that was damaged would show.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use trace_core::config::{ExporterConfig, OtlpConfig, Protocol, SpoolConfig};
use trace_core::otlp::{OwnedValue, SpanData, decode_request};
use trace_core::testing::{Behaviour, Collector, DiskFault, DiskFaults, SpoolRecord};
use trace_core::{SpanId, Tracer, Traces};

/// Longer than any step takes.
const LONG: Duration = Duration::from_secs(60);

/// How often a process is killed.
const ROUNDS: usize = 100;

/// The longest that a child lives after it has begun.
const LIFE_MAX: Duration = Duration::from_millis(300);

#[cfg(feature = "grpc")]
const PROTOCOLS: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];
#[cfg(not(feature = "grpc"))]
const PROTOCOLS: [Protocol; 1] = [Protocol::HttpProtobuf];

/// The most that each call to the disk is slowed down by.
const DISK_DELAY_MAX: Duration = Duration::from_millis(2);

/// What tells a process that it is the child: protocol, endpoint, the disk's delay in microseconds, and directory.
const CHILD: &str = "TEST_SPOOL_CHILD";

fn pipeline(
    protocol: Protocol,
    endpoint: &str,
    directory: &Path,
    timeout: Duration,
    fault: DiskFault,
) -> Traces {
    let disk = DiskFaults::default();
    disk.behave(fault);
    let mut otlp = OtlpConfig::new(protocol);
    otlp.endpoint = endpoint.parse().unwrap();
    otlp.timeout = timeout;
    let builder = Tracer::builder().service_name("mortal").exporter(ExporterConfig::Otlp(otlp));
    let builder = builder.configure(|config| {
        config.batch.schedule_delay = Duration::from_millis(1);
        config.batch.export_timeout = timeout;
        // Batches of 64 KiB, so that there are many.
        config.memory_bytes_max = 1 << 20;
        config.spool = Some(SpoolConfig::new(directory).with_faults(disk));
    });
    builder.try_build().unwrap()
}

/// The child's whole life. In the parent it is a test that has nothing to do.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let [protocol, endpoint, delay_us, directory] = task.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{task}")
    };
    let protocol = if protocol == "grpc" { Protocol::Grpc } else { Protocol::HttpProtobuf };
    let fault = match delay_us.parse().unwrap() {
        0 => DiskFault::None,
        delay_us => DiskFault::Slow(Duration::from_micros(delay_us)),
    };
    let traces = pipeline(protocol, endpoint, directory.as_ref(), Duration::from_millis(20), fault);
    let mut out = std::io::stdout();
    loop {
        for _ in 0..100 {
            let mut span = traces.span("work").start();
            let id = span.context().span_context().unwrap().span_id();
            span.set_attribute("check", &*id.to_string());
        }
        // No faster than the disk: what memory cannot hold would be dropped, and nobody would know what to expect.
        while traces.stats().queued > 1_000 {
            std::thread::yield_now();
        }
        let stats = traces.stats();
        // `exported` is read before `spooled`, so that a span that moves from one to the other counts at most once.
        writeln!(out, "safe {} lost {}", stats.exported + stats.spooled, stats.dropped.total()).unwrap();
        out.flush().unwrap();
    }
}

/// What rounds came to.
#[derive(Debug, Default)]
struct Sum {
    rounds: usize,
    /// Spans that were on disk when a process was killed.
    on_disk: usize,
    /// Rounds in which the process was killed in the middle of writing a file.
    half_written: usize,
    /// Spans that the collector got more than once.
    twice: usize,
}

#[test]
fn every_span_on_disk_arrives_after_a_kill_at_any_moment() {
    let start = Instant::now();
    let sums: Vec<Sum> = std::thread::scope(|scope| {
        let threads =
            PROTOCOLS.map(|protocol| scope.spawn(move || rounds(protocol, ROUNDS / PROTOCOLS.len())));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |of: fn(&Sum) -> usize| sums.iter().map(of).sum::<usize>();
    let line = format!(
        "killed {} times in {:.0?}: {} spans were on disk, all arrived and none damaged, {} of them twice; {} kills in \
         the middle of a write",
        sum(|sum| sum.rounds),
        start.elapsed(),
        sum(|sum| sum.on_disk),
        sum(|sum| sum.twice),
        sum(|sum| sum.half_written)
    );
    // Shown also when the test passes.
    writeln!(std::io::stderr(), "{line}").unwrap();
    assert!(sum(|sum| sum.on_disk) > 0, "{line}");
}

fn rounds(protocol: Protocol, rounds: usize) -> Sum {
    let collector = Collector::start_blocking().unwrap();
    let endpoint = match protocol {
        Protocol::Grpc => collector.grpc_endpoint(),
        _ => format!("{}/v1/traces", collector.http_endpoint()),
    };
    let directory = std::env::temp_dir().join(format!("trace-core-kill-{}-{protocol:?}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    let mut sum = Sum { rounds, ..Sum::default() };
    for _ in 0..rounds {
        round(protocol, &endpoint, &directory, &collector, &mut sum);
        collector.clear();
    }
    fs::remove_dir_all(&directory).unwrap();
    sum
}

fn round(protocol: Protocol, endpoint: &str, directory: &Path, collector: &Collector, sum: &mut Sum) {
    collector.behave(random_behaviour());
    let name = if protocol == Protocol::Grpc { "grpc" } else { "http" };
    // On a slow disk, a kill comes between the steps of a write more often than not.
    let delay_us = if random() < 0.5 { 0 } else { DISK_DELAY_MAX.mul_f64(random()).as_micros() };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, format!("{name} {endpoint} {delay_us} {}", directory.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok).skip_while(|line| !line.starts_with("safe "));
    let mut safe = safe_of(&lines.next().unwrap());

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let end = Instant::now() + LIFE_MAX.mul_f64(random());
            while Instant::now() < end {
                std::thread::sleep(end.saturating_duration_since(Instant::now()).mul_f64(random()));
                collector.behave(random_behaviour());
            }
            child.kill().unwrap();
        });
        // Until the pipe breaks; the last line may be cut.
        for line in lines {
            if let Some(line) = line.strip_suffix(" lost 0") {
                safe = safe_of(line);
            }
        }
    });
    child.wait().unwrap();

    // What the child knew to be safe is on disk, or with the collector.
    collector.behave(Behaviour::Refuse);
    let arrived: HashSet<SpanId> = HashSet::from_iter(collector.span_ids());
    let (files, half_written) = files(directory);
    let on_disk: Vec<SpanData> = files.iter().flat_map(|file| read(file)).collect();
    assert!(on_disk.iter().all(is_whole));
    let on_disk: HashSet<SpanId> = on_disk.iter().map(|span| span.span_id).collect();
    let known = arrived.union(&on_disk).count();
    assert!(known >= safe, "{safe} spans were safe, and {known} are there");

    // The next start sends it.
    collector.behave(Behaviour::Accept);
    let next = pipeline(protocol, endpoint, directory, LONG, DiskFault::None);
    let ended = next.blocking_shutdown(LONG);
    let stats = next.stats();
    assert_eq!(ended, Ok(()), "{stats}");
    assert!(stats.is_balanced(), "{stats}");
    assert_eq!((stats.recovered, stats.exported), (on_disk.len() as u64, on_disk.len() as u64), "{stats}");
    assert!(collector.spans().iter().all(is_whole));
    let received = collector.span_ids();
    let distinct: HashSet<SpanId> = received.iter().copied().collect();
    assert!(
        on_disk.is_subset(&distinct),
        "{} of {} are missing",
        on_disk.difference(&distinct).count(),
        on_disk.len()
    );
    assert!(self::files(directory).0.is_empty());

    sum.on_disk += on_disk.len();
    sum.half_written += usize::from(half_written);
    sum.twice += received.len() - distinct.len();
}

/// How many spans a line of the child says are safe.
fn safe_of(line: &str) -> usize {
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

fn is_whole(span: &SpanData) -> bool {
    let check = OwnedValue::String(span.span_id.to_string());
    span.name == "work" && span.service_name() == "mortal" && span.attributes == [("check".to_owned(), check)]
}

fn read(file: &Path) -> Vec<SpanData> {
    let bytes = fs::read(file).unwrap();
    let record = SpoolRecord::read(&bytes).unwrap();
    let spans = decode_request(record.message).unwrap();
    assert_eq!(spans.len() as u64, u64::from(record.spans));
    spans
}

/// The batches on disk, and whether there is one that was not written to its end.
fn files(directory: &Path) -> (Vec<PathBuf>, bool) {
    // Without the directory, the child was killed before it made it.
    let lanes = fs::read_dir(directory).into_iter().flatten();
    let files = lanes.flat_map(|lane| fs::read_dir(lane.unwrap().path()).unwrap());
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    let (whole, other): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| has_extension(file, "spans"));
    (whole, other.iter().any(|file| has_extension(file, "tmp")))
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|of| of == extension)
}

/// Mostly away, or what would be the test's point.
fn random_behaviour() -> Behaviour {
    match random() {
        x if x < 0.4 => Behaviour::Refuse,
        x if x < 0.6 => Behaviour::Hang,
        x if x < 0.7 => Behaviour::unavailable(),
        x if x < 0.8 => Behaviour::Reset,
        _ => Behaviour::Accept,
    }
}

/// A number from 0 to 1.
fn random() -> f64 {
    RandomState::new().hash_one(Instant::now()) as f64 / u64::MAX as f64
}
