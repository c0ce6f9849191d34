//! Whether a pipeline says of itself what is true, over real sockets and by both protocols: what the collector does, and
//! what follows for the health and the counts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use trace_core::config::{ExporterConfig, OtlpConfig, Protocol};
use trace_core::testing::{Behaviour, Collector};
use trace_core::{DropReason, Health, Tracer, Traces};

/// Longer than any test takes, so that what happens is not due to a timer.
const LONG: Duration = Duration::from_secs(60);

#[cfg(feature = "grpc")]
const PROTOCOLS: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];
#[cfg(not(feature = "grpc"))]
const PROTOCOLS: [Protocol; 1] = [Protocol::HttpProtobuf];

fn config(collector: &Collector, protocol: Protocol) -> OtlpConfig {
    let endpoint = match protocol {
        Protocol::Grpc => collector.grpc_endpoint(),
        _ => format!("{}/v1/traces", collector.http_endpoint()),
    };
    to(protocol, &endpoint)
}

fn to(protocol: Protocol, endpoint: &str) -> OtlpConfig {
    let mut config = OtlpConfig::new(protocol);
    config.endpoint = endpoint.parse().unwrap();
    config.timeout = LONG;
    config
}

fn pipeline(otlp: OtlpConfig) -> Traces {
    let builder = Tracer::builder().exporter(ExporterConfig::Otlp(otlp)).configure(|config| {
        config.batch.schedule_delay = LONG;
        config.batch.export_timeout = LONG;
    });
    builder.build()
}

/// Ends a span, and sends it, whatever comes of that.
fn send(traces: &Traces, timeout: Duration) {
    traces.span("work").start().end();
    let _ = traces.blocking_flush(timeout);
}

/// Long enough for an attempt to fail; what is sent is tried again afterwards.
const AN_ATTEMPT: Duration = Duration::from_millis(1);

