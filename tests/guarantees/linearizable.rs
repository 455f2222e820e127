//! `linearizable`: revision order is the linearization order of writes, and of reads that did not ask for STALE.
//!
//! With the revisions as witness the check is one sweep: no answer may name a revision that real time contradicts, a
//! read shows the state that the log has at its revision, and "no worker" is true where it was said.
//!
//! A pool that frees more workers at once than one entry may grant can refuse while some are still free; histories
//! with fewer than 256 workers never see it.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::history::{Answer, Call, Condition, Effect, Event, History, Lives, Op};

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("linearizable");
    judge_real_time(history, &mut verdict);
    judge_reads(history, &mut verdict);
    judge_empty(history, &mut verdict);
    verdict
}

/// The revision that an answer names.
fn revision(op: &Op) -> Option<u64> {
    match &op.answer {
        Answer::Ok { revision, .. } => Some(*revision),
        Answer::Refused { revision, .. } => *revision,
        Answer::Absent { .. } | Answer::Unknown { .. } => None,
    }
}

fn is_stale(op: &Op) -> bool {
    matches!(op.call, Call::Read { stale: true, .. })
}

/// A write lies above, a read not below, everything that had been answered when it was first sent.
fn judge_real_time(history: &History, verdict: &mut Verdict) {
    let mut first_sent: BTreeMap<&str, u64> = BTreeMap::new();
    for op in &history.ops {
        if let Some(id) = &op.request_id {
            let sent = first_sent.entry(id).or_insert(op.invoked_at);
            *sent = op.invoked_at.min(*sent);
        }
    }
    let sent_at = |op: &Op| op.request_id.as_deref().map_or(op.invoked_at, |id| first_sent[id]);
    let mut sent: Vec<_> = history.ops.iter().filter(|op| !is_stale(op) && revision(op).is_some()).collect();
    sent.sort_by_key(|op| sent_at(op));
    let mut heard: Vec<_> = history.ops.iter().filter_map(|op| Some((op.returned_at?, revision(op)?))).collect();
    heard.sort_unstable();
    let (mut floor, mut next) = (0, 0);
    for op in sent {
        while next < heard.len() && heard[next].0 < sent_at(op) {
            floor = floor.max(heard[next].1);
            next += 1;
        }
        let at = revision(op).expect("filtered for it");
        let late_enough = if op.writes() { at > floor || floor == 0 } else { at >= floor };
        verdict.require(late_enough, || {
            format!("op {}: {:?} at {at}, though {floor} had been answered before it was sent", op.id, op.call)
        });
    }
}

/// A read shows what the log has at its revision.
fn judge_reads(history: &History, verdict: &mut Verdict) {
    let lives = history.lives();
    for op in &history.ops {
        let (Call::Read { worker, .. }, Some((at, effect))) = (&op.call, op.success()) else { continue };
        let last = lives.at(worker, at);
        if last.is_none() && history.from_revision > 0 {
            continue;
        }
        let right = match effect {
            Effect::Seen { state, token } => {
                last.is_some_and(|event| event.to == Some(*state)) && newest_token(&lives, worker, at) == *token
            }
            Effect::Missing => last.is_none_or(|event| event.to.is_none()),
            Effect::Done
            | Effect::Granted { .. }
            | Effect::Returned { .. }
            | Effect::Opened { .. }
            | Effect::Judged { .. } => false,
        };
        verdict.require(right, || format!("op {}: {worker} read as {effect:?} at {at}, the log has {last:?}", op.id));
    }
}

/// The last epoch or run of a worker at a revision.
fn newest_token(lives: &Lives<'_>, worker: &str, at: u64) -> u64 {
    let drawn = |event: &&&Event| matches!(event.to, Some(Condition::Busy | Condition::Cleaning));
    let last = lives.of(worker).iter().rev().filter(|event| event.revision <= at).find(drawn);
    last.map_or(0, |event| if event.to == Some(Condition::Busy) { event.epoch } else { event.run })
}

