use super::super::fixture::part;
use super::*;
use crate::telemetry::DropReason;

const LIMITS: BatchLimits = BatchLimits { bytes_max: usize::MAX, spans_max: 10 };
const DELAY: Duration = Duration::from_secs(5);
const OK: Outcome = Outcome::Exported { rejected: 0 };
const LOST: Outcome = Outcome::Dropped(DropReason::ExportFailed);

/// A schedule, a clock that stands still until it is moved, and spans that lie in open chunks.
struct Desk {
    schedule: Schedule<&'static str>,
    start: Instant,
    now: Instant,
    open: usize,
}

/// What the schedule asked for, in words; a sweep is carried out on the way.
#[derive(Debug, PartialEq)]
enum Did {
    Sent(usize),
    Answered(&'static str, Result<(), FlushError>),
    Abandoned(usize),
    Finished(Vec<&'static str>, Result<(), FlushError>),
    /// Waits until so many milliseconds after the start.
    Waits(u64),
}

impl Desk {
    fn new() -> Self {
        let now = Instant::now();
        Self { schedule: Schedule::new(LIMITS, DELAY, now), start: now, now, open: 0 }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn next(&mut self) -> Did {
        loop {
            return match self.schedule.next(self.now) {
                Step::Sweep => {
                    let open = std::mem::take(&mut self.open);
                    self.schedule.push(part(open));
                    self.schedule.swept(self.now);
                    continue;
                }
                Step::Send(batch) => Did::Sent(batch.len()),
                Step::Answer(who, result) => Did::Answered(who, result),
                Step::Abandon(lost) => Did::Abandoned(lost),
                Step::Finish(end) => Did::Finished(end.waiters, end.result),
                Step::Wait(until) => Did::Waits((until - self.start).as_millis() as u64),
            };
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        self.schedule.settled(outcome, None);
    }
}

#[test]
fn a_full_batch_leaves_at_once_and_the_rest_when_it_is_due() {
    let mut desk = Desk::new();
    desk.schedule.push(part(13));
    assert_eq!(desk.next(), Did::Sent(10));
    assert_eq!(desk.next(), Did::Waits(5_000));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Waits(5_000), "three spans are not enough");
    desk.now = desk.at(5_000);
    desk.open = 4;
    assert_eq!(desk.next(), Did::Sent(7));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Waits(10_000));
}

#[test]
fn one_batch_is_in_flight_at_a_time() {
    let mut desk = Desk::new();
    desk.schedule.push(part(25));
    assert_eq!(desk.schedule.wake_at_chunks(), Some(0));
    assert_eq!(desk.next(), Did::Sent(10));
    assert_eq!(desk.schedule.wake_at_chunks(), None, "nothing to be woken for");
    assert_eq!(desk.next(), Did::Waits(5_000));
    desk.settle(LOST);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Waits(5_000));
    assert_eq!(desk.schedule.wake_at_chunks(), Some(1));
}

#[test]
fn spans_that_come_after_a_sweep_are_not_due_by_it() {
    let mut desk = Desk::new();
    desk.open = 3;
    desk.now = desk.at(5_000);
    assert_eq!(desk.next(), Did::Sent(3));
    desk.schedule.push(part(4));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Waits(10_000));
}

#[test]
fn a_flush_waits_for_what_was_there_when_it_began() {
    let mut desk = Desk::new();
    desk.schedule.push(part(12));
    assert_eq!(desk.next(), Did::Sent(10));
    desk.open = 5;
    desk.schedule.flush("a", desk.at(1_000));
    assert_eq!(desk.next(), Did::Waits(1_000));
    desk.schedule.push(part(6));
    desk.settle(OK);
    // Two that waited, five that were open, and three of those that came later.
    assert_eq!(desk.next(), Did::Sent(10));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Answered("a", Ok(())));
    assert_eq!(desk.next(), Did::Waits(5_000), "what came later still waits");
}

#[test]
fn a_flush_of_nothing_is_answered_at_once() {
    let mut desk = Desk::new();
    desk.schedule.flush("a", desk.now);
    assert_eq!(desk.next(), Did::Answered("a", Ok(())));
}

