use std::fs;
use std::path::{Path, PathBuf};

use super::faults::{DiskFault, DiskFaults};
use super::store::Store;
use super::*;
use crate::export::batch::{BatchLimits, Waiting};
use crate::export::fixture::part;
use crate::export::retry::ProblemKind;

/// A directory for one test, removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trace-core-spool-{}-{name}", std::process::id()));
        // One that is left over from a process that had the same id.
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// The names of all files, with their lanes.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for lane in fs::read_dir(&self.0).unwrap() {
            for file in fs::read_dir(lane.unwrap().path()).unwrap() {
                let file = file.unwrap().path();
                if file.file_name().unwrap() != "lock" {
                    files.push(file);
                }
            }
        }
        files.sort_unstable();
        files
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const BYTES_MAX: u64 = 1 << 20;

fn batch(spans: usize) -> Batch {
    let mut waiting = Waiting::new(BatchLimits { bytes_max: usize::MAX, spans_max: usize::MAX });
    (0..spans).for_each(|_| waiting.push(part(1)));
    waiting.take_batch().unwrap()
}

/// A store and what it told.
struct Desk {
    store: Store,
    events: Vec<Event>,
}

impl Desk {
    fn open(directory: &Path) -> Self {
        Self::try_open(directory, BYTES_MAX, 1_000, &DiskFaults::default()).unwrap()
    }

    fn try_open(directory: &Path, bytes_max: u64, first_stamp: u64, faults: &DiskFaults) -> io::Result<Self> {
        let mut events = Vec::new();
        let disk = Disk::with_faults(faults.clone());
        let store = Store::open(disk, directory, bytes_max, first_stamp, &mut |event| events.push(event))?;
        Ok(Self { store, events })
    }

    fn put(&mut self, stamp: u64, spans: usize) -> Result<(), StoreError> {
        self.put_sent(stamp, spans, false)
    }

    fn put_sent(&mut self, stamp: u64, spans: usize, may_have_arrived: bool) -> Result<(), StoreError> {
        let message = Message::new(Arc::new(batch(spans)), b"");
        let events = &mut self.events;
        self.store
            .put(stamp, may_have_arrived, &message, &AtomicBool::new(false), &mut |event| events.push(event))
    }

    /// The spans of the oldest batch.
    fn take(&mut self) -> Option<Found> {
        let events = &mut self.events;
        self.store.take_oldest(&mut |event| events.push(event)).unwrap()
    }

    /// The spans of all batches in order, each removed when it was read.
    fn drain(&mut self) -> Vec<u64> {
        let mut spans = Vec::new();
        while let Some(found) = self.take() {
            let events = &mut self.events;
            self.store.remove(found.number, &mut |event| events.push(event));
            spans.push(found.spans);
        }
        spans
    }

    fn recovered(&self) -> u64 {
        let recovered = |event: &Event| if let Event::Recovered(spans) = event { Some(*spans) } else { None };
        self.events.iter().filter_map(recovered).sum()
    }

    fn lost(&self) -> Vec<(u64, DropReason)> {
        let lost = |event: &Event| match event {
            Event::Lost { spans, reason } => Some((*spans, *reason)),
            _ => None,
        };
        self.events.iter().filter_map(lost).collect()
    }

    fn troubles(&self) -> Vec<ProblemKind> {
        let trouble =
            |event: &Event| if let Event::Trouble(problem) = event { Some(problem.kind) } else { None };
        self.events.iter().filter_map(trouble).collect()
    }
}

