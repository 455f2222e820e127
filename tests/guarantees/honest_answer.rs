//! `honest_answer`: a minority or deposed leader never answers a success, and "absent" means absent.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::history::{Answer, Call, Condition, History};

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("honest_answer");
    judge_cuts(history, &mut verdict);
    judge_absent(history, &mut verdict);
    verdict
}

/// Who is cut off from the quorum succeeds in nothing but stale reads.
fn judge_cuts(history: &History, verdict: &mut Verdict) {
    let mut cuts: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for cut in &history.cuts {
        cuts.entry(cut.replica).or_default().push((cut.from, cut.until));
    }
    for op in history.ops.iter().filter(|op| !matches!(op.call, Call::Read { stale: true, .. })) {
        let (Some(cuts), Some(returned_at)) = (cuts.get(&op.served_by), op.returned_at) else { continue };
        let inside = cuts.iter().find(|(from, until)| op.invoked_at >= *from && returned_at <= *until);
        if let Some(cut) = inside {
            verdict.require(op.success().is_none(), || {
                format!("op {}: replica {} answered {:?} while cut off {cut:?}", op.id, op.served_by, op.answer)
            });
        }
    }
}

/// A request of which every sending was told "no" or "absent" has no effect in the log.
fn judge_absent(history: &History, verdict: &mut Verdict) {
    let mut denied: BTreeMap<&str, bool> = BTreeMap::new();
    let mut jobs: BTreeMap<&str, &str> = BTreeMap::new();
    for op in &history.ops {
        let Some(id) = &op.request_id else { continue };
        let no = matches!(op.answer, Answer::Refused { .. } | Answer::Absent { .. });
        *denied.entry(id).or_insert(true) &= no;
        if let Call::Acquire { job, .. } = &op.call {
            jobs.insert(id, job);
        }
    }
    let effects: BTreeSet<&str> =
        history.requests.iter().filter(|request| request.effect).map(|request| request.request_id.as_str()).collect();
    let grants = history.events.iter().filter(|event| event.to == Some(Condition::Busy));
    let granted: BTreeSet<&str> = grants.map(|event| event.job.as_str()).collect();
    for (id, denied) in denied {
        if denied {
            let job = jobs.get(id).copied().unwrap_or_default();
            let took_place = effects.contains(id) || (!job.is_empty() && granted.contains(job));
            verdict.require(!took_place, || format!("request {id} was denied and took place"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::Cut;
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn a_success_of_an_isolated_leader_is_rejected() {
        let mut bad = good();
        bad.cuts = vec![Cut { replica: 1, from: 0, until: u64::MAX }];
        rejected(judge, &bad, "while cut off");
    }

    #[test]
    fn a_denied_request_that_took_place_is_rejected() {
        let mut bad = good();
        let acquire = bad.ops.iter_mut().find(|op| matches!(op.call, Call::Acquire { .. })).unwrap();
        acquire.answer = Answer::Absent { reason: "NOT_ACCEPTED".into() };
        let id = acquire.request_id.clone();
        for op in bad.ops.iter_mut().filter(|op| op.request_id == id) {
            op.answer = Answer::Absent { reason: "NOT_ACCEPTED".into() };
        }
        rejected(judge, &bad, "was denied and took place");
    }

    #[test]
    fn an_unknown_answer_may_have_taken_place() {
        let mut unknown = good();
        for op in &mut unknown.ops {
            op.answer = Answer::Unknown { reason: "TIMEOUT".into() };
        }
        assert!(judge(&unknown).holds());
    }
}
