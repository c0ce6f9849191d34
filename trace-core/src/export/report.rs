//! What the exporter says about its troubles: each kind at most once a minute, on standard error.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::retry::{Problem, ProblemKind};

/// How long a kind of problem is kept quiet about once it was reported.
const INTERVAL: Duration = Duration::from_secs(60);

/// The most kinds that are remembered: a collector that answers with a new status each time is one that nobody needs
/// to hear more of.
const KINDS_MAX: usize = 32;

/// The most lines that wait: more than there are kinds of trouble in a minute, mostly.
const WAITING_MAX: usize = 16;

/// The most characters of what a collector says that are repeated.
const DETAIL_CHARS_MAX: usize = 300;

/// Decides what is reported. It is given the time.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    latest: HashMap<(ProblemKind, Consequence), Latest>,
    /// Lines that wait for the one before them to be written.
    waiting: VecDeque<String>,
    is_writing: bool,
}

/// Whether a problem cost spans. A loss is news even if the same problem was reported, while it was still hoped that
/// a retry would help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Consequence {
    Harmless,
    Loss,
}

#[derive(Debug)]
struct Latest {
    at: Instant,
    /// How often it happened since.
    silent: u64,
}

impl Reports {
    /// The line to be written about a problem; `None` when one like it was reported less than a minute ago.
    pub(crate) fn line(
        &mut self,
        problem: &Problem,
        consequence: Consequence,
        what_follows: &str,
        now: Instant,
    ) -> Option<String> {
        let kind = (problem.kind, consequence);
        if self.latest.len() >= KINDS_MAX {
            self.latest.retain(|known, latest| *known == kind || now < latest.at + INTERVAL);
        }
        let silent = match self.latest.get_mut(&kind) {
            Some(latest) if now < latest.at + INTERVAL => {
                latest.silent += 1;
                return None;
            }
            Some(latest) => std::mem::replace(latest, Latest { at: now, silent: 0 }).silent,
            None => {
                if self.latest.len() >= KINDS_MAX {
                    return None;
                }
                self.latest.insert(kind, Latest { at: now, silent: 0 });
                0
            }
        };
        let problem = one_line(&problem.to_string());
        let again =
            if silent > 0 { format!(" ({} times since the last report)", silent + 1) } else { String::new() };
        Some(format!("trace-core: {problem}{again}; {what_follows}"))
    }
}

/// Writes a line by `write`, on a thread of its own, because standard error may be a pipe that nobody reads: then one thread
/// hangs, and no more of them, whatever else there is to say.
pub(crate) fn write_apart(reports: &Arc<Mutex<Reports>>, line: String, write: fn(&str)) {
    fn lock(reports: &Mutex<Reports>) -> MutexGuard<'_, Reports> {
        reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
    {
        let mut reports = lock(reports);
        // What has waited for longest is the cause of what came after it.
        if reports.waiting.len() < WAITING_MAX {
            reports.waiting.push_back(line);
        }
        if std::mem::replace(&mut reports.is_writing, true) {
            return;
        }
    }
    let next = |reports: &Mutex<Reports>| {
        let mut reports = lock(reports);
        let next = reports.waiting.pop_front();
        reports.is_writing = next.is_some();
        next
    };
    let apart = Arc::clone(reports);
    let started = thread::Builder::new().name("trace-export".to_owned()).spawn(move || {
        while let Some(line) = next(&apart) {
            write(&line);
        }
    });
    if started.is_err() {
        // It is said together with what comes next, if there is a thread by then.
        lock(reports).is_writing = false;
    }
}

/// What a collector says goes to a terminal or a log: without control characters, and not without end.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == DETAIL_CHARS_MAX {
            line.push('…');
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16) -> Problem {
        Problem::new(ProblemKind::Http(status), "overloaded")
    }

    #[test]
    fn a_kind_of_problem_is_reported_once_a_minute() {
        let (mut reports, start) = (Reports::default(), Instant::now());
        let mut line = |status, seconds| {
            reports.line(
                &problem(status),
                Consequence::Harmless,
                "retrying",
                start + Duration::from_secs(seconds),
            )
        };
        assert_eq!(line(503, 0).unwrap(), "trace-core: the collector answered 503: overloaded; retrying");
        assert_eq!(line(503, 1), None);
        assert!(line(429, 1).is_some(), "another kind");
        assert_eq!(line(503, 59), None);
        assert_eq!(
            line(503, 60).unwrap(),
            "trace-core: the collector answered 503: overloaded (3 times since the last report); retrying"
        );
        assert_eq!(line(503, 119), None);
    }

    #[test]
    fn a_loss_is_reported_although_the_problem_was() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        let mut line = |consequence| reports.line(&problem(503), consequence, "", now).is_some();
        assert!(line(Consequence::Harmless));
        assert!(line(Consequence::Loss), "the first loss is news");
        assert!(!line(Consequence::Loss) && !line(Consequence::Harmless));
    }

    #[test]
    fn kinds_without_end_are_not_remembered_without_end() {
        let (mut reports, start) = (Reports::default(), Instant::now());
        let reported = (0..1_000)
            .filter(|&status| reports.line(&problem(status), Consequence::Loss, "", start).is_some())
            .count();
        assert_eq!(reported, KINDS_MAX);
        assert_eq!(reports.latest.len(), KINDS_MAX);
        assert!(
            reports.line(&problem(2_000), Consequence::Loss, "", start + INTERVAL).is_some(),
            "old ones make room"
        );
    }

    #[test]
    fn what_a_collector_says_stays_on_one_line() {
        let problem =
            Problem::new(ProblemKind::Http(400), format!("\u{1b}[31m\nforged{}", "x".repeat(1_000)));
        let line = Reports::default().line(&problem, Consequence::Loss, "", Instant::now()).unwrap();
        assert!(line.contains("\\u{1b}[31m\\nforged") && line.len() < 400, "{line}");
    }
}