/// Where an acquire that any worker would have satisfied was told "none", none was free.
fn judge_empty(history: &History, verdict: &mut Verdict) {
    let mut refused: Vec<(u64, &str, u64)> = history.ops.iter().filter_map(empty).collect();
    refused.sort_unstable();
    let mut free: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut next = 0;
    let events: Vec<_> = history.events.iter().filter(|event| event.moves()).collect();
    for (at, pool, op) in refused {
        while next < events.len() && events[next].revision < at {
            note_free(&mut free, events[next]);
            next += 1;
        }
        let within = events[next..].iter().take_while(|event| event.revision == at);
        let moved: BTreeSet<&str> = within.map(|event| event.worker.as_str()).collect();
        let left = free.get(pool).and_then(|free| free.difference(&moved).next());
        verdict.require(left.is_none(), || format!("op {op}: {pool} had no worker at {at}, but {left:?} was free"));
    }
}

fn empty(op: &Op) -> Option<(u64, &str, u64)> {
    match (&op.call, &op.answer) {
        (Call::Acquire { pool, any: true, .. }, Answer::Refused { revision: Some(at), reason, .. })
            if reason == "NO_AVAILABLE_WORKER" =>
        {
            Some((*at, pool, op.id))
        }
        _ => None,
    }
}

fn note_free<'a>(free: &mut BTreeMap<&'a str, BTreeSet<&'a str>>, event: &'a Event) {
    let pool = event.worker.rsplit_once('/').map_or("", |(pool, _)| pool);
    let workers = free.entry(pool).or_default();
    if event.to == Some(Condition::Available) {
        workers.insert(&event.worker);
    } else {
        workers.remove(event.worker.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn a_write_below_what_was_answered_before_is_rejected() {
        let mut bad = good();
        let last = bad.ops.last().unwrap().clone();
        bad.ops.push(Op {
            id: 99,
            invoked_at: last.returned_at.unwrap() + 1,
            returned_at: last.returned_at.map(|at| at + 2),
            request_id: None,
            call: Call::Operate { worker: "p/w".into(), verb: "cordon".into() },
            answer: Answer::Ok { revision: 1, effect: Effect::Done },
            ..last
        });
        rejected(judge, &bad, "had been answered before");
    }

    #[test]
    fn a_stale_read_that_was_not_asked_for_is_rejected() {
        let mut bad = good();
        let read = bad.ops.iter_mut().find(|op| matches!(op.call, Call::Read { .. })).unwrap();
        read.answer = Answer::Ok { revision: 2, effect: Effect::Seen { state: Condition::Cleaning, token: 10 } };
        rejected(judge, &bad, "had been answered before");
    }

    #[test]
    fn a_read_of_what_never_was_is_rejected() {
        let mut bad = good();
        let read = bad.ops.iter_mut().find(|op| matches!(op.call, Call::Read { .. })).unwrap();
        let Answer::Ok { effect, .. } = &mut read.answer else { unreachable!() };
        *effect = Effect::Seen { state: Condition::Lost, token: 1 };
        rejected(judge, &bad, "the log has");
    }

    #[test]
    fn no_worker_while_one_is_free_is_rejected() {
        let mut bad = good();
        let free = bad.events.iter().rfind(|event| event.to == Some(Condition::Available)).unwrap().revision;
        bad.to_revision = free + 5;
        let last = bad.ops.last().unwrap().clone();
        bad.ops.push(Op {
            id: 99,
            invoked_at: last.returned_at.unwrap() + 1,
            request_id: None,
            call: Call::Acquire { pool: "p".into(), job: "j99".into(), wait_ms: 0, any: true },
            answer: Answer::Refused {
                revision: Some(free + 5),
                reason: "NO_AVAILABLE_WORKER".into(),
                superseded_by: None,
            },
            ..last
        });
        rejected(judge, &bad, "was free");
    }
}
