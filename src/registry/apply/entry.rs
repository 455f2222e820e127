//! One entry being applied: the state, the moment, and what all areas share: finding a worker, stepping it, noting
//! facts.
//!
//! Invariants
//! * `step` is the only place where a worker's state is replaced; it asserts that the table allows it.

use std::sync::Arc;

use crate::event::{Event, Fact, Note, WorkerMoved};
use crate::id::{JobId, PoolId, Revision, SessionId, Token, WorkerId};
use crate::limits;
use crate::plan::Evidence;
use crate::pool::{Pool, PoolSpec, Violation};
use crate::refusal::Refusal;
use crate::state::State;
use crate::time::{LogTime, Moment};
use crate::worker::{
    Cause, MaintenanceReason, Order, RetiredReason, StateKind, Step, Verdict, Worker, WorkerState, next,
};

/// One entry being applied.
pub(super) struct Entry<'a> {
    pub(super) state: &'a mut State,
    pub(super) moment: Moment,
    pub(super) events: Vec<Event>,
    /// Waiters that this entry may still grant.
    pub(super) grants_left: usize,
}

/// What a step's event says beside the states.
#[derive(Default)]
pub(super) struct Detail {
    pub(super) cause: Option<Cause>,
    pub(super) reason: Option<MaintenanceReason>,
    pub(super) retired: Option<RetiredReason>,
    pub(super) verdict: Option<Verdict>,
    pub(super) epoch: Option<Token>,
    pub(super) job: Option<JobId>,
    pub(super) run: Option<Token>,
    pub(super) attempt: Option<u32>,
    pub(super) return_id: Option<Token>,
    pub(super) order: Option<Order>,
    pub(super) evidence: Option<Evidence>,
}

impl<'a> Entry<'a> {
    pub(super) fn new(state: &'a mut State, revision: Revision, term: u64, wall_ms: u64) -> Self {
        let moment = Moment { at: state.log_time(), wall_ms, revision, term };
        Self { state, moment, events: Vec::new(), grants_left: limits::GRANTS_PER_ENTRY_MAX }
    }

    pub(super) fn now(&self) -> LogTime {
        self.moment.at
    }

    pub(super) fn pool(&self, id: &PoolId) -> Result<&Pool, Refusal> {
        self.state.pools.get(id).ok_or_else(|| Refusal::PoolNotFound { pool: id.clone() })
    }

    /// The settings of a worker's pool as they are now.
    pub(super) fn spec(&self, id: &WorkerId) -> Arc<PoolSpec> {
        self.state.pools.get(&id.pool).expect("every worker has a pool").spec.clone()
    }

    pub(super) fn worker(&self, id: &WorkerId) -> Result<&Worker, Refusal> {
        self.state.workers.get(id).ok_or_else(|| Refusal::WorkerNotFound { worker: id.clone() })
    }

    /// The worker, if its newest token is the one that was believed.
    pub(super) fn believed(&self, id: &WorkerId, token: Token) -> Result<&Worker, Refusal> {
        let worker = self.worker(id)?;
        if worker.token == token {
            return Ok(worker);
        }
        let state = worker.state.kind();
        Err(Refusal::StaleToken { worker: id.clone(), presented: token, current: worker.token, state })
    }

    /// Refuses a timed command whose deadline has not come, or that is held back by the grace.
    pub(super) fn timed(&self, deadline: LogTime) -> Result<(), Refusal> {
        let due_at = self.state.group().due_at(deadline);
        if due_at <= self.now() { Ok(()) } else { Err(Refusal::NotDue { due_at }) }
    }

    /// Refuses what is not of the live session of the worker's agent.
    pub(super) fn served_by(&self, worker: &Worker, session: SessionId) -> Result<(), Refusal> {
        if worker.session == Some(session) {
            return Ok(());
        }
        Err(Refusal::SessionEnded { session, current: worker.session })
    }

