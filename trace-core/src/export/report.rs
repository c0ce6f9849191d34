//! What the exporter says about its troubles: the single place where what happened becomes a line, the health and the
//! counts of operations.
//!
//! Each kind of problem is told at most once a minute; where spans were lost, a line with all counters follows, at most
//! once a minute too. [`Reports`] decides, given the time; the [`Reporter`] is what the worker tells.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::queue::Queue;
use super::retry::{Attempt, Next, Problem, ProblemKind};
use crate::telemetry::log::{Line, LineWriter, Severity};
use crate::telemetry::operations::{End, Status};
use crate::telemetry::{Fault, Stats, Watch};

/// How long a kind of problem is kept quiet about once it was reported.
const INTERVAL: Duration = Duration::from_secs(60);

/// The most kinds that are remembered: a collector that answers with a new status each time is one that nobody needs
/// to hear more of.
const KINDS_MAX: usize = 32;

/// The most characters of what a collector says that are repeated.
const DETAIL_CHARS_MAX: usize = 300;

/// How long the last lines of a pipeline that is shut down are waited for, if nobody reads them.
const LAST_LINE: Duration = Duration::from_millis(50);

/// What the worker, and the tasks that send for it, tell what happened. It writes and publishes what follows.
pub(crate) struct Reporter {
    queue: &'static Queue,
    state: Mutex<State>,
    lines: LineWriter,
}

#[derive(Debug, Default)]
struct State {
    reports: Reports,
    watch: Watch,
}

impl Reporter {
    pub(crate) fn new(queue: &'static Queue) -> Self {
        Self { queue, state: Mutex::default(), lines: LineWriter::default() }
    }

    /// An attempt to send a batch has ended, and this follows; with a spool, a batch that is given up goes to disk.
    pub(crate) fn attempted(&self, attempt: &Attempt, next: Next, has_spool: bool) {
        let (problem, consequence, what_follows) = match (attempt, next) {
            (Attempt::Accepted { warning: None, .. }, _) => return self.accepted(),
            (Attempt::Accepted { rejected: 0, warning: Some(problem) }, _) => {
                self.accepted();
                (problem, Consequence::Harmless, "nothing was rejected".to_owned())
            }
            (Attempt::Accepted { rejected, warning: Some(problem) }, _) => {
                self.accepted();
                (problem, Consequence::Loss, format!("{rejected} spans are rejected"))
            }
            (Attempt::Refused(problem), _) => (problem, Consequence::Loss, "spans are rejected".to_owned()),
            (Attempt::Failed { problem, .. }, Next::RetryAt(_)) => {
                (problem, Consequence::Harmless, "trying again".to_owned())
            }
            (Attempt::Failed { problem, .. }, Next::Settle(_)) if has_spool => {
                (problem, Consequence::Harmless, "spans are spooled".to_owned())
            }
            (Attempt::Failed { problem, .. }, Next::Settle(_)) => {
                (problem, Consequence::Loss, "spans are dropped".to_owned())
            }
        };
        self.problem(problem, consequence, &what_follows);
    }

    /// Something went wrong, and this follows.
    pub(crate) fn problem(&self, problem: &Problem, consequence: Consequence, what_follows: &str) {
        let now = Instant::now();
        let line = {
            let mut state = self.lock();
            if let Some(fault) = problem.kind.fault() {
                let why = format!("{}; {what_follows}", one_line(&problem.to_string()));
                state.watch.failed(fault, why);
            }
            self.publish(&state, now);
            state.reports.line(problem, consequence, what_follows, now)
        };
        self.write(line);
    }

    /// The collector accepted a batch.
    fn accepted(&self) {
        let mut state = self.lock();
        state.watch.accepted();
        self.publish(&state, Instant::now());
    }

    /// The sending of a batch has ended, after so long.
    pub(crate) fn operation(&self, end: End, took: Duration) {
        self.queue.export.operations.add(end, took);
        self.queue.export.observers.tell(end, took);
    }

    /// Looks at the counters. To be called every second or so.
    pub(crate) fn look(&self, now: Instant) {
        let mut stats = Stats::default();
        self.queue.read(&mut stats);
        let line = {
            let mut state = self.lock();
            let lost = state.watch.look(&stats, now);
            self.publish(&state, now);
            state.reports.losses(lost, &stats, now)
        };
        self.write(line);
    }

    /// The pipeline was shut down, and every span is settled. What was lost since the last line about losses is told
    /// now, because nobody is there to tell it later.
    ///
    /// # Blocking
    /// Until all lines are written, at most for [`LAST_LINE`].
    pub(crate) fn ended(&self) {
        let now = Instant::now();
        let mut stats = Stats::default();
        self.queue.read(&mut stats);
        let line = {
            let mut state = self.lock();
            state.watch.ended("it was shut down; spans that end now are dropped");
            let lost = state.watch.look(&stats, now);
            self.publish(&state, now);
            state.reports.last_losses(lost, &stats)
        };
        self.write(line);
        self.lines.wait(LAST_LINE);
    }

    /// The worker could not begin.
    pub(crate) fn stillborn(&self, error: &std::io::Error) {
        let why = format!("the export thread cannot work: {error}; all spans are dropped");
        let mut state = self.lock();
        state.watch.failed(Fault::Passing, why.clone());
        self.publish(&state, Instant::now());
        drop(state);
        self.write(Some(Line { severity: Severity::Error, text: why, error_type: None }));
        self.lines.wait(LAST_LINE);
    }

