//! Returns: their rows and runs as one message.

use remuda_registry::event::ReturnResult;
use remuda_registry::row::{ReturnRow, RunRow};
use remuda_registry::time::Moment;
use remuda_registry::worker::{Cleaning, Then, Verdict};
use remuda_registry::{LogTime, Revision};

use super::lease::outcome_out;
use super::worker::reason_out;
use super::{duration, plan, timestamp, word};
use crate::{name, v1};

/// A return in all its parts.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Its row.
    pub row: &'a ReturnRow,
    /// Its closed runs, oldest first.
    pub runs: &'a [RunRow],
    /// The open run, while it is in progress.
    pub open: Option<&'a Cleaning>,
    /// When the worker became Available in the entry that ended the return, if it did.
    pub admitted: Option<(Revision, u64)>,
    /// Log time now.
    pub now: LogTime,
}

/// A return as a message has it.
pub fn return_out(parts: Parts<'_>) -> v1::Return {
    let Parts { row, runs, .. } = parts;
    let end = row.end.as_ref();
    let (result, reason) =
        end.map_or((v1::r#return::Result::Unspecified, String::new()), |end| result_out(&end.result));
    let reported = runs.iter().rev().find_map(|run| run.receipt.as_ref());
    let until = end.map_or(parts.now, |end| end.ended.at);
    let evidence = if result == v1::r#return::Result::Maintenance { evidence_of(runs) } else { String::new() };
    v1::Return {
        name: name::return_name(&row.worker, row.return_id),
        worker: name::worker_name(&row.worker),
        job_id: row.job.as_ref().map(ToString::to_string).unwrap_or_default(),
        epoch: row.epoch.map_or(0, |epoch| epoch.0),
        cause: word(&row.cause.to_string()),
        outcome: row.outcome.map_or(v1::JobOutcome::Unspecified, outcome_out).into(),
        result: result.into(),
        reason,
        evidence,
        steps: steps(parts),
        receipt: reported.map(plan::receipt_out),
        receipt_digest: Vec::new(),
        began_at: timestamp(row.began.wall_ms),
        took: Some(duration(until.since(row.began.at))),
        began_revision: row.began.revision.0,
        ended_revision: end.map_or(0, |end| end.ended.revision.0),
    }
}

fn result_out(result: &ReturnResult) -> (v1::r#return::Result, String) {
    use v1::r#return::Result;
    match result {
        ReturnResult::Clean | ReturnResult::Diverted(Then::Ready) => (Result::Accepted, String::new()),
        ReturnResult::Spent => (Result::Retired, "SPENT".to_owned()),
        ReturnResult::Diverted(Then::Retired) => (Result::Retired, "OPERATOR".to_owned()),
        ReturnResult::Diverted(Then::Maintenance) => (Result::Maintenance, "OPERATOR".to_owned()),
        ReturnResult::Diverted(Then::Held) => (Result::Maintenance, "HELD".to_owned()),
        ReturnResult::Failed(reason) => (Result::Maintenance, reason_out(reason).0),
        ReturnResult::Lost => (Result::Lost, "LOST".to_owned()),
        ReturnResult::Overtaken => (Result::Maintenance, "OVERTAKEN".to_owned()),
    }
}

/// What the last reported run has to say where it was not accepted.
fn evidence_of(runs: &[RunRow]) -> String {
    let receipt = runs.iter().rev().find_map(|run| run.receipt.as_ref());
    let bad = receipt.iter().flat_map(|receipt| receipt.steps.iter().filter(|step| !step.observed));
    let checks = receipt.iter().flat_map(|receipt| receipt.checks.iter().filter(|check| !check.passed));
    let lines = bad.map(|step| format!("{}: {}", step.name, step.evidence.0));
    let lines = lines.chain(checks.map(|check| format!("{}: {}", check.name, check.evidence.0)));
    remuda_registry::plan::Evidence::new(lines.collect::<Vec<_>>().join("\n")).0
}

fn steps(parts: Parts<'_>) -> Vec<v1::ReturnStep> {
    let row = parts.row;
    let step = |name: &str, run: u64, attempt: u32, at: &Moment, detail: String| v1::ReturnStep {
        name: name.to_owned(),
        run,
        attempt,
        revision: at.revision.0,
        term: at.term,
        after: Some(duration(at.at.since(row.began.at))),
        detail,
    };
    let none = String::new;
    let mut steps = vec![step("BEGUN", row.return_id.0, 1, &row.began, word(&row.cause.to_string()))];
    for run in parts.runs {
        let number = run.run.0;
        steps.extend(run.queued.iter().map(|at| step("QUEUED", number, run.attempt, at, none())));
        steps.extend(run.started.iter().map(|at| step("STARTED", number, run.attempt, at, none())));
        let (name, detail) = verdict_out(&run.verdict);
        steps.push(step(name, number, run.attempt, &run.closed, detail));
    }
    if let Some(open) = parts.open.filter(|open| open.return_id == row.return_id && row.end.is_none()) {
        let number = open.run.0;
        steps.extend(open.queued.iter().map(|at| step("QUEUED", number, open.attempt, at, none())));
        steps.extend(open.started.iter().map(|at| step("STARTED", number, open.attempt, at, none())));
    }
    let (run, attempt) = parts.runs.last().map_or((row.return_id.0, 1), |run| (run.run.0, run.attempt));
    if let Some(end) = &row.end {
        let (result, reason) = result_out(&end.result);
        let name = match result {
            v1::r#return::Result::Accepted => "READY",
            v1::r#return::Result::Retired => "RETIRED",
            v1::r#return::Result::Maintenance => "MAINTENANCE",
            v1::r#return::Result::Lost | v1::r#return::Result::Unspecified => "LOST",
        };
        steps.push(step(name, run, attempt, &end.ended, reason));
        if let Some((revision, term)) = parts.admitted {
            let at = Moment { revision, term, ..end.ended };
            steps.push(step("AVAILABLE", run, attempt, &at, none()));
        }
    }
    steps
}

/// The step that closed a run, and a word more.
fn verdict_out(verdict: &Verdict) -> (&'static str, String) {
    match verdict {
        Verdict::Clean => ("REPORTED", "CLEAN".to_owned()),
        Verdict::Stopped => ("REPORTED", "STOPPED".to_owned()),
        Verdict::Unclean(reason) | Verdict::Unhealthy(reason) => ("REPORTED", reason_out(reason).0),
        Verdict::TimedOut => ("TIMED_OUT", String::new()),
        Verdict::Replaced => ("REPLACED", String::new()),
        Verdict::Lost => ("LOST", String::new()),
        Verdict::Overtaken => ("OVERTAKEN", String::new()),
    }
}
