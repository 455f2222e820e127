//! The chain of groups: what ties every entry on disk to the head row.
//!
//! All entries written in one batch form a group, one row. A group's chain value hashes the value before it and the
//! group's bytes, and the head row holds the last value. So whoever walks the rows from the anchor and arrives at the head's
//! value has seen every entry that was written, in order, unchanged; a row that was lost, came back or was changed makes
//! the walk end elsewhere.
//!
//! ```text
//! anchor ──> g@5 ──> g@9 ──> g@10 ──> head.chain          truncate: the last kept group is rewritten, the rest dropped
//!   └ moved up by purge                                   purge past the end: a new anchor, no group
//! ```
//!
//! [`Chain`] is the writer's picture of these rows; [`Draft`] gathers the changes of one queue drain in one write batch.
//!
//! Invariants
//! * Groups are contiguous, and the first of them holds or follows the last purged index (a log that was never purged may
//!   begin anywhere).
//! * Every batch holds the head row with the next number: a batch that is lost leaves a lower number behind.
//!
//! Never here: when to sync, who waits for it.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use rocksdb::{DB, WriteBatch};

use super::encoding::{DecodeError, put_entry, put_log_id, take_entry};
use super::row;
use super::row::Head;
use crate::raft::types::{Entry, LogId};

/// Bytes of a group row before its entries: format and chain value.
const GROUP_HEADER: usize = 1 + 16;

/// A link of the chain: the first 128 bits of a BLAKE3 hash. Against accidents, not against forgers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ChainValue(pub(super) u128);

impl ChainValue {
    /// The value after a group with these bytes.
    pub(super) fn then(self, bytes: &[u8]) -> ChainValue {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0.to_le_bytes());
        hasher.update(bytes);
        let hash = hasher.finalize();
        let half = hash.as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes");
        ChainValue(u128::from_le_bytes(*half))
    }
}

/// Where the chain begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Anchor {
    /// Rows below this index are no part of the log.
    pub(super) first: u64,
    /// The value before the first group.
    pub(super) chain: ChainValue,
}

/// One group row as the chain remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    /// Index of its first entry, and its key.
    pub(super) first: u64,
    /// Index of its last entry.
    pub(super) last: u64,
    /// The chain value after it.
    pub(super) chain: ChainValue,
}

/// Encoded entries, and where each begins.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    entries: Vec<(LogId, usize)>,
}

impl Encoded {
    /// Encodes `entry` behind the others.
    pub(super) fn push(&mut self, entry: &Entry) {
        self.entries.push((entry.log_id, self.bytes.len()));
        put_entry(&mut self.bytes, entry);
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    fn first(&self) -> Option<u64> {
        self.entries.first().map(|(id, _)| id.index)
    }

    /// Id of the last entry.
    pub(super) fn last(&self) -> Option<&LogId> {
        self.entries.last().map(|(id, _)| id)
    }

    fn append(&mut self, mut other: Encoded) {
        let shift = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.entries.extend(other.entries.into_iter().map(|(id, at)| (id, at + shift)));
    }

    /// Drops the entries from index `from` on.
    fn truncate(&mut self, from: u64) {
        let keep = self.entries.partition_point(|(id, _)| id.index < from);
        if let Some((_, at)) = self.entries.get(keep) {
            self.bytes.truncate(*at);
            self.entries.truncate(keep);
        }
    }

    /// Drops the entries up to and including `upto`.
    fn purge(&mut self, upto: u64) {
        let drop = self.entries.partition_point(|(id, _)| id.index <= upto);
        let cut = self.entries.get(drop).map_or(self.bytes.len(), |(_, at)| *at);
        self.bytes.drain(..cut);
        self.entries.drain(..drop);
        self.entries.iter_mut().for_each(|(_, at)| *at -= cut);
    }
}

/// The value of a group row.
pub(super) fn group_row(chain: ChainValue, entries: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(GROUP_HEADER + entries.len());
    row.push(row::FORMAT);
    row.extend_from_slice(&chain.0.to_le_bytes());
    row.extend_from_slice(entries);
    row
}

/// Splits the value of a group row into the chain value after it and its entries' bytes.
pub(super) fn open_group(mut row: Bytes) -> Result<(ChainValue, Bytes), DecodeError> {
    let format = super::encoding::take_u8(&mut row, "a group's format")?;
    if format != row::FORMAT {
        return Err(DecodeError::Unknown { what: "group format", value: format.into() });
    }
    Ok((ChainValue(super::encoding::take_u128(&mut row, "a group's chain value")?), row))
}

/// The rows of the log as the last written batch left them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Chain {
    /// The head row.
    pub(super) head: Head,
    /// The groups from the anchor on.
    pub(super) groups: VecDeque<Group>,
}

/// The changes of one queue drain, on their way into one write batch.
pub(super) struct Draft<'a> {
    chain: &'a mut Chain,
    db: &'a DB,
    batch: WriteBatch,
    pending: Encoded,
}