    fn publish(&self, state: &State, now: Instant) {
        self.queue.export.health.set(state.watch.health(now));
    }

    fn write(&self, line: Option<Line>) {
        if let Some(line) = line {
            self.lines.write(line);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the sending of a batch ended whose last attempt is this; `http_status` is that of the last answer over HTTP.
pub(crate) fn end_of(attempt: &Attempt, http_status: Option<u16>, is_grpc: bool) -> End {
    match attempt {
        Attempt::Accepted { .. } => {
            let status = match http_status {
                Some(status) => Status::Http(status),
                None if is_grpc => Status::Grpc(0),
                None => Status::None,
            };
            End { failed: None, status }
        }
        Attempt::Refused(problem) | Attempt::Failed { problem, .. } => problem.kind.end(),
    }
}

/// Decides what is reported. It is given the time.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    latest: HashMap<(ProblemKind, Consequence), Latest>,
    /// When losses were told the last time.
    losses_told: Option<Instant>,
    /// How many spans were lost since.
    untold: u64,
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
    ) -> Option<Line> {
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
        let text = one_line(&problem.to_string());
        let again =
            if silent > 0 { format!(" ({} times since the last report)", silent + 1) } else { String::new() };
        Some(Line {
            severity: match consequence {
                Consequence::Harmless => Severity::Warning,
                Consequence::Loss => Severity::Error,
            },
            text: format!("{text}{again}; {what_follows}"),
            error_type: problem.kind.end().error_type(),
        })
    }

    /// The line to be written where so many spans were lost since this was called before; `None` when there are none, or
    /// a line like it was written less than a minute ago.
    pub(crate) fn losses(&mut self, lost: u64, stats: &Stats, now: Instant) -> Option<Line> {
        self.untold += lost;
        if self.losses_told.is_some_and(|at| now < at + INTERVAL) {
            return None;
        }
        let line = self.last_losses(0, stats);
        if line.is_some() {
            self.losses_told = Some(now);
        }
        line
    }

    /// As [`losses`](Self::losses), however long ago the line before is.
    pub(crate) fn last_losses(&mut self, lost: u64, stats: &Stats) -> Option<Line> {
        let lost = std::mem::take(&mut self.untold) + lost;
        (lost > 0).then(|| Line {
            severity: Severity::Error,
            text: format!(
                "{lost} {} lost since the last report: {stats}",
                if lost == 1 { "span was" } else { "spans were" }
            ),
            error_type: None,
        })
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
            reports
                .line(
                    &problem(status),
                    Consequence::Harmless,
                    "retrying",
                    start + Duration::from_secs(seconds),
                )
                .map(|line| line.text)
        };
        assert_eq!(line(503, 0).unwrap(), "the collector answered 503: overloaded; retrying");
        assert_eq!(line(503, 1), None);
        assert!(line(429, 1).is_some(), "another kind");
        assert_eq!(line(503, 59), None);
        assert_eq!(
            line(503, 60).unwrap(),
            "the collector answered 503: overloaded (3 times since the last report); retrying"
        );
        assert_eq!(line(503, 119), None);
    }

    #[test]
    fn a_loss_is_reported_although_the_problem_was() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        let mut line = |consequence| {
            let line = reports.line(&problem(503), consequence, "", now)?;
            assert_eq!(line.error_type.as_deref(), Some("503"));
            Some(line.severity)
        };
        assert_eq!(line(Consequence::Harmless), Some(Severity::Warning));
        assert_eq!(line(Consequence::Loss), Some(Severity::Error), "the first loss is news");
        assert_eq!((line(Consequence::Loss), line(Consequence::Harmless)), (None, None));
    }

    #[test]
    fn losses_are_told_with_all_counters_once_a_minute_and_the_last_ones_at_the_end() {
        let (mut reports, start, stats) = (Reports::default(), Instant::now(), Stats::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        let text = |line: Option<Line>| line.map(|line| line.text);
        assert_eq!(reports.losses(0, &stats, at(0)), None);
        let line = text(reports.losses(1, &stats, at(1))).unwrap();
        assert_eq!(line, format!("1 span was lost since the last report: {stats}"));
        assert_eq!(reports.losses(2, &stats, at(2)), None);
        assert_eq!(reports.losses(0, &stats, at(60)), None);
        let line = text(reports.losses(0, &stats, at(61))).unwrap();
        assert_eq!(line, format!("2 spans were lost since the last report: {stats}"));
        assert_eq!(reports.losses(0, &stats, at(200)), None, "nothing is said where nothing was lost");
        assert!(reports.losses(1, &stats, at(201)).is_some());
        assert_eq!(reports.losses(3, &stats, at(202)), None);
        let line = text(reports.last_losses(1, &stats)).unwrap();
        assert_eq!(line, format!("4 spans were lost since the last report: {stats}"));
        assert_eq!(reports.last_losses(0, &stats), None);
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
        let line = Reports::default().line(&problem, Consequence::Loss, "", Instant::now()).unwrap().text;
        assert!(line.contains("\\u{1b}[31m\\nforged") && line.len() < 400, "{line}");
    }
}
