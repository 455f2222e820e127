//! Renewals: a tick's worth in one command.
//!
//! The first renewal after a quiet tick goes at once; what comes within the tick after it waits for the next. The
//! coordinator flushes before it proposes what is due, so that no lease ends by a deadline that a renewal already here
//! would have moved.
//!
//! Never here: judging a renewal.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use remuda_registry::lease::Renewal;
use remuda_registry::worker::StateKind;
use remuda_registry::{Command, Millis, Outcome, Request, Revision};
use remuda_wire::convert::lease::{renew_after, renewed_out, unrenewed_out};
use remuda_wire::convert::worker::cordon_out;
use remuda_wire::v1;
use tokio::sync::{Notify, oneshot};

use crate::propose::{Committed, Propose as _, ProposeError, Proposed};
use crate::raft::Node;
use crate::service::status::Failure;
use crate::service::{Replica, unexpected};

/// Bounds of renewing.
mod limits {
    use std::time::Duration;

    /// One command per tick.
    pub(super) const TICK: Duration = Duration::from_millis(100);
    /// Renewals in one command: an entry must replicate within a tick.
    pub(super) const PER_COMMAND: usize = 1_000;
    /// A batch has this long; its callers may give up earlier.
    pub(super) const PATIENCE: Duration = Duration::from_secs(5);
    /// Renewals per second of all leases together.
    pub(super) const PER_SECOND: u64 = 2_000;
}

struct Job {
    renewals: Vec<Renewal>,
    reply: oneshot::Sender<Proposed>,
    at: usize,
}

/// Renewals that wait for their tick.
pub struct Renewals {
    queue: Mutex<Vec<Job>>,
    come: Notify,
}

impl Renewals {
    /// None yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), come: Notify::new() })
    }

    /// When a lease with this much left should be renewed: a third of it, later where leases are many.
    pub fn renew_after(&self, node: &Node, granted: Millis) -> Millis {
        let leases: u64 = node.read(|state| {
            let busy = StateKind::ALL.iter().position(|kind| *kind == StateKind::Busy).unwrap_or(0);
            state.pools().filter_map(|pool| state.pool_counts(&pool.id)).map(|counts| counts.by_state[busy]).sum()
        });
        let fair = Millis(leases * 1_000 / limits::PER_SECOND);
        renew_after(granted).max(fair).min(Millis(granted.0 / 2))
    }

    /// Renews with the next batch; one result per renewal.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn renew(
        &self,
        replica: &Replica,
        renewals: Vec<Renewal>,
        deadline: Instant,
    ) -> Result<(Revision, Vec<v1::RenewalResult>), Failure> {
        let (reply, answer) = oneshot::channel();
        self.queue.lock().push(Job { renewals: renewals.clone(), reply, at: 0 });
        self.come.notify_one();
        let answer = match tokio::time::timeout_at(deadline.into(), answer).await {
            Err(_) => return Err(Failure::deadline(true)),
            Ok(Err(_)) => Err(ProposeError::Unknown { reason: "the replica is stopping".to_owned() }),
            Ok(Ok(answer)) => answer,
        };
        let Committed { revision, result, .. } = answer?;
        let results = match result? {
            Outcome::Renewed { results } => results,
            other => return Err(unexpected(&other)),
        };
        let after = |granted| self.renew_after(&replica.node, granted);
        let out = renewals.iter().zip(results).map(|(renewal, result)| match result {
            Ok(renewed) => {
                let draining = replica.node.read(|state| state.worker(&renewal.worker).and_then(cordon_out));
                renewed_out(&renewed, after(renewed.granted), draining)
            }
            Err(refusal) => unrenewed_out(renewal, refusal.code(), refusal.to_string()),
        });
        Ok((revision, out.collect()))
    }

    /// Proposes what has come, and answers it.
    pub async fn flush(&self, replica: &Replica) {
        let jobs = std::mem::take(&mut *self.queue.lock());
        if jobs.is_empty() {
            return;
        }
        let (requests, groups) = batched(jobs);
        replica.metrics.renewed(groups.iter().flatten().map(|job| job.renewals.len()).sum());
        let answers = replica.node.propose(requests, Instant::now() + limits::PATIENCE).await;
        for (group, answer) in groups.into_iter().zip(answers) {
            for job in group {
                // The caller may have gone.
                let _ = job.reply.send(part(&answer, job.at, job.renewals.len()));
            }
        }
    }

    /// Flushes each tick until the replica closes.
    pub async fn run(self: Arc<Self>, replica: Arc<Replica>) {
        loop {
            tokio::select! {
                () = self.come.notified() => {}
                () = replica.closed() => break,
            }
            let (renewals, of) = (self.clone(), replica.clone());
            // The next batch need not wait for this one's answer.
            tokio::spawn(async move { renewals.flush(&of).await });
            tokio::time::sleep(limits::TICK).await;
        }
        self.flush(&replica).await;
    }
}

/// Commands of at most the bound each, and whose renewals each holds; no job is split.
fn batched(jobs: Vec<Job>) -> (Vec<Request>, Vec<Vec<Job>>) {
    let mut commands: Vec<Vec<Renewal>> = Vec::new();
    let mut groups: Vec<Vec<Job>> = Vec::new();
    for mut job in jobs {
        let fits = commands.last().is_some_and(|last| last.len() + job.renewals.len() <= limits::PER_COMMAND);
        if !fits {
            commands.push(Vec::new());
            groups.push(Vec::new());
        }
        if let (Some(command), Some(group)) = (commands.last_mut(), groups.last_mut()) {
            job.at = command.len();
            command.extend(job.renewals.iter().cloned());
            group.push(job);
        }
    }
    let request = |renewals| Request::unmarked(Command::RenewLeases { renewals });
    (commands.into_iter().map(request).collect(), groups)
}

/// A job's part of its batch's answer.
fn part(answer: &Proposed, at: usize, count: usize) -> Proposed {
    let mut answer = answer.clone();
    if let Ok(Committed { result: Ok(Outcome::Renewed { results }), .. }) = &mut answer {
        *results = results.iter().skip(at).take(count).cloned().collect();
    }
    answer
}

#[cfg(test)]
mod tests {
    use remuda_registry::{SecretHash, Token, WorkerId};

    use super::*;

    fn job(count: usize) -> Job {
        let renewal =
            Renewal { worker: WorkerId::new("p", "w"), epoch: Token(1), secret: SecretHash::default(), ttl: None };
        Job { renewals: vec![renewal; count], reply: oneshot::channel().0, at: 0 }
    }

    #[test]
    fn batches_are_bounded_and_jobs_stay_whole() {
        let (requests, groups) = batched(vec![job(600), job(400), job(1), job(1_000)]);
        assert_eq!(requests.len(), 3);
        let places: Vec<Vec<usize>> = groups.iter().map(|group| group.iter().map(|job| job.at).collect()).collect();
        assert_eq!(places, [vec![0, 600], vec![0], vec![0]]);
    }

    #[test]
    fn each_job_gets_its_part() {
        let results = (0..5).map(|_| Err(remuda_registry::Refusal::NothingOwed)).collect();
        let outcome = Outcome::Renewed { results };
        let answer = Ok(Committed { revision: Revision(1), term: 1, ordinal: 0, result: Ok(outcome) });
        match part(&answer, 2, 2) {
            Ok(Committed { result: Ok(Outcome::Renewed { results }), .. }) => assert_eq!(results.len(), 2),
            other => panic!("{other:?}"),
        }
    }
}
