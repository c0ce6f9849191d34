use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{self as proto, span::SpanKind as ProtoKind};
use proptest::prelude::*;
use prost::Message;

use super::row::Row;
use super::*;
use crate::config::Config;
use crate::context::{Baggage, ContextGuard, TraceFlags, TraceState};
use crate::pipeline::Tracer;
use crate::sampler::{AnySampler, ParentBased, Sampler, SamplingDecision, SamplingParameters, TraceIdRatio};
use crate::telemetry::DropReason;
use crate::{SpanId, TraceId};

/// A pipeline whose spans are read by the types that prost generates.
struct Judged(Tracer);

impl Judged {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        Self(Tracer::detached(&config))
    }

    fn spans(&self) -> Vec<proto::Span> {
        self.scoped_spans().into_iter().map(|(_, span)| span).collect()
    }

    fn scoped_spans(&self) -> Vec<(&'static Scope, proto::Span)> {
        let queue = &self.0.pipeline().expect("enabled").queue;
        let mut spans = Vec::new();
        let mut read = |chunk: Box<crate::export::chunk::Chunk>| {
            let taken = chunk.len() as u64;
            for frame in chunk.frames() {
                spans.push((frame.scope, proto::Span::decode(frame.span()).expect("a whole span")));
            }
            queue.recycle(chunk);
            queue.export.taken.add(taken);
            queue.export.exported.add(taken);
        };
        while let Some(chunk) = queue.take_sealed() {
            read(chunk);
        }
        queue.take_open(&mut read);
        let stats = self.0.stats();
        assert!(stats.is_balanced(), "{stats}");
        spans
    }

    fn one(&self) -> proto::Span {
        let mut spans = self.spans();
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans.remove(0)
    }
}

impl std::ops::Deref for Judged {
    type Target = Tracer;

    fn deref(&self) -> &Tracer {
        &self.0
    }
}

fn string(text: &str) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) }
}

fn int(number: i64) -> AnyValue {
    AnyValue { value: Some(any_value::Value::IntValue(number)) }
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a AnyValue> {
    let mut found = attributes.iter().filter(|attribute| attribute.key == key);
    let value = found.next()?.value.as_ref();
    assert!(found.next().is_none(), "{key} is there twice");
    value
}

#[test]
fn a_span_is_small_because_futures_and_bodies_carry_it() {
    assert_eq!(size_of::<Span>(), 2 * size_of::<usize>());
    assert_eq!(size_of::<Option<Span>>(), 2 * size_of::<usize>());
}

#[test]
fn a_root_span_has_ids_of_its_own_and_no_parent() {
    let tracer = Judged::new();
    let span = tracer.span("root").start();
    let context = span.span_context().expect("ids");
    drop(span);
    let read = tracer.one();
    assert_eq!(read.trace_id, context.trace_id().to_bytes());
    assert_eq!(read.span_id, context.span_id().to_bytes());
    assert!(read.parent_span_id.is_empty());
    assert_eq!(read.name, "root");
    assert_eq!(read.kind(), ProtoKind::Internal);
    assert_eq!(read.flags, 0x03, "sampled and random, and nothing said of a parent");
    assert!(context.is_sampled() && context.flags().is_random() && !context.is_remote());
    assert!(read.start_time_unix_nano > 0 && read.end_time_unix_nano >= read.start_time_unix_nano);
    assert_eq!(read.status, None);
}

#[test]
fn a_child_has_its_parents_trace_and_id() {
    let tracer = Judged::new();
    tracer.span("parent").in_scope(|| span("child").kind(SpanKind::Client).start().end());
    let spans = tracer.spans();
    let [child, parent] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(child.trace_id, parent.trace_id);
    assert_eq!(child.parent_span_id, parent.span_id);
    assert_eq!(child.kind(), ProtoKind::Client);
    assert_eq!(child.flags, 0x103, "the parent is known not to be remote");
    assert!(child.start_time_unix_nano >= parent.start_time_unix_nano);
    assert!(child.end_time_unix_nano <= parent.end_time_unix_nano, "one clock for the whole trace");
}

#[test]
fn a_remote_parent_is_continued_with_its_tracestate_and_baggage() {
    let tracer = Judged::new();
    let caller = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, true);
    let remote = Context::from_remote(caller, TraceState::empty(), Baggage::new());
    let span = tracer.span("served").kind(SpanKind::Server).parent(&remote).start();
    let context = span.span_context().expect("ids");
    assert_eq!(context.trace_id(), caller.trace_id());
    assert_ne!(context.span_id(), caller.span_id());
    assert!(!context.flags().is_random(), "the caller did not say that its id is random");
    drop(span);
    let read = tracer.one();
    assert_eq!(read.parent_span_id, caller.span_id().to_bytes());
    assert_eq!(read.flags, 0x301, "the parent is known to be remote");
}

#[test]
fn every_type_of_attribute_arrives_as_it_was_set() {
    let tracer = Judged::new();
    let nested = [Value::from("a"), Value::from(2), Value::Array(&[Value::Bool(true)])];
    tracer
        .span("typed")
        .attribute("text", "größer")
        .attribute("empty", "")
        .attribute("bool", true)
        .attribute("int", -7)
        .attribute("large", u64::MAX)
        .attribute("float", 0.25)
        .attribute("bytes", &b"\0\xff"[..])
        .attribute("texts", &["x", "y"])
        .attribute("ints", &[1i64, -1])
        .attribute("floats", &[0.5][..])
        .attribute("bools", &[true, false][..])
        .attribute("mixed", &nested[..])
        .attribute("map", Value::Map(&[("k", Value::I64(1)), ("l", Value::Map(&[]))]))
        .attribute("formatted", &format_args!("{}-{:03}", "order", 7))
        .attribute("displayed", display(&"shown"))
        .end();
    let read = tracer.one();
    let value = |key| attribute(&read.attributes, key).cloned().and_then(|value| value.value);
    let array = |values: Vec<AnyValue>| {
        Some(any_value::Value::ArrayValue(opentelemetry_proto::tonic::common::v1::ArrayValue { values }))
    };
    let boolean = |truth| AnyValue { value: Some(any_value::Value::BoolValue(truth)) };
    assert_eq!(value("text"), string("größer").value);
    assert_eq!(value("empty"), string("").value);
    assert_eq!(value("bool"), boolean(true).value);
    assert_eq!(value("int"), int(-7).value);
    assert_eq!(value("large"), int(i64::MAX).value);
    assert_eq!(value("float"), Some(any_value::Value::DoubleValue(0.25)));
    assert_eq!(value("bytes"), Some(any_value::Value::BytesValue(vec![0, 0xff])));
    assert_eq!(value("texts"), array(vec![string("x"), string("y")]));
    assert_eq!(value("ints"), array(vec![int(1), int(-1)]));
    assert_eq!(value("floats"), array(vec![AnyValue { value: Some(any_value::Value::DoubleValue(0.5)) }]));
    assert_eq!(value("bools"), array(vec![boolean(true), boolean(false)]));
    assert_eq!(
        value("mixed"),
        array(vec![string("a"), int(2), AnyValue { value: array(vec![boolean(true)]) }])
    );
    let Some(any_value::Value::KvlistValue(map)) = value("map") else { panic!("a map") };
    assert_eq!(map.values.len(), 2);
    assert_eq!(attribute(&map.values, "k"), Some(&int(1)));
    assert_eq!(value("formatted"), string("order-007").value);
    assert_eq!(value("displayed"), string("shown").value);
    assert_eq!(read.dropped_attributes_count, 0);
}

#[test]
fn an_attribute_that_is_set_again_has_its_last_value_only() {
    let tracer = Judged::new();
    let mut span = tracer.span("again").attribute(semconv::HTTP_ROUTE, "/a").attribute("b", 1);
    span.set_attribute(semconv::HTTP_ROUTE, "/a/much/longer/route");
    span.set_attribute("b", "two");
    span.set_attribute("http.route", "/by/name");
    span.set_attribute("c", 3);
    span.set_attribute(semconv::HTTP_ROUTE, "/last");
    span.end();
    let read = tracer.one();
    assert_eq!(attribute(&read.attributes, "http.route"), Some(&string("/last")));
    assert_eq!(attribute(&read.attributes, "b"), Some(&string("two")));
    assert_eq!(attribute(&read.attributes, "c"), Some(&int(3)));
    assert_eq!(read.attributes.len(), 3);
}

#[test]
fn a_new_name_replaces_the_old_one() {
    let tracer = Judged::new();
    let mut span = tracer.span("GET").attribute("before", 1);
    span.update_name("GET /orders/{id}");
    span.set_attribute("before", 2);
    span.update_name("G");
    span.end();
    let read = tracer.one();
    assert_eq!(read.name, "G");
    assert_eq!(attribute(&read.attributes, "before"), Some(&int(2)));
}

#[test]
fn what_is_beyond_the_limits_is_counted() {
    let tracer = Judged::with(|config| {
        config.limits.attribute_count = 2;
        config.limits.attribute_value_length = Some(3);
        config.limits.event_count = 1;
        config.limits.link_count = 1;
        config.limits.event_attribute_count = 1;
    });
    let other = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::default(), true);
    let mut span = tracer.span("limited").attribute("a", "größer").attribute("b", &["xxxx", "y"]);
    span.set_attribute("c", 1);
    span.set_attribute("", 1);
    span.set_attribute("a", &format_args!("{}{}", "ab", "cdef"));
    span.add_event("one", &[("k".into(), "value".into()), ("l".into(), 1.into())]);
    span.add_event("two", &[]);
    span.add_link(other, &[]);
    span.add_link(other, &[]);
    span.end();
    let read = tracer.one();
    assert_eq!(attribute(&read.attributes, "a"), Some(&string("abc")));
    assert_eq!(read.attributes.len(), 2);
    assert_eq!(read.dropped_attributes_count, 2);
    assert_eq!(read.events.len(), 1);
    assert_eq!(attribute(&read.events[0].attributes, "k"), Some(&string("val")));
    assert_eq!(read.events[0].dropped_attributes_count, 1);
    assert_eq!(read.dropped_events_count, 1);
    assert_eq!(read.links.len(), 1);
    assert_eq!(read.dropped_links_count, 1);
}

