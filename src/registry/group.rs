//! The one row that is about the whole group: log time and its grace, counters, the feature level.
//!
//! Invariants
//! * `log_time` and `next_token` only grow.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{ClusterId, ReplicaId, Revision};
use crate::limits;
use crate::time::LogTime;

/// The group's row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Group {
    /// Set by the bootstrap command.
    pub cluster: Option<ClusterId>,
    /// Who votes on digests.
    pub voters: BTreeSet<ReplicaId>,
    /// The register of log time.
    pub log_time: LogTime,
    /// Wall time of the newest frame, for people.
    pub wall_ms: u64,
    /// The term of the newest frame.
    pub term: u64,
    /// Timed commands are held back until then.
    pub held_until: LogTime,
    /// The next token, session or waiter.
    pub next_token: u64,
    /// What apply does is a function of it.
    pub feature_level: u32,
    /// The digest mark on which replicas disagree without a majority.
    pub diverged: Option<Revision>,
    /// Events up to here are trimmed.
    pub events_trimmed: Revision,
}

/// A digest mark.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    /// What each replica reported first.
    pub reports: BTreeMap<ReplicaId, Digest>,
    /// What a majority has.
    pub agreed: Option<Digest>,
}

impl Mark {
    /// Whether replicas reported different values and none has a majority.
    pub fn is_disputed(&self) -> bool {
        let mut values = self.reports.values();
        let first = values.next();
        self.agreed.is_none() && values.any(|value| Some(value) != first)
    }
}

impl Group {
    /// Until when a timed command with this deadline is not done.
    pub fn due_at(&self, deadline: LogTime) -> LogTime {
        deadline.max(self.held_until.min(deadline + limits::GRACE_PAST_DEADLINE_MAX))
    }

    /// Deadlines up to here are due now. The inverse of [`Group::due_at`].
    pub fn due_until(&self) -> Option<LogTime> {
        if self.log_time >= self.held_until {
            return Some(self.log_time);
        }
        self.log_time.0.checked_sub(limits::GRACE_PAST_DEADLINE_MAX.0).map(LogTime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_of_the_grace_agree() {
        for log_time in (0..60_000).step_by(500).map(LogTime) {
            let group = Group { log_time, held_until: LogTime(30_000), ..Group::default() };
            for deadline in (0..60_000).step_by(500).map(LogTime) {
                let due = group.due_until().is_some_and(|until| deadline <= until);
                assert_eq!(due, group.due_at(deadline) <= log_time, "{deadline} at {log_time}");
            }
        }
    }
}
