//! How processes end, multiply and run short, and what becomes of their spans: exit, abort, signals, forks, panics, no
//! descriptors, no threads, nobody who reads standard error. Where the process lives on, every span is accounted for.
//!
//! Most of it happens in processes of their own: a test starts itself again, and is told by the environment that it is
//! the scene now, and not the judge.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashSet;
use std::fmt;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, Command, ExitStatus, Stdio, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::otlp::OwnedValue;
use trace_core::sampler::{AnySampler, Sampler, SamplingDecision, SamplingParameters};
use trace_core::testing::{Behaviour, Collector};
use trace_core::{Context, DropReason, FlushError, SpanId, Stats, Tracer, Traces, display};

/// Longer than any test takes: what waits for so long hangs.
const LONG: Duration = Duration::from_secs(60);

/// What is done at once may take so long on a machine that is busy.
const SOON: Duration = Duration::from_secs(15);

/// Not the code of anything that goes wrong.
const CODE: i32 = 7;

/// Tells a test that it is the scene.
const SCENE: &str = "ENDS_SCENE";

/// A test that runs in a process of its own.
struct Scene(Command);

impl Scene {
    fn of(test: &'static str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(SCENE, test);
        command
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command)
    }

    /// Whether this process is the scene of a test.
    fn is(test: &'static str) -> bool {
        let is = std::env::var(SCENE).is_ok_and(|scene| scene == test);
        if is {
            println!("{SCENE} {test}");
        }
        is
    }

    /// Tells the scene where the collector is.
    fn to(mut self, collector: &Collector) -> Self {
        self.0.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.http_endpoint());
        self
    }

    fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.0.stderr(stderr);
        self
    }

    fn start(mut self) -> Running {
        let test = self.0.get_args().nth(1).unwrap().to_str().unwrap().to_owned();
        let mut child = self.0.spawn().unwrap();
        let read = |pipe: Option<Box<dyn Read + Send>>| {
            thread::spawn(move || {
                let mut text = String::new();
                pipe.map(|mut pipe| pipe.read_to_string(&mut text)).transpose().unwrap();
                text
            })
        };
        let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
        let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
        Running { test, child, output: [stdout, stderr] }
    }

    fn run(self) -> Ended {
        self.start().end()
    }
}

struct Running {
    test: String,
    child: Child,
    output: [thread::JoinHandle<String>; 2],
}

impl Running {
    fn signal(&self, signal: i32) {
        // SAFETY: the child is not waited for yet, so that its number is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    fn end(mut self) -> Ended {
        let hangs_at = Instant::now() + LONG;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() < hangs_at => thread::sleep(Duration::from_millis(2)),
                None => {
                    self.child.kill().unwrap();
                    panic!("it hangs");
                }
            }
        };
        let [stdout, stderr] = self.output.map(|output| output.join().unwrap());
        assert!(stdout.contains(&format!("{SCENE} {}", self.test)), "there is no such test: {stdout}");
        Ended { status, stderr }
    }
}

#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn assert_code(&self, code: i32) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
    }
}

/// A pipeline of a scene, which sends nothing before it is asked to.
fn traces_by_env() -> Traces {
    Tracer::builder().from_env().configure(|config| config.batch.schedule_delay = LONG).try_build().unwrap()
}

fn traces_to(collector: &Collector) -> Traces {
    traces_with(collector, |_| {})
}

fn traces_with(collector: &Collector, change: impl FnOnce(&mut trace_core::config::Config)) -> Traces {
    Tracer::builder()
        .exporter(otlp(&collector.http_endpoint()))
        .configure(|config| {
            config.batch.schedule_delay = LONG;
            change(config);
        })
        .try_build()
        .unwrap()
}

fn otlp(endpoint: &str) -> ExporterConfig {
    let mut otlp = OtlpConfig::new(Protocol::HttpProtobuf);
    otlp.endpoint = format!("{endpoint}/v1/traces").parse().unwrap();
    ExporterConfig::Otlp(otlp)
}

