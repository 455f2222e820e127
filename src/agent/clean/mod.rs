//! Cleaning: a plan carried out step by step, each believed only when its end was observed.
//!
//! The plan and the receipt are data. Steps run in the plan's order; each is tried until its post-condition was seen, its
//! tries are used up, or its time is over. After a failed step the later ones are skipped, and said to be: deleting files
//! under a process that could not be ended, or over a mount, would do harm and prove nothing. A run may be broken off at
//! any point and done again from the beginning.
//!
//! ```text
//! stop ──> strays ──> mounts ──> files ──> temp ──> hooks ──> diff with the baseline ──> measures, probes ──> receipt
//! ```
//!
//! Invariants
//! * One result per step and per probe of the plan, in its order, also for kinds that this agent does not know (failed).
//! * Nothing of a lease newer than the run is touched.
//! * When [`run`] resolves, everything that it started has ended.
//!
//! Never here: judging the receipt; whether the run is still wanted.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use remuda_wire::v1::CleaningPlan;
use remuda_wire::v1::CleaningReceipt;
use remuda_wire::v1::ProbeResult;
use remuda_wire::v1::StepResult;
use remuda_wire::v1::step_result::Outcome;
use tokio_util::sync::CancellationToken;

use crate::baseline;
use crate::failpoint;
use crate::health;
use crate::host::Lease;
use crate::host::Roots;

pub(crate) mod command;
mod control;
mod evidence;
mod files;
mod folders;
mod level;
mod open;
mod step;
mod stop;
mod strays;
mod suspects;
mod unmount;
mod walk;

pub(crate) use control::Control;
pub(crate) use control::Halt;
pub(crate) use evidence::cut;
pub(crate) use suspects::Scope;

/// Version of the receipt's format.
const RECEIPT_VERSION: u32 = 1;

mod limits {
    use std::time::Duration;

    /// A step or run whose plan names no time.
    pub(super) const STEP: Duration = Duration::from_secs(10);
    pub(super) const RUN: Duration = Duration::from_secs(300);
}

/// What is to be cleaned.
#[derive(Debug, Clone)]
pub struct Target {
    /// The worker's.
    pub roots: Roots,
    /// The run's token: leases with a higher epoch are not touched.
    pub run: u64,
}

/// Why there is no receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Interrupted {
    /// The run was cancelled, and everything that it had started has ended.
    #[error("cancelled")]
    Cancelled,
    /// A newer lease has a folder here, so this run is none of the present.
    #[error("lease {epoch} is newer than the run")]
    Superseded {
        /// The newest lease.
        epoch: u64,
    },
}

/// Carries a plan out.
///
/// Await it to the end: to break it off, cancel the token and await it then. Dropping it cancels what it started, but
/// cannot wait for that.
pub async fn run(
    plan: &CleaningPlan,
    target: &Target,
    cancel: CancellationToken,
) -> Result<CleaningReceipt, Interrupted> {
    let begun = Instant::now();
    let cancel = cancel.child_token();
    let _cancel_if_dropped = cancel.clone().drop_guard();
    if let Some(epoch) = newest_lease(target).filter(|epoch| *epoch > target.run) {
        return Err(Interrupted::Superseded { epoch });
    }
    let deadline = begun + duration_or(plan.timeout.as_ref(), limits::RUN);
    let mut steps = Vec::with_capacity(plan.steps.len());
    let mut failed: Option<&str> = None;
    for planned in &plan.steps {
        let result = match failed {
            None => step::carry_out(planned, plan, target, deadline, &cancel).await,
            Some(failed) => skipped(&planned.name, failed),
        };
        if cancel.is_cancelled() {
            return Err(Interrupted::Cancelled);
        }
        if result.outcome() != Outcome::Done {
            failed = failed.or(Some(&planned.name));
        }
        steps.push(result);
    }
    if failed.is_none() {
        failed = compare(plan, target, &mut steps).await;
    }
    let probes = probes(plan, target, failed, &cancel).await;
    if cancel.is_cancelled() {
        return Err(Interrupted::Cancelled);
    }
    failpoint::hit("agent.clean.after_probes");
    let measures = match health::measure(&target.roots.folder()) {
        Ok(measures) => measures,
        Err(error) => {
            // Zeroes are judged as unhealthy, which a host that cannot be measured is.
            tracing::warn!(worker = target.roots.worker(), %error, "the host cannot be measured");
            remuda_wire::v1::Measures::default()
        }
    };
    failpoint::hit("agent.clean.before_receipt");
    Ok(CleaningReceipt {
        version: RECEIPT_VERSION,
        generation: plan.generation,
        steps,
        measures: Some(measures),
        probes,
        took: Some(to_wire(begun.elapsed())),
        missing_capabilities: target.roots.host().capabilities().shortfalls(),
    })
}

