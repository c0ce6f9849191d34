//! What waits on disk while the collector is away, over real sockets and on a real disk. After each case every span is
//! accounted for, and the collector's own list agrees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use trace_core::config::{Compression, ExporterConfig, OtlpConfig, Protocol, SpoolConfig};
use trace_core::testing::{Behaviour, Collector, DiskFault, DiskFaults, SpoolRecord};
use trace_core::{DropReason, FlushError, SpanId, Stats, Tracer, Traces};

/// Longer than any test takes, so that what happens is not due to a timer.
const LONG: Duration = Duration::from_secs(60);

/// For how long a batch is tried: longer than an answer takes on a busy machine, and no longer than a test can wait.
const TRIED: Duration = Duration::from_secs(1);

/// For a shutdown that has time to write what it cannot send: two seconds of it, for a few files and a busy machine.
const ENOUGH: Duration = Duration::from_secs(8);

/// For whoever does not want to wait.
const SOON: Duration = Duration::from_millis(100);

#[cfg(feature = "grpc")]
const PROTOCOLS: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];
#[cfg(not(feature = "grpc"))]
const PROTOCOLS: [Protocol; 1] = [Protocol::HttpProtobuf];

/// A directory for one test, removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("trace-core-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // One that is left over from a process that had the same id.
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// The batches in it.
    fn files(&self) -> Vec<PathBuf> {
        let lanes = fs::read_dir(&self.0).into_iter().flatten();
        let files = lanes.flat_map(|lane| fs::read_dir(lane.unwrap().path()).unwrap());
        let mut files: Vec<_> =
            files.map(|file| file.unwrap().path()).filter(|path| is_batch(path)).collect();
        files.sort_unstable_by_key(|path| path.file_name().map(ToOwned::to_owned));
        files
    }
}

fn is_batch(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "spans")
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A pipeline with a spool, and the ids of its spans in order.
struct Rig {
    traces: Traces,
    ids: Vec<SpanId>,
}

impl Rig {
    fn new(collector: &Collector, protocol: Protocol, spool: SpoolConfig) -> Self {
        Self::with(otlp(collector, protocol), spool, TRIED)
    }

    /// With so much time for all attempts to send a batch.
    fn with(otlp: OtlpConfig, spool: SpoolConfig, export_timeout: Duration) -> Self {
        let builder = Tracer::builder().exporter(ExporterConfig::Otlp(otlp)).configure(|config| {
            config.batch.schedule_delay = LONG;
            config.batch.export_timeout = export_timeout;
            // Batches of 64 KiB.
            config.memory_bytes_max = 1 << 20;
            config.spool = Some(spool);
        });
        Self { traces: builder.try_build().unwrap(), ids: Vec::new() }
    }

    fn work(&mut self, spans: usize) {
        for i in 0..spans {
            let span = self.traces.span("work").attribute("shop.order", i);
            self.ids.push(span.span_context().unwrap().span_id());
        }
    }

    /// Has the worker begin to send, and waits for nothing.
    fn send(&self) {
        let _ = self.traces.blocking_flush(Duration::ZERO);
    }

    /// The counts, which have to add up.
    #[track_caller]
    fn stats(&self) -> Stats {
        let stats = self.traces.stats();
        assert!(stats.is_balanced(), "{stats}");
        stats
    }