#[test]
fn a_span_is_cut_at_64_kib_and_still_whole() {
    let tracer = Judged::new();
    let text = "x".repeat(30_000);
    let name = "n".repeat(5_000);
    let mut span = tracer.span(&name).attribute("a", &text);
    span.set_error_description(&text);
    span.set_attribute("b", &text);
    span.set_attribute("c", &text);
    span.set_attribute("d", &format_args!("{text}"));
    span.add_event(&text, &[("k".into(), text.as_str().into())]);
    span.end();
    let read = tracer.one();
    assert_eq!(read.name.len(), 1024);
    assert_eq!(attribute(&read.attributes, "b"), Some(&string(&text)));
    assert_eq!(attribute(&read.attributes, "c"), None);
    let Some(AnyValue { value: Some(any_value::Value::StringValue(cut)) }) = attribute(&read.attributes, "d")
    else {
        panic!("a text")
    };
    assert!(!cut.is_empty() && cut.len() < text.len(), "a formatted text is cut to what fits");
    assert_eq!(read.dropped_attributes_count, 1);
    assert_eq!(read.dropped_events_count, 1);
    assert!(read.encoded_len() <= 64 * 1024);
    assert_eq!(read.status.expect("an error").message.len(), 1024);
}

#[test]
fn events_links_and_status_arrive() {
    let tracer = Judged::new();
    let other = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, false);
    let mut span = tracer.span("rich").link(other);
    span.add_event("retry", &[("attempt".into(), 2.into()), ("why".into(), display(&"busy"))]);
    span.set_status(StatusCode::Error);
    span.set_error("timeout");
    span.end();
    let read = tracer.one();
    assert_eq!(read.links[0].trace_id, other.trace_id().to_bytes());
    assert_eq!(read.links[0].span_id, other.span_id().to_bytes());
    assert_eq!(read.links[0].flags, 0x101);
    let event = &read.events[0];
    assert_eq!(event.name, "retry");
    assert_eq!(attribute(&event.attributes, "attempt"), Some(&int(2)));
    assert_eq!(attribute(&event.attributes, "why"), Some(&string("busy")));
    assert!(event.time_unix_nano >= read.start_time_unix_nano);
    assert!(event.time_unix_nano <= read.end_time_unix_nano);
    assert_eq!(read.status.clone().expect("a status").code(), proto::status::StatusCode::Error);
    assert_eq!(attribute(&read.attributes, "error.type"), Some(&string("timeout")));
}

#[test]
fn an_ok_is_final() {
    let tracer = Judged::new();
    let mut span = tracer.span("fine").start();
    span.set_status(StatusCode::Ok);
    span.set_status(StatusCode::Error);
    span.set_status(StatusCode::Unset);
    span.end();
    assert_eq!(tracer.one().status.expect("a status").code(), proto::status::StatusCode::Ok);
}

#[derive(Debug)]
struct CardDeclined(#[expect(dead_code, reason = "a secret in an error")] &'static str);

impl fmt::Display for CardDeclined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("declined: 4111 1111 1111 1111")
    }
}

impl Error for CardDeclined {}

#[test]
fn an_err_is_recorded_by_its_type_and_never_by_its_text() {
    let tracer = Judged::new();
    let result: Result<(), _> = tracer.span("pay").try_in_scope(|| Err(CardDeclined("card 4111")));
    assert!(result.is_err());
    let result: Result<u8, CardDeclined> = tracer.span("pay").try_in_scope(|| Ok(1));
    assert_eq!(result.expect("a value"), 1);
    let spans = tracer.spans();
    let type_name = std::any::type_name::<CardDeclined>();
    assert_eq!(attribute(&spans[0].attributes, "error.type"), Some(&string(type_name)));
    assert_eq!(spans[0].status.clone().expect("an error").message, "");
    assert!(!format!("{spans:?}").contains("card 4111"));
    assert_eq!(spans[1].status, None);
}

#[test]
fn an_error_that_comes_after_an_ok_leaves_no_type() {
    let judged = Judged::new();
    let mut span = judged.span("fine").start();
    span.set_status(StatusCode::Ok);
    span.set_error("timeout");
    span.set_error_if_unset("timeout");
    drop(span);
    let span = judged.one();
    assert_eq!(span.status.unwrap().code, 1);
    assert_eq!(attribute(&span.attributes, "error.type"), None);
}

#[test]
fn the_last_word_of_a_middleware_gives_way_to_a_better_one() {
    for (said, left) in [(None, "500"), (Some("card_declined"), "card_declined")] {
        let judged = Judged::new();
        let mut span = judged.span("request").start();
        if let Some(said) = said {
            span.set_error(said);
        }
        span.set_error_if_unset("500");
        drop(span);
        assert_eq!(attribute(&judged.one().attributes, "error.type"), Some(&string(left)));
    }
}

#[test]
fn an_error_has_its_description_and_its_type_whichever_is_said_first() {
    /// Says something of a span, through its owner or its context.
    type Say = (&'static str, fn(&mut Span));
    let owner: [Say; 3] = [
        ("describe", |span| span.set_error_description("out of stock")),
        ("class", |span| span.set_error("sold_out")),
        ("class", |span| span.record_error(&())),
    ];
    let context: [Say; 3] = [
        ("describe", |span| span.context().span().set_error_description("out of stock")),
        ("class", |span| span.context().span().set_error("sold_out")),
        ("class", |span| span.context().span().record_error(&())),
    ];
    let all = || owner.iter().chain(&context);
    for (first, say_first) in all() {
        for (second, say_second) in all() {
            let judged = Judged::new();
            let mut span = judged.span("request").start();
            say_first(&mut span);
            say_second(&mut span);
            span.set_error_if_unset("500");
            drop(span);
            let span = judged.one();
            let said = [first, second];
            let status = span.status.expect("an error");
            assert_eq!(status.code(), proto::status::StatusCode::Error);
            let description = if said.contains(&&"describe") { "out of stock" } else { "" };
            assert_eq!(status.message, description, "{said:?}");
            let is_last_word = attribute(&span.attributes, "error.type") == Some(&string("500"));
            assert_eq!(is_last_word, !said.contains(&&"class"), "{said:?}");
            assert_eq!(span.attributes.len(), 1, "{said:?}");
        }
    }
}

#[test]
fn the_last_word_of_a_middleware_classes_an_error_that_has_only_its_status() {
    for (said, left) in [(None, "500"), (Some("card_declined"), "card_declined")] {
        let judged = Judged::new();
        let mut span = judged.span("request").start();
        span.set_status(StatusCode::Error);
        if let Some(said) = said {
            span.set_attribute(semconv::ERROR_TYPE, said);
        }
        span.set_error_if_unset("500");
        drop(span);
        assert_eq!(attribute(&judged.one().attributes, "error.type"), Some(&string(left)));
    }
}

#[test]
fn an_unrecorded_span_stands_for_its_context_and_takes_no_other_spans_place() {
    let judged = Judged::new();
    let owner = judged.span("owner").start();
    let mut left_out = Span::unrecorded(owner.context().clone());
    assert!(!left_out.is_recording());
    left_out.set_attribute("ignored", true);
    left_out.enter(|| assert_eq!(Context::current_span_context(), owner.span_context()));
    drop(left_out);
    drop(owner);
    let span = judged.one();
    assert_eq!(attribute(&span.attributes, "ignored"), None);
}

#[test]
fn a_context_gives_its_tracer_to_the_spans_below() {
    let judged = Judged::new();
    Context::new().with_tracer(judged.0).in_scope(|| span("below").in_scope(|| ()));
    assert_eq!(judged.one().name, "below");
}

#[test]
fn a_span_that_is_sampled_out_has_ids_and_costs_no_memory() {
    let tracer = Judged::with(|config| config.sampler = AnySampler::AlwaysOff);
    let mut span = tracer.span("unseen").attribute("a", 1);
    span.set_attribute("b", 2);
    let context = span.span_context().expect("ids");
    assert!(!context.is_sampled() && !span.is_recording());
    let child = tracer.span("child").parent(span.context()).start();
    let child_context = child.span_context().expect("ids");
    assert_eq!(child_context.trace_id(), context.trace_id());
    assert_ne!(child_context.span_id(), context.span_id());
    drop((span, child));
    assert_eq!(tracer.spans(), []);
    assert_eq!(tracer.stats().sampled_out, 2);
    assert_eq!(tracer.stats().started, 0);
    assert_eq!(tracer.pipeline().expect("enabled").queue.memory(), (0, 0));
}

#[test]
fn a_name_of_one_part_or_two_is_recorded_whole_at_every_length() {
    let text = "x".repeat(140);
    let tracer = Judged::new();
    for len in 0..=text.len() {
        for name in [
            SpanName::from(&text[..len]),
            SpanName::new("GET", Some(&text[..len])),
            SpanName::new(&text[..len], Some("/orders")),
        ] {
            drop(tracer.span(name).attribute("a", 1));
            assert_eq!(tracer.one().name, name.to_string());
        }
    }
}

#[test]
fn what_may_be_recorded_is_told_in_advance_for_each_kind_of_parent() {
    let samplers: [fn() -> AnySampler; 5] = [
        || AnySampler::AlwaysOn,
        || AnySampler::AlwaysOff,
        AnySampler::default,
        || ParentBased::new(AnySampler::AlwaysOff).remote_not_sampled(AnySampler::AlwaysOn).into(),
        || TraceIdRatio::new(0.5).unwrap().into(),
    ];
    for sampler in samplers {
        let tracer = Judged::with(|config| config.sampler = sampler());
        let parents =
            [None, Some((true, true)), Some((true, false)), Some((false, true)), Some((false, false))];
        for parent in parents {
            // A trace of its own each time: a ratio decides by that.
            let context = || {
                parent.map_or_else(Context::new, |(is_sampled, is_remote)| {
                    let flags = TraceFlags::default().with_sampled(is_sampled);
                    let span = SpanContext::new(TraceId::random(), SpanId::random(), flags, is_remote);
                    Context::from_remote(span, TraceState::empty(), Baggage::new())
                })
            };
            let may = tracer.may_record(&context());
            let does = (0..64).any(|_| tracer.span("work").parent(&context()).start().is_recording());
            assert_eq!(may, does, "{:?}, {parent:?}", sampler());
        }
        drop(tracer.spans());
    }
    assert!(!Tracer::disabled().may_record(&Context::new()));
}

#[test]
fn a_disabled_tracer_passes_on_what_came() {
    let caller = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, true);
    let remote = Context::from_remote(caller, TraceState::empty(), Baggage::new());
    let span = Tracer::disabled().span("nothing").parent(&remote).attribute("a", 1);
    assert_eq!(span.span_context(), Some(caller));
    assert_eq!(Tracer::disabled().span("nothing").start().span_context(), None);
}

