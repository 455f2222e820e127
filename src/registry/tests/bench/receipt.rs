//! Receipts for tests: what an agent would report after a run that went well, and ways to spoil it.

use remuda_registry::Millis;
use remuda_registry::plan::{CheckReceipt, CleaningPlan, Evidence, Measures, Receipt, StepOutcome, StepReceipt};

/// The receipt of a run in which everything was done, observed and measured.
pub(crate) fn clean(plan: &CleaningPlan, generation: u64) -> Receipt {
    let step = |name: &std::sync::Arc<str>| StepReceipt {
        name: name.clone(),
        outcome: StepOutcome::Done,
        observed: true,
        tries: 1,
        took: Millis(5),
        removed: 0,
        left: 0,
        evidence: Evidence::default(),
    };
    let check = |name: &std::sync::Arc<str>| CheckReceipt {
        name: name.clone(),
        passed: true,
        took: Millis(3),
        evidence: Evidence::default(),
    };
    Receipt {
        generation,
        steps: plan.steps.iter().map(|planned| step(&planned.name)).collect(),
        measures: Measures {
            disk_free_bytes: Some(100 << 30),
            disk_free_permille: Some(900),
            inodes_free_permille: Some(900),
            memory_available_bytes: Some(8 << 30),
            cpu_pressure_centipercent: Some(100),
            memory_pressure_centipercent: Some(0),
            io_pressure_centipercent: Some(0),
            runnable_per_cpu_permille: Some(500),
            load1_permille: Some(700),
            clock_skew_ms: Some(2),
        },
        checks: plan.probes.iter().map(|probe| check(&probe.name)).collect(),
        shared_residue: false,
        missing_capabilities: Vec::new(),
        took: Millis(30),
    }
}

/// The named step, to be spoilt.
pub(crate) fn step<'a>(receipt: &'a mut Receipt, name: &str) -> Option<&'a mut StepReceipt> {
    receipt.steps.iter_mut().find(|step| &*step.name == name)
}