fn collector() -> Collector {
    Collector::start_blocking().unwrap()
}

/// Makes spans that end at once.
fn work(tracer: &Tracer, spans: usize) -> HashSet<SpanId> {
    (0..spans).map(|_| tracer.span("work").root().start().span_context().unwrap().span_id()).collect()
}

/// The counts, which have to add up.
#[track_caller]
fn balanced(tracer: &Tracer) -> Stats {
    let stats = tracer.stats();
    assert!(stats.is_balanced(), "{stats}");
    stats
}

/// Everything that was started reached the collector, once.
#[track_caller]
fn assert_all_exported(tracer: &Tracer, collector: &Collector) {
    tracer.blocking_flush(LONG).unwrap();
    let stats = balanced(tracer);
    assert_eq!(stats.exported, stats.started, "{stats}");
    let received = collector.span_ids();
    assert_eq!(received.len() as u64, stats.started);
    assert_eq!(HashSet::<SpanId>::from_iter(received).len() as u64, stats.started);
}

#[track_caller]
fn wait_until(mut done: impl FnMut() -> bool) {
    let hangs_at = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < hangs_at);
        thread::sleep(Duration::from_millis(1));
    }
}

/// What is called does not panic the test, nor say anything.
fn caught<R>(f: impl FnOnce() -> R) -> Result<R, ()> {
    catch_unwind(AssertUnwindSafe(f)).map_err(drop)
}

/// A panic without its message.
fn panic_quietly() -> ! {
    resume_unwind(Box::new("on purpose"))
}

// Exit.

#[test]
fn a_guard_that_is_dropped_sends_what_there_is_and_the_exit_code_stays() {
    const TEST: &str = "a_guard_that_is_dropped_sends_what_there_is_and_the_exit_code_stays";
    if Scene::is(TEST) {
        let traces = traces_by_env();
        work(&traces, 3);
        drop(traces);
        exit(CODE);
    }
    let collector = collector();
    Scene::of(TEST).to(&collector).run().assert_code(CODE);
    assert_eq!(collector.spans().len(), 3);
}

#[test]
fn an_exit_past_the_guard_loses_what_was_not_sent_and_nothing_else() {
    const TEST: &str = "an_exit_past_the_guard_loses_what_was_not_sent_and_nothing_else";
    if Scene::is(TEST) {
        let traces = traces_by_env();
        work(&traces, 3);
        traces.blocking_flush(LONG).unwrap();
        work(&traces, 4);
        exit(CODE);
    }
    let collector = collector();
    Scene::of(TEST).to(&collector).run().assert_code(CODE);
    assert_eq!(collector.spans().len(), 3);
}

#[test]
fn an_exit_does_not_wait_for_a_collector_that_is_dead_or_hangs() {
    const TEST: &str = "an_exit_does_not_wait_for_a_collector_that_is_dead_or_hangs";
    if Scene::is(TEST) {
        let traces = traces_by_env();
        work(&traces, 3);
        let start = Instant::now();
        match std::env::var("HOW").unwrap().as_str() {
            "drop" => drop(traces),
            "shutdown" => assert!(traces.blocking_shutdown(Duration::from_millis(200)).is_err()),
            _ => {}
        }
        assert!(start.elapsed() < SOON);
        exit(CODE);
    }
    let collector = collector();
    for behaviour in [Behaviour::Refuse, Behaviour::Hang] {
        collector.behave(behaviour);
        for how in ["drop", "shutdown", "nothing"] {
            let mut scene = Scene::of(TEST).to(&collector);
            scene.0.env("HOW", how);
            scene.run().assert_code(CODE);
        }
    }
    assert_eq!(collector.spans().len(), 0);
}

