use super::super::fixture::part;
use super::*;
use crate::telemetry::DropReason;

const LIMITS: BatchLimits = BatchLimits { bytes_max: usize::MAX, spans_max: 10 };
const DELAY: Duration = Duration::from_secs(5);
const OK: Outcome = Outcome::Exported { rejected: 0 };
const LOST: Outcome = Outcome::Dropped(DropReason::ExportFailed);

const fn limits(waiting_bytes_max: usize) -> SpoolLimits {
    SpoolLimits { waiting_bytes_max, stalled_after: STALLED }
}

/// A schedule, a clock that stands still until it is moved, and spans that lie in open chunks.
struct Desk {
    schedule: Schedule<&'static str>,
    start: Instant,
    now: Instant,
    open: usize,
    /// What was to be written.
    written: Vec<Batch>,
}

/// What the schedule asked for, in words; a sweep is carried out on the way.
#[derive(Debug, PartialEq)]
enum Did {
    Sent(usize),
    Read,
    Stored(usize),
    Withdrew,
    Answered(&'static str, Result<(), FlushError>),
    Abandoned(usize),
    Finished(Vec<&'static str>, Result<(), FlushError>),
    /// Waits until so many milliseconds after the start.
    Waits(u64),
    /// Waits until something happens.
    WaitsForNews,
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Desk {
    fn new() -> Self {
        let now = Instant::now();
        Self { schedule: Schedule::new(LIMITS, DELAY, now), start: now, now, open: 0, written: Vec::new() }
    }

    /// With a spool that is open and empty, for what is beyond three chunks.
    fn with_spool() -> Self {
        let mut desk = Self::new();
        let limits = limits(3 * Chunk::MEMORY);
        desk.schedule = desk.schedule.with_spool(limits, desk.now);
        desk.schedule.opened(true, desk.now);
        desk
    }

    fn push(&mut self, chunks: usize) {
        (0..chunks).for_each(|_| self.schedule.push(part(5)));
    }

    fn after(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn stored(&mut self, result: Result<(), StoreError>) -> Stored {
        self.schedule.stored(result, self.now)
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
                Step::Read => Did::Read,
                Step::Store(batch) => {
                    let spans = batch.len();
                    self.written.push(batch);
                    Did::Stored(spans)
                }
                Step::Withdraw => Did::Withdrew,
                Step::Answer(who, result) => Did::Answered(who, result),
                Step::Abandon(lost) => Did::Abandoned(lost),
                Step::Finish(end) => Did::Finished(end.waiters, end.result),
                Step::Wait(until) => {
                    assert!(until > self.now, "it would never sleep");
                    let after = until - self.start;
                    if after < YEAR { Did::Waits(after.as_millis() as u64) } else { Did::WaitsForNews }
                }
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
    assert_eq!(desk.next(), Did::WaitsForNews);
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
    assert_eq!(desk.next(), Did::WaitsForNews);
    desk.settle(LOST);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Waits(5_000));
    assert_eq!(desk.schedule.wake_at_chunks(), Some(1));
}

#[test]
fn open_chunks_are_left_to_fill_while_nothing_can_be_sent() {
    let mut desk = Desk::new();
    desk.open = 3;
    desk.now = desk.at(5_000);
    assert_eq!(desk.next(), Did::Sent(3));
    desk.open = 4;
    desk.now = desk.at(20_000);
    assert_eq!((desk.next(), desk.open), (Did::WaitsForNews, 4));
    desk.schedule.settled(LOST, Some(desk.at(30_000)));
    assert_eq!((desk.next(), desk.open), (Did::Waits(30_000), 4));
    desk.now = desk.at(30_000);
    assert_eq!((desk.next(), desk.open), (Did::Sent(4), 0));
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
    desk.schedule.crowded(true);
    assert_eq!(desk.next(), Did::Sent(4));
    desk.open = 4;
    desk.schedule.crowded(true);
    assert_eq!(desk.next(), Did::WaitsForNews, "not while a batch is in flight");
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

/// The disk failed.
const FAILED: Result<(), StoreError> = Err(StoreError::Failed);

#[test]
fn a_batch_that_cannot_be_sent_goes_to_disk_and_is_sent_from_there_before_what_is_newer() {
    let mut desk = Desk::with_spool();
    desk.push(2);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.push(2);
    desk.schedule.gave_up(10, None, desk.now);
    assert_eq!(desk.next(), Did::Waits(2_000), "until it is on disk, or the disk is sick");
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.next(), Did::Read);
    assert_eq!(desk.next(), Did::Waits(2_000));
    assert!(desk.schedule.found(Ok(Some(10)), desk.now));
    assert_eq!(desk.next(), Did::Waits(500), "until the collector is taken to accept none");
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Sent(10), "nothing is on disk any more");
}

#[test]
fn memory_is_written_once_it_is_short_and_the_collector_takes_none() {
    let mut desk = Desk::with_spool();
    desk.push(2);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.push(2);
    assert_eq!(desk.schedule.wake_at_chunks(), Some(1), "one more chunk, and memory is short");
    desk.push(1);
    assert_eq!(desk.schedule.wake_at_chunks(), None);
    assert_eq!(desk.next(), Did::Waits(500), "the collector may be about to take it");
    desk.after(500);
    assert_eq!(desk.next(), Did::Stored(10));
    assert_eq!(desk.next(), Did::Waits(2_500), "five are left, for which there is memory");
    desk.push(4);
    assert_eq!(desk.next(), Did::Waits(2_500), "one batch is written at a time");
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.next(), Did::Stored(10));
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.next(), Did::Stored(10), "until memory is not short");
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);

