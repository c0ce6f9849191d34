//! The directory of a spool: who owns it, what was left in it, and how a batch gets in and out.
//!
//! A directory may be given to several pipelines and processes. Each takes a *lane*, a numbered directory in it, by a
//! lock that the system takes back from a process that dies. Whoever starts also takes over the files of every lane that
//! nobody holds. Files are named by the microsecond in which their batch was made, so that order outlives processes.
//!
//! A batch is written under a temporary name and renamed, so that a process that is killed leaves it whole or not at all.
//! It is not forced to the platter: what a power cut tears is found by its checksum, and dropped.
//!
//! Everything here may block; it is used by the spool's own thread.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::disk::Disk;
use super::ledger::{Entry, Ledger};
use super::record::{HEAD_BYTES, Head, SpoolRecord, SpoolRecordError};
use super::{Event, Found};
use crate::export::message::Message;
use crate::export::retry::{Problem, ProblemKind};
use crate::telemetry::DropReason;

/// The most lanes: so many pipelines at a time may share a directory.
const LANES_MAX: usize = 256;

/// What is in a lane besides batches.
const LOCK: &str = "lock";

/// What the name of a whole batch ends with.
const WHOLE: &str = ".spans";

/// What the name of a batch ends with that is being written.
const TEMPORARY: &str = ".tmp";

/// The digits of a name: as many as any number needs.
const DIGITS: usize = 20;

pub(super) struct Store {
    disk: Disk,
    lane: PathBuf,
    ledger: Ledger,
    /// Added to the stamp of a batch, so that its number is beyond those that were found: the clock may have been
    /// set back.
    shift: u64,
    /// Held for its lock.
    _lock: File,
}

/// Why a batch was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// There is no room for it but that of younger ones.
    Full,
    /// The disk does not take it, or not in time.
    Failed,
}

impl Store {
    /// Opens a directory, takes a lane, and takes stock of what was left. `first_stamp` is not above that of any batch that
    /// will be stored.
    pub(super) fn open(
        disk: Disk,
        directory: &Path,
        bytes_max: u64,
        first_stamp: u64,
        tell: &mut dyn FnMut(Event),
    ) -> io::Result<Self> {
        disk.create_directory(directory)?;
        let (lane, lock) = take_lane(&disk, directory)?;
        let mut found = Findings::default();
        let mut store = Self { disk, lane, ledger: Ledger::new(bytes_max), shift: 0, _lock: lock };
        for (number, entry) in store.look_into(&store.lane, &mut found)? {
            store.ledger.add(number, entry);
        }
        // What others left is not worth failing for.
        if let Err(error) = store.take_over_lanes(directory, &mut found) {
            found.troubles.push(trouble(&error));
        }
        if let Some(latest) = store.ledger.latest() {
            store.shift = (latest + 1).saturating_sub(first_stamp);
        }
        tell(Event::Recovered(store.ledger.spans() + found.lost));
        found.troubles.into_iter().for_each(|problem| tell(Event::Trouble(problem)));
        if found.lost > 0 {
            tell(Event::Lost { spans: found.lost, reason: DropReason::SpoolCorrupted });
        }
        for number in store.ledger.excess() {
            // If it cannot be removed now, it may be later.
            if let Err(error) = store.drop_oldest(number, tell) {
                tell(Event::Trouble(trouble(&error)));
                break;
            }
        }
        Ok(store)
    }

