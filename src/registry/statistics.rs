//! Counters of a pool: what the four figures are made of (return success, health, return latency, reuse).
//!
//! A return counts here when it followed a lease; a worker that was cleaned because it joined or came back is no return
//! of a holder.
//!
//! Invariants
//! * Counters only grow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::ReturnResult;
use crate::time::Millis;
use crate::worker::{MaintenanceReason, Verdict};

/// Upper bounds of the duration buckets in milliseconds; one further bucket has none.
pub const BUCKETS_MS: [u64; 26] = [
    1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 20_000,
    30_000, 60_000, 120_000, 300_000, 600_000,
];

/// Counters of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// Leases granted.
    pub leases: u64,
    /// Of them, by a worker that had served before.
    pub leases_reused: u64,
    /// Returns that began.
    pub returns_begun: u64,
    /// Returns that ended with an accepted receipt.
    pub returns_succeeded: u64,
    /// Returns that ended in Maintenance, Lost, or overtaken by an operator.
    pub returns_failed: u64,
    /// The failed ones by reason: a reason of Maintenance without its details, `Lost`, or `Overtaken`.
    pub returns_failed_by_reason: BTreeMap<String, u64>,
    /// Receipts judged clean and healthy, or stopped where only that was asked.
    pub receipts_accepted: u64,
    /// Receipts with a failed step or a missing observation.
    pub receipts_unclean: u64,
    /// Receipts with a bad measure or probe.
    pub receipts_unhealthy: u64,
    /// Durations of ended returns.
    pub took: Durations,
}

/// Durations, counted by bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: Millis,
    /// The longest.
    pub max: Millis,
    /// How many fell into each bucket of [`BUCKETS_MS`], and into the last, unbounded one; empty before the first.
    pub buckets: Vec<u64>,
}

impl Durations {
    /// Counts one.
    pub(crate) fn count(&mut self, took: Millis) {
        self.buckets.resize(BUCKETS_MS.len() + 1, 0);
        let bucket = BUCKETS_MS.partition_point(|bound| *bound < took.0);
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum = Millis(self.sum.0.saturating_add(took.0));
        self.max = self.max.max(took);
    }

    /// The upper bound of the bucket in which this share of all durations ends, at most the longest one; `None`
    /// without any.
    pub fn permille(&self, share: u64) -> Option<Millis> {
        let wanted = (self.count * share).div_ceil(1_000).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|in_bucket| {
            seen += in_bucket;
            seen >= wanted
        })?;
        let bound = BUCKETS_MS.get(bucket).map_or(self.max, |bound| Millis(*bound));
        Some(bound.min(self.max))
    }
}

impl Statistics {
    /// Returns that have begun and not ended.
    pub fn returns_open(&self) -> u64 {
        self.returns_begun - self.returns_succeeded - self.returns_failed
    }

    /// Counts a judged receipt.
    pub(crate) fn receipt(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Clean | Verdict::Stopped => self.receipts_accepted += 1,
            Verdict::Unclean(_) => self.receipts_unclean += 1,
            Verdict::Unhealthy(_) => self.receipts_unhealthy += 1,
            Verdict::TimedOut | Verdict::Replaced | Verdict::Lost | Verdict::Overtaken => {}
        }
    }

    /// Counts the end of a return.
    pub(crate) fn return_ended(&mut self, result: &ReturnResult, took: Millis) {
        self.took.count(took);
        let failure = match result {
            ReturnResult::Clean | ReturnResult::Spent | ReturnResult::Diverted(_) => None,
            ReturnResult::Failed(reason) => Some(name(reason)),
            ReturnResult::Lost => Some("Lost"),
            ReturnResult::Overtaken => Some("Overtaken"),
        };
        match failure {
            None => self.returns_succeeded += 1,
            Some(reason) => {
                self.returns_failed += 1;
                *self.returns_failed_by_reason.entry(reason.to_owned()).or_default() += 1;
            }
        }
    }
}

/// The reason without its details, so that the number of counters is bounded.
const fn name(reason: &MaintenanceReason) -> &'static str {
    match reason {
        MaintenanceReason::DiskLow => "DiskLow",
        MaintenanceReason::InodesLow => "InodesLow",
        MaintenanceReason::MemoryLow => "MemoryLow",
        MaintenanceReason::LoadHigh => "LoadHigh",
        MaintenanceReason::ClockSkew => "ClockSkew",
        MaintenanceReason::ProbeFailed { .. } => "ProbeFailed",
        MaintenanceReason::LeftoverProcesses => "LeftoverProcesses",
        MaintenanceReason::LeftoverFiles => "LeftoverFiles",
        MaintenanceReason::LeftoverMounts => "LeftoverMounts",
        MaintenanceReason::CleaningTimedOut => "CleaningTimedOut",
        MaintenanceReason::CleaningFailed { .. } => "CleaningFailed",
        MaintenanceReason::DeclaredBroken => "DeclaredBroken",
        MaintenanceReason::Held => "Held",
        MaintenanceReason::Operator => "Operator",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_by_the_bucket_and_the_longest() {
        let mut durations = Durations::default();
        assert_eq!(durations.permille(500), None);
        for took in 1..=100 {
            durations.count(Millis(took));
        }
        assert_eq!(durations.permille(500), Some(Millis(50)));
        assert_eq!(durations.permille(990), Some(Millis(100)));
        durations.count(Millis(10_000_000));
        assert_eq!(durations.permille(1_000), Some(Millis(10_000_000)));
    }
}