/// Ends a lease's processes, without cleaning up after them: TERM, grace, KILL. True: observed that none is left.
///
/// Nothing is started for the lease afterwards. To break it off, cancel the token and await it.
pub async fn stop(lease: &Lease, grace: Duration, cancel: &CancellationToken) -> std::io::Result<bool> {
    let scope = Scope { roots: lease.roots().clone(), tokens: lease.epoch()..=lease.epoch() };
    let control = Control::new(grace + limits::STEP, cancel);
    let stopped = tokio::task::spawn_blocking(move || stop::stop(&scope, grace, &control, &mut Default::default()));
    match stopped.await.map_err(std::io::Error::other)? {
        Ok(()) => Ok(true),
        Err(Halt::Io(error)) => Err(error),
        Err(Halt::Cancelled | Halt::TimedOut) => Ok(false),
    }
}

fn newest_lease(target: &Target) -> Option<u64> {
    target.roots.epochs().ok()?.last().copied()
}

/// The pool's further folders, as they are for this worker.
fn further(plan: &CleaningPlan, target: &Target) -> Vec<PathBuf> {
    plan.folders.iter().map(|folder| target.roots.further(folder)).collect()
}

fn skipped(name: &str, failed: &str) -> StepResult {
    let evidence = format!("{failed} failed before");
    StepResult { name: name.to_owned(), outcome: Outcome::Skipped.into(), evidence, ..StepResult::default() }
}

/// The last look: what is there that was not there when the worker was clean, in the last step's evidence. Residue of a
/// kind that a step of the plan answers for makes that last step a failed one, whose name is returned.
async fn compare<'a>(plan: &'a CleaningPlan, target: &Target, steps: &mut [StepResult]) -> Option<&'a str> {
    let last = steps.last_mut()?;
    let (roots, run, folders) = (target.roots.clone(), target.run, further(plan, target));
    let answered = baseline::Answered::by(plan);
    let looked = tokio::task::spawn_blocking(move || baseline::compare_and_accept(&roots, run, &folders, answered));
    let text = match looked.await.map_err(std::io::Error::other).flatten() {
        Ok(residue) if residue.count == 0 => return None,
        Ok(residue) => {
            last.left += residue.count;
            format!("residue={} [{}]", residue.count, residue.examples.join(", "))
        }
        Err(error) => format!("no comparison with the baseline ({error})"),
    };
    last.outcome = Outcome::Failed.into();
    last.observed = false;
    let room = evidence::BYTES.saturating_sub(text.len() + 2);
    last.evidence = format!("{}; {text}", cut(&last.evidence, room)).trim_start_matches("; ").to_owned();
    plan.steps.last().map(|step| step.name.as_str())
}

async fn probes(
    plan: &CleaningPlan,
    target: &Target,
    failed: Option<&str>,
    cancel: &CancellationToken,
) -> Vec<ProbeResult> {
    let mut results = Vec::with_capacity(plan.probes.len());
    for planned in &plan.probes {
        results.push(match failed {
            None => health::probe(planned, target, cancel).await,
            Some(failed) => {
                let detail = format!("not tried: {failed} failed");
                ProbeResult {
                    name: planned.name.clone(),
                    detail: cut(&detail, 256).to_owned(),
                    ..ProbeResult::default()
                }
            }
        });
    }
    results
}

/// A duration of the wire's; what is absent or negative is `default`.
pub(crate) fn duration_or(duration: Option<&prost_types::Duration>, default: Duration) -> Duration {
    duration.and_then(|duration| Duration::try_from(*duration).ok()).unwrap_or(default)
}

/// A duration for the wire.
pub(crate) fn to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Ends everything of a worker, whatever its token.
#[cfg(test)]
pub(crate) fn end_all_in_a_test(roots: &Roots) {
    let scope = Scope { roots: roots.clone(), tokens: 0..=u64::MAX };
    let control = Control::new(limits::STEP, &CancellationToken::new());
    let mut tally = evidence::Tally::default();
    let ended = stop::stop(&scope, Duration::ZERO, &control, &mut tally)
        .and_then(|()| strays::end_strays(&scope, &control, &mut tally))
        .and_then(|()| unmount::unmount_below(&[roots.folder()], &Default::default(), &control, &mut tally));
    assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}");
}

#[cfg(test)]
mod tests;