#[test]
fn a_handler_writes_to_the_span_that_its_middleware_owns() {
    let tracer = Judged::new();
    let mut span = tracer.span("request").start();
    let kept = span.enter(|| {
        Context::current().span().set_attribute("tenant.id", "acme");
        Context::current()
    });
    kept.span().add_event("still alive", &[]);
    span.set_attribute("http.route", "/");
    drop(span);
    assert!(!kept.span().is_recording());
    kept.span().set_attribute("late", 1);
    let read = tracer.one();
    assert_eq!(attribute(&read.attributes, "tenant.id"), Some(&string("acme")));
    assert_eq!(attribute(&read.attributes, "http.route"), Some(&string("/")));
    assert_eq!(read.events.len(), 1);
    assert_eq!(read.attributes.len(), 2);
}

#[test]
fn a_panic_inside_a_formatted_attribute_leaves_the_span_whole() {
    struct Explodes;
    impl fmt::Display for Explodes {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("half of it")?;
            panic!("in a Display")
        }
    }
    let tracer = Judged::new();
    let mut span = tracer.span("careful").attribute("before", 1);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        span.set_attribute("explodes", display(&Explodes));
    }));
    assert!(caught.is_err());
    span.set_attribute("after", 2);
    span.end();
    let read = tracer.one();
    assert_eq!(read.attributes.len(), 2);
    assert_eq!(attribute(&read.attributes, "after"), Some(&int(2)));
}

#[test]
fn a_panic_in_a_span_ends_it_and_restores_the_context() {
    let tracer = Judged::new();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tracer.span("doomed").in_scope(|| panic!("in the work"));
    }));
    assert!(caught.is_err());
    assert_eq!(tracer.one().name, "doomed");
    assert_eq!(Context::current().span_context(), None);
}

#[test]
fn given_times_are_kept_and_an_end_before_the_start_is_the_start() {
    let tracer = Judged::new();
    let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
    tracer.span("measured").start_time(start).start().end_at(start + Duration::from_millis(5));
    tracer.span("backwards").start_time(start).start().end_at(start - Duration::from_secs(1));
    let spans = tracer.spans();
    assert_eq!(spans[0].end_time_unix_nano - spans[0].start_time_unix_nano, 5_000_000);
    assert_eq!(spans[1].start_time_unix_nano, spans[1].end_time_unix_nano);
}

#[test]
fn a_root_span_leaves_the_current_trace() {
    let tracer = Judged::new();
    tracer.span("outer").in_scope(|| span("apart").root().start().end());
    let spans = tracer.spans();
    assert_ne!(spans[0].trace_id, spans[1].trace_id);
    assert!(spans[0].parent_span_id.is_empty());
}

#[test]
fn a_span_carries_its_makers_scope() {
    static SCOPE: Scope = Scope::new("shop", "1.2.3");
    let tracer = Judged::new();
    tracer.span("scoped").scope(&SCOPE).start().end();
    tracer.span("plain").start().end();
    let scopes: Vec<_> = tracer.scoped_spans().into_iter().map(|(scope, _)| *scope).collect();
    assert_eq!(scopes, [SCOPE, Scope::new("", "")]);
}

#[test]
fn when_memory_for_live_spans_is_used_up_roots_are_shed_and_children_dropped() {
    let tracer = Judged::with(|config| config.memory_bytes_max = 64 * 1024);
    let mut live = Vec::new();
    while tracer.stats().shed == 0 {
        live.push(tracer.span("root").start());
    }
    let shed = live.pop().expect("the one that was shed");
    let context = shed.span_context().expect("a shed root has ids");
    assert!(!context.is_sampled());
    // Nothing below a shed root is recorded, or counted again.
    shed.context().in_scope(|| span("below").start().end());
    assert_eq!(tracer.stats().shed, 1);

    // A shed continuation sends on exactly what came.
    let caller = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, true);
    let remote = Context::from_remote(caller, TraceState::empty(), Baggage::new());
    let continued = tracer.span("served").parent(&remote).start();
    assert_eq!(continued.span_context(), Some(caller));
    assert_eq!(tracer.stats().shed, 2);

    let child = tracer.span("child").parent(live[0].context()).start();
    assert!(!child.is_recording());
    assert_eq!(
        child.span_context(),
        live[0].span_context(),
        "what is called downstream has a recorded parent"
    );
    drop(child);
    assert_eq!(tracer.stats().dropped.count(DropReason::LiveLimit), 1);

    let recorded = live.len();
    drop(live);
    assert_eq!(tracer.spans().len(), recorded);
    assert!(tracer.span("again").start().is_recording());
}

#[test]
fn when_memory_for_finished_spans_runs_short_whole_traces_are_shed_before_spans_are_lost() {
    let tracer = Judged::with(|config| config.memory_bytes_max = 512 * 1024);
    let mut running = tracer.span("running").start();
    while tracer.stats().shed == 0 {
        tracer.span("burst").attribute("padding", &"x".repeat(500)).end();
    }
    assert_eq!(tracer.stats().dropped.total(), 0, "nothing is lost yet");
    running.enter(|| {
        while tracer.stats().dropped.total() == 0 {
            span("child").attribute("padding", &"x".repeat(500)).end();
        }
    });
    assert_eq!(tracer.stats().dropped.count(DropReason::QueueFull), 1);
    drop(running);
    let spans = tracer.spans();
    assert_eq!(spans.len() as u64, tracer.stats().exported);
    assert!(tracer.span("recovered").start().is_recording());
}

#[test]
fn a_bound_in_spans_is_kept_to_the_span() {
    let tracer = Judged::with(|config| config.batch.max_queue_spans = Some(10));
    for _ in 0..25 {
        tracer.span("counted").start().end();
    }
    assert_eq!(tracer.stats().dropped.count(DropReason::QueueFull), 15);
    assert_eq!(tracer.spans().len(), 10);
    tracer.span("room again").start().end();
    assert_eq!(tracer.spans().len(), 1);
}

#[test]
fn memory_is_reused_and_what_grew_is_given_back() {
    let tracer = Judged::new();
    let queue = &tracer.pipeline().expect("enabled").queue;
    tracer.span("first").start().end();
    let (_, pooled) = queue.memory();
    for _ in 0..1000 {
        tracer.span("next").start().end();
        tracer.spans();
    }
    assert_eq!(queue.memory().1, pooled);
    tracer.span("large").attribute("text", &"x".repeat(60_000)).end();
    assert_eq!(queue.memory().1, pooled);
    tracer.spans();
    let (chunks, _) = queue.memory();
    assert!(chunks < 3 * crate::export::chunk::CHUNK_BYTES, "{chunks}");
}

