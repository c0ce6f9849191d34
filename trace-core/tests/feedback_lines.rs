//! Lines about trouble go to the program's subscriber, and one that hangs holds up nothing but lines.
//!
//! One test, because a process has one global subscriber.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::{self, Write};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::prelude::*;

use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::testing::{Behaviour, Collector};
use trace_core::{Health, Tracer};

/// Longer than any test takes, so that what happens is not due to a timer.
const LONG: Duration = Duration::from_secs(60);

/// A subscriber that hangs at each line until it is let go, and keeps them.
#[derive(Default)]
struct Hanging {
    let_go: Mutex<bool>,
    gone: Condvar,
    lines: Mutex<Vec<(Level, String)>>,
}

static HANGING: Hanging =
    Hanging { let_go: Mutex::new(false), gone: Condvar::new(), lines: Mutex::new(Vec::new()) };

struct Shared;

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl<S: Subscriber> Layer<S> for Shared {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != "trace_core" {
            return;
        }
        let mut text = String::new();
        event.record(&mut Text(&mut text));
        HANGING.lines.lock().unwrap().push((*event.metadata().level(), text));
        let _let_go = HANGING.gone.wait_while(HANGING.let_go.lock().unwrap(), |let_go| !*let_go).unwrap();
    }
}

#[test]
fn a_subscriber_that_hangs_holds_up_nothing_but_lines() {
    tracing_subscriber::registry().with(Shared).init();
    let collector = Collector::start_blocking().unwrap();
    let mut otlp = OtlpConfig::new(Protocol::HttpProtobuf);
    // A name, for which each new connection needs one of the few threads that may be held up.
    let port = collector.http_address().port();
    otlp.endpoint = format!("http://localhost:{port}/v1/traces").parse().unwrap();
    let builder = Tracer::builder().exporter(ExporterConfig::Otlp(otlp)).configure(|config| {
        config.batch.schedule_delay = LONG;
        config.batch.export_timeout = LONG;
    });
    let traces = builder.build();

    // More kinds of trouble, with a line each, than there are such threads.
    for status in [400, 401, 404, 409, 413, 418, 422, 500] {
        collector.behave_once(Behaviour::fail(status, 3));
        traces.span("work").start().end();
        let _ = traces.blocking_flush(LONG);
        assert_eq!(traces.health().why().map(|why| why.contains(&status.to_string())), Some(true));
    }
    let start = Instant::now();
    while HANGING.lines.lock().unwrap().is_empty() {
        assert!(start.elapsed() < LONG, "nobody was told anything");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(HANGING.lines.lock().unwrap().len(), 1, "the others wait for the first");
    collector.behave(Behaviour::Refuse);
    traces.span("work").start().end();
    let _ = traces.blocking_flush(Duration::from_millis(1));
    let start = Instant::now();
    while !matches!(traces.health(), Health::Degraded(why) if why.contains("connection")) {
        assert!(start.elapsed() < LONG, "{}", traces.health());
        std::thread::sleep(Duration::from_millis(1));
    }
    collector.behave(Behaviour::Accept);
    assert_eq!(traces.blocking_flush(LONG), Ok(()), "{}", traces.health());
    assert_eq!(traces.stats().exported, 1);

    *HANGING.let_go.lock().unwrap() = true;
    HANGING.gone.notify_all();
    let start = Instant::now();
    // Eight refusals, one connection that failed, and what was lost.
    while HANGING.lines.lock().unwrap().len() < 10 {
        assert!(start.elapsed() < LONG, "{:?}", HANGING.lines.lock().unwrap());
        std::thread::sleep(Duration::from_millis(1));
    }
    let lines = HANGING.lines.lock().unwrap().clone();
    let count =
        |level, text: &str| lines.iter().filter(|(of, line)| *of == level && line.contains(text)).count();
    assert_eq!(count(Level::ERROR, "message=the collector answered "), 8, "{lines:?}");
    assert_eq!(count(Level::ERROR, "error.type=\"418\""), 1, "{lines:?}");
    assert_eq!(count(Level::WARN, "message=the connection failed"), 1, "{lines:?}");
    assert_eq!(count(Level::ERROR, "message=1 span was lost since the last report: {"), 1, "{lines:?}");
    let _ = traces.blocking_shutdown(LONG);
}
