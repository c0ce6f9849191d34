//! What reaches a collector and what does not, over real sockets: every answer, and none, by both protocols. After each,
//! every span is accounted for, and the collector's own list agrees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use trace_core::config::{Compression, ExporterConfig, OtlpConfig, Protocol};
use trace_core::testing::{Behaviour, Collector, Names, Proxy, Traffic};
use trace_core::{DropReason, FlushError, SpanId, Stats, Tracer, Traces};

/// Longer than any test takes, so that what happens is not due to a timer.
const LONG: Duration = Duration::from_secs(60);

#[cfg(feature = "grpc")]
const PROTOCOLS: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];
#[cfg(not(feature = "grpc"))]
const PROTOCOLS: [Protocol; 1] = [Protocol::HttpProtobuf];

/// A pipeline, its spans, and whom they go to.
struct Rig {
    traces: Traces,
    ids: HashSet<SpanId>,
}

impl Rig {
    fn new(otlp: OtlpConfig) -> Self {
        Self::within(otlp, LONG)
    }

    /// With so much time for all attempts to send a batch.
    fn within(otlp: OtlpConfig, export_timeout: Duration) -> Self {
        let builder = Tracer::builder().exporter(ExporterConfig::Otlp(otlp)).configure(|config| {
            config.batch.schedule_delay = LONG;
            config.batch.export_timeout = export_timeout;
        });
        Self { traces: builder.try_build().unwrap(), ids: HashSet::new() }
    }

    fn work(&mut self, spans: usize) {
        for i in 0..spans {
            let span = self.traces.span("work").attribute("shop.order", i);
            assert!(self.ids.insert(span.span_context().unwrap().span_id()));
        }
    }

    /// The counts, which have to add up.
    #[track_caller]
    fn stats(&self) -> Stats {
        let stats = self.traces.stats();
        assert!(stats.is_balanced(), "{stats}");
        assert_eq!(stats.started, self.ids.len() as u64, "{stats}");
        stats
    }

    /// Every span reached the collector, once.
    #[track_caller]
    fn assert_all_exported(&self, collector: &Collector) {
        let stats = self.stats();
        assert_eq!(stats.exported, stats.started, "{stats}");
        let received = collector.span_ids();
        assert_eq!(received.len(), self.ids.len());
        assert_eq!(HashSet::from_iter(received), self.ids);
    }

    #[track_caller]
    fn assert_all_dropped(&self, reason: DropReason) {
        let stats = self.stats();
        assert_eq!(stats.dropped.count(reason), stats.started, "{stats}");
    }
}

fn config(collector: &Collector, protocol: Protocol) -> OtlpConfig {
    let endpoint = match protocol {
        Protocol::Grpc => collector.grpc_endpoint(),
        _ => format!("{}/v1/traces", collector.http_endpoint()),
    };
    let mut config = OtlpConfig::new(protocol);
    config.endpoint = endpoint.parse().unwrap();
    config.timeout = LONG;
    config
}

/// A collector, and a pipeline that exports to it.
fn rigs() -> impl Iterator<Item = (Collector, Rig)> {
    PROTOCOLS.into_iter().map(|protocol| {
        let collector = Collector::start_blocking().unwrap();
        let rig = Rig::new(config(&collector, protocol));
        (collector, rig)
    })
}

/// Runs a test once for each of these, all at the same time.
fn each<T: Send>(of: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        let test = &test;
        let tests: Vec<_> = of.into_iter().map(|one| scope.spawn(move || test(one))).collect();
        tests.into_iter().for_each(|test| test.join().unwrap());
    });
}

/// Waits until the collector has read so many requests.
#[track_caller]
fn wait_for_requests(collector: &Collector, least: usize) {
    let start = Instant::now();
    while collector.requests().len() < least {
        assert!(start.elapsed() < LONG, "{} of {least}", collector.requests().len());
        std::thread::yield_now();
    }
}

