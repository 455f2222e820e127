//! Grants: who gets which worker.
//!
//! The choice is made here, from the order of the free workers of each class that fits, and never by looking through
//! workers or waiters. A freed worker asks only the heads of the queues that its class fits.
//!
//! Invariants
//! * At most [`GRANTS_PER_ENTRY_MAX`](crate::limits::GRANTS_PER_ENTRY_MAX) waiters are granted per entry; the pool owes
//!   the rest, and new acquires queue behind them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::event::{Fact, WaiterEnd};
use crate::id::{JobId, PoolId, RequestId, SecretHash, Token, WaiterId, WorkerId};
use crate::index::{PoolIndex, Queue};
use crate::lease::Lease;
use crate::outcome::Outcome;
use crate::pool::bounds;
use crate::refusal::Refusal;
use crate::request::Record;
use crate::selector::{Labels, Selector};
use crate::time::{LogTime, Millis};
use crate::waiter::Question;
use crate::worker::{StateKind, Step, WorkerState};

use super::entry::{Detail, Entry};

/// Who gets a worker, and how.
pub(super) struct Holder {
    pub(super) job: JobId,
    pub(super) job_labels: Arc<Labels>,
    pub(super) holder: Arc<str>,
    pub(super) secret: SecretHash,
    pub(super) ttl: Millis,
    pub(super) request: Option<RequestId>,
    /// It answers the caller itself; a waiter's grant must be claimed first.
    pub(super) immediate: bool,
}

impl Entry<'_> {
    /// The free worker that fits and goes first.
    pub(super) fn choose(&mut self, pool: &PoolId, selector: &Selector, name: Option<&Arc<str>>) -> Option<WorkerId> {
        if let Some(name) = name {
            let id = WorkerId { pool: pool.clone(), name: name.clone() };
            let worker = self.state.workers.get(&id)?;
            let fits = worker.state.kind() == StateKind::Available && selector.matches(self.state.labels(worker));
            return fits.then_some(id);
        }
        let classes = self.state.fitting(pool, selector);
        let index = self.state.index.pools.get(pool).expect("the caller has found the pool");
        let first = first_free(index, classes.iter())?;
        Some(WorkerId { pool: pool.clone(), name: first })
    }

    /// Available → Busy.
    pub(super) fn grant(&mut self, id: &WorkerId, holder: Holder) -> Token {
        let spec = self.spec(id);
        let epoch = self.state.draw();
        let ends_by = self.now() + spec.lease.max;
        let first = if holder.immediate { holder.ttl } else { bounds::CLAIM };
        let lease = Lease {
            epoch,
            job: holder.job.clone(),
            job_labels: holder.job_labels,
            holder: holder.holder,
            secret: holder.secret,
            request: holder.request,
            granted: self.moment,
            deadline: ends_by.min(self.now() + first),
            ttl: holder.ttl,
            ends_by,
            claimed: holder.immediate,
            renewed_at: None,
            interrupted: false,
        };
        let served = self.state.workers.get(id).is_some_and(|worker| worker.uses > 0);
        let statistics = self.state.statistics.edit(&id.pool).expect("every pool has statistics");
        statistics.leases += 1;
        statistics.leases_reused += u64::from(served);
        let detail = Detail { epoch: Some(epoch), job: Some(holder.job), ..Detail::default() };
        self.step(id, Step::Acquire, WorkerState::Busy(Box::new(lease)), detail);
        epoch
    }

    /// Lends a worker that has become Available to the first waiter that it fits.
    pub(super) fn serve_waiter(&mut self, id: &WorkerId) {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let index = self.state.index.pools.get(&id.pool).expect("every worker has a pool");
        let class = index.classes.get(&worker.class).expect("every worker has a class");
        let unnamed = class.questions.iter().map(|question| &index.questions[question]);
        let labels = &class.labels;
        let named = index.named(&id.name).filter(|(question, _)| question.1.matches(labels)).map(|(_, queue)| queue);
        let heads = unnamed.chain(named).filter_map(|queue| queue.waiters.first());
        let Some((_, waiter)) = heads.min().copied() else { return };
        if self.grants_left == 0 {
            self.state.set_grants_owed(&id.pool, true);
        } else {
            self.grant_waiter(id, waiter);
        }
    }

    fn grant_waiter(&mut self, id: &WorkerId, waiter: WaiterId) {
        self.grants_left -= 1;
        let waiter = self.state.remove_waiter(waiter);
        let epoch = self.grant(
            id,
            Holder {
                job: waiter.job,
                job_labels: waiter.job_labels,
                holder: waiter.holder,
                secret: waiter.secret,
                ttl: waiter.ttl,
                request: waiter.request.clone(),
                immediate: false,
            },
        );
        if let Some(request) = &waiter.request {
            let record = Record::Granted { worker: id.clone(), epoch };
            self.update_outcome(request, record, LogTime::MAX);
        }
        self.note(Fact::WaiterEnded {
            pool: waiter.pool,
            waiter: waiter.id,
            request: waiter.request,
            end: WaiterEnd::Granted { worker: id.clone(), epoch },
            waited: self.now().since(waiter.queued_at),
        });
    }

    /// Grants what an earlier entry could not, in the waiters' order.
    pub(super) fn grant_owed(&mut self, pool: &PoolId) -> Result<Outcome, Refusal> {
        if !self.pool(pool)?.grants_owed {
            return Err(Refusal::NothingOwed);
        }
        let index = self.state.index.pools.get(pool).expect("every pool has an index");
        let head = |(question, queue): (&Question, &Queue)| Some((*queue.waiters.first()?, question.clone()));
        let mut heads: BTreeSet<_> = index.questions.iter().filter_map(head).collect();
        let mut granted = 0;
        while self.grants_left > 0
            && let Some(((_, waiter), question)) = heads.pop_first()
        {
            let Some(worker) = self.free_for(pool, &question) else { continue };
            self.grant_waiter(&worker, waiter);
            granted += 1;
            let index = self.state.index.pools.get(pool).expect("every pool has an index");
            if let Some(next) = index.questions.get(&question).and_then(|queue| queue.waiters.first()) {
                heads.insert((*next, question));
            }
        }
        let more = heads.into_iter().any(|(_, question)| self.free_for(pool, &question).is_some());
        self.state.set_grants_owed(pool, more);
        Ok(Outcome::GrantsMade { granted, more })
    }

    /// The free worker for a question that has waiters.
    fn free_for(&self, pool: &PoolId, question: &Question) -> Option<WorkerId> {
        let index = self.state.index.pools.get(pool)?;
        let name = if let Some(name) = &question.0 {
            let id = WorkerId { pool: pool.clone(), name: name.clone() };
            let worker = self.state.workers.get(&id)?;
            let fits = worker.state.kind() == StateKind::Available && question.1.matches(self.state.labels(worker));
            fits.then(|| name.clone())?
        } else {
            first_free(index, index.questions.get(question)?.classes.iter())?
        };
        Some(WorkerId { pool: pool.clone(), name })
    }
}

fn first_free<'a>(index: &PoolIndex, classes: impl Iterator<Item = &'a u32>) -> Option<Arc<str>> {
    let firsts = classes.filter_map(|number| index.classes.get(number)?.free.first());
    firsts.min().map(|(_, name)| name.clone())
}
