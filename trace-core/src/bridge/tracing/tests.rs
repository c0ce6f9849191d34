use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use ::tracing::level_filters::LevelFilter;
use ::tracing::{Dispatch, Instrument, Level, Span as TracingSpan, dispatcher, field, instrument};
use ::tracing::{error, info, info_span, trace_span, warn};
use proptest::prelude::*;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, fmt as log};

use super::*;
use crate::config::Config;
use crate::context::Context;
use crate::otlp::decode::{Scope, decode_span};
use crate::otlp::{EventData, OwnedValue, SpanData};
use crate::sampler::AnySampler;
use crate::{FutureExt, SpanKind, StatusCode, Tracer};

/// A pipeline whose spans are read again, and a subscriber whose spans go there.
struct Traced {
    tracer: Tracer,
    dispatch: Dispatch,
}

impl Traced {
    fn new() -> Self {
        Self::with(|layer| layer)
    }

    fn with(settings: impl FnOnce(TracingLayer) -> TracingLayer) -> Self {
        Self::subscribed(|layer| Dispatch::new(Registry::default().with(settings(layer))))
    }

    fn subscribed(subscriber: impl FnOnce(TracingLayer) -> Dispatch) -> Self {
        let tracer = Tracer::detached(&Config::default());
        Self { tracer, dispatch: subscriber(layer().tracer(tracer)) }
    }

    fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        dispatcher::with_default(&self.dispatch, f)
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        self.run(|| runtime.block_on(future))
    }

    /// The spans that ended, by name; each name must be there once.
    fn spans(&self) -> HashMap<String, SpanData> {
        let mut spans = HashMap::new();
        for span in self.all_spans() {
            let before = spans.insert(span.name.clone(), span);
            assert!(before.is_none(), "{before:?} is there twice");
        }
        spans
    }

    fn all_spans(&self) -> Vec<SpanData> {
        let queue = &self.tracer.pipeline().expect("it is enabled").queue;
        let mut spans = Vec::new();
        let mut read = |chunk: Box<crate::export::chunk::Chunk>| {
            for frame in chunk.frames() {
                let scope = Scope { name: frame.scope.name(), version: frame.scope.version() };
                spans.push(decode_span(frame.span(), scope, &Arc::default()).expect("a whole span"));
            }
            queue.recycle(chunk);
        };
        while let Some(chunk) = queue.take_sealed() {
            read(chunk);
        }
        queue.take_open(&mut read);
        spans
    }

    fn one(&self) -> SpanData {
        let mut spans = self.all_spans();
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans.remove(0)
    }
}

fn text(text: &str) -> Option<OwnedValue> {
    Some(text.into())
}

fn attribute(event: &EventData, key: &str) -> Option<OwnedValue> {
    event.attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
}

fn is_child_of(spans: &HashMap<String, SpanData>, child: &str, parent: &str) -> bool {
    let (child, parent) = (&spans[child], &spans[parent]);
    child.trace_id == parent.trace_id && child.parent_span_id == Some(parent.span_id)
}

mod spans {
    use super::*;

    #[test]
    fn spans_of_both_kinds_nest_in_each_other() {
        #[instrument]
        async fn outer(tracer: Tracer) {
            tracer.span("native").run(inner(1)).await;
            tokio::task::yield_now().await;
            tracer.span("sibling").in_scope(|| ());
        }
        #[instrument]
        async fn inner(order: u32) {
            tokio::task::yield_now().await;
            let _entered = info_span!("innermost").entered();
        }

        let traced = Traced::new();
        traced.block_on(traced.tracer.span("server").run(outer(traced.tracer)));
        let spans = traced.spans();
        assert_eq!(spans.len(), 6, "{spans:?}");
        assert_eq!(spans["server"].parent_span_id, None);
        assert!(is_child_of(&spans, "outer", "server"));
        assert!(is_child_of(&spans, "native", "outer"));
        assert!(is_child_of(&spans, "inner", "native"));
        assert!(is_child_of(&spans, "innermost", "inner"));
        assert!(is_child_of(&spans, "sibling", "outer"));
        assert_eq!(spans["inner"].attribute("order"), Some(&1.into()));
        assert_eq!(spans["inner"].scope_name, "tracing");
        assert!(Context::current().span_context().is_none());
    }

    #[test]
    fn a_spawned_task_belongs_to_the_span_it_is_instrumented_with() {
        let traced = Traced::new();
        traced.block_on(async {
            async {
                let task = async { info_span!("in the task").in_scope(|| ()) };
                tokio::spawn(task.instrument(info_span!("task"))).await.unwrap();
                let carried = async { info_span!("carried").in_scope(|| ()) };
                tokio::spawn(carried.in_current_context()).await.unwrap();
            }
            .instrument(info_span!("request"))
            .await;
        });
        let spans = traced.spans();
        assert!(is_child_of(&spans, "task", "request"));
        assert!(is_child_of(&spans, "in the task", "task"));
        assert!(is_child_of(&spans, "carried", "request"));
    }