#[test]
fn spans_reach_the_collector_plain_and_compressed() {
    for protocol in PROTOCOLS {
        for compression in [Compression::None, Compression::Gzip] {
            let collector = Collector::start_blocking().unwrap();
            let mut config = config(&collector, protocol);
            config.compression = compression;
            config.headers.insert("x-scope-orgid", "tenant-7".parse().unwrap());
            let mut rig = Rig::new(config);
            rig.work(20_000);
            rig.traces.blocking_flush(LONG).unwrap();
            rig.assert_all_exported(&collector);
            // The connection is used again.
            rig.work(10);
            rig.traces.blocking_shutdown(LONG).unwrap();
            rig.assert_all_exported(&collector);

            let requests = collector.requests();
            for request in &requests {
                assert_eq!(request.malformed, None);
                assert_eq!(request.headers["x-scope-orgid"], "tenant-7");
                let agent = request.headers["user-agent"].to_str().unwrap();
                assert!(agent.starts_with("OTel-OTLP-Exporter-Rust/"), "{agent}");
                if protocol == Protocol::HttpProtobuf {
                    assert_eq!(request.headers["content-length"], *request.wire_bytes.to_string());
                    assert!(!request.headers.contains_key("transfer-encoding"));
                }
            }
            let (wire, message) = (requests[0].wire_bytes, requests[0].message_bytes);
            match compression {
                // A third of these small spans is random ids.
                Compression::Gzip => assert!(wire < message * 2 / 3, "{wire} of {message}"),
                _ => assert!(wire >= message),
            }
            assert!(requests.len() > 2, "20 000 spans are more than a batch");
        }
    }
}

#[test]
fn a_collector_that_is_unavailable_for_a_while_gets_all_of_it_once() {
    for (collector, mut rig) in rigs() {
        collector.behave_once(Behaviour::unavailable());
        collector.behave_once(Behaviour::fail(502, 10));
        rig.work(100);
        rig.traces.blocking_flush(LONG).unwrap();
        rig.assert_all_exported(&collector);
        assert_eq!(collector.requests().len(), 3);
    }
}

#[test]
fn a_collector_that_asks_for_a_pause_gets_it() {
    for (collector, mut rig) in rigs() {
        let pause = Duration::from_secs(1);
        collector.behave_once(Behaviour::throttled(pause));
        rig.work(100);
        let start = Instant::now();
        rig.traces.blocking_flush(LONG).unwrap();
        assert!(start.elapsed() >= pause, "{:?}", start.elapsed());
        rig.assert_all_exported(&collector);
    }
}

#[test]
fn spans_that_the_collector_rejects_are_counted() {
    for (collector, mut rig) in rigs() {
        collector.behave_once(Behaviour::PartialSuccess { rejected: 30, message: "too old".to_owned() });
        rig.work(100);
        assert_eq!(rig.traces.blocking_flush(LONG), Err(FlushError::Failed));
        assert_eq!((rig.stats().exported, rig.stats().rejected), (70, 30));
        assert_eq!(collector.span_ids().len(), 70);

        collector.behave_once(Behaviour::rejecting());
        rig.work(50);
        assert_eq!(rig.traces.blocking_shutdown(LONG), Err(FlushError::Failed));
        assert_eq!((rig.stats().exported, rig.stats().rejected), (70, 80));
        assert_eq!(collector.requests().len(), 2, "what is rejected is not sent again");
    }
}

#[test]
fn spans_whose_answer_never_comes_are_dropped_with_an_unknown_outcome() {
    each(PROTOCOLS, |protocol| {
        let collector = Collector::start_blocking().unwrap();
        collector.behave(Behaviour::Hang);
        let mut config = config(&collector, protocol);
        config.timeout = Duration::from_secs(1);
        let mut rig = Rig::within(config, Duration::from_secs(1));
        rig.work(100);
        assert_eq!(rig.traces.blocking_flush(LONG), Err(FlushError::Failed));
        rig.assert_all_dropped(DropReason::OutcomeUnknown);
    });
}

#[test]
fn an_answer_that_comes_too_late_means_that_the_collector_has_it_more_than_once() {
    each(PROTOCOLS, |protocol| {
        let collector = Collector::start_blocking().unwrap();
        collector.behave_once(Behaviour::Delay(LONG));
        let mut config = config(&collector, protocol);
        config.timeout = Duration::from_secs(1);
        let mut rig = Rig::new(config);
        rig.work(100);
        rig.traces.blocking_flush(LONG).unwrap();
        assert_eq!(rig.stats().exported, 100);
        assert!(collector.span_ids().len() >= 200);
        assert_eq!(HashSet::from_iter(collector.span_ids()), rig.ids);
    });
}

