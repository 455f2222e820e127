//! Cleaning: the one door. A return begins, its runs are assigned, progress, end, and it comes to its end.
//!
//! ```text
//!   begin_cleaning ──> run ──clean──> Ready | where an operator wants it | Retired(Spent)
//!                       │ └─unclean, late──> new run, attempt + 1 ──attempts spent──┐
//!                       └─unhealthy─────────────────────────────────────────────> Maintenance
//! ```
//!
//! Invariants
//! * A run is closed exactly once, with a verdict; a return is ended exactly once, with a result.
//! * Entering Cleaning without a session goes on to Lost in the same entry.

use std::sync::Arc;

use crate::event::{Fact, ReturnEnded, ReturnResult};
use crate::id::{JobId, Token, WorkerId};
use crate::lease::JobOutcome;
use crate::plan::{Evidence, Receipt};
use crate::pool::{CleaningRules, PoolSpec};
use crate::row::{ReturnEnd, ReturnRow, RunRow};
use crate::time::{LogTime, Millis};
use crate::worker::{
    Cause, Cleaning, Maintenance, MaintenanceReason, Next, Order, OrderedBy, RetiredReason, RunStage, Step, StopOnly,
    Then, Verdict, WorkerState,
};

use super::entry::{Detail, Entry};

/// What a return begins with.
#[derive(Default)]
pub(super) struct Begin {
    pub(super) epoch: Option<Token>,
    pub(super) job: Option<JobId>,
    pub(super) outcome: Option<JobOutcome>,
    pub(super) stop_only: Option<StopOnly>,
    pub(super) order: Option<Order>,
}

/// How a run was closed.
pub(super) struct Closing {
    pub(super) verdict: Verdict,
    pub(super) receipt: Option<Receipt>,
    pub(super) evidence: Option<Evidence>,
}

impl Closing {
    pub(super) fn silent(verdict: Verdict) -> Self {
        Self { verdict, receipt: None, evidence: None }
    }
}