    #[track_caller]
    fn wait_for(&self, done: impl Fn(&Stats) -> bool) -> Stats {
        let start = Instant::now();
        loop {
            let stats = self.traces.stats();
            if done(&stats) {
                return stats;
            }
            assert!(start.elapsed() < LONG, "{stats}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn otlp(collector: &Collector, protocol: Protocol) -> OtlpConfig {
    let endpoint = match protocol {
        Protocol::Grpc => collector.grpc_endpoint(),
        _ => format!("{}/v1/traces", collector.http_endpoint()),
    };
    let mut config = OtlpConfig::new(protocol);
    config.endpoint = endpoint.parse().unwrap();
    config.timeout = LONG;
    config
}

/// The collector got these spans in this order, and no others. One may have come again: on a busy machine an answer may
/// be later than a batch is waited for.
#[track_caller]
fn assert_received(collector: &Collector, expected: &[SpanId]) {
    let mut received = collector.span_ids();
    let mut known = HashSet::new();
    received.retain(|id| known.insert(*id));
    let position = |id: &SpanId| expected.iter().position(|known| known == id);
    if let Some(at) = (0..received.len()).find(|&at| expected.get(at) != Some(&received[at])) {
        let next: Vec<_> = received[at..].iter().take(5).map(position).collect();
        panic!("span {at} of {} is not the one expected: {next:?} came", expected.len());
    }
    assert_eq!(received.len(), expected.len());
}

/// Runs a test once for each of these, all at the same time.
fn each<T: Send>(of: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        let test = &test;
        let tests: Vec<_> = of.into_iter().map(|one| scope.spawn(move || test(one))).collect();
        tests.into_iter().for_each(|test| test.join().unwrap());
    });
}

#[test]
fn an_outage_goes_to_disk_and_its_end_brings_all_of_it_in_order() {
    let cases = PROTOCOLS.into_iter().flat_map(|protocol| {
        [Compression::None, Compression::Gzip].map(|compression| (protocol, compression))
    });
    each(cases, |(protocol, compression)| {
        let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
        let mut otlp = otlp(&collector, protocol);
        otlp.compression = compression;
        let mut rig = Rig::with(otlp, SpoolConfig::new(&directory.0), TRIED);
        collector.behave(Behaviour::Refuse);
        rig.work(2_000);
        rig.send();
        let stats = rig.wait_for(|stats| stats.spooled > 0);
        assert_eq!(stats.dropped.total(), 0, "{stats}");
        assert!(!directory.files().is_empty());
        // These come later than what is on disk.
        rig.work(100);
        assert_eq!(rig.traces.blocking_flush(SOON), Err(FlushError::Timeout));

        collector.behave(Behaviour::Accept);
        rig.traces.blocking_flush(LONG).unwrap();
        assert_received(&collector, &rig.ids);
        rig.work(100);
        rig.traces.blocking_shutdown(LONG).unwrap();
        assert_received(&collector, &rig.ids);
        let stats = rig.stats();
        assert_eq!((stats.exported, stats.spooled, stats.recovered), (2_200, 0, 0), "{stats}");
        assert_eq!(directory.files(), [] as [PathBuf; 0]);
    });
}

#[test]
fn what_a_shutdown_could_not_send_is_sent_by_the_next_start_under_the_old_resource() {
    let behaviours = [Behaviour::Refuse, Behaviour::Hang, Behaviour::unavailable(), Behaviour::Reset];
    let cases =
        PROTOCOLS.into_iter().flat_map(|protocol| behaviours.clone().map(|behaviour| (protocol, behaviour)));
    each(cases, |(protocol, behaviour)| {
        let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
        collector.behave(behaviour.clone());
        let start = |service: &str| {
            let spool = SpoolConfig::new(&directory.0);
            let otlp = ExporterConfig::Otlp(otlp(&collector, protocol));
            let builder = Tracer::builder().service_name(service).exporter(otlp).configure(|config| {
                config.memory_bytes_max = 1 << 20;
                config.spool = Some(spool);
            });
            Rig { traces: builder.try_build().unwrap(), ids: Vec::new() }
        };
        let mut old = start("old");
        old.work(2_000);
        let (begin, timeout) = (Instant::now(), ENOUGH);
        assert_eq!(old.traces.blocking_shutdown(timeout), Err(FlushError::Timeout), "{behaviour:?}");
        // As late as a busy machine may be.
        assert!(begin.elapsed() < timeout + LONG / 6, "{:?}", begin.elapsed());
        let stats = old.stats();
        assert_eq!((stats.spooled, stats.dropped.total()), (2_000, 0), "{behaviour:?} {stats}");

        collector.behave(Behaviour::Accept);
        let mut new = start("new");
        // It needs no flush for what is old.
        let spans = collector.blocking_wait_for_spans(2_000, LONG).unwrap();
        assert!(spans.iter().all(|span| span.service_name() == "old"));
        new.work(10);
        new.traces.blocking_shutdown(LONG).unwrap();
        let stats = new.stats();
        assert_eq!((stats.recovered, stats.started, stats.exported), (2_000, 10, 2_010), "{stats}");
        assert_received(&collector, &[&old.ids[..], &new.ids].concat());
    });
}

#[test]
fn a_batch_whose_answer_never_came_is_sent_again() {
    each(PROTOCOLS, |protocol| {
        let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
        let mut otlp = otlp(&collector, protocol);
        otlp.timeout = Duration::from_secs(1);
        let mut rig = Rig::with(otlp, SpoolConfig::new(&directory.0), Duration::from_secs(1));
        collector.behave_once(Behaviour::Delay(LONG));
        rig.work(100);
        rig.traces.blocking_flush(LONG).unwrap();
        assert_eq!(rig.stats().exported, 100);
        assert_received(&collector, &rig.ids);
        assert!(collector.span_ids().len() >= 200, "it has the batch twice");
    });
}

#[test]
fn what_is_refused_is_not_spooled_although_an_attempt_before_was_not_answered() {
    each(PROTOCOLS, |protocol| {
        let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
        let mut rig = Rig::with(otlp(&collector, protocol), SpoolConfig::new(&directory.0), LONG);
        collector.behave(Behaviour::rejecting());
        collector.behave_once(Behaviour::Reset);
        rig.work(100);
        assert_eq!(rig.traces.blocking_flush(LONG), Err(FlushError::Failed));
        let stats = rig.stats();
        assert_eq!((stats.dropped.count(DropReason::OutcomeUnknown), stats.rejected), (100, 0), "{stats}");
        assert_eq!(directory.files(), [] as [PathBuf; 0]);
        assert_eq!(collector.requests().len(), 2, "it is not sent again");
    });
}

#[test]
fn what_the_collector_rejects_leaves_the_disk_too() {
    each(PROTOCOLS, |protocol| {
        let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
        let mut rig = Rig::new(&collector, protocol, SpoolConfig::new(&directory.0));
        collector.behave(Behaviour::Refuse);
        rig.work(100);
        rig.send();
        rig.wait_for(|stats| stats.spooled == 100);
        collector.behave(Behaviour::rejecting());
        rig.wait_for(|stats| stats.rejected == 100);
        collector.behave(Behaviour::Accept);
        rig.work(50);
        rig.traces.blocking_flush(LONG).unwrap();
        let stats = rig.stats();
        assert_eq!((stats.rejected, stats.exported, stats.spooled), (100, 50, 0), "{stats}");
        rig.traces.blocking_shutdown(LONG).unwrap();
        assert_eq!(directory.files(), [] as [PathBuf; 0]);
    });
}

#[test]
fn a_long_outage_fills_the_disk_and_then_costs_the_oldest() {
    each(PROTOCOLS, |protocol| {
        let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
        let mut spool = SpoolConfig::new(&directory.0);
        spool.bytes_max = 512 << 10;
        // One attempt takes longer than the test: what is in flight is the oldest of all.
        let mut rig = Rig::with(otlp(&collector, protocol), spool, LONG);
        collector.behave(Behaviour::Hang);
        let start = Instant::now();
        while rig.traces.stats().dropped.count(DropReason::SpoolFull) == 0 {
            rig.work(100);
            // Faster than the disk, and memory is full.
            std::thread::sleep(Duration::from_millis(1));
            assert!(start.elapsed() < LONG, "{}", rig.traces.stats());
        }
        let bytes: u64 =
            directory.files().iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum();
        assert!(bytes <= 512 << 10, "{bytes}");
        collector.behave(Behaviour::Accept);
        let _ = rig.traces.blocking_shutdown(ENOUGH);
        let stats = rig.stats();
        assert_eq!(stats.queued, 0, "{stats}");

        let next = Rig::new(&collector, protocol, SpoolConfig::new(&directory.0));
        next.traces.blocking_flush(LONG).unwrap();
        assert_eq!((next.stats().recovered, next.stats().exported), (stats.spooled, stats.spooled));
        let received = HashSet::<SpanId>::from_iter(collector.span_ids());
        assert_eq!(received.len() as u64, stats.spooled + stats.exported);
        let order = rig.ids.iter().filter(|id| received.contains(id)).copied().collect::<Vec<_>>();
        assert_received(&collector, &order);
        assert_eq!(order.last(), rig.ids.last(), "the youngest are there");
    });
}

#[test]
fn memory_is_written_to_disk_before_it_is_used_up() {
    each(PROTOCOLS, |protocol| {
        let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
        let mut rig = Rig::with(otlp(&collector, protocol), SpoolConfig::new(&directory.0), LONG);
        collector.behave(Behaviour::Hang);
        // Several times what memory holds, and never more at a time than a quarter of it.
        for _ in 0..40 {
            rig.work(500);
            rig.wait_for(|stats| stats.queued < 2_500);
        }
        let stats = rig.traces.stats();
        assert!(stats.spooled > 15_000 && stats.dropped.total() == 0, "{stats}");
        assert_eq!(rig.traces.blocking_shutdown(ENOUGH), Err(FlushError::Timeout));
        let stats = rig.stats();
        assert_eq!((stats.spooled, stats.dropped.total()), (20_000, 0), "{stats}");
    });
}

#[test]
fn a_damaged_file_costs_its_spans_and_no_other() {
    each(PROTOCOLS, |protocol| {
        let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
        collector.behave(Behaviour::Refuse);
        let mut rig = Rig::new(&collector, protocol, SpoolConfig::new(&directory.0));
        rig.work(2_000);
        assert_eq!(rig.traces.blocking_shutdown(ENOUGH), Err(FlushError::Timeout));
        assert_eq!(rig.stats().spooled, 2_000);
        let files = directory.files();
        let mut bytes = fs::read(&files[1]).unwrap();
        let spans = u64::from(SpoolRecord::read(&bytes).unwrap().spans);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&files[1], bytes).unwrap();

        collector.behave(Behaviour::Accept);
        let next = Rig::new(&collector, protocol, SpoolConfig::new(&directory.0));
        assert_eq!(next.traces.blocking_shutdown(LONG), Err(FlushError::Failed));
        let stats = next.stats();
        assert_eq!((stats.recovered, stats.exported), (2_000, 2_000 - spans), "{stats}");
        assert_eq!(stats.dropped.count(DropReason::SpoolCorrupted), spans, "{stats}");
        let received = HashSet::<SpanId>::from_iter(collector.span_ids());
        assert_eq!(received.len() as u64, 2_000 - spans);
        assert_eq!(directory.files(), [] as [PathBuf; 0]);
    });
}

