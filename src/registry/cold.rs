//! Cold rows: events, returns, runs and evidence. Their content lives only in the durable copy; here are their keys and
//! hashes, which the digest and the retention need.
//!
//! Invariants
//! * A return that is open is never trimmed.
//! * Events are trimmed by whole revisions, oldest first; so a watcher either sees all of a revision or is told.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Event, ReturnResult};
use crate::id::{Revision, Token, WorkerId};
use crate::limits;
use crate::plan::Evidence;
use crate::row::{self, ReturnRow, RowError, RunRow, Table as Tag};
use crate::table::{KeyParts, RowHash, row_hash};
use crate::time::LogTime;

/// The events of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    at: LogTime,
    count: u32,
    sum: RowHash,
}

/// One return with its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReturnMemory {
    worker: WorkerId,
    hash: RowHash,
    /// Whether it failed, and when it ended.
    ended: Option<(bool, LogTime)>,
    runs: Vec<(Token, RowHash)>,
}

/// A row to be written, or removed.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Keys and hashes of cold rows, and the changes that were not handed out yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cold {
    events: BTreeMap<Revision, Batch>,
    events_count: u64,
    returns: BTreeMap<Token, ReturnMemory>,
    ended: BTreeSet<(bool, LogTime, Token)>,
    evidence: BTreeMap<WorkerId, RowHash>,
    moved: u128,
    changes: Vec<Change>,
}

impl Cold {
    /// Appends the events of one entry.
    pub(crate) fn put_events(&mut self, revision: Revision, events: &[Event]) {
        for (ordinal, event) in (0..).zip(events) {
            let hash = self.write(row::event_key(revision, ordinal), row::encode(event), 0);
            self.note_event(revision, event.at, hash);
        }
    }

    fn note_event(&mut self, revision: Revision, at: LogTime, hash: RowHash) {
        let batch = self.events.entry(revision).or_insert(Batch { at, count: 0, sum: 0 });
        batch.count += 1;
        batch.sum = batch.sum.wrapping_add(hash);
        self.events_count += 1;
    }

    /// Writes a return, at its begin and at its end.
    pub(crate) fn put_return(&mut self, row: &ReturnRow) {
        let before = self.returns.get(&row.return_id).map_or(0, |memory| memory.hash);
        let hash = self.write(row::return_key(&row.worker, row.return_id), row::encode(row), before);
        self.note_return(row, hash);
    }

    fn note_return(&mut self, row: &ReturnRow, hash: RowHash) {
        let new = || ReturnMemory { worker: row.worker.clone(), hash, ended: None, runs: Vec::new() };
        let memory = self.returns.entry(row.return_id).or_insert_with(new);
        memory.hash = hash;
        memory.worker = row.worker.clone();
        memory.ended = row.end.as_ref().map(|end| (failed(&end.result), end.ended.at));
        if let Some((failed, at)) = memory.ended {
            self.ended.insert((failed, at, row.return_id));
        }
    }

    /// Writes a closed run of a return.
    pub(crate) fn put_run(&mut self, worker: &WorkerId, return_id: Token, row: &RunRow) {
        let hash = self.write(row::run_key(worker, return_id, row.run), row::encode(row), 0);
        self.note_run(worker, return_id, row.run, hash);
    }

    fn note_run(&mut self, worker: &WorkerId, return_id: Token, run: Token, hash: RowHash) {
        let new = || ReturnMemory { worker: worker.clone(), hash: 0, ended: None, runs: Vec::new() };
        let runs = &mut self.returns.entry(return_id).or_insert_with(new).runs;
        let place = runs.partition_point(|(other, _)| *other < run);
        runs.insert(place, (run, hash));
    }

    /// Writes the evidence of a worker's Maintenance, or removes it.
    pub(crate) fn put_evidence(&mut self, worker: &WorkerId, evidence: Option<&Evidence>) {
        let before = self.evidence.remove(worker).unwrap_or(0);
        if let Some(evidence) = evidence {
            let hash = self.write(row::evidence_key(worker), row::encode(evidence), before);
            self.evidence.insert(worker.clone(), hash);
        } else if before != 0 {
            self.erase(row::evidence_key(worker), before);
        }
    }

