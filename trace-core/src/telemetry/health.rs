//! Whether spans arrive where they should: one word, and a sentence that says why not.
//!
//! The rules are in one place, [`Watch`], a state machine that is given what happened and the time. The export thread
//! runs it: it tells it how each batch fared, and looks at the counters every second. What follows is published where
//! anybody may read it at any time ([`Published`]), so that to ask costs a few nanoseconds and waits for nobody.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::{DropReason, Dropped, Stats};

/// Whether the spans of a pipeline arrive where they should: see [`Tracer::health`](crate::Tracer::health).
///
/// | it is | when | until |
/// |---|---|---|
/// | misconfigured | the configuration says where spans go (exporter, protocol, endpoint, headers, certificates), and that could not be used as it is written; or this build has no such exporter | the process ends |
/// | misconfigured | the last batch met what time alone does not mend: a certificate or another part of the exporter's set-up that cannot be used, TLS that fails, a name that cannot be resolved and never could, an HTTP redirect or 401, 403, 404, 405, 407, 410 or 415, gRPC's `UNIMPLEMENTED`, `UNAUTHENTICATED` or `PERMISSION_DENIED`, or an answer that is not gRPC | the collector accepts a batch |
/// | degraded | the last attempt to send a batch failed for any other reason, and it is tried again or was given up | the collector accepts a batch |
/// | degraded | spans were dropped, rejected or shed | a minute passes without that |
/// | degraded | the pipeline was shut down, or belongs to the process that this one was forked from | – |
/// | healthy | none of these | |
///
/// The first row that holds decides. A pipeline that records nothing, because it was told so, is healthy.
///
/// [`Display`](fmt::Display) gives one line: `healthy`, `degraded: …` or `misconfigured: …`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Nothing is wrong that the pipeline knows of.
    #[default]
    Healthy,
    /// Spans are late or lost, for a reason that may pass by itself. It is told in a sentence.
    Degraded(Arc<str>),
    /// Spans do not arrive where they should until somebody changes something. What is told in a sentence.
    Misconfigured(Arc<str>),
}

impl Health {
    /// The state alone: `healthy`, `degraded` or `misconfigured`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded(_) => "degraded",
            Self::Misconfigured(_) => "misconfigured",
        }
    }

    /// Why it is not healthy.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Healthy => None,
            Self::Degraded(why) | Self::Misconfigured(why) => Some(why),
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self.why() {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// The health as anybody may read it: written by the export thread, read without waiting.
#[derive(Debug, Default)]
pub(crate) struct Published(ArcSwap<Health>);

impl Published {
    pub(crate) fn get(&self) -> Health {
        Health::clone(&self.0.load())
    }

    pub(crate) fn set(&self, health: Health) {
        if **self.0.load() != health {
            self.0.store(Arc::new(health));
        }
    }
}

/// Whose fault it is that a batch did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One that may pass by itself.
    Passing,
    /// One of the configuration, here or at the collector.
    Configuration,
    /// One of the configuration, unless it has worked before: then the surroundings have changed.
    ConfigurationIfNew,
}

/// How long a loss is remembered.
const LOSS_REMEMBERED: Duration = Duration::from_secs(60);

/// Decides about the health. It is given what happened, and the time.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// What the latest batch met, unless the collector accepted one since.
    trouble: Option<(Fault, String)>,
    /// Whether the collector has ever accepted a batch.
    has_worked: bool,
    /// What was lost when the counters were last looked at.
    seen: Lost,
    /// What was lost since the last minute in which nothing was.
    recent: Lost,
    latest_loss: Option<Instant>,
    end: Option<&'static str>,
}

/// Spans that were lost, in one way or another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lost {
    dropped: Dropped,
    rejected: u64,
    shed: u64,
}

impl Watch {
    /// An attempt to send a batch failed.
    pub(crate) fn failed(&mut self, fault: Fault, why: String) {
        self.trouble = Some((fault, why));
    }

    /// The collector accepted a batch, or a part of one.
    pub(crate) fn accepted(&mut self) {
        self.trouble = None;
        self.has_worked = true;
    }

    /// The pipeline's end.
    pub(crate) fn ended(&mut self, why: &'static str) {
        self.end = Some(why);
    }

    /// Looks at the counters; tells how many spans were lost since it looked before.
    pub(crate) fn look(&mut self, stats: &Stats, now: Instant) -> u64 {
        let total = Lost { dropped: stats.dropped.clone(), rejected: stats.rejected, shed: stats.shed };
        let lost = total.since(&self.seen);
        self.seen = total;
        if self.latest_loss.is_some_and(|at| now >= at + LOSS_REMEMBERED) {
            self.latest_loss = None;
            self.recent = Lost::default();
        }
        let count = lost.count();
        if count > 0 {
            self.recent.add(&lost);
            self.latest_loss = Some(now);
        }
        count
    }

    pub(crate) fn health(&self, now: Instant) -> Health {
        if let Some((fault, why)) = &self.trouble {
            let is_configuration = match fault {
                Fault::Passing => false,
                Fault::Configuration => true,
                Fault::ConfigurationIfNew => !self.has_worked,
            };
            return if is_configuration {
                Health::Misconfigured(why.as_str().into())
            } else {
                Health::Degraded(why.as_str().into())
            };
        }
        if self.latest_loss.is_some_and(|at| now < at + LOSS_REMEMBERED) {
            return Health::Degraded(self.recent.to_string().into());
        }
        match self.end {
            Some(why) => Health::Degraded(why.into()),
            None => Health::Healthy,
        }
    }
}

impl Lost {
    fn count(&self) -> u64 {
        self.dropped.total() + self.rejected + self.shed
    }