#[test]
fn an_exit_amid_an_export_ends_the_process() {
    const TEST: &str = "an_exit_amid_an_export_ends_the_process";
    if Scene::is(TEST) {
        let collector = collector();
        collector.behave(Behaviour::Hang);
        let traces = traces_to(&collector);
        let tracer = traces.tracer();
        work(&tracer, 3);
        thread::spawn(move || tracer.blocking_flush(LONG));
        wait_until(|| !collector.requests().is_empty());
        exit(CODE);
    }
    Scene::of(TEST).run().assert_code(CODE);
}

#[test]
fn an_abort_loses_what_was_not_sent_and_nothing_else() {
    const TEST: &str = "an_abort_loses_what_was_not_sent_and_nothing_else";
    if Scene::is(TEST) {
        let traces = traces_by_env();
        work(&traces, 3);
        traces.blocking_flush(LONG).unwrap();
        work(&traces, 4);
        std::process::abort();
    }
    let collector = collector();
    let ended = Scene::of(TEST).to(&collector).run();
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
    assert_eq!(collector.spans().len(), 3);
}

#[test]
fn a_panic_that_leaves_main_sends_what_there_is() {
    const TEST: &str = "a_panic_that_leaves_main_sends_what_there_is";
    if Scene::is(TEST) {
        let traces = traces_by_env();
        // Dropped before the guard, as whatever is made later is.
        let _span = traces.span("main").start();
        panic!("on purpose");
    }
    let collector = collector();
    let ended = Scene::of(TEST).to(&collector).run();
    ended.assert_code(101);
    assert!(ended.stderr.contains("on purpose"), "{ended:?}");
    let spans = collector.spans();
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].name, "main");
}

/// What a service's handler of SIGTERM sets.
static TERMINATED: AtomicBool = AtomicBool::new(false);

#[test]
fn a_service_that_shuts_down_when_it_is_told_to_sends_everything() {
    const TEST: &str = "a_service_that_shuts_down_when_it_is_told_to_sends_everything";
    if Scene::is(TEST) {
        extern "C" fn terminate(_: i32) {
            TERMINATED.store(true, Ordering::Relaxed);
        }
        // SAFETY: the handler does one atomic store.
        unsafe { libc::signal(libc::SIGTERM, terminate as *const () as libc::sighandler_t) };
        let traces = traces_by_env();
        let under_way = traces.span("under way").start();
        traces.span("first").start().end();
        // That the test may go on.
        traces.blocking_flush(LONG).unwrap();
        while !TERMINATED.load(Ordering::Relaxed) {
            work(&traces, 1);
            thread::sleep(Duration::from_millis(1));
        }
        under_way.end();
        let started = traces.stats().started;
        traces.blocking_shutdown(LONG).unwrap();
        let stats = balanced(&traces);
        assert_eq!(stats.exported, started, "{stats}");
        exit(CODE);
    }
    let collector = collector();
    let scene = Scene::of(TEST).to(&collector).start();
    collector.blocking_wait_for_spans(1, LONG).unwrap();
    scene.signal(libc::SIGTERM);
    scene.end().assert_code(CODE);
    let names: HashSet<String> = collector.spans().into_iter().map(|span| span.name).collect();
    assert!(names.contains("under way"), "{names:?}");
}

#[test]
fn a_service_that_is_killed_leaves_what_was_sent() {
    const TEST: &str = "a_service_that_is_killed_leaves_what_was_sent";
    if Scene::is(TEST) {
        let traces = traces_by_env();
        work(&traces, 3);
        traces.blocking_flush(LONG).unwrap();
        loop {
            work(&traces, 1);
        }
    }
    let collector = collector();
    let scene = Scene::of(TEST).to(&collector).start();
    collector.blocking_wait_for_spans(3, LONG).unwrap();
    scene.signal(libc::SIGKILL);
    let ended = scene.end();
    assert_eq!(ended.status.signal(), Some(libc::SIGKILL), "{ended:?}");
    assert!(collector.spans().len() >= 3);
}

// Fork.

