//! Admission: Ready → Available, and what takes a worker out of the offer again.
//!
//! Invariants
//! * A cordoned worker is never offered; a stale receipt is never admitted.
//! * A worker that is offered serves the first waiter that it fits, in the same entry.

use crate::id::{Token, WorkerId};
use crate::outcome::Outcome;
use crate::pool::Policy;
use crate::refusal::Refusal;
use crate::time::LogTime;
use crate::worker::{Cause, Offer, StateKind, Step, WorkerState};

use super::cleaning::Begin;
use super::entry::{Detail, Entry};

impl Entry<'_> {
    pub(super) fn admit(&mut self, id: &WorkerId, token: Token) -> Result<Outcome, Refusal> {
        let worker = self.believed(id, token)?;
        let WorkerState::Ready { cleaned_at } = worker.state else {
            return Err(Refusal::WrongState { worker: id.clone(), state: worker.state.kind() });
        };
        if worker.cordon.is_some() {
            return Err(Refusal::WrongState { worker: id.clone(), state: StateKind::Ready });
        }
        if self.now().since(cleaned_at) > self.spec(id).ready_max_age {
            self.begin_cleaning(id, Step::Recheck, Cause::StaleReceipt, Begin::default());
        } else {
            self.offer_if_open(id);
        }
        Ok(self.moved(id))
    }

    /// Admits a Ready worker whose receipt is fresh, unless a cordon rests it, and lends it to a waiter that it fits.
    pub(super) fn offer_if_open(&mut self, id: &WorkerId) {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let WorkerState::Ready { cleaned_at } = worker.state else { return };
        if worker.cordon.is_some() {
            return;
        }
        let pool = self.state.pools.get(&id.pool).expect("every worker has a pool");
        let rank = match pool.spec.policy {
            Policy::LeastRecentlyUsed => worker.last_used_at.0,
            Policy::MostRecentlyUsed => u64::MAX - worker.last_used_at.0,
            Policy::LeastUsed => worker.uses,
        };
        let offer = Offer { policy_changes: pool.policy_changes, rank };
        let idle_check_at = pool.spec.idle_check.map(|after| spread(id, self.now(), after.0));
        let to = WorkerState::Available { cleaned_at, idle_check_at, offer };
        self.step(id, Step::Admit, to, Detail::default());
        self.serve_waiter(id);
    }

    pub(super) fn begin_idle_check(&mut self, id: &WorkerId, token: Token) -> Result<Outcome, Refusal> {
        let worker = self.believed(id, token)?;
        let WorkerState::Available { idle_check_at, .. } = worker.state else {
            return Err(Refusal::WrongState { worker: id.clone(), state: worker.state.kind() });
        };
        self.timed(idle_check_at.ok_or(Refusal::NothingOwed)?)?;
        let index = self.state.index.pools.get(&id.pool).expect("every worker has a pool");
        if index.idle_room() == 0 {
            return Err(Refusal::NothingOwed);
        }
        self.begin_cleaning(id, Step::Recheck, Cause::IdleCheck, Begin::default());
        Ok(self.moved(id))
    }

    /// Takes an Available worker out of the offer; its receipt keeps its age.
    pub(super) fn withhold(&mut self, id: &WorkerId) {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        if let WorkerState::Available { cleaned_at, .. } = worker.state {
            self.step(id, Step::Withhold, WorkerState::Ready { cleaned_at }, Detail::default());
        }
    }
}

/// When an idle check is owed: up to a quarter later than asked for, by a hash of the id, so that a pool that was
/// filled at once is not checked at once.
fn spread(id: &WorkerId, now: LogTime, after: u64) -> LogTime {
    let hash = blake3::hash(id.name.as_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
    let later = u64::from_le_bytes(*first) % (after / 4 + 1);
    LogTime(now.0.saturating_add(after).saturating_add(later))
}
