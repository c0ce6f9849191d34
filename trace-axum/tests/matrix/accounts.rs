//! What every case must show: answers, an end in time, and an account that the collector's own list confirms.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use trace_core::config::Protocol;
use trace_core::{DropReason, SpanId};

use crate::backend::{Arrives, Backend, Fault, Kind, PROTOCOLS, faults};
use crate::host::{HOSTS, Host, PATIENCE, Probe, Service, TIMEOUTS, traces, work};
use crate::{each, ensure};

/// Cases wait more than they work.
const AT_A_TIME: usize = 12;

/// How many ask at the same time, and how often each.
const CLIENTS: usize = 2;
const REQUESTS: usize = 20;

const DEADLINE: Duration = Duration::from_millis(300);

/// How late a thread of a busy machine may be.
const SLACK: Duration = Duration::from_secs(1);

/// Within this all that is on its way has come to rest.
const REST: Duration = Duration::from_secs(30);

pub(crate) fn test() {
    let cases: Vec<_> = faults()
        .into_iter()
        .flat_map(|fault| PROTOCOLS.map(|protocol| (fault.clone(), protocol)))
        .flat_map(|(fault, protocol)| HOSTS.map(|host| (fault.clone(), protocol, host)))
        .collect();
    each(&cases, AT_A_TIME, |(fault, protocol, host)| {
        let name = format!("{:28} {:13} {host:15}", fault.name, protocol.to_string());
        run(fault, *protocol, *host)
            .map(|line| format!("{name} {line}"))
            .map_err(|why| format!("{name} {why}"))
    });
}

fn run(fault: &Fault, protocol: Protocol, host: Host) -> Result<String, String> {
    let backend = Backend::new(fault, protocol);
    // Where nothing is wrong, all of it arrives, however busy the machine is.
    let (timeouts, deadline) = match fault.arrives {
        Arrives::All => (PATIENCE, PATIENCE),
        _ => (TIMEOUTS, DEADLINE),
    };
    let traces = Arc::new(traces(&backend, timeouts));
    let probe: &'static Probe =
        Box::leak(Box::new(Probe { ids: Some(Mutex::default()), ..Probe::default() }));

    let (served, (shut_down, took)) = match host {
        Host::None => {
            let tracer = traces.tracer();
            let worked = serve(&backend, || {
                move || {
                    work(tracer, probe);
                    true
                }
            });
            let asked = Instant::now();
            (worked, (traces.blocking_shutdown(deadline), asked.elapsed()))
        }
        _ => {
            let service = Service::start(host, &traces, probe);
            let served = serve(&backend, || {
                let mut client = service.client();
                move || client.is_served()
            });
            (served, service.shut_down(deadline))
        }
    };
    let asked = CLIENTS * REQUESTS;
    ensure!(served == asked, "{served} of {asked} requests were answered as they should be");
    ensure!(took < deadline + SLACK, "the shutdown took {took:?}");

    // The worker may get its processor late.
    let rest = Instant::now();
    while traces.stats().queued > 0 && rest.elapsed() < REST {
        std::thread::sleep(Duration::from_millis(1));
    }
    let stats = traces.stats();
    let started: HashSet<SpanId> = probe.ids.as_ref().unwrap().lock().unwrap().iter().copied().collect();
    ensure!(stats.is_balanced() && stats.queued == 0 && stats.live == 0, "the account is wrong: {stats}");
    ensure!(stats.started == started.len() as u64, "{} were started: {stats}", started.len());
    ensure!(started.len() == 3 * asked, "{} spans of {asked} requests", started.len());

    // A healthy end is known to both sides; else the collector may be reading still what nobody waits for.
    let unknown = stats.dropped.count(DropReason::OutcomeUnknown);
    let received: HashSet<SpanId> = backend.collector.span_ids().into_iter().collect();
    let got = received.len() as u64;
    ensure!(received.is_subset(&started), "the collector has spans that were never started");
    ensure!(stats.exported <= got, "{} are exported, and {got} were received: {stats}", stats.exported);
    // Where it answers and then does not, it may have what it refuses when it is sent again.
    let refused_later = if matches!(fault.kind, Kind::Flaps) { stats.rejected } else { 0 };
    ensure!(
        got <= stats.exported + unknown + refused_later,
        "{got} were received, and {} are exported: {stats}",
        stats.exported
    );
    match fault.arrives {
        Arrives::All => {
            ensure!(shut_down.is_ok(), "the shutdown failed: {shut_down:?}");
            ensure!(stats.exported == stats.started, "not all arrived: {stats}");
        }
        Arrives::Nothing => ensure!(got == 0, "{got} spans arrived"),
        Arrives::Some => {}
    }
    Ok(format!(
        "{served} of {asked} answered; started {}, exported {}, rejected {}, dropped {} (outcome unknown {unknown}); \
         the collector has {got}; shutdown {:3.0?}",
        stats.started,
        stats.exported,
        stats.rejected,
        stats.dropped.total(),
        took
    ))
}

/// Lets some work at the same time, in two halves; tells how often that went well.
fn serve<F: FnMut() -> bool>(backend: &Backend, worker: impl Fn() -> F + Sync) -> usize {
    let half = || {
        std::thread::scope(|scope| {
            let halves: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut ask = worker();
                        (0..REQUESTS / 2).filter(|_| ask()).count()
                    })
                })
                .collect();
            halves.into_iter().map(|half| half.join().unwrap()).sum::<usize>()
        })
    };
    let first = half();
    backend.midway();
    // So that what was sent before is on its way already.
    std::thread::sleep(Duration::from_millis(60));
    first + half()
}