    // The one in flight is older than those on disk.
    desk.schedule.gave_up(10, None, desk.now);
    assert_eq!(desk.next(), Did::Waits(2_500), "those on disk wait for it");
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    for _ in 0..4 {
        assert_eq!(desk.next(), Did::Read);
        assert!(desk.schedule.found(Ok(Some(10)), desk.now));
        desk.settle(OK);
    }
    desk.now = desk.at(5_000);
    assert_eq!(desk.next(), Did::Sent(5), "and memory is the last");
}

#[test]
fn a_queue_that_is_bounded_in_spans_is_written_before_it_overflows() {
    let mut desk = Desk::with_spool();
    desk.push(1);
    desk.now = desk.at(5_000);
    assert_eq!(desk.next(), Did::Sent(5));
    desk.open = 3;
    desk.after(600);
    desk.schedule.crowded(true);
    assert_eq!(desk.next(), Did::Stored(3));
}

#[test]
fn a_collector_that_wants_to_be_left_alone_gets_nothing_from_disk_either() {
    let mut desk = Desk::with_spool();
    desk.push(2);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.schedule.gave_up(10, Some(desk.at(3_000)), desk.now);
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.next(), Did::Waits(3_000));
    desk.now = desk.at(3_000);
    assert_eq!(desk.next(), Did::Read);
}

#[test]
fn what_was_found_at_the_start_comes_first_and_a_flush_waits_for_it() {
    let mut desk = Desk::new();
    desk.schedule = desk.schedule.with_spool(limits(usize::MAX), desk.now);
    desk.push(2);
    desk.schedule.flush("a", desk.at(60_000));
    assert_eq!(desk.next(), Did::Waits(2_000), "the directory is being opened");
    desk.schedule.recovered(7);
    desk.schedule.opened(true, desk.now);
    assert_eq!(desk.next(), Did::Read);
    assert!(desk.schedule.found(Ok(Some(7)), desk.now));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Answered("a", Ok(())));
}

#[test]
fn a_disk_that_hangs_or_fails_holds_up_nothing() {
    let mut desk = Desk::new();
    desk.schedule = desk.schedule.with_spool(limits(0), desk.now);
    desk.push(2);
    desk.now = desk.at(2_000);
    assert_eq!(desk.next(), Did::Sent(10), "the directory takes too long to open");
    desk.settle(OK);
    desk.schedule.opened(false, desk.now);
    desk.push(4);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.after(1_000);
    assert_eq!(desk.next(), Did::Waits(5_000), "nothing is written while the disk rests");
    desk.schedule.gave_up(10, None, desk.now);
    assert_eq!(desk.next(), Did::Sent(10));
    assert_eq!(desk.stored(FAILED), Stored::Lost, "what was given up has no other place");
    desk.settle(OK);

    // It rests for ten seconds after the failure.
    desk.schedule.recovered(3);
    desk.now = desk.at(12_999);
    while desk.next() != Did::Waits(13_000) {}
    desk.now = desk.at(13_000);
    assert_eq!(desk.next(), Did::Read);
    assert!(!desk.schedule.found(Err(()), desk.now));
    assert_eq!(desk.next(), Did::Waits(17_999));
}

#[test]
fn a_batch_that_the_disk_does_not_take_goes_on_waiting_at_its_place() {
    let mut desk = Desk::with_spool();
    desk.push(2);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.push(4);
    desk.after(500);
    assert_eq!(desk.next(), Did::Stored(10));
    desk.schedule.flush("a", desk.at(60_000));
    assert_eq!(desk.stored(FAILED), Stored::Waits);
    let batch = desk.written.pop().unwrap();
    desk.schedule.put_back(batch);
    assert_eq!(desk.next(), Did::Waits(5_500));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Answered("a", Ok(())));
}

