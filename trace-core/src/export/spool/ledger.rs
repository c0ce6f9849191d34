//! Which file of the spool is sent next, and which are dropped when there is no room: decided from what is known of the
//! files, without a disk.
//!
//! Files have numbers, and a smaller number is older. The oldest is sent first, and dropped first: so no file makes room for
//! an older one. Only one that is being sent is never dropped, because nobody could say what became of it.

use std::collections::BTreeMap;

use super::record::Head;
use crate::telemetry::DropReason;

/// What a file takes on disk is a multiple of this, in bytes: file systems give space by blocks.
const BLOCK_BYTES: u64 = 4096;

/// How often a file that cannot be read is tried: once more after a moment for a process that has too many files open,
/// and not for ever for a disk that is broken.
const TRIES_MAX: u8 = 3;

/// A file of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) spans: u64,
    /// Whether a collector may have the batch.
    pub(crate) may_have_arrived: bool,
    /// What it takes on disk.
    bytes: u64,
    /// How often it could not be read.
    failures: u8,
}

/// The files of one spool.
#[derive(Debug)]
pub(crate) struct Ledger {
    bytes_max: u64,
    bytes: u64,
    files: BTreeMap<u64, Entry>,
    /// The file that is being sent.
    in_hand: Option<u64>,
}

impl Entry {
    pub(crate) fn of(head: &Head) -> Self {
        Self {
            spans: head.spans.into(),
            may_have_arrived: head.may_have_arrived,
            bytes: head.file_bytes().next_multiple_of(BLOCK_BYTES),
            failures: 0,
        }
    }

    /// Why its spans are lost, when they are: if a collector may have them, nobody can say more than that.
    pub(crate) const fn reason(&self, reason: DropReason) -> DropReason {
        if self.may_have_arrived { DropReason::OutcomeUnknown } else { reason }
    }
}