    #[test]
    fn an_explicit_parent_is_followed_and_an_explicit_root_starts_a_trace() {
        let traced = Traced::new();
        traced.run(|| {
            let first = info_span!("first");
            let second = info_span!("second");
            let _entered = second.enter();
            drop(info_span!(parent: &first, "child"));
            drop(info_span!(parent: None, "root"));
        });
        let spans = traced.spans();
        assert!(is_child_of(&spans, "child", "first"));
        assert_eq!(spans["root"].parent_span_id, None);
        assert_ne!(spans["root"].trace_id, spans["second"].trace_id);
    }

    #[test]
    fn a_span_that_is_filtered_out_is_passed_over() {
        let traced = Traced::subscribed(|layer| {
            // Another layer sees all, so that the hidden spans exist.
            let all = tracing_subscriber::layer::Identity::new().with_filter(LevelFilter::TRACE);
            Dispatch::new(Registry::default().with(layer.with_filter(LevelFilter::INFO)).with(all))
        });
        traced.run(|| {
            let outer = info_span!("outer");
            outer.in_scope(|| {
                let hidden = trace_span!("hidden");
                hidden.in_scope(|| drop(info_span!("inner")));
                drop(info_span!(parent: &hidden, "explicit"));
            });
        });
        let spans = traced.spans();
        assert_eq!(spans.len(), 3);
        assert!(is_child_of(&spans, "inner", "outer"));
        // The hidden span is none of ours, so that the current one is the nearest.
        assert!(is_child_of(&spans, "explicit", "outer"));
    }

