//! A pool's settings: what it asks of its workers, agents and holders, with defaults and bounds.
//!
//! Bounds are judged here and nowhere else ([`PoolSpec::violations`]); every violation is named at once. A change makes
//! a new generation; runs that are open keep the one they began with.
//!
//! Invariants
//! * Every spec in the state has no violations.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::plan::{CleaningPlan, Thresholds};
use crate::time::{Millis, Moment};

/// Bounds of the settings, each with its reason.
pub mod bounds {
    use crate::time::Millis;

    /// Shorter leases would be renewed more than three times a second.
    pub const LEASE_TTL_MIN: Millis = Millis::secs(1);
    /// A longer silence should be a drain or a hold.
    pub const LEASE_TTL_MAX: Millis = Millis::hours(24);
    /// A lease must end some day, so that cleaning and limits of reuse come into play.
    pub const LEASE_MAX_MAX: Millis = Millis::hours(24 * 30);
    /// First deadline of a grant made to a waiter.
    pub const CLAIM: Millis = Millis::secs(10);
    /// A process that ignores TERM for longer is killed.
    pub const STOP_GRACE_MAX: Millis = Millis::mins(10);
    /// No deadline of a run is shorter: agents report once per heartbeat.
    pub const CLEANING_DEADLINE_MIN: Millis = Millis(100);
    /// No deadline of a run is longer: a lost agent would go unnoticed.
    pub const CLEANING_DEADLINE_MAX: Millis = Millis::hours(24);
    /// More attempts only delay the operator.
    pub const CLEANING_ATTEMPTS_MAX: u32 = 100;
    /// Ages and retentions: a month.
    pub const AGE_MAX: Millis = Millis::hours(24 * 30);
    /// Priorities above are the same as this.
    pub const PRIORITY_MAX: u32 = 1_000;
    /// Rungs of the retry ladder.
    pub const LADDER_MAX: u32 = 100;
}

/// Which free worker of those that fit is chosen; ties go to the lower id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Policy {
    /// The one whose last lease ended longest ago: spreads wear.
    #[default]
    LeastRecentlyUsed,
    /// The one whose last lease ended last: warm caches, and the rest may be shut down.
    MostRecentlyUsed,
    /// The one with the fewest leases.
    LeastUsed,
}

/// What a pool asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// For people.
    pub description: String,
    /// How a free worker is chosen.
    pub policy: Policy,
    /// Highest priority of an acquire; higher ones count as this.
    pub priority_max: u32,
    /// Leases.
    pub lease: LeaseRules,
    /// Runs, attempts and backoff.
    pub cleaning: CleaningRules,
    /// What a run does.
    pub plan: CleaningPlan,
    /// What counts as healthy.
    pub thresholds: Thresholds,
    /// A receipt older than this is stale when the worker would be admitted.
    pub ready_max_age: Millis,
    /// A worker that stood free this long is checked again; `None`: never.
    pub idle_check: Option<Millis>,
    /// The retry ladder.
    pub maintenance: MaintenanceRules,
    /// Limits of reuse.
    pub reuse: ReuseRules,
    /// How long rows outlive their use.
    pub retention: RetentionRules,
}

/// Leases of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRules {
    /// What a renewal grants unless the holder asks for less.
    pub ttl: Millis,
    /// How long renewals can keep one lease alive.
    pub max: Millis,
}

/// Runs of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleaningRules {
    /// From TERM to KILL.
    pub stop_grace: Millis,
    /// Until the agent has taken the run on.
    pub start_within: Millis,
    /// While it is queued in the agent.
    pub queue_max: Millis,
    /// From the start to the report.
    pub timeout: Millis,
    /// Runs per Cleaning before Maintenance.
    pub attempts: u32,
    /// Wait before the second attempt; doubles from there.
    pub backoff: Millis,
    /// Longest wait between attempts.
    pub backoff_max: Millis,
}

/// The retry ladder out of Maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceRules {
    /// Wait before the first retry; doubles from rung to rung.
    pub retry_after: Millis,
    /// Longest wait between rungs.
    pub retry_after_max: Millis,
    /// Rungs before it waits for an operator; 0: always an operator.
    pub retries: u32,
}

/// Limits of reuse, judged when a clean worker would become Ready.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReuseRules {
    /// Leases until it is Retired(Spent).
    pub max_uses: Option<u64>,
    /// Age since registration until it is Retired(Spent).
    pub max_age: Option<Millis>,
}

/// How long rows outlive their use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionRules {
    /// From Lost to Retired(Lost).
    pub lost: Millis,
    /// From Retired to the removal of the row.
    pub retired: Millis,
    /// From Maintenance(Held) to the retry.
    pub hold_max_age: Millis,
}

/// One thing wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Path of the setting, for example `lease.ttl`.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

/// One pool's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub id: crate::id::PoolId,
    /// What it asks for.
    pub spec: Arc<PoolSpec>,
    /// Counts changes of the spec, from 1; the etag, and the generation of the plan.
    pub generation: u64,
    /// When it was created.
    pub created: Moment,
    /// Waiters that match an Available worker exist beyond what one entry may grant; `due` owes the rest.
    pub grants_owed: bool,
    /// The number of the next class.
    pub classes_made: u32,
    /// How often the policy was changed.
    pub policy_changes: u32,
}

