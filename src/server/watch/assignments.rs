//! The stream of WatchAssignments: what one session's workers owe, as it changes.
//!
//! It begins with the whole, sends a worker again whenever something happened to it, and a mark each second. What is
//! sent is the state at the time of sending; the header's revision is one whose changes are all in it.
//!
//! Invariants
//! * A replica that has not applied the session's revision sends nothing.
//! * Once the session has ended the stream ends with SESSION_ENDED.
//!
//! Never here: filtering other agents' events; the hub routes by worker and session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_registry::refusal::Refusal;
use remuda_registry::worker::WorkerState;
use remuda_registry::{AgentId, SessionId, State, WorkerId};
use remuda_wire::convert::agent::{assignment_out, gone_out};
use remuda_wire::convert::plan::Frozen;
use remuda_wire::{reasons, v1};

use super::{Inbox, Key};
use crate::service::Replica;
use crate::service::status::Failure;

/// A mark this often: an agent drops a watch that is two seconds behind.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// How often a waiting stream looks whether the leader is still heard of.
const LOOK: Duration = Duration::from_millis(250);

/// One session's stream.
pub struct AssignmentStream {
    replica: Arc<Replica>,
    agent: AgentId,
    session: SessionId,
    workers: BTreeSet<WorkerId>,
    inbox: Arc<Inbox>,
    whole: bool,
    last_message: Instant,
    over: bool,
}

impl AssignmentStream {
    /// The stream of a session; the replica has applied the revision that opened it.
    ///
    /// # Errors
    /// SESSION_ENDED where it is not the agent's live session.
    pub fn open(replica: Arc<Replica>, agent: AgentId, session: SessionId) -> Result<Self, Failure> {
        let found = replica.node.read(|state| {
            let live = is_live(state, &agent, session);
            live.map(|()| state.workers_of(&agent).map(|worker| worker.id.clone()).collect::<BTreeSet<_>>())
        });
        let workers = found?;
        let keys = workers.iter().cloned().map(Key::Worker).chain([Key::Session(session)]).collect();
        let inbox = replica.hub.inbox(keys);
        Ok(Self { replica, agent, session, workers, inbox, whole: true, last_message: Instant::now(), over: false })
    }

    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<v1::WatchAssignmentsResponse, Failure>> {
        if self.over {
            return None;
        }
        let message = self.step().await;
        self.last_message = Instant::now();
        self.over = message.is_err();
        Some(message)
    }

    async fn step(&mut self) -> Result<v1::WatchAssignmentsResponse, Failure> {
        if std::mem::take(&mut self.whole) {
            let all = self.workers.clone();
            let mut message = self.message(&all)?;
            message.whole = true;
            return Ok(message);
        }
        loop {
            self.replica.in_contact()?;
            let wait = MARK_EVERY.saturating_sub(self.last_message.elapsed());
            if wait.is_zero() {
                return self.message(&BTreeSet::new());
            }
            tokio::select! {
                biased;
                () = self.replica.closed() => return Err(Failure::new(reasons::SHUTTING_DOWN, "this replica is stopping")),
                keys = self.inbox.next() => {
                    let workers = keys.into_iter().filter_map(|key| match key {
                        Key::Worker(worker) => Some(worker),
                        Key::Session(_) | Key::Waiter(_) => None,
                    });
                    return self.message(&workers.collect());
                }
                () = tokio::time::sleep(wait.min(LOOK)) => {}
            }
        }
    }

    /// The assignments of `workers` as they are, under a revision whose changes they all show.
    fn message(&self, workers: &BTreeSet<WorkerId>) -> Result<v1::WatchAssignmentsResponse, Failure> {
        let head = self.replica.hub.head();
        let now = self.replica.node.clock().now();
        // What the inbox holds by now happened up to the head or later, so it must be in this message.
        let mut all = workers.clone();
        all.extend(self.inbox.take().into_iter().filter_map(|key| match key {
            Key::Worker(worker) => Some(worker),
            Key::Session(_) | Key::Waiter(_) => None,
        }));
        let assignments = self.replica.node.read(|state| {
            is_live(state, &self.agent, self.session)?;
            Ok::<_, Refusal>(all.iter().filter_map(|id| self.assignment(state, id, now)).collect::<Vec<_>>())
        })?;
        let header = self.replica.header(head, false);
        Ok(v1::WatchAssignmentsResponse { header: Some(header), assignments, whole: false })
    }

    fn assignment(&self, state: &State, id: &WorkerId, now: remuda_registry::LogTime) -> Option<v1::Assignment> {
        let Some(worker) = state.worker(id) else { return Some(gone_out(id)) };
        if worker.agent != self.agent {
            return None;
        }
        let generation = match &worker.state {
            WorkerState::Cleaning(cleaning) => Some(cleaning.generation),
            WorkerState::Busy(_) => state.pool(&id.pool).map(|pool| pool.generation),
            WorkerState::Ready { .. }
            | WorkerState::Available { .. }
            | WorkerState::Maintenance(_)
            | WorkerState::Lost { .. }
            | WorkerState::Retired { .. } => None,
        };
        let settings = generation.and_then(|generation| Some((generation, state.settings(&id.pool, generation)?)));
        let frozen = settings.map(|(generation, spec)| Frozen {
            plan: &spec.plan,
            generation,
            stop_grace: spec.cleaning.stop_grace,
            timeout: spec.cleaning.timeout,
        });
        Some(assignment_out(worker, frozen, now))
    }
}

/// Whether `session` is the agent's live one.
///
/// # Errors
/// The refusal that names the live one.
pub fn is_live(state: &State, agent: &AgentId, session: SessionId) -> Result<(), Refusal> {
    let current = state.agent(agent).and_then(|agent| agent.session);
    if current == Some(session) { Ok(()) } else { Err(Refusal::SessionEnded { session, current }) }
}