    /// Writes a batch to disk. When this returns, the batch survives the process. `is_given_up` may become true meanwhile.
    pub(super) fn put(
        &mut self,
        stamp: u64,
        may_have_arrived: bool,
        message: &Message,
        is_given_up: &AtomicBool,
        tell: &mut dyn FnMut(Event),
    ) -> Result<(), StoreError> {
        let head = Head::of(message.spans(), may_have_arrived, message.pieces());
        let entry = Entry::of(&head);
        let mut number = stamp + self.shift;
        while self.ledger.contains(number) {
            number += 1;
        }
        let Some(victims) = self.ledger.room_for(number, &entry) else {
            tell(Event::Trouble(Problem::new(ProblemKind::SpoolFull, "")));
            return Err(StoreError::Full);
        };
        let (temporary, whole) = (self.path(number, TEMPORARY), self.path(number, WHOLE));
        let written = (|| {
            for victim in victims {
                self.drop_oldest(victim, tell)?;
            }
            self.disk.write(&temporary, [&head.write()[..]].into_iter().chain(message.pieces()))?;
            if is_given_up.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.disk.rename(&temporary, &whole)
        })();
        if let Err(error) = written {
            // It is gone, or the next start removes it.
            let _ = self.disk.remove(&temporary);
            tell(Event::Trouble(trouble(&error)));
            return Err(StoreError::Failed);
        }
        self.ledger.add(number, entry);
        Ok(())
    }

    /// Reads the oldest batch, to be sent. Those that are damaged are dropped on the way.
    ///
    /// # Errors
    /// The disk does not give it now.
    pub(super) fn take_oldest(&mut self, tell: &mut dyn FnMut(Event)) -> io::Result<Option<Found>> {
        while let Some(number) = self.ledger.take_oldest() {
            let file = match self.disk.read(&self.path(number, WHOLE)) {
                Ok(file) => file,
                Err(error) => {
                    let is_gone = error.kind() == io::ErrorKind::NotFound;
                    tell(Event::Trouble(trouble(&error)));
                    if self.ledger.fail() && !is_gone {
                        return Err(error);
                    }
                    self.drop_damaged(number, DropReason::SpoolFailed, tell);
                    continue;
                }
            };
            match SpoolRecord::read(&file) {
                Ok(record) => {
                    let spans = record.spans.into();
                    return Ok(Some(Found { number, spans, message: Bytes::from(file).slice(HEAD_BYTES..) }));
                }
                Err(error) => {
                    tell(Event::Trouble(damage(number, error)));
                    self.drop_damaged(number, DropReason::SpoolCorrupted, tell);
                }
            }
        }
        Ok(None)
    }

    /// The batch that was being sent stays.
    pub(super) fn put_back(&mut self, may_have_arrived: bool) {
        self.ledger.put_back(may_have_arrived);
    }

    /// The batch that was being sent is settled.
    pub(super) fn remove(&mut self, number: u64, tell: &mut dyn FnMut(Event)) {
        self.ledger.remove(number);
        if let Err(error) = self.remove_file(number) {
            tell(Event::Trouble(trouble(&error)));
        }
    }

    /// Makes room. A file that cannot be removed stays, and keeps its place.
    fn drop_oldest(&mut self, number: u64, tell: &mut dyn FnMut(Event)) -> io::Result<()> {
        self.remove_file(number)?;
        if let Some(entry) = self.ledger.remove(number) {
            let reason = entry.reason(DropReason::SpoolFull);
            tell(Event::Lost { spans: entry.spans, reason });
            tell(Event::Trouble(Problem::new(ProblemKind::SpoolFull, "")));
        }
        Ok(())
    }

    fn drop_damaged(&mut self, number: u64, reason: DropReason, tell: &mut dyn FnMut(Event)) {
        if let Some(entry) = self.ledger.remove(number) {
            tell(Event::Lost { spans: entry.spans, reason: entry.reason(reason) });
        }
        if let Err(error) = self.remove_file(number) {
            tell(Event::Trouble(trouble(&error)));
        }
    }

