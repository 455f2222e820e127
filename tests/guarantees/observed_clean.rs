//! `observed_clean`: a worker that passed was seen to be clean, by its own run, with nothing of an earlier job left.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::history::{Condition, Deed, History};

/// Judges the promise for histories that have host records.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("observed_clean");
    if history.hosts.is_empty() {
        return verdict;
    }
    let mut running: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let mut seen: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for record in &history.hosts {
        let jobs = running.entry(&record.worker).or_default();
        match record.deed {
            Deed::JobStarted { epoch } => {
                jobs.insert(epoch);
            }
            Deed::JobGone { epoch } => {
                jobs.remove(&epoch);
            }
            Deed::RunObserved { run, residue } => {
                let left = jobs.iter().filter(|epoch| **epoch < run).count() as u64;
                verdict.require(residue > 0 || left == 0, || {
                    format!("{}: run {run} saw nothing while {left} job(s) were there", record.worker)
                });
                seen.insert((&record.worker, run), residue.max(left));
            }
            Deed::RunActed { .. } | Deed::TurnedAway { .. } => {}
        }
    }
    for event in &history.events {
        if (event.from, event.to) == (Some(Condition::Cleaning), Some(Condition::Ready)) {
            let residue = seen.get(&(event.worker.as_str(), event.run)).copied();
            verdict.require(residue == Some(0), || {
                format!("{:?} {}: run {} passed, observed: {residue:?}", event.position(), event.worker, event.run)
            });
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn a_pass_that_nobody_observed_is_rejected() {
        let mut bad = good();
        bad.hosts.retain(|record| !matches!(record.deed, Deed::RunObserved { .. }));
        rejected(judge, &bad, "observed: None");
    }

    #[test]
    fn a_pass_with_residue_is_rejected() {
        let mut bad = good();
        for record in &mut bad.hosts {
            if let Deed::RunObserved { residue, .. } = &mut record.deed {
                *residue = 1;
            }
        }
        rejected(judge, &bad, "observed: Some(1)");
    }

    #[test]
    fn an_observation_that_overlooks_a_live_job_is_rejected() {
        let mut bad = good();
        bad.hosts.retain(|record| !matches!(record.deed, Deed::JobGone { .. }));
        rejected(judge, &bad, "saw nothing while");
    }
}
