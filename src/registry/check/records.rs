//! What must hold of the records about workers and requests: returns, waiters, outcomes, digest marks.

use super::{Verdict, hold};
use crate::id::{ClientId, RequestId};
use crate::limits;
use crate::request::{OutcomeRow, Record};
use crate::state::State;
use crate::time::LogTime;

impl State {
    /// `no_lost_worker`, `resumed_return`: a return is open exactly while its worker is Cleaning.
    pub(super) fn check_returns(&self) -> Verdict {
        let cleaning = self.workers.iter().filter(|(_, worker)| worker.cleaning().is_some()).count();
        let open = self.cold.open_returns();
        hold(open == cleaning, || format!("{open} returns are open, {cleaning} workers are Cleaning"))
    }

    pub(super) fn check_waiters(&self) -> Verdict {
        for (id, waiter) in self.waiters.iter() {
            let bounded = waiter.expires_at <= waiter.queued_at + limits::WAIT_MAX;
            hold(*id == waiter.id && bounded, || format!("waiter {id} breaks its bounds"))?;
            let Some(row) = waiter.request.as_ref().and_then(|request| self.outcomes.get(request)) else { continue };
            hold(row.record == Record::Waiting { waiter: *id }, || format!("waiter {id}: its request does not wait"))?;
        }
        Ok(())
    }

    /// `exactly_once`: a row lives as long as its answer may be asked for.
    pub(super) fn check_outcomes(&self) -> Verdict {
        for (id, row) in self.outcomes.iter() {
            self.check_outcome(id, row).map_err(|why| format!("request {id}: {why}"))?;
        }
        // A cancellation writes the row of the request that it names beside its own.
        hold(self.outcomes.len() <= limits::OUTCOMES_MAX + 1, || "there are too many outcomes".into())?;
        for (id, client) in self.clients.iter() {
            self.check_client(id, client).map_err(|why| format!("client {id}: {why}"))?;
        }
        Ok(())
    }

    fn check_outcome(&self, id: &RequestId, row: &OutcomeRow) -> Verdict {
        hold(row.lives_until >= row.not_after, || "its row ends before it may be retried".into())?;
        let lasting = match &row.record {
            Record::Waiting { waiter } => {
                let waiter = self.waiters.get(waiter);
                hold(waiter.is_some_and(|waiter| waiter.request.as_ref() == Some(id)), || {
                    "nobody waits for it".into()
                })?;
                true
            }
            Record::Granted { worker, epoch } => {
                let lease = self.workers.get(worker).and_then(|worker| worker.lease());
                lease.is_some_and(|lease| lease.epoch == *epoch && !lease.claimed)
            }
            Record::Cancelled
            | Record::Dropped
            | Record::Expired
            | Record::PoolGone { .. }
            | Record::Returned { .. }
            | Record::PoolSaved { .. }
            | Record::PoolDeleted { .. }
            | Record::Operated { .. }
            | Record::Cancellation { .. }
            | Record::Refused { .. } => false,
        };
        hold(lasting == (row.lives_until == LogTime::MAX), || "its row lives too long or too short".into())
    }

    fn check_client(&self, id: &ClientId, client: &crate::request::ClientRow) -> Verdict {
        let (mut rows, mut last) = (0, LogTime(0));
        for request in self.outcomes_of(id) {
            let RequestId::Numbered { seq, .. } = request else { return Err("a row that is not its own".into()) };
            hold(*seq >= client.answered_below, || format!("the answer to {seq} is kept though it was heard"))?;
            let until = self.outcomes.get(request).map_or(LogTime::MAX, |row| row.lives_until);
            last = if until < LogTime::MAX { last.max(until) } else { last };
            rows += 1;
        }
        hold(rows == client.rows, || format!("it counts {} rows and has {rows}", client.rows))?;
        hold(rows <= limits::OUTCOMES_PER_CLIENT_MAX as u64 + 1, || "it has too many rows".into())?;
        hold(client.lives_until >= last, || "it is forgotten before its requests are".into())
    }

    /// `same_state`: writes are refused exactly while replicas disagree.
    pub(super) fn check_marks(&self) -> Verdict {
        hold(self.marks.len() <= limits::DIGEST_MARKS_MAX, || "there are too many digest marks".into())?;
        let disputed: Vec<_> = self.marks.iter().filter(|(_, mark)| mark.is_disputed()).map(|(at, _)| *at).collect();
        let diverged = self.group().diverged;
        let told = diverged.map_or(disputed.is_empty(), |mark| disputed.contains(&mark));
        hold(told, || format!("marks {disputed:?} are disputed, {diverged:?} is told"))?;
        let voters = self.group().voters.len();
        for (at, mark) in self.marks.iter() {
            let same = mark.reports.values().filter(|value| Some(**value) == mark.agreed).count();
            hold(mark.agreed.is_none() || same * 2 > voters, || format!("mark {at} is agreed by a minority"))?;
        }
        Ok(())
    }
}
