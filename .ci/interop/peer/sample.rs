//! Spans with everything that a span can hold. The test expects these very values.

use std::time::{Duration, UNIX_EPOCH};

use trace_core::{Scope, SpanContext, SpanId, SpanKind, StatusCode, TraceFlags, TraceId, Value};

static SCOPE: Scope = Scope::new("interop.sample", "1.2.3");

/// One more than twice the default limit, of each thing that is limited.
const CROWD: usize = 2 * 128 + 1;

pub(crate) fn record() {
    everything();
    every_kind_and_status();
    crowded();
    large();
}

fn everything() {
    let start = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    let mut span = trace_core::span("everything, ünïcode")
        .kind(SpanKind::Producer)
        .scope(&SCOPE)
        .start_time(start)
        .start();
    span.set_attribute("text", "first");
    span.set_attribute("text", "Grüße, 世界 🦀\0\n");
    span.set_attribute("text.empty", "");
    span.set_attribute("bool.true", true);
    span.set_attribute("bool.false", false);
    span.set_attribute("int", 42);
    span.set_attribute("int.zero", 0);
    span.set_attribute("int.min", i64::MIN);
    span.set_attribute("int.max", i64::MAX);
    span.set_attribute("int.beyond", u64::MAX);
    span.set_attribute("double", 0.1);
    span.set_attribute("double.zero", 0.0);
    span.set_attribute("double.infinity", f64::NEG_INFINITY);
    span.set_attribute("bytes", &[0_u8, 0xff, 0x80][..]);
    span.set_attribute("bytes.empty", &[][..] as &[u8]);
    span.set_attribute("texts", &["a", "", "c"]);
    span.set_attribute("ints", &[1, -1]);
    span.set_attribute("doubles", &[1.5, -0.25][..]);
    span.set_attribute("bools", &[true, false][..]);
    span.set_attribute("array", Value::Array(&[Value::I64(1), Value::Str("two"), Value::Array(&[])]));
    span.set_attribute("map", Value::Map(&[("a", Value::Bool(true)), ("b", Value::F64Array(&[2.5]))]));
    span.set_attribute("formatted", trace_core::display(&format_args!("{:03}", 7)));

    span.add_event("plain", &[]);
    span.add_event("with attributes", &[("attempt".into(), 2.into()), ("last".into(), true.into())]);

    span.add_link(elsewhere(TraceFlags::SAMPLED, true), &[("reason".into(), "retry".into())]);
    span.add_link(elsewhere(TraceFlags::NONE, false), &[]);

    span.end_at(start + Duration::from_millis(1500));
}

fn every_kind_and_status() {
    trace_core::span("kinds").scope(&SCOPE).in_scope(|| {
        let kinds =
            [SpanKind::Internal, SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer];
        for kind in kinds {
            trace_core::span(kind.as_str()).kind(kind).scope(&SCOPE).start().end();
        }
    });
    let mut span = trace_core::span("status ok").scope(&SCOPE).start();
    span.set_status(StatusCode::Ok);
    span.end();
    let mut span = trace_core::span("status error").scope(&SCOPE).start();
    span.set_error("timeout");
    span.set_error_description("es dauerte zu lange");
    span.end();
}

fn crowded() {
    let mut span = trace_core::span("crowded").scope(&SCOPE).start();
    let keys: Vec<String> = (0..CROWD).map(|i| format!("key.{i}")).collect();
    let attributes: Vec<_> = keys.iter().map(|key| (key.into(), Value::I64(1))).collect();
    span.add_event("crowded", &attributes);
    span.add_link(elsewhere(TraceFlags::SAMPLED, true), &attributes);
    for key in &keys {
        span.set_attribute(key, 1);
        span.add_event("event", &[]);
        span.add_link(elsewhere(TraceFlags::SAMPLED, true), &[]);
    }
}

/// Larger than what a span's buffer starts with, and than what finished spans are gathered in.
fn large() {
    trace_core::span("large").scope(&SCOPE).attribute("text", &"ü".repeat(15_000)).end();
}

fn elsewhere(flags: TraceFlags, is_remote: bool) -> SpanContext {
    let trace_id = TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").expect("thirty-two digits");
    let span_id = SpanId::from_hex(b"b7ad6b7169203331").expect("sixteen digits");
    SpanContext::new(trace_id, span_id, flags, is_remote)
}