/// What a child made by `fork` is.
struct Forked(libc::pid_t);

impl Forked {
    /// Runs `f` in a child that ends by it, without any destructor of its parent's.
    fn run(f: impl FnOnce()) -> Self {
        // SAFETY: what the child does besides calling the allocator and the standard library, which glibc prepares for a fork,
        // is what is tested.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let code = if catch_unwind(AssertUnwindSafe(f)).is_ok() { CODE } else { 1 };
            // SAFETY: it may be called at any time.
            unsafe { libc::_exit(code) };
        }
        Self(pid)
    }

    #[track_caller]
    fn end(self) {
        let hangs_at = Instant::now() + LONG;
        let mut status = 0;
        loop {
            // SAFETY: `status` has room for one, and the child is waited for once.
            match unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) } {
                0 if Instant::now() < hangs_at => thread::sleep(Duration::from_millis(2)),
                0 => {
                    // SAFETY: the child is not waited for yet.
                    unsafe { libc::kill(self.0, libc::SIGKILL) };
                    panic!("the child hangs");
                }
                pid => break assert_eq!(pid, self.0),
            }
        }
        assert_eq!(ExitStatus::from_raw(status).code(), Some(CODE), "{status:x}");
    }
}

/// What every child of a fork finds out about the pipeline of its parent.
fn use_pipeline_of_parent(tracer: &Tracer) {
    let before = tracer.stats();
    let ids = work(tracer, 1000);
    assert_eq!(ids.len(), 1000);
    let start = Instant::now();
    assert_eq!(tracer.blocking_flush(LONG), Err(FlushError::Failed));
    assert_eq!(futures_util::FutureExt::now_or_never(tracer.flush(LONG)), Some(Err(FlushError::Failed)));
    assert_eq!(tracer.blocking_shutdown(LONG), Err(FlushError::Failed));
    assert!(start.elapsed() < SOON, "it says so at once");
    let stats = tracer.stats();
    assert_eq!(stats.started + stats.shed, before.started + before.shed + 1000, "{stats}");
    assert_eq!(stats.exported, before.exported, "nobody exports here: {stats}");
}

#[test]
fn a_child_of_a_fork_has_ids_of_its_own_exports_nothing_of_its_parents_and_can_begin_anew() {
    const TEST: &str =
        "a_child_of_a_fork_has_ids_of_its_own_exports_nothing_of_its_parents_and_can_begin_anew";
    if Scene::is(TEST) {
        let collector = collector();
        let traces = traces_with(&collector, |config| config.resource.set("place", "parent"));
        // Under way in both, and ended in both: the child's is never sent.
        let under_way = traces.span("under way").start();
        work(&traces, 10);
        let fork = || {
            Forked::run(|| {
                use_pipeline_of_parent(&traces);
                let anew = traces_with(&collector, |config| config.resource.set("place", "child"));
                work(&anew, 10);
                anew.blocking_shutdown(LONG).unwrap();
                assert_eq!(balanced(&anew).exported, 10);
            })
        };
        for child in [fork(), fork()] {
            child.end();
        }
        work(&traces, 10);
        under_way.end();
        traces.blocking_flush(LONG).unwrap();
        let stats = balanced(&traces);
        assert_eq!(stats.exported, 21, "{stats}");

        let spans = collector.spans();
        let of = |place: &str| {
            let is_of = |value: &OwnedValue| value.as_str() == Some(place);
            spans.iter().filter(|span| span.resource_attribute("place").is_some_and(is_of)).count()
        };
        assert_eq!((of("parent"), of("child"), spans.len()), (21, 20, 41));
        let different = |key: &str| {
            let values = spans.iter().map(|span| span.resource_attribute(key).unwrap().to_string());
            values.collect::<HashSet<_>>().len()
        };
        assert_eq!(different("process.pid"), 3);
        assert_eq!(different("service.instance.id"), 3, "each process is an instance of its own");
        let ids = HashSet::<_>::from_iter(collector.span_ids());
        let traces = HashSet::<_>::from_iter(spans.iter().map(|span| span.trace_id));
        assert_eq!((ids.len(), traces.len()), (41, 41), "no id was made twice");
        exit(CODE);
    }
    Scene::of(TEST).run().assert_code(CODE);
}

