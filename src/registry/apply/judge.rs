//! Judging a receipt: apply believes no bare verdict.
//!
//! A receipt is clean when every step of the frozen plan is in it with its post-condition observed; it is healthy when
//! every probe passed and every measure keeps to the frozen thresholds. A cut plan asks only for its stop steps.
//!
//! Invariants
//! * What is missing counts as failed.

use crate::plan::{Evidence, Measures, PlanStep, Receipt, StepKind, StepReceipt, Thresholds};
use crate::pool::PoolSpec;
use crate::worker::{MaintenanceReason, StopOnly, Verdict};

/// The verdict on a receipt, and what was seen of that which decided it.
pub(super) fn judge(
    receipt: &Receipt,
    generation: u64,
    spec: &PoolSpec,
    stop_only: Option<StopOnly>,
) -> (Verdict, Option<Evidence>) {
    if receipt.generation != generation {
        let reason = MaintenanceReason::CleaningFailed { step: "plan".into() };
        return (Verdict::Unclean(reason), None);
    }
    let asked = |step: &&PlanStep| stop_only.is_none() || step.kind == StepKind::Stop;
    for step in spec.plan.steps.iter().filter(asked) {
        // Named twice, the worse word counts; an observation that something is left contradicts itself.
        let mut named = receipt.steps.iter().filter(|seen| seen.name == step.name);
        let bad = |seen: &&StepReceipt| !seen.observed || seen.left > 0;
        let first = named.clone().next();
        let seen = named.find(bad).or(first);
        if seen.is_none_or(|seen| bad(&seen)) {
            return (Verdict::Unclean(unclean(step)), seen.map(|seen| seen.evidence.clone()));
        }
    }
    if stop_only.is_some() {
        return (Verdict::Stopped, None);
    }
    for probe in &spec.plan.probes {
        let mut named = receipt.checks.iter().filter(|seen| seen.name == probe.name);
        let first = named.clone().next();
        let seen = named.find(|seen| !seen.passed).or(first);
        if !seen.is_some_and(|seen| seen.passed) {
            let reason = MaintenanceReason::ProbeFailed { name: probe.name.clone() };
            return (Verdict::Unhealthy(reason), seen.map(|seen| seen.evidence.clone()));
        }
    }
    measure(&receipt.measures, &spec.thresholds)
}

/// What a step leaves behind when its post-condition was not observed.
fn unclean(step: &PlanStep) -> MaintenanceReason {
    match &step.kind {
        StepKind::Stop | StepKind::Strays => MaintenanceReason::LeftoverProcesses,
        StepKind::Mounts => MaintenanceReason::LeftoverMounts,
        StepKind::Files | StepKind::Temp => MaintenanceReason::LeftoverFiles,
        StepKind::Hook | StepKind::Baseline | StepKind::Other(_) => {
            MaintenanceReason::CleaningFailed { step: step.name.clone() }
        }
    }
}

/// Compares each measure with its threshold; the first that fails decides.
fn measure(measures: &Measures, thresholds: &Thresholds) -> (Verdict, Option<Evidence>) {
    use MaintenanceReason::{ClockSkew, DiskLow, InodesLow, LoadHigh, MemoryLow};
    let (m, t) = (measures, thresholds);
    let at_least = [
        ("disk free bytes", m.disk_free_bytes, t.disk_free_bytes_min, DiskLow),
        ("disk free permille", m.disk_free_permille, t.disk_free_permille_min, DiskLow),
        ("inodes free permille", m.inodes_free_permille, t.inodes_free_permille_min, InodesLow),
        ("memory available bytes", m.memory_available_bytes, t.memory_available_bytes_min, MemoryLow),
    ];
    let at_most = [
        ("cpu pressure centipercent", m.cpu_pressure_centipercent, t.cpu_pressure_centipercent_max, LoadHigh),
        ("runnable per cpu permille", m.runnable_per_cpu_permille, t.runnable_per_cpu_permille_max, LoadHigh),
        ("clock skew ms", m.clock_skew_ms, t.clock_skew_ms_max, ClockSkew),
    ];
    let at_least = at_least.into_iter().map(|bound| (bound, true));
    for ((name, measured, bound, reason), least) in at_least.chain(at_most.into_iter().map(|bound| (bound, false))) {
        let Some(bound) = bound else { continue };
        let Some(measured) = measured else {
            let reason = MaintenanceReason::CleaningFailed { step: "measures".into() };
            return (Verdict::Unclean(reason), Some(Evidence::new(format!("{name} was not measured"))));
        };
        if (least && measured < bound) || (!least && measured > bound) {
            let sign = if least { "at least" } else { "at most" };
            let evidence = Evidence::new(format!("{name} {measured}, wanted {sign} {bound}"));
            return (Verdict::Unhealthy(reason), Some(evidence));
        }
    }
    (Verdict::Clean, None)
}

/// The receipt with its texts cut to their bounds, as it may enter the state.
pub(super) fn bounded(receipt: &Receipt) -> Receipt {
    let mut receipt = receipt.clone();
    let texts = receipt.steps.iter_mut().map(|step| &mut step.evidence);
    for text in texts.chain(receipt.checks.iter_mut().map(|check| &mut check.evidence)) {
        *text = Evidence::new(std::mem::take(&mut text.0));
    }
    receipt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::StepOutcome;
    use crate::time::Millis;

    fn clean(spec: &PoolSpec) -> Receipt {
        let step = |step: &PlanStep| StepReceipt {
            name: step.name.clone(),
            outcome: StepOutcome::Done,
            observed: true,
            tries: 1,
            took: Millis(1),
            removed: 0,
            left: 0,
            evidence: Evidence::default(),
        };
        let measures = Measures {
            disk_free_bytes: Some(1 << 40),
            disk_free_permille: Some(500),
            inodes_free_permille: Some(500),
            memory_available_bytes: Some(1 << 33),
            ..Measures::default()
        };
        Receipt {
            generation: 1,
            steps: spec.plan.steps.iter().map(step).collect(),
            measures,
            checks: vec![],
            shared_residue: false,
            missing_capabilities: vec![],
            took: Millis(9),
        }
    }

    #[test]
    fn what_was_not_observed_is_not_clean() {
        let spec = PoolSpec::default();
        assert_eq!(judge(&clean(&spec), 1, &spec, None).0, Verdict::Clean);
        for place in 0..spec.plan.steps.len() {
            let mut receipt = clean(&spec);
            receipt.steps[place].observed = false;
            assert!(matches!(judge(&receipt, 1, &spec, None).0, Verdict::Unclean(_)));
            receipt.steps.remove(place);
            assert!(matches!(judge(&receipt, 1, &spec, None).0, Verdict::Unclean(_)));
        }
        assert!(matches!(judge(&clean(&spec), 2, &spec, None).0, Verdict::Unclean(_)));
    }

    #[test]
    fn missing_and_bad_measures_are_not_healthy() {
        let spec = PoolSpec::default();
        let mut receipt = clean(&spec);
        receipt.measures.memory_available_bytes = Some(1);
        assert_eq!(judge(&receipt, 1, &spec, None).0, Verdict::Unhealthy(MaintenanceReason::MemoryLow));
        receipt.measures.memory_available_bytes = None;
        assert!(matches!(judge(&receipt, 1, &spec, None).0, Verdict::Unclean(_)));
        assert_eq!(judge(&receipt, 1, &spec, Some(StopOnly::Broken)).0, Verdict::Stopped);
    }
}