#[test]
fn a_disk_that_cannot_be_used_costs_what_would_have_been_on_it() {
    let faults = [DiskFault::Full, DiskFault::ReadOnly, DiskFault::Broken];
    each(
        PROTOCOLS.into_iter().flat_map(|protocol| faults.map(|fault| (protocol, fault))),
        |(protocol, fault)| {
            let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
            let faults = DiskFaults::default();
            faults.behave(fault);
            let mut rig = Rig::new(&collector, protocol, SpoolConfig::new(&directory.0).with_faults(faults));
            collector.behave(Behaviour::Refuse);
            rig.work(100);
            assert_eq!(rig.traces.blocking_flush(LONG), Err(FlushError::Failed), "{fault:?}");
            assert_eq!(rig.stats().dropped.count(DropReason::SpoolFailed), 100, "{fault:?} {}", rig.stats());
            // And nothing else.
            collector.behave(Behaviour::Accept);
            rig.work(50);
            rig.traces.blocking_shutdown(LONG).unwrap();
            assert_eq!(rig.stats().exported, 50, "{fault:?}");
        },
    );
}

#[test]
fn a_directory_that_cannot_be_made_costs_nothing_while_the_collector_accepts() {
    let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
    fs::write(&directory.0, "a file").unwrap();
    let mut rig = Rig::new(&collector, PROTOCOLS[0], SpoolConfig::new(directory.0.join("below")));
    rig.work(100);
    rig.traces.blocking_shutdown(LONG).unwrap();
    assert_eq!(rig.stats().exported, 100);
    fs::remove_file(&directory.0).unwrap();
}

