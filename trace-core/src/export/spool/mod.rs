//! The spool: batches that could not be sent, on disk until they can.
//!
//! It exists for outages longer than memory lasts, for shutdowns with a collector that is away, and for processes that are
//! killed. What is in it is older than what is in memory, and is sent first. What is done when is the
//! [`schedule`](super::schedule)'s decision; here is what is done with the disk, on a thread of its own: a disk that
//! hangs must hold up neither the worker nor the threads that resolve names for it, and names that hang must not hold up
//! the disk.
//!
//! In the order in which a batch passes: [`store`], the directory and its lanes; [`ledger`], which files there are and which go
//! first; [`record`], what a file looks like; [`disk`], the calls.
//!
//! Its limits: it survives the process and not a power cut; a batch may arrive twice; a batch is read whole, so that one which a
//! process with more memory left takes as much here; a copy of the process made by `fork` keeps the directory's lock for as
//! long as it lives.

mod disk;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod faults;
mod ledger;
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub, dead_code, reason = "tests read files too"))]
pub(crate) mod record;
mod store;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use self::disk::Disk;
use self::store::Store;
use super::batch::Batch;
use super::message::Message;
use super::retry::Problem;
use crate::config::SpoolConfig;
use crate::context::be_quiet;
use crate::telemetry::DropReason;

pub(crate) use self::store::StoreError;

/// How long a directory that could not be opened is left alone.
const OPEN_AGAIN: Duration = Duration::from_secs(10);

/// By which the worker reaches the spool's thread. Answers come in the order of what was asked for.
#[derive(Debug)]
pub(crate) struct Spool {
    jobs: Option<std_mpsc::Sender<Job>>,
    events: mpsc::UnboundedReceiver<Event>,
    is_given_up: Arc<AtomicBool>,
}

/// What the spool tells.
#[derive(Debug)]
pub(crate) enum Event {
    /// The directory was opened, or cannot be used for now. Told once at the start.
    Opened { is_usable: bool },
    /// So many spans of earlier processes were found.
    Recovered(u64),
    /// Spans that were on disk are lost.
    Lost { spans: u64, reason: DropReason },
    /// Something to be reported.
    Trouble(Problem),
    /// The answer to [`put`](Spool::put).
    Stored(Result<(), StoreError>),
    /// The answer to [`take_oldest`](Spool::take_oldest).
    Oldest(io::Result<Option<Found>>),
}

/// A batch that was read.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(crate) spans: u64,
    /// An OTLP request.
    pub(crate) message: Bytes,
}

#[derive(Debug)]
enum Job {
    Put { batch: Arc<Batch>, stamp: u64, may_have_arrived: bool },
    TakeOldest,
    PutBack { may_have_arrived: bool },
    Remove { number: u64 },
}

impl Spool {
    /// Starts the thread. `resource` is encoded as the field of `ResourceSpans`; `first_stamp` is not above that of any
    /// batch that will be put.
    pub(crate) fn start(config: SpoolConfig, resource: Vec<u8>, first_stamp: u64) -> io::Result<Self> {
        let (jobs, receiver) = std_mpsc::channel();
        let (teller, events) = mpsc::unbounded_channel();
        let is_given_up = Arc::<AtomicBool>::default();
        let keeper = Keeper {
            config,
            resource,
            first_stamp,
            store: None,
            open_at: Instant::now(),
            is_given_up: Arc::clone(&is_given_up),
        };
        std::thread::Builder::new().name("trace-spool".to_owned()).spawn(move || {
            be_quiet();
            // Whoever does not listen any more does not want to know.
            keeper.run(receiver, &mut |event| drop(teller.send(event)));
        })?;
        Ok(Self { jobs: Some(jobs), events, is_given_up })
    }

    /// Asks for a batch to be written. `false` if there is nobody to do it.
    #[must_use]
    pub(crate) fn put(&self, batch: Arc<Batch>, stamp: u64, may_have_arrived: bool) -> bool {
        self.ask(Job::Put { batch, stamp, may_have_arrived })
    }

    /// Asks for the oldest batch, to be sent. `false` if there is nobody to give it.
    #[must_use]
    pub(crate) fn take_oldest(&self) -> bool {
        self.ask(Job::TakeOldest)
    }

    /// The batch that was taken is not sent any more, and stays.
    pub(crate) fn put_back(&self, may_have_arrived: bool) {
        let _ = self.ask(Job::PutBack { may_have_arrived });
    }

    /// The batch that was taken is settled.
    pub(crate) fn remove(&self, number: u64) {
        let _ = self.ask(Job::Remove { number });
    }

    fn ask(&self, job: Job) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
    }

    /// What the spool has to tell; `None` when its thread has ended.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }

    /// Nothing that is not written yet is worth writing any more.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    /// Lets go of the directory when all that was asked for is done. What is still to be told comes by
    /// [`next`](Self::next).
    pub(crate) fn close(&mut self) {
        self.jobs = None;
    }

    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

/// The thread's own side.
struct Keeper {
    config: SpoolConfig,
    resource: Vec<u8>,
    first_stamp: u64,
    store: Option<Store>,
    /// When it is worth trying to open the directory.
    open_at: Instant,
    is_given_up: Arc<AtomicBool>,
}

impl Keeper {
    fn run(mut self, jobs: std_mpsc::Receiver<Job>, tell: &mut dyn FnMut(Event)) {
        let is_usable = self.open(tell).is_some();
        tell(Event::Opened { is_usable });
        for job in jobs {
            match job {
                Job::Put { batch, stamp, may_have_arrived } => {
                    let stored = self.put(batch, stamp, may_have_arrived, tell);
                    tell(Event::Stored(stored));
                }
                Job::TakeOldest => {
                    let oldest = match self.open(tell) {
                        Some(store) => store.take_oldest(tell),
                        None => Ok(None),
                    };
                    tell(Event::Oldest(oldest));
                }
                Job::PutBack { may_have_arrived } => {
                    if let Some(store) = &mut self.store {
                        store.put_back(may_have_arrived);
                    }
                }
                Job::Remove { number } => {
                    if let Some(store) = &mut self.store {
                        store.remove(number, tell);
                    }
                }
            }
        }
    }

    fn put(
        &mut self,
        batch: Arc<Batch>,
        stamp: u64,
        may_have_arrived: bool,
        tell: &mut dyn FnMut(Event),
    ) -> Result<(), StoreError> {
        let is_given_up = Arc::clone(&self.is_given_up);
        if is_given_up.load(Ordering::Relaxed) {
            return Err(StoreError::Failed);
        }
        let message = Message::new(batch, &self.resource);
        let store = self.open(tell).ok_or(StoreError::Failed)?;
        store.put(stamp, may_have_arrived, &message, &is_given_up, tell)
    }

    /// The store, opened now if it is not and the time has come.
    fn open(&mut self, tell: &mut dyn FnMut(Event)) -> Option<&mut Store> {
        if self.store.is_none() && Instant::now() >= self.open_at {
            #[cfg(any(test, feature = "testing"))]
            let disk = Disk::with_faults(self.config.faults.clone());
            #[cfg(not(any(test, feature = "testing")))]
            let disk = Disk::default();
            let SpoolConfig { directory, bytes_max, .. } = &self.config;
            match Store::open(disk, directory, *bytes_max, self.first_stamp, tell) {
                Ok(store) => self.store = Some(store),
                Err(error) => {
                    tell(Event::Trouble(store::unusable(directory, &error)));
                    self.open_at = Instant::now() + OPEN_AGAIN;
                }
            }
        }
        self.store.as_mut()
    }
}

#[cfg(test)]
mod tests;