    #[test]
    fn fields_become_attributes_of_their_own_types() {
        let traced = Traced::new();
        traced.run(|| {
            info_span!(
                "typed",
                int = -7,
                unsigned = 7_u64,
                huge = u64::MAX,
                wide = i128::MIN,
                narrow = 5_i128,
                float = 0.5,
                truth = true,
                text = "text",
                bytes = &b"\x00\xff"[..],
                debug = ?Some("x"),
                display = %format_args!("{:03}", 7),
                empty = field::Empty,
            );
        });
        let span = traced.one();
        for (key, value) in [
            ("int", OwnedValue::I64(-7)),
            ("unsigned", OwnedValue::I64(7)),
            ("huge", "18446744073709551615".into()),
            ("wide", i128::MIN.to_string().as_str().into()),
            ("narrow", OwnedValue::I64(5)),
            ("float", 0.5.into()),
            ("truth", true.into()),
            ("text", "text".into()),
            ("bytes", OwnedValue::Bytes(vec![0, 255])),
            ("debug", r#"Some("x")"#.into()),
            ("display", "007".into()),
        ] {
            assert_eq!(span.attribute(key), Some(&value), "{key}");
        }
        assert_eq!(span.attribute("empty"), None);
        assert_eq!(span.attribute("target"), Some(&module_path!().into()));
        assert_eq!(span.attribute("code.file.path"), Some(&file!().into()));
        assert!(matches!(span.attribute("code.line.number"), Some(OwnedValue::I64(_))));
        assert_eq!(span.attribute("level"), None);
        assert_eq!((span.kind, span.status), (SpanKind::Internal, StatusCode::Unset));
    }

    #[test]
    fn where_a_span_was_made_is_left_out_on_request() {
        let traced = Traced::with(|layer| layer.location(false).target(false).level(true));
        traced.run(|| drop(info_span!("bare")));
        assert_eq!(traced.one().attributes, [("level".to_owned(), "INFO".into())]);
    }

    #[test]
    fn fields_that_are_recorded_later_are_set_or_replaced() {
        let traced = Traced::new();
        traced.run(|| {
            let span = info_span!("late", a = 1, b = field::Empty, c = field::Empty);
            span.record("a", 2).record("b", "text").record("c", field::debug([1, 2]));
        });
        let span = traced.one();
        assert_eq!(span.attribute("a"), Some(&2.into()));
        assert_eq!(span.attribute("b"), Some(&"text".into()));
        assert_eq!(span.attribute("c"), Some(&"[1, 2]".into()));
        assert_eq!(span.attributes.iter().filter(|(key, _)| key == "a").count(), 1);
    }

    #[test]
    fn otel_fields_set_name_kind_and_status() {
        let traced = Traced::new();
        traced.run(|| {
            drop(info_span!("static", otel.name = "GET /", otel.kind = "SERVER", otel.status_code = "Ok"));
            let name = "PUT";
            drop(info_span!("displayed", otel.name = %name, otel.kind = ?SpanKind::Client));
            let late = info_span!(
                "late",
                otel.name = field::Empty,
                otel.status_code = field::Empty,
                otel.status_description = field::Empty
            );
            late.record("otel.name", "POST /").record("otel.status_code", "ERROR");
            late.record("otel.status_description", "no stock");
            drop(info_span!("typed", error.type = "timeout", otel.status_code = "error"));
            let typed_late = info_span!("typed late", error.type = field::Empty, otel.status_code = "error");
            typed_late.record("error.type", "timeout");
            drop(info_span!("unknown", otel.kind = "boss", otel.status_code = "maybe"));
        });
        let spans = traced.spans();
        let status = |name: &str| (spans[name].status, spans[name].attribute("error.type").cloned());
        assert_eq!((spans["GET /"].kind, spans["GET /"].status), (SpanKind::Server, StatusCode::Ok));
        assert_eq!(spans["PUT"].kind, SpanKind::Client);
        assert_eq!(status("POST /"), (StatusCode::Error, text("_OTHER")));
        assert_eq!(spans["POST /"].status_message, "no stock");
        assert_eq!(status("typed"), (StatusCode::Error, text("timeout")));
        assert_eq!(status("typed late"), (StatusCode::Error, text("timeout")));
        assert_eq!(spans["unknown"].kind, SpanKind::Internal);
        assert_eq!(status("unknown"), (StatusCode::Unset, None));
        for span in spans.values() {
            assert!(!span.attributes.iter().any(|(key, _)| key.starts_with("otel.")), "{span:?}");
        }
    }

    #[test]
    fn follows_from_becomes_a_link() {
        let traced = Traced::new();
        traced.run(|| {
            let producer = info_span!("producer");
            let consumer = info_span!(parent: None, "consumer");
            consumer.follows_from(&producer);
        });
        let spans = traced.spans();
        let link = &spans["consumer"].links[0];
        assert_eq!((link.trace_id, link.span_id), (spans["producer"].trace_id, spans["producer"].span_id));
        assert!(spans["producer"].links.is_empty());
    }

    #[test]
    fn a_child_that_runs_on_does_not_stretch_its_parent() {
        let traced = Traced::new();
        let child = traced.run(|| {
            let parent = info_span!("parent");
            let child = parent.in_scope(|| info_span!("child"));
            drop(parent);
            child
        });
        assert_eq!(traced.all_spans(), [], "the parent is open as long as its child");
        let waited = Duration::from_millis(20);
        let start = std::time::Instant::now();
        while start.elapsed() < waited {
            std::thread::yield_now();
        }
        traced.run(|| drop(child));
        let spans = traced.spans();
        assert!(spans["child"].duration() >= waited);
        assert!(spans["parent"].duration() < spans["child"].duration());
        assert!(spans["parent"].end_unix_nano < spans["child"].end_unix_nano);
        assert!(is_child_of(&spans, "child", "parent"));
    }

    #[test]
    fn a_span_that_is_not_recorded_formats_nothing() {
        #[derive(Clone, Copy)]
        struct Never;
        impl fmt::Debug for Never {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("formatted for nobody");
            }
        }

        let config = Config { sampler: AnySampler::AlwaysOff, ..Config::default() };
        let tracer = Tracer::detached(&config);
        let traced =
            Traced { tracer, dispatch: Dispatch::new(Registry::default().with(layer().tracer(tracer))) };
        traced.run(|| {
            let span = info_span!("dropped", a = ?Never, b = field::Empty);
            span.record("b", field::debug(Never));
            span.in_scope(|| {
                info!(c = ?Never, "nothing");
                // It has ids all the same, which travel on.
                assert!(Context::current().span_context().is_some_and(|span| !span.is_sampled()));
            });
        });
        assert_eq!(traced.all_spans(), []);
        assert_eq!(traced.tracer.stats().sampled_out, 1);
    }

    #[test]
    fn what_the_export_worker_does_is_never_traced() {
        let traced = Traced::new();
        let dispatch = traced.dispatch.clone();
        let worker = std::thread::spawn(move || {
            // As the worker's threads do.
            let quiet = Context { tracer: Some(Tracer::disabled()), ..Context::new() };
            let _quiet = quiet.attach();
            dispatcher::with_default(&dispatch, || {
                let span = info_span!("export", attempt = 1);
                let _entered = span.enter();
                span.record("attempt", 2);
                info!("connected");
                drop(info_span!(parent: None, "root"));
            });
        });
        worker.join().unwrap();
        assert_eq!(traced.tracer.stats().started, 0);
    }

    #[test]
    fn of_two_layers_the_first_makes_the_spans() {
        let other = Tracer::detached(&Config::default());
        let traced = Traced::subscribed(|layer| {
            Dispatch::new(Registry::default().with(layer).with(super::layer().tracer(other)))
        });
        traced.run(|| info_span!("one").in_scope(|| ()));
        assert_eq!(traced.one().name, "one");
        assert_eq!(other.stats().started, 0);
    }

