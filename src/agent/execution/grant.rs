//! Waiting for a grant: the lease that a caller speaks of, as this agent's own watch shows it.
//!
//! A holder may come before the watch has shown its lease. The caller's word is not enough to serve it, and the absence
//! of the lease here is not enough to refuse it.

use std::sync::Arc;
use std::time::Duration;

use remuda_wire::agent::v1::LeaseProof;
use remuda_wire::v1;
use tonic::{Code, Status};

use super::refusal::refused;
use crate::job::LeaseOrder;
use crate::link::{Failure, call, request};
use crate::runner::{Crew, Member};

/// How long a grant is waited for.
const WAIT: Duration = Duration::from_secs(5);
/// Once the watch has passed the grant's revision, the worker's task shows it within this time, if it is true.
const SHOW: Duration = Duration::from_millis(250);

/// The open lease with the proof's epoch, as soon as it is seen.
pub(super) async fn wait(crew: &Arc<Crew>, member: &Member, proof: &LeaseProof) -> Result<LeaseOrder, Status> {
    let mut view = member.view();
    let settled = async {
        loop {
            {
                let view = view.borrow_and_update();
                if let Some(lease) = view.lease.as_ref().filter(|lease| lease.epoch == proof.epoch) {
                    return Ok(lease.clone());
                }
                if proof.epoch < view.facts.seen {
                    return Err(stale(proof, view.facts.seen));
                }
            }
            if view.changed().await.is_err() {
                return Err(super::refusal::stopping());
            }
        }
    };
    let mut passed = crew.shared().passed.subscribe();
    let in_vain = async {
        if proof.granted_revision == 0 || passed.wait_for(|passed| *passed >= proof.granted_revision).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(SHOW).await;
    };
    tokio::select! {
        settled = settled => return settled,
        () = in_vain => {}
        () = tokio::time::sleep(WAIT) => {}
    }
    Err(ask(crew, proof).await)
}

/// What the registry says of an epoch that the watch has not shown. It may prove the caller wrong; it cannot prove it
/// right, because only the watch brings what a lease needs here.
async fn ask(crew: &Arc<Crew>, proof: &LeaseProof) -> Status {
    let mut route = crew.shared().link.route();
    for _ in 0..crew.shared().link.len() {
        let read = v1::ReadOptions { consistency: v1::Consistency::Linearizable.into(), min_revision: 0 };
        let asked = v1::GetLeaseRequest { worker: proof.worker.clone(), read: Some(read) };
        match call(route.leases().get_lease(request(asked))).await {
            Ok(answer) => match answer.lease {
                Some(lease) if lease.epoch == proof.epoch => return not_seen(proof),
                Some(lease) => return stale(proof, lease.epoch),
                None => return stale(proof, 0),
            },
            Err(Failure::Refused { reason, .. }) => {
                tracing::debug!(worker = proof.worker, reason, "the registry knows of no such lease");
                return stale(proof, 0);
            }
            Err(Failure::Again(_)) => route.next(),
        }
    }
    not_seen(proof)
}

/// The epoch is not the worker's lease; `newer` is what superseded it, zero where the worker has no lease.
pub(super) fn stale(proof: &LeaseProof, newer: u64) -> Status {
    let words = format!("epoch {} is not the worker's lease", proof.epoch);
    let (presented, current) = (proof.epoch.to_string(), newer.to_string());
    let facts = [("worker", proof.worker.as_str()), ("presented", &presented), ("current", &current)];
    refused(Code::FailedPrecondition, "STALE_LEASE", &words, &facts)
}

/// The grant may be true, but has not been seen here.
pub(super) fn not_seen(proof: &LeaseProof) -> Status {
    let words = "the agent has not seen this grant yet; ask again";
    refused(Code::Unavailable, "GRANT_NOT_SEEN", words, &[("worker", &proof.worker)])
}