    pub(super) fn note(&mut self, fact: Fact) {
        let Moment { at, wall_ms, term, .. } = self.moment;
        self.events.push(Event { at, wall_ms, term, fact });
    }

    pub(super) fn note_worker(&mut self, id: &WorkerId, note: Note) {
        let state = self.state.workers.get(id).expect("notes are about workers that exist").state.kind();
        self.note(Fact::WorkerNoted { worker: id.clone(), state, note });
    }

    /// Moves a worker to a state and tells it.
    pub(super) fn step(&mut self, id: &WorkerId, step: Step, to: WorkerState, detail: Detail) {
        let moment = self.moment;
        let kind = to.kind();
        let (from, agent, session, elapsed) = self.state.change_worker(id, |worker| {
            let from = worker.state.kind();
            assert_eq!(next(from, step), Some(kind), "{id}: no step {step} from {from}");
            let same = from == StateKind::Cleaning && kind == StateKind::Cleaning;
            let since = worker.cleaning().filter(|_| same).map_or(worker.entered, |cleaning| cleaning.assigned);
            if !same {
                worker.entered = moment;
            }
            if let WorkerState::Cleaning(cleaning) = &to {
                worker.token = cleaning.run;
                worker.last_return = cleaning.return_id;
            } else if let WorkerState::Busy(lease) = &to {
                worker.token = lease.epoch;
            }
            worker.state = to;
            (from, worker.agent.clone(), worker.session, moment.since(since))
        });
        if kind == StateKind::Maintenance || from == StateKind::Maintenance {
            let evidence = detail.evidence.as_ref().filter(|_| kind == StateKind::Maintenance);
            self.state.cold.put_evidence(id, evidence);
        }
        let (actor, because) = detail.order.map(|order| (order.actor, order.reason)).unzip();
        self.note(Fact::Worker(Box::new(WorkerMoved {
            worker: id.clone(),
            step: Some(step),
            from: Some(from),
            to: Some(kind),
            cause: detail.cause,
            reason: detail.reason,
            retired: detail.retired,
            verdict: detail.verdict,
            epoch: detail.epoch,
            job: detail.job,
            run: detail.run,
            attempt: detail.attempt,
            return_id: detail.return_id,
            agent,
            session,
            elapsed,
            actor,
            because,
            evidence: detail.evidence,
        })));
    }

    /// Tells that a row was made or removed.
    pub(super) fn note_row(&mut self, worker: &Worker, to: Option<StateKind>, detail: Detail) {
        let made = to.is_some();
        self.note(Fact::Worker(Box::new(WorkerMoved {
            worker: worker.id.clone(),
            step: None,
            from: if made { None } else { Some(worker.state.kind()) },
            to,
            cause: detail.cause,
            reason: None,
            retired: detail.retired,
            verdict: None,
            epoch: None,
            job: None,
            run: detail.run,
            attempt: detail.attempt,
            return_id: detail.return_id,
            agent: worker.agent.clone(),
            session: worker.session,
            elapsed: self.moment.since(worker.entered),
            actor: None,
            because: None,
            evidence: None,
        })));
    }
}

/// Collects what is wrong with a command's fields.
#[derive(Default)]
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    pub(super) fn add(&mut self, field: &str, why: String) {
        self.0.push(Violation { field: field.into(), why });
    }

    /// An id must not be empty, not too long, and hold no zero byte: keys end their parts with one.
    pub(super) fn name(&mut self, field: &str, name: &str, most: usize) {
        if name.is_empty() || name.len() > most || name.contains('\0') {
            self.add(field, format!("must have 1 to {most} bytes and no zero byte"));
        }
    }

    pub(super) fn at_most(&mut self, field: &str, value: u64, most: u64) {
        if value > most {
            self.add(field, format!("must be at most {most}"));
        }
    }

    pub(super) fn refuse(self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::Invalid { violations: self.0 }) }
    }
}