#[test]
fn spans_ended_on_many_threads_at_once_all_arrive() {
    let tracer = Judged::new();
    let ids: HashSet<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let id = |span: &Span| span.span_context().expect("ids").span_id();
                    (0..500)
                        .map(|_| {
                            let span = tracer.span("parallel").attribute("k", "v");
                            id(&span)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let arrived: HashSet<_> = tracer
        .spans()
        .iter()
        .map(|span| SpanId::from_bytes(span.span_id.clone().try_into().expect("8 bytes")).expect("an id"))
        .collect();
    assert_eq!(ids.len(), 4000);
    assert_eq!(arrived, ids);
}

#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8, Owned),
    SetInARow(Vec<(usize, Owned)>),
    Name(String),
    Event(String, Vec<(String, Owned)>),
    Status(u8),
    Describe(String),
}

#[derive(Clone, Debug)]
enum Owned {
    Text(String),
    Formatted(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Bytes(Vec<u8>),
    Texts(Vec<String>),
}

impl Owned {
    fn with<R>(&self, f: impl FnOnce(Value<'_>) -> R) -> R {
        match self {
            Self::Text(text) => f(text.into()),
            Self::Formatted(text) => f(display(text)),
            Self::Int(number) => f((*number).into()),
            Self::Float(number) => f((*number).into()),
            Self::Bool(truth) => f((*truth).into()),
            Self::Bytes(bytes) => f(bytes[..].into()),
            Self::Texts(texts) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                f(texts[..].into())
            }
        }
    }

    fn judged(&self) -> AnyValue {
        use any_value::Value as V;
        AnyValue {
            value: Some(match self {
                Self::Text(text) | Self::Formatted(text) => V::StringValue(text.clone()),
                Self::Int(number) => V::IntValue(*number),
                Self::Float(number) => V::DoubleValue(*number),
                Self::Bool(truth) => V::BoolValue(*truth),
                Self::Bytes(bytes) => V::BytesValue(bytes.clone()),
                Self::Texts(texts) => V::ArrayValue(opentelemetry_proto::tonic::common::v1::ArrayValue {
                    values: texts.iter().map(|text| string(text)).collect(),
                }),
            }),
        }
    }
}

fn value() -> impl Strategy<Value = Owned> {
    prop_oneof![
        ".{0,40}".prop_map(Owned::Text),
        "[a-z]{100,300}".prop_map(Owned::Text),
        ".{0,200}".prop_map(Owned::Formatted),
        any::<i64>().prop_map(Owned::Int),
        (-1e9..1e9).prop_map(Owned::Float),
        any::<bool>().prop_map(Owned::Bool),
        proptest::collection::vec(any::<u8>(), 0..50).prop_map(Owned::Bytes),
        proptest::collection::vec(".{0,10}", 0..20).prop_map(Owned::Texts),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (0..KEYS.len(), 0..3u8, value()).prop_map(|(key, how, value)| Change::Set(key, how, value)),
        2 => proptest::collection::vec((0..KEYS.len(), value()), 0..8).prop_map(Change::SetInARow),
        1 => ".{0,40}".prop_map(Change::Name),
        1 => (".{1,20}", proptest::collection::vec(("[a-z]{1,9}", value()), 0..4))
            .prop_map(|(name, attributes)| Change::Event(name, attributes)),
        1 => (0..3u8).prop_map(Change::Status),
        1 => ".{1,200}".prop_map(Change::Describe),
    ]
}

/// Keys of the conventions, and others: each is also set by its name alone.
const KEYS: &[Key<'static>] = &[
    semconv::HTTP_ROUTE,
    semconv::URL_PATH,
    semconv::ERROR_TYPE,
    Key::new("shop.order"),
    Key::new("k"),
    Key::new("a.rather.long.key.that.somebody.thought.of"),
];

proptest! {
    /// Whatever is done to a span in whatever order, prost reads what a simple model says.
    #[test]
    fn a_span_says_what_was_done_to_it(changes in proptest::collection::vec(change(), 0..40)) {
        let tracer = Judged::new();
        let mut span = tracer.span("start").start();
        let (mut name, mut attributes, mut events) = ("start".to_owned(), BTreeMap::new(), Vec::new());
        let (mut status, mut description) = (0, String::new());
        for change in &changes {
            match change {
                Change::Set(key, how, value) => {
                    let key = KEYS[*key];
                    value.with(|value| match how {
                        0 => span.set_attribute(key, value),
                        1 => span.set_attribute(key.as_str(), value),
                        // Through the lock, as somebody else who holds the context.
                        _ => span.context().clone().span().set_attribute(key, value),
                    });
                    attributes.insert(key.as_str().to_owned(), value.judged());
                }
                Change::SetInARow(all) => {
                    let mut row = span.attributes().expect("it is recorded");
                    for (key, value) in all {
                        let key = KEYS[*key];
                        value.with(|value| row.set(key, value));
                        attributes.insert(key.as_str().to_owned(), value.judged());
                    }
                }
                Change::Name(new) => {
                    span.update_name(new);
                    name.clone_from(new);
                }
                Change::Event(event, with) => {
                    let texts: Vec<(&str, &Owned)> = with.iter().map(|(k, v)| (k.as_str(), v)).collect();
                    let strings: Vec<Vec<&str>> = texts.iter().map(|(_, v)| match v {
                        Owned::Texts(texts) => texts.iter().map(String::as_str).collect(),
                        _ => Vec::new(),
                    }).collect();
                    let pairs: Vec<(Key<'_>, Value<'_>)> = texts.iter().zip(&strings).map(|((key, value), strings)| {
                        let value = match value {
                            Owned::Text(text) => text.into(),
                            Owned::Formatted(text) => display(text),
                            Owned::Int(number) => (*number).into(),
                            Owned::Float(number) => (*number).into(),
                            Owned::Bool(truth) => (*truth).into(),
                            Owned::Bytes(bytes) => bytes[..].into(),
                            Owned::Texts(_) => strings[..].into(),
                        };
                        ((*key).into(), value)
                    }).collect();
                    span.add_event(event, &pairs);
                    events.push((event.clone(), with.iter().map(|(k, v)| (k.clone(), v.judged())).collect::<Vec<_>>()));
                }
                Change::Status(code) => {
                    span.set_status([StatusCode::Unset, StatusCode::Ok, StatusCode::Error][usize::from(*code)]);
                    if status != 1 && *code != 0 {
                        status = i32::from(*code);
                        description.clear();
                    }
                }
                Change::Describe(text) => {
                    span.set_error_description(text);
                    if status != 1 {
                        status = 2;
                        description.clone_from(text);
                    }
                }
            }
        }
        span.end();
        let read = tracer.one();
        prop_assert_eq!(&read.name, &name);
        let read_attributes: BTreeMap<_, _> =
            read.attributes.iter().map(|kv| (kv.key.clone(), kv.value.clone().expect("a value"))).collect();
        prop_assert_eq!(read_attributes.len(), read.attributes.len());
        prop_assert_eq!(read_attributes, attributes);
        let read_events: Vec<_> = read.events.iter().map(|event| {
            let attributes: Vec<_> = event.attributes.iter()
                .map(|kv| (kv.key.clone(), kv.value.clone().expect("a value"))).collect();
            (event.name.clone(), attributes)
        }).collect();
        prop_assert_eq!(read_events, events);
        let read_status = read.status.unwrap_or_default();
        prop_assert_eq!((read_status.code, read_status.message), (status, description));
        prop_assert_eq!(read.dropped_attributes_count + read.dropped_events_count, 0);
    }
}

#[test]
fn a_database_call_is_named_and_described_as_the_conventions_say() {
    let tracer = Judged::new();
    let query = db::query("postgresql").tracer(tracer.0);
    query
        .operation("SELECT")
        .collection("orders")
        .namespace("shop")
        .text("SELECT * FROM orders WHERE id = 17 AND name = $1")
        .server("db.internal", Some(5433))
        .peer("10.0.0.7", Some(5433))
        .batch_size(1)
        .start()
        .end();
    query.summary("SELECT orders users").operation("SELECT").start().end();
    query.operation("BEGIN").start().end();
    query.stored_procedure("recount").batch_size(3).start().end();
    query.server("db.internal", None).start().end();
    query.start().end();
    let spans = tracer.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        names,
        ["SELECT orders", "SELECT orders users", "BEGIN", "recount", "db.internal", "postgresql"]
    );
    let value = |key| attribute(&spans[0].attributes, key);
    assert_eq!(value("db.system.name"), Some(&string("postgresql")));
    assert_eq!(value("db.query.text"), Some(&string("SELECT * FROM orders WHERE id = ? AND name = $1")));
    assert_eq!(value("db.namespace"), Some(&string("shop")));
    assert_eq!(value("server.port"), Some(&int(5433)));
    assert_eq!(value("network.peer.address"), Some(&string("10.0.0.7")));
    assert_eq!(value("db.operation.batch.size"), None);
    assert_eq!(attribute(&spans[3].attributes, "db.operation.batch.size"), Some(&int(3)));
    assert!(spans.iter().all(|span| span.kind() == ProtoKind::Client));
}

#[test]
fn a_database_error_has_its_code_as_its_type() {
    let tracer = Judged::new();
    db::query("sqlite").tracer(tracer.0).start().in_scope(|| {
        db::record_error_code(&Context::current().span(), "1555");
    });
    let read = tracer.one();
    assert_eq!(attribute(&read.attributes, "db.response.status_code"), Some(&string("1555")));
    assert_eq!(attribute(&read.attributes, "error.type"), Some(&string("1555")));
    assert_eq!(read.status.expect("an error").code, 2);
}

#[test]
fn a_value_may_write_to_its_own_span_while_it_is_formatted() {
    struct Writes(Context);
    impl fmt::Display for Writes {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.span().set_attribute("nested", true);
            f.write_str("written")
        }
    }
    let tracer = Judged::new();
    let mut span = tracer.span("reentrant").start();
    let value = Writes(span.context().clone());
    span.context().span().set_attribute("shared", display(&value));
    span.set_attribute("owned", display(&value));
    span.add_event("event", &[("k".into(), display(&value))]);
    span.context().span().add_event("event", &[("k".into(), display(&value))]);
    span.end();
    let read = tracer.one();
    for key in ["shared", "owned"] {
        assert_eq!(attribute(&read.attributes, key), Some(&string("written")));
    }
    assert_eq!(read.attributes.len(), 3);
    assert_eq!(attribute(&read.events[1].attributes, "k"), Some(&string("written")));
}

#[test]
fn a_formatted_text_of_any_length_leaves_room_for_the_end() {
    let tracer = Judged::new();
    for len in 700..1100 {
        let text = "x".repeat(len);
        tracer.span("exact").attribute("text", display(&text)).end();
        let read = tracer.one();
        assert_eq!(attribute(&read.attributes, "text"), Some(&string(&text)));
        assert!(read.end_time_unix_nano > 0);
    }
}

#[test]
fn a_panic_inside_a_formatted_attribute_leaves_the_memory_accounted_for() {
    struct Explodes;
    impl fmt::Display for Explodes {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&"x".repeat(20_000))?;
            panic!("in a Display")
        }
    }
    let tracer = Judged::new();
    let queue = &tracer.pipeline().expect("enabled").queue;
    tracer.span("first").start().end();
    let (_, pooled) = queue.memory();
    let mut span = tracer.span("careful").start();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        span.set_attribute("explodes", display(&Explodes));
    }));
    assert!(caught.is_err());
    assert!(queue.memory().1 >= pooled + 19_000, "what the span has taken is counted");
    span.end();
    assert_eq!(queue.memory().1, pooled);
    tracer.spans();
}

#[test]
fn formatted_texts_do_not_make_a_span_larger_than_64_kib() {
    let tracer = Judged::new();
    let mut span = tracer.span("large").attribute("a", display(&"a".repeat(40_000)));
    span.set_attribute("b", display(&"b".repeat(15_000)));
    span.set_attribute("c", display(&"c".repeat(3_000)));
    span.set_attribute("d", &"d".repeat(20_000));
    span.end();
    let read = tracer.one();
    assert!(read.encoded_len() <= 64 * 1024, "{}", read.encoded_len());
}

#[test]
fn formatted_texts_keep_to_the_memory_for_live_spans() {
    let tracer = Judged::with(|config| config.memory_bytes_max = 1 << 20);
    let queue = &tracer.pipeline().expect("enabled").queue;
    let text = "x".repeat(50_000);
    let mut live: Vec<_> = (0..100).map(|_| tracer.span("live").start()).collect();
    for span in &mut live {
        span.set_attribute("text", display(&text));
    }
    assert!(queue.memory().1 <= (1 << 20) / 4, "{}", queue.memory().1);
    drop(live);
    assert_eq!(tracer.stats().started, 100);
}

#[test]
fn a_display_that_fails_is_kept_as_far_as_it_came() {
    struct Fails;
    impl fmt::Display for Fails {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("so far")?;
            Err(fmt::Error)
        }
    }
    let tracer = Judged::new();
    let mut span = tracer.span("fails").attribute("owned", display(&Fails));
    span.context().clone().span().set_attribute("shared", display(&Fails));
    span.add_event("event", &[("k".into(), display(&Fails))]);
    span.end();
    let read = tracer.one();
    assert_eq!(attribute(&read.attributes, "owned"), Some(&string("so far")));
    assert_eq!(attribute(&read.attributes, "shared"), Some(&string("so far")));
    assert_eq!(attribute(&read.events[0].attributes, "k"), Some(&string("so far")));
}