impl<'a> Draft<'a> {
    /// An empty draft on top of `chain`, which follows the draft's changes at once: a draft must be written.
    pub(super) fn new(chain: &'a mut Chain, db: &'a DB) -> Draft<'a> {
        Draft { chain, db, batch: WriteBatch::default(), pending: Encoded::default() }
    }

    /// Writes a small row.
    pub(super) fn put(&mut self, key: &[u8], row: &[u8]) {
        self.batch.put(key, row);
    }

    /// Writes the vote row, and its checksum into the head.
    pub(super) fn put_vote(&mut self, row: &[u8]) {
        self.batch.put(row::VOTE, row);
        self.chain.head.vote_sum = row::vote_sum(row);
    }

    /// Adds entries behind the last one.
    pub(super) fn append(&mut self, entries: Encoded) {
        let Some(first) = entries.first() else { return };
        let last = self.pending.last().map(|id| id.index).or_else(|| self.chain.groups.back().map(|group| group.last));
        assert!(last.is_none_or(|last| last + 1 == first), "the log grows without a hole: {first} after {last:?}");
        self.pending.append(entries);
    }

    /// Drops all entries after `last`, which is the id of the last entry that stays or of the last purged one.
    ///
    /// # Errors
    /// RocksDB's, or that of a row that no longer decodes, while the group that straddles `last` is read.
    pub(super) fn truncate(&mut self, last: Option<LogId>) -> Result<(), TruncateError> {
        let from = last.map_or(0, |id| id.index + 1);
        self.pending.truncate(from);
        if self.chain.groups.back().is_none_or(|group| group.last < from) {
            return Ok(());
        }
        while self.chain.groups.back().is_some_and(|group| group.first >= from) {
            self.chain.groups.pop_back();
        }
        self.batch.delete_range(&row::group_key(from)[..], row::GROUPS_END);
        if let Some(group) = self.chain.groups.back().copied().filter(|group| group.last >= from) {
            let kept = self.kept_bytes(group, from)?;
            self.chain.groups.pop_back();
            let chain = self.last_chain().then(&kept);
            self.batch.put(row::group_key(group.first), group_row(chain, &kept));
            self.chain.groups.push_back(Group { last: from - 1, chain, ..group });
        }
        self.chain.head.last = last;
        self.chain.head.chain = self.last_chain();
        Ok(())
    }

    /// The bytes of the entries of `group` below index `from`.
    fn kept_bytes(&self, group: Group, from: u64) -> Result<Bytes, TruncateError> {
        let row = self.db.get(row::group_key(group.first))?.ok_or(TruncateError::Missing(group.first))?;
        let (_, entries) = open_group(Bytes::from(row))?;
        let mut rest = entries.clone();
        for _ in group.first..from {
            take_entry(&mut rest)?;
        }
        Ok(entries.slice(..entries.len() - rest.remaining()))
    }

    /// Drops all entries up to and including `upto`, which may lie behind the last entry.
    pub(super) fn purge(&mut self, upto: LogId) {
        let mut anchor = self.chain.head.anchor;
        while let Some(group) = self.chain.groups.front().filter(|group| group.last <= upto.index) {
            anchor.chain = group.chain;
            self.chain.groups.pop_front();
        }
        self.pending.purge(upto.index);
        anchor.first = self.chain.groups.front().map_or(upto.index + 1, |group| group.first);
        if self.chain.groups.is_empty() {
            let mut bytes = Vec::new();
            put_log_id(&mut bytes, Some(&upto));
            anchor.chain = self.chain.head.chain.then(&bytes);
            self.chain.head.chain = anchor.chain;
            self.chain.head.last = Some(upto);
        }
        self.batch.delete_range(row::GROUPS_BEGIN, &row::group_key(anchor.first)[..]);
        self.chain.head.anchor = anchor;
        self.chain.head.purged = Some(upto);
    }

    /// The batch with everything, the group of the appended entries and the head last.
    pub(super) fn finish(mut self) -> WriteBatch {
        if let (Some(first), Some(last)) = (self.pending.first(), self.pending.last().copied()) {
            let chain = self.last_chain().then(&self.pending.bytes);
            self.batch.put(row::group_key(first), group_row(chain, &self.pending.bytes));
            self.chain.groups.push_back(Group { first, last: last.index, chain });
            self.chain.head.last = Some(last);
            self.chain.head.chain = chain;
        }
        self.chain.head.number += 1;
        self.batch.put(row::HEAD, self.chain.head.encode());
        self.batch
    }

    fn last_chain(&self) -> ChainValue {
        self.chain.groups.back().map_or(self.chain.head.anchor.chain, |group| group.chain)
    }
}

/// Why a truncation could not read the group that it must cut.
#[derive(Debug, thiserror::Error)]
pub(super) enum TruncateError {
    #[error(transparent)]
    Database(#[from] rocksdb::Error),
    #[error("the group at index {0} is gone")]
    Missing(u64),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}
