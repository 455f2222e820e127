//! Operators' orders: cordon, drain, maintenance, hold, resume, retire, release.
//!
//! What cannot be done at once, because the worker is leased or being cleaned, is remembered as what comes next and is
//! taken instead of Ready. No order names the state it wants: each is a step of the transition table.
//!
//! Invariants
//! * Each order carries its actor and reason, and counts the worker's generation.

use std::sync::Arc;

use crate::command::Operation;
use crate::event::Note;
use crate::id::WorkerId;
use crate::limits;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::time::Millis;
use crate::worker::{
    Cause, Drain, MaintenanceReason, Next, Order, OrderedBy, RetiredReason, StateKind, Step, Then, Worker, WorkerState,
};

use super::cleaning::Begin;
use super::entry::{Detail, Entry, Violations};
use super::leases::End;
use super::pools::judge_etag;

impl Entry<'_> {
    pub(super) fn operate(
        &mut self,
        id: &WorkerId,
        operation: &Operation,
        actor: &Arc<str>,
        reason: &Arc<str>,
        etag: Option<u64>,
    ) -> Result<Outcome, Refusal> {
        let mut violations = Violations::default();
        violations.at_most("actor", actor.len() as u64, limits::ID_BYTES_MAX as u64);
        violations.at_most("reason", reason.len() as u64, limits::REASON_BYTES_MAX as u64);
        violations.refuse()?;
        let worker = self.worker(id)?;
        judge_etag(etag, worker.generation)?;
        if !allowed(worker, operation) {
            return Err(Refusal::WrongState { worker: id.clone(), state: worker.state.kind() });
        }
        let order = Order { actor: actor.clone(), reason: reason.clone(), at: self.now() };
        self.state.change_worker(id, |worker| worker.generation += 1);
        match operation {
            Operation::Cordon => self.cordon(id, order),
            Operation::Uncordon => self.uncordon(id, order),
            Operation::Drain { within, then } => self.drain(id, *within, *then, order),
            Operation::Maintain { now } => self.send(id, Then::Maintenance, *now, order),
            Operation::Retire { now } => self.send(id, Then::Retired, *now, order),
            Operation::Hold { now } => self.send(id, Then::Held, *now, order),
            Operation::Resume => self.resume(id, order),
            Operation::Release => {
                self.state.change_worker(id, |worker| worker.released = Some(Box::new(order.clone())));
                self.note_worker(id, Note::Released { actor: order.actor, because: order.reason });
            }
        }
        let worker = self.state.workers.get(id).expect("no order removes a row");
        let (generation, state) = (worker.generation, worker.state.kind());
        Ok(Outcome::Operated { worker: id.clone(), generation, state })
    }

    fn cordon(&mut self, id: &WorkerId, order: Order) {
        let (actor, because) = (order.actor.clone(), order.reason.clone());
        self.note_worker(id, Note::Cordoned { actor, because });
        self.withhold(id);
        self.state.change_worker(id, |worker| worker.cordon = Some(Box::new(order)));
    }

    /// The worker is judged anew when it is admitted: `due` owes that.
    fn uncordon(&mut self, id: &WorkerId, order: Order) {
        self.state.change_worker(id, |worker| {
            worker.cordon = None;
            worker.drain = None;
            worker.next.take_if(|next| next.by == OrderedBy::Drain);
        });
        self.note_worker(id, Note::Uncordoned { actor: order.actor, because: order.reason });
    }

    fn drain(&mut self, id: &WorkerId, within: Millis, then: Then, order: Order) {
        let deadline = self.now() + within;
        let (actor, because) = (order.actor.clone(), order.reason.clone());
        self.note_worker(id, Note::Draining { deadline, then, actor, because });
        self.withhold(id);
        self.state.change_worker(id, |worker| {
            worker.cordon = Some(Box::new(order.clone()));
            if let WorkerState::Busy(lease) = &mut worker.state {
                lease.deadline = lease.deadline.min(deadline);
                worker.drain = Some(Box::new(Drain { deadline, order: order.clone() }));
            }
        });
        match then {
            Then::Ready => self.state.change_worker(id, |worker| {
                worker.next.take_if(|next| next.by == OrderedBy::Drain);
            }),
            Then::Maintenance | Then::Retired | Then::Held => self.order_next(id, then, OrderedBy::Drain, order),
        }
    }

    /// To Maintenance, Retired or a hold: at once where nobody works on the worker, else next.
    fn send(&mut self, id: &WorkerId, then: Then, now: bool, order: Order) {
        let (actor, because) = (order.actor.clone(), order.reason.clone());
        let busy = self.state.workers.get(id).is_some_and(|worker| worker.lease().is_some());
        let working = busy || self.state.workers.get(id).is_some_and(|worker| worker.cleaning().is_some());
        if working {
            self.note_worker(id, Note::NextOrdered { then, actor, because });
        }
        self.order_next(id, then, OrderedBy::Operator, order.clone());
        if busy && now {
            self.end_lease(id, Cause::Revoked, End { outcome: None, order: Some(order) });
        }
    }

    fn order_next(&mut self, id: &WorkerId, then: Then, by: OrderedBy, order: Order) {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        match worker.state.kind() {
            StateKind::Cleaning | StateKind::Busy => self.state.change_worker(id, |worker| {
                worker.next = Some(Box::new(Next { then, by, order }));
            }),
            StateKind::Ready | StateKind::Available | StateKind::Maintenance | StateKind::Lost => {
                self.move_at_once(id, then, order);
            }
            StateKind::Retired => {}
        }
    }

    fn move_at_once(&mut self, id: &WorkerId, then: Then, order: Order) {
        if then != Then::Ready {
            self.state.change_worker(id, |worker| (worker.next, worker.released) = (None, None));
        }
        let reason = match then {
            Then::Ready => return,
            Then::Maintenance => MaintenanceReason::Operator,
            Then::Held => MaintenanceReason::Held,
            Then::Retired => {
                let to = self.retired(id, RetiredReason::Operator);
                let retired = Some(RetiredReason::Operator);
                self.step(id, Step::Retire, to, Detail { retired, order: Some(order), ..Detail::default() });
                return;
            }
        };
        let to = self.maintenance_for(id, reason.clone(), Some(order.clone()));
        self.step(id, Step::Maintain, to, Detail { reason: Some(reason), order: Some(order), ..Detail::default() });
    }

    /// From Maintenance through cleaning; where something was only ordered to come next, that is taken back.
    fn resume(&mut self, id: &WorkerId, order: Order) {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        if worker.state.kind() == StateKind::Maintenance {
            self.begin_cleaning(id, Step::Resume, Cause::Resumed, Begin { order: Some(order), ..Begin::default() });
            return;
        }
        self.state.change_worker(id, |worker| worker.next = None);
        self.note_worker(id, Note::NextOrdered { then: Then::Ready, actor: order.actor, because: order.reason });
    }
}

/// Whether the worker's state allows the order.
fn allowed(worker: &Worker, operation: &Operation) -> bool {
    let kind = worker.state.kind();
    let living = kind != StateKind::Retired;
    match operation {
        Operation::Cordon
        | Operation::Uncordon
        | Operation::Drain { .. }
        | Operation::Maintain { .. }
        | Operation::Retire { .. }
        | Operation::Hold { .. } => living,
        Operation::Resume => {
            let pending = matches!(kind, StateKind::Busy | StateKind::Cleaning) && worker.next.is_some();
            kind == StateKind::Maintenance || pending
        }
        Operation::Release => match &worker.state {
            WorkerState::Lost { .. } => true,
            WorkerState::Retired { reason, .. } => *reason == RetiredReason::Lost,
            WorkerState::Cleaning(..)
            | WorkerState::Ready { .. }
            | WorkerState::Available { .. }
            | WorkerState::Busy(..)
            | WorkerState::Maintenance(..) => false,
        },
    }
}
