//! `exactly_once`: a retried request has one effect, every retry gets the first answer, and nothing is executed after
//! its `not_after`.

use std::collections::BTreeMap;

use super::Verdict;
use super::history::{Answer, Call, Condition, Effect, History};

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("exactly_once");
    judge_effects(history, &mut verdict);
    judge_answers(history, &mut verdict);
    judge_windows(history, &mut verdict);
    verdict
}

/// One grant per job, and one effect per request id, in the log.
fn judge_effects(history: &History, verdict: &mut Verdict) {
    let mut grants: BTreeMap<&str, u64> = BTreeMap::new();
    for event in &history.events {
        if event.to == Some(Condition::Busy) && event.from != Some(Condition::Busy) {
            let first = *grants.entry(&event.job).or_insert(event.epoch);
            verdict.require(first == event.epoch, || {
                format!("{:?}: job {} was granted epochs {first} and {}", event.position(), event.job, event.epoch)
            });
        }
    }
    let mut effects: BTreeMap<&str, u64> = BTreeMap::new();
    for request in history.requests.iter().filter(|request| request.effect) {
        let first = effects.insert(&request.request_id, request.revision);
        verdict.require(first.is_none(), || {
            format!("request {} had effects at {first:?} and {}", request.request_id, request.revision)
        });
    }
}

/// Successes of one request agree, word for word.
fn judge_answers(history: &History, verdict: &mut Verdict) {
    let mut answers: BTreeMap<&str, (u64, u64, &Effect)> = BTreeMap::new();
    for op in &history.ops {
        let (Some(id), Some((revision, effect))) = (&op.request_id, op.success()) else { continue };
        let (first, told, what) = *answers.entry(id).or_insert((op.id, revision, effect));
        verdict.require(told == revision && what == effect, || {
            format!("request {id}: op {first} heard {what:?} at {told}, op {} {effect:?} at {revision}", op.id)
        });
    }
}

/// An effect after `not_after` may only be a grant to a waiter that stood before it.
fn judge_windows(history: &History, verdict: &mut Verdict) {
    let windows: BTreeMap<&str, u64> = history
        .ops
        .iter()
        .filter(|op| !matches!(op.answer, Answer::Refused { .. }))
        .filter_map(|op| Some((op.request_id.as_deref()?, op.not_after?)))
        .collect();
    let waits: BTreeMap<&str, bool> = history
        .ops
        .iter()
        .filter_map(|op| {
            let waited = matches!(op.call, Call::Acquire { wait_ms, .. } if wait_ms > 0);
            Some((op.request_id.as_deref()?, waited))
        })
        .collect();
    for request in history.requests.iter().filter(|request| request.effect) {
        let Some(not_after) = windows.get(request.request_id.as_str()) else { continue };
        let waited = waits.get(request.request_id.as_str()).copied().unwrap_or(false);
        verdict.require(waited || request.log_time <= *not_after, || {
            format!("request {} was executed at {}, after {not_after}", request.request_id, request.log_time)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn a_job_that_was_granted_twice_is_rejected() {
        let mut bad = good();
        let job = bad.events.iter().find(|event| event.to == Some(Condition::Busy)).unwrap().job.clone();
        let last = bad.events.iter().rposition(|event| event.to == Some(Condition::Busy)).unwrap();
        bad.events[last].job = job;
        rejected(judge, &bad, "was granted epochs");
    }

    #[test]
    fn two_effects_of_one_request_are_rejected() {
        let mut bad = good();
        let twice = bad.requests[0].clone();
        bad.requests.push(twice);
        rejected(judge, &bad, "had effects at");
    }

    #[test]
    fn a_retry_with_another_answer_is_rejected() {
        let mut bad = good();
        let mut retry = bad.ops.iter().find(|op| matches!(op.call, Call::Acquire { .. })).unwrap().clone();
        retry.answer = Answer::Ok { revision: 7, effect: Effect::Granted { worker: "p/w".into(), epoch: 999 } };
        bad.ops.push(retry);
        rejected(judge, &bad, "heard");
    }

    #[test]
    fn an_execution_after_its_window_is_rejected() {
        let mut bad = good();
        bad.requests[0].log_time = 1_000_000;
        rejected(judge, &bad, "was executed at");
    }
}