#[test]
fn a_guard_that_outlives_its_scope_costs_no_span() {
    let tracer = Judged::new();
    let other = tracer.span("other").start();
    let mut span = tracer.span("scope").start();
    let guard = span.enter(|| other.context().clone().attach());
    span.set_attribute("mine", true);
    span.end();
    drop(guard);
    drop(other);
    drop(Context::current());
    let spans = tracer.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["scope", "other"]);
    assert!(attribute(&spans[0].attributes, "mine").is_some());
    assert_eq!(tracer.stats().live, 0);
}

#[test]
fn a_guard_that_is_dropped_in_an_inner_scope_costs_no_span() {
    let tracer = Judged::new();
    let other = tracer.span("other").start();
    let mut span = tracer.span("scope").start();
    let guard = other.context().clone().attach();
    span.enter(|| drop(guard));
    span.set_attribute("mine", true);
    span.end();
    other.end();
    let spans = tracer.spans();
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(attribute(&spans[0].attributes, "mine").is_some());
    assert_eq!(tracer.stats().live, 0);
}

#[test]
fn futures_that_keep_guards_between_their_polls_cost_no_span() {
    let tracer = Judged::new();
    let waker = task::Waker::noop();
    let step = |name: &'static str| {
        let tracer = tracer.0;
        let mut yielded = false;
        tracer.span(name).run(async move {
            let other = tracer.span("other").root().start();
            let _guard = other.context().clone().attach();
            std::future::poll_fn(|_| {
                if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            Context::current().span().set_attribute("late", true);
        })
    };
    // One is polled to its end, one is dropped on its way, and their guards are dropped in the order of their making.
    let (mut one, mut two) = (Box::pin(step("one")), Box::pin(step("two")));
    let cx = &mut task::Context::from_waker(waker);
    assert!(one.as_mut().poll(cx).is_pending());
    assert!(two.as_mut().poll(cx).is_pending());
    assert!(one.as_mut().poll(cx).is_ready());
    drop((two, one));
    drop(Context::current());
    let mut names: Vec<_> = tracer.spans().into_iter().map(|span| span.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "other", "other", "two"]);
    assert_eq!(tracer.stats().live, 0);
}

#[test]
fn every_span_and_every_byte_is_accounted_for_whatever_threads_do_at_once() {
    const THREADS: u64 = 8;
    for spans_max in [None, Some(50)] {
        let tracer = Judged::with(|config| {
            config.memory_bytes_max = 1 << 20;
            config.batch.max_queue_spans = spans_max;
        });
        let queue = &tracer.pipeline().expect("enabled").queue;
        let (hand_over, handed_over) = std::sync::mpsc::sync_channel::<Context>(16);
        let handed_over = std::sync::Mutex::new(handed_over);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (tracer, handed_over, hand_over) = (tracer.0, &handed_over, hand_over.clone());
                    scope.spawn(move || {
                        let mut random = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(thread + 1);
                        let mut live = Vec::new();
                        for _ in 0..2_000 {
                            random ^= random << 13;
                            random ^= random >> 7;
                            random ^= random << 17;
                            let text = "x".repeat((random >> 20) as usize % 12_000);
                            let mut span = match live.last() {
                                Some(parent) if random & 1 == 0 => {
                                    tracer.span("child").parent(Span::context(parent)).start()
                                }
                                _ => tracer.span("root").start(),
                            };
                            match (random >> 4) % 8 {
                                0 => span.set_attribute("text", &text),
                                1 => span.set_attribute("text", display(&text)),
                                2 => span.set_error_description(&text),
                                3 => span.add_event(&text, &[]),
                                4 => {
                                    // Somebody else writes to it, and may be the last who knows it.
                                    let _ = hand_over.try_send(span.context().clone());
                                }
                                5 => {
                                    let other =
                                        handed_over.try_lock().ok().and_then(|other| other.try_recv().ok());
                                    if let Some(other) = other {
                                        other.span().set_attribute("text", display(&text));
                                        other.span().update_name(&text);
                                    }
                                }
                                _ => span.set_attribute("number", 7),
                            }
                            live.push(span);
                            if random >> 60 < 9 {
                                live.swap_remove((random >> 8) as usize % live.len());
                            }
                            live.truncate(20);
                        }
                    })
                })
                .collect();
            // What the worker does.
            while threads.iter().any(|thread| !thread.is_finished()) {
                let mut taken = 0;
                let mut settle = |chunk: Box<crate::export::chunk::Chunk>| {
                    taken += chunk.len() as u64;
                    chunk
                        .frames()
                        .for_each(|frame| drop(proto::Span::decode(frame.span()).expect("a whole span")));
                    queue.recycle(chunk);
                };
                while let Some(chunk) = queue.take_sealed() {
                    settle(chunk);
                }
                queue.take_open(settle);
                queue.export.taken.add(taken);
                queue.export.exported.add(taken);
                queue.while_busy(std::thread::yield_now);
            }
        });
        drop((hand_over, handed_over));
        assert_eq!(queue.memory(), queue.memory_at_rest());
        tracer.spans();
        assert_eq!(queue.memory(), queue.memory_at_rest());
        let stats = tracer.stats();
        assert!(stats.is_balanced() && stats.live == 0 && stats.queued == 0, "{stats}");
        assert!(stats.exported >= 20, "{stats}");
        assert!(!queue.is_under_pressure());
    }
}

#[test]
fn spans_of_a_thread_whose_locals_are_gone_are_counted() {
    /// Makes a span when the thread takes its locals down, before or after ours.
    struct Late(std::cell::Cell<Option<Tracer>>);
    impl Drop for Late {
        fn drop(&mut self) {
            if let Some(tracer) = self.0.take() {
                tracer.span("late").attribute("k", display(&"v")).in_scope(|| span("below").start().end());
                let mut late = tracer.span("late, too").start();
                late.enter(|| Context::current().span().set_attribute(semconv::HTTP_ROUTE, "/late"));
                let guard = late.context().clone().attach();
                late.enter(|| drop(guard));
                std::mem::forget(late.context().clone().attach());
                late.set_attribute(semconv::URL_PATH, "/late");
                let _ = Context::current();
            }
        }
    }
    thread_local! {
        static BEFORE: Late = const { Late(std::cell::Cell::new(None)) };
        static AFTER: Late = const { Late(std::cell::Cell::new(None)) };
    }
    let tracer = Judged::new();
    let ours = tracer.0;
    let thread = std::thread::spawn(move || {
        BEFORE.with(|late| late.0.set(Some(ours)));
        // What is current is gone before one of the two, and after the other.
        std::mem::forget(ours.span("current").start().context().clone().attach());
        AFTER.with(|late| late.0.set(Some(ours)));
    });
    thread.join().expect("no panic");
    let stats = tracer.stats();
    assert_eq!((stats.live, stats.dropped.total()), (0, 0), "{stats}");
    assert!(tracer.spans().len() >= 6);
}

#[test]
fn spans_that_find_every_slot_busy_are_counted_and_their_memory_given_back() {
    let tracer = Judged::with(|config| config.memory_bytes_max = 1 << 20);
    let queue = &tracer.pipeline().expect("enabled").queue;
    let before = tracer.span("before").start();
    let during = queue.while_busy(|| {
        before.end();
        let parent = tracer.span("parent").attribute("large", &"x".repeat(20_000));
        let kept = parent.context().clone();
        parent.context().in_scope(|| span("child").start().end());
        parent.end();
        drop(kept);
        while tracer.span("many").start().is_recording() {
            if tracer.stats().dropped.total() > 0 {
                break;
            }
        }
        tracer.span("during").start()
    });
    during.end();
    assert_eq!(queue.memory(), queue.memory_at_rest());
    let spans = tracer.spans();
    assert_eq!(queue.memory(), queue.memory_at_rest());
    assert!(spans.len() > 25, "{}", spans.len());
    assert_eq!(tracer.stats().live, 0);
}

#[test]
fn a_trace_that_one_pipeline_leaves_out_begins_in_another() {
    let (short, tracer) = (Judged::with(|config| config.memory_bytes_max = 1_000), Judged::new());
    let root = short.span("shed").start();
    assert_eq!(short.stats().shed, 1);
    let caller = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, true);
    let remote = Context::from_remote(caller, TraceState::empty(), Baggage::new());
    let continued = short.span("shed").parent(&remote).start();
    let below = tracer.span("here").parent(continued.context()).start();
    assert_eq!(below.span_context().expect("ids").trace_id(), caller.trace_id());
    below.context().in_scope(|| span("below").start().end());
    below.end();
    drop((root, continued));
    assert_eq!(tracer.spans().len(), 2);
    assert_eq!(short.stats().started, 0);
}

#[test]
fn the_first_span_of_a_trace_in_a_pipeline_is_a_local_root_of_it() {
    let (one, two) = (Judged::new(), Judged::new());
    let roots = |tracer: &Judged| {
        let queue = &tracer.pipeline().expect("enabled").queue;
        let mut roots = Vec::new();
        queue.take_open(|chunk| {
            roots.extend(chunk.frames().map(|frame| frame.local_root));
            queue.recycle(chunk);
        });
        roots
    };
    one.span("root").in_scope(|| {
        span("child").start().end();
        two.span("root of its own").in_scope(|| span("child").start().end());
    });
    assert_eq!(roots(&one), [false, true]);
    assert_eq!(roots(&two), [false, true]);
}

#[test]
fn contexts_that_are_kept_longer_than_their_spans_do_not_stop_spans() {
    let tracer = Judged::with(|config| config.memory_bytes_max = 1 << 20);
    let queue = &tracer.pipeline().expect("enabled").queue;
    let kept: Vec<_> = (0..5_000)
        .map(|_| {
            let span = tracer.span("served").attribute("text", &"x".repeat(2_000));
            let context = span.context().clone();
            span.end();
            tracer.spans();
            context
        })
        .collect();
    assert!(tracer.span("another").start().is_recording());
    assert_eq!(tracer.stats().shed, 0);
    assert!(kept.iter().all(|context| !context.span().is_recording()));
    kept[4_999].span().set_attribute("late", true);
    kept[4_999].span().update_name("late");
    drop(kept);
    tracer.spans();
    assert_eq!(queue.memory(), queue.memory_at_rest());
}

