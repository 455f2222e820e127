//! The rows of the durable copy: tables, keys, and the types of what lives only on disk.
//!
//! A key is the table's tag, then the parts of the row's name: text ends with a zero byte, numbers are big-endian, so
//! that rows sort as people expect and a worker's or pool's rows are one range. A value is a format version byte and
//! postcard. Hot rows are the state's memory; cold rows (events, returns, runs, evidence) exist only here, and the
//! memory keeps their keys and hashes.
//!
//! Invariants
//! * Keys of different rows differ: text parts hold no zero byte (checked when a name enters the state).

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::event::{Event, ReturnResult};
use crate::id::{AgentId, JobId, PoolId, Revision, SessionId, Token, WorkerId};
use crate::lease::JobOutcome;
use crate::plan::{Evidence, Receipt};
use crate::pool::Pool;
use crate::time::Moment;
use crate::worker::{Cause, Verdict, Worker};

/// Version of the values' encoding.
pub const FORMAT: u8 = 1;

/// The tables; the number is the first byte of every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// The last applied revision; the only table outside the digest.
    Applied = 1,
    /// Log time, term, counters, feature level.
    Group = 2,
    /// Pools.
    Pool = 3,
    /// Frozen plans by (pool, generation).
    Plan = 4,
    /// Classes by (pool, number): their labels.
    Class = 5,
    /// Agents with their sessions.
    Agent = 6,
    /// Workers.
    Worker = 7,
    /// Waiters.
    Waiter = 8,
    /// Outcomes of requests.
    Outcome = 9,
    /// Clients with their `answered_below`.
    Client = 10,
    /// Digest marks with their reports.
    Mark = 11,
    /// Statistics by pool.
    Statistics = 12,
    /// Cold: events by (revision, ordinal).
    Event = 32,
    /// Cold: returns by (worker, return).
    Return = 33,
    /// Cold: runs with their receipts by (worker, return, run).
    Run = 34,
    /// Cold: the evidence of a worker's Maintenance.
    Evidence = 35,
}

/// One return, written when it begins and again when it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnRow {
    /// The worker.
    pub worker: WorkerId,
    /// The return: the token of its first run.
    pub return_id: Token,
    /// Why the worker is cleaned.
    pub cause: Cause,
    /// The lease that ended, if one did.
    pub epoch: Option<Token>,
    /// Its job.
    pub job: Option<JobId>,
    /// How its holder judged the worker.
    pub outcome: Option<JobOutcome>,
    /// When it began.
    pub began: Moment,
    /// How it ended; `None` while it is open.
    pub end: Option<ReturnEnd>,
}

/// The end of a return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnEnd {
    /// How it ended.
    pub result: ReturnResult,
    /// Runs used.
    pub attempts: u32,
    /// When.
    pub ended: Moment,
}

/// One run of a return, written when it is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// The run.
    pub run: Token,
    /// Its attempt.
    pub attempt: u32,
    /// The agent that had it.
    pub agent: AgentId,
    /// The session in which it was closed, if one was live.
    pub session: Option<SessionId>,
    /// The frozen plan's generation.
    pub generation: u64,
    /// When it was assigned.
    pub assigned: Moment,
    /// When the agent said that it is queued.
    pub queued: Option<Moment>,
    /// When the agent said that it started.
    pub started: Option<Moment>,
    /// When it was closed.
    pub closed: Moment,
    /// How it was judged.
    pub verdict: Verdict,
    /// What the agent observed, where it reported.
    pub receipt: Option<Receipt>,
}

/// Bytes that are not the value of a row of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row does not decode: {0}")]
pub struct RowError(pub String);

/// The key of an event.
pub fn event_key(revision: Revision, ordinal: u32) -> Vec<u8> {
    Key::new(Table::Event).number(revision.0).ordinal(ordinal).done()
}

