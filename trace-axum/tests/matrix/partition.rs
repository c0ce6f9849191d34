//! A network that is cut for real: a service and its collector on two hosts, which are network namespaces, with packets
//! dropped between them by the kernel, in both directions or of the answers alone.
//!
//! It needs root. The proxy of the other tests takes connections where a cut network answers nobody; here nobody does.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write, stdin};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use trace_core::DropReason;
use trace_core::config::{OtlpConfig, Protocol};
use trace_core::testing::Collector;

use crate::CHILD;
use crate::backend::PROTOCOLS;
use crate::host::{Host, PATIENCE, Probe, Service, pipeline};

/// Where the collector is, on a network of its own.
const COLLECTOR: &str = "10.213.7.2";
const SERVICE: &str = "10.213.7.1";

/// Longer than all attempts to send a batch, so that a cut loses some.
const CUT: Duration = Duration::from_secs(3);

/// For an attempt, of which there are two or three for a batch.
const TIMEOUTS: Duration = Duration::from_secs(1);

const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn test() {
    for protocol in PROTOCOLS {
        println!("{}", run(protocol));
    }
}

fn run(protocol: Protocol) -> String {
    let hosts = Hosts::new();
    let mut collector = Peer::start(&hosts.collector, "collector");
    let mut service = Peer::start(&hosts.service, &format!("service {}", protocol as u8));

    service.wait_for_exports();
    let mut log = Vec::new();
    for (what, hooks) in [("both directions", &["output", "input"][..]), ("answers", &["input"])] {
        let before = service.numbers();
        hosts.cut(hooks);
        std::thread::sleep(CUT);
        let cut = service.numbers();
        assert!(cut.served > before.served + 100, "requests go on: {before:?}, {cut:?}");
        assert_eq!(cut.failed, 0, "{what}: every request is answered");
        hosts.heal();
        service.wait_for_exports();
        let healed = service.numbers();
        log.push(format!(
            "{what} cut: {} requests served, {} spans lost",
            cut.served - before.served,
            healed.dropped - before.dropped
        ));
    }

    service.tell("end");
    let end = Numbers::parse(&service.line());
    let started: HashSet<String> = service.ids();
    collector.tell("end");
    let received: HashSet<String> = collector.ids();
    let got = received.len() as u64;
    assert_eq!(end.failed, 0, "{end:?}");
    assert!(end.balanced && end.queued == 0, "{end:?}");
    assert_eq!(end.started, started.len() as u64, "{end:?}");
    assert!(received.is_subset(&started));
    assert!(end.exported <= got && got <= end.exported + end.unknown, "{got} received: {end:?}");
    assert!(end.unknown > 0, "a cut loses what was on its way: {end:?}");
    assert!(end.shutdown < DEADLINE, "{end:?}");
    format!(
        "{protocol}: {}; {} requests answered, {} not; started {}, exported {}, dropped {} (outcome unknown {}); the \
         collector has {got}",
        log.join("; "),
        end.served,
        end.failed,
        end.started,
        end.exported,
        end.dropped,
        end.unknown
    )
}

/// Two hosts with a cable between them. They go away when this is dropped.
struct Hosts {
    service: String,
    collector: String,
}

impl Hosts {
    fn new() -> Self {
        let id = std::process::id();
        let hosts =
            Self { service: format!("trace-service-{id}"), collector: format!("trace-collector-{id}") };
        ip(&["netns", "add", &hosts.service]);
        ip(&["netns", "add", &hosts.collector]);
        let (near, far) = ("trace0", "trace1");
        ip(&[
            "-n",
            &hosts.service,
            "link",
            "add",
            near,
            "type",
            "veth",
            "peer",
            "name",
            far,
            "netns",
            &hosts.collector,
        ]);
        for (host, cable, address) in [(&hosts.service, near, SERVICE), (&hosts.collector, far, COLLECTOR)] {
            ip(&["-n", host, "address", "add", &format!("{address}/30"), "dev", cable]);
            ip(&["-n", host, "link", "set", cable, "up"]);
            ip(&["-n", host, "link", "set", "lo", "up"]);
        }
        hosts
    }

    /// Drops all packets that leave the service's host, or reach it, by the cable.
    fn cut(&self, hooks: &[&str]) {
        let mut rules = "add table inet cut\n".to_owned();
        for hook in hooks {
            let match_cable = if *hook == "input" { "iifname" } else { "oifname" };
            rules.push_str(&format!(
                "add chain inet cut {hook} {{ type filter hook {hook} priority 0; }}\n\
                 add rule inet cut {hook} {match_cable} trace0 drop\n"
            ));
        }
        self.nft(&rules);
    }

