//! Which system calls the threads that serve make for one request, as `strace` sees them.
//!
//! The program runs itself under `strace`, once for each protocol and host, and serves with each fault in turn. A thread
//! that begins to serve, and a request that begins or ends what is counted, say so by a call that is seen there and
//! does nothing: a write to no file.
//!
//! Not counted are the calls by which a thread waits and is woken: how often the runtime's threads sleep and wake each other
//! depends on who is faster. A wake-up of the worker is one of them, and the design allows it. Nor are those by which the
//! allocator gets memory: allocations are counted by a test of their own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use trace_core::config::Protocol;

use crate::backend::{Backend, PROTOCOLS, faults};
use crate::host::{HOSTS, Host, Probe, Service, TIMEOUTS, fill, traces, work};
use crate::{CHILD, each, ensure};

/// More would only wait for each other.
const AT_A_TIME: usize = 2;

/// Requests that are not counted.
const WARM_UP: usize = 20;

/// Requests that are counted: so many while there is memory for their spans, and so many when there is none.
const REQUESTS: usize = 60;

/// The calls by which threads wait and wake each other, and those of the allocator.
const NOT_COUNTED: [&str; 13] = [
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "futex",
    "sched_yield",
    "nanosleep",
    "clock_nanosleep",
    "restart_syscall",
    "brk",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
];

pub(crate) fn test() {
    assert!(
        Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()),
        "strace is not installed (Debian: `apt-get install strace`), and without it nobody knows which system calls a \
         request makes"
    );
    let cases: Vec<_> =
        PROTOCOLS.into_iter().flat_map(|protocol| HOSTS.map(|host| (protocol, host))).collect();
    each(&cases, AT_A_TIME, |(protocol, host)| {
        let counts = trace(*protocol, *host)?;
        let (mut lines, mut wrong) = (Vec::new(), Vec::new());
        for fault in faults() {
            let name = format!("{:28} {:13} {host:15}", fault.name, protocol.to_string());
            let Some(seen) = counts.get(fault.name) else {
                return Err(format!("{name} was not seen"));
            };
            let healthy = &counts["healthy"];
            let line = format!(
                "{name} {} requests: {}; woke {} times",
                2 * REQUESTS,
                shown(&seen.calls),
                seen.wakes
            );
            if seen.calls == healthy.calls { &mut lines } else { &mut wrong }.push(line);
        }
        ensure!(
            wrong.is_empty(),
            "{} with a healthy collector, but\n{}",
            shown(&counts["healthy"].calls),
            wrong.join("\n")
        );
        Ok(lines.join("\n"))
    });
}

/// What the serving threads did while requests were counted.
#[derive(Debug, Default)]
struct Seen {
    calls: BTreeMap<String, usize>,
    /// How often an event was written to wake another thread.
    wakes: usize,
}

fn shown(calls: &BTreeMap<String, usize>) -> String {
    if calls.is_empty() {
        return "none".to_owned();
    }
    let each: Vec<_> = calls.iter().map(|(name, count)| format!("{count} {name}")).collect();
    each.join(", ")
}

/// By fault.
fn trace(protocol: Protocol, host: Host) -> Result<HashMap<String, Seen>, String> {
    let name = format!("trace-axum-matrix-{}-{}-{host:?}", std::process::id(), protocol as u8);
    let path = std::env::temp_dir().join(name);
    let output = Command::new("strace")
        .args(["-f", "-qq", "-s", "80", "-o"])
        .arg(&path)
        .arg(std::env::current_exe().map_err(|error| error.to_string())?)
        .env(CHILD, format!("calls {} {}", protocol as u8, host as u8))
        .output()
        .map_err(|error| format!("strace: {error}"))?;
    let log = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let _ = std::fs::remove_file(&path);
    ensure!(output.status.success(), "under strace: {}", String::from_utf8_lossy(&output.stderr));
    Ok(read(&String::from_utf8_lossy(&log)))
}

fn read(log: &str) -> HashMap<String, Seen> {
    let mut serving = HashSet::new();
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut counting = None;
    for line in log.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        // The second half of a call that was cut in two, a signal, or an end.
        let Some((name, arguments)) = call.split_once('(').filter(|_| !call.starts_with(['<', '-', '+']))
        else {
            continue;
        };
        if let Some(said) = arguments.strip_prefix("-1, \"matrix ") {
            let said = said.split('"').next().unwrap_or_default();
            match said.split_once(' ') {
                Some(("begin", fault)) => {
                    seen.entry(fault.to_owned()).or_default();
                    counting = Some(fault.to_owned());
                }
                Some(("end", _)) => counting = None,
                _ => drop(serving.insert(thread)),
            }
            continue;
        }
        let Some(fault) = counting.as_ref().filter(|_| serving.contains(thread)) else { continue };
        let seen = seen.entry(fault.clone()).or_default();
        // What wakes an epoll is eight bytes, a one.
        if name == "write" && arguments.contains("\\1\\0\\0\\0\\0\\0\\0\\0") {
            seen.wakes += 1;
        } else if !NOT_COUNTED.contains(&name) {
            *seen.calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    seen
}

/// What is measured, in a process of its own.
pub(crate) fn child(case: &str) {
    let (protocol, host) = case.split_once(' ').unwrap();
    let protocol = PROTOCOLS.into_iter().find(|known| (*known as u8).to_string() == protocol).unwrap();
    let host = HOSTS.into_iter().find(|known| (*known as u8).to_string() == host).unwrap();
    for fault in faults() {
        let backend = Backend::new(&fault, protocol);
        let traces = Arc::new(traces(&backend, TIMEOUTS));
        let probe: &'static Probe = Box::leak(Box::new(Probe { announce: Some(say), ..Probe::default() }));
        match host {
            Host::None => {
                let tracer = traces.tracer();
                let (go, going) = sync_channel::<()>(0);
                let (done, is_done) = sync_channel::<()>(1);
                let name = fault.name;
                let worker = std::thread::spawn(move || {
                    probe.thread_serves(tracer);
                    while going.recv().is_ok() {
                        (0..WARM_UP).for_each(|_| work(tracer, probe));
                        say(&format!("begin {name}"));
                        (0..REQUESTS).for_each(|_| work(tracer, probe));
                        say("end it");
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
                drop(go);
                worker.join().unwrap();
                let _ = traces.blocking_shutdown(Duration::ZERO);
            }
            _ => {
                let service = Service::start(host, &traces, probe);
                let mut client = service.client();
                let mut ask = || {
                    (0..WARM_UP).for_each(|_| assert!(client.is_served()));
                    client.get(&format!("/say/begin%20{}", fault.name.replace(' ', "%20")));
                    (0..REQUESTS).for_each(|_| assert!(client.is_served()));
                    client.get("/say/end%20it");
                };
                ask();
                fill(&traces);
                ask();
                let _ = service.shut_down(Duration::ZERO);
            }
        }
    }
}

/// Says something to whoever traces this process.
fn say(what: &str) {
    let message = format!("matrix {what}");
    // SAFETY: the pointer and the length are the message's; there is no such file, and nothing is written.
    unsafe { libc::write(-1, message.as_ptr().cast(), message.len()) };
}