#[test]
fn batches_come_back_in_order_also_after_a_restart_with_a_clock_that_was_set_back() {
    let directory = Directory::new("order");
    let mut first = Desk::open(&directory.0);
    assert_eq!(first.recovered(), 0);
    // The batch that was made first may be written last.
    for (stamp, spans) in [(1_002, 2), (1_005, 3), (1_001, 1)] {
        first.put(stamp, spans).unwrap();
    }
    let found = first.take().unwrap();
    assert_eq!(found.spans, 1);
    let message = Message::new(Arc::new(batch(1)), b"");
    assert_eq!(found.message, message.pieces().collect::<Vec<_>>().concat());
    drop(first);

    let mut second = Desk::try_open(&directory.0, BYTES_MAX, 10, &DiskFaults::default()).unwrap();
    assert_eq!(second.recovered(), 6);
    second.put(10, 4).unwrap();
    second.put(11, 5).unwrap();
    assert_eq!(second.drain(), [1, 2, 3, 4, 5]);
    assert_eq!(directory.files(), [] as [PathBuf; 0]);
    assert!(second.lost().is_empty() && second.troubles().is_empty(), "{:?}", second.events);
}

#[test]
fn two_stores_of_one_directory_do_not_mix_and_a_later_one_takes_over_what_is_left() {
    let directory = Directory::new("lanes");
    let (mut one, mut other) = (Desk::open(&directory.0), Desk::open(&directory.0));
    for (stamp, spans) in [(1_010, 1), (1_030, 3)] {
        one.put(stamp, spans).unwrap();
    }
    for (stamp, spans) in [(1_010, 11), (1_020, 2), (1_040, 4)] {
        other.put(stamp, spans).unwrap();
    }
    assert_eq!(one.take().unwrap().spans, 1);
    assert_eq!(other.take().unwrap().spans, 11);
    let mut third = Desk::open(&directory.0);
    assert_eq!(third.recovered(), 0, "both are in use");
    assert!(third.take().is_none());
    drop((one, other, third));

    let mut last = Desk::open(&directory.0);
    assert_eq!(last.recovered(), 21);
    assert_eq!(last.drain(), [1, 11, 2, 3, 4]);
}

#[test]
fn the_oldest_are_dropped_when_the_directory_is_full() {
    let directory = Directory::new("full");
    let mut desk = Desk::try_open(&directory.0, 3 * 4096, 1_000, &DiskFaults::default()).unwrap();
    desk.put_sent(1_001, 1, true).unwrap();
    desk.put(1_002, 2).unwrap();
    assert_eq!(desk.take().unwrap().spans, 1);
    desk.put(1_003, 3).unwrap();
    assert_eq!(desk.lost(), []);
    desk.put(1_004, 4).unwrap();
    assert_eq!(desk.lost(), [(2, DropReason::SpoolFull)], "the oldest is being sent");
    desk.store.put_back(false);
    desk.put(1_005, 5).unwrap();
    assert_eq!(desk.lost()[1..], [(1, DropReason::OutcomeUnknown)], "a collector may have it");
    assert_eq!(desk.troubles(), [ProblemKind::SpoolFull; 2]);
    drop(desk);

    let mut smaller = Desk::try_open(&directory.0, 2 * 4096, 1_000, &DiskFaults::default()).unwrap();
    assert_eq!(smaller.recovered(), 12);
    assert_eq!(smaller.lost(), [(3, DropReason::OutcomeUnknown)], "it may have been on its way");
    assert_eq!(smaller.put(1_006, 9_000), Err(StoreError::Full));
    assert_eq!(smaller.drain(), [4, 5]);
}