#[test]
fn a_flush_tells_what_was_lost_and_when_its_time_was_over() {
    let mut desk = Desk::new();
    desk.open = 3;
    desk.schedule.flush("early", desk.at(100));
    desk.schedule.flush("late", desk.at(9_000));
    assert_eq!(desk.next(), Did::Sent(3));
    desk.now = desk.at(100);
    assert_eq!(desk.next(), Did::Answered("early", Err(FlushError::Timeout)));
    desk.settle(LOST);
    assert_eq!(desk.next(), Did::Answered("late", Err(FlushError::Failed)));
}

#[test]
fn a_flush_is_not_blamed_for_what_is_lost_after_it() {
    let mut desk = Desk::new();
    desk.open = 3;
    desk.schedule.flush("a", desk.at(9_000));
    assert_eq!(desk.next(), Did::Sent(3));
    desk.open = 2;
    desk.schedule.flush("b", desk.at(9_000));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Answered("a", Ok(())));
    assert_eq!(desk.next(), Did::Sent(2));
    desk.settle(Outcome::Exported { rejected: 1 });
    assert_eq!(desk.next(), Did::Answered("b", Err(FlushError::Failed)));
}

#[test]
fn a_collector_that_wants_quiet_gets_it() {
    let mut desk = Desk::new();
    desk.schedule.push(part(25));
    assert_eq!(desk.next(), Did::Sent(10));
    desk.schedule.settled(LOST, Some(desk.at(2_000)));
    assert_eq!(desk.next(), Did::Waits(2_000));
    assert_eq!(desk.schedule.wake_at_chunks(), None);
    desk.now = desk.at(2_000);
    assert_eq!(desk.next(), Did::Sent(10));
}

#[test]
fn a_queue_that_may_overflow_is_emptied_before_its_time() {
    let mut desk = Desk::new();
    desk.open = 4;
    desk.schedule.hurry();
    assert_eq!(desk.next(), Did::Sent(4));
    desk.open = 4;
    desk.schedule.hurry();
    assert_eq!(desk.next(), Did::Waits(5_000), "not while a batch is in flight");
}

#[test]
fn a_shutdown_sends_all_and_finishes() {
    let mut desk = Desk::new();
    desk.open = 12;
    desk.schedule.close("a", desk.at(1_000));
    assert_eq!(desk.next(), Did::Sent(10));
    assert_eq!(desk.next(), Did::Waits(1_000));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Sent(2));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Finished(vec!["a"], Ok(())));
}

#[test]
fn a_shutdown_gives_up_at_its_deadline() {
    let mut desk = Desk::new();
    desk.open = 12;
    desk.schedule.flush("flush", desk.at(9_000));
    desk.schedule.close("shutdown", desk.at(1_000));
    assert_eq!(desk.next(), Did::Sent(10));
    desk.now = desk.at(1_000);
    assert_eq!(desk.next(), Did::Abandoned(2));
    desk.settle(Outcome::Dropped(DropReason::OutcomeUnknown));
    assert_eq!(desk.next(), Did::Answered("flush", Err(FlushError::Failed)));
    assert_eq!(desk.next(), Did::Finished(vec!["shutdown"], Err(FlushError::Timeout)));
}

#[test]
fn a_shutdown_without_time_counts_what_there_is() {
    let mut desk = Desk::new();
    desk.open = 3;
    desk.schedule.close("a", desk.now);
    assert_eq!(desk.next(), Did::Abandoned(3));
    assert_eq!(desk.next(), Did::Finished(vec!["a"], Err(FlushError::Timeout)));

    let mut desk = Desk::new();
    desk.schedule.close("a", desk.now);
    assert_eq!(desk.next(), Did::Finished(vec!["a"], Ok(())));
}

#[test]
fn a_second_shutdown_joins_the_first_as_long_as_it_wants() {
    let mut desk = Desk::new();
    desk.open = 3;
    desk.schedule.close("first", desk.at(1_000));
    desk.schedule.close("hasty", desk.at(500));
    desk.schedule.close("patient", desk.at(9_000));
    assert_eq!(desk.next(), Did::Sent(3));
    assert_eq!(desk.next(), Did::Waits(500));
    desk.now = desk.at(500);
    assert_eq!(desk.next(), Did::Answered("hasty", Err(FlushError::Timeout)));
    desk.settle(LOST);
    assert_eq!(desk.next(), Did::Finished(vec!["first", "patient"], Err(FlushError::Failed)));
}
