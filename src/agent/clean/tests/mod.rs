//! Plans carried out on real dirt, and looked at from outside.

mod files;
mod plans;
mod processes;

use remuda_wire::v1::CleaningPlan;
use remuda_wire::v1::CleaningReceipt;
use remuda_wire::v1::Step;
use remuda_wire::v1::StepResult;
use remuda_wire::v1::step::Kind;
use remuda_wire::v1::step_result::Outcome;

use super::*;
use crate::host::trial::Bench;

const ALL: [(&str, Kind); 5] = [
    ("stop", Kind::Stop),
    ("strays", Kind::Strays),
    ("mounts", Kind::Mounts),
    ("files", Kind::Files),
    ("temp", Kind::Temp),
];

fn plan(kinds: &[(&str, Kind)]) -> CleaningPlan {
    // Ample: what these tests prove is not how fast a busy machine is.
    let timeout = Some(to_wire(Duration::from_secs(60)));
    let step = |(name, kind): &(&str, Kind)| Step {
        name: (*name).to_owned(),
        kind: (*kind).into(),
        timeout,
        ..Step::default()
    };
    let stop_grace = Some(to_wire(Duration::from_millis(200)));
    CleaningPlan { version: 1, steps: kinds.iter().map(step).collect(), stop_grace, ..CleaningPlan::default() }
}

fn hook(name: &str, script: &str, timeout: Duration) -> Step {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    Step { name: name.to_owned(), kind: Kind::Hook.into(), command, timeout: Some(to_wire(timeout)), retries: 0 }
}

async fn clean(bench: &Bench, run_token: u64, plan: &CleaningPlan) -> CleaningReceipt {
    let target = Target { roots: bench.roots.clone(), run: run_token };
    run(plan, &target, CancellationToken::new()).await.unwrap()
}

/// Every step done and observed; then the worker's folders are looked at, too.
#[track_caller]
fn assert_clean(bench: &Bench, receipt: &CleaningReceipt) {
    for step in &receipt.steps {
        assert!(step.outcome() == Outcome::Done && step.observed && step.left == 0, "{step:#?}");
    }
    for part in ["leases", "tmp", "aside"] {
        let names: Vec<_> = std::fs::read_dir(bench.roots.folder().join(part)).unwrap().collect();
        assert!(names.is_empty(), "{part}: {names:?}");
    }
    assert!(bench.roots.groups().unwrap().is_empty());
}

fn step<'a>(receipt: &'a CleaningReceipt, name: &str) -> &'a StepResult {
    receipt.steps.iter().find(|step| step.name == name).unwrap()
}
