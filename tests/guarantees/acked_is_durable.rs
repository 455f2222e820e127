//! `acked_is_durable`: what was acknowledged is in the committed log, at the revision that was named.

use std::collections::BTreeMap;

use super::Verdict;
use super::history::{Call, Condition, Effect, History, Lives, Op};

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("acked_is_durable");
    let lives = history.lives();
    let mut committed: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for request in &history.requests {
        committed.entry(&request.request_id).or_default().push(request.revision);
    }
    for op in history.ops.iter().filter(|op| op.writes()) {
        let Some((revision, effect)) = op.success() else { continue };
        verdict.require(revision <= history.to_revision, || {
            format!("op {}: acknowledged at {revision}, but the log ends at {}", op.id, history.to_revision)
        });
        if revision < history.from_revision {
            continue;
        }
        if let Some(id) = &op.request_id
            && !history.requests.is_empty()
        {
            // A request that waited is granted in a later entry than its own.
            let waits = matches!(op.call, Call::Acquire { wait_ms, .. } if wait_ms > 0);
            let there = |at: &u64| *at == revision || (waits && *at < revision);
            let known = committed.get(id.as_str()).is_some_and(|revisions| revisions.iter().any(there));
            verdict.require(known, || format!("op {}: request {id} is not in the log at {revision}", op.id));
        }
        verdict.require(left_its_event(&lives, op, revision, effect), || {
            format!("op {}: {:?} was acknowledged at {revision} and left no event there", op.id, op.call)
        });
    }
    verdict
}

/// The event that an acknowledged write must have left; calls that owe none are always satisfied.
fn left_its_event(lives: &Lives<'_>, op: &Op, revision: u64, effect: &Effect) -> bool {
    match (&op.call, effect) {
        (Call::Acquire { job, .. }, Effect::Granted { worker, epoch }) => lives.of(worker).iter().any(|event| {
            // A grant may be told at the revision of the request that waited; it is committed at or after it.
            let there = event.revision >= revision;
            there && event.to == Some(Condition::Busy) && event.epoch == *epoch && event.job == *job
        }),
        (Call::Return { worker, .. }, _) => {
            lives.within(worker, revision).iter().any(|event| event.from == Some(Condition::Busy))
        }
        (
            Call::Acquire { .. }
            | Call::Cancel { .. }
            | Call::Renew { .. }
            | Call::Open { .. }
            | Call::Report { .. }
            | Call::Operate { .. }
            | Call::Read { .. },
            _,
        ) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::Answer;
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn an_acknowledgement_beyond_the_end_of_the_log_is_rejected() {
        let mut bad = good();
        bad.to_revision = 3;
        rejected(judge, &bad, "but the log ends at 3");
    }

    #[test]
    fn an_acknowledged_request_that_the_log_lacks_is_rejected() {
        let mut bad = good();
        bad.requests.remove(0);
        rejected(judge, &bad, "is not in the log");
    }

    #[test]
    fn an_acknowledged_grant_without_its_event_is_rejected() {
        let mut bad = good();
        bad.events.retain(|event| event.to != Some(Condition::Busy));
        rejected(judge, &bad, "left no event");
    }

    #[test]
    fn an_acknowledged_return_without_its_event_is_rejected() {
        let mut bad = good();
        bad.events.retain(|event| event.from != Some(Condition::Busy));
        rejected(judge, &bad, "left no event");
    }

    #[test]
    fn nothing_is_asked_of_unknown_answers() {
        let mut unknown = good();
        for op in &mut unknown.ops {
            op.answer = Answer::Unknown { reason: "TIMEOUT".into() };
        }
        unknown.to_revision = 0;
        assert!(judge(&unknown).holds());
    }
}