#[test]
fn a_disk_that_hangs_holds_up_neither_a_healthy_collector_nor_a_shutdown() {
    each(PROTOCOLS, |protocol| {
        let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
        let faults = DiskFaults::default();
        let mut rig =
            Rig::new(&collector, protocol, SpoolConfig::new(&directory.0).with_faults(faults.clone()));
        rig.work(50);
        rig.traces.blocking_flush(LONG).unwrap();
        faults.behave(DiskFault::Hang);
        collector.behave(Behaviour::Refuse);
        rig.work(100);
        rig.send();
        // The batch that was given up waits for the disk; the collector is back, and what is newer is sent.
        std::thread::sleep(3 * TRIED);
        collector.behave(Behaviour::Accept);
        rig.work(70);
        rig.send();
        rig.wait_for(|stats| stats.exported == 120);

        let start = Instant::now();
        assert_eq!(rig.traces.blocking_shutdown(Duration::from_millis(200)), Err(FlushError::Timeout));
        assert!(start.elapsed() < LONG / 6, "{:?}", start.elapsed());
        let stats = rig.stats();
        let lost = [DropReason::SpoolFailed, DropReason::OutcomeUnknown].map(|of| stats.dropped.count(of));
        assert_eq!(lost[0] + lost[1], 100, "{stats}");
        faults.behave(DiskFault::None);
    });
}