    fn heal(&self) {
        self.nft("delete table inet cut\n");
    }

    fn nft(&self, rules: &str) {
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &self.service, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "nft: {rules}");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.service, &self.collector] {
            let _ = Command::new("ip").args(["netns", "delete", host]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("`ip` is installed (Debian: iproute2)");
    assert!(status.success(), "ip {}: it needs root", arguments.join(" "));
}

/// This program on one of the hosts.
struct Peer {
    process: Child,
    tell: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Peer {
    fn start(host: &str, task: &str) -> Self {
        let mut process = Command::new("ip")
            .args(["netns", "exec", host])
            .arg(std::env::current_exe().unwrap())
            .env(CHILD, format!("partition {task}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, told) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut peer = Self { process, tell, told: BufReader::new(told) };
        assert_eq!(peer.line(), "ready");
        peer
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.tell, "{what}").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ids(&mut self) -> HashSet<String> {
        let ids = self.line();
        ids.split_whitespace().map(str::to_owned).collect()
    }

    fn numbers(&mut self) -> Numbers {
        self.tell("numbers");
        Numbers::parse(&self.line())
    }

    /// Until more has arrived than now.
    fn wait_for_exports(&mut self) {
        let (began, before) = (Instant::now(), self.numbers().exported);
        while self.numbers().exported <= before {
            assert!(began.elapsed() < PATIENCE, "nothing arrives: {:?}", self.numbers());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a service counts.
#[derive(Debug)]
struct Numbers {
    served: u64,
    failed: u64,
    started: u64,
    queued: u64,
    exported: u64,
    dropped: u64,
    unknown: u64,
    balanced: bool,
    shutdown: Duration,
}

impl Numbers {
    fn parse(line: &str) -> Self {
        let mut numbers = line.split(' ').map(|number| number.parse::<u64>().unwrap());
        let mut next = || numbers.next().unwrap();
        Self {
            served: next(),
            failed: next(),
            started: next(),
            queued: next(),
            exported: next(),
            dropped: next(),
            unknown: next(),
            balanced: next() == 1,
            shutdown: Duration::from_millis(next()),
        }
    }
}

/// What runs on one of the hosts.
pub(crate) fn child(task: &str) {
    match task.split_once(' ') {
        Some(("service", protocol)) => service(protocol),
        _ => collector(),
    }
}

fn collector() {
    let collector = Collector::builder()
        .http_address(format!("{COLLECTOR}:4318").parse().unwrap())
        .grpc_address(format!("{COLLECTOR}:4317").parse().unwrap())
        .start_blocking()
        .unwrap();
    println!("ready");
    stdin().lines().next();
    print_ids(collector.span_ids());
    // Whoever asked ends this process.
    stdin().lines().next();
}

fn service(protocol: &str) {
    let protocol = PROTOCOLS.into_iter().find(|known| (*known as u8).to_string() == protocol).unwrap();
    let mut otlp = OtlpConfig::new(protocol);
    otlp.endpoint = match protocol {
        Protocol::Grpc => format!("http://{COLLECTOR}:4317"),
        _ => format!("http://{COLLECTOR}:4318/v1/traces"),
    }
    .parse()
    .unwrap();
    let traces = Arc::new(pipeline(otlp, TIMEOUTS));
    let probe: &'static Probe =
        Box::leak(Box::new(Probe { ids: Some(Mutex::default()), ..Probe::default() }));
    let service = Service::start(Host::OneWorker, &traces, probe);
    let (served, failed, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let numbers = |shutdown: Duration| {
        let stats = traces.stats();
        println!(
            "{} {} {} {} {} {} {} {} {}",
            served.load(Ordering::SeqCst),
            failed.load(Ordering::SeqCst),
            stats.started,
            stats.queued,
            stats.exported,
            stats.dropped.total(),
            stats.dropped.count(DropReason::OutcomeUnknown),
            u8::from(stats.is_balanced()),
            shutdown.as_millis()
        );
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = service.client();
            while !stop.load(Ordering::SeqCst) {
                let count = if client.is_served() { &served } else { &failed };
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        println!("ready");
        for line in stdin().lines() {
            if line.unwrap() == "end" {
                break;
            }
            numbers(Duration::ZERO);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let (_, took) = service.shut_down(DEADLINE);
    numbers(took);
    print_ids(probe.ids.as_ref().unwrap().lock().unwrap().iter().copied());
}

fn print_ids(ids: impl IntoIterator<Item = trace_core::SpanId>) {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    println!("{}", ids.join(" "));
}