/// Writes a long text, and then panics.
struct Explodes;

impl fmt::Display for Explodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&"x".repeat(20_000))?;
        panic!("in a Display")
    }
}

#[test]
fn attributes_that_are_set_after_a_panic_inside_one_of_them_arrive() {
    let tracer = Judged::new();
    let mut span = tracer.span("careful").start();
    let mut attributes = span.attributes().expect("it is recorded");
    attributes.set(semconv::HTTP_ROUTE, "/before");
    for key in [semconv::URL_QUERY, Key::new("shop.order")] {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            attributes.set(key, display(&Explodes));
        }));
        assert!(caught.is_err());
        // The span has other memory than before.
        attributes.set(semconv::URL_PATH, "/after");
        attributes.set(semconv::HTTP_RESPONSE_STATUS_CODE, 200);
    }
    attributes.set("text", display(&"made"));
    attributes.set(semconv::URL_SCHEME, "http");
    drop(attributes);
    span.set_attribute(semconv::SERVER_PORT, 80);
    span.end();
    let read = tracer.one();
    for (key, value) in [
        ("http.route", string("/before")),
        ("url.path", string("/after")),
        ("http.response.status_code", int(200)),
        ("text", string("made")),
        ("url.scheme", string("http")),
        ("server.port", int(80)),
    ] {
        assert_eq!(attribute(&read.attributes, key), Some(&value), "{key}");
    }
    assert_eq!(read.attributes.len(), 6);
}

#[test]
fn attributes_that_are_leaked_are_lost_and_nothing_else_is() {
    let tracer = Judged::new();
    let mut span = tracer.span("leaky").attribute(semconv::HTTP_ROUTE, "/kept");
    let mut leaked = span.attributes().expect("it is recorded");
    leaked.set(semconv::URL_PATH, "/lost");
    leaked.set(semconv::URL_QUERY, "lost=too");
    std::mem::forget(leaked);
    span.set_attribute(semconv::URL_PATH, "/set again");
    span.end();
    let read = tracer.one();
    assert_eq!(attribute(&read.attributes, "http.route"), Some(&string("/kept")));
    assert_eq!(attribute(&read.attributes, "url.path"), Some(&string("/set again")));
    assert_eq!(read.attributes.len(), 2);
}

#[test]
fn a_span_that_is_entered_is_current_and_is_reached_by_others() {
    let tracer = Judged::new();
    let mut outer = tracer.span("outer").start();
    let mut inner = tracer.span("inner").start();
    let (outer_ids, inner_ids) = (outer.span_context(), inner.span_context());
    outer.enter(|| {
        inner.enter(|| {
            assert_eq!(Context::current_span_context(), inner_ids);
            Context::current().span().set_attribute(semconv::HTTP_ROUTE, "/inside");
        });
        assert_eq!((inner.span_context(), Context::current_span_context()), (inner_ids, outer_ids));
        inner.set_attribute(semconv::URL_PATH, "/outside");
    });
    assert_eq!((outer.span_context(), Context::current_span_context()), (outer_ids, None));
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        outer.enter(|| std::panic::resume_unwind(Box::new("on purpose")));
    }));
    assert!(panic.is_err());
    assert_eq!((outer.span_context(), Context::current_span_context()), (outer_ids, None));
    assert!(tracer.spans().is_empty(), "nothing has ended");
}

#[test]
fn a_row_of_attributes_keeps_to_the_memory_of_its_span_wherever_that_ends() {
    let tracer = Judged::with(|config| (config.limits.event_count, config.limits.link_count) = (0, 0));
    let queue = &tracer.pipeline().expect("enabled").queue;
    let other = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::default(), true);
    tracer.span("first").start().end();
    tracer.spans();
    let (_, pooled) = queue.memory();
    let text = "x".repeat(200);
    // The first attribute takes all but a little of the memory, so that the row meets the end of it at every byte.
    for pad in 600..1000 {
        let pad = "p".repeat(pad);
        let mut span = tracer.span("row").attribute("pad", &pad);
        let lengths = [3, 108, 109, 110, 0];
        let keys = [
            semconv::URL_PATH,
            semconv::URL_QUERY,
            semconv::URL_FULL,
            semconv::HTTP_ROUTE,
            semconv::ERROR_TYPE,
        ];
        let mut row = span.attributes().expect("it is recorded");
        row.set(semconv::THREAD_ID, i64::MIN);
        for (key, length) in keys.into_iter().zip(lengths) {
            row.set(key, &text[..length]);
        }
        drop(row);
        // All that an end may add.
        span.set_attribute("", "dropped");
        span.add_event("dropped", &[]);
        span.add_link(other, &[]);
        span.set_status(StatusCode::Error);
        let (_, live) = queue.memory();
        span.end();
        assert!(queue.memory().1 <= live.max(pooled));
        let read = tracer.one();
        assert_eq!(attribute(&read.attributes, "pad"), Some(&string(&pad)));
        assert_eq!(attribute(&read.attributes, "thread.id"), Some(&int(i64::MIN)));
        for (key, length) in keys.into_iter().zip(lengths) {
            assert_eq!(attribute(&read.attributes, key.as_str()), Some(&string(&text[..length])));
        }
        let counts = [read.dropped_attributes_count, read.dropped_events_count, read.dropped_links_count];
        assert_eq!((counts, read.status.expect("an error").code), ([1; 3], 2));
    }
}

/// Writes a text in pieces.
fn pieces_of(text: &str) -> impl FnOnce(&mut Pieces<'_>) -> fmt::Result {
    move |pieces| text.split_inclusive('a').try_for_each(|piece| pieces.write_str(piece))
}

#[test]
fn a_text_in_pieces_is_one_attribute_if_it_is_short_and_nothing_if_not() {
    let tracer = Judged::new();
    for key in [semconv::URL_FULL, semconv::HTTP_RESPONSE_STATUS_CODE] {
        let longest = 121 - key.as_str().len();
        for length in 0..140 {
            let text: String = "bcda".chars().cycle().take(length).collect();
            let mut span = tracer.span("pieces").start();
            let mut attributes = span.attributes().expect("it is recorded");
            attributes.set(semconv::URL_PATH, "/before");
            assert_eq!(attributes.set_pieces(key, pieces_of(&text)), length <= longest, "{length}");
            attributes.set(semconv::URL_SCHEME, "behind");
            drop(attributes);
            span.end();
            let read = tracer.one();
            let set = (length <= longest).then(|| string(&text));
            assert_eq!(attribute(&read.attributes, key.as_str()), set.as_ref(), "{length}");
            assert_eq!(attribute(&read.attributes, "url.path"), Some(&string("/before")));
            assert_eq!(attribute(&read.attributes, "url.scheme"), Some(&string("behind")));
        }
    }
}

#[test]
fn a_peer_is_told_by_its_address_and_port_wherever_its_span_ends() {
    let tracer = Judged::new();
    for peer in [
        "203.0.113.195:65535",
        "1.2.3.4:16384",
        "1.2.3.4:16383",
        "10.20.30.40:0",
        "[::ffff:10.0.0.1]:50000",
        "[::1]:50000",
        "[abcd:abcd:abcd:abcd:abcd:abcd:abcd:abcd]:443",
    ] {
        let peer: SocketAddr = peer.parse().expect("a peer");
        let address = string(&peer.ip().to_canonical().to_string());
        let port = any_value::Value::IntValue(peer.port().into());
        for pad in (0..600).step_by(97).chain(780..1010) {
            let pad = "p".repeat(pad);
            for is_client in [true, false] {
                let mut span = tracer.span("row").attribute("pad", &pad);
                if !is_client {
                    // One key is set already.
                    span.set_attribute(semconv::NETWORK_PEER_PORT, 1);
                }
                let mut attributes = span.attributes().expect("it is recorded");
                if is_client {
                    attributes.set_client(&peer);
                } else {
                    attributes.set_peer(&peer);
                }
                attributes.set(semconv::URL_PATH, "/behind");
                drop(attributes);
                span.end();
                let read = tracer.one();
                let attribute = |key| attribute(&read.attributes, key);
                assert_eq!(read.attributes.len(), 4 + usize::from(is_client));
                assert_eq!(
                    attribute("client.address"),
                    is_client.then_some(&address),
                    "{peer} {}",
                    pad.len()
                );
                assert_eq!(attribute("network.peer.address"), Some(&address), "{peer} {}", pad.len());
                let told = AnyValue { value: Some(port.clone()) };
                assert_eq!(attribute("network.peer.port"), Some(&told), "{peer} {}", pad.len());
                assert_eq!(attribute("url.path"), Some(&string("/behind")));
            }
        }
    }
}

#[test]
fn texts_that_are_set_at_once_are_as_if_each_was_set_alone() {
    let tracer = Judged::new();
    let (path, url) = (semconv::URL_PATH, semconv::URL_FULL);
    let (short, long) = ("x".repeat(40), "y".repeat(130));
    for texts in [
        [(path, ""), (semconv::URL_SCHEME, "http"), (url, short.as_str())],
        [(path, short.as_str()), (url, long.as_str()), (semconv::URL_SCHEME, "h")],
        // The last one stays.
        [(path, "one"), (path, "two"), (url, "u")],
        [(path, "p"), (Key::new("shop.order"), "7"), (url, "u")],
        [(path, "p"), (Key::new("url.scheme"), "http"), (url, "u")],
    ] {
        for pad in (0..600).step_by(97).chain(600..1010) {
            let pad = "p".repeat(pad);
            for is_set in [false, true] {
                let mut span = tracer.span("row").attribute("pad", &pad);
                if is_set {
                    span.set_attribute(url, "before");
                }
                let mut attributes = span.attributes().expect("it is recorded");
                attributes.set_texts(texts);
                attributes.set(semconv::HTTP_ROUTE, "/behind");
                drop(attributes);
                span.end();
                let read = tracer.one();
                let expected: BTreeMap<_, _> =
                    texts.iter().map(|(key, text)| (key.as_str(), *text)).collect();
                assert_eq!(read.attributes.len(), 2 + expected.len());
                for (key, text) in expected {
                    assert_eq!(attribute(&read.attributes, key), Some(&string(text)), "{key} {}", pad.len());
                }
                assert_eq!(attribute(&read.attributes, "http.route"), Some(&string("/behind")));
            }
        }
    }
}