impl Default for PoolSpec {
    fn default() -> Self {
        Self {
            description: String::new(),
            policy: Policy::default(),
            priority_max: 10,
            lease: LeaseRules { ttl: Millis::secs(30), max: Millis::hours(24) },
            cleaning: CleaningRules {
                stop_grace: Millis::secs(5),
                start_within: Millis::secs(60),
                queue_max: Millis::mins(15),
                timeout: Millis::secs(60),
                attempts: 3,
                backoff: Millis::secs(1),
                backoff_max: Millis::secs(30),
            },
            plan: CleaningPlan::default(),
            thresholds: Thresholds::default(),
            ready_max_age: Millis::secs(60),
            idle_check: None,
            maintenance: MaintenanceRules {
                retry_after: Millis::mins(1),
                retry_after_max: Millis::hours(1),
                retries: 5,
            },
            reuse: ReuseRules::default(),
            retention: RetentionRules {
                lost: Millis::hours(24),
                retired: Millis::hours(1),
                hold_max_age: Millis::hours(4),
            },
        }
    }
}

impl PoolSpec {
    /// Everything that is wrong with the spec, in the order of its fields; empty for a good one.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Findings(Vec::new());
        found.at_most("priority_max", u64::from(self.priority_max), u64::from(bounds::PRIORITY_MAX));
        found.within("lease.ttl", self.lease.ttl, bounds::LEASE_TTL_MIN, bounds::LEASE_TTL_MAX);
        found.within("lease.max", self.lease.max, self.lease.ttl, bounds::LEASE_MAX_MAX);
        self.cleaning_violations(&mut found);
        self.plan_violations(&mut found);
        let least = Millis(1);
        found.within("ready_max_age", self.ready_max_age, least, bounds::AGE_MAX);
        if let Some(idle_check) = self.idle_check {
            found.within("idle_check", idle_check, Millis::secs(1), bounds::AGE_MAX);
        }
        let ladder = &self.maintenance;
        found.within("maintenance.retry_after", ladder.retry_after, least, bounds::AGE_MAX);
        found.within("maintenance.retry_after_max", ladder.retry_after_max, ladder.retry_after, bounds::AGE_MAX);
        found.at_most("maintenance.retries", u64::from(ladder.retries), u64::from(bounds::LADDER_MAX));
        if self.reuse.max_uses == Some(0) {
            found.add("reuse.max_uses", "must be at least 1");
        }
        if let Some(max_age) = self.reuse.max_age {
            found.within("reuse.max_age", max_age, Millis::secs(1), Millis::hours(24 * 3650));
        }
        found.within("retention.lost", self.retention.lost, least, bounds::AGE_MAX);
        found.within("retention.retired", self.retention.retired, least, bounds::AGE_MAX);
        found.within("retention.hold_max_age", self.retention.hold_max_age, least, bounds::AGE_MAX);
        found.0
    }

    fn cleaning_violations(&self, found: &mut Findings) {
        let rules = &self.cleaning;
        let (least, most) = (bounds::CLEANING_DEADLINE_MIN, bounds::CLEANING_DEADLINE_MAX);
        found.within("cleaning.stop_grace", rules.stop_grace, Millis(0), bounds::STOP_GRACE_MAX);
        found.within("cleaning.start_within", rules.start_within, least, most);
        found.within("cleaning.queue_max", rules.queue_max, least, most);
        found.within("cleaning.timeout", rules.timeout, least, most);
        if rules.attempts == 0 {
            found.add("cleaning.attempts", "must be at least 1");
        }
        found.at_most("cleaning.attempts", u64::from(rules.attempts), u64::from(bounds::CLEANING_ATTEMPTS_MAX));
        found.within("cleaning.backoff", rules.backoff, Millis(0), most);
        found.within("cleaning.backoff_max", rules.backoff_max, rules.backoff, most);
    }

    fn plan_violations(&self, found: &mut Findings) {
        let plan = &self.plan;
        if plan.steps.is_empty() {
            found.add("plan.steps", "must not be empty");
        }
        found.at_most("plan.steps", plan.steps.len() as u64, limits::PLAN_STEPS_MAX as u64);
        found.at_most("plan.probes", plan.probes.len() as u64, limits::PLAN_STEPS_MAX as u64);
        if plan.stop_only().steps.is_empty() {
            found.add("plan.steps", "must have a stop step");
        }
        let steps = plan.steps.iter().map(|step| &step.name);
        for (path, names) in [("plan.steps", steps.collect::<Vec<_>>()), ("plan.probes", self.probe_names())] {
            let mut sorted = names.clone();
            sorted.sort();
            sorted.dedup();
            if sorted.len() < names.len() {
                found.add(path, "names must be distinct");
            }
            if sorted.iter().any(|name| name.is_empty() || name.len() > 63) {
                found.add(path, "names must have 1 to 63 bytes");
            }
        }
        if plan.budget() >= self.cleaning.timeout {
            found.add("plan.steps", "the sum of timeouts, with retries, must be below cleaning.timeout");
        }
    }

    fn probe_names(&self) -> Vec<&Arc<str>> {
        self.plan.probes.iter().map(|probe| &probe.name).collect()
    }
}

/// Violations found so far.
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, field: &str, why: &str) {
        self.0.push(Violation { field: field.into(), why: why.into() });
    }

    fn at_most(&mut self, field: &str, value: u64, most: u64) {
        if value > most {
            self.add(field, &format!("must be at most {most}"));
        }
    }

    fn within(&mut self, field: &str, value: Millis, least: Millis, most: Millis) {
        if value < least || value > most {
            self.add(field, &format!("must be between {least} and {most}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(PoolSpec::default().violations(), vec![]);
    }

    #[test]
    fn all_violations_are_named_at_once() {
        let mut spec = PoolSpec::default();
        spec.lease.ttl = Millis(1);
        spec.cleaning.attempts = 0;
        spec.plan.steps.clear();
        let fields: Vec<_> = spec.violations().into_iter().map(|violation| violation.field).collect();
        assert_eq!(fields, ["lease.ttl", "cleaning.attempts", "plan.steps", "plan.steps"]);
    }
}
