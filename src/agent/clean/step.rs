//! One step of a plan: tried until its post-condition was observed, or its tries or its time are used up.
//!
//! Blocking steps run on threads of their own and are always waited for. A step's time covers all its tries.
//!
//! Invariants
//! * "Done" is said only when the last try ended well and left nothing.
//!
//! Never here: the order of steps.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use remuda_wire::v1::CleaningPlan;
use remuda_wire::v1::Step;
use remuda_wire::v1::StepResult;
use remuda_wire::v1::step::Kind;
use remuda_wire::v1::step_result::Outcome;
use tokio_util::sync::CancellationToken;

use super::Target;
use super::command;
use super::control::Control;
use super::control::Halt;
use super::evidence::Tally;
use super::files;
use super::folders;
use super::further;
use super::limits;
use super::stop;
use super::strays;
use super::suspects::Scope;
use super::unmount;
use crate::baseline;
use crate::failpoint;

/// Between two tries of a step.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// What a blocking step works on.
#[derive(Clone)]
struct Work {
    target: Target,
    kind: Kind,
    grace: Duration,
    folders: Vec<PathBuf>,
    control: Control,
}

/// Carries one step out.
pub(super) async fn carry_out(
    step: &Step,
    plan: &CleaningPlan,
    target: &Target,
    deadline: Instant,
    cancel: &CancellationToken,
) -> StepResult {
    let begun = Instant::now();
    let timeout =
        super::duration_or(step.timeout.as_ref(), limits::STEP).min(deadline.saturating_duration_since(begun));
    let control = Control::new(timeout, cancel);
    let mut sum = Tally::default();
    let mut tries = 0;
    let outcome = loop {
        tries += 1;
        let (ended, tally) = attempt(step, plan, target, &control).await;
        sum.evidence.merge(tally.evidence);
        sum.removed += tally.removed;
        sum.left = tally.left;
        match ended {
            Ok(()) if sum.left == 0 => break Outcome::Done,
            Err(Halt::TimedOut) => break Outcome::TimedOut,
            Err(Halt::Cancelled) => break Outcome::Failed,
            Err(Halt::Io(error)) => sum.evidence.note("error", error.to_string()),
            Ok(()) => {}
        }
        if tries > step.retries {
            break Outcome::Failed;
        }
        tokio::select! {
            () = tokio::time::sleep(BETWEEN_TRIES) => {}
            () = cancel.cancelled() => break Outcome::Failed,
        }
    };
    let took = begun.elapsed();
    tracing::debug!(
        worker = target.roots.worker(),
        run = target.run,
        step = step.name,
        ?outcome,
        tries,
        ?took,
        removed = sum.removed,
        left = sum.left,
        "step ended"
    );
    StepResult {
        name: step.name.clone(),
        outcome: outcome.into(),
        observed: outcome == Outcome::Done,
        took: Some(super::to_wire(took)),
        tries,
        evidence: sum.evidence.text(),
        removed: sum.removed,
        left: sum.left,
    }
}

async fn attempt(step: &Step, plan: &CleaningPlan, target: &Target, control: &Control) -> (Result<(), Halt>, Tally) {
    match Kind::try_from(step.kind) {
        Ok(Kind::Hook) => hook(step, plan, target, control).await,
        Ok(kind @ (Kind::Stop | Kind::Strays | Kind::Mounts | Kind::Files | Kind::Temp)) => {
            let grace = super::duration_or(plan.stop_grace.as_ref(), limits::STEP);
            let folders = further(plan, target);
            let work = Work { target: target.clone(), kind, grace, folders, control: control.clone() };
            let worked = tokio::task::spawn_blocking(move || {
                let mut tally = Tally::default();
                (work.perform(&mut tally), tally)
            });
            worked.await.unwrap_or_else(|panic| (Err(std::io::Error::other(panic).into()), Tally::default()))
        }
        Ok(Kind::Unspecified) | Err(_) => {
            let mut tally = Tally::default();
            tally.evidence.note("unknown-kind", step.kind.to_string());
            tally.left = 1;
            (Ok(()), tally)
        }
    }
}

impl Work {
    fn perform(&self, tally: &mut Tally) -> Result<(), Halt> {
        let (roots, run) = (&self.target.roots, self.target.run);
        let scope = Scope { roots: roots.clone(), tokens: 0..=run };
        self.control.check()?;
        // Before any step acts on a folder: an order to empty `/` must not get as far as its mounts.
        for folder in &self.folders {
            folders::check(folder, roots)?;
        }
        match self.kind {
            Kind::Stop => {
                failpoint::hit("agent.clean.before_stop");
                stop::stop(&scope, self.grace, &self.control, tally)?;
                failpoint::hit("agent.clean.after_stop");
            }
            Kind::Strays => {
                failpoint::hit("agent.clean.before_strays");
                strays::end_strays(&scope, &self.control, tally)?;
                failpoint::hit("agent.clean.after_strays");
            }
            Kind::Mounts => {
                failpoint::hit("agent.clean.before_mounts");
                let kept = baseline::operators_mounts(roots, run, &self.folders)?;
                let mut below = self.folders.clone();
                below.push(roots.folder());
                unmount::unmount_below(&below, &kept, &self.control, tally)?;
                failpoint::hit("agent.clean.after_mounts");
            }
            Kind::Files => {
                failpoint::hit("agent.clean.before_files");
                files::remove_leases(roots, run, &self.control, tally)?;
                failpoint::hit("agent.clean.after_files");
            }
            Kind::Temp => {
                failpoint::hit("agent.clean.before_temp");
                files::remove_temporaries(roots, run, &self.folders, &self.control, tally)?;
                failpoint::hit("agent.clean.after_temp");
            }
            Kind::Hook | Kind::Unspecified => unreachable!("not blocking steps"),
        }
        Ok(())
    }
}

/// A hook's post-condition is its status.
async fn hook(step: &Step, plan: &CleaningPlan, target: &Target, control: &Control) -> (Result<(), Halt>, Tally) {
    failpoint::hit("agent.clean.before_hook");
    let mut tally = Tally { left: 1, ..Tally::default() };
    let folders: Vec<String> = further(plan, target).iter().map(|path| path.display().to_string()).collect();
    let env = [
        ("REMUDA_WORKER".to_owned(), target.roots.worker().to_owned()),
        ("REMUDA_RUN".to_owned(), target.run.to_string()),
        ("REMUDA_FOLDERS".to_owned(), folders.join(":")),
    ];
    let ran = match command::run(&step.command, &env, target, control.left(), control.token()).await {
        Ok(ran) => ran,
        Err(error) => return (Err(error.into()), tally),
    };
    failpoint::hit("agent.clean.after_hook");
    tally.evidence.count("left-behind", ran.removed);
    tally.removed = ran.removed;
    let ended = match ran.status {
        Some(status) if status.success() => {
            tally.left = ran.left;
            Ok(())
        }
        Some(status) => {
            tally.evidence.note("status", status.to_string());
            Ok(())
        }
        None => {
            tally.evidence.note("killed", step.command.join(" "));
            control.check()
        }
    };
    if !ran.output.is_empty() {
        tally.evidence.note("output", ran.output);
    }
    (ended, tally)
}
