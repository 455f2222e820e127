//! `fenced`: what carries a stale epoch, run or session has no effect, at the registry and on the host, and its
//! caller is told what superseded it.

use std::collections::BTreeMap;

use super::Verdict;
use super::history::{Answer, Call, Condition, Deed, Effect, History, Lives, Op};

/// Reasons that must name what superseded the caller.
const STALE: [&str; 5] = ["STALE_LEASE", "LEASE_ENDED", "STALE_RUN", "SESSION_ENDED", "STALE_INCARNATION"];

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("fenced");
    let lives = history.lives();
    for op in &history.ops {
        judge_success(history, &lives, op, &mut verdict);
        if let Answer::Refused { reason, superseded_by, .. } = &op.answer
            && STALE.contains(&reason.as_str())
            && presents_a_token(&op.call)
        {
            verdict.require(superseded_by.is_some(), || format!("op {}: {reason} names nothing newer", op.id));
        }
    }
    judge_hosts(history, &mut verdict);
    verdict
}

/// A success under a token is possible only where that token was the current one.
fn judge_success(history: &History, lives: &Lives<'_>, op: &Op, verdict: &mut Verdict) {
    let Some((revision, effect)) = op.success() else { return };
    if revision < history.from_revision {
        return;
    }
    match &op.call {
        Call::Renew { worker, epoch } => {
            // Ended within the same revision, after the renewal, is fine: so both sides of it are asked.
            let ended = lives
                .within(worker, revision)
                .iter()
                .any(|event| event.from == Some(Condition::Busy) && event.epoch == *epoch);
            let held = lives
                .at(worker, revision)
                .is_some_and(|event| event.to == Some(Condition::Busy) && event.epoch == *epoch);
            verdict.require(held || ended, || {
                format!("op {}: renewed epoch {epoch} of {worker} at {revision}, where it was not held", op.id)
            });
        }
        Call::Return { worker, job, epoch } => {
            let began = lives.within(worker, revision).iter().any(|event| {
                event.from == Some(Condition::Busy) && event.to == Some(Condition::Cleaning) && event.epoch == *epoch
            });
            verdict.require(began, || {
                format!("op {}: return of {worker} epoch {epoch} by {job} ended no lease at {revision}", op.id)
            });
        }
        Call::Report { worker, run, .. } => {
            let accepted = matches!(effect, Effect::Judged { accepted: true });
            let passed = lives
                .of(worker)
                .iter()
                .any(|event| event.from == Some(Condition::Cleaning) && event.run == *run && ends_run(event.to));
            verdict.require(passed || !accepted, || {
                format!("op {}: run {run} of {worker} was accepted and passed nothing", op.id)
            });
        }
        Call::Acquire { .. } | Call::Cancel { .. } | Call::Open { .. } | Call::Operate { .. } | Call::Read { .. } => {}
    }
}

/// An acquire that is retried after its lease has ended presents no token; it is told which lease that was.
fn presents_a_token(call: &Call) -> bool {
    matches!(call, Call::Renew { .. } | Call::Return { .. } | Call::Report { .. } | Call::Open { .. })
}

fn ends_run(to: Option<Condition>) -> bool {
    matches!(to, Some(Condition::Ready | Condition::Retired | Condition::Maintenance))
}

/// On the host: nothing is done under a token once a higher one was seen there.
fn judge_hosts(history: &History, verdict: &mut Verdict) {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for record in &history.hosts {
        let (token, what) = match record.deed {
            Deed::JobStarted { epoch } => (epoch, "a job began"),
            Deed::RunActed { run } => (run, "a run acted"),
            Deed::JobGone { .. } | Deed::RunObserved { .. } | Deed::TurnedAway { .. } => continue,
        };
        let seen = newest.entry(&record.worker).or_default();
        verdict.require(token >= *seen, || format!("{}: {what} under {token} after {seen}", record.worker));
        *seen = token.max(*seen);
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::HostRecord;
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn a_renewal_of_an_ended_lease_is_rejected() {
        let mut bad = good();
        let ended = bad.events.iter().find(|event| event.from == Some(Condition::Busy)).unwrap().clone();
        let renewal = bad.ops.iter_mut().find(|op| matches!(op.call, Call::Renew { .. })).unwrap();
        renewal.answer = Answer::Ok { revision: ended.revision + 1, effect: Effect::Done };
        rejected(judge, &bad, "where it was not held");
    }

    #[test]
    fn a_return_that_ended_no_lease_is_rejected() {
        let mut bad = good();
        let returned = bad.ops.iter_mut().find(|op| matches!(op.call, Call::Return { .. })).unwrap();
        let Answer::Ok { revision, .. } = &mut returned.answer else { panic!("the sample's return succeeds") };
        *revision += 1;
        rejected(judge, &bad, "ended no lease");
    }

    #[test]
    fn an_accepted_report_that_passed_nothing_is_rejected() {
        let mut bad = good();
        let report = bad.ops.iter_mut().find(|op| matches!(op.call, Call::Report { .. })).unwrap();
        let Call::Report { run, .. } = &mut report.call else { unreachable!() };
        *run += 1_000;
        rejected(judge, &bad, "passed nothing");
    }

    #[test]
    fn a_refusal_that_names_nothing_newer_is_rejected() {
        let mut bad = good();
        for op in &mut bad.ops {
            if let Answer::Refused { superseded_by, .. } = &mut op.answer {
                *superseded_by = None;
            }
        }
        rejected(judge, &bad, "names nothing newer");
    }

    #[test]
    fn a_walker_that_wakes_after_the_next_lease_began_is_rejected() {
        let mut bad = good();
        let first = bad.hosts.iter().find(|record| matches!(record.deed, Deed::RunActed { .. })).unwrap().clone();
        bad.hosts.push(HostRecord { at: u64::MAX, ..first });
        rejected(judge, &bad, "a run acted under");
    }
}