    #[test]
    fn without_a_tracer_the_layer_does_nothing() {
        let dispatch = Dispatch::new(Registry::default().with(layer().tracer(Tracer::disabled())));
        dispatcher::with_default(&dispatch, || {
            info_span!("nowhere").in_scope(|| {
                info!("nothing");
                assert_eq!(Context::current().span_context(), None);
            });
        });
    }
}

mod entering {
    use super::*;

    #[test]
    fn guards_that_are_dropped_in_any_order_leave_the_right_span_current() {
        let traced = Traced::new();
        traced.run(|| {
            let (first, second, third) = (
                info_span!(parent: None, "first"),
                info_span!(parent: None, "second"),
                info_span!(parent: None, "third"),
            );
            let first_entered = first.enter();
            let second_entered = second.enter();
            let third_entered = third.enter();
            drop(first_entered);
            drop(info_span!("in third"));
            drop(third_entered);
            drop(info_span!("in second"));
            drop(second_entered);
            drop(info_span!("in none"));
        });
        let spans = traced.spans();
        assert!(is_child_of(&spans, "in third", "third"));
        assert!(is_child_of(&spans, "in second", "second"));
        assert_eq!(spans["in none"].parent_span_id, None);
    }

    #[test]
    fn a_span_entered_twice_is_left_once() {
        let traced = Traced::new();
        traced.run(|| {
            let outer = info_span!("outer");
            let inner = info_span!(parent: None, "inner");
            let outer_entered = outer.enter();
            let inner_entered = inner.enter();
            let again = outer.enter();
            drop(info_span!("in outer again"));
            drop(again);
            drop(info_span!("in inner"));
            drop(outer_entered);
            drop(info_span!("still in inner"));
            drop(inner_entered);
            drop(info_span!("in none"));
        });
        let spans = traced.spans();
        assert!(is_child_of(&spans, "in outer again", "outer"));
        assert!(is_child_of(&spans, "in inner", "inner"));
        assert!(is_child_of(&spans, "still in inner", "inner"));
        assert_eq!(spans["in none"].parent_span_id, None);
    }

