//! A script of requests to a log, and the model of what it must leave behind.
//!
//! Requests take effect in order, and a batch holds whole requests. So after any crash the log must stand exactly where
//! the model stands after some number of requests: not fewer than were acknowledged, not more than were submitted.

use std::collections::BTreeMap;

use openraft::RaftLogReader;
use openraft::alias::OneshotReceiverOf;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use crate::raft::log::LogStore;
use crate::raft::types::{Entry, EntryPayload, LogId, Payload, TypeConfig, Vote, log_id, term_of};

/// One request.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Append(Vec<Entry>),
    Vote(Vote),
    Committed(LogId),
    Truncate(LogId),
    Purge(LogId),
}

/// What a log holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Model {
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
}

impl Model {
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged)
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(entries) => self.entries.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone()))),
            Op::Vote(vote) => self.vote = Some(*vote),
            Op::Committed(id) => self.committed = Some(*id),
            Op::Truncate(keep) => self.entries.retain(|index, _| *index <= keep.index),
            Op::Purge(upto) => {
                self.entries.retain(|index, _| *index > upto.index);
                self.purged = Some(*upto);
            }
        }
    }

    /// The model after `ops`.
    pub(super) fn after(ops: &[Op]) -> Model {
        let mut model = Model::default();
        ops.iter().for_each(|op| model.apply(op));
        model
    }

    /// What `store` holds.
    pub(super) async fn of(store: &mut LogStore) -> Model {
        let state = store.get_log_state().await.unwrap();
        let mut reader = store.get_log_reader().await;
        let entries = reader.try_get_log_entries(..).await.unwrap();
        let model = Model {
            entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(),
            purged: state.last_purged_log_id,
            vote: reader.read_vote().await.unwrap(),
            committed: store.read_committed().await.unwrap(),
        };
        assert_eq!(state.last_log_id, model.last(), "the log's state and its entries agree");
        model
    }
}

/// A small generator (SplitMix64): the same seed gives the same script in parent and child.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// `count` requests as a replica makes them: appends most of all; new terms with a vote and a truncation of what was not
/// committed; purges, some past the end as after a snapshot.
pub(super) fn script(seed: u64, count: usize) -> Vec<Op> {
    let mut dice = Dice(seed);
    let mut model = Model::default();
    let mut term = 1;
    let mut ops = Vec::new();
    while ops.len() < count {
        let op = match dice.below(12) {
            0 => {
                term += 1;
                Op::Vote(Vote::new(term, 1 + dice.below(3)))
            }
            1 | 2 => match (model.last(), model.committed) {
                (Some(last), committed) if committed != Some(last) => Op::Committed(last),
                _ => continue,
            },
            3 => match (model.last(), model.committed) {
                (Some(last), Some(committed)) if committed.index < last.index => {
                    let keep = committed.index + dice.below(last.index - committed.index);
                    let Some(entry) = model.entries.get(&keep) else { continue };
                    Op::Truncate(entry.log_id)
                }
                _ => continue,
            },
            4 => match model.committed.and_then(|id| model.entries.get(&id.index.saturating_sub(dice.below(9)))) {
                Some(entry) => Op::Purge(entry.log_id),
                None => continue,
            },
            5 if dice.below(4) == 0 => match model.last() {
                Some(last) => Op::Purge(log_id(term, last.index + 1 + dice.below(20))),
                None => continue,
            },
            _ => {
                let first = model.last().map_or(0, |id| id.index + 1);
                term = term.max(model.last().map_or(0, |id| term_of(&id)));
                Op::Append((first..first + 1 + dice.below(4)).map(|index| entry(term, index, dice.below(90))).collect())
            }
        };
        model.apply(&op);
        ops.push(op);
    }
    ops
}

/// An entry whose payload names its place.
pub(super) fn entry(term: u64, index: u64, size: u64) -> Entry {
    let mut payload = format!("{term}.{index}:").into_bytes();
    payload.resize(payload.len() + size as usize, b'.');
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Payload::from(payload)) }
}

/// Resolves once an append is durable.
type Flushed = OneshotReceiverOf<TypeConfig, std::io::Result<()>>;

/// Submits `op`; what it returns resolves once the request is acknowledged as durable (at once for those that never are).
pub(super) async fn submit(store: &mut LogStore, op: &Op) -> Option<Flushed> {
    match op {
        Op::Append(entries) => {
            let (flushed, receiver) = TypeConfig::oneshot();
            store.append(entries.clone(), IOFlushed::<TypeConfig>::signal(flushed)).await.unwrap();
            return Some(receiver);
        }
        Op::Vote(vote) => store.save_vote(vote).await.unwrap(),
        Op::Committed(id) => store.save_committed(Some(*id)).await.unwrap(),
        Op::Truncate(keep) => store.truncate_after(Some(*keep)).await.unwrap(),
        Op::Purge(upto) => store.purge(*upto).await.unwrap(),
    }
    None
}

/// Whether requests of this kind are durable once they are acknowledged.
pub(super) fn is_synced(op: &Op) -> bool {
    matches!(op, Op::Append(_) | Op::Vote(_))
}

/// Runs `ops` in bursts of a few requests and calls `acknowledged` with the number of requests that are durable.
pub(super) async fn run(store: &mut LogStore, ops: &[Op], acknowledged: impl FnMut(usize)) {
    run_noting(store, ops, |_| {}, acknowledged).await;
}

/// As [`run`]; `submitting` hears the number of requests before each of them is submitted.
pub(super) async fn run_noting(
    store: &mut LogStore,
    ops: &[Op],
    mut submitting: impl FnMut(usize),
    mut acknowledged: impl FnMut(usize),
) {
    let mut waiting = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        submitting(at + 1);
        match submit(store, op).await {
            Some(receiver) => waiting.push((at + 1, receiver)),
            None if is_synced(op) => acknowledged(at + 1),
            None => {}
        }
        if waiting.len() > at % 5 {
            for (number, receiver) in waiting.drain(..) {
                receiver.await.unwrap().unwrap();
                acknowledged(number);
            }
        }
    }
    for (number, receiver) in waiting {
        receiver.await.unwrap().unwrap();
        acknowledged(number);
    }
}
