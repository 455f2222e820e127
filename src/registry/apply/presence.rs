//! One worker as its agent presents it in a new session: registered, taken over, or taken up where it was left.
//!
//! Invariants
//! * A row belongs to one agent; another gets it only when it is Lost or Retired(Lost) and an operator released it.
//! * A new or returning worker enters by Cleaning.

use std::sync::Arc;

use crate::command::{JobPresence, OpenSession, WorkerPresence};
use crate::event::Note;
use crate::id::{SessionId, Token, WorkerId};
use crate::limits;
use crate::refusal::Refusal;
use crate::selector::Labels;
use crate::worker::{Cause, Next, OrderedBy, RetiredReason, StateKind, Step, StopOnly, Then, Worker, WorkerState};

use super::cleaning::{Begin, run_detail};
use super::entry::Entry;

/// By which door a presented worker comes in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// There is no row.
    New,
    /// The row is this agent's, and not Retired.
    Own,
    /// The row is this agent's, Retired(Lost).
    Again,
    /// The row was another agent's, and released.
    Takeover,
}

impl Entry<'_> {
    /// Which door is open to a presented worker.
    pub(super) fn judge_presence(&self, open: &OpenSession, presence: &WorkerPresence) -> Result<Door, Refusal> {
        let id = &presence.worker;
        let Some(worker) = self.state.workers.get(id) else {
            self.pool(&id.pool)?;
            if !self.class_fits(id, &presence.labels, None) {
                let limit = limits::CLASSES_PER_POOL_MAX as u64;
                return Err(Refusal::TooManyClasses { pool: id.pool.clone(), limit });
            }
            return Ok(Door::New);
        };
        let retired = if let WorkerState::Retired { reason, .. } = &worker.state { Some(*reason) } else { None };
        if worker.agent == open.agent {
            return match retired {
                None => Ok(Door::Own),
                Some(RetiredReason::Lost) => Ok(Door::Again),
                Some(RetiredReason::Operator | RetiredReason::Spent) => {
                    Err(Refusal::WorkerRetired { worker: id.clone() })
                }
            };
        }
        let lost = worker.state.kind() == StateKind::Lost || retired == Some(RetiredReason::Lost);
        if lost && worker.released.is_some() {
            Ok(Door::Takeover)
        } else {
            Err(Refusal::AlreadyRegistered { worker: id.clone(), owner: worker.agent.clone() })
        }
    }

    /// Whether a worker may have these labels: their class exists, or one more may be made.
    fn class_fits(&self, id: &WorkerId, labels: &Labels, leaving: Option<u32>) -> bool {
        let index = self.state.index.pools.get(&id.pool).expect("the caller has found the pool");
        let ends = leaving.and_then(|class| index.classes.get(&class)).is_some_and(|class| class.members == 1);
        let room = index.classes.len() < limits::CLASSES_PER_POOL_MAX + usize::from(ends);
        labels.len() <= limits::LABELS_MAX && (room || index.class_of.contains_key(labels))
    }

    /// Takes a presented worker into the session.
    pub(super) fn present(
        &mut self,
        open: &OpenSession,
        presence: &WorkerPresence,
        session: SessionId,
        rebooted: bool,
    ) -> Result<StateKind, Refusal> {
        let id = &presence.worker;
        let door = match self.judge_presence(open, presence) {
            Ok(door) => door,
            Err(refusal) => {
                self.tell_retired(open, id, session);
                return Err(refusal);
            }
        };
        match door {
            Door::New => self.register(open, presence, session),
            Door::Own => {
                self.relabel(presence);
                self.take_up(presence, session, rebooted);
            }
            Door::Again | Door::Takeover => {
                let moment = self.moment;
                let owner = self.state.workers.get(id).expect("the door has found the row").agent.clone();
                self.state.change_worker(id, |worker| {
                    worker.session = Some(session);
                    worker.released = None;
                    worker.next = None;
                    worker.ladder = 0;
                    if door == Door::Takeover {
                        worker.agent = open.agent.clone();
                        worker.registered = moment.stamp();
                        worker.last_used_at = moment.at;
                        worker.uses = 0;
                    }
                });
                self.state.forget_agent(&owner);
                self.relabel(presence);
                self.begin_cleaning(id, Step::Register, Cause::Joined, Begin::default());
            }
        }
        Ok(self.state.workers.get(id).expect("it was presented a moment ago").state.kind())
    }

    /// A Retired row of this agent is served by its session, so that the agent can acknowledge it.
    fn tell_retired(&mut self, open: &OpenSession, id: &WorkerId, session: SessionId) {
        let worker = self.state.workers.get(id);
        if worker.is_some_and(|worker| worker.agent == open.agent && worker.state.kind() == StateKind::Retired) {
            self.state.change_worker(id, |worker| worker.session = Some(session));
        }
    }

    fn register(&mut self, open: &OpenSession, presence: &WorkerPresence, session: SessionId) {
        let id = &presence.worker;
        let class = self.state.class_of(&id.pool, &presence.labels);
        let cleaning = self.first_run(id, Cause::Joined, &Begin::default());
        let detail = run_detail(&cleaning);
        let worker = Worker {
            id: id.clone(),
            agent: open.agent.clone(),
            session: Some(session),
            class,
            annotations: Arc::new(presence.annotations.clone()),
            token: cleaning.run,
            last_return: cleaning.return_id,
            state: WorkerState::Cleaning(Box::new(cleaning)),
            entered: self.moment,
            generation: 1,
            cordon: None,
            drain: None,
            next: None,
            released: None,
            registered: self.moment.stamp(),
            uses: 0,
            last_used_at: self.now(),
            ladder: 0,
            closed: None,
            last_lease: None,
        };
        self.note_row(&worker, Some(StateKind::BORN), detail);
        self.state.add_worker(worker);
    }

    /// Gives a worker the labels and annotations that its agent says it has.
    fn relabel(&mut self, presence: &WorkerPresence) {
        let id = &presence.worker;
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let (old, same) = (worker.class, **self.state.labels(worker) == presence.labels);
        let annotated = *worker.annotations != presence.annotations;
        if annotated {
            let annotations = Arc::new(presence.annotations.clone());
            self.state.change_worker(id, |worker| worker.annotations = annotations);
        }
        if !same && !self.class_fits(id, &presence.labels, Some(old)) {
            self.note_worker(id, Note::LabelsKept);
            return;
        }
        if !same {
            let class = self.state.class_of(&id.pool, &presence.labels);
            self.state.change_worker(id, |worker| worker.class = class);
        }
        if annotated || !same {
            self.note_worker(id, Note::LabelsChanged);
        }
    }

    /// Takes up a worker where it was left.
    fn take_up(&mut self, presence: &WorkerPresence, session: SessionId, rebooted: bool) {
        let id = &presence.worker;
        let silent = self.state.change_worker(id, |worker| {
            worker.released = None;
            worker.session.replace(session).is_none()
        });
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        match worker.state.kind() {
            StateKind::Cleaning => self.replace_run(id),
            StateKind::Ready | StateKind::Available if rebooted => {
                self.begin_cleaning(id, Step::Recheck, Cause::Rebooted, Begin::default());
            }
            StateKind::Available => self.serve_waiter(id),
            StateKind::Ready | StateKind::Retired => {}
            StateKind::Busy => self.take_up_lease(presence, session, silent),
            StateKind::Maintenance => self.state.change_worker(id, |worker| {
                if let WorkerState::Maintenance(maintenance) = &mut worker.state {
                    maintenance.lost_at = None;
                }
            }),
            StateKind::Lost => self.reconnect(id),
        }
    }

    /// Back from Lost: through a whole cleaning, or only its stop where the worker was declared broken or is held.
    fn reconnect(&mut self, id: &WorkerId) {
        let broken = |next: &mut Box<Next>| next.by == OrderedBy::Holder;
        let (broken, held) = self.state.change_worker(id, |worker| {
            let broken = worker.next.take_if(broken).is_some();
            (broken, worker.next.as_ref().is_some_and(|next| next.then == Then::Held))
        });
        let stop_only = if broken { Some(StopOnly::Broken) } else { held.then_some(StopOnly::Held) };
        self.begin_cleaning(id, Step::Reconnect, Cause::Reconnected, Begin { stop_only, ..Begin::default() });
    }

    /// The agent of a leased worker is back, or was replaced; its job may be gone.
    fn take_up_lease(&mut self, presence: &WorkerPresence, session: SessionId, silent: bool) {
        let id = &presence.worker;
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let lease = worker.lease().expect("the caller has seen that it is Busy");
        let (epoch, interrupted): (Token, bool) = (lease.epoch, lease.interrupted);
        let deadline = lease.deadline.min(self.now() + limits::INTERRUPTED_DEADLINE_MAX);
        if silent {
            self.note_worker(id, Note::AgentBack { epoch, session });
        }
        if interrupted || presence.epoch != Some(epoch) || presence.job != JobPresence::Lost {
            return;
        }
        self.state.change_worker(id, |worker| {
            if let WorkerState::Busy(lease) = &mut worker.state {
                lease.interrupted = true;
                lease.deadline = deadline;
            }
        });
        self.note_worker(id, Note::JobInterrupted { epoch, deadline });
    }
}