#[test]
fn a_fork_amid_an_export_sends_its_batch_once() {
    const TEST: &str = "a_fork_amid_an_export_sends_its_batch_once";
    if Scene::is(TEST) {
        let collector = collector();
        let traces = traces_to(&collector);
        work(&traces, 10);
        collector.behave_once(Behaviour::Delay(Duration::from_millis(300)));
        let tracer = traces.tracer();
        let flush = thread::spawn(move || tracer.blocking_flush(LONG));
        collector.blocking_wait_for_spans(10, LONG).unwrap();
        Forked::run(|| use_pipeline_of_parent(&traces)).end();
        flush.join().unwrap().unwrap();
        assert_all_exported(&traces, &collector);
        exit(CODE);
    }
    Scene::of(TEST).run().assert_code(CODE);
}

#[test]
fn a_fork_amid_the_work_of_other_threads_never_hangs_its_child() {
    const TEST: &str = "a_fork_amid_the_work_of_other_threads_never_hangs_its_child";
    if Scene::is(TEST) {
        let collector = collector();
        let traces = traces_with(&collector, |config| config.batch.schedule_delay = Duration::from_millis(5));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            // Some of them hold a slot's lock, or the worker does, in nearly every fork.
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        work(&traces, 100);
                        thread::yield_now();
                    }
                });
            }
            let forked =
                caught(|| (0..100).for_each(|_| Forked::run(|| use_pipeline_of_parent(&traces)).end()));
            stop.store(true, Ordering::Relaxed);
            forked.unwrap();
        });
        traces.blocking_flush(LONG).unwrap();
        let stats = balanced(&traces);
        assert_eq!(stats.exported + stats.dropped.total(), stats.started, "{stats}");
        assert_eq!(collector.span_ids().len() as u64, stats.exported, "none was sent twice");
        exit(CODE);
    }
    Scene::of(TEST).run().assert_code(CODE);
}

// Panics.

#[test]
fn a_panic_in_a_handler_ends_its_spans_and_leaves_the_thread_as_it_was() {
    let collector = collector();
    let traces = traces_to(&collector);
    for _ in 0..100 {
        let outcome = caught(|| {
            traces.span("outer").in_scope(|| {
                let _kept = Context::current();
                trace_core::span("inner").in_scope(|| panic_quietly())
            })
        });
        assert!(outcome.is_err());
        assert_eq!(Context::current().span_context(), None);
    }
    assert_eq!(traces.stats().live, 0);
    assert_all_exported(&traces, &collector);
}

#[derive(Debug)]
struct PanicsAt(&'static str);

impl Sampler for PanicsAt {
    fn should_sample(&self, parameters: &SamplingParameters<'_>) -> SamplingDecision {
        if parameters.name == *self.0 { panic_quietly() } else { SamplingDecision::RecordAndSample }
    }

    fn description(&self) -> String {
        "PanicsAt".to_owned()
    }
}

#[test]
fn a_panic_in_a_sampler_is_the_callers_and_costs_no_other_span() {
    let collector = collector();
    let traces = traces_with(&collector, |config| config.sampler = AnySampler::custom(PanicsAt("bad")));
    traces.span("outer").in_scope(|| {
        let outer = Context::current().span_context();
        assert!(caught(|| trace_core::span("bad").start()).is_err());
        assert_eq!(Context::current().span_context(), outer);
        trace_core::span("good").start().end();
    });
    assert_eq!(balanced(&traces).started, 2);
    assert_all_exported(&traces, &collector);
}

struct PanicsWhenShown;

impl fmt::Display for PanicsWhenShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("half of it")?;
        panic_quietly()
    }
}

