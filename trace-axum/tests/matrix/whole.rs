//! Whether what arrives while memory is short arrives as whole traces: each with its root, and no span whose parent is
//! missing, and none of its children lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use trace_core::DropReason;
use trace_core::config::Protocol;
use trace_core::testing::{Behaviour, Traffic};

use crate::backend::{Arrives, Backend, Fault, Kind, PROTOCOLS};
use crate::host::{PATIENCE, pipeline};
use crate::memory::work;
use crate::{each, ensure};

/// Each is a load of its own.
const AT_A_TIME: usize = 1;

const THREADS: usize = 4;
const LOAD: Duration = Duration::from_millis(600);

/// The least part of the traces that arrive which must be whole, in a thousand.
const WHOLE_MIN: usize = 990;

const REFUSES: &str = "refuses every other while";

pub(crate) fn test() {
    let slow = [
        ("answers after 20 ms", Kind::Behaves(Behaviour::Delay(Duration::from_millis(20)))),
        ("answers after 100 ms", Kind::Behaves(Behaviour::Delay(Duration::from_millis(100)))),
        ("a byte each millisecond", Kind::Behaves(Behaviour::Drip(Duration::from_millis(1)))),
        ("a slow network", Kind::Network(Traffic::Delayed(Duration::from_millis(30)))),
        (REFUSES, Kind::Behaves(Behaviour::Accept)),
        ("a network that loses", Kind::Network(Traffic::Lossy { percent: 10, seed: 1 })),
    ];
    let cases: Vec<_> = slow
        .into_iter()
        .map(|(name, kind)| Fault { name, kind, arrives: Arrives::Some })
        .flat_map(|fault| PROTOCOLS.map(|protocol| (fault.clone(), protocol)))
        .collect();
    each(&cases, AT_A_TIME, |(fault, protocol)| {
        let name = format!("{:28} {:13}", fault.name, protocol.to_string());
        run(fault, *protocol).map(|line| format!("{name} {line}")).map_err(|why| format!("{name} {why}"))
    });
}

fn run(fault: &Fault, protocol: Protocol) -> Result<String, String> {
    let backend = Backend::new(fault, protocol);
    // No batch is given up: what is lost is lost for want of memory.
    let traces = pipeline(backend.otlp.clone(), PATIENCE);
    let refuses = fault.name == REFUSES;
    if refuses {
        let turn = Duration::from_millis(15);
        let slow = (Behaviour::Delay(turn), turn);
        backend.collector.play([slow, (Behaviour::rejecting(), turn)].into_iter().cycle());
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    work(traces.tracer());
                }
            });
        }
        let began = Instant::now();
        while began.elapsed() < LOAD {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let ended = traces.blocking_shutdown(PATIENCE);
    ensure!(ended.is_ok() || refuses, "{ended:?}: {}", traces.stats());
    let stats = traces.stats();
    let full = stats.dropped.count(DropReason::QueueFull);
    ensure!(stats.is_balanced(), "the account is wrong: {stats}");
    ensure!(stats.shed > 10 * stats.exported / 6, "memory was not short: {stats}");

    let mut sizes: HashMap<_, (usize, bool)> = HashMap::new();
    for span in backend.collector.spans() {
        let (size, has_root) = sizes.entry(span.trace_id).or_default();
        *size += 1;
        *has_root |= span.parent_span_id.is_none();
    }
    let arrived = sizes.len();
    let whole = sizes.values().filter(|trace| **trace == (6, true)).count();
    let line = format!(
        "{arrived} traces arrived, {whole} of them whole ({:.2} %); {} shed, {full} spans of {} lost",
        whole as f64 * 100.0 / arrived as f64,
        stats.shed,
        stats.started
    );
    ensure!(arrived > 100, "too little arrived: {line}");
    ensure!(whole * 1_000 >= arrived * WHOLE_MIN, "{line}");
    Ok(line)
}