    fn remove_file(&self, number: u64) -> io::Result<()> {
        match self.disk.remove(&self.path(number, WHOLE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// The batches in a lane, in order, after removing what is none.
    fn look_into(&self, lane: &Path, found: &mut Findings) -> io::Result<Vec<(u64, Entry)>> {
        let mut files = Vec::new();
        for name in self.disk.names(lane)? {
            let path = lane.join(&name);
            if number_in(&name, TEMPORARY).is_some() {
                // Its process was killed while it wrote.
                let _ = self.disk.remove(&path);
                continue;
            }
            let Some(number) = number_in(&name, WHOLE) else { continue };
            match self.disk.read_head(&path) {
                Ok((head, length)) => match check(&head, length) {
                    Ok(head) => files.push((number, Entry::of(&head))),
                    Err(error) => {
                        found.lost += u64::from(error.spans().unwrap_or(0));
                        found.troubles.push(damage(number, error));
                        let _ = self.disk.remove(&path);
                    }
                },
                Err(error) => found.troubles.push(trouble(&error)),
            }
        }
        files.sort_unstable_by_key(|(number, _)| *number);
        // The oldest is the one that may have been on its way when its process was killed.
        if let Some((_, oldest)) = files.first_mut() {
            oldest.may_have_arrived = true;
        }
        Ok(files)
    }

    /// Moves the batches of lanes that nobody holds into the own one.
    fn take_over_lanes(&mut self, directory: &Path, found: &mut Findings) -> io::Result<()> {
        let mut lanes: Vec<_> =
            self.disk.names(directory)?.into_iter().filter(|name| is_lane(name)).collect();
        lanes.sort_unstable();
        for lane in lanes.iter().map(|name| directory.join(name)) {
            if lane == self.lane {
                continue;
            }
            if let Err(error) = self.take_over(&lane, found) {
                found.troubles.push(trouble(&error));
            }
        }
        Ok(())
    }

    fn take_over(&mut self, lane: &Path, found: &mut Findings) -> io::Result<()> {
        let Some(_lock) = self.disk.lock(&lane.join(LOCK))? else { return Ok(()) };
        let mut next = 0;
        for (number, entry) in self.look_into(lane, found)? {
            let mut own = number.max(next);
            while self.ledger.contains(own) {
                own += 1;
            }
            self.disk.rename(&lane.join(file_name(number, WHOLE)), &self.path(own, WHOLE))?;
            self.ledger.add(own, entry);
            next = own + 1;
        }
        Ok(())
    }

    fn path(&self, number: u64, ending: &str) -> PathBuf {
        self.lane.join(file_name(number, ending))
    }
}

/// What a look at the files brought besides batches.
#[derive(Default)]
struct Findings {
    /// Spans that damaged files say they had.
    lost: u64,
    troubles: Vec<Problem>,
}

/// The first lane that nobody holds.
fn take_lane(disk: &Disk, directory: &Path) -> io::Result<(PathBuf, File)> {
    let mut obstacle = io::Error::other("all lanes are taken");
    for number in 0..LANES_MAX {
        let lane = directory.join(format!("lane-{number:03}"));
        match disk.create_directory(&lane).and_then(|()| disk.lock(&lane.join(LOCK))) {
            Ok(Some(lock)) => return Ok((lane, lock)),
            Ok(None) => {}
            // It may belong to another user.
            Err(error) => obstacle = error,
        }
    }
    Err(obstacle)
}

fn is_lane(name: &str) -> bool {
    name.strip_prefix("lane-").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn file_name(number: u64, ending: &str) -> String {
    format!("{number:0DIGITS$}{ending}")
}

fn number_in(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    let is_ours = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Room above, for those that come after it.
    is_ours.then(|| digits.parse().ok()).flatten().filter(|number| *number < u64::MAX / 2)
}

/// The head of a file, if the file is as long as it says.
fn check(head: &[u8], length: u64) -> Result<Head, SpoolRecordError> {
    let head = Head::read(head.first_chunk().ok_or(SpoolRecordError::Head)?)?;
    if head.file_bytes() == length { Ok(head) } else { Err(SpoolRecordError::Length { spans: head.spans }) }
}

fn trouble(error: &io::Error) -> Problem {
    Problem::new(ProblemKind::SpoolFailed, error.to_string())
}

/// Why a directory cannot be used.
pub(super) fn unusable(directory: &Path, error: &io::Error) -> Problem {
    Problem::new(ProblemKind::SpoolFailed, format!("{}: {error}", directory.display()))
}

fn damage(number: u64, error: SpoolRecordError) -> Problem {
    Problem::new(ProblemKind::SpoolCorrupted, format!("{}: {error}", file_name(number, WHOLE)))
}
