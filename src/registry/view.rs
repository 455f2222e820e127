//! Read-only questions about a state: single keys, or as much as the answer.
//!
//! Never here: scans over workers; lists come from the durable copy's rows.

use std::sync::Arc;

use crate::agent::Agent;
use crate::digest::Digest;
use crate::id::{AgentId, ClientId, ClusterId, PoolId, RequestId, Revision, SessionId, Token, WaiterId, WorkerId};
use crate::outcome::Grant;
use crate::pool::{Pool, PoolSpec};
use crate::request::{ClientRow, OutcomeRow, Record};
use crate::selector::Labels;
use crate::state::State;
use crate::statistics::Statistics;
use crate::waiter::Waiter;
use crate::worker::Worker;

/// How many workers and waiters a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounts {
    /// Workers by state, in the order of [`StateKind::ALL`](crate::worker::StateKind::ALL).
    pub by_state: [u64; 7],
    /// Acquires that wait.
    pub waiting: u64,
    /// Classes: distinct label sets.
    pub classes: u64,
}

impl State {
    /// The cluster's id, once bootstrapped.
    pub fn cluster(&self) -> Option<&ClusterId> {
        self.group().cluster.as_ref()
    }

    /// The feature level; 0 before bootstrap.
    pub fn feature_level(&self) -> u32 {
        self.group().feature_level
    }

    /// The digest that a majority of voters has at a kept mark.
    pub fn reported(&self, mark: Revision) -> Option<Digest> {
        self.marks.get(&mark)?.agreed
    }

    /// The newest digest mark whose reports are kept.
    pub fn newest_mark(&self) -> Option<Revision> {
        self.marks.iter().next_back().map(|(revision, _)| *revision)
    }

    /// Events up to and including this revision are gone.
    pub fn events_trimmed(&self) -> Revision {
        self.group().events_trimmed
    }

    /// Events kept.
    pub fn events_count(&self) -> u64 {
        self.cold.events_count()
    }

    /// Whether a return's rows are kept.
    pub fn knows_return(&self, return_id: Token) -> bool {
        self.cold.knows_return(return_id)
    }

    /// A pool.
    pub fn pool(&self, id: &PoolId) -> Option<&Pool> {
        self.pools.get(id)
    }

    /// All pools.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().map(|(_, pool)| pool)
    }

    /// How many workers and waiters a pool has.
    pub fn pool_counts(&self, id: &PoolId) -> Option<PoolCounts> {
        let index = self.index.pools.get(id)?;
        Some(PoolCounts { by_state: index.counts, waiting: index.waiting, classes: index.classes.len() as u64 })
    }

    /// The counters of a pool.
    pub fn statistics(&self, id: &PoolId) -> Option<&Statistics> {
        self.statistics.get(id)
    }

    /// The settings of a pool at a generation: the present one, or one that an open run froze.
    pub fn settings(&self, pool: &PoolId, generation: u64) -> Option<&Arc<PoolSpec>> {
        let present = self.pools.get(pool).filter(|pool| pool.generation == generation);
        present.map(|pool| &pool.spec).or_else(|| self.frozen.get(&(pool.clone(), generation)))
    }

    /// A worker.
    pub fn worker(&self, id: &WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// How many workers there are in all.
    pub fn workers_count(&self) -> usize {
        self.workers.len()
    }

    /// All workers. For tests and dumps: no service may ask this.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().map(|(_, worker)| worker)
    }

    /// The labels of a worker.
    pub fn labels(&self, worker: &Worker) -> &Arc<Labels> {
        self.classes.get(&(worker.id.pool.clone(), worker.class)).expect("every worker has a class")
    }

    /// An agent.
    pub fn agent(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.get(id)
    }

    /// The workers whose rows belong to an agent.
    pub fn workers_of(&self, agent: &AgentId) -> impl Iterator<Item = &Worker> {
        let ids = self.index.agent_workers.get(agent).into_iter().flatten();
        ids.map(|id| self.workers.get(id).expect("the index lists only workers that exist"))
    }

    /// The agent of a live session.
    pub fn session(&self, session: SessionId) -> Option<&AgentId> {
        self.agent_of(session)
    }

    /// All live sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &AgentId)> {
        self.index.sessions.iter().map(|(session, agent)| (*session, agent))
    }

    /// A waiter.
    pub fn waiter(&self, id: WaiterId) -> Option<&Waiter> {
        self.waiters.get(&id)
    }

    /// All waiters.
    pub fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.iter().map(|(_, waiter)| waiter)
    }

    /// The waiter of a request, while it waits.
    pub fn waiter_of(&self, request: &RequestId) -> Option<WaiterId> {
        match self.outcomes.get(request)?.record {
            Record::Waiting { waiter } => Some(waiter),
            Record::Granted { .. }
            | Record::Cancelled
            | Record::Dropped
            | Record::Expired
            | Record::PoolGone { .. }
            | Record::Returned { .. }
            | Record::PoolSaved { .. }
            | Record::PoolDeleted { .. }
            | Record::Operated { .. }
            | Record::Cancellation { .. }
            | Record::Refused { .. } => None,
        }
    }

    /// What is remembered of a request.
    pub fn outcome(&self, request: &RequestId) -> Option<&OutcomeRow> {
        self.outcomes.get(request)
    }

    /// How many outcomes are remembered.
    pub fn outcomes_count(&self) -> usize {
        self.outcomes.len()
    }

    /// What is remembered of a client library.
    pub fn client(&self, id: &ClientId) -> Option<&ClientRow> {
        self.clients.get(id)
    }

    /// The ids of a client's remembered requests, in their order.
    pub(crate) fn outcomes_of(&self, client: &ClientId) -> impl Iterator<Item = &RequestId> {
        let id = |seq| RequestId::Numbered { client: client.clone(), seq };
        self.outcomes.range(id(0)..=id(u64::MAX)).map(|(id, _)| id)
    }

    /// The live lease of a worker as it would be told to its holder; `None` where the epoch is not live.
    pub fn grant(&self, id: &WorkerId, epoch: Token) -> Option<Grant> {
        let worker = self.workers.get(id)?;
        let lease = worker.lease().filter(|lease| lease.epoch == epoch)?;
        let agent = worker.session.and_then(|_| self.agents.get(&worker.agent));
        Some(Grant {
            worker: id.clone(),
            epoch,
            job: lease.job.clone(),
            agent: worker.agent.clone(),
            endpoint: agent.map_or_else(|| Arc::from(""), |agent| agent.endpoint.clone()),
            revision: lease.granted.revision,
            deadline: lease.deadline,
            ttl: lease.ttl,
            unclaimed: !lease.claimed,
        })
    }
}
