//! What the exporter does makes no spans, whatever instrumentation its host has installed: spans made of the sending of
//! spans would never end.
//!
//! The host of this test has all of it at once: a global `tracing` subscriber with our layer, at the level TRACE, for
//! every library; a layer of its own that makes spans of events and spans; a panic hook that logs and makes a span; an
//! allocator that makes a span of each allocation on the exporter's threads. One test, because a process has one of each.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber, info, info_span};
use tracing_subscriber::layer::{Context as LayerContext, Layer};
use tracing_subscriber::prelude::*;

use trace_core::bridge::tracing::layer;
use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::testing::{Behaviour, Collector};
use trace_core::{Context, DropReason, Health, Stats, Tracer, Traces};

/// Longer than any test takes, so that what happens is not due to a timer.
const LONG: Duration = Duration::from_secs(60);

/// Longer than it takes to send a few spans to a collector that is well.
const SOON: Duration = Duration::from_secs(10);

#[cfg(feature = "grpc")]
const PROTOCOLS: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];
#[cfg(not(feature = "grpc"))]
const PROTOCOLS: [Protocol; 1] = [Protocol::HttpProtobuf];

/// The tracer by which the host's instrumentation makes spans; it has it in its hands, whatever context is current.
static TRACER: Mutex<Tracer> = Mutex::new(Tracer::disabled());

/// The context of a span that lives, for whoever wants to add children from elsewhere.
static ALIVE: Mutex<Option<Context>> = Mutex::new(None);

/// How often the host's instrumentation tried to make spans on a thread of an exporter.
static TRIED: AtomicU64 = AtomicU64::new(0);

/// The next event on a thread of an exporter is one too many for the subscriber.
static PANIC_NEXT: AtomicBool = AtomicBool::new(false);

static PANICKED: AtomicU64 = AtomicU64::new(0);

/// The lines that the exporter wrote about itself.
static LINES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_HOST: Cell<bool> = const { Cell::new(false) };
    static IS_BUSY: Cell<bool> = const { Cell::new(false) };
    /// The allocations that are left alone: a thread has its name before it runs anything of ours, and what the standard
    /// library and tokio allocate by then, once, is not what an exporter does.
    static AT_START: Cell<u32> = const { Cell::new(16) };
}

fn tracer() -> Tracer {
    *TRACER.lock().unwrap()
}

/// Whether this thread works for the exporter.
fn is_exporter() -> bool {
    std::thread::current().name() == Some("trace-export")
}

/// Makes spans in every way there is, unless it is at it.
fn instrument(what: &'static str) {
    if IS_BUSY.replace(true) {
        return;
    }
    if IS_HOST.get() {
        tracer().span(what).start().end();
    } else if is_exporter() {
        TRIED.fetch_add(1, Ordering::Relaxed);
        let alive = ALIVE.lock().unwrap().clone();
        tracer().span(what).start().end();
        tracer().span(what).root().start().end();
        trace_core::span(what).start().end();
        if let Some(alive) = alive {
            trace_core::span(what).parent(&alive).start().end();
            let _current = alive.attach();
            trace_core::span(what).start().end();
            tracer().span(what).start().end();
            info_span!("bridged").in_scope(|| ());
        }
    }
    IS_BUSY.set(false);
}

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: it is the system's allocator; what is done besides allocates through the same one, without coming here again.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Held back here, so that the name of the thread can be looked up, which may allocate.
        if !IS_BUSY.get() && !IS_HOST.get() {
            IS_BUSY.set(true);
            let is_exporter = is_exporter();
            IS_BUSY.set(false);
            if is_exporter && AT_START.replace(AT_START.get().saturating_sub(1)) == 0 {
                instrument("allocation");
            }
        }
        // SAFETY: the caller keeps the contract of the same function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; all memory is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// A subscriber of the host that makes spans of everything.
struct Spanning;

impl<S: Subscriber> Layer<S> for Spanning {
    fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: LayerContext<'_, S>) {
        instrument("of a span");
    }

    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        if event.metadata().target() == "trace_core" {
            assert!(!IS_HOST.get(), "no request writes lines");
            LINES.fetch_add(1, Ordering::Relaxed);
        }
        instrument("of an event");
        if is_exporter() && PANIC_NEXT.swap(false, Ordering::Relaxed) {
            panic!("one too many");
        }
    }
}

fn pipeline(collector: &Collector, protocol: Protocol) -> Traces {
    let endpoint = match protocol {
        Protocol::Grpc => collector.grpc_endpoint(),
        _ => format!("{}/v1/traces", collector.http_endpoint()),
    };
    let mut otlp = OtlpConfig::new(protocol);
    otlp.endpoint = endpoint.parse().unwrap();
    let builder = Tracer::builder().exporter(ExporterConfig::Otlp(otlp)).configure(|config| {
        config.batch.schedule_delay = Duration::from_millis(10);
        config.batch.export_timeout = LONG;
    });
    builder.build()
}

/// What the host does: a unit of work, with a log line and a `tracing` span in it.
fn work(traces: &Traces) {
    traces.span("work").in_scope(|| {
        info!("a line of the host");
        info_span!("step").in_scope(|| ());
    });
}

