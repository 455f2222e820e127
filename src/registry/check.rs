//! `State::check`: every invariant, judged over the whole state. For tests and for the paranoid; O(rows).

use crate::id::WorkerId;
use crate::state::State;
use crate::worker::{StateKind, Worker, WorkerState};

impl State {
    /// Whether every invariant holds, or the first that does not.
    pub fn check(&self) -> Result<(), String> {
        let built = self.build_index()?;
        if built != self.index {
            return Err(format!("indexes differ from the tables:\nbuilt {built:?}\nkept  {:?}", self.index));
        }
        if self.sum_anew() != self.sum {
            return Err("the digest differs from the rows".into());
        }
        for (id, worker) in self.workers.iter() {
            self.check_worker(id, worker).map_err(|why| format!("worker {id}: {why}"))?;
        }
        self.check_agents()?;
        self.check_pools()?;
        self.check_outcomes()
    }

    fn check_worker(&self, id: &WorkerId, worker: &Worker) -> Result<(), String> {
        let kind = worker.state.kind();
        if *id != worker.id {
            return Err(format!("row is named {}", worker.id));
        }
        if worker.token.0 >= self.group().next_token {
            return Err(format!("token {} was never drawn", worker.token));
        }
        if worker.session.is_some_and(|session| self.agent_of(session) != Some(&worker.agent)) {
            return Err("its session is not its agent's".into());
        }
        let served = matches!(kind, StateKind::Cleaning | StateKind::Ready | StateKind::Available);
        if served && worker.session.is_none() {
            return Err(format!("{kind} without a session"));
        }
        match &worker.state {
            WorkerState::Cleaning(cleaning) => {
                if cleaning.run != worker.token || cleaning.return_id > cleaning.run {
                    return Err("its run is not its newest token".into());
                }
                if self.settings(&id.pool, cleaning.generation).is_none() {
                    return Err(format!("its frozen plan {} is gone", cleaning.generation));
                }
            }
            WorkerState::Busy(lease) => {
                let drained = worker.drain.as_ref().is_some_and(|drain| lease.deadline > drain.deadline);
                if lease.epoch != worker.token || lease.deadline > lease.ends_by || drained {
                    return Err(format!("its lease breaks its bounds: {lease}"));
                }
            }
            WorkerState::Available { .. } => {
                if worker.cordon.is_some() {
                    return Err("Available under a cordon".into());
                }
            }
            WorkerState::Maintenance(maintenance) => {
                if maintenance.lost_at.is_some() == worker.session.is_some() {
                    return Err("is given up though it is served, or not though it is not".into());
                }
            }
            WorkerState::Ready { .. } | WorkerState::Lost { .. } | WorkerState::Retired { .. } => {}
        }
        if worker.drain.is_some() && (kind != StateKind::Busy || worker.cordon.is_none()) {
            return Err("is drained though it is not Busy under a cordon".into());
        }
        Ok(())
    }

    fn check_agents(&self) -> Result<(), String> {
        for (id, agent) in self.agents.iter() {
            if agent.session.is_some_and(|session| self.agent_of(session) != Some(id)) {
                return Err(format!("agent {id} has a session that is not live"));
            }
        }
        Ok(())
    }

    fn check_pools(&self) -> Result<(), String> {
        for (id, pool) in self.pools.iter() {
            let index = &self.index.pools[id];
            if !pool.spec.violations().is_empty() {
                return Err(format!("pool {id} breaks its bounds"));
            }
            for class in index.classes.values() {
                let unnamed = !class.free.is_empty() && !class.questions.is_empty();
                let named = class
                    .free
                    .iter()
                    .any(|(_, name)| index.named(name).any(|(question, _)| question.1.matches(&class.labels)));
                if (unnamed || named) && !pool.grants_owed {
                    return Err(format!("pool {id}: a waiter matches an Available worker"));
                }
            }
        }
        for ((pool, generation), _) in self.frozen.iter() {
            let used = self.index.pools.get(pool).is_some_and(|index| index.frozen.contains_key(generation));
            if !used {
                return Err(format!("pool {pool}: settings {generation} are kept for nobody"));
            }
        }
        Ok(())
    }

    fn check_outcomes(&self) -> Result<(), String> {
        for (id, client) in self.clients.iter() {
            let rows = self.outcomes_of(id).count() as u64;
            if rows != client.rows {
                return Err(format!("client {id} counts {} rows and has {rows}", client.rows));
            }
        }
        Ok(())
    }
}
