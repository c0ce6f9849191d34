//! Whatever runs where (awaited, spawned, joined, selected and dropped, streamed, on blocking threads and others) and
//! whoever makes the spans (ours and `tracing`'s, one inside the other), each span has the parent that a plain tree of
//! function calls would give it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use trace_core::config::{ExporterConfig, OtlpConfig};
use trace_core::testing::Collector;
use trace_core::{FutureExt, SpanId, Tracer, span};
use tracing::Instrument;
use tracing_subscriber::prelude::*;

const TASKS: usize = 1000;
const THREADS: usize = 8;

/// What a task does, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Yield,
    /// A span of ours around a future.
    Run(Vec<Step>),
    /// A span of ours that is held while its context is set on the future.
    Held(Vec<Step>),
    /// A span of `tracing` around a future.
    Instrumented(Vec<Step>),
    /// An `#[instrument]`ed function.
    Attribute(Vec<Step>),
    /// A new trace.
    Root(Vec<Step>),
    Spawned(Vec<Step>),
    /// Two futures polled in turn by one task.
    Joined(Vec<Step>, Vec<Step>),
    /// Two futures of which the slower is dropped on its way.
    Selected(Vec<Step>, Vec<Step>),
    /// A stream made in one span and polled in another.
    Streamed(Vec<Step>),
    /// Something whose `drop` makes a span, whether the steps are done or abandoned.
    Guarded(Vec<Step>),
    /// What follows is not async.
    Blocking(Vec<Sync>),
    Thread(Vec<Sync>),
    Inline(Vec<Sync>),
}

#[derive(Clone, Debug)]
enum Sync {
    InScope(Vec<Sync>),
    Tracing(Vec<Sync>),
    Thread(Vec<Sync>),
}

fn sync_steps() -> impl Strategy<Value = Vec<Sync>> {
    let leaf = prop_oneof![3 => Just(Sync::InScope(vec![])), 2 => Just(Sync::Tracing(vec![]))];
    let tree = leaf.prop_recursive(3, 8, 2, |inner| {
        let inner = proptest::collection::vec(inner, 0..3);
        prop_oneof![
            4 => inner.clone().prop_map(Sync::InScope),
            4 => inner.clone().prop_map(Sync::Tracing),
            1 => inner.prop_map(Sync::Thread),
        ]
    });
    proptest::collection::vec(tree, 0..3)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let leaf = prop_oneof![
        Just(Step::Yield),
        Just(Step::Run(vec![])),
        Just(Step::Instrumented(vec![])),
        Just(Step::Attribute(vec![])),
    ];
    let tree = leaf.prop_recursive(4, 16, 3, |inner| {
        let inner = proptest::collection::vec(inner, 0..4);
        prop_oneof![
            4 => inner.clone().prop_map(Step::Run),
            2 => inner.clone().prop_map(Step::Held),
            4 => inner.clone().prop_map(Step::Instrumented),
            3 => inner.clone().prop_map(Step::Attribute),
            1 => inner.clone().prop_map(Step::Root),
            3 => inner.clone().prop_map(Step::Spawned),
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| Step::Joined(a, b)),
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| Step::Selected(a, b)),
            2 => inner.clone().prop_map(Step::Streamed),
            3 => inner.prop_map(Step::Guarded),
            2 => sync_steps().prop_map(Step::Inline),
            1 => sync_steps().prop_map(Step::Blocking),
            1 => sync_steps().prop_map(Step::Thread),
        ]
    });
    proptest::collection::vec(tree, 1..4)
}

/// The reference: every span that was begun, with the number of the one that it was begun in.
#[derive(Clone, Default)]
struct Model {
    next: Arc<AtomicU64>,
    begun: Arc<Mutex<Vec<Begun>>>,
}

impl Model {
    fn begin(&self, parent: Option<u64>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.begun.lock().unwrap().push((number, parent));
        number
    }
}

/// The number of a span, and that of its parent.
type Begun = (u64, Option<u64>);

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

fn run_all(model: Model, parent: Option<u64>, steps: Vec<Step>) -> Boxed {
    Box::pin(async move {
        for step in steps {
            run(&model, parent, step).await;
        }
    })
}