#[test]
fn a_batch_that_has_no_room_on_disk_is_lost_and_the_disk_is_well() {
    let mut desk = Desk::with_spool();
    desk.push(2);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.push(6);
    desk.after(500);
    assert_eq!(desk.next(), Did::Stored(10));
    assert_eq!(desk.stored(Err(StoreError::Full)), Stored::Lost);
    assert_eq!(desk.next(), Did::Stored(10), "memory is short still");
}

#[test]
fn spans_lost_on_disk_fail_the_flush_that_waited_for_them_and_no_earlier_one() {
    let mut desk = Desk::with_spool();
    desk.push(2);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.schedule.flush("early", desk.at(60_000));
    assert_eq!(desk.next(), Did::Waits(5_000));
    desk.push(4);
    desk.schedule.flush("late", desk.at(60_000));
    desk.after(500);
    assert_eq!(desk.next(), Did::Stored(10));
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    desk.schedule.lost(10);
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Answered("early", Ok(())));
    assert_eq!(desk.next(), Did::Sent(10));
    desk.settle(OK);
    assert_eq!(desk.next(), Did::Answered("late", Err(FlushError::Failed)));
}

#[test]
fn a_shutdown_keeps_time_to_write_what_cannot_be_sent() {
    let mut desk = Desk::with_spool();
    desk.push(2);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.push(3);
    desk.schedule.close("a", desk.at(2_000));
    assert_eq!(desk.next(), Did::Waits(500));
    desk.after(600);
    assert_eq!(desk.next(), Did::Stored(10), "memory is short");
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.next(), Did::Waits(1_500), "a quarter of the time");
    desk.now = desk.at(1_500);
    assert_eq!(desk.next(), Did::Withdrew);
    desk.schedule.gave_up(10, None, desk.now);
    assert_eq!(desk.next(), Did::Stored(5));
    assert_eq!(desk.next(), Did::Waits(2_000));
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.next(), Did::Finished(vec!["a"], Err(FlushError::Timeout)));
}

#[test]
fn a_shutdown_ends_by_its_deadline_whatever_the_disk_does() {
    let mut desk = Desk::with_spool();
    desk.push(2);
    assert_eq!(desk.next(), Did::Sent(10));
    desk.push(3);
    desk.schedule.flush("b", desk.at(9_000));
    desk.schedule.close("a", desk.at(100));
    assert_eq!(desk.next(), Did::Withdrew, "so little time is for the disk alone");
    desk.schedule.gave_up(10, None, desk.now);
    assert_eq!(desk.next(), Did::Stored(10));
    assert_eq!(desk.stored(FAILED), Stored::Lost);
    assert_eq!(desk.stored(FAILED), Stored::Lost, "there is no time to wait for the disk");
    assert_eq!(desk.next(), Did::Stored(5));
    desk.now = desk.at(100);
    assert_eq!(desk.next(), Did::Abandoned(0));
    assert_eq!(desk.next(), Did::Answered("b", Err(FlushError::Failed)));
    assert_eq!(desk.next(), Did::Finished(vec!["a"], Err(FlushError::Timeout)));
}

#[test]
fn a_shutdown_leaves_on_disk_what_is_there() {
    let mut desk = Desk::with_spool();
    desk.schedule.recovered(9);
    assert_eq!(desk.next(), Did::Read);
    assert!(desk.schedule.found(Ok(Some(9)), desk.now));
    desk.schedule.close("a", desk.at(8_000));
    assert_eq!(desk.next(), Did::Waits(5_000));
    desk.now = desk.at(6_000);
    assert_eq!(desk.next(), Did::Withdrew, "two seconds are enough for the disk");
    desk.schedule.left_on_disk(None);
    assert_eq!(desk.next(), Did::Finished(vec!["a"], Err(FlushError::Timeout)));
}

#[test]
fn what_a_schedule_that_failed_had_is_written_first() {
    let mut failed = Desk::with_spool();
    failed.push(2);
    assert_eq!(failed.next(), Did::Sent(10));
    failed.push(3);
    let mut desk = Desk::new();
    desk.schedule.salvage(failed.schedule);
    desk.schedule.gave_up(10, None, desk.now);
    desk.push(1);
    assert_eq!(desk.next(), Did::Stored(10));
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.next(), Did::Stored(10));
    assert_eq!(desk.stored(Ok(())), Stored::OnDisk);
    assert_eq!(desk.next(), Did::Read);
}