#[test]
fn a_panic_in_the_text_of_an_attribute_costs_the_attribute_alone() {
    let collector = collector();
    let traces = traces_to(&collector);
    let mut span = traces.span("work").attribute("before", 1);
    let shared = span.context().clone();
    let bad = || display(&PanicsWhenShown);
    assert!(caught(|| span.set_attribute("bad", bad())).is_err(), "while somebody else looks");
    assert!(caught(|| shared.span().set_attribute("bad", bad())).is_err(), "by somebody else");
    assert!(caught(|| span.add_event("event", &[("bad".into(), bad())])).is_err());
    drop(shared);
    assert!(caught(|| span.set_attribute("bad", bad())).is_err(), "by its owner");
    span.set_attribute("after", 2);
    span.end();
    assert_all_exported(&traces, &collector);
    let span = &collector.spans()[0];
    let attributes: Vec<_> = span.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(attributes, ["before=1", "after=2"]);
}

/// Makes a span when it is dropped, if it still can.
struct Traced(Tracer);

impl Drop for Traced {
    fn drop(&mut self) {
        self.0.span("drop").in_scope(|| self.0.span("below").start().end());
    }
}

#[test]
fn spans_of_destructors_that_run_while_a_panic_unwinds_are_sent() {
    let collector = collector();
    let traces = traces_to(&collector);
    let outcome = caught(|| {
        let _first = Traced(traces.tracer());
        traces.span("outer").in_scope(|| {
            let _second = Traced(traces.tracer());
            panic_quietly()
        })
    });
    assert!(outcome.is_err());
    assert_eq!(traces.stats().started, 5);
    assert_all_exported(&traces, &collector);
    let of_outer = collector.spans().iter().filter(|span| span.parent_span_id.is_none()).count();
    assert_eq!(of_outer, 2, "the second is in the outer span still, the first in none");
}