    #[test]
    fn a_span_entered_on_several_threads_is_the_parent_on_each() {
        let traced = Traced::new();
        let span = traced.run(|| info_span!("shared"));
        let all_entered = Arc::new(Barrier::new(4));
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (span, dispatch, all_entered) =
                    (span.clone(), traced.dispatch.clone(), Arc::clone(&all_entered));
                std::thread::spawn(move || {
                    dispatcher::with_default(&dispatch, || {
                        let entered = span.enter();
                        all_entered.wait();
                        drop(info_span!("child", otel.name = %format_args!("child {thread}")));
                        all_entered.wait();
                        drop(entered);
                        assert_eq!(Context::current().span_context(), None);
                        drop(span);
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        traced.run(|| drop(span));
        let spans = traced.spans();
        for thread in 0..4 {
            assert!(is_child_of(&spans, &format!("child {thread}"), "shared"));
        }
        // Its end is that of the last exit: after all children.
        assert!(spans.values().all(|span| span.end_unix_nano <= spans["shared"].end_unix_nano));
    }

    #[test]
    fn a_native_guard_dropped_before_the_span_is_exited_hides_nothing() {
        let traced = Traced::new();
        traced.run(|| {
            let native = traced.tracer.span("native").start();
            let guard = native.context().clone().attach();
            let entered = info_span!("entered").entered();
            drop(guard);
            drop(info_span!("after the guard"));
            drop(entered);
            drop(info_span!("after both"));
        });
        let spans = traced.spans();
        assert!(is_child_of(&spans, "entered", "native"));
        assert!(is_child_of(&spans, "after the guard", "entered"));
        assert_eq!(spans["after both"].parent_span_id, None);
    }

    #[test]
    fn a_span_exited_inside_a_native_scope_leaves_that_scope_current() {
        let traced = Traced::new();
        traced.run(|| {
            let entered = info_span!("entered").entered();
            let mut native = traced.tracer.span("native").start();
            native.enter(|| {
                drop(entered);
                drop(info_span!("in native"));
            });
        });
        let spans = traced.spans();
        assert!(is_child_of(&spans, "in native", "native"));
    }

    /// What a thread does: enters one of its spans, leaves one of those that it entered, or makes a child.
    #[derive(Clone, Debug)]
    enum Step {
        Enter(usize),
        Exit(usize),
        Child,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![(0..5_usize).prop_map(Step::Enter), (0..8_usize).prop_map(Step::Exit), Just(Step::Child)]
    }

    proptest! {
        #[test]
        fn the_parent_is_the_span_entered_last_of_those_not_exited(steps in proptest::collection::vec(step(), 0..60)) {
            let traced = Traced::new();
            let mut expected = Vec::new();
            traced.run(|| {
                let spans: Vec<TracingSpan> =
                    (0..5).map(|span| info_span!(parent: None, "", otel.name = %format_args!("span {span}"))).collect();
                let mut entered: Vec<(usize, ::tracing::span::Entered<'_>)> = Vec::new();
                for step in steps {
                    match step {
                        Step::Enter(span) => entered.push((span, spans[span].enter())),
                        Step::Exit(at) if at < entered.len() => {
                            // Two guards of one span are alike: `tracing` cannot tell which of them was
                            // dropped.
                            let span = entered[at].0;
                            let last = entered.iter().rposition(|(entered, _)| *entered == span).unwrap();
                            drop(entered.remove(last));
                        }
                        Step::Exit(_) => {}
                        Step::Child => {
                            let name = format!("child {}", expected.len());
                            drop(info_span!("", otel.name = name));
                            expected.push((name, entered.last().map(|(span, _)| format!("span {span}"))));
                        }
                    }
                }
            });
            let spans = traced.spans();
            for (child, parent) in expected {
                match parent {
                    Some(parent) => prop_assert!(is_child_of(&spans, &child, &parent), "{child} of {parent}"),
                    None => prop_assert_eq!(spans[&child].parent_span_id, None),
                }
            }
        }
    }
}

mod events {
    use super::*;

    #[test]
    fn an_event_joins_the_current_span_of_either_kind() {
        let traced = Traced::new();
        traced.run(|| {
            info!("nowhere");
            info_span!("tracing").in_scope(|| info!(order = 7, paid = true, "stock {}", "checked"));
            let mut native = traced.tracer.span("native").start();
            native.enter(|| warn!(name: "low", left = 0.5));
            drop(native);
            let explicit = info_span!("explicit");
            info!(parent: &explicit, "told");
            info!(parent: None, "to nobody");
        });
        let spans = traced.spans();
        let [event] = &spans["tracing"].events[..] else { panic!("{spans:?}") };
        assert_eq!(event.name, "stock checked");
        assert_eq!(attribute(event, "order"), Some(7.into()));
        assert_eq!(attribute(event, "paid"), Some(true.into()));
        assert_eq!(attribute(event, "level"), text("INFO"));
        assert_eq!(attribute(event, "target"), text(module_path!()));
        assert_eq!(attribute(event, "code.file.path"), text(file!()));
        assert!(matches!(attribute(event, "code.line.number"), Some(OwnedValue::I64(_))));
        let [event] = &spans["native"].events[..] else { panic!("{spans:?}") };
        assert_eq!((event.name.as_str(), attribute(event, "level")), ("low", text("WARN")));
        assert_eq!(spans["explicit"].events[0].name, "told");
        assert_eq!(spans["explicit"].events.len(), 1);
    }

    #[test]
    fn an_error_event_changes_the_status_only_on_request() {
        for is_wanted in [false, true] {
            let traced = Traced::with(|layer| layer.error_events_fail_span(is_wanted));
            traced.run(|| {
                info_span!("error").in_scope(|| error!("failed"));
                info_span!("warning").in_scope(|| warn!("nearly"));
            });
            let spans = traced.spans();
            let status = if is_wanted { StatusCode::Error } else { StatusCode::Unset };
            assert_eq!(spans["error"].status, status);
            assert_eq!(spans["error"].attribute("error.type").is_some(), is_wanted);
            assert_eq!(spans["warning"].status, StatusCode::Unset);
        }
    }

    #[derive(Debug)]
    struct Failed(io::Error);
    impl fmt::Display for Failed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("secret order")
        }
    }
    impl Error for Failed {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    fn failed() -> Failed {
        Failed(io::Error::new(io::ErrorKind::ConnectionRefused, "secret host"))
    }

    #[instrument(err)]
    fn displayed() -> Result<(), Failed> {
        Err(failed())
    }

    #[instrument(err(Debug))]
    fn debugged() -> Result<(), Failed> {
        Err(failed())
    }

    fn make_errors() {
        let _ = displayed();
        let _ = debugged();
        let failed = failed();
        let span = info_span!("recorded", error = field::Empty, other = field::Empty);
        span.record("error", &failed as &(dyn Error + 'static));
        span.in_scope(|| error!(cause = &failed as &(dyn Error + 'static), error = "secret", "order lost"));
        drop(info_span!("a truth", error = true));
    }

    #[test]
    fn the_text_of_errors_does_not_leave() {
        let traced = Traced::new();
        traced.run(make_errors);
        let spans = traced.spans();
        assert!(!format!("{spans:?}").contains("secret"), "{spans:?}");
        for name in ["displayed", "debugged"] {
            let [event] = &spans[name].events[..] else { panic!("{spans:?}") };
            assert_eq!(event.name, "exception");
            assert_eq!(attribute(event, "exception.type"), text("_OTHER"));
            assert_eq!(attribute(event, "level"), text("ERROR"));
            assert_eq!(spans[name].status, StatusCode::Unset);
        }
        let recorded = &spans["recorded"];
        assert_eq!(recorded.attribute("exception.type"), Some(&"ConnectionRefused".into()));
        assert_eq!(recorded.events[0].name, "order lost");
        assert_eq!(spans["a truth"].attribute("error"), Some(&true.into()));
    }

    #[test]
    fn the_text_of_errors_leaves_on_request() {
        let traced = Traced::with(|layer| layer.error_text(true).error_events_fail_span(true));
        traced.run(make_errors);
        let spans = traced.spans();
        let event = &spans["displayed"].events[0];
        assert_eq!(attribute(event, "exception.message"), text("secret order"));
        assert_eq!(spans["displayed"].status, StatusCode::Error);
        let message = spans["recorded"].attribute("exception.message");
        assert_eq!(message, Some(&"secret order: secret host".into()));
    }

    #[test]
    fn records_of_the_log_crate_say_where_they_come_from() {
        let traced = Traced::new();
        traced.run(|| {
            info_span!("span").in_scope(|| {
                info!(
                    log.target = "legacy",
                    log.module_path = "legacy::module",
                    log.file = "legacy.rs",
                    log.line = 42_u64,
                    log.iostream = "stdout",
                    "old news"
                );
            });
        });
        let span = traced.one();
        let event = &span.events[0];
        assert_eq!(attribute(event, "target"), text("legacy"));
        assert_eq!(attribute(event, "code.file.path"), text("legacy.rs"));
        assert_eq!(attribute(event, "code.line.number"), Some(42.into()));
        assert_eq!(attribute(event, "log.iostream"), text("stdout"));
        assert_eq!(attribute(event, "log.target"), None);
        assert_eq!(attribute(event, "log.module_path"), None);
    }

    #[test]
    fn values_that_use_their_own_span_while_they_are_formatted_do_no_harm() {
        /// It logs on another thread, because `tracing` passes by what a subscriber's own thread does
        /// meanwhile; whatever we held locked would never be free.
        struct Chatty<'a> {
            traced: &'a Traced,
            span: &'a TracingSpan,
        }
        impl fmt::Debug for Chatty<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let context = Context::current();
                context.span().set_attribute("touched", true);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        self.traced.run(|| {
                            self.span.in_scope(|| info!("formatted"));
                            self.span.record("counted", 1);
                            info!(parent: self.span, "formatted");
                            drop(info_span!(parent: self.span, "formatting"));
                        });
                    });
                });
                f.write_str("chatty")
            }
        }

        let traced = Traced::new();
        traced.run(|| {
            let span = info_span!("outer", recorded = field::Empty, counted = field::Empty);
            let chatty = Chatty { traced: &traced, span: &span };
            let _entered = span.enter();
            span.record("recorded", field::debug(&chatty));
            info!(value = ?chatty, "event");
            drop(info_span!("inner", created = ?chatty));
        });
        let spans = traced.all_spans();
        let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        let outer = named("outer");
        assert_eq!(outer.attribute("recorded"), text("chatty").as_ref());
        assert_eq!(outer.attribute("touched"), Some(&true.into()));
        assert_eq!(outer.attribute("counted"), Some(&1.into()));
        assert_eq!(named("inner").attribute("created"), text("chatty").as_ref());
        let names: Vec<&str> = outer.events.iter().map(|event| event.name.as_str()).collect();
        let formatted = "formatted";
        assert_eq!(names, [formatted, formatted, formatted, formatted, "event", formatted, formatted]);
        assert_eq!(attribute(&outer.events[4], "value"), text("chatty"));
        assert_eq!(spans.iter().filter(|span| span.name == "formatting").count(), 3);
    }

    #[test]
    fn a_value_of_any_length_is_bounded_and_a_panic_in_it_breaks_nothing() {
        struct Endless(AtomicUsize);
        impl fmt::Debug for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    self.0.fetch_add(1, Ordering::Relaxed);
                    f.write_str("0123456789äöüß")?;
                }
            }
        }
        struct Panics;
        impl fmt::Debug for Panics {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("half")?;
                panic!("a bug in a formatter");
            }
        }

        let traced = Traced::new();
        traced.run(|| {
            let endless = Endless(AtomicUsize::new(0));
            let span = info_span!("long", value = field::Empty);
            let _entered = span.enter();
            info!(value = ?endless, "event");
            span.record("value", field::debug(&endless));
            assert!(endless.0.load(Ordering::Relaxed) < 20_000);
            let panicked = std::panic::catch_unwind(|| info!(value = ?Panics, "event"));
            assert!(panicked.is_err());
            let panicked =
                std::panic::catch_unwind(|| drop(info_span!(parent: None, "broken", value = ?Panics)));
            assert!(panicked.is_err());
        });
        assert_eq!(traced.all_spans().iter().filter(|span| span.name == "long").count(), 1);
    }

    #[test]
    fn tasks_of_one_thread_that_stay_entered_between_their_polls_cost_no_span() {
        let traced = Traced::new();
        let tracer = traced.tracer;
        let task = |name: &'static str| {
            tracer.span(name).run(async move {
                let span = info_span!("inner");
                // What `tracing` warns of.
                let _entered = span.enter();
                tokio::task::yield_now().await;
                info!("still here");
            })
        };
        traced.block_on(async { tokio::join!(task("one"), task("two"), task("three")) });
        let mut names: Vec<_> = traced.all_spans().into_iter().map(|span| span.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["inner", "inner", "inner", "one", "three", "two"]);
        assert_eq!(tracer.stats().live, 0);
    }

    #[test]
    fn a_formatter_that_fails_gives_what_it_wrote() {
        struct Fails;
        impl fmt::Debug for Fails {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("so far")?;
                Err(fmt::Error)
            }
        }

        let traced = Traced::new();
        traced.run(|| {
            let span = info_span!("first", otel.name = ?Fails, otel.kind = ?Fails, new = ?Fails, later = field::Empty,
                otel.status_code = field::Empty);
            span.record("later", field::debug(&Fails));
            span.record("otel.status_code", field::debug(&Fails));
            span.in_scope(|| info!(value = ?Fails, "event"));
        });
        let span = traced.one();
        assert_eq!(span.name, "so far");
        assert_eq!(span.attribute("new"), text("so far").as_ref());
        assert_eq!(span.attribute("later"), text("so far").as_ref());
        assert_eq!(attribute(&span.events[0], "value"), text("so far"));
    }
}