/// The spans of [`work`]: its own, the one that the host's subscriber makes of the line, the step's, and the one that the
/// subscriber makes of that.
const SPANS_OF_WORK: u64 = 4;

/// What the counts say once nothing is under way any more: so many spans were started, and no other.
#[track_caller]
fn at_rest(traces: &Traces, expected: u64) -> Stats {
    let start = Instant::now();
    loop {
        let stats = traces.stats();
        assert_eq!(stats.started, expected, "{stats}");
        if stats.queued == 0 && stats.is_balanced() {
            return stats;
        }
        assert!(start.elapsed() < LONG, "{stats}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// By which protocol the test is to run, in a process of its own; without it, it runs itself once for each.
const PROTOCOL: &str = "TEST_PROTOCOL";

#[test]
fn what_the_exporter_does_makes_no_spans_whatever_its_host_has_installed() {
    let wanted = std::env::var(PROTOCOL).unwrap_or_default();
    if let Some(protocol) = PROTOCOLS.into_iter().find(|protocol| protocol.to_string() == wanted) {
        return live_with_everything(protocol);
    }
    for protocol in PROTOCOLS {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        let output = test.arg("--nocapture").env(PROTOCOL, protocol.to_string()).output().unwrap();
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{protocol}: {out}{err}");
        // What the subscriber was told is not told twice.
        assert!(!err.contains("trace-core:"), "{protocol}: {err}");
    }
}

fn live_with_everything(protocol: Protocol) {
    IS_HOST.set(true);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        PANICKED.fetch_add(1, Ordering::Relaxed);
        tracing::error!("somebody panicked");
        instrument("of a panic");
    }));
    let collector = Collector::start_blocking().unwrap();
    let traces = pipeline(&collector, protocol);
    *TRACER.lock().unwrap() = traces.tracer();
    tracing_subscriber::registry().with(layer().tracer(tracer())).with(Spanning).init();

    let alive = traces.span("alive").start();
    *ALIVE.lock().unwrap() = Some(alive.context().clone());
    let mut expected = 1;

    // A collector that is well.
    let mut memory = Vec::new();
    for _ in 0..10 {
        work(&traces);
        expected += SPANS_OF_WORK;
        traces.blocking_flush(SOON).unwrap();
        let stats = at_rest(&traces, expected);
        memory.push(stats.memory_bytes);
    }
    // A chunk or two may be put by for bursts; not one a flush.
    assert!(memory[9] <= memory[2] + (64 << 10), "{memory:?}");
    let requests = collector.requests().len();
    for _ in 0..10 {
        traces.blocking_flush(LONG).unwrap();
    }
    assert_eq!(collector.requests().len(), requests, "nothing was there to be sent");

    // One that is not: every way to fail makes lines, retries and new connections.
    for trouble in [
        Behaviour::unavailable(),
        Behaviour::Reset,
        Behaviour::Refuse,
        Behaviour::rejecting(),
        Behaviour::fail(401, 16),
    ] {
        collector.behave(trouble);
        work(&traces);
        expected += SPANS_OF_WORK;
        let _ = traces.blocking_flush(Duration::from_millis(50));
        let start = Instant::now();
        while traces.health() == Health::Healthy {
            assert!(start.elapsed() < LONG, "{}", traces.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
        let stats = traces.stats();
        assert_eq!(stats.started, expected, "{protocol}: {stats}");
    }
    collector.behave(Behaviour::Accept);
    let _ = traces.blocking_flush(LONG);
    at_rest(&traces, expected);

    // One that kills the exporter, by its own subscriber or while it writes about its trouble.
    let panicked = PANICKED.load(Ordering::Relaxed);
    PANIC_NEXT.store(true, Ordering::Relaxed);
    collector.behave_once(Behaviour::fail(418, 9));
    work(&traces);
    expected += SPANS_OF_WORK;
    let _ = traces.blocking_flush(LONG);
    let start = Instant::now();
    while PANICKED.load(Ordering::Relaxed) == panicked {
        assert!(start.elapsed() < LONG, "{}", traces.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
    at_rest(&traces, expected);

    // And it goes on.
    collector.behave(Behaviour::Accept);
    work(&traces);
    expected += SPANS_OF_WORK;
    let _ = traces.blocking_flush(LONG);
    *ALIVE.lock().unwrap() = None;
    alive.end();
    traces.blocking_shutdown(LONG).unwrap();
    let stats = at_rest(&traces, expected);
    assert_eq!(stats.live, 0, "{stats}");
    let lost = stats.rejected + stats.dropped.count(DropReason::ExporterPanicked);
    assert_eq!(stats.exported + lost, expected, "{stats}");
    let received = collector.spans();
    assert_eq!(received.len() as u64, stats.exported, "{protocol}: {stats}");
    let names: HashSet<&str> = received.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, HashSet::from(["alive", "work", "step", "of a span", "of an event"]));
    assert!(TRIED.swap(0, Ordering::Relaxed) > 100, "the host's instrumentation was at work");
    let start = Instant::now();
    while LINES.load(Ordering::Relaxed) == 0 {
        assert!(start.elapsed() < LONG, "the exporter's lines go to the subscriber");
        std::thread::sleep(Duration::from_millis(1));
    }
}