    /// Takes in a row of the durable copy. `None` where the key is not one of these tables.
    pub(crate) fn load(&mut self, key: &[u8], value: &[u8]) -> Option<Result<(), RowError>> {
        let tables = [Tag::Event, Tag::Return, Tag::Run, Tag::Evidence];
        let table = tables.into_iter().find(|table| key.first() == Some(&(*table as u8)))?;
        Some(self.take_in(table, key, value))
    }

    fn take_in(&mut self, table: Tag, key: &[u8], value: &[u8]) -> Result<(), RowError> {
        let hash = row_hash(key, value);
        let mut parts = KeyParts(&key[1..]);
        let malformed = || RowError("key is malformed".into());
        if table == Tag::Event {
            let (revision, _) = row::event_position(key).ok_or_else(malformed)?;
            self.note_event(revision, row::decode_event(value)?.at, hash);
        } else if table == Tag::Return {
            self.note_return(&row::decode_return(value)?, hash);
        } else if table == Tag::Run {
            let ((worker, id), run) = parts.worker().zip(parts.number()).zip(parts.number()).ok_or_else(malformed)?;
            self.note_run(&worker, Token(id), Token(run), hash);
        } else {
            self.evidence.insert(parts.worker().ok_or_else(malformed)?, hash);
        }
        Ok(())
    }

    /// Events kept.
    pub(crate) fn events_count(&self) -> u64 {
        self.events_count
    }

    /// Events that may be trimmed, counted up to `most` or a little above.
    pub(crate) fn events_owed(&self, now: LogTime, most: usize) -> usize {
        let over = self.events_count.saturating_sub(limits::EVENTS_MAX as u64);
        let mut old: usize = 0;
        for batch in self.events.values() {
            if now.since(batch.at) <= limits::EVENTS_AGE_MAX || old >= most {
                break;
            }
            old += batch.count as usize;
        }
        old.max(over as usize)
    }

    /// Whether a trim of events is worth an entry: the oldest are older than the slack allows, or there are too many.
    pub(crate) fn events_trim_due(&self, now: LogTime) -> bool {
        let oldest = self.events.values().next();
        let old = oldest.is_some_and(|batch| now.since(batch.at) > limits::EVENTS_AGE_MAX.plus(limits::TRIM_SLACK));
        old || self.events_count > limits::EVENTS_MAX as u64
    }

    /// Trims events beyond their retention: the rows removed, and the last revision that went.
    pub(crate) fn trim_events(&mut self, now: LogTime) -> Option<(u32, Revision)> {
        let (mut rows, mut last) = (0, None);
        while rows < limits::TRIM_ROWS_MAX as u32
            && let Some((&revision, batch)) = self.events.first_key_value()
            && (now.since(batch.at) > limits::EVENTS_AGE_MAX || self.events_count > limits::EVENTS_MAX as u64)
        {
            let Batch { count, sum, .. } = *batch;
            for ordinal in 0..count {
                self.changes.push((row::event_key(revision, ordinal), None));
            }
            self.moved = self.moved.wrapping_sub(sum);
            self.events_count -= u64::from(count);
            self.events.remove(&revision);
            rows += count;
            last = Some(revision);
        }
        last.map(|last| (rows, last))
    }

    /// The next ended return beyond its retention: too old, or too many; failed ones go last.
    fn return_beyond(&self, now: LogTime, age: crate::time::Millis) -> Option<(bool, LogTime, Token)> {
        let first_failed = (true, LogTime(0), Token(0));
        let fine = self.ended.range(..first_failed).next();
        let failed = self.ended.range(first_failed..).next();
        let old = |entry: &&(bool, LogTime, Token)| now.since(entry.1) > age;
        let too_many = self.ended.len() > limits::RETURNS_MAX;
        let oldest = fine.filter(old).or(failed.filter(old));
        oldest.or(if too_many { fine.or(failed) } else { None }).copied()
    }