#[test]
fn a_file_that_was_torn_or_changed_is_dropped_and_what_it_says_of_its_spans_is_believed_if_it_can_be() {
    let directory = Directory::new("damage");
    let mut desk = Desk::open(&directory.0);
    for spans in 1..=6 {
        desk.put(1_000 + spans, spans as usize).unwrap();
    }
    drop(desk);
    let files = directory.files();
    let change = |at: usize, file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        bytes[at] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    change(5, &files[0]);
    change(40, &files[1]);
    let torn = fs::read(&files[2]).unwrap();
    fs::write(&files[2], &torn[..torn.len() - 1]).unwrap();
    fs::write(&files[3], b"").unwrap();
    fs::write(files[4].with_extension("tmp"), b"half").unwrap();
    fs::write(files[4].with_file_name("readme.txt"), b"not ours").unwrap();

    let mut desk = Desk::open(&directory.0);
    assert_eq!(desk.recovered(), 2 + 3 + 5 + 6, "nothing is known of the first and the fourth");
    assert_eq!(desk.lost(), [(3, DropReason::SpoolCorrupted)]);
    assert_eq!(desk.drain(), [5, 6]);
    // The oldest that was left may have been on its way when its process died.
    assert_eq!(desk.lost()[1..], [(2, DropReason::OutcomeUnknown)]);
    assert_eq!(desk.troubles(), [ProblemKind::SpoolCorrupted; 4]);
    let left: Vec<_> = directory.files().iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["readme.txt"]);
}

#[test]
fn a_disk_that_fails_leaves_nothing_half_written_that_is_believed() {
    let directory = Directory::new("faults");
    let faults = DiskFaults::default();
    let mut desk = Desk::try_open(&directory.0, BYTES_MAX, 1_000, &faults).unwrap();
    desk.put(1_001, 1).unwrap();
    for fault in [DiskFault::Full, DiskFault::ReadOnly, DiskFault::Broken] {
        faults.behave(fault);
        assert_eq!(desk.put(1_002, 2), Err(StoreError::Failed), "{fault:?}");
        faults.behave(DiskFault::None);
        assert_eq!(directory.files().len(), 1, "{fault:?}");
    }
    // As after a power cut: the write seemed to succeed.
    faults.behave(DiskFault::Torn);
    desk.put(1_003, 3).unwrap();
    faults.behave(DiskFault::None);
    desk.put(1_004, 4).unwrap();
    assert_eq!(desk.drain(), [1, 4]);
    assert_eq!(desk.lost(), [(3, DropReason::SpoolCorrupted)]);

    desk.put(1_005, 5).unwrap();
    faults.behave(DiskFault::Broken);
    for _ in 0..2 {
        let events = &mut desk.events;
        assert!(desk.store.take_oldest(&mut |event| events.push(event)).is_err(), "it may be well again");
    }
    assert!(desk.take().is_none(), "it is broken");
    assert_eq!(desk.lost()[1..], [(5, DropReason::SpoolFailed)]);
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error() {
    let directory = Directory::new("unusable");
    fs::write(&directory.0, b"a file").unwrap();
    assert!(Desk::try_open(&directory.0.join("below"), BYTES_MAX, 1, &DiskFaults::default()).is_err());
    fs::remove_file(&directory.0).unwrap();
    let faults = DiskFaults::default();
    faults.behave(DiskFault::ReadOnly);
    assert!(Desk::try_open(&directory.0, BYTES_MAX, 1, &faults).is_err());
}

#[cfg(unix)]
#[test]
fn what_is_on_disk_is_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;

    let directory = Directory::new("mode");
    let mut desk = Desk::open(&directory.0);
    desk.put(1_001, 1).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory.0), mode(&directory.files()[0])), (0o700, 0o600));
}

#[test]
fn a_batch_that_is_given_up_is_not_written_any_more() {
    let directory = Directory::new("given-up");
    let mut spool = Spool::start(SpoolConfig::new(&directory.0), Vec::new(), 1).unwrap();
    spool.give_up();
    assert!(spool.put(Arc::new(batch(3)), 2, false));
    spool.close();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut told = Vec::new();
    while let Some(event) = runtime.block_on(spool.next()) {
        told.push(event);
    }
    let [Event::Recovered(0), Event::Opened { is_usable: true }, Event::Stored(Err(StoreError::Failed))] =
        told[..]
    else {
        panic!("{told:?}")
    };
    assert!(directory.files().is_empty());
    // The lock goes with the thread.
    assert!(Desk::open(&directory.0).lost().is_empty());
    assert!(!directory.0.join("lane-001").exists());
}
