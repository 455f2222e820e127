//! The log's newest entries in memory: what replication and apply read.
//!
//! Every entry is read three times soon after it was appended (two followers and apply); none of these reads may touch the
//! database. The tail follows `append`, `truncate` and `purge` at once, before the writer thread has seen them, so an entry
//! can be read the moment `append` returns. Entries leave it from the front when they are on disk and the tail is above its
//! byte limit; what lies before the tail is read from the group rows.
//!
//! ```text
//! purged │ only on disk  │ tail: in memory, maybe also on disk │ next append
//!        └ start         └ first                               └ last + 1
//! ```
//!
//! Invariants
//! * An entry leaves the tail by eviction only after the batch that holds it was written.
//! * `generation` grows with every truncation: an index read from disk under an older one may be of a dropped entry.
//!
//! Never here: IO.

use std::collections::VecDeque;
use std::ops::Range;

use super::encoding::entry_size;
use crate::raft::types::{Entry, LogId};

/// The entries of a range that the tail holds, and where to look for the rest.
#[derive(Debug)]
pub(super) struct Found {
    /// Indices of the range that only the database holds; they come before `entries`.
    pub(super) cold: Range<u64>,
    /// The rest of the range, as far as the byte limit allows; empty if the cold part alone reaches it.
    pub(super) entries: Vec<Entry>,
    /// The tail's generation at this moment.
    pub(super) generation: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    /// Index of the first entry in memory, or of the next one to come.
    first: u64,
    /// Index of the first entry of the log, on disk or in memory; `first` if there is none.
    start: u64,
    bytes: usize,
    limit: usize,
    purged: Option<LogId>,
    last: Option<LogId>,
    generation: u64,
}

impl Tail {
    /// The tail of an empty log that was purged up to `purged`; it keeps about `limit` bytes of written entries.
    pub(super) fn new(purged: Option<LogId>, limit: usize) -> Tail {
        let first = purged.map_or(0, |id| id.index + 1);
        let entries = VecDeque::new();
        Tail { entries, first, start: first, bytes: 0, limit, purged, last: purged, generation: 0 }
    }