    /// Whether a trim of returns is worth an entry.
    pub(crate) fn returns_trim_due(&self, now: LogTime) -> bool {
        self.return_beyond(now, limits::RETURNS_AGE_MAX.plus(limits::TRIM_SLACK)).is_some()
    }

    /// Rows of ended returns that may be trimmed, counted up to `most` or a little above.
    pub(crate) fn returns_owed(&self, now: LogTime, most: usize) -> usize {
        let first_failed = (true, LogTime(0), Token(0));
        let old = |entry: &&(bool, LogTime, Token)| now.since(entry.1) > limits::RETURNS_AGE_MAX;
        let fine = self.ended.range(..first_failed).take_while(old);
        let failed = self.ended.range(first_failed..).take_while(old);
        let over = self.ended.len().saturating_sub(limits::RETURNS_MAX);
        let least = fine.chain(failed).take(most).count().max(over);
        // One row of its own and one for each run; few have more than one.
        least * 2
    }

    /// Trims ended returns beyond their retention, with their runs: the rows removed.
    pub(crate) fn trim_returns(&mut self, now: LogTime) -> u32 {
        let mut rows = 0;
        while rows < limits::TRIM_ROWS_MAX as u32
            && let Some(entry) = self.return_beyond(now, limits::RETURNS_AGE_MAX)
        {
            self.ended.remove(&entry);
            let memory = self.returns.remove(&entry.2).expect("every ended return is remembered");
            self.erase(row::return_key(&memory.worker, entry.2), memory.hash);
            for (run, hash) in &memory.runs {
                self.erase(row::run_key(&memory.worker, entry.2, *run), *hash);
            }
            rows += 1 + memory.runs.len() as u32;
        }
        rows
    }

    /// Whether evidence is kept of a worker.
    pub(crate) fn has_evidence(&self, worker: &WorkerId) -> bool {
        self.evidence.contains_key(worker)
    }

    /// Whether the return has begun and not ended.
    pub(crate) fn is_open_return(&self, return_id: Token) -> bool {
        self.returns.get(&return_id).is_some_and(|memory| memory.ended.is_none())
    }

    /// How many returns are open. O(returns), for `check`.
    pub(crate) fn open_returns(&self) -> usize {
        self.returns.values().filter(|memory| memory.ended.is_none()).count()
    }

    /// Whether the return is still remembered.
    pub(crate) fn knows_return(&self, return_id: Token) -> bool {
        self.returns.contains_key(&return_id)
    }

    /// Changes and the digest's movement since the last call.
    pub(crate) fn flush(&mut self) -> (Vec<Change>, u128) {
        (std::mem::take(&mut self.changes), std::mem::take(&mut self.moved))
    }

    /// The sum of all cold rows' hashes.
    pub(crate) fn sum(&self) -> u128 {
        let events = self.events.values().map(|batch| batch.sum);
        let runs = |memory: &ReturnMemory| memory.runs.iter().map(|run| run.1).fold(memory.hash, u128::wrapping_add);
        let returns = self.returns.values().map(runs);
        events.chain(returns).chain(self.evidence.values().copied()).fold(0, u128::wrapping_add)
    }

    fn write(&mut self, key: Vec<u8>, value: Vec<u8>, before: RowHash) -> RowHash {
        let hash = row_hash(&key, &value);
        self.moved = self.moved.wrapping_sub(before).wrapping_add(hash);
        self.changes.push((key, Some(value)));
        hash
    }

    fn erase(&mut self, key: Vec<u8>, before: RowHash) {
        self.moved = self.moved.wrapping_sub(before);
        self.changes.push((key, None));
    }
}

/// Whether a return's end is one that people will ask about.
fn failed(result: &ReturnResult) -> bool {
    match result {
        ReturnResult::Clean | ReturnResult::Spent | ReturnResult::Diverted(_) => false,
        ReturnResult::Failed(_) | ReturnResult::Lost | ReturnResult::Overtaken => true,
    }
}
