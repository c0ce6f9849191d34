//! What a developer sees on the terminal with `OTEL_TRACES_EXPORTER=console`.

use std::process::Command;
use std::time::Duration;

/// Set for the process that traces something, which is this test once more.
const CHILD: &str = "TEST_CONSOLE";

#[test]
fn a_finished_trace_is_printed_as_a_tree() {
    if std::env::var_os(CHILD).is_some() {
        return take_an_order();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_finished_trace_is_printed_as_a_tree", "--nocapture"])
        .env(CHILD, "1")
        .env("OTEL_TRACES_EXPORTER", "console")
        .env("OTEL_SERVICE_NAME", "orders")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let line = |name: &str| {
        text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {text}"))
    };
    assert!(line("trace ").contains("1 service · 3 spans"), "{text}");
    assert!(line("take an order").starts_with("orders "), "{text}");
    assert!(line("├─ check the stock").contains("client"), "{text}");
    assert!(line("└─ charge the card").contains("✗"), "{text}");
    assert!(text.contains("tidy up"), "what has no end of its own is printed at the shutdown: {text}");
}

fn take_an_order() {
    let traces = trace_core::init();
    let unfinished = trace_core::span("a day's work").start();
    trace_core::span("take an order").kind(trace_core::SpanKind::Server).in_scope(|| {
        trace_core::span("check the stock").kind(trace_core::SpanKind::Client).in_scope(|| ());
        let charged = trace_core::span("charge the card").try_in_scope(|| Err::<(), _>(std::fmt::Error));
        assert!(charged.is_err());
    });
    unfinished.context().in_scope(|| trace_core::span("tidy up").in_scope(|| ()));
    assert_eq!(traces.blocking_shutdown(Duration::from_secs(60)), Ok(()));
    drop(unfinished);
    assert!(traces.stats().is_balanced());
    assert_eq!(traces.stats().exported, 4);
}