#[test]
fn two_pipelines_with_one_directory_do_not_mix() {
    let (collector, directory) = (Collector::start_blocking().unwrap(), Directory::new());
    collector.behave(Behaviour::Refuse);
    let mut rigs = [0; 3].map(|_| Rig::new(&collector, PROTOCOLS[0], SpoolConfig::new(&directory.0)));
    for rig in &mut rigs {
        rig.work(100);
        rig.send();
    }
    for rig in &rigs {
        rig.wait_for(|stats| stats.spooled == 100);
    }
    let [first, mut second, third] = rigs;
    // Two are gone; one goes on, and gets its own back.
    for rig in [&first, &third] {
        let _ = rig.traces.blocking_shutdown(SOON);
        assert_eq!(rig.stats().spooled, 100);
    }
    second.work(10);
    collector.behave(Behaviour::Accept);
    second.traces.blocking_flush(LONG).unwrap();
    assert_received(&collector, &second.ids);

    let next = Rig::new(&collector, PROTOCOLS[0], SpoolConfig::new(&directory.0));
    next.traces.blocking_shutdown(LONG).unwrap();
    assert_eq!((next.stats().recovered, next.stats().exported), (200, 200));
    let all =
        HashSet::<SpanId>::from_iter([&first, &second, &third].into_iter().flat_map(|rig| rig.ids.clone()));
    assert_eq!(HashSet::from_iter(collector.span_ids()), all);
    second.traces.blocking_shutdown(LONG).unwrap();
}
