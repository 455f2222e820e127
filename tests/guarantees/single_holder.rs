//! `single_holder`: at every revision a worker has at most one live lease, and its tokens grow strictly, for ever.
//!
//! Judged three times over: in the committed moves, in what clients were told, and on the host itself, where two jobs
//! at once would do the harm.

use std::collections::BTreeMap;

use super::Verdict;
use super::history::{Call, Condition, Deed, Effect, Event, History};

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("single_holder");
    for (worker, moves) in history.lives().iter() {
        judge_moves(worker, moves, &mut verdict);
    }
    judge_grants(history, &mut verdict);
    judge_hosts(history, &mut verdict);
    verdict
}

/// One lease at a time, and every token above the one before.
fn judge_moves(worker: &str, moves: &[&Event], verdict: &mut Verdict) {
    let (mut token, mut open) = (0, None);
    for event in moves {
        let at = event.position();
        match event.to {
            Some(Condition::Busy) if event.from != Some(Condition::Busy) => {
                verdict.require(open.is_none(), || format!("{at:?} {worker}: leased while epoch {open:?} is live"));
                verdict.require(event.epoch > token, || {
                    format!("{at:?} {worker}: epoch {} is not above token {token}", event.epoch)
                });
                token = token.max(event.epoch);
                open = Some(event.epoch);
            }
            Some(Condition::Busy) => {}
            Some(Condition::Cleaning) if event.run != token => {
                verdict.require(event.run > token, || {
                    format!("{at:?} {worker}: run {} is not above token {token}", event.run)
                });
                token = token.max(event.run);
                open = None;
            }
            Some(_) | None => open = None,
        }
    }
}

/// No epoch of a worker was promised to two jobs, and what was promised was committed for that job.
fn judge_grants(history: &History, verdict: &mut Verdict) {
    let lives = history.lives();
    let mut holders: BTreeMap<(&str, u64), &str> = BTreeMap::new();
    for op in &history.ops {
        let Call::Acquire { job, .. } = &op.call else { continue };
        let Some((revision, Effect::Granted { worker, epoch })) = op.success() else { continue };
        let holder = *holders.entry((worker, *epoch)).or_insert(job);
        verdict.require(holder == job, || {
            format!("op {}: {worker} epoch {epoch} was promised to {holder} and {job}", op.id)
        });
        let grants = lives.of(worker).iter().filter(|event| event.to == Some(Condition::Busy));
        let granted = grants.filter(|event| event.epoch == *epoch).any(|event| event.job == *job);
        let in_view = revision >= history.from_revision;
        verdict.require(granted || !in_view, || {
            format!("op {}: {worker} epoch {epoch} for {job} was promised and never committed", op.id)
        });
    }
}

/// On the host no job begins while another job's processes are there.
fn judge_hosts(history: &History, verdict: &mut Verdict) {
    let mut running: BTreeMap<&str, u64> = BTreeMap::new();
    for record in &history.hosts {
        match record.deed {
            Deed::JobStarted { epoch } => {
                let other = running.insert(&record.worker, epoch);
                verdict.require(other.is_none_or(|other| other == epoch), || {
                    format!("{}: job of epoch {epoch} began beside the one of {other:?}", record.worker)
                });
            }
            Deed::JobGone { epoch } => {
                if running.get(record.worker.as_str()) == Some(&epoch) {
                    running.remove(record.worker.as_str());
                }
            }
            Deed::RunActed { .. } | Deed::RunObserved { .. } | Deed::TurnedAway { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn a_second_lease_beside_a_live_one_is_rejected() {
        let mut bad = good();
        let grant = bad.events.iter().position(|event| event.to == Some(Condition::Busy)).unwrap();
        let mut twice = bad.events[grant].clone();
        (twice.revision, twice.epoch, twice.job) = (twice.revision + 1, twice.epoch + 1, "thief".into());
        bad.events.insert(grant + 1, twice);
        rejected(judge, &bad, "leased while epoch");
    }

    #[test]
    fn a_token_used_again_is_rejected() {
        let mut bad = good();
        let last = bad.events.iter().rposition(|event| event.to == Some(Condition::Busy)).unwrap();
        bad.events[last].epoch = 1;
        rejected(judge, &bad, "is not above token");
    }

    #[test]
    fn a_run_below_the_epoch_it_follows_is_rejected() {
        let mut bad = good();
        let ended = bad.events.iter().position(|event| event.from == Some(Condition::Busy)).unwrap();
        bad.events[ended].run = 1;
        rejected(judge, &bad, "run 1 is not above token");
    }

    #[test]
    fn one_epoch_promised_to_two_jobs_is_rejected() {
        let mut bad = good();
        let mut op = bad.ops.iter().find(|op| matches!(op.call, Call::Acquire { .. })).unwrap().clone();
        op.call = Call::Acquire { pool: "p".into(), job: "thief".into(), wait_ms: 0, any: true };
        bad.ops.push(op);
        rejected(judge, &bad, "was promised to");
    }

    #[test]
    fn two_jobs_on_one_host_are_rejected() {
        let mut bad = good();
        bad.hosts.retain(|record| !matches!(record.deed, Deed::JobGone { .. }));
        rejected(judge, &bad, "began beside");
    }
}
