//! Time, read as cheaply as the machine allows.
//!
//! A span reads ticks twice: from the processor's counter where the kernel itself keeps time by it, else from the
//! monotonic clock. An [`Anchor`] turns ticks into wall-clock time. The worker makes a new one every second; a trace's
//! local root takes the newest, and all spans below it use the same, so that the times of a trace agree with each
//! other whatever the wall clock does, and no duration is negative.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::hint::cold_path;

/// A moment on both clocks, and how they run against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    ticks: u64,
    unix_nanos: u64,
    /// Nanoseconds a tick, in units of 2⁻³²; with the highest bit set when ticks are the processor's.
    rate: u64,
}

const PROCESSOR: u64 = 1 << 63;
const ONE: u64 = 1 << 32;

impl Anchor {
    /// The present, with ticks of the monotonic clock: what serves until the processor's counter is calibrated.
    pub(crate) fn now() -> Self {
        let ticks = monotonic_nanos();
        Self { ticks, unix_nanos: unix_nanos(SystemTime::now()), rate: ONE }
    }

    /// The ticks of the present.
    #[inline]
    pub(crate) fn ticks(&self) -> u64 {
        if self.rate & PROCESSOR == 0 {
            cold_path();
            return monotonic_nanos();
        }
        processor_ticks()
    }

    /// The time of a tick, in nanoseconds since the Unix epoch.
    #[inline]
    pub(crate) fn unix_nanos(&self, ticks: u64) -> u64 {
        let rate = u128::from(self.rate & !PROCESSOR);
        // Ticks before the anchor's are as good as those after.
        let (elapsed, before) = match ticks.checked_sub(self.ticks) {
            Some(elapsed) => (elapsed, false),
            None => {
                cold_path();
                (self.ticks - ticks, true)
            }
        };
        let nanos = ((u128::from(elapsed) * rate) >> 32) as u64;
        if before { self.unix_nanos.saturating_sub(nanos) } else { self.unix_nanos.saturating_add(nanos) }
    }
}

/// The newest anchor, for any thread to read.
pub(crate) struct Clock {
    anchors: [Slot; SLOTS],
    newest: AtomicUsize,
    /// The publisher's.
    calibration: Mutex<Option<Calibration>>,
}

/// How many anchors are kept: a reader would have to sleep for as many seconds between two loads to see one that is
/// being overwritten, and then it looks again.
const SLOTS: usize = 4;

#[derive(Debug)]
struct Slot {
    ticks: AtomicU64,
    unix_nanos: AtomicU64,
    rate: AtomicU64,
}

impl Slot {
    fn new(anchor: Anchor) -> Self {
        Self {
            ticks: AtomicU64::new(anchor.ticks),
            unix_nanos: AtomicU64::new(anchor.unix_nanos),
            rate: AtomicU64::new(anchor.rate),
        }
    }
}

/// How the processor's counter is measured: against the first reading of both clocks.
#[derive(Clone, Copy, Debug)]
struct Calibration {
    first: Reading,
    latest: Reading,
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
struct Reading {
    processor: u64,
    monotonic: u64,
}

/// The shortest time over which the processor's counter is measured: reading both clocks takes some 100 ns, so that
/// its rate is then known to five parts in a million, and better with each second that passes.
pub(crate) const CALIBRATION: Duration = Duration::from_millis(20);

impl Clock {
    pub(crate) fn new() -> Self {
        let anchor = Anchor::now();
        Self {
            anchors: std::array::from_fn(|_| Slot::new(anchor)),
            newest: AtomicUsize::new(0),
            calibration: Mutex::new(None),
        }
    }