async fn run(model: &Model, parent: Option<u64>, step: Step) {
    let inside = |number: u64, steps: Vec<Step>| {
        let model = model.clone();
        async move {
            // A span that was begun is seen before it is left.
            tokio::task::yield_now().await;
            run_all(model, Some(number), steps).await;
        }
    };
    match step {
        Step::Yield => tokio::task::yield_now().await,
        Step::Run(steps) => {
            let number = model.begin(parent);
            span(&number.to_string()).run(inside(number, steps)).await;
        }
        Step::Held(steps) => {
            let number = model.begin(parent);
            let held = span(&number.to_string()).start();
            inside(number, steps).in_context(held.context().clone()).await;
        }
        Step::Instrumented(steps) => {
            let number = model.begin(parent);
            let span = tracing::info_span!("instrumented", otel.name = %number);
            inside(number, steps).instrument(span).await;
        }
        Step::Attribute(steps) => {
            let number = model.begin(parent);
            instrumented(model.clone(), number, steps).await;
        }
        Step::Root(steps) => {
            let number = model.begin(None);
            span(&number.to_string()).root().run(inside(number, steps)).await;
        }
        Step::Spawned(steps) => {
            trace_core::spawn(run_all(model.clone(), parent, steps)).await.expect("no panic");
        }
        Step::Joined(a, b) => {
            tokio::join!(run_all(model.clone(), parent, a), run_all(model.clone(), parent, b));
        }
        Step::Selected(a, b) => {
            tokio::select! {
                () = run_all(model.clone(), parent, a) => {}
                () = run_all(model.clone(), parent, b) => {}
            }
        }
        Step::Streamed(steps) => {
            let item_model = model.clone();
            let stream = futures_util::stream::iter(steps)
                .then(move |step| run_all(item_model.clone(), parent, vec![step]))
                .in_current_context();
            let consumer = model.begin(parent);
            span(&consumer.to_string()).run(stream.collect::<Vec<()>>()).await;
        }
        Step::Guarded(steps) => {
            let _guard = SpanOnDrop { model: model.clone(), parent };
            tokio::task::yield_now().await;
            run_all(model.clone(), parent, steps).await;
        }
        Step::Blocking(steps) => {
            let model = model.clone();
            trace_core::spawn_blocking(move || run_sync(&model, parent, steps)).await.expect("no panic");
        }
        Step::Thread(steps) => {
            let model = model.clone();
            let thread = trace_core::spawn_thread(move || run_sync(&model, parent, steps));
            trace_core::spawn_blocking(|| thread.join().expect("no panic")).await.expect("no panic");
        }
        Step::Inline(steps) => run_sync(model, parent, steps),
    }
}

struct SpanOnDrop {
    model: Model,
    parent: Option<u64>,
}

impl Drop for SpanOnDrop {
    fn drop(&mut self) {
        let number = self.model.begin(self.parent);
        span(&number.to_string()).start().end();
    }
}

#[tracing::instrument(skip_all, fields(otel.name = %number))]
async fn instrumented(model: Model, number: u64, steps: Vec<Step>) {
    tokio::task::yield_now().await;
    run_all(model, Some(number), steps).await;
}

fn run_sync(model: &Model, parent: Option<u64>, steps: Vec<Sync>) {
    for step in steps {
        match step {
            Sync::InScope(steps) => {
                let number = model.begin(parent);
                span(&number.to_string()).in_scope(|| run_sync(model, Some(number), steps));
            }
            Sync::Tracing(steps) => {
                let number = model.begin(parent);
                tracing::info_span!("sync", otel.name = %number)
                    .in_scope(|| run_sync(model, Some(number), steps));
            }
            Sync::Thread(steps) => {
                std::thread::scope(|scope| {
                    scope.spawn(trace_core::carry(|| run_sync(model, parent, steps)));
                });
            }
        }
    }
}

#[test]
fn every_span_has_the_parent_that_a_tree_of_calls_gives_it() {
    let collector = Collector::start_blocking().expect("a free port");
    let traces = Tracer::builder()
        .configure(|config| {
            let mut otlp = OtlpConfig::default();
            otlp.endpoint = format!("{}/v1/traces", collector.http_endpoint()).parse().expect("a URI");
            config.exporter = ExporterConfig::Otlp(otlp);
            config.memory_bytes_max = 256 << 20;
        })
        .build();
    let tracer = traces.tracer();
    // The test is alone in its process.
    tracing_subscriber::registry().with(trace_core::bridge::tracing::layer().tracer(tracer)).init();

    let model = Model::default();
    let mut runner = TestRunner::default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).build().expect("a runtime");
    runtime.block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let steps = steps().new_tree(&mut runner).expect("a tree").current();
                let number = model.begin(None);
                let name = number.to_string();
                let work = tracer.span(&name).root().run(run_all(model.clone(), Some(number), steps));
                tokio::spawn(work)
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    drop(runtime);

    let begun = model.begun.lock().unwrap().clone();
    assert!(begun.len() > 5 * TASKS, "the trees are worth the name: {} spans", begun.len());
    traces.blocking_flush(Duration::from_secs(60)).expect("sent");
    let spans = collector.blocking_wait_for_spans(begun.len(), Duration::from_secs(60)).expect("all spans");
    traces.blocking_shutdown(Duration::from_secs(10)).expect("sent");
    let stats = traces.stats();
    assert_eq!((stats.started, stats.exported), (begun.len() as u64, begun.len() as u64), "{stats}");
    assert_eq!(spans.len(), begun.len());

    let numbers: HashMap<SpanId, u64> =
        spans.iter().map(|span| (span.span_id, span.name.parse().expect("a number"))).collect();
    assert_eq!(numbers.len(), begun.len(), "every span has an id of its own");
    let parents: HashMap<u64, Option<u64>> = begun.into_iter().collect();
    let traces_by_number: HashMap<u64, _> =
        spans.iter().map(|span| (numbers[&span.span_id], span.trace_id)).collect();
    for span in &spans {
        let number = numbers[&span.span_id];
        let parent = span.parent_span_id.map(|id| *numbers.get(&id).expect("no orphan"));
        assert_eq!(parent, parents[&number], "the parent of {number}");
        if let Some(parent) = parent {
            assert_eq!(span.trace_id, traces_by_number[&parent], "the trace of {number}");
        }
    }
}
