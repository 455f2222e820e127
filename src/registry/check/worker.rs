//! What must hold of one worker.

use super::{Verdict, hold};
use crate::id::WorkerId;
use crate::lease::Lease;
use crate::limits;
use crate::state::State;
use crate::time::LogTime;
use crate::worker::{
    Cleaning, Maintenance, OrderedBy, RetiredReason, StateKind, Then, Verdict as RunVerdict, Worker, WorkerState,
};

impl State {
    pub(super) fn check_worker(&self, id: &WorkerId, worker: &Worker) -> Verdict {
        let kind = worker.state.kind();
        let now = self.log_time();
        hold(*id == worker.id, || format!("row is named {}", worker.id))?;
        hold(worker.last_return <= worker.token, || "its return is newer than its token".into())?;
        let ordered = worker.registered.at <= worker.entered.at && worker.entered.at <= now;
        hold(ordered, || "its times are out of order".into())?;
        hold(self.agents.get(&worker.agent).is_some(), || format!("its agent {} is unknown", worker.agent))?;
        let live = worker.session.is_none_or(|session| self.agent_of(session) == Some(&worker.agent));
        hold(live, || "its session is not its agent's".into())?;
        let served = matches!(kind, StateKind::Cleaning | StateKind::Ready | StateKind::Available);
        hold(!served || worker.session.is_some(), || format!("{kind} without a session"))?;
        match &worker.state {
            WorkerState::Cleaning(cleaning) => self.check_cleaning(worker, cleaning)?,
            WorkerState::Ready { cleaned_at } => check_clean(worker, *cleaned_at, now)?,
            WorkerState::Available { cleaned_at, .. } => {
                check_clean(worker, *cleaned_at, now)?;
                hold(worker.cordon.is_none(), || "Available under a cordon".into())?;
            }
            WorkerState::Busy(lease) => self.check_lease(worker, lease)?,
            WorkerState::Maintenance(maintenance) => check_maintenance(worker, maintenance)?,
            WorkerState::Lost { give_up_at } => {
                hold(worker.session.is_none(), || "Lost though it is served".into())?;
                hold(*give_up_at < LogTime::MAX, || "Lost for ever".into())?;
            }
            WorkerState::Retired { .. } => {}
        }
        let kept = self.cold.has_evidence(id);
        hold(!kept || kind == StateKind::Maintenance, || "evidence of a Maintenance that is over".into())?;
        check_orders(worker, kind)
    }

    fn check_cleaning(&self, worker: &Worker, cleaning: &Cleaning) -> Verdict {
        let newest = cleaning.run == worker.token && cleaning.return_id == worker.last_return;
        hold(newest, || "its run is not its newest token".into())?;
        let counted = cleaning.attempt >= 1 && cleaning.replaced < limits::REPLACEMENTS_MAX;
        hold(counted, || "its runs are miscounted".into())?;
        let bounded = cleaning.not_before <= cleaning.deadline && cleaning.deadline < LogTime::MAX;
        hold(bounded, || "its run has no deadline that can be met".into())?;
        hold(self.cold.is_open_return(cleaning.return_id), || "its return is not open".into())?;
        let settings = self.settings(&worker.id.pool, cleaning.generation);
        hold(settings.is_some(), || format!("its frozen plan {} is gone", cleaning.generation))
    }

    fn check_lease(&self, worker: &Worker, lease: &Lease) -> Verdict {
        hold(lease.epoch == worker.token, || "its epoch is not its newest token".into())?;
        let bounded = lease.deadline <= lease.ends_by && lease.ends_by < LogTime::MAX;
        let drained = worker.drain.as_ref().is_none_or(|drain| lease.deadline <= drain.deadline);
        hold(bounded && drained, || format!("its lease breaks its bounds: {lease}"))?;
        hold(lease.claimed || lease.renewed_at.is_none(), || "its lease was renewed and not claimed".into())?;
        // `one_door`: what was lent had passed.
        let passed =
            worker.closed.as_ref().is_some_and(|run| run.verdict == RunVerdict::Clean && run.run < lease.epoch);
        hold(passed, || "it was lent without a clean receipt".into())
    }
}

/// `one_door`: an accepted clean receipt for the newest run, and nothing since.
fn check_clean(worker: &Worker, cleaned_at: LogTime, now: LogTime) -> Verdict {
    let passed = worker.closed.as_ref().is_some_and(|closed| {
        closed.run == worker.token && closed.verdict == RunVerdict::Clean && closed.to == StateKind::Ready
    });
    hold(passed, || "it is offered without a clean receipt of its newest run".into())?;
    hold(cleaned_at <= now, || "it was cleaned in the future".into())
}

fn check_maintenance(worker: &Worker, maintenance: &Maintenance) -> Verdict {
    let owed = maintenance.lost_at.is_some() == worker.session.is_none();
    hold(owed, || "is given up though it is served, or not though it is not".into())
}

/// What operators ordered fits the state.
fn check_orders(worker: &Worker, kind: StateKind) -> Verdict {
    let drained = worker.drain.is_none() || (kind == StateKind::Busy && worker.cordon.is_some());
    hold(drained, || "is drained though it is not Busy under a cordon".into())?;
    if let Some(next) = &worker.next {
        let waits = matches!(kind, StateKind::Cleaning | StateKind::Busy | StateKind::Lost);
        hold(waits && next.then != Then::Ready, || format!("{kind} with {} to come", next.then))?;
        let whole = match next.by {
            OrderedBy::Operator => true,
            OrderedBy::Drain => worker.cordon.is_some(),
            OrderedBy::Holder => kind == StateKind::Lost,
        };
        hold(whole, || format!("what comes next belongs to no {:?}", next.by))?;
    }
    let gone = match &worker.state {
        WorkerState::Lost { .. } => true,
        WorkerState::Retired { reason, .. } => *reason == RetiredReason::Lost,
        WorkerState::Cleaning(_)
        | WorkerState::Ready { .. }
        | WorkerState::Available { .. }
        | WorkerState::Busy(_)
        | WorkerState::Maintenance(_) => false,
    };
    hold(gone || worker.released.is_none(), || format!("{kind} and released"))
}
