//! Reading the log: from the tail, and from the group rows for what the tail let go of.
//!
//! Only a follower that is far behind, or an apply that is, reads what the tail no longer holds; such reads leave the
//! asynchronous threads. Between the look at the tail and the read of the rows the log may have been truncated or purged;
//! the tail's generation and its purged id tell, and the read is done again.
//!
//! Invariants
//! * A read returns every entry of the range that the log holds, in order, without a hole; a limited one may end early, but
//!   never returns nothing while the log has the range's first entry.
//!
//! Never here: writing.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::{OptionalSend, RaftLogReader};
use rocksdb::DB;

use super::Inner;
use super::chain::open_group;
use super::encoding::{entry_size, take_entry};
use super::row;
use crate::raft::types::{Entry, TypeConfig, Vote};

mod limits {
    /// Bytes of entries in one replicated message, and in one step of a stream: large enough for full pipes, small enough
    /// not to hold up what shares a connection or a thread.
    pub(super) const READ_BYTES: usize = 1 << 20;
    /// Times that a read is done again because the log changed under it; it changes a few times per election.
    pub(super) const READ_AGAIN: usize = 100;
}

/// A reader of the log; clones and the store see the same entries.
#[derive(Clone)]
pub struct LogReader {
    pub(super) inner: Arc<Inner>,
}

impl LogReader {
    async fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, io::Error> {
        for _ in 0..limits::READ_AGAIN {
            let (mut found, purged) = {
                let tail = self.inner.tail.read();
                (tail.find(range.clone(), max_bytes), tail.purged())
            };
            if found.cold.is_empty() {
                return Ok(found.entries);
            }
            let (db, cold) = (Arc::clone(&self.inner.db), found.cold.clone());
            let read = tokio::task::spawn_blocking(move || read_groups(&db, cold, max_bytes));
            let read = read.await.map_err(io::Error::other)?;
            let unchanged = {
                let tail = self.inner.tail.read();
                tail.generation() == found.generation && tail.purged() == purged
            };
            if unchanged {
                let mut entries = read?;
                self.inner.metrics.cold_reads.inc_by(entries.len() as u64);
                if entries.last().is_some_and(|entry| entry.log_id.index + 1 == found.cold.end) {
                    entries.append(&mut found.entries);
                }
                return Ok(entries);
            }
        }
        Err(io::Error::other(format!("entries {range:?}: the log changes faster than it can be read")))
    }
}

/// The entries of `range` from the group rows, at most about `max_bytes` but at least one.
fn read_groups(db: &DB, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, io::Error> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    let mut rows = db.raw_iterator();
    rows.seek_for_prev(row::group_key(range.start));
    while let Some((key, value)) = rows.item().filter(|(key, _)| key.starts_with(row::GROUPS_BEGIN)) {
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, format!("group {key:?}: {error}"));
        let (_, mut group) = open_group(Bytes::copy_from_slice(value)).map_err(damaged)?;
        while !group.is_empty() {
            let entry = take_entry(&mut group).map_err(damaged)?;
            if !range.contains(&entry.log_id.index) {
                continue;
            }
            if entry.log_id.index != range.start + entries.len() as u64 {
                return Err(hole(&range, &entries));
            }
            bytes += entry_size(&entry);
            if bytes > max_bytes && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry);
        }
        if entries.len() as u64 == range.end - range.start {
            return Ok(entries);
        }
        rows.next();
    }
    rows.status().map_err(io::Error::other)?;
    Err(hole(&range, &entries))
}

fn hole(range: &Range<u64>, entries: &[Entry]) -> io::Error {
    let missing = range.start + entries.len() as u64;
    io::Error::new(io::ErrorKind::InvalidData, format!("entry {missing} of {range:?} is not in the log"))
}

/// The indices in `range`; an end beyond the last index stays open.
fn indices(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(indices(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end.max(start), limits::READ_BYTES).await
    }

    /// Apply may be far behind: the range comes in steps, not as one vector.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let reader = self.clone();
        let steps = stream::try_unfold((reader, indices(&range)), |(reader, range)| async move {
            let entries = reader.read(range.clone(), limits::READ_BYTES).await?;
            let Some(last) = entries.last() else { return Ok::<_, io::Error>(None) };
            let rest = last.log_id.index + 1..range.end;
            Ok(Some((entries, (reader, rest))))
        });
        let entries = steps.flat_map(|step| match step {
            Ok(entries) => stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        });
        Box::pin(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.inner.vote.lock())
    }
}