impl Entry<'_> {
    /// The first run of a new return; not yet in the worker's row.
    pub(super) fn first_run(&mut self, id: &WorkerId, cause: Cause, begin: &Begin) -> Cleaning {
        let run = self.state.draw();
        let pool = self.state.pools.get(&id.pool).expect("every worker has a pool");
        let cleaning = Cleaning {
            return_id: run,
            run,
            attempt: 1,
            replaced: 0,
            cause,
            epoch: begin.epoch,
            generation: pool.generation,
            stop_only: begin.stop_only,
            stage: RunStage::Assigned,
            deadline: self.now() + pool.spec.cleaning.start_within,
            not_before: self.now(),
            assigned: self.moment,
            queued: None,
            started: None,
            began: self.moment,
            job: begin.job.clone(),
            outcome: begin.outcome,
        };
        self.state.cold.put_return(&return_row(id, &cleaning, None));
        if begin.epoch.is_some() {
            self.state.statistics.edit(&id.pool).expect("every pool has statistics").returns_begun += 1;
        }
        cleaning
    }

    /// Begins a return: the only way into Cleaning for a worker that has a row.
    pub(super) fn begin_cleaning(&mut self, id: &WorkerId, step: Step, cause: Cause, begin: Begin) -> Token {
        let cleaning = self.first_run(id, cause, &begin);
        let return_id = cleaning.return_id;
        let detail = Detail { order: begin.order, ..run_detail(&cleaning) };
        self.step(id, step, WorkerState::Cleaning(Box::new(cleaning)), detail);
        let worker = self.state.workers.get(id).expect("it was stepped a moment ago");
        if worker.session.is_none() {
            self.silence(id);
        }
        return_id
    }

    /// A Cleaning, Ready or Available worker has nobody to serve it: Lost.
    pub(super) fn silence(&mut self, id: &WorkerId) {
        let give_up_at = self.now() + self.spec(id).retention.lost;
        let to = WorkerState::Lost { give_up_at };
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        if let Some(stop_only) = worker.cleaning().and_then(|cleaning| cleaning.stop_only) {
            self.remember_stop(id, stop_only);
        }
        if self.state.workers.get(id).is_some_and(|worker| worker.cleaning().is_some()) {
            self.leave_cleaning(id, Step::Silence, to, Closing::silent(Verdict::Lost), ReturnResult::Lost, None);
        } else {
            self.step(id, Step::Silence, to, Detail::default());
        }
        self.state.change_worker(id, |worker| worker.session = None);
    }

    /// A broken or held worker that is lost before it was stopped must not come back as if nothing had been said.
    fn remember_stop(&mut self, id: &WorkerId, stop_only: StopOnly) {
        let (then, by, words) = match stop_only {
            StopOnly::Broken => (Then::Maintenance, OrderedBy::Holder, "declared broken"),
            StopOnly::Held => (Then::Held, OrderedBy::Operator, "held"),
        };
        let order = Order { actor: "holder".into(), reason: words.into(), at: self.now() };
        self.state.change_worker(id, |worker| {
            worker.next.get_or_insert_with(|| Box::new(Next { then, by, order }));
        });
    }

    /// Closes the open run, steps out of Cleaning, and ends the return.
    pub(super) fn leave_cleaning(
        &mut self,
        id: &WorkerId,
        step: Step,
        to: WorkerState,
        closing: Closing,
        result: ReturnResult,
        order: Option<Order>,
    ) {
        let cleaning = self.close_run(id, &closing.verdict, closing.receipt);
        let mut detail = Detail { verdict: Some(closing.verdict), order, ..run_detail(&cleaning) };
        if let WorkerState::Maintenance(maintenance) = &to {
            detail.reason = Some(maintenance.reason.clone());
            detail.evidence = closing.evidence;
        } else if let WorkerState::Retired { reason, .. } = &to {
            detail.retired = Some(*reason);
        }
        self.step(id, step, to, detail);
        self.end_return(id, &cleaning, result);
    }

    /// Writes the open run's row. The worker's row is the caller's to change.
    fn close_run(&mut self, id: &WorkerId, verdict: &Verdict, receipt: Option<Receipt>) -> Cleaning {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let cleaning = worker.cleaning().expect("only an open run is closed").clone();
        let row = RunRow {
            run: cleaning.run,
            attempt: cleaning.attempt,
            agent: worker.agent.clone(),
            session: worker.session,
            generation: cleaning.generation,
            assigned: cleaning.assigned,
            queued: cleaning.queued,
            started: cleaning.started,
            closed: self.moment,
            verdict: verdict.clone(),
            receipt,
        };
        self.state.cold.put_run(id, cleaning.return_id, &row);
        cleaning
    }

    fn end_return(&mut self, id: &WorkerId, cleaning: &Cleaning, result: ReturnResult) {
        let took = self.moment.since(cleaning.began);
        if cleaning.epoch.is_some() {
            let statistics = self.state.statistics.edit(&id.pool).expect("every pool has statistics");
            statistics.return_ended(&result, took);
        }
        let end = ReturnEnd { result: result.clone(), attempts: cleaning.attempt, ended: self.moment };
        self.state.cold.put_return(&return_row(id, cleaning, Some(end)));
        self.note(Fact::ReturnEnded(Box::new(ReturnEnded {
            worker: id.clone(),
            return_id: cleaning.return_id,
            cause: cleaning.cause,
            epoch: cleaning.epoch,
            result,
            attempts: cleaning.attempt,
            took,
        })));
    }

    /// A run failed or was late: a new run while attempts are left, else Maintenance.
    pub(super) fn run_failed(&mut self, id: &WorkerId, reason: MaintenanceReason, closing: Closing) {
        let spec = self.spec(id);
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let cleaning = worker.cleaning().expect("only an open run fails");
        if cleaning.attempt >= spec.cleaning.attempts {
            self.cleaning_failed(id, reason, closing);
            return;
        }
        let not_before = self.now() + backoff(&spec.cleaning, cleaning.attempt);
        let (attempt, replaced) = (cleaning.attempt + 1, 0);
        self.new_run(id, &spec, Step::Rerun, closing, |cleaning| {
            cleaning.attempt = attempt;
            cleaning.replaced = replaced;
            cleaning.not_before = not_before;
        });
    }

    /// The agent's new session replaces the open run; the tenth replacement counts as a failed attempt.
    pub(super) fn replace_run(&mut self, id: &WorkerId) {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let replaced = worker.cleaning().expect("only an open run is replaced").replaced + 1;
        let closing = Closing::silent(Verdict::Replaced);
        if replaced >= crate::limits::REPLACEMENTS_MAX {
            self.run_failed(id, MaintenanceReason::CleaningTimedOut, closing);
            return;
        }
        let spec = self.spec(id);
        self.new_run(id, &spec, Step::Replace, closing, |cleaning| cleaning.replaced = replaced);
    }

    fn new_run(
        &mut self,
        id: &WorkerId,
        spec: &Arc<PoolSpec>,
        step: Step,
        closing: Closing,
        change: impl FnOnce(&mut Cleaning),
    ) {
        let mut cleaning = self.close_run(id, &closing.verdict, closing.receipt);
        change(&mut cleaning);
        cleaning.run = self.state.draw();
        cleaning.generation = self.state.pools.get(&id.pool).expect("every worker has a pool").generation;
        cleaning.stage = RunStage::Assigned;
        cleaning.deadline = self.now().max(cleaning.not_before) + spec.cleaning.start_within;
        cleaning.assigned = self.moment;
        cleaning.queued = None;
        cleaning.started = None;
        let detail = Detail { verdict: Some(closing.verdict), evidence: closing.evidence, ..run_detail(&cleaning) };
        self.step(id, step, WorkerState::Cleaning(Box::new(cleaning)), detail);
    }

    /// Attempts are spent, or the worker is unhealthy, broken or held: Maintenance, or Retired where that was ordered.
    pub(super) fn cleaning_failed(&mut self, id: &WorkerId, reason: MaintenanceReason, closing: Closing) {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let reason = match worker.cleaning().and_then(|cleaning| cleaning.stop_only) {
            Some(StopOnly::Broken) => MaintenanceReason::DeclaredBroken,
            Some(StopOnly::Held) => MaintenanceReason::Held,
            None => reason,
        };
        let result = if closing.verdict == Verdict::Stopped && reason == MaintenanceReason::Held {
            ReturnResult::Diverted(Then::Held)
        } else {
            ReturnResult::Failed(reason.clone())
        };
        let next = self.state.change_worker(id, |worker| worker.next.take());
        let order = next.as_ref().map(|next| next.order.clone());
        match next.map(|next| next.then) {
            Some(Then::Retired) => {
                let to = self.retired(id, RetiredReason::Operator);
                self.leave_cleaning(id, Step::Retire, to, closing, result, order);
            }
            Some(Then::Maintenance) => {
                let to = maintenance(reason, None, order.clone());
                self.leave_cleaning(id, Step::Fail, to, closing, result, order);
            }
            Some(Then::Held) => {
                let to = self.maintenance_for(id, MaintenanceReason::Held, order.clone());
                self.leave_cleaning(id, Step::Fail, to, closing, result, order);
            }
            Some(Then::Ready) | None => {
                let to = self.maintenance_for(id, reason, None);
                self.leave_cleaning(id, Step::Fail, to, closing, result, None);
            }
        }
    }

    /// The receipt was accepted: Ready, or where an operator or the limits of reuse want it.
    pub(super) fn cleaned(&mut self, id: &WorkerId, closing: Closing) {
        let next = self.state.change_worker(id, |worker| worker.next.take());
        let order = next.as_ref().map(|next| next.order.clone());
        let diverted = next.as_ref().map(|next| ReturnResult::Diverted(next.then));
        let (step, to, result) = match next.map(|next| next.then) {
            Some(Then::Retired) => (Step::Retire, self.retired(id, RetiredReason::Operator), diverted),
            Some(Then::Maintenance) => {
                let to = self.maintenance_for(id, MaintenanceReason::Operator, order.clone());
                (Step::Maintain, to, diverted)
            }
            Some(Then::Held) => {
                let to = self.maintenance_for(id, MaintenanceReason::Held, order.clone());
                (Step::Maintain, to, diverted)
            }
            Some(Then::Ready) | None if self.spent(id) => {
                (Step::Spend, self.retired(id, RetiredReason::Spent), Some(ReturnResult::Spent))
            }
            Some(Then::Ready) | None => {
                (Step::Pass, WorkerState::Ready { cleaned_at: self.now() }, Some(ReturnResult::Clean))
            }
        };
        self.leave_cleaning(id, step, to, closing, result.expect("every way out has a result"), order);
    }

    /// Whether a limit of reuse is reached.
    fn spent(&self, id: &WorkerId) -> bool {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let reuse = &self.spec(id).reuse;
        let worn = reuse.max_uses.is_some_and(|most| worker.uses >= most);
        worn || reuse.max_age.is_some_and(|most| self.now().since(worker.registered.at) >= most)
    }

    pub(super) fn retired(&self, id: &WorkerId, reason: RetiredReason) -> WorkerState {
        let remove_at = self.now() + self.spec(id).retention.retired;
        WorkerState::Retired { reason, remove_at, acknowledged: false }
    }

    /// Maintenance for this reason, with the retry that it deserves.
    pub(super) fn maintenance_for(
        &self,
        id: &WorkerId,
        reason: MaintenanceReason,
        order: Option<Order>,
    ) -> WorkerState {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let spec = self.spec(id);
        let retry_at = match reason {
            MaintenanceReason::Held => Some(self.now() + spec.retention.hold_max_age),
            MaintenanceReason::DeclaredBroken | MaintenanceReason::Operator => None,
            MaintenanceReason::DiskLow
            | MaintenanceReason::InodesLow
            | MaintenanceReason::MemoryLow
            | MaintenanceReason::LoadHigh
            | MaintenanceReason::ClockSkew
            | MaintenanceReason::ProbeFailed { .. }
            | MaintenanceReason::LeftoverProcesses
            | MaintenanceReason::LeftoverFiles
            | MaintenanceReason::LeftoverMounts
            | MaintenanceReason::CleaningTimedOut
            | MaintenanceReason::CleaningFailed { .. } => {
                let ladder = &spec.maintenance;
                let wait = doubled(ladder.retry_after, worker.ladder, ladder.retry_after_max);
                (worker.ladder < ladder.retries).then(|| self.now() + wait)
            }
        };
        let lost_at = worker.session.is_none().then(|| self.now() + spec.retention.lost);
        WorkerState::Maintenance(Box::new(Maintenance { reason, retry_at, order, lost_at }))
    }
}