#[test]
fn a_collector_that_is_not_there_loses_what_cannot_wait_and_gets_the_rest() {
    for protocol in PROTOCOLS {
        let collector = Collector::start_blocking().unwrap();
        collector.behave(Behaviour::Refuse);
        let mut rig = Rig::within(config(&collector, protocol), Duration::from_millis(50));
        rig.work(100);
        assert_eq!(rig.traces.blocking_flush(LONG), Err(FlushError::Failed));
        rig.assert_all_dropped(DropReason::ExportFailed);

        collector.behave(Behaviour::Accept);
        rig.work(50);
        rig.traces.blocking_shutdown(LONG).unwrap();
        assert_eq!(rig.stats().exported, 50);
        assert_eq!(collector.span_ids().len(), 50);
    }
}

#[test]
fn a_connection_that_is_reset_is_made_again() {
    for (collector, mut rig) in rigs() {
        rig.work(100);
        rig.traces.blocking_flush(LONG).unwrap();
        collector.behave_once(Behaviour::Reset);
        rig.work(100);
        rig.traces.blocking_shutdown(LONG).unwrap();
        rig.assert_all_exported(&collector);
    }
}

#[test]
fn a_collector_that_restarts_is_found_again() {
    for (collector, mut rig) in rigs() {
        for _ in 0..3 {
            rig.work(100);
            rig.traces.blocking_flush(LONG).unwrap();
            collector.behave(Behaviour::Refuse);
            collector.behave(Behaviour::Accept);
        }
        rig.assert_all_exported(&collector);
    }
}

/// How the host's runtime is made makes no difference.
#[derive(Clone, Copy, Debug)]
enum Host {
    MultiThread,
    OneWorker,
    CurrentThread,
    None,
}

const HOSTS: [Host; 4] = [Host::MultiThread, Host::OneWorker, Host::CurrentThread, Host::None];

impl Host {
    fn runtime(self) -> Option<tokio::runtime::Runtime> {
        use tokio::runtime::Builder;
        // No timer and no driver: we do not need the host's.
        match self {
            Self::MultiThread => Some(Builder::new_multi_thread().build().unwrap()),
            Self::OneWorker => Some(Builder::new_multi_thread().worker_threads(1).build().unwrap()),
            Self::CurrentThread => Some(Builder::new_current_thread().build().unwrap()),
            Self::None => None,
        }
    }
}

#[test]
fn a_shutdown_returns_by_its_deadline_on_any_runtime_whatever_the_collector_does() {
    let cases = PROTOCOLS.into_iter().flat_map(|protocol| HOSTS.map(|host| (protocol, host)));
    each(cases, |(protocol, host)| {
        for behaviour in [Behaviour::Hang, Behaviour::Refuse, Behaviour::Reset, Behaviour::unavailable()] {
            shut_down_in_vain(protocol, host, behaviour);
        }
    });
}

fn shut_down_in_vain(protocol: Protocol, host: Host, behaviour: Behaviour) {
    let case = format!("{protocol} {host:?} {behaviour:?}");
    let collector = Collector::start_blocking().unwrap();
    collector.behave(behaviour.clone());
    let mut rig = Rig::new(config(&collector, protocol));
    rig.work(100);
    // It begins to send, and nobody waits for it.
    assert_eq!(rig.traces.blocking_flush(Duration::ZERO), Err(FlushError::Timeout), "{case}");
    if behaviour != Behaviour::Refuse {
        wait_for_requests(&collector, 1);
    }

    let timeout = Duration::from_millis(200);
    let start = Instant::now();
    let results = match host.runtime() {
        Some(runtime) => runtime.block_on(async {
            // On a task, as a service would, and blocking where nothing should block.
            let tracer = rig.traces.tracer();
            let flush = tokio::spawn(tracer.flush(timeout / 2)).await.unwrap();
            (flush, tokio::spawn(async move { tracer.blocking_shutdown(timeout / 2) }).await.unwrap())
        }),
        None => (rig.traces.blocking_flush(timeout / 2), rig.traces.blocking_shutdown(timeout / 2)),
    };
    let took = start.elapsed();
    assert_eq!(results, (Err(FlushError::Timeout), Err(FlushError::Timeout)), "{case}");
    // As late as a busy machine may be, and far from any time-out but ours.
    assert!(took >= timeout - Duration::from_millis(1) && took < Duration::from_secs(10), "{took:?} {case}");

    // A worker that gets no processor in time is not waited for.
    while rig.traces.stats().queued > 0 && start.elapsed() < LONG {
        std::thread::yield_now();
    }
    let stats = rig.stats();
    assert_eq!(stats.dropped.total(), 100, "{stats} {case}");
    match behaviour {
        Behaviour::Hang | Behaviour::Reset => {
            assert_eq!(stats.dropped.count(DropReason::OutcomeUnknown), 100, "{stats} {case}");
        }
        Behaviour::Refuse => assert_eq!(stats.dropped.count(DropReason::ShutDown), 100, "{stats} {case}"),
        // The end may come while an answer is on its way.
        _ => {}
    }
}