/// Waits until the health is one that is wanted.
#[track_caller]
fn wait_for(traces: &Traces, is_wanted: impl Fn(&Health) -> bool) -> Health {
    let start = Instant::now();
    loop {
        let health = traces.health();
        if is_wanted(&health) {
            return health;
        }
        assert!(start.elapsed() < LONG, "{health}; {}", traces.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_the_collector_answers_decides_whether_it_is_degraded_or_misconfigured() {
    for protocol in PROTOCOLS {
        for (http, grpc, state) in [
            (400, 3, "degraded"),
            (413, 11, "degraded"),
            (500, 13, "degraded"),
            (401, 16, "misconfigured"),
            (403, 7, "misconfigured"),
            (404, 12, "misconfigured"),
        ] {
            let collector = Collector::start_blocking().unwrap();
            let traces = pipeline(config(&collector, protocol));
            assert_eq!(traces.health(), Health::Healthy);
            send(&traces, LONG);
            assert_eq!(traces.health(), Health::Healthy, "{}", traces.stats());

            collector.behave(Behaviour::fail(http, grpc));
            send(&traces, AN_ATTEMPT);
            let health = wait_for(&traces, |health| *health != Health::Healthy);
            assert_eq!(health.as_str(), state, "{protocol} {http} {grpc}: {health}");
            let why = health.why().unwrap();
            assert!(why.starts_with("the collector answered "), "{why}");
        }
    }
}

#[test]
fn it_is_healthy_again_once_a_batch_is_accepted_if_nothing_was_lost() {
    for protocol in PROTOCOLS {
        for trouble in [Behaviour::unavailable(), Behaviour::Reset, Behaviour::Refuse] {
            let collector = Collector::start_blocking().unwrap();
            let traces = pipeline(config(&collector, protocol));
            collector.behave(trouble.clone());
            send(&traces, AN_ATTEMPT);
            let health = wait_for(&traces, |health| *health != Health::Healthy);
            assert_eq!(health.as_str(), "degraded", "{protocol} {trouble:?}");
            assert!(health.why().unwrap().ends_with("; trying again"), "{health}");

            collector.behave(Behaviour::Accept);
            send(&traces, LONG);
            assert_eq!(traces.health(), Health::Healthy, "{protocol} {trouble:?}: {}", traces.stats());
        }
    }
}

#[test]
fn what_was_lost_is_remembered_although_the_next_batch_is_accepted() {
    for protocol in PROTOCOLS {
        let collector = Collector::start_blocking().unwrap();
        let traces = pipeline(config(&collector, protocol));
        collector.behave_once(Behaviour::rejecting());
        send(&traces, LONG);
        collector.behave_once(Behaviour::PartialSuccess { rejected: 1, message: "too old".to_owned() });
        send(&traces, LONG);
        send(&traces, LONG);
        let health = traces.health();
        assert_eq!(health.to_string(), "degraded: 2 spans were lost lately (rejected 2)", "{protocol}");
    }
}

#[test]
fn spans_that_find_no_memory_make_it_degraded_within_a_second() {
    let collector = Collector::start_blocking().unwrap();
    let exporter = ExporterConfig::Otlp(config(&collector, Protocol::HttpProtobuf));
    let builder = Tracer::builder().exporter(exporter).configure(|config| {
        config.batch.schedule_delay = LONG;
        config.batch.max_queue_spans = Some(1);
    });
    let traces = builder.build();
    collector.behave(Behaviour::Hang);
    for _ in 0..100 {
        traces.span("work").start().end();
    }
    let lost = |health: &Health| health.why().is_some_and(|why| why.contains("queue_full"));
    assert_eq!(wait_for(&traces, lost).as_str(), "degraded");
}

#[test]
fn a_name_that_nobody_knows_is_a_fault_of_the_configuration() {
    for protocol in PROTOCOLS {
        // Reserved by RFC 6761, so that it is never anybody's.
        let traces = pipeline(to(protocol, "http://collector.invalid:4318/v1/traces"));
        send(&traces, AN_ATTEMPT);
        let health = wait_for(&traces, |health| *health != Health::Healthy);
        assert_eq!(health.as_str(), "misconfigured", "{protocol}: {health}");
        let why = health.why().unwrap();
        assert!(why.starts_with("the collector's name cannot be resolved: "), "{protocol}: {why}");
        let _ = traces.blocking_shutdown(Duration::ZERO);
        let stats = traces.stats();
        assert_eq!(stats.dropped.total(), 1, "{stats}");
    }
}

/// A file that goes away.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trace-core-health-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(feature = "tls")]
#[test]
fn tls_with_somebody_who_does_not_speak_it_is_a_fault_of_the_configuration() {
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let file = File::new("authority.pem", &own.pem());
    for protocol in PROTOCOLS {
        let collector = Collector::start_blocking().unwrap();
        let plain = config(&collector, protocol).endpoint.to_string();
        let mut otlp = to(protocol, &plain.replace("http://", "https://"));
        otlp.certificate = Some(file.0.clone());
        let traces = pipeline(otlp);
        send(&traces, AN_ATTEMPT);
        let health = wait_for(&traces, |health| *health != Health::Healthy);
        assert_eq!(health.as_str(), "misconfigured", "{protocol}: {health}");
        assert!(health.why().unwrap().starts_with("TLS failed: "), "{protocol}: {health}");
        let _ = traces.blocking_shutdown(Duration::ZERO);
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_certificate_that_cannot_be_read_is_a_fault_of_the_configuration_until_it_can() {
    let file = File::new("late.pem", "not there yet");
    for protocol in PROTOCOLS {
        let mut otlp = to(protocol, "https://localhost:9/v1/traces");
        otlp.certificate = Some(file.0.clone());
        let traces = pipeline(otlp);
        send(&traces, AN_ATTEMPT);
        let health = wait_for(&traces, |health| *health != Health::Healthy);
        assert_eq!(health.as_str(), "misconfigured", "{protocol}: {health}");
        assert!(health.why().unwrap().contains("late.pem: no certificate in it"), "{protocol}: {health}");
        let _ = traces.blocking_shutdown(Duration::ZERO);
    }
}

#[test]
fn a_pipeline_that_is_shut_down_says_so() {
    let collector = Collector::start_blocking().unwrap();
    let traces = pipeline(config(&collector, Protocol::HttpProtobuf));
    send(&traces, LONG);
    traces.blocking_shutdown(LONG).unwrap();
    let health = wait_for(&traces, |health| *health != Health::Healthy);
    assert_eq!(health.to_string(), "degraded: it was shut down; spans that end now are dropped");
}

/// `fork` copies one thread, and not the one that sends.
#[cfg(unix)]
#[test]
fn a_process_that_was_forked_says_that_nothing_is_sent() {
    let collector = Collector::start_blocking().unwrap();
    let traces = pipeline(config(&collector, Protocol::HttpProtobuf));
    send(&traces, LONG);
    // SAFETY: the child looks at what it was given, and leaves without running anybody's destructors.
    match unsafe { libc::fork() } {
        0 => {
            let health = traces.health();
            let says_so = health.as_str() == "degraded" && health.why().unwrap().contains("forked");
            // SAFETY: as above.
            unsafe { libc::_exit(if says_so { 0 } else { 1 }) }
        }
        child => {
            let mut status = -1;
            // SAFETY: the status is written to memory of ours.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
        }
    }
    assert_eq!(traces.health(), Health::Healthy);
}

/// Set for the process that [`who_has_no_subscriber_reads_on_standard_error_what_is_wrong_and_what_was_lost`] starts.
const AS_A_CHILD: &str = "TEST_CHILD";

#[test]
fn who_has_no_subscriber_reads_on_standard_error_what_is_wrong_and_what_was_lost() {
    if std::env::var_os(AS_A_CHILD).is_some() {
        let collector = Collector::start_blocking().unwrap();
        let traces = pipeline(config(&collector, Protocol::HttpProtobuf));
        collector.behave(Behaviour::Refuse);
        send(&traces, AN_ATTEMPT);
        wait_for(&traces, |health| *health != Health::Healthy);
        let _ = traces.blocking_shutdown(Duration::ZERO);
        // Whoever reads the lines says when they are there.
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    let mut test = Command::new(std::env::current_exe().unwrap());
    let name = "who_has_no_subscriber_reads_on_standard_error_what_is_wrong_and_what_was_lost";
    test.args(["--exact", name, "--nocapture"]).env(AS_A_CHILD, "1");
    let mut child = test.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        lines.push(line.unwrap());
        if lines.len() == 2 {
            drop(child.stdin.take());
        }
    }
    assert!(child.wait().unwrap().success(), "{lines:?}");
    let [problem, loss] = &lines[..] else { panic!("{lines:?}") };
    assert!(problem.starts_with("trace-core: the connection failed: http://127.0.0.1:"), "{lines:?}");
    let lost = "trace-core: 1 span was lost since the last report: {\"started\":1,";
    assert!(loss.starts_with(lost), "{lines:?}");
}

#[test]
fn who_records_nothing_because_he_was_told_so_is_healthy() {
    assert_eq!(Tracer::disabled().health(), Health::Healthy);
    let traces = Tracer::builder().exporter(ExporterConfig::None).build();
    traces.span("work").start().end();
    assert_eq!(traces.health(), Health::Healthy);
}

#[test]
fn the_counts_tell_where_parents_are_and_how_batches_fared() {
    for protocol in PROTOCOLS {
        let collector = Collector::start_blocking().unwrap();
        let exporter = ExporterConfig::Otlp(config(&collector, protocol));
        let builder = Tracer::builder().exporter(exporter).configure(|config| {
            config.batch.schedule_delay = LONG;
            config.batch.export_timeout = LONG;
            config.batch.max_queue_spans = Some(500);
        });
        let traces = builder.build();
        let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let from = |caller: String| traces.propagator().extract(&HashMap::from([("traceparent", caller)]));
        let (remote, not_sampled) = (from(caller.to_owned()), from(caller.replace("-01", "-00")));
        traces.span("root").in_scope(|| {
            trace_core::span("child").start().end();
            trace_core::span("child").start().end();
        });
        for _ in 0..3 {
            traces.span("served").parent(&remote).start().end();
        }
        traces
            .span("served")
            .parent(&not_sampled)
            .start()
            .in_scope(|| trace_core::span("child").start().end());
        traces.blocking_flush(LONG).unwrap();

        let stats = traces.stats();
        let by_parent = stats.started_by_parent;
        assert_eq!((by_parent.none, by_parent.local, by_parent.remote), (1, 2, 3), "{stats}");
        let by_parent = stats.not_recorded_by_parent;
        assert_eq!((by_parent.none, by_parent.local, by_parent.remote), (0, 1, 1), "{stats}");
        assert_eq!((stats.started, stats.sampled_out, stats.shed), (6, 2, 0), "{stats}");
        assert_eq!((stats.submitted, stats.exported, stats.in_flight), (6, 6, 0), "{stats}");
        assert_eq!(stats.queue_spans_max, Some(500));
        assert!(stats.memory_bytes > 0 && stats.memory_bytes <= stats.memory_bytes_max, "{stats}");

        collector.behave_once(Behaviour::unavailable());
        collector.behave_once(Behaviour::rejecting());
        send(&traces, LONG);
        collector.behave(Behaviour::Hang);
        traces.span("work").start().end();
        let _ = traces.blocking_shutdown(Duration::from_millis(200));
        let stats = traces.stats();
        let ends: Vec<_> = stats
            .operations
            .iter()
            .map(|end| (end.error_type.as_deref(), end.http_status, end.rpc_status, end.count))
            .collect();
        // Of the batch that was tried twice, the last answer counts.
        let expected = match protocol {
            Protocol::Grpc => [
                (None, None, Some("OK"), 1),
                (Some("INVALID_ARGUMENT"), None, Some("INVALID_ARGUMENT"), 1),
                (Some("already_shutdown"), None, None, 1),
            ],
            _ => [
                (None, Some(200), None, 1),
                (Some("400"), Some(400), None, 1),
                (Some("already_shutdown"), None, None, 1),
            ],
        };
        assert_eq!(ends, expected, "{stats}");
        assert_eq!(stats.dropped_by_exporter.count(DropReason::OutcomeUnknown), 1, "{stats}");
        assert_eq!((stats.submitted, stats.in_flight, stats.rejected), (8, 0, 1), "{stats}");
        assert!(stats.is_balanced(), "{stats}");
    }
}
