//! Acquire, wait, cancel.
//!
//! Invariants
//! * An acquire queues behind grants that its pool owes.
//! * A waiter ends exactly once, and its request's outcome says how.

use std::sync::Arc;

use crate::command::AcquireWorker;
use crate::event::{Fact, WaiterEnd};
use crate::frame::RequestMark;
use crate::id::{RequestId, WaiterId};
use crate::limits;
use crate::outcome::{Cancelled, Outcome};
use crate::pool::{PoolSpec, bounds};
use crate::refusal::Refusal;
use crate::request::{OutcomeRow, Record};
use crate::time::{LogTime, Millis};
use crate::waiter::{Question, Waiter, rank};
use crate::worker::Cause;

use super::entry::{Entry, Violations};
use super::grants::Holder;
use super::leases::End;

/// How a waiter ends without a grant.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    Cancelled,
    Dropped,
    Expired,
    PoolDeleted,
}

impl Entry<'_> {
    pub(super) fn acquire(&mut self, acquire: &AcquireWorker, mark: Option<&RequestMark>) -> Result<Outcome, Refusal> {
        let pool = self.pool(&acquire.pool)?;
        judge(acquire)?;
        let (owed, spec) = (pool.grants_owed, pool.spec.clone());
        let holder = Holder {
            job: acquire.job.clone(),
            job_labels: Arc::new(acquire.job_labels.clone()),
            holder: acquire.holder.clone(),
            secret: acquire.secret,
            ttl: acquire.ttl.unwrap_or(spec.lease.ttl).min(spec.lease.max),
            request: mark.map(|mark| mark.id.clone()),
            immediate: true,
        };
        let free = if owed { None } else { self.choose(&acquire.pool, &acquire.selector, acquire.name.as_ref()) };
        if let Some(worker) = free {
            let epoch = self.grant(&worker, holder);
            let grant = self.state.grant(&worker, epoch).expect("it was granted a moment ago");
            return Ok(Outcome::Granted(grant));
        }
        let question: Question = (acquire.name.clone(), Arc::new(acquire.selector.clone()));
        self.judge_queue(acquire, &question)?;
        Ok(self.queue(acquire, &spec, question, holder))
    }

    /// Refuses what may not wait.
    fn judge_queue(&self, acquire: &AcquireWorker, question: &Question) -> Result<(), Refusal> {
        let pool = acquire.pool.clone();
        let index = self.state.index.pools.get(&pool).expect("every pool has an index");
        if acquire.wait == Millis(0) {
            let (selector, waiting) = (acquire.selector.to_string(), index.waiting);
            return Err(Refusal::NoAvailableWorker { pool, selector, waiting });
        }
        let selectors = limits::WAITING_SELECTORS_PER_POOL_MAX;
        if index.questions.len() >= selectors && !index.questions.contains_key(question) {
            return Err(Refusal::QueueFull { pool, limit: selectors as u64 });
        }
        if index.waiting >= limits::WAITERS_PER_POOL_MAX {
            return Err(Refusal::QueueFull { pool, limit: limits::WAITERS_PER_POOL_MAX });
        }
        Ok(())
    }

    fn queue(&mut self, acquire: &AcquireWorker, spec: &PoolSpec, question: Question, holder: Holder) -> Outcome {
        let waiter = WaiterId(self.state.draw().0);
        let expires_at = self.now() + acquire.wait;
        let request = holder.request.clone();
        self.state.add_waiter(Waiter {
            id: waiter,
            pool: acquire.pool.clone(),
            question,
            job: holder.job,
            job_labels: holder.job_labels,
            holder: holder.holder,
            secret: holder.secret,
            ttl: holder.ttl,
            rank: rank(self.now(), acquire.priority.min(spec.priority_max)),
            queued_at: self.now(),
            expires_at,
            request: holder.request,
        });
        let (pool, job) = (acquire.pool.clone(), acquire.job.clone());
        self.note(Fact::WaiterQueued { pool, waiter, job, request });
        Outcome::Queued { waiter, expires_at }
    }

    /// Ends a waiter without a grant.
    pub(super) fn end_waiter(&mut self, id: WaiterId, ending: Ending) {
        let waiter = self.state.remove_waiter(id);
        let (end, record) = match ending {
            Ending::Cancelled => (WaiterEnd::Cancelled, Record::Cancelled),
            Ending::Dropped => (WaiterEnd::Dropped, Record::Dropped),
            Ending::Expired => (WaiterEnd::Expired, Record::Expired),
            Ending::PoolDeleted => (WaiterEnd::PoolDeleted, Record::PoolGone { pool: waiter.pool.clone() }),
        };
        if let Some(request) = &waiter.request {
            self.update_outcome(request, record, self.now() + limits::REQUEST_LINGER);
        }
        let waited = self.now().since(waiter.queued_at);
        self.note(Fact::WaiterEnded { pool: waiter.pool, waiter: id, request: waiter.request, end, waited });
    }

    pub(super) fn drop_waiter(&mut self, id: WaiterId) -> Result<Outcome, Refusal> {
        self.state.waiters.get(&id).ok_or(Refusal::WaiterNotFound { waiter: id })?;
        self.end_waiter(id, Ending::Dropped);
        Ok(Outcome::WaiterEnded { waiter: id })
    }

    pub(super) fn expire_waiter(&mut self, id: WaiterId) -> Result<Outcome, Refusal> {
        let waiter = self.state.waiters.get(&id).ok_or(Refusal::WaiterNotFound { waiter: id })?;
        self.timed(waiter.expires_at)?;
        self.end_waiter(id, Ending::Expired);
        Ok(Outcome::WaiterEnded { waiter: id })
    }

    pub(super) fn cancel_acquire(&mut self, request: &RequestId, not_after: LogTime) -> Result<Outcome, Refusal> {
        self.judge_window(request, not_after)?;
        let row = self.state.outcomes.get(request);
        let was = match row.map(|row| row.record.clone()) {
            None if self.answered(request) || not_after < self.now() => Cancelled::Over,
            None => {
                self.judge_room(request, 0)?;
                let lives_until = not_after.max(self.now() + limits::REQUEST_LINGER);
                let (record, revision) = (Record::Cancelled, self.moment.revision);
                let row = OutcomeRow { identity: None, not_after, lives_until, record, revision };
                self.state.put_outcome(request, row);
                Cancelled::Unseen
            }
            Some(Record::Waiting { waiter }) => {
                self.end_waiter(waiter, Ending::Cancelled);
                Cancelled::Waiting
            }
            Some(Record::Granted { worker, epoch }) => {
                let lease = self.state.workers.get(&worker).and_then(|worker| worker.lease());
                match lease.filter(|lease| lease.epoch == epoch).map(|lease| lease.renewed_at) {
                    None => Cancelled::Over,
                    Some(Some(_)) => Cancelled::Held { worker, epoch },
                    Some(None) => {
                        self.end_lease(&worker, Cause::Returned, End::default());
                        self.update_outcome(request, Record::Cancelled, self.now() + limits::REQUEST_LINGER);
                        Cancelled::Unclaimed { worker }
                    }
                }
            }
            Some(
                Record::Cancelled
                | Record::Dropped
                | Record::Expired
                | Record::PoolGone { .. }
                | Record::Returned { .. }
                | Record::PoolSaved { .. }
                | Record::PoolDeleted { .. }
                | Record::Operated { .. }
                | Record::Cancellation { .. }
                | Record::Refused { .. },
            ) => Cancelled::Over,
        };
        Ok(Outcome::AcquireCancelled { was })
    }
}

/// Refuses an acquire whose fields break their bounds.
fn judge(acquire: &AcquireWorker) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    violations.name("job", acquire.job.as_str(), limits::ID_BYTES_MAX);
    let name = acquire.name.as_ref().map_or(0, |name| name.len());
    violations.at_most("name", name as u64, limits::NAME_BYTES_MAX as u64);
    violations.at_most("holder", acquire.holder.len() as u64, limits::ID_BYTES_MAX as u64);
    violations.at_most("job_labels", acquire.job_labels.len() as u64, limits::LABELS_MAX as u64);
    let requirements = acquire.selector.requirements.len() as u64;
    violations.at_most("selector", requirements, limits::SELECTOR_REQUIREMENTS_MAX as u64);
    violations.at_most("wait", acquire.wait.0, limits::WAIT_MAX.0);
    if acquire.ttl.is_some_and(|ttl| ttl < bounds::LEASE_TTL_MIN || ttl > bounds::LEASE_TTL_MAX) {
        violations.add("ttl", format!("must be between {} and {}", bounds::LEASE_TTL_MIN, bounds::LEASE_TTL_MAX));
    }
    violations.refuse()
}