#[test]
fn what_nearly_all_spans_say_is_written_without_a_call() {
    let mut memory = [0u8; 600];
    let range = memory.as_mut_ptr_range();
    let row = Row { at: range.start, last: range.end.wrapping_sub(Row::BYTES_MAX), known: 0 };
    let client = [semconv::CLIENT_ADDRESS, semconv::NETWORK_PEER_ADDRESS];
    for (peer, is_written) in [
        ("203.0.113.195:65535", true),
        ("[::ffff:203.0.113.195]:16384", true),
        ("203.0.113.195:16383", false),
        ("[::1]:65535", false),
    ] {
        let peer: SocketAddr = peer.parse().expect("a peer");
        let mut row = row;
        // SAFETY: the row is of memory that is here, and that nobody else writes to.
        let written = unsafe { row.put_peer(client, semconv::NETWORK_PEER_PORT, &peer) };
        assert_eq!(written, is_written, "{peer}");
        assert!(row.at <= row.last);
    }
    let (longest, too_long) = ("x".repeat(121 - "url.path".len()), "x".repeat(122 - "url.path".len()));
    for (text, is_written) in [(longest, true), (too_long, false)] {
        let mut row = row;
        // SAFETY: as above.
        let written = unsafe { row.put_texts(&[(semconv::URL_SCHEME, "http"), (semconv::URL_PATH, &text)]) };
        assert_eq!(written, is_written, "{}", text.len());
    }
}

#[test]
fn attributes_that_are_set_aside_stay_also_after_a_panic() {
    let tracer = Judged::new();
    let mut span = tracer.span("row").start();
    let mut attributes = span.attributes().expect("it is recorded");
    attributes.set(semconv::URL_PATH, "/before");
    attributes.aside(|attributes| attributes.set("shop.order", 7));
    attributes.set(semconv::URL_SCHEME, "http");
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        attributes.aside(|attributes| {
            attributes.set(semconv::HTTP_ROUTE, "/in/between");
            panic!("in between");
        });
    }));
    assert!(panicked.is_err());
    // Nothing goes through what was left by a panic, and nothing is lost by it.
    drop(attributes);
    span.set_attribute(semconv::URL_FULL, "behind");
    span.end();
    let read = tracer.one();
    for (key, text) in [
        ("url.path", "/before"),
        ("url.scheme", "http"),
        ("http.route", "/in/between"),
        ("url.full", "behind"),
    ] {
        assert_eq!(attribute(&read.attributes, key), Some(&string(text)));
    }
    assert_eq!(read.attributes.len(), 5);
}

#[test]
fn attributes_that_are_exchanged_while_they_are_set_aside_go_to_their_own_spans() {
    let tracer = Judged::new();
    // What lasts is an exchange for anything.
    let lasting = Box::leak(Box::new(Some(tracer.span("lasting").start())));
    let mut span = tracer.span("row").start();
    let mut attributes = span.attributes().expect("it is recorded");
    attributes.set(semconv::URL_PATH, "row");
    let mut other = lasting.as_mut().and_then(Span::attributes);
    attributes.aside(|attributes| {
        if let Some(mut other) = other.take() {
            std::mem::swap(attributes, &mut other);
            other.set(semconv::URL_FULL, "row");
        }
        attributes.set(semconv::URL_FULL, "lasting");
    });
    attributes.set(semconv::URL_PATH, "lasting");
    drop(attributes);
    span.end();
    let row = tracer.one();
    assert_eq!(row.name, "row");
    assert_eq!(row.attributes.len(), 2);
    assert!(row.attributes.iter().all(|set| set.value == Some(string("row"))));
}

#[test]
fn pieces_keep_to_the_memory_of_their_span_wherever_that_ends() {
    let tracer = Judged::new();
    let text = "x".repeat(113);
    for pad in 600..1000 {
        let pad = "p".repeat(pad);
        let mut span = tracer.span("row").attribute("pad", &pad);
        let mut attributes = span.attributes().expect("it is recorded");
        let keys = [semconv::URL_FULL, semconv::URL_PATH, semconv::ERROR_TYPE];
        let made = keys.map(|key| attributes.set_pieces(key, |pieces| pieces.write_str(&text[..100])));
        drop(attributes);
        span.set_status(StatusCode::Error);
        span.end();
        let read = tracer.one();
        assert_eq!(attribute(&read.attributes, "pad"), Some(&string(&pad)));
        for (key, made) in keys.into_iter().zip(made) {
            let set = made.then(|| string(&text[..100]));
            assert_eq!(attribute(&read.attributes, key.as_str()), set.as_ref());
        }
        assert_eq!(read.status.expect("an error").code, 2);
    }
}

#[test]
fn pieces_are_not_made_where_a_text_cannot_simply_be_appended() {
    let tracer = Judged::new();
    let mut span = tracer.span("pieces").attribute(semconv::HTTP_ROUTE, "/first");
    let text = |pieces: &mut Pieces<'_>| pieces.write_str("text");
    let mut attributes = span.attributes().expect("it is recorded");
    assert!(!attributes.set_pieces(semconv::HTTP_ROUTE, text), "it is set already");
    assert!(!attributes.set_pieces(Key::new("shop.order"), text), "nobody knows the key");
    // Who fails, or panics, has written nothing.
    assert!(!attributes.set_pieces(semconv::URL_PATH, |pieces| text(pieces).and(Err(fmt::Error))));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        attributes.set_pieces(semconv::URL_QUERY, |pieces| {
            let _ = text(pieces);
            panic!("in a piece")
        })
    }));
    assert!(caught.is_err());
    assert!(attributes.set_pieces(semconv::URL_FULL, text));
    drop(attributes);
    // Somebody else may look at the span.
    let kept = span.context().clone();
    assert!(!span.attributes().expect("it is recorded").set_pieces(semconv::URL_SCHEME, text));
    drop((span, kept));
    let read = tracer.one();
    assert_eq!(attribute(&read.attributes, "http.route"), Some(&string("/first")));
    assert_eq!(attribute(&read.attributes, "url.full"), Some(&string("text")));
    assert_eq!(read.attributes.len(), 2);

    // Limits count and cut.
    let limits: [fn(&mut Config); 2] =
        [|config| config.limits.attribute_count = 3, |config| config.limits.attribute_value_length = Some(3)];
    for limit in limits {
        let tracer = Judged::with(limit);
        let mut span = tracer.span("limited").start();
        assert!(!span.attributes().expect("it is recorded").set_pieces(semconv::URL_FULL, text));
        drop(span);
        assert!(tracer.one().attributes.is_empty());
    }
}

/// How a row of attributes reaches its span.
#[derive(Clone, Copy, Debug)]
enum Through {
    /// By its owner, who is alone.
    Owner,
    /// By its owner, while somebody else has its context.
    SharedOwner,
    /// By somebody else.
    Other,
}

impl Owned {
    /// What is left of the value under a limit of its length.
    fn cut(&self, length: usize) -> Self {
        let cut = |text: &str| text.chars().take(length).collect::<String>();
        match self {
            Self::Text(text) | Self::Formatted(text) => Self::Text(cut(text)),
            Self::Bytes(bytes) => Self::Bytes(bytes[..bytes.len().min(length)].to_vec()),
            Self::Texts(texts) => Self::Texts(texts.iter().map(|text| cut(text)).collect()),
            other => other.clone(),
        }
    }
}

/// A key by its name, and whether it is set by its constant.
type Named = (String, bool);

fn key() -> impl Strategy<Value = Named> {
    prop_oneof![
        // By its constant, and by its name.
        8 => (0..semconv::ALL.len(), any::<bool>()).prop_map(|(key, known)| (semconv::ALL[key].as_str().to_owned(), known)),
        6 => (0..90).prop_map(|key| (format!("k{key}"), false)),
        2 => (100..130usize).prop_map(|length| ("k".repeat(length), false)),
        1 => Just((String::new(), false)),
    ]
}

fn row() -> impl Strategy<Value = (Through, String, Vec<(Named, Owned)>)> {
    let through = prop_oneof![Just(Through::Owner), Just(Through::SharedOwner), Just(Through::Other)];
    (through, "[a-zé]{0,150}", proptest::collection::vec((key(), value()), 0..60))
}

proptest! {
    /// However attributes are set, as many are there as the limit allows, each once and with its last value, and all
    /// others are counted.
    #[test]
    fn the_limits_of_attributes_hold_whatever_way_they_are_set(
        count in proptest::sample::select(vec![0, 1, 2, 40, 41, 42, 63, 64, 65, 66, 100, 127, 128, 129, 200]),
        length in proptest::sample::select(vec![0, 1, 119, 120, 121, 122, 150, usize::MAX]),
        rows in proptest::collection::vec(row(), 0..6),
    ) {
        let tracer = Judged::with(|config| {
            config.limits.attribute_count = count;
            config.limits.attribute_value_length = (length < usize::MAX).then_some(length);
        });
        let mut span = tracer.span("start").start();
        let (mut attributes, mut dropped) = (BTreeMap::new(), 0);
        for (through, name, row) in &rows {
            span.update_name(name);
            let context = span.context().clone();
            let theirs = match through {
                Through::Owner => {
                    drop(context);
                    None
                }
                Through::SharedOwner | Through::Other => Some(context),
            };
            let mut ours = match through {
                Through::Other => None,
                Through::Owner | Through::SharedOwner => span.attributes(),
            };
            for ((name, known), value) in row {
                let constant = semconv::ALL.iter().find(|key| *known && key.as_str() == name);
                let key = constant.copied().unwrap_or(Key::new(name));
                value.with(|value| match (&mut ours, &theirs) {
                    (Some(ours), _) => {
                        // By pieces, or as one of several texts, where that is done.
                        match value {
                            Value::Str(text) if text.len().is_multiple_of(2) => ours.set_texts([(key, text)]),
                            Value::Str(text) if ours.set_pieces(key, pieces_of(text)) => {}
                            value => ours.set(key, value),
                        }
                    }
                    (None, Some(theirs)) => theirs.span().set_attribute(key, value),
                    (None, None) => unreachable!("one of them writes"),
                });
                attributes.remove(name);
                if attributes.len() < count && !name.is_empty() {
                    attributes.insert(name.clone(), value.cut(length).judged());
                } else {
                    dropped += 1;
                }
            }
        }
        span.end();
        let read = tracer.one();
        let read_attributes: BTreeMap<_, _> =
            read.attributes.iter().map(|kv| (kv.key.clone(), kv.value.clone().expect("a value"))).collect();
        prop_assert_eq!(read_attributes.len(), read.attributes.len());
        prop_assert_eq!(read_attributes, attributes);
        prop_assert_eq!(read.dropped_attributes_count, dropped);
        prop_assert_eq!(read.name, rows.last().map_or("start", |(_, name, _)| name));
    }
}