/// Maintenance in a Cleaning worker's stead: it is served, so nothing is lost.
fn maintenance(reason: MaintenanceReason, retry_at: Option<LogTime>, order: Option<Order>) -> WorkerState {
    WorkerState::Maintenance(Box::new(Maintenance { reason, retry_at, order, lost_at: None }))
}

/// What every event of a run says.
pub(super) fn run_detail(cleaning: &Cleaning) -> Detail {
    Detail {
        cause: Some(cleaning.cause),
        epoch: cleaning.epoch,
        job: cleaning.job.clone(),
        run: Some(cleaning.run),
        attempt: Some(cleaning.attempt),
        return_id: Some(cleaning.return_id),
        ..Detail::default()
    }
}

fn return_row(id: &WorkerId, cleaning: &Cleaning, end: Option<ReturnEnd>) -> ReturnRow {
    ReturnRow {
        worker: id.clone(),
        return_id: cleaning.return_id,
        cause: cleaning.cause,
        epoch: cleaning.epoch,
        job: cleaning.job.clone(),
        outcome: cleaning.outcome,
        began: cleaning.began,
        end,
    }
}

/// The wait after this attempt failed.
fn backoff(rules: &CleaningRules, attempt: u32) -> Millis {
    doubled(rules.backoff, attempt - 1, rules.backoff_max)
}

/// `first` doubled `times` times, at most `most`.
fn doubled(first: Millis, times: u32, most: Millis) -> Millis {
    let factor = 1_u64.checked_shl(times).unwrap_or(u64::MAX);
    Millis(first.0.saturating_mul(factor)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound() {
        let wait = |times| doubled(Millis(1_000), times, Millis(30_000)).0;
        assert_eq!([wait(0), wait(1), wait(4), wait(5), wait(200)], [1_000, 2_000, 16_000, 30_000, 30_000]);
    }
}