    /// The newest anchor.
    #[inline]
    pub(crate) fn anchor(&self) -> Anchor {
        loop {
            let newest = self.newest.load(Ordering::Acquire);
            let slot = &self.anchors[newest % SLOTS];
            let anchor = Anchor {
                ticks: slot.ticks.load(Ordering::Relaxed),
                unix_nanos: slot.unix_nanos.load(Ordering::Relaxed),
                rate: slot.rate.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            if self.newest.load(Ordering::Relaxed).wrapping_sub(newest) < SLOTS - 1 {
                return anchor;
            }
        }
    }

    /// Publishes an anchor for the present. To be called by one thread: at its start, after [`CALIBRATION`], and
    /// then every second.
    pub(crate) fn publish(&self) {
        let anchor = self.measure();
        let next = self.newest.load(Ordering::Relaxed).wrapping_add(1);
        let slot = &self.anchors[next % SLOTS];
        // A reader that sees one of these sees at its second look that the slot has been passed.
        fence(Ordering::Release);
        slot.ticks.store(anchor.ticks, Ordering::Relaxed);
        slot.unix_nanos.store(anchor.unix_nanos, Ordering::Relaxed);
        slot.rate.store(anchor.rate, Ordering::Relaxed);
        self.newest.store(next, Ordering::Release);
    }

    fn measure(&self) -> Anchor {
        let mut calibration = self.calibration.lock().unwrap_or_else(PoisonError::into_inner);
        if !processor_is_trusted() {
            *calibration = None;
            return Anchor::now();
        }
        let now = Reading::now();
        match calibration.get_or_insert(Calibration::new(now)).rate(now) {
            Some(rate) => Anchor {
                ticks: processor_ticks(),
                unix_nanos: unix_nanos(SystemTime::now()),
                rate: rate | PROCESSOR,
            },
            None => Anchor::now(),
        }
    }
}

impl Calibration {
    const fn new(now: Reading) -> Self {
        Self { first: now, latest: now }
    }

    /// The rate of the processor's counter, as in an [`Anchor`]; `None` as long as it is not known.
    ///
    /// It is measured anew from here on when the clocks have come apart since the latest reading: while the machine sleeps,
    /// the monotonic clock stands still and the counter goes on, or begins anew. So have they when a reading was
    /// interrupted between the two.
    fn rate(&mut self, now: Reading) -> Option<u64> {
        let (all, recent) = (now.rate_since(self.first), now.rate_since(self.latest));
        self.latest = now;
        if now.monotonic.saturating_sub(self.first.monotonic) < CALIBRATION.as_nanos() as u64 {
            return None;
        }
        match (all, recent) {
            // Whatever sets the system's time makes its clocks faster or slower by less than that.
            (Some(all), Some(recent)) if recent.abs_diff(all) <= all / 8 => Some(all),
            _ => {
                self.first = now;
                None
            }
        }
    }
}

impl Reading {
    fn now() -> Self {
        Self { processor: processor_ticks(), monotonic: monotonic_nanos() }
    }