/// The (revision, ordinal) of an event's key.
pub fn event_position(key: &[u8]) -> Option<(Revision, u32)> {
    let (tag, rest) = key.split_first()?;
    let (revision, ordinal) = rest.split_first_chunk::<8>()?;
    let ordinal: [u8; 4] = ordinal.try_into().ok()?;
    (*tag == Table::Event as u8).then(|| (Revision(u64::from_be_bytes(*revision)), u32::from_be_bytes(ordinal)))
}

/// The key of a pool.
pub fn pool_key(pool: &PoolId) -> Vec<u8> {
    Key::new(Table::Pool).text(pool.as_str()).done()
}

/// The key of a worker.
pub fn worker_key(worker: &WorkerId) -> Vec<u8> {
    Key::new(Table::Worker).worker(worker).done()
}

/// What the keys of all workers of a pool begin with.
pub fn worker_prefix(pool: &PoolId) -> Vec<u8> {
    Key::new(Table::Worker).text(pool.as_str()).done()
}

/// The key of a return.
pub fn return_key(worker: &WorkerId, return_id: Token) -> Vec<u8> {
    Key::new(Table::Return).worker(worker).number(return_id.0).done()
}

/// What the keys of all returns of a pool begin with.
pub fn return_prefix(pool: &PoolId) -> Vec<u8> {
    Key::new(Table::Return).text(pool.as_str()).done()
}

/// The key of a run.
pub fn run_key(worker: &WorkerId, return_id: Token, run: Token) -> Vec<u8> {
    Key::new(Table::Run).worker(worker).number(return_id.0).number(run.0).done()
}

/// What the keys of all runs of a return begin with.
pub fn run_prefix(worker: &WorkerId, return_id: Token) -> Vec<u8> {
    Key::new(Table::Run).worker(worker).number(return_id.0).done()
}

/// The key of the evidence of a worker's Maintenance.
pub fn evidence_key(worker: &WorkerId) -> Vec<u8> {
    Key::new(Table::Evidence).worker(worker).done()
}

/// A worker from its row's value.
pub fn decode_worker(value: &[u8]) -> Result<Worker, RowError> {
    decode(value)
}

/// A pool from its row's value.
pub fn decode_pool(value: &[u8]) -> Result<Pool, RowError> {
    decode(value)
}

/// An event from its row's value.
pub fn decode_event(value: &[u8]) -> Result<Event, RowError> {
    decode(value)
}

/// A return from its row's value.
pub fn decode_return(value: &[u8]) -> Result<ReturnRow, RowError> {
    decode(value)
}

/// A run from its row's value.
pub fn decode_run(value: &[u8]) -> Result<RunRow, RowError> {
    decode(value)
}

/// Evidence from its row's value.
pub fn decode_evidence(value: &[u8]) -> Result<Evidence, RowError> {
    decode(value)
}

/// The labels of a class from its row's value.
pub fn decode_class(value: &[u8]) -> Result<Arc<crate::selector::Labels>, RowError> {
    decode(value)
}

/// The key of a class.
pub fn class_key(pool: &PoolId, class: u32) -> Vec<u8> {
    Key::new(Table::Class).text(pool.as_str()).ordinal(class).done()
}

/// The bytes of a row's value.
pub(crate) fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    postcard::to_extend(row, vec![FORMAT]).expect("rows hold only types that postcard can encode")
}

/// A row from its value's bytes.
pub(crate) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RowError> {
    match value.split_first() {
        Some((&FORMAT, body)) => match postcard::take_from_bytes(body) {
            Ok((row, [])) => Ok(row),
            Ok((_, rest)) => Err(RowError(format!("{} bytes left over", rest.len()))),
            Err(error) => Err(RowError(error.to_string())),
        },
        other => Err(RowError(format!("format {:?} is unknown", other.map(|(format, _)| *format)))),
    }
}

/// A key in the making.
pub(crate) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn new(table: Table) -> Self {
        let mut bytes = Vec::with_capacity(48);
        bytes.push(table as u8);
        Self(bytes)
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    pub(crate) fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(crate) fn ordinal(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(crate) fn worker(self, worker: &WorkerId) -> Self {
        self.text(worker.pool.as_str()).text(&worker.name)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}