#[test]
fn a_full_stop_needs_no_help_from_the_host() {
    for host in HOSTS {
        let collector = Collector::start_blocking().unwrap();
        let mut rig = Rig::new(config(&collector, Protocol::HttpProtobuf));
        rig.work(100);
        match host.runtime() {
            Some(runtime) => runtime.block_on(rig.traces.shutdown(LONG)).unwrap(),
            None => rig.traces.blocking_shutdown(LONG).unwrap(),
        }
        rig.assert_all_exported(&collector);
        rig.work(7);
        assert_eq!(rig.stats().dropped.count(DropReason::ShutDown), 7);
    }
}

/// A server that reads one request for each answer, and answers these very bytes. It gives back the heads of the requests.
fn serve(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            heads.push(read_request(&mut stream));
            // The client goes away in the middle of what it does not want to read.
            let _ = stream.write_all(&answer);
        }
        heads
    });
    (endpoint, server)
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).unwrap();
    head
}

fn http_rig(endpoint: &str) -> Rig {
    let mut config = OtlpConfig::new(Protocol::HttpProtobuf);
    config.endpoint = endpoint.parse().unwrap();
    config.timeout = LONG;
    Rig::new(config)
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [
        format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes(),
        body,
    ]
    .concat()
}

#[test]
fn an_answer_without_end_is_not_read_to_its_end() {
    // Both claim a body of a terabyte, and send more than anybody would read.
    let endless = |status: &str| {
        let mut answer = format!("HTTP/1.1 {status}\r\ncontent-length: 1000000000000\r\n\r\n").into_bytes();
        answer.resize(1 << 20, b'x');
        answer
    };
    let (endpoint, server) = serve(vec![endless("503 Service Unavailable"), endless("200 OK")]);
    let mut rig = http_rig(&endpoint);
    rig.work(10);
    rig.traces.blocking_flush(LONG).unwrap();
    assert_eq!(rig.stats().exported, 10);
    server.join().unwrap();
}

#[test]
fn a_success_whose_body_says_nothing_is_a_success() {
    let bodies: [&[u8]; 3] = [b"", b"{}", b"\xff\xff\xff"];
    let (endpoint, server) = serve(bodies.map(|body| answer("200 OK", body)).to_vec());
    let mut rig = http_rig(&endpoint);
    for _ in bodies {
        rig.work(10);
        rig.traces.blocking_flush(LONG).unwrap();
    }
    assert_eq!(rig.stats().exported, 30);
    server.join().unwrap();
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let location = elsewhere.local_addr().unwrap();
    let head = format!("307 Temporary Redirect\r\nlocation: http://{location}/v1/traces");
    let (endpoint, server) = serve(vec![answer(&head, b"")]);
    let mut rig = http_rig(&endpoint);
    rig.work(10);
    assert_eq!(rig.traces.blocking_flush(LONG), Err(FlushError::Failed));
    assert_eq!(rig.stats().rejected, 10);
    assert!(elsewhere.accept().is_err(), "nobody called");
    server.join().unwrap();
}