    /// Nanoseconds a tick, in units of 2⁻³², since an earlier reading.
    fn rate_since(self, earlier: Self) -> Option<u64> {
        let nanos = self.monotonic.checked_sub(earlier.monotonic)?;
        let ticks = self.processor.checked_sub(earlier.processor)?;
        let rate = (u128::from(nanos) << 32).checked_div(u128::from(ticks))?;
        u64::try_from(rate).ok().filter(|rate| rate & PROCESSOR == 0)
    }
}

/// A wall-clock time in nanoseconds since the Unix epoch; a time before it is the epoch.
pub(crate) fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn monotonic_nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // 584 years.
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn processor_ticks() -> u64 {
    // SAFETY: every x86_64 processor has the instruction; a kernel that forbids it to processes (`PR_SET_TSC`) does
    // not name it as its clock source to them, and is never asked (`processor_is_trusted`).
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn processor_ticks() -> u64 {
    monotonic_nanos()
}

/// Whether the kernel keeps time by the processor's counter: then the counter runs at one rate on all cores, in sleep
/// and under every load. The kernel watches over that and changes its clock source when it does not hold, so it is asked
/// each time.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn processor_is_trusted() -> bool {
    const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    std::fs::read_to_string(CLOCK_SOURCE).is_ok_and(|source| source.trim() == "tsc")
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn processor_is_trusted() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibrated() -> Clock {
        let clock = Clock::new();
        clock.publish();
        let start = Instant::now();
        while start.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        clock.publish();
        clock
    }

    #[test]
    fn ticks_become_the_wall_clocks_time() {
        let clock = calibrated();
        let anchor = clock.anchor();
        let ours = anchor.unix_nanos(anchor.ticks());
        let theirs = unix_nanos(SystemTime::now());
        // Generous: the thread may be put to sleep between the two.
        assert!(ours.abs_diff(theirs) < 500_000_000, "{ours} {theirs}");
    }

    #[test]
    fn a_duration_in_ticks_is_that_of_the_monotonic_clock() {
        let clock = calibrated();
        let anchor = clock.anchor();
        let (start, from) = (Instant::now(), anchor.ticks());
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let (to, elapsed) = (anchor.ticks(), start.elapsed());
        let ours = anchor.unix_nanos(to) - anchor.unix_nanos(from);
        assert!(ours >= 49_900_000, "{ours}");
        assert!(ours <= elapsed.as_nanos() as u64 + 1_000_000, "{ours} {elapsed:?}");
    }

    #[test]
    fn ticks_before_the_anchor_are_earlier() {
        let anchor = Anchor { ticks: 1000, unix_nanos: 1_000_000, rate: ONE * 2 };
        assert_eq!(anchor.unix_nanos(1000), 1_000_000);
        assert_eq!(anchor.unix_nanos(1010), 1_000_020);
        assert_eq!(anchor.unix_nanos(990), 999_980);
    }

    /// What a counter of two ticks a nanosecond and a clock show, each so many nanoseconds after its start.
    fn reading(processor: Duration, monotonic: Duration) -> Reading {
        Reading { processor: 2 * processor.as_nanos() as u64, monotonic: monotonic.as_nanos() as u64 }
    }

    #[test]
    fn the_counter_is_measured_anew_when_the_machine_has_slept() {
        let second = |seconds| Duration::from_secs(seconds);
        let mut calibration = Calibration::new(reading(second(5), second(5)));
        for n in 6..3_600 {
            assert_eq!(calibration.rate(reading(second(n), second(n))), Some(ONE / 2));
        }
        // Eight hours, of which the one clock knows a second.
        assert_eq!(calibration.rate(reading(second(32_400), second(3_600))), None);
        assert_eq!(calibration.rate(reading(second(32_401), second(3_601))), Some(ONE / 2));
        // Or it began anew.
        assert_eq!(calibration.rate(reading(second(1), second(3_602))), None);
        assert_eq!(calibration.rate(reading(second(2), second(3_603))), Some(ONE / 2));
    }

    #[test]
    fn a_reading_that_was_interrupted_matters_for_a_second() {
        let millis = Duration::from_millis;
        let error =
            |rate: Option<u64>| rate.expect("it is known").abs_diff(ONE / 2) as f64 / (ONE / 2) as f64;
        // Between the two clocks, the thread lost its processor for ten milliseconds, the first time.
        let mut calibration = Calibration::new(reading(millis(0), millis(10)));
        assert!(error(calibration.rate(reading(millis(30), millis(30)))) < 0.34);
        assert!(error(calibration.rate(reading(millis(1_030), millis(1_030)))) < 0.01);
        // Half a second, later.
        assert_eq!(calibration.rate(reading(millis(2_030), millis(2_530))), None);
        assert!(error(calibration.rate(reading(millis(30_030), millis(30_030)))) < 0.02);
        assert!(error(calibration.rate(reading(millis(60_030), millis(60_030)))) < 0.01);
    }

    #[test]
    fn clocks_that_are_set_gently_keep_their_measure() {
        let mut calibration = Calibration::new(reading(Duration::ZERO, Duration::ZERO));
        for n in 1..100 {
            let slow = Duration::from_millis(1_000 * n - 80 * n);
            assert!(calibration.rate(reading(Duration::from_secs(n), slow)).is_some());
        }
    }

    #[test]
    fn readers_see_whole_anchors_while_they_are_published() {
        let clock = Clock::new();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    clock.publish();
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let anchor = clock.anchor();
                let now = anchor.unix_nanos(anchor.ticks());
                assert!(now.abs_diff(unix_nanos(SystemTime::now())) < 1_000_000_000);
            }
        });
    }
}