mod log_lines {
    use super::*;

    /// Lines that were written.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn take(&self) -> Vec<String> {
            let written = std::mem::take(&mut *self.0.lock().unwrap());
            String::from_utf8(written).unwrap().lines().map(str::to_owned).collect()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn text_lines() -> (Traced, Lines) {
        let lines = Lines::default();
        let log_lines = log::layer().with_writer(lines.clone()).with_ansi(false).without_time();
        let log_lines = log_lines.map_event_format(WithTraceIds::text);
        (Traced::subscribed(|layer| Dispatch::new(Registry::default().with(layer).with(log_lines))), lines)
    }

    fn json_lines(change: impl FnOnce(JsonLayer) -> JsonLayer) -> (Traced, Lines) {
        let lines = Lines::default();
        let log_lines = change(log::layer().json()).map_event_format(WithTraceIds::json);
        let log_lines = log_lines.with_writer(lines.clone());
        (Traced::subscribed(|layer| Dispatch::new(Registry::default().with(layer).with(log_lines))), lines)
    }

    type JsonLayer = log::Layer<
        tracing_subscriber::layer::Layered<TracingLayer, Registry>,
        log::format::JsonFields,
        log::format::Format<log::format::Json>,
    >;

    fn current_ids() -> String {
        let span = Context::current().span_context().unwrap();
        format!("trace_id={} span_id={} trace_flags=03", span.trace_id(), span.span_id())
    }