impl Ledger {
    pub(crate) const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, files: BTreeMap::new(), in_hand: None }
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.files.contains_key(&number)
    }

    /// The number of the youngest file.
    pub(crate) fn latest(&self) -> Option<u64> {
        self.files.last_key_value().map(|(number, _)| *number)
    }

    /// The spans of all files.
    pub(crate) fn spans(&self) -> u64 {
        self.files.values().map(|entry| entry.spans).sum()
    }

    pub(crate) fn add(&mut self, number: u64, entry: Entry) {
        self.bytes += entry.bytes;
        if let Some(before) = self.files.insert(number, entry) {
            debug_assert!(false, "two files have the same number");
            self.bytes -= before.bytes;
        }
    }

    /// The oldest file, which from now on is being sent.
    pub(crate) fn take_oldest(&mut self) -> Option<u64> {
        self.in_hand = self.files.first_key_value().map(|(number, _)| *number);
        self.in_hand
    }

    /// The file is not being sent any more, and stays; a collector may have its batch now.
    pub(crate) fn put_back(&mut self, may_have_arrived: bool) {
        if let Some(number) = self.in_hand.take()
            && let Some(entry) = self.files.get_mut(&number)
        {
            entry.may_have_arrived |= may_have_arrived;
        }
    }

    /// The file that is being sent could not be read. Says whether it is worth another try.
    pub(crate) fn fail(&mut self) -> bool {
        let Some(entry) = self.in_hand.take().and_then(|number| self.files.get_mut(&number)) else {
            return false;
        };
        entry.failures += 1;
        entry.failures < TRIES_MAX
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Entry> {
        if self.in_hand == Some(number) {
            self.in_hand = None;
        }
        let entry = self.files.remove(&number)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// Which files have to go so that one more fits, the oldest first; `None` if it cannot without younger ones.
    pub(crate) fn room_for(&self, number: u64, entry: &Entry) -> Option<Vec<u64>> {
        let mut excess = (self.bytes + entry.bytes).saturating_sub(self.bytes_max);
        let mut victims = Vec::new();
        for (old, old_entry) in self.files.range(..number) {
            if excess == 0 {
                break;
            }
            if self.in_hand != Some(*old) {
                excess = excess.saturating_sub(old_entry.bytes);
                victims.push(*old);
            }
        }
        (excess == 0).then_some(victims)
    }

    /// Which files are too many, the oldest first.
    pub(crate) fn excess(&self) -> Vec<u64> {
        self.room_for(u64::MAX, &Entry { spans: 0, may_have_arrived: false, bytes: 0, failures: 0 })
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn entry(spans: u32, blocks: u64) -> Entry {
        Entry { spans: spans.into(), may_have_arrived: false, bytes: blocks * BLOCK_BYTES, failures: 0 }
    }

    fn ledger(blocks_max: u64, files: &[(u64, u64)]) -> Ledger {
        let mut ledger = Ledger::new(blocks_max * BLOCK_BYTES);
        files.iter().for_each(|&(number, blocks)| ledger.add(number, entry(1, blocks)));
        ledger
    }

    #[test]
    fn the_oldest_files_make_room_and_no_more_of_them_than_have_to() {
        let ledger = ledger(10, &[(3, 4), (1, 2), (2, 3)]);
        assert_eq!(ledger.room_for(9, &entry(1, 1)), Some(vec![]));
        assert_eq!(ledger.room_for(9, &entry(1, 2)), Some(vec![1]));
        assert_eq!(ledger.room_for(9, &entry(1, 3)), Some(vec![1]));
        assert_eq!(ledger.room_for(9, &entry(1, 4)), Some(vec![1, 2]));
        assert_eq!(ledger.room_for(9, &entry(1, 10)), Some(vec![1, 2, 3]));
        assert_eq!(ledger.room_for(9, &entry(1, 11)), None, "larger than all");
        assert_eq!(ledger.room_for(2, &entry(1, 3)), Some(vec![1]));
        assert_eq!(ledger.room_for(2, &entry(1, 4)), None, "it is the oldest itself");
    }

    #[test]
    fn a_file_that_is_being_sent_is_not_dropped() {
        let mut ledger = ledger(10, &[(1, 2), (2, 3), (3, 4)]);
        assert_eq!(ledger.take_oldest(), Some(1));
        assert_eq!(ledger.room_for(9, &entry(1, 2)), Some(vec![2]));
        assert_eq!(ledger.room_for(9, &entry(1, 9)), None);
        ledger.put_back(true);
        assert_eq!(ledger.room_for(9, &entry(1, 2)), Some(vec![1]));
        assert_eq!(ledger.remove(1).unwrap().reason(DropReason::ExportFailed), DropReason::OutcomeUnknown);
        assert_eq!(ledger.remove(2).unwrap().reason(DropReason::ExportFailed), DropReason::ExportFailed);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_tried_three_times() {
        let mut ledger = ledger(10, &[(1, 1)]);
        for again in [true, true, false] {
            assert_eq!(ledger.take_oldest(), Some(1));
            assert_eq!(ledger.fail(), again);
        }
        assert!(!ledger.fail(), "nothing is in hand");
    }

    proptest! {
        #[test]
        fn files_never_take_more_than_they_may_and_leave_in_order(
            bytes_max in 1u64..20_000,
            sizes in vec(0u64..9_000, 0..40),
        ) {
            let mut ledger = Ledger::new(bytes_max);
            for (number, size) in (1..).zip(sizes) {
                let new = Entry { bytes: size, ..entry(1, 0) };
                let before: Vec<u64> = ledger.files.keys().copied().collect();
                let Some(victims) = ledger.room_for(number, &new) else {
                    prop_assert!(size > bytes_max);
                    continue;
                };
                prop_assert!(before.starts_with(&victims));
                for victim in victims {
                    prop_assert!(ledger.remove(victim).is_some());
                }
                ledger.add(number, new);
                prop_assert!(ledger.bytes <= bytes_max);
                prop_assert!(ledger.excess().is_empty());
            }
            while let Some(oldest) = ledger.take_oldest() {
                ledger.remove(oldest);
            }
            prop_assert_eq!(ledger.bytes, 0);
        }
    }
}
