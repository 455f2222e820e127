//! What the clock demands of workers at rest: retry, give up, remove; and the agent's word that it knows of a retirement.
//!
//! Invariants
//! * Each checks its deadline against log time and the grace again: `due` only proposes.

use crate::event::Note;
use crate::id::{SessionId, Token, WorkerId};
use crate::index::deadline;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::worker::{Cause, MaintenanceReason, RetiredReason, StateKind, Step, WorkerState};

use super::cleaning::Begin;
use super::entry::{Detail, Entry};

impl Entry<'_> {
    pub(super) fn retry_worker(&mut self, id: &WorkerId, token: Token) -> Result<Outcome, Refusal> {
        let worker = self.believed(id, token)?;
        let WorkerState::Maintenance(maintenance) = &worker.state else {
            return Err(Refusal::WrongState { worker: id.clone(), state: worker.state.kind() });
        };
        if maintenance.lost_at.is_some() {
            return Err(Refusal::NothingOwed);
        }
        self.timed(maintenance.retry_at.ok_or(Refusal::NothingOwed)?)?;
        let rung = u32::from(maintenance.reason != MaintenanceReason::Held);
        self.state.change_worker(id, |worker| worker.ladder = worker.ladder.saturating_add(rung));
        self.begin_cleaning(id, Step::Retry, Cause::Retry, Begin::default());
        Ok(self.moved(id))
    }

    pub(super) fn give_up_worker(&mut self, id: &WorkerId, token: Token) -> Result<Outcome, Refusal> {
        let worker = self.believed(id, token)?;
        let at = match &worker.state {
            WorkerState::Lost { give_up_at } => *give_up_at,
            WorkerState::Maintenance(maintenance) => maintenance.lost_at.ok_or(Refusal::NothingOwed)?,
            WorkerState::Cleaning(..)
            | WorkerState::Ready { .. }
            | WorkerState::Available { .. }
            | WorkerState::Busy(..)
            | WorkerState::Retired { .. } => {
                return Err(Refusal::WrongState { worker: id.clone(), state: worker.state.kind() });
            }
        };
        self.timed(at)?;
        let to = self.retired(id, RetiredReason::Lost);
        let retired = Some(RetiredReason::Lost);
        self.step(id, Step::GiveUp, to, Detail { retired, ..Detail::default() });
        self.state.change_worker(id, |worker| worker.next = None);
        Ok(self.moved(id))
    }

    pub(super) fn remove_worker(&mut self, id: &WorkerId, token: Token) -> Result<Outcome, Refusal> {
        let worker = self.believed(id, token)?;
        if worker.state.kind() != StateKind::Retired {
            return Err(Refusal::WrongState { worker: id.clone(), state: worker.state.kind() });
        }
        self.timed(deadline(worker).ok_or(Refusal::NothingOwed)?)?;
        self.drop_row(id);
        Ok(Outcome::WorkerRemoved { worker: id.clone() })
    }

    pub(super) fn acknowledge_retired(&mut self, id: &WorkerId, session: SessionId) -> Result<Outcome, Refusal> {
        let worker = self.worker(id)?;
        let agent = self.state.agent_of(session);
        if agent != Some(&worker.agent) {
            return Err(Refusal::SessionEnded { session, current: worker.session });
        }
        let WorkerState::Retired { acknowledged, .. } = worker.state else {
            return Err(Refusal::WrongState { worker: id.clone(), state: worker.state.kind() });
        };
        if !acknowledged {
            self.state.change_worker(id, |worker| {
                if let WorkerState::Retired { acknowledged, .. } = &mut worker.state {
                    *acknowledged = true;
                }
            });
            self.note_worker(id, Note::RetiredAcknowledged);
        }
        Ok(Outcome::RetiredAcknowledged { worker: id.clone() })
    }
}