    #[test]
    fn a_line_of_text_ends_with_the_ids_of_its_span() {
        let (traced, lines) = text_lines();
        let mut expected = Vec::new();
        traced.run(|| {
            info!("outside");
            expected.push(format!(" INFO {}: outside", module_path!()));
            info_span!("pay", order = 7).in_scope(|| {
                info!(amount = 3, "paid");
                expected.push(format!(
                    " INFO pay{{order=7}}: {}: paid amount=3 {}",
                    module_path!(),
                    current_ids()
                ));
            });
            traced.tracer.span("native").in_scope(|| {
                info!("native");
                expected.push(format!(" INFO {}: native {}", module_path!(), current_ids()));
            });
        });
        assert_eq!(lines.take(), expected);
    }

    #[test]
    fn a_line_of_json_is_an_object_with_the_ids_of_its_span() {
        for is_flat in [false, true] {
            let (traced, lines) = json_lines(|layer| layer.flatten_event(is_flat));
            let span = traced.run(|| {
                info!("outside");
                let span = info_span!("pay", order = 7).entered();
                info!(amount = 3, "paid \"}}\"\n");
                let current = Context::current().span_context().unwrap();
                drop(span);
                current
            });
            let lines: Vec<serde_json::Value> =
                lines.take().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines.len(), 2);
            assert!(lines[0].get("trace_id").is_none());
            assert_eq!(lines[1]["trace_id"], span.trace_id().to_string());
            assert_eq!(lines[1]["span_id"], span.span_id().to_string());
            assert_eq!(lines[1]["trace_flags"], "03");
            let fields = if is_flat { &lines[1] } else { &lines[1]["fields"] };
            assert_eq!(fields["message"], "paid \"}\"\n");
            assert_eq!(fields["amount"], 3);
            assert_eq!(lines[1]["span"]["order"], 7);
        }
    }

    #[test]
    fn an_event_with_an_explicit_parent_has_the_ids_of_that_span() {
        let (traced, lines) = json_lines(|layer| layer);
        traced.run(|| {
            let explicit = info_span!("explicit");
            let current = info_span!("current").entered();
            info!(parent: &explicit, "told");
            info!(parent: None, "to nobody");
            drop(current);
        });
        let spans = traced.spans();
        let lines = lines.take();
        let told: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(told["span_id"], spans["explicit"].span_id.to_string());
        let nobody: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
        assert!(nobody.get("trace_id").is_none());
    }

    #[test]
    fn the_line_about_the_close_of_a_span_has_its_ids() {
        let (traced, lines) = json_lines(|layer| layer.with_span_events(FmtSpan::FULL));
        traced.run(|| info_span!("pay").in_scope(|| ()));
        let span = traced.one();
        let lines = lines.take();
        assert_eq!(lines.len(), 4, "{lines:?}");
        for line in lines {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["span_id"], span.span_id.to_string(), "{line}");
        }
    }

    #[test]
    fn colours_and_formats_of_several_lines_are_kept() {
        let lines = Lines::default();
        let coloured = log::layer().with_writer(lines.clone()).with_ansi(true).without_time();
        let coloured = coloured.map_event_format(WithTraceIds::text);
        let pretty = log::layer().with_writer(lines.clone()).with_ansi(false).without_time().pretty();
        let pretty = pretty.map_event_format(WithTraceIds::text);
        let traced = Traced::subscribed(|layer| {
            Dispatch::new(Registry::default().with(layer).with(coloured).with(pretty))
        });
        let ids = traced.run(|| {
            let _entered = info_span!("pay").entered();
            info!("paid");
            current_ids()
        });
        let lines = lines.take();
        assert!(lines[0].contains("\u{1b}[32m INFO\u{1b}[0m"), "{lines:?}");
        assert!(lines[0].ends_with(&format!("\u{1b}[2m{ids}\u{1b}[0m")), "{lines:?}");
        let last = lines.len() - 1;
        assert!(lines[last].is_empty() && lines[last - 1].ends_with(&ids), "{lines:?}");
    }

    #[test]
    fn a_format_of_ones_own_is_followed_by_the_ids() {
        struct Own;
        impl<S, N> log::FormatEvent<S, N> for Own
        where
            S: ::tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
            N: for<'a> log::FormatFields<'a> + 'static,
        {
            fn format_event(
                &self,
                context: &log::FmtContext<'_, S, N>,
                mut writer: log::format::Writer<'_>,
                event: &::tracing::Event<'_>,
            ) -> fmt::Result {
                let is_in_span = span_context(context, event).is_some();
                writeln!(writer, "own {is_in_span}")
            }
        }

        let lines = Lines::default();
        let log_lines = log::layer().with_writer(lines.clone()).event_format(WithTraceIds::custom_text(Own));
        let traced =
            Traced::subscribed(|layer| Dispatch::new(Registry::default().with(layer).with(log_lines)));
        let ids = traced.run(|| {
            info!("outside");
            let _entered = info_span!("inside").entered();
            info!("inside");
            current_ids()
        });
        assert_eq!(lines.take(), ["own false".to_owned(), format!("own true {ids}")]);
    }

    #[test]
    fn a_line_that_is_no_object_stays_as_it_is() {
        let lines = Lines::default();
        let log_lines = log::layer().with_writer(lines.clone()).with_ansi(false).without_time();
        let log_lines = log_lines.map_event_format(WithTraceIds::json);
        let traced =
            Traced::subscribed(|layer| Dispatch::new(Registry::default().with(layer).with(log_lines)));
        traced.run(|| info_span!("pay").in_scope(|| info!("paid")));
        assert_eq!(lines.take(), [format!(" INFO pay: {}: paid", module_path!())]);
    }

    #[test]
    fn a_filter_on_spans_leaves_lines_in_the_trace_around_them() {
        let lines = Lines::default();
        let log_lines = log::layer().json().map_event_format(WithTraceIds::json).with_writer(lines.clone());
        let only_info = filter_fn(|metadata| *metadata.level() <= Level::INFO);
        let traced = Traced::subscribed(|layer| {
            Dispatch::new(Registry::default().with(layer.with_filter(only_info)).with(log_lines))
        });
        traced.run(|| {
            info_span!("outer").in_scope(|| {
                let hidden = trace_span!("hidden");
                hidden.in_scope(|| info!("current"));
                info!(parent: &hidden, "explicit");
            });
        });
        let span = traced.one();
        for line in lines.take() {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["span_id"], span.span_id.to_string());
        }
    }
}