#[test]
fn a_future_that_is_never_polled_is_dropped_in_its_span() {
    /// Notes where it is dropped.
    struct Guard<'a>(&'a std::cell::Cell<Option<SpanContext>>);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.0.set(Context::current_span_context());
        }
    }
    let tracer = Judged::new();
    let dropped_in = std::cell::Cell::new(None);
    for is_tried in [false, true] {
        let span = tracer.span("abandoned").start();
        let ids = span.span_context();
        let guard = Guard(&dropped_in);
        let work = async move {
            drop(guard);
            Ok::<_, CardDeclined>(())
        };
        if is_tried {
            drop(span.try_run(work));
        } else {
            drop(span.run(work));
        }
        assert_eq!(dropped_in.take(), ids, "{is_tried}");
    }
    assert_eq!(tracer.spans().len(), 2);
}

/// Three attributes, which go into the second half of the memory where the texts are long.
fn encoded(texts: [&str; 2]) -> EncodedAttributes {
    let mut encoded = EncodedAttributes::new();
    assert!(encoded.add(semconv::URL_FULL, texts[0]));
    assert!(encoded.add(semconv::SERVER_PORT, -1));
    assert!(encoded.add(semconv::URL_TEMPLATE, texts[1]));
    encoded
}

#[test]
fn encoded_attributes_are_those_that_were_added() {
    let tracer = Judged::new();
    let text = "e".repeat(100);
    for length in 0..100 {
        let texts = [&text[..length / 2], &text[length / 2..length]];
        let mut span = tracer.span("encoded").attribute(semconv::URL_PATH, "/before");
        let mut attributes = span.attributes().expect("it is recorded");
        attributes.set_encoded(&EncodedAttributes::new());
        attributes.set_encoded(&encoded(texts));
        attributes.set(semconv::URL_SCHEME, "behind");
        drop(attributes);
        span.end();
        let read = tracer.one();
        assert_eq!(read.attributes.len(), 5);
        assert_eq!(attribute(&read.attributes, "url.path"), Some(&string("/before")));
        assert_eq!(attribute(&read.attributes, "url.full"), Some(&string(texts[0])));
        assert_eq!(attribute(&read.attributes, "server.port"), Some(&int(-1)));
        assert_eq!(attribute(&read.attributes, "url.template"), Some(&string(texts[1])));
        assert_eq!(attribute(&read.attributes, "url.scheme"), Some(&string("behind")));
    }
}

#[test]
fn what_cannot_be_encoded_is_not_added() {
    let mut encoded = EncodedAttributes::new();
    assert!(!encoded.add("shop.order".into(), 7), "nobody knows the key");
    assert!(!encoded.add(semconv::URL_FULL, "x".repeat(200).as_str()), "it is long");
    assert!(!encoded.add(semconv::URL_FULL, true), "it is neither text nor number");
    assert!(encoded.is_empty());
    assert!(encoded.add(semconv::SERVER_PORT, 1));
    assert!(!encoded.add(semconv::SERVER_PORT, 2), "it is added already");
    let hundred = "x".repeat(100);
    assert!(encoded.add(semconv::URL_FULL, hundred.as_str()));
    assert!(!encoded.add(semconv::URL_PATH, hundred.as_str()), "there is no room");
    assert_eq!(format!("{encoded:?}"), format!("{{\"server.port\": 1, \"url.full\": {hundred:?}}}"));
    encoded.clear();
    assert!(encoded.is_empty() && encoded.add(semconv::SERVER_PORT, 2));
}

#[test]
fn encoded_attributes_keep_to_the_memory_of_their_span_wherever_that_ends() {
    let tracer = Judged::new();
    let text = "e".repeat(70);
    for texts in [["", ""], [text.as_str(), text.as_str()]] {
        for pad in 500..1000 {
            let pad = "p".repeat(pad);
            let mut span = tracer.span("row").attribute("pad", &pad);
            span.attributes().expect("it is recorded").set_encoded(&encoded(texts));
            span.set_status(StatusCode::Error);
            span.end();
            let read = tracer.one();
            assert_eq!(attribute(&read.attributes, "pad"), Some(&string(&pad)));
            assert_eq!(attribute(&read.attributes, "url.full"), Some(&string(texts[0])));
            assert_eq!(attribute(&read.attributes, "url.template"), Some(&string(texts[1])));
            assert_eq!(read.status.expect("an error").code, 2);
        }
    }
}

#[test]
fn encoded_attributes_are_set_one_by_one_where_they_cannot_simply_be_copied() {
    let texts = ["first", "second"];
    // One of the keys is set; somebody else may look at the span.
    let tracer = Judged::new();
    let mut span = tracer.span("encoded").attribute(semconv::SERVER_PORT, 80);
    span.attributes().expect("it is recorded").set_encoded(&encoded(texts));
    span.end();
    let mut span = tracer.span("encoded").start();
    let kept = span.context().clone();
    span.attributes().expect("it is recorded").set_encoded(&encoded(texts));
    span.end();
    drop(kept);
    for read in tracer.spans() {
        assert_eq!(read.attributes.len(), 3);
        assert_eq!(attribute(&read.attributes, "url.full"), Some(&string("first")));
        assert_eq!(attribute(&read.attributes, "server.port"), Some(&int(-1)));
        assert_eq!(attribute(&read.attributes, "url.template"), Some(&string("second")));
    }
    // The limits count and cut.
    let tracer = Judged::with(|config| {
        (config.limits.attribute_count, config.limits.attribute_value_length) = (2, Some(3));
    });
    let mut span = tracer.span("encoded").start();
    span.attributes().expect("it is recorded").set_encoded(&encoded(texts));
    span.end();
    let read = tracer.one();
    assert_eq!((read.attributes.len(), read.dropped_attributes_count), (2, 1));
    assert_eq!(attribute(&read.attributes, "url.full"), Some(&string("fir")));
}

#[test]
fn the_text_of_an_attribute_is_found_among_what_is_recorded() {
    let tracer = Judged::new();
    let long = "l".repeat(300);
    let mut span = tracer
        .span("read")
        .attribute(semconv::SERVER_PORT, 80)
        .attribute(semconv::RPC_METHOD, "shop.Stock/Count")
        .attribute("shop.long", &long)
        .attribute("shop.empty", "");
    span.add_event("rpc.method", &[("rpc.method".into(), "of the event".into())]);
    let kept = span.context().clone();
    for _ in 0..2 {
        assert_eq!(span.attribute_text(semconv::RPC_METHOD).as_deref(), Some("shop.Stock/Count"));
        assert_eq!(span.attribute_text("shop.long").as_deref(), Some(&*long));
        assert_eq!(span.attribute_text("shop.empty").as_deref(), Some(""));
        assert_eq!(span.attribute_text(semconv::SERVER_PORT), None, "it is a number");
        assert_eq!(span.attribute_text("shop"), None);
    }
    drop(kept);
    span.set_attribute(semconv::RPC_METHOD, "_OTHER");
    assert_eq!(span.attribute_text("rpc.method").as_deref(), Some("_OTHER"));
    assert_eq!(Span::unrecorded(Context::new()).attribute_text("rpc.method"), None);
}

thread_local! {
    static HELD: RefCell<Option<ContextGuard>> = const { RefCell::new(None) };
}

/// Drops whatever is current that somebody holds, and makes something else current for a while.
#[derive(Debug)]
struct LetsGo;

impl Sampler for LetsGo {
    fn should_sample(&self, _: &SamplingParameters<'_>) -> SamplingDecision {
        drop(HELD.take());
        drop(Context::from_remote(CALLER, TraceState::empty(), Baggage::new()).attach());
        SamplingDecision::RecordAndSample
    }

    fn description(&self) -> String {
        "LetsGo".to_owned()
    }
}

const CALLER: SpanContext = {
    let (trace_id, span_id) = (TraceId::from_bytes([7; 16]), SpanId::from_bytes([7; 8]));
    match (trace_id, span_id) {
        (Some(trace_id), Some(span_id)) => SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, true),
        _ => panic!("valid ids"),
    }
};

#[test]
fn a_span_starts_where_it_was_asked_for_whatever_its_sampler_makes_of_that() {
    let judged = Judged::with(|config| config.sampler = AnySampler::custom(LetsGo));
    let mut baggage = Baggage::new();
    baggage.insert("tenant.id", "acme").unwrap();
    let state: TraceState = "vendor=here".parse().unwrap();
    let caller = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, true);
    HELD.set(Some(Context::from_remote(caller, state, baggage).attach()));
    let span = judged.span("work").start();
    assert_eq!(Context::current_span_context(), None, "what is current is the sampler's business");
    let context = span.context().clone();
    drop(span);
    assert_eq!(context.span_context().unwrap().trace_id(), caller.trace_id());
    assert_eq!(context.trace_state().to_string(), "vendor=here");
    assert_eq!(context.baggage().get("tenant.id"), Some("acme".into()));
    let told = judged.one();
    assert_eq!(told.parent_span_id, caller.span_id().to_bytes());
    assert_eq!(told.trace_id, caller.trace_id().to_bytes());
    assert_eq!(told.trace_state, "vendor=here");
}
