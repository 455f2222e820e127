//! The life of a lease after its grant: renewed, returned, ended.
//!
//! Invariants
//! * Whatever ends a lease, the worker goes to Cleaning; whoever presents it later is told what superseded it.
//! * No renewal passes `lease.max` or a drain's deadline, nor moves a deadline back.

use crate::event::Note;
use crate::id::{JobId, SecretHash, Token, WorkerId};
use crate::lease::{JobOutcome, Renewal};
use crate::limits;
use crate::outcome::{Outcome, Renewed};
use crate::pool::bounds;
use crate::refusal::{LeaseEnd, Refusal};
use crate::request::Record;
use crate::worker::{Cause, EndedLease, Order, Step, StopOnly, Then, Worker, WorkerState};

use super::cleaning::Begin;
use super::entry::Entry;

/// How a lease ends, beside the cause.
#[derive(Default)]
pub(super) struct End {
    pub(super) outcome: Option<JobOutcome>,
    pub(super) order: Option<Order>,
}

impl Entry<'_> {
    pub(super) fn renew_leases(&mut self, renewals: &[Renewal]) -> Outcome {
        Outcome::Renewed { results: renewals.iter().map(|renewal| self.renew(renewal)).collect() }
    }

    fn renew(&mut self, renewal: &Renewal) -> Result<Renewed, Refusal> {
        let Renewal { worker: id, epoch, secret, ttl } = renewal;
        let worker = self.worker(id)?;
        let lease = worker.lease().filter(|lease| lease.epoch == *epoch && lease.secret == *secret);
        let Some(lease) = lease else { return Err(superseded(worker, *epoch, secret)) };
        if lease.interrupted {
            return Err(Refusal::Interrupted { worker: id.clone(), epoch: *epoch, deadline: lease.deadline });
        }
        let asked = ttl.map(|ttl| ttl.max(bounds::LEASE_TTL_MIN).min(bounds::LEASE_TTL_MAX));
        let ttl = asked.unwrap_or(lease.ttl);
        let drain_at = worker.drain.as_ref().map(|drain| drain.deadline);
        let wanted = (self.now() + ttl).min(lease.ends_by);
        // Never back: an earlier answer has told the holder that nothing ends the lease before.
        let deadline = drain_at.map_or(wanted, |at| wanted.min(at)).max(lease.deadline);
        let (claims, agent_silent, request) = (!lease.claimed, worker.session.is_none(), lease.request.clone());
        let now = self.now();
        self.state.change_worker(id, |worker| {
            if let WorkerState::Busy(lease) = &mut worker.state {
                lease.ttl = ttl;
                lease.deadline = deadline;
                lease.claimed = true;
                lease.renewed_at = Some(now);
            }
        });
        if claims {
            self.release_request(request.as_ref());
            self.note_worker(id, Note::LeaseClaimed { epoch: *epoch });
        }
        let granted = deadline.since(now);
        Ok(Renewed { worker: id.clone(), epoch: *epoch, granted, deadline, agent_silent, drain_at })
    }

    pub(super) fn begin_return(
        &mut self,
        id: &WorkerId,
        job: &JobId,
        epoch: Token,
        secret: &SecretHash,
        outcome: JobOutcome,
    ) -> Result<Outcome, Refusal> {
        let worker = self.worker(id)?;
        let lease = worker.lease();
        let held = lease.is_some_and(|lease| lease.epoch == epoch && lease.job == *job && lease.secret == *secret);
        if !held {
            return Err(superseded(worker, epoch, secret));
        }
        let return_id = self.end_lease(id, Cause::Returned, End { outcome: Some(outcome), order: None });
        Ok(Outcome::ReturnBegun { worker: id.clone(), return_id })
    }

    /// The clock ends a lease: expired, or drained where a drain's deadline cut it.
    pub(super) fn end_due_lease(&mut self, id: &WorkerId, epoch: Token) -> Result<Outcome, Refusal> {
        let worker = self.believed(id, epoch)?;
        let state = worker.state.kind();
        let lease = worker.lease().ok_or_else(|| Refusal::WrongState { worker: id.clone(), state })?;
        self.timed(lease.deadline)?;
        let drain = worker.drain.as_ref().filter(|drain| drain.deadline <= lease.deadline);
        let cause = if drain.is_some() { Cause::Drained } else { Cause::LeaseExpired };
        let order = drain.map(|drain| drain.order.clone());
        self.end_lease(id, cause, End { outcome: None, order });
        Ok(Outcome::LeaseEnded { worker: id.clone(), epoch, cause })
    }

    /// Busy → Cleaning, and on to Lost where no session serves the worker. Returns the return.
    pub(super) fn end_lease(&mut self, id: &WorkerId, cause: Cause, end: End) -> Token {
        let now = self.now();
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        let lease = worker.lease().expect("only a lease is ended").clone();
        let held = worker.next.as_ref().is_some_and(|next| next.then == Then::Held);
        let broken = end.outcome == Some(JobOutcome::Broken);
        let completed = end.outcome.is_some() && !broken;
        let stop_only = if broken { Some(StopOnly::Broken) } else { held.then_some(StopOnly::Held) };
        if !lease.claimed {
            self.release_request(lease.request.as_ref());
        }
        self.state.change_worker(id, |worker| {
            worker.uses += 1;
            worker.last_used_at = now;
            worker.drain = None;
            if completed {
                worker.ladder = 0;
            }
        });
        let (epoch, job, secret) = (lease.epoch, lease.job, lease.secret);
        let (order, outcome) = (end.order, end.outcome);
        let begin = Begin { epoch: Some(epoch), job: Some(job.clone()), outcome, stop_only, order };
        let return_id = self.begin_cleaning(id, Step::EndLease, cause, begin);
        self.state.change_worker(id, |worker| {
            worker.last_lease = Some(Box::new(EndedLease { epoch, job, secret, cause, return_id }));
        });
        return_id
    }

    /// A request's grant is claimed or over: its row lives on only for a while.
    fn release_request(&mut self, request: Option<&crate::id::RequestId>) {
        let Some(request) = request else { return };
        let Some(row) = self.state.outcomes.get(request) else { return };
        if let record @ Record::Granted { .. } = row.record.clone() {
            self.update_outcome(request, record, self.now() + limits::REQUEST_LINGER);
        }
    }
}

/// What superseded a lease that is presented.
pub(super) fn superseded(worker: &Worker, epoch: Token, secret: &SecretHash) -> Refusal {
    let (id, current, state) = (worker.id.clone(), worker.token, worker.state.kind());
    if let Some(last) = worker.last_lease.as_ref().filter(|last| last.epoch == epoch && last.secret == *secret) {
        let end = LeaseEnd { job: last.job.clone(), cause: last.cause, return_id: last.return_id };
        return Refusal::LeaseEnded { worker: id, epoch, end: Some(end) };
    }
    let job = worker.lease().map(|lease| lease.job.clone());
    Refusal::StaleLease { worker: id, presented: epoch, current, state, job }
}