    /// Id of the last purged entry.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Id of the last entry, or of the last purged one if there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last
    }

    /// Counts truncations.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds `entry` behind the last one. An empty log that was never purged may begin anywhere.
    pub(super) fn push(&mut self, entry: Entry) {
        let index = entry.log_id.index;
        if self.last.is_none() {
            (self.first, self.start) = (index, index);
        }
        let next = self.first + self.entries.len() as u64;
        assert!(index == next, "the log grows without a hole: {} after {:?}", entry.log_id, self.last);
        self.last = Some(entry.log_id);
        self.bytes += entry_size(&entry);
        self.entries.push_back(entry);
    }

    /// Drops everything after `keep`; returns the new last id, or `None` if there was nothing to drop.
    pub(super) fn truncate(&mut self, keep: Option<LogId>) -> Option<Option<LogId>> {
        let last = if keep.is_none_or(|id| id.index < self.start) { self.purged } else { keep };
        if self.last.map(|id| id.index) <= last.map(|id| id.index) {
            return None;
        }
        let from = last.map_or(0, |id| id.index + 1).max(self.start);
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= from) {
            let entry = self.entries.pop_back().expect("the loop's condition found it");
            self.bytes -= entry_size(&entry);
        }
        self.first = self.first.min(from);
        self.last = last;
        self.generation += 1;
        Some(last)
    }

    /// Drops everything up to and including `upto`; false if that was purged before.
    pub(super) fn purge(&mut self, upto: LogId) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.pop_front();
        }
        self.purged = Some(upto);
        self.start = self.start.max(upto.index + 1);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
            self.first = upto.index + 1;
        }
        true
    }

    /// Lets go of entries up to `written`, oldest first, while above the byte limit.
    pub(super) fn evict(&mut self, written: u64) {
        while self.bytes > self.limit && self.entries.front().is_some_and(|entry| entry.log_id.index <= written) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry_size(&entry);
            self.first = entry.log_id.index + 1;
        }
    }

    /// The entries of `range` that the log has, at most about `max_bytes` but at least one of them.
    pub(super) fn find(&self, range: Range<u64>, max_bytes: usize) -> Found {
        let end = range.end.min(self.first + self.entries.len() as u64);
        let begin = range.start.max(self.start);
        let cold = begin..end.min(self.first).max(begin);
        let mut entries = Vec::new();
        let mut bytes = 0;
        let skip = begin.max(self.first) - self.first;
        let wanted = end.saturating_sub(begin.max(self.first));
        for entry in self.entries.iter().skip(skip as usize).take(wanted as usize) {
            bytes += entry_size(entry);
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Found { cold, entries, generation: self.generation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{EntryPayload, Payload, log_id};

    fn tail_of(range: Range<u64>, limit: usize) -> Tail {
        let mut tail = Tail::new(None, limit);
        for index in range {
            let payload = EntryPayload::Normal(Payload::from(vec![0; 79]));
            tail.push(Entry { log_id: log_id(1, index), payload });
        }
        tail
    }

    fn indices(found: &Found) -> Vec<u64> {
        found.entries.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn finds_what_the_log_has() {
        let tail = tail_of(3..8, usize::MAX);
        assert_eq!(indices(&tail.find(0..100, usize::MAX)), [3, 4, 5, 6, 7]);
        assert_eq!(indices(&tail.find(4..6, usize::MAX)), [4, 5]);
        assert_eq!(indices(&tail.find(4..100, 250)), [4, 5], "entries of 100 bytes under a limit of 250");
        assert_eq!(indices(&tail.find(4..100, 1)), [4], "never empty");
        for nothing in [0..3, 5..5, 8..100] {
            let found = tail.find(nothing, usize::MAX);
            assert!(found.entries.is_empty() && found.cold.is_empty(), "{found:?}");
        }
    }

    #[test]
    fn evicts_only_what_is_written() {
        let mut tail = tail_of(0..10, 500);
        tail.evict(2);
        assert_eq!(tail.find(0..100, usize::MAX).cold, 0..3);
        tail.evict(9);
        let found = tail.find(0..100, usize::MAX);
        assert_eq!((found.cold.clone(), indices(&found)), (0..5, vec![5, 6, 7, 8, 9]));
        let found = tail.find(1..4, usize::MAX);
        assert_eq!((found.cold.clone(), indices(&found)), (1..4, vec![]));
    }

    #[test]
    fn truncation_into_the_cold_part_keeps_it_readable() {
        let mut tail = tail_of(0..10, 500);
        tail.evict(9);
        assert_eq!(tail.truncate(Some(log_id(1, 2))), Some(Some(log_id(1, 2))));
        assert_eq!(tail.find(0..100, usize::MAX).cold, 0..3);
        tail.push(Entry { log_id: log_id(2, 3), payload: EntryPayload::Blank });
        let found = tail.find(0..100, usize::MAX);
        assert_eq!((found.cold.clone(), indices(&found)), (0..3, vec![3]));
        assert_eq!(tail.truncate(Some(log_id(2, 3))), None, "nothing behind it");
        assert_eq!(tail.truncate(None), Some(None));
        assert_eq!(tail.last(), None);
    }

    #[test]
    fn purge_may_pass_the_end() {
        let mut tail = tail_of(0..10, usize::MAX);
        assert!(tail.purge(log_id(1, 4)));
        assert!(!tail.purge(log_id(1, 4)), "purged before");
        assert_eq!(indices(&tail.find(0..100, usize::MAX)), [5, 6, 7, 8, 9]);
        assert!(tail.purge(log_id(3, 20)));
        assert_eq!((tail.purged(), tail.last()), (Some(log_id(3, 20)), Some(log_id(3, 20))));
        tail.push(Entry { log_id: log_id(3, 21), payload: EntryPayload::Blank });
        assert_eq!(indices(&tail.find(0..100, usize::MAX)), [21]);
    }
}
