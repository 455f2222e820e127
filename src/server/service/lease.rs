//! LeaseService.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_registry::outcome::{Cancelled, Grant};
use remuda_registry::refusal::Refusal;
use remuda_registry::request::{OutcomeRow, Record};
use remuda_registry::selector::Labels;
use remuda_registry::{Command, Outcome, Request as Proposal, RequestId, Revision, WaiterId};
use remuda_wire::convert::Violations;
use remuda_wire::convert::lease::{acquire_in, cancel_in, lease_out, renewals_in, return_in};
use remuda_wire::convert::request::{id_in, id_out};
use remuda_wire::{name, reasons, v1};
use tonic::{Request, Response, Status};

use super::front::Deadline;
use super::status::Failure;
use super::{Replica, marked, returns, unexpected};
use crate::watch::Key;

/// How often a waiting acquire looks whether it is still vouched for.
const LOOK: Duration = Duration::from_millis(250);

/// Leases and returns.
pub struct LeaseService {
    replica: Arc<Replica>,
}

/// What the registry said to an acquire.
enum Acquired {
    /// It has a worker.
    Granted(Grant, Revision),
    /// It waits.
    Queued(WaiterId, Revision),
}

impl LeaseService {
    /// The service of a replica.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    async fn acquire(
        &self,
        request: v1::AcquireWorkerRequest,
        deadline: Instant,
    ) -> Result<v1::AcquireWorkerResponse, Failure> {
        let begun = Instant::now();
        let acquire = acquire_in(&request)?;
        self.replica.room()?;
        let pool = acquire.pool.clone();
        let labels = acquire.job_labels.clone();
        let command = Command::AcquireWorker(Box::new(acquire));
        let proposal = marked("AcquireWorker", request.request.as_ref(), command)?;
        let result = self.granted(proposal, deadline).await;
        let words = match &result {
            Ok(_) => "GRANTED",
            Err(failure) => failure.reason.name,
        };
        self.replica.metrics.acquired(&pool, words, begun.elapsed());
        let (grant, revision, waited) = result?;
        let lease = self.lease_of(&grant, &labels);
        let header = Some(self.replica.header(revision, false));
        Ok(v1::AcquireWorkerResponse { header, lease: Some(lease), waited })
    }

    /// The grant, now or when the waiter's turn comes.
    async fn granted(&self, proposal: Proposal, deadline: Instant) -> Result<(Grant, Revision, bool), Failure> {
        match self.ask(proposal.clone(), deadline).await? {
            Acquired::Granted(grant, revision) => Ok((grant, revision, false)),
            Acquired::Queued(waiter, revision) => {
                let id = proposal.mark.as_ref().map(|mark| mark.id.clone());
                let id = id.ok_or_else(|| Failure::new(reasons::INTERNAL, "a waiter without a request"))?;
                match self.turn(&id, waiter, revision, deadline).await? {
                    Some((grant, revision)) => Ok((grant, revision, true)),
                    // The lease was granted and has ended since: the record has the answer.
                    None => match self.ask(again(proposal), deadline).await? {
                        Acquired::Granted(grant, revision) => Ok((grant, revision, true)),
                        Acquired::Queued(..) => Err(Failure::new(reasons::INTERNAL, "a waiter that was over waits")),
                    },
                }
            }
        }
    }

    async fn ask(&self, proposal: Proposal, deadline: Instant) -> Result<Acquired, Failure> {
        let done = self.replica.propose(proposal, deadline).await?;
        match done.outcome {
            Outcome::Granted(grant) => Ok(Acquired::Granted(grant, done.revision)),
            Outcome::Queued { waiter, .. } => Ok(Acquired::Queued(waiter, done.revision)),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits for the waiter's end. `None`: it was granted a lease that is over.
    async fn turn(
        &self,
        id: &RequestId,
        waiter: WaiterId,
        queued: Revision,
        deadline: Instant,
    ) -> Result<Option<(Grant, Revision)>, Failure> {
        let replica = &self.replica;
        let open = replica.waiting.open(id_out(id));
        let inbox = replica.hub.inbox(vec![Key::Waiter(waiter)]);
        let late = |_| Failure::deadline(true);
        replica.node.wait_applied(queued, deadline).await.map_err(late)?;
        loop {
            if let Some(end) = self.ended(id)? {
                return Ok(end);
            }
            if Instant::now() >= deadline {
                return Err(Failure::deadline(true));
            }
            if !open.is_vouched_for() {
                return Err(Failure::new(reasons::UNATTENDED, "the leader was not told that this call waits"));
            }
            let contact = replica.in_contact();
            contact.map_err(Failure::perhaps)?;
            tokio::select! {
                _ = inbox.next() => {}
                () = replica.closed() => {
                    let failure = Failure::new(reasons::SHUTTING_DOWN, "this replica is stopping; the acquire waits on");
                    return Err(failure.perhaps());
                }
                () = tokio::time::sleep_until((Instant::now() + LOOK).min(deadline).into()) => {}
            }
        }
    }

    /// How the waiter of `id` ended, if it has.
    fn ended(&self, id: &RequestId) -> Result<Option<Option<(Grant, Revision)>>, Failure> {
        let found = self.replica.node.read(|state| {
            let row = state.outcome(id).cloned();
            let grant = match row.as_ref().map(|row| &row.record) {
                Some(Record::Granted { worker, epoch }) => state.grant(worker, *epoch),
                _ => None,
            };
            (row, grant)
        });
        let request = id.clone();
        let (Some(row), grant) = found else { return Ok(Some(None)) };
        match row.record {
            Record::Waiting { .. } => Ok(None),
            Record::Granted { .. } => Ok(Some(grant.map(|grant| (grant, row.revision)))),
            Record::Cancelled => Err(Refusal::RequestCancelled { request }.into()),
            Record::Dropped => Err(Refusal::WaiterDropped { request }.into()),
            Record::Expired => Err(Refusal::WaiterExpired { request }.into()),
            Record::PoolGone { pool } => Err(Refusal::PoolDeleted { pool }.into()),
            Record::Refused { code } => Err(Refusal::RefusedBefore { code, revision: row.revision }.into()),
            Record::Returned { .. }
            | Record::PoolSaved { .. }
            | Record::PoolDeleted { .. }
            | Record::Operated { .. }
            | Record::Cancellation { .. } => Err(Refusal::RequestIdReused { request }.into()),
        }
    }

    /// The lease of a grant. An unclaimed one is to be renewed at once.
    fn lease_of(&self, grant: &Grant, labels: &Labels) -> v1::Lease {
        let remaining = grant.deadline.since(self.replica.node.clock().now());
        let renew_after = if grant.unclaimed {
            remuda_registry::Millis(0)
        } else {
            self.replica.renewals.renew_after(&self.replica.node, remaining)
        };
        v1::Lease {
            worker: name::worker_name(&grant.worker),
            epoch: grant.epoch.0,
            job_id: grant.job.to_string(),
            job_labels: remuda_wire::convert::map_of(labels),
            deadline_ms: grant.deadline.0,
            remaining: Some(remuda_wire::convert::duration(remaining)),
            renew_after: Some(remuda_wire::convert::duration(renew_after)),
            granted_revision: grant.revision.0,
            execution_endpoint: grant.endpoint.to_string(),
            agent_silent: grant.endpoint.is_empty(),
            interrupted: false,
            unclaimed: grant.unclaimed,
            granted_at: None,
        }
    }

    async fn cancel(
        &self,
        request: v1::CancelAcquireRequest,
        deadline: Instant,
    ) -> Result<v1::CancelAcquireResponse, Failure> {
        let command = cancel_in(&request)?;
        let done = self.replica.write("CancelAcquire", request.request.as_ref(), command, deadline).await?;
        let met = match done.outcome {
            Outcome::AcquireCancelled { was } => match was {
                Cancelled::Unseen => "ABSENT",
                Cancelled::Waiting => "WAITER",
                Cancelled::Unclaimed { .. } => "GRANT",
                Cancelled::Held { .. } => "HELD",
                Cancelled::Over => "ENDED",
            },
            other => return Err(unexpected(&other)),
        };
        let header = Some(self.replica.header(done.revision, false));
        Ok(v1::CancelAcquireResponse { header, met: met.to_owned() })
    }

    async fn renew(
        &self,
        request: v1::RenewLeasesRequest,
        deadline: Instant,
    ) -> Result<v1::RenewLeasesResponse, Failure> {
        let renewals = renewals_in(&request)?;
        let (revision, results) = self.replica.renewals.renew(&self.replica, renewals, deadline).await?;
        Ok(v1::RenewLeasesResponse { header: Some(self.replica.header(revision, false)), results })
    }

    async fn return_worker(
        &self,
        request: v1::ReturnWorkerRequest,
        deadline: Instant,
    ) -> Result<v1::ReturnWorkerResponse, Failure> {
        let command = return_in(&request)?;
        let done = self.replica.write("ReturnWorker", request.request.as_ref(), command, deadline).await?;
        match done.outcome {
            Outcome::ReturnBegun { worker, return_id } => {
                let return_name = name::return_name(&worker, return_id);
                Ok(v1::ReturnWorkerResponse { header: Some(self.replica.header(done.revision, false)), return_name })
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn lease(&self, request: v1::GetLeaseRequest, deadline: Instant) -> Result<v1::GetLeaseResponse, Failure> {
        let mut found = Violations::default();
        let worker = found.take("worker", name::worker(&request.worker));
        let worker = found.finish(worker)?;
        let freshness = self.replica.fresh(request.read.as_ref(), deadline).await?;
        let now = self.replica.node.clock().now();
        let lease = self.replica.node.read(|state| {
            let row = state.worker(&worker).ok_or_else(|| Refusal::WorkerNotFound { worker: worker.clone() })?;
            let live = row.session.and_then(|_| state.agent(&row.agent));
            Ok::<_, Refusal>(lease_out(row, live.map_or("", |agent| &agent.endpoint), now))
        })?;
        let none = || Failure::new(reasons::LEASE_NOT_FOUND, format!("worker {worker} is under no lease"));
        let lease = lease.ok_or_else(|| none().about("remuda.v1.Worker", name::worker_name(&worker)))?;
        Ok(v1::GetLeaseResponse { header: Some(self.replica.read_header(freshness)), lease: Some(lease) })
    }

    async fn outcome(
        &self,
        request: v1::GetRequestOutcomeRequest,
        deadline: Instant,
    ) -> Result<v1::GetRequestOutcomeResponse, Failure> {
        let mut found = Violations::default();
        let id = found.take("request_id", id_in(&request.request_id));
        let id = found.finish(id)?;
        let freshness = self.replica.fresh(request.read.as_ref(), deadline).await?;
        let row = self.replica.node.read(|state| state.outcome(&id).cloned());
        let none = || Failure::new(reasons::OUTCOME_NOT_FOUND, "nothing is recorded for this request id");
        let row = row.ok_or_else(none)?;
        let header = Some(self.replica.read_header(freshness));
        Ok(v1::GetRequestOutcomeResponse { header, ..outcome_out(&row) })
    }
}

/// The same proposal as a retry.
fn again(mut proposal: Proposal) -> Proposal {
    if let Some(mark) = &mut proposal.mark {
        mark.retry = true;
    }
    proposal
}

fn outcome_out(row: &OutcomeRow) -> v1::GetRequestOutcomeResponse {
    let mut made = v1::GetRequestOutcomeResponse { revision: row.revision.0, ..Default::default() };
    let (kind, refused) = match &row.record {
        Record::Waiting { waiter } => {
            made.token = waiter.0;
            ("ACQUIRE", "")
        }
        Record::Granted { worker, epoch } => {
            (made.worker, made.token) = (name::worker_name(worker), epoch.0);
            ("ACQUIRE", "")
        }
        Record::Cancelled => ("ACQUIRE", reasons::REQUEST_CANCELLED.name),
        Record::Dropped => ("ACQUIRE", reasons::WAITER_DROPPED.name),
        Record::Expired => ("ACQUIRE", reasons::WAITER_EXPIRED.name),
        Record::PoolGone { .. } => ("ACQUIRE", reasons::POOL_DELETED.name),
        Record::Returned { worker, return_id } => {
            (made.worker, made.token) = (name::worker_name(worker), return_id.0);
            ("RETURN", "")
        }
        Record::PoolSaved { generation, .. } => {
            made.token = *generation;
            ("SAVE_POOL", "")
        }
        Record::PoolDeleted { .. } => ("DELETE_POOL", ""),
        Record::Operated { worker, generation, .. } => {
            (made.worker, made.token) = (name::worker_name(worker), *generation);
            ("OPERATE", "")
        }
        Record::Cancellation { .. } => ("CANCEL", ""),
        Record::Refused { code } => ("", reasons::of_refusal(*code).name),
    };
    (made.kind, made.refused) = (kind.to_owned(), refused.to_owned());
    made
}

fn wait_of(wait: Option<&prost_types::Duration>) -> Duration {
    let wait = wait.and_then(|wait| Duration::try_from(*wait).ok()).unwrap_or_default();
    wait.min(Duration::from_secs(3_600))
}

#[tonic::async_trait]
impl v1::lease_service_server::LeaseService for LeaseService {
    async fn acquire_worker(
        &self,
        request: Request<v1::AcquireWorkerRequest>,
    ) -> Result<Response<v1::AcquireWorkerResponse>, Status> {
        let deadline = Deadline::of(&request, wait_of(request.get_ref().wait.as_ref()));
        let answer = self.acquire(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn cancel_acquire(
        &self,
        request: Request<v1::CancelAcquireRequest>,
    ) -> Result<Response<v1::CancelAcquireResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.cancel(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn renew_leases(
        &self,
        request: Request<v1::RenewLeasesRequest>,
    ) -> Result<Response<v1::RenewLeasesResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.renew(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn return_worker(
        &self,
        request: Request<v1::ReturnWorkerRequest>,
    ) -> Result<Response<v1::ReturnWorkerResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.return_worker(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn get_lease(&self, request: Request<v1::GetLeaseRequest>) -> Result<Response<v1::GetLeaseResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.lease(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn get_return(
        &self,
        request: Request<v1::GetReturnRequest>,
    ) -> Result<Response<v1::GetReturnResponse>, Status> {
        let deadline = Deadline::of(&request, wait_of(request.get_ref().wait.as_ref()));
        let answer = returns::get(&self.replica, request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn list_returns(
        &self,
        request: Request<v1::ListReturnsRequest>,
    ) -> Result<Response<v1::ListReturnsResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = returns::list(&self.replica, request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn get_request_outcome(
        &self,
        request: Request<v1::GetRequestOutcomeRequest>,
    ) -> Result<Response<v1::GetRequestOutcomeResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.outcome(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }
}