#[test]
fn a_pause_may_be_asked_for_by_a_date() {
    let until = std::time::SystemTime::now() + Duration::from_secs(2);
    let head = format!("503 Service Unavailable\r\nretry-after: {}", httpdate::fmt_http_date(until));
    let (endpoint, server) = serve(vec![answer(&head, b""), answer("200 OK", b"")]);
    let mut rig = http_rig(&endpoint);
    rig.work(10);
    rig.traces.blocking_flush(LONG).unwrap();
    // The date has whole seconds.
    assert!(std::time::SystemTime::now() + Duration::from_secs(1) >= until);
    assert_eq!(rig.stats().exported, 10);
    server.join().unwrap();
}

#[test]
fn a_host_that_has_no_name_is_told_and_costs_nothing_but_its_spans() {
    for protocol in PROTOCOLS {
        let mut config = OtlpConfig::new(protocol);
        config.endpoint = "http://collector.invalid:4318/v1/traces".parse().unwrap();
        let mut rig = Rig::new(config);
        rig.work(10);
        assert_eq!(rig.traces.blocking_shutdown(Duration::from_millis(300)), Err(FlushError::Timeout));
        while rig.traces.stats().queued > 0 {
            std::thread::yield_now();
        }
        rig.assert_all_dropped(DropReason::ShutDown);
    }
}

/// The configuration for a collector that is found by this name.
fn config_by_name(collector: &Collector, protocol: Protocol, names: &Names) -> OtlpConfig {
    let mut config = config(collector, protocol);
    let address =
        if protocol == Protocol::Grpc { collector.grpc_address() } else { collector.http_address() };
    names.point("collector.test", address.ip());
    let path = config.endpoint.path();
    config.endpoint = format!("http://collector.test:{}{path}", address.port()).parse().unwrap();
    config.resolver = names.resolver();
    config
}

