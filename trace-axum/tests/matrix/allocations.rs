//! How often the allocator is called for one request.
//!
//! Counted from one entry of the handler to the next on the same connection: a whole request, from the middle of one to
//! the middle of the next, and nothing of another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use trace_core::config::Protocol;

use crate::backend::{Backend, Fault, PROTOCOLS, faults};
use crate::host::{HOSTS, Host, Probe, Service, TIMEOUTS, fill, traces, work};
use crate::{each, ensure};

/// More would keep the worker from putting memory by.
const AT_A_TIME: usize = 2;

/// Requests that are not counted: connections, threads and pools begin.
const WARM_UP: usize = 20;

/// Requests that are counted: so many while there is memory for their spans, which fill twice the chunks that are put by,
/// and so many when there is none any more.
const REQUESTS: usize = 200;

/// So many requests may cost more: those that find another thread or the worker where their span's memory is pooled, and
/// begin the next pool, and those that need a chunk which the worker, without a processor, has not put by. A healthy
/// collector does not spare them that.
const EXCEPTIONS_MAX: usize = REQUESTS / 10;

pub(crate) fn test() {
    let cases: Vec<_> =
        PROTOCOLS.into_iter().flat_map(|protocol| HOSTS.map(|host| (protocol, host))).collect();
    each(&cases, AT_A_TIME, |(protocol, host)| {
        let (mut lines, mut wrong) = (Vec::new(), Vec::new());
        let mut expected = None;
        for fault in faults() {
            let name = format!("{:28} {:13} {host:15}", fault.name, protocol.to_string());
            let counts = count(&fault, *protocol, *host);
            let healthy: u64 = *expected.get_or_insert(counts[0].usual);
            let line = format!(
                "{name} allocations a request: {}; without memory for spans: {}",
                counts[0], counts[1]
            );
            // A request whose spans there is no memory for costs less.
            let is_right = counts[0].usual == healthy
                && counts[1].usual <= healthy
                && counts.iter().all(|count| count.more_than(healthy) <= EXCEPTIONS_MAX);
            if is_right { &mut lines } else { &mut wrong }.push(line);
        }
        ensure!(wrong.is_empty(), "{:?} with a healthy collector, but\n{}", expected, wrong.join("\n"));
        Ok(lines.join("\n"))
    });
}

/// The allocations of each request.
#[derive(Clone, Debug)]
struct Counts {
    /// The least at the front.
    each: Vec<u64>,
    /// Of most requests.
    usual: u64,
}

impl Counts {
    /// From what each handler found.
    fn between(marks: &[u64]) -> Self {
        let mut each: Vec<u64> = marks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        each.sort_unstable();
        let usual = each[each.len() / 2];
        Self { each, usual }
    }

    /// How many requests had more.
    fn more_than(&self, count: u64) -> usize {
        self.each.iter().filter(|one| **one > count).count()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut counts: Vec<(u64, usize)> = Vec::new();
        for one in &self.each {
            match counts.last_mut() {
                Some((count, times)) if count == one => *times += 1,
                _ => counts.push((*one, 1)),
            }
        }
        for (index, (count, times)) in counts.iter().enumerate() {
            write!(f, "{}{count} ({times} requests)", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// While there is memory for spans, and when there is none.
fn count(fault: &Fault, protocol: Protocol, host: Host) -> [Counts; 2] {
    let backend = Backend::new(fault, protocol);
    let traces = Arc::new(traces(&backend, TIMEOUTS));
    let marks = (0..2 * (WARM_UP + REQUESTS)).map(|_| AtomicU64::new(0)).collect();
    let probe: &'static Probe = Box::leak(Box::new(Probe { marks, ..Probe::default() }));
    match host {
        Host::None => {
            let tracer = traces.tracer();
            let (go, going) = sync_channel::<()>(0);
            let (done, is_done) = sync_channel::<()>(1);
            std::thread::spawn(move || {
                while going.recv().is_ok() {
                    for _ in 0..WARM_UP + REQUESTS {
                        work(tracer, probe);
                        // As often as a service would, and no faster than memory can be put by.
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    done.send(()).unwrap();
                }
            });
            let once = || {
                go.send(()).unwrap();
                is_done.recv().unwrap();
            };
            once();
            fill(&traces);
            once();
            let _ = traces.blocking_shutdown(Duration::ZERO);
        }
        _ => {
            let service = Service::start(host, &traces, probe);
            let mut client = service.client();
            let mut ask = || (0..WARM_UP + REQUESTS).for_each(|_| assert!(client.is_served()));
            ask();
            fill(&traces);
            ask();
            let _ = service.shut_down(Duration::ZERO);
        }
    }
    let marks: Vec<u64> = probe.marks.iter().map(|mark| mark.load(Ordering::Relaxed)).collect();
    let (with_memory, without) = marks.split_at(WARM_UP + REQUESTS);
    [with_memory, without].map(|marks| Counts::between(&marks[WARM_UP..]))
}