#[test]
fn spans_of_a_thread_whose_locals_are_going_or_gone_are_sent() {
    thread_local! {
        static FIRST: std::cell::RefCell<Vec<Box<dyn std::any::Any>>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let collector = collector();
    let traces = traces_to(&collector);
    let tracer = traces.tracer();
    // Its local comes before or after those of ours, and goes in the other order.
    for comes_first in [true, false] {
        thread::spawn(move || {
            let keep = |value: Box<dyn std::any::Any>| FIRST.with_borrow_mut(|kept| kept.push(value));
            if comes_first {
                keep(Box::new(Traced(tracer)));
            }
            let span = tracer.span("kept").start();
            let context = span.context().clone();
            context.in_scope(|| work(&tracer, 1));
            keep(Box::new(span));
            keep(Box::new(Traced(tracer)));
            // One that is current to the end of its thread.
            std::mem::forget(tracer.span("current").start().context().clone().attach());
        })
        .join()
        .unwrap();
    }
    let stats = traces.stats();
    assert_eq!(stats.started, 2 * (1 + 1 + 1 + 2) + 2, "{stats}");
    assert_eq!(stats.live, 0, "{stats}");
    assert_all_exported(&traces, &collector);
}

// Shortages.

/// Allows the process so much of something from here on.
fn limit(resource: libc::__rlimit_resource_t, most: u64) {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` is one, to be read and to be written.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &raw mut limits), 0);
        limits.rlim_cur = most.min(limits.rlim_max);
        assert_eq!(libc::setrlimit(resource, &raw const limits), 0);
    }
}

/// Uses up all descriptors, until it is dropped.
fn no_descriptors() -> Vec<std::fs::File> {
    limit(libc::RLIMIT_NOFILE, 64);
    let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!(std::fs::File::open("/dev/null").is_err());
    taken
}

#[test]
fn a_process_without_descriptors_loses_its_spans_and_says_so() {
    const TEST: &str = "a_process_without_descriptors_loses_its_spans_and_says_so";
    if Scene::is(TEST) {
        let taken = no_descriptors();
        let traces = traces_by_env();
        // Whether the worker could begin is not known before it did.
        let hangs_at = Instant::now() + LONG;
        let mut ended = 0;
        while traces.stats().dropped.count(DropReason::ShutDown) == 0 {
            assert!(Instant::now() < hangs_at);
            ended += work(&traces, 1).len() as u64;
        }
        let start = Instant::now();
        let _ = (traces.blocking_flush(LONG), traces.blocking_shutdown(LONG));
        assert!(start.elapsed() < SOON);
        let stats = balanced(&traces);
        assert_eq!(stats.dropped.count(DropReason::ShutDown), ended, "{stats}");
        drop(taken);
        exit(CODE);
    }
    let collector = collector();
    let ended = Scene::of(TEST).to(&collector).run();
    ended.assert_code(CODE);
    assert!(ended.stderr.contains("trace-core: the export thread cannot work"), "{ended:?}");
}

#[test]
fn a_shortage_of_descriptors_costs_the_batches_of_its_time_alone() {
    const TEST: &str = "a_shortage_of_descriptors_costs_the_batches_of_its_time_alone";
    if Scene::is(TEST) {
        let traces = Tracer::builder()
            .from_env()
            .configure(|config| {
                config.batch.schedule_delay = LONG;
                config.batch.export_timeout = Duration::from_millis(300);
            })
            .try_build()
            .unwrap();
        // The worker has begun when this returns.
        traces.blocking_flush(LONG).unwrap();
        let taken = no_descriptors();
        work(&traces, 3);
        assert_eq!(traces.blocking_flush(LONG), Err(FlushError::Failed));
        let lost = balanced(&traces);
        assert_eq!(lost.exported + lost.dropped.total(), 3, "{lost}");
        drop(taken);
        work(&traces, 4);
        traces.blocking_flush(LONG).unwrap();
        let stats = balanced(&traces);
        assert_eq!((stats.exported, stats.dropped.total()), (4, 3), "{stats}");
        exit(CODE);
    }
    let collector = collector();
    let ended = Scene::of(TEST).to(&collector).run();
    ended.assert_code(CODE);
    assert_eq!(collector.spans().len(), 4);
}

/// No thread can be started from here on.
fn no_threads() {
    // Root may have as many as it likes.
    // SAFETY: ids are numbers; whether it worked is seen below.
    unsafe { libc::setresuid(65_534, 65_534, 65_534) };
    limit(libc::RLIMIT_NPROC, 0);
    assert!(thread::Builder::new().spawn(|| {}).is_err());
}

#[test]
fn a_process_without_threads_serves_without_spans_and_says_so() {
    const TEST: &str = "a_process_without_threads_serves_without_spans_and_says_so";
    if Scene::is(TEST) {
        no_threads();
        assert!(Tracer::builder().from_env().try_build().is_err());
        let traces = Tracer::builder().from_env().build();
        let span = traces.span("serve").start();
        assert!(span.span_context().is_some() && !span.is_recording());
        span.end();
        traces.blocking_flush(LONG).unwrap();
        assert_eq!(balanced(&traces).started, 0);
        exit(CODE);
    }
    let collector = collector();
    let ended = Scene::of(TEST).to(&collector).run();
    ended.assert_code(CODE);
    assert!(ended.stderr.contains("the export thread could not be started"), "{ended:?}");
}

#[test]
fn a_shortage_of_threads_costs_the_batches_of_its_time_alone() {
    const TEST: &str = "a_shortage_of_threads_costs_the_batches_of_its_time_alone";
    if Scene::is(TEST) {
        let traces = traces_by_env();
        traces.blocking_flush(LONG).unwrap();
        no_threads();
        work(&traces, 3);
        // Sent, or not: the exporter may need a thread for it.
        let _ = traces.blocking_flush(LONG);
        let during = balanced(&traces);
        assert_eq!(during.exported + during.dropped.total(), 3, "{during}");
        limit(libc::RLIMIT_NPROC, u64::MAX);
        thread::spawn(|| {}).join().unwrap();
        work(&traces, 4);
        traces.blocking_flush(LONG).unwrap();
        let stats = balanced(&traces);
        assert_eq!(stats.exported, during.exported + 4, "{stats}");
        exit(CODE);
    }
    let collector = collector();
    Scene::of(TEST).to(&collector).run().assert_code(CODE);
    assert!(collector.spans().len() >= 4);
}

/// A pipe that is full, and its other end.
fn full_pipe() -> (OwnedFd, std::io::PipeReader) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let descriptor = writer.as_raw_fd();
    // SAFETY: the descriptor is open.
    let set = |flags: libc::c_int| assert_eq!(unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags) }, 0);
    set(libc::O_NONBLOCK);
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    set(0);
    (writer.into(), reader)
}

#[test]
fn standard_error_that_nobody_reads_stops_nothing() {
    const TEST: &str = "standard_error_that_nobody_reads_stops_nothing";
    if Scene::is(TEST) {
        let collector = collector();
        // A name to be resolved, which takes a thread like those that complain.
        let endpoint = format!("http://localhost:{}", collector.http_address().port());
        let traces = Tracer::builder()
            .exporter(otlp(&endpoint))
            .configure(|config| config.batch.schedule_delay = LONG)
            .try_build()
            .unwrap();
        // Each of another kind, and so to be told of.
        for status in 400..420 {
            collector.behave_once(Behaviour::fail(status, 3));
            work(&traces, 1);
            assert_eq!(traces.blocking_flush(LONG), Err(FlushError::Failed));
        }
        // The next one is sent by a new connection.
        collector.behave(Behaviour::Refuse);
        collector.behave(Behaviour::Accept);
        work(&traces, 4);
        traces.blocking_flush(LONG).unwrap();
        let stats = balanced(&traces);
        assert_eq!((stats.exported, stats.rejected), (4, 20), "{stats}");
        traces.blocking_shutdown(LONG).unwrap();
        exit(CODE);
    }
    let (full, reader) = full_pipe();
    Scene::of(TEST).stderr(full).run().assert_code(CODE);
    drop(reader);
}

#[test]
fn standard_error_that_is_closed_stops_nothing() {
    const TEST: &str = "standard_error_that_is_closed_stops_nothing";
    if Scene::is(TEST) {
        // SAFETY: nothing else owns it.
        unsafe { libc::close(2) };
        let collector = collector();
        // Also while the first complaint is made, about a configuration with a fault.
        let traces = Tracer::builder().configure(|config| config.exporter = ExporterConfig::None).build();
        drop(traces);
        let traces = traces_to(&collector);
        collector.behave_once(Behaviour::rejecting());
        work(&traces, 3);
        assert_eq!(traces.blocking_flush(LONG), Err(FlushError::Failed));
        work(&traces, 4);
        traces.blocking_flush(LONG).unwrap();
        let stats = balanced(&traces);
        assert_eq!((stats.exported, stats.rejected), (4, 3), "{stats}");
        exit(CODE);
    }
    Scene::of(TEST).run().assert_code(CODE);
}

#[test]
fn a_flush_from_many_threads_at_once_is_answered_to_each() {
    let collector = collector();
    let traces = traces_to(&collector);
    let tracer = traces.tracer();
    let (sender, receiver) = mpsc::channel();
    for _ in 0..16 {
        let sender = sender.clone();
        thread::spawn(move || {
            work(&tracer, 10);
            sender.send(tracer.blocking_flush(LONG)).unwrap();
        });
    }
    for _ in 0..16 {
        assert_eq!(receiver.recv_timeout(LONG), Ok(Ok(())));
    }
    assert_all_exported(&traces, &collector);
}