#[test]
fn name_servers_that_never_answer_hold_up_neither_flush_nor_shutdown_nor_recovery() {
    each(PROTOCOLS, |protocol| {
        let (collector, names) = (Collector::start_blocking().unwrap(), Names::new());
        let mut config = config_by_name(&collector, protocol, &names);
        names.hang("collector.test");
        config.timeout = Duration::from_millis(50);
        // Each attempt asks for the name, so that more of them hang than there are threads.
        let mut rig = Rig::within(config, Duration::from_millis(400));
        let start = Instant::now();
        for _ in 0..4 {
            rig.work(10);
            assert_eq!(rig.traces.blocking_flush(LONG), Err(FlushError::Failed));
        }
        rig.assert_all_dropped(DropReason::ExportFailed);
        assert_eq!(names.asked("collector.test"), 2, "no more threads than two wait for it");
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());

        // The name is found again: what hung gives way to what comes.
        let there =
            if protocol == Protocol::Grpc { collector.grpc_address() } else { collector.http_address() };
        names.point("collector.test", there.ip());
        while rig.traces.stats().exported == 0 {
            rig.work(10);
            let _ = rig.traces.blocking_flush(LONG);
            assert!(start.elapsed() < LONG, "{}", rig.stats());
        }
        names.hang("collector.test");
        collector.behave(Behaviour::Refuse);
        rig.work(10);
        let asked = names.asked("collector.test");
        assert_eq!(rig.traces.blocking_flush(Duration::from_millis(1)), Err(FlushError::Timeout));
        while names.asked("collector.test") == asked {
            std::thread::yield_now();
        }
        let start = Instant::now();
        assert!(rig.traces.blocking_shutdown(Duration::from_millis(200)).is_err());
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert!(rig.stats().dropped.total() >= 50);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_collector_that_changes_its_address_is_found_by_its_name() {
    for protocol in PROTOCOLS {
        let (collector, names) = (Collector::start_blocking().unwrap(), Names::new());
        let mut rig = Rig::new(config_by_name(&collector, protocol, &names));
        for address in ["127.0.0.2", "127.0.0.3"] {
            rig.work(100);
            rig.traces.blocking_flush(LONG).unwrap();
            let address = address.parse().unwrap();
            collector.move_to(address).unwrap();
            names.point("collector.test", address);
        }
        rig.work(100);
        rig.traces.blocking_shutdown(LONG).unwrap();
        rig.assert_all_exported(&collector);
    }
}

#[test]
fn nonsense_in_place_of_an_answer_is_an_answer_that_did_not_come() {
    each(PROTOCOLS, |protocol| {
        let collector = Collector::start_blocking().unwrap();
        collector.behave(Behaviour::Garbage { bytes: 1 << 30 });
        let mut rig = Rig::within(config(&collector, protocol), Duration::from_secs(2));
        rig.work(100);
        assert_eq!(rig.traces.blocking_flush(LONG), Err(FlushError::Failed));
        rig.assert_all_dropped(DropReason::OutcomeUnknown);

        // Once is no harm.
        collector.behave(Behaviour::Accept);
        let mut rig = Rig::new(config(&collector, protocol));
        collector.behave_once(Behaviour::Garbage { bytes: 1_000 });
        rig.work(100);
        rig.traces.blocking_shutdown(LONG).unwrap();
        rig.assert_all_exported(&collector);
    });
}

#[test]
fn a_success_that_breaks_off_or_never_ends_is_counted_by_what_is_known_of_it() {
    each(PROTOCOLS, |protocol| {
        for behaviour in [Behaviour::BreakOff { after_bytes: 5 }, Behaviour::Flood { bytes: 1 << 30 }] {
            let collector = Collector::start_blocking().unwrap();
            collector.behave(behaviour.clone());
            // Over HTTP the status has said it all before.
            let succeeds = protocol == Protocol::HttpProtobuf && matches!(behaviour, Behaviour::Flood { .. });
            let patience = if succeeds { LONG } else { Duration::from_secs(2) };
            let mut rig = Rig::within(config(&collector, protocol), patience);
            rig.work(100);
            let flushed = rig.traces.blocking_flush(LONG);
            let received: HashSet<SpanId> = collector.span_ids().into_iter().collect();
            assert_eq!(received, rig.ids);
            if succeeds {
                assert_eq!(flushed, Ok(()));
                assert_eq!(rig.stats().exported, 100);
            } else {
                assert_eq!(flushed, Err(FlushError::Failed));
                rig.assert_all_dropped(DropReason::OutcomeUnknown);
            }
        }
    });
}

#[test]
fn a_network_that_is_slow_loses_or_stands_still_for_a_while_costs_no_span() {
    let traffics = [
        Traffic::Delayed(Duration::from_millis(50)),
        Traffic::Lossy { percent: 20, seed: 3 },
        Traffic::Stalled,
        Traffic::OneWay,
    ];
    let cases = PROTOCOLS.into_iter().flat_map(|protocol| traffics.map(|traffic| (protocol, traffic)));
    each(cases, |(protocol, traffic)| {
        let collector = Collector::start_blocking().unwrap();
        let mut config = config(&collector, protocol);
        let behind =
            if protocol == Protocol::Grpc { collector.grpc_address() } else { collector.http_address() };
        let network = Proxy::start_blocking(behind).unwrap();
        let path = config.endpoint.path();
        config.endpoint = format!("http://{}{path}", network.address()).parse().unwrap();
        let mut rig = Rig::new(config);
        rig.work(100);
        rig.traces.blocking_flush(LONG).unwrap();
        network.set(traffic);
        rig.work(5_000);
        let _ = rig.traces.blocking_flush(Duration::from_millis(300));
        network.set(Traffic::Flowing);
        rig.traces.blocking_shutdown(LONG).unwrap();
        rig.assert_all_exported(&collector);
    });
}

#[test]
fn a_network_that_is_cut_and_mended_costs_no_span() {
    for protocol in PROTOCOLS {
        let collector = Collector::start_blocking().unwrap();
        let mut config = config(&collector, protocol);
        let behind =
            if protocol == Protocol::Grpc { collector.grpc_address() } else { collector.http_address() };
        let network = Proxy::start_blocking(behind).unwrap();
        let path = config.endpoint.path();
        config.endpoint = format!("http://{}{path}", network.address()).parse().unwrap();
        let mut rig = Rig::new(config);
        rig.work(100);
        rig.traces.blocking_flush(LONG).unwrap();
        network.set(Traffic::Cut);
        rig.work(100);
        assert_eq!(rig.traces.blocking_flush(Duration::from_millis(100)), Err(FlushError::Timeout));
        network.set(Traffic::Flowing);
        rig.traces.blocking_shutdown(LONG).unwrap();
        rig.assert_all_exported(&collector);
    }
}
