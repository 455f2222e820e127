//! `same_state`: replicas at the same revision have the same state digest and the same log entry.

use std::collections::BTreeMap;

use super::Verdict;
use super::history::History;

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("same_state");
    let mut first: BTreeMap<(&str, u64), (u64, &str)> = BTreeMap::new();
    for statement in &history.statements {
        let place = (statement.of.as_str(), statement.revision);
        if let Some((replica, value)) = first.get(&place) {
            verdict.require(*value == statement.value, || {
                format!(
                    "{} at {}: replica {replica} has {value}, replica {} has {}",
                    statement.of, statement.revision, statement.replica, statement.value
                )
            });
        } else {
            first.insert(place, (statement.replica, &statement.value));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn two_states_at_one_revision_are_rejected() {
        let mut bad = good();
        bad.statements[1].value = "beef".into();
        rejected(judge, &bad, "replica 2 has beef");
    }

    #[test]
    fn states_of_different_revisions_may_differ() {
        let mut fine = good();
        fine.statements[1].revision += 1;
        fine.statements[1].value = "beef".into();
        assert!(judge(&fine).holds());
    }
}