    fn since(&self, before: &Self) -> Self {
        // Counters that are read while they change may be read in any order, but none of them ever falls for long.
        let mut lost = Self {
            dropped: Dropped::default(),
            rejected: self.rejected.saturating_sub(before.rejected),
            shed: self.shed.saturating_sub(before.shed),
        };
        for reason in DropReason::ALL {
            let dropped = self.dropped.count(reason).saturating_sub(before.dropped.count(reason));
            lost.dropped.add(reason, dropped);
        }
        lost
    }

    fn add(&mut self, other: &Self) {
        for reason in DropReason::ALL {
            self.dropped.add(reason, other.dropped.count(reason));
        }
        self.rejected += other.rejected;
        self.shed += other.shed;
    }
}

/// How many, and of each kind how many, the most frequent first.
impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<(&str, u64)> = DropReason::ALL
            .into_iter()
            .map(|reason| (reason.as_str(), self.dropped.count(reason)))
            .chain([("rejected", self.rejected), ("shed", self.shed)])
            .filter(|(_, count)| *count > 0)
            .collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let count = self.count();
        write!(f, "{count} span{} lost lately (", if count == 1 { " was" } else { "s were" })?;
        for (index, (kind, count)) in kinds.into_iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{kind} {count}")?;
        }
        f.write_char(')')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn dropped(reason: DropReason, spans: u64) -> Stats {
        let mut stats = Stats::default();
        stats.dropped.add(reason, spans);
        stats
    }

    #[test]
    fn it_is_healthy_until_something_happens_and_reads_as_one_line() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        assert_eq!(watch.health(now), Health::Healthy);
        assert_eq!(watch.look(&Stats::default(), now), 0);
        assert_eq!(watch.health(now).to_string(), "healthy");
        watch.failed(Fault::Passing, "no answer in time; trying again".to_owned());
        assert_eq!(watch.health(now).to_string(), "degraded: no answer in time; trying again");
        watch.failed(Fault::Configuration, "the collector answered 401".to_owned());
        assert_eq!(watch.health(now).to_string(), "misconfigured: the collector answered 401");
        assert_eq!(watch.health(now).why(), Some("the collector answered 401"));
    }

    #[test]
    fn a_batch_that_is_accepted_ends_the_trouble_whatever_it_was() {
        let now = Instant::now();
        for fault in [Fault::Passing, Fault::Configuration, Fault::ConfigurationIfNew] {
            let mut watch = Watch::default();
            watch.failed(fault, "trouble".to_owned());
            assert_ne!(watch.health(now), Health::Healthy);
            assert_ne!(watch.health(at(now, 3_600)), Health::Healthy, "time alone mends nothing");
            watch.accepted();
            assert_eq!(watch.health(now), Health::Healthy);
        }
    }

    #[test]
    fn what_has_worked_before_is_not_a_matter_of_the_configuration() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        watch.failed(Fault::ConfigurationIfNew, "no such name".to_owned());
        assert_eq!(watch.health(now).as_str(), "misconfigured");
        watch.accepted();
        watch.failed(Fault::ConfigurationIfNew, "no such name".to_owned());
        assert_eq!(watch.health(now).as_str(), "degraded");
        watch.failed(Fault::Configuration, "a certificate of somebody else".to_owned());
        assert_eq!(watch.health(now).as_str(), "misconfigured");
    }

    #[test]
    fn a_loss_of_any_kind_is_remembered_for_a_minute() {
        let losses = DropReason::ALL
            .map(|reason| dropped(reason, 2))
            .into_iter()
            .chain([Stats { rejected: 2, ..Stats::default() }, Stats { shed: 2, ..Stats::default() }]);
        for stats in losses {
            let (mut watch, start) = (Watch::default(), Instant::now());
            assert_eq!(watch.look(&stats, start), 2);
            // The same counters again are no new loss.
            assert_eq!(watch.look(&stats, at(start, 59)), 0);
            assert_eq!(watch.health(at(start, 59)).as_str(), "degraded", "{stats}");
            assert_eq!(watch.health(at(start, 60)), Health::Healthy, "{stats}");
        }
    }

    #[test]
    fn what_goes_on_getting_lost_is_added_up_until_a_minute_is_quiet() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let why = |watch: &Watch, now| watch.health(now).why().unwrap_or("").to_owned();
        watch.look(&dropped(DropReason::QueueFull, 1), start);
        assert_eq!(why(&watch, start), "1 span was lost lately (queue_full 1)");
        let mut stats = dropped(DropReason::QueueFull, 4);
        stats.shed = 7;
        assert_eq!(watch.look(&stats, at(start, 50)), 10);
        assert_eq!(why(&watch, at(start, 100)), "11 spans were lost lately (shed 7, queue_full 4)");
        stats.shed = 8;
        assert_eq!(watch.look(&stats, at(start, 110)), 1);
        assert_eq!(why(&watch, at(start, 110)), "1 span was lost lately (shed 1)");
    }

    #[test]
    fn trouble_says_more_than_a_loss_and_a_loss_more_than_the_end() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        watch.ended("it was shut down");
        assert_eq!(watch.health(now).to_string(), "degraded: it was shut down");
        watch.look(&dropped(DropReason::ExportFailed, 3), now);
        assert_eq!(watch.health(now).why(), Some("3 spans were lost lately (export_failed 3)"));
        watch.failed(Fault::Configuration, "the collector answered 404".to_owned());
        assert_eq!(watch.health(now).to_string(), "misconfigured: the collector answered 404");
        assert_eq!(watch.health(at(now, 3_600)).as_str(), "misconfigured");
    }

    #[test]
    fn what_is_published_is_what_is_read() {
        let published = Published::default();
        assert_eq!(published.get(), Health::Healthy);
        published.set(Health::Degraded("why".into()));
        assert_eq!(published.get(), Health::Degraded("why".into()));
    }
}
