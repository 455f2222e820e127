//! Taking a worker: at once, or by waiting in the pool's queue through whatever happens to replicas meanwhile.
//!
//! A waiting acquire is one request under one id. The library sends it again, to whichever replica answers, and the
//! replica finds the waiter or the grant by that id. A grant made to a waiter must be claimed by a renewal, which is
//! done here before the lease is given out.
//!
//! ```text
//!   send ──lease──> claim (renew) ──> Lease
//!    ├─ nobody answers ──> the same id elsewhere        ┐ while there is time left; then, and when the
//!    ├─ WAITER_DROPPED ──> a new id                     ├ future is dropped: CancelAcquire, so that no
//!    └─ QUEUE_FULL ──────> a new id after a pause       ┘ grant is left that nobody wants
//! ```
//!
//! Never here: keeping the lease, see `lease/`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use remuda_wire::v1;
use tonic::Code;

use crate::client::Client;
use crate::error::{Error, Outcome, reason};
use crate::lease::{Lease, LeaseKey, Secret};
use crate::name::JobId;
use crate::requests::{self, Ticket};
use crate::retry::Patience;

/// Bounds of acquiring.
mod limits {
    use std::time::Duration;

    /// Added to the wait for the call's deadline: the way there and back, and one election.
    pub(super) const BEYOND_WAIT: Duration = Duration::from_secs(5);
    /// For the cancel that follows an acquire which was given up.
    pub(super) const CANCEL: Duration = Duration::from_secs(10);
    /// Between two tries at a full queue, unless the cluster asks for another pause.
    pub(super) const QUEUE_FULL: Duration = Duration::from_millis(500);
}

/// What an acquire asks for.
#[derive(Debug, Clone)]
pub struct Acquire {
    /// `pools/{pool}`.
    pub pool: String,
    /// The job that will hold the worker.
    pub job: JobId,
    /// The job's labels.
    pub job_labels: HashMap<String, String>,
    /// Labels that the worker must have, in the Kubernetes grammar; empty takes any.
    pub selector: String,
    /// The lease's time to live; none takes the pool's.
    pub ttl: Option<Duration>,
    /// How long to wait for a worker; zero does not wait.
    pub wait: Duration,
    /// Priority among waiters.
    pub priority: u32,
}

impl Acquire {
    /// Any worker of `pool` for `job`, now or not at all.
    pub fn new(pool: impl Into<String>, job: JobId) -> Self {
        Self {
            pool: pool.into(),
            job,
            job_labels: HashMap::new(),
            selector: String::new(),
            ttl: None,
            wait: Duration::ZERO,
            priority: 0,
        }
    }

    /// Waits this long for a worker.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Takes only workers with these labels.
    #[must_use]
    pub fn selector(mut self, selector: impl Into<String>) -> Self {
        self.selector = selector.into();
        self
    }

    fn request(&self, secret: &Secret, wait: Duration) -> v1::AcquireWorkerRequest {
        v1::AcquireWorkerRequest {
            pool: self.pool.clone(),
            job_id: self.job.to_string(),
            job_labels: self.job_labels.clone(),
            selector: self.selector.clone(),
            secret_sha256: secret.sha256(),
            ttl: self.ttl.and_then(|d| d.try_into().ok()),
            wait: (!wait.is_zero()).then(|| wait.try_into().ok()).flatten(),
            priority: self.priority,
            request: None,
        }
    }
}

/// One request id's end, where it is not the acquire's.
enum Next {
    /// Queue again under a new id, after this long.
    Again(Duration),
    /// Give this back.
    Failed(Error),
}

impl Client {
    /// Takes a worker and holds it: the lease is renewed in the background until it is returned or lost.
    ///
    /// Dropping the future gives the request up; a grant that was on its way is cancelled in the background.
    ///
    /// # Errors
    /// `NO_AVAILABLE_WORKER` when none was free in time; else what the cluster decided, or that nobody answered.
    pub async fn acquire(&self, acquire: &Acquire) -> Result<Lease, Error> {
        let until = Instant::now() + acquire.wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.acquire_once(acquire, left).await {
                Ok(lease) => return Ok(lease),
                Err(Next::Failed(error)) => return Err(error),
                Err(Next::Again(pause)) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(no_worker(acquire));
                    }
                    tokio::time::sleep(pause.min(left)).await;
                }
            }
        }
    }

    /// The same for one process's call: the lease is not held, and the caller renews it.
    ///
    /// # Errors
    /// As [`Client::acquire`].
    pub async fn acquire_unheld(&self, acquire: &Acquire) -> Result<(LeaseKey, v1::Lease), Error> {
        let lease = self.acquire(acquire).await?;
        let key = lease.key().clone();
        self.let_go(&lease);
        let request = v1::GetLeaseRequest { worker: key.worker.to_string(), read: None };
        let found = self.ask(request).await?.lease.ok_or_else(|| Error::bad_answer("lease"))?;
        Ok((key, found))
    }

    /// One request id, from its first send to its end.
    async fn acquire_once(&self, acquire: &Acquire, wait: Duration) -> Result<Lease, Next> {
        let secret = Secret::random();
        let ticket = self.ticket(requests::limits::WINDOW).await.map_err(Next::Failed)?;
        let mut cancel = CancelOnDrop { client: self.clone(), ticket: Some(ticket) };
        let ticket = cancel.ticket.as_ref().expect("the ticket leaves only when the acquire has ended");
        let patience =
            if wait.is_zero() { Patience::default() } else { Patience::waiting(wait.max(limits::BEYOND_WAIT)) };
        let answered = match self.write_under(ticket, patience, &acquire.request(&secret, wait)).await {
            Ok(answered) => answered.answer,
            Err(error) => return Err(self.gave_up(&mut cancel, acquire, error, wait).await),
        };
        let granted = answered.lease.ok_or_else(|| Next::Failed(Error::bad_answer("lease")))?;
        let lease = self.hold(key_of(acquire, secret, &granted).map_err(Next::Failed)?);
        if answered.waited || granted.unclaimed {
            // Unclaimed it must not be kept alive by the background: the cancel gives it back.
            self.renew_held(&lease).await.inspect_err(|_| self.let_go(&lease)).map_err(Next::Failed)?;
        }
        cancel.ticket = None;
        match lease.standing().ended {
            // The claim came too late: the cluster took the worker back, and the wait goes on.
            Some(_) if !wait.is_zero() => Err(Next::Again(Duration::ZERO)),
            Some(ended) => {
                Err(Next::Failed(Error::own(&ended.reason, Code::FailedPrecondition, Outcome::Absent, ended.detail)))
            }
            None => Ok(lease),
        }
    }

    /// What follows an acquire that brought no lease. Where it is not known to have had no effect it is cancelled, so
    /// that it will have none.
    async fn gave_up(&self, cancel: &mut CancelOnDrop, acquire: &Acquire, error: Error, wait: Duration) -> Next {
        if error.outcome() == Outcome::Absent {
            cancel.ticket = None;
            return match error.reason() {
                "WAITER_DROPPED" => Next::Again(Duration::ZERO),
                // Every earlier copy was refused before it was read; the request is as good as never made.
                "REQUEST_TOO_OLD" if !wait.is_zero() => Next::Again(Duration::ZERO),
                "QUEUE_FULL" if !wait.is_zero() => Next::Again(error.retry_after().unwrap_or(limits::QUEUE_FULL)),
                _ => Next::Failed(error),
            };
        }
        let Some(ticket) = &cancel.ticket else { return Next::Failed(error) };
        let met = match self.cancel_acquire(ticket).await {
            Ok(met) => met,
            Err(_) => return Next::Failed(error),
        };
        cancel.ticket = None;
        if met == "HELD" {
            // Granted at once, and the answer was lost: a lease that nobody renews, and that runs out.
            return Next::Failed(error);
        }
        match error.code() {
            Code::DeadlineExceeded | Code::Cancelled if !wait.is_zero() => Next::Failed(no_worker(acquire)),
            _ => Next::Failed(error.with_outcome(Outcome::Absent)),
        }
    }

    /// Makes sure that an acquire has no effect from now on, unless its lease is held already. Gives what it met.
    async fn cancel_acquire(&self, acquire: &Ticket) -> Result<String, Error> {
        let request = v1::CancelAcquireRequest {
            acquire_request_id: acquire.request_id(),
            acquire_not_after_ms: acquire.not_after_ms(),
            request: None,
        };
        Ok(self.write_with(Patience::within(limits::CANCEL), request).await?.answer.met)
    }
}

fn key_of(acquire: &Acquire, secret: Secret, granted: &v1::Lease) -> Result<LeaseKey, Error> {
    Ok(LeaseKey {
        worker: granted.worker.parse()?,
        job: acquire.job.clone(),
        epoch: granted.epoch,
        secret,
        granted_revision: granted.granted_revision,
        execution_endpoint: granted.execution_endpoint.clone(),
    })
}

fn no_worker(acquire: &Acquire) -> Error {
    let message = format!("no worker of {} was free within {:?}", acquire.pool, acquire.wait);
    Error::own(reason::NO_AVAILABLE_WORKER, Code::ResourceExhausted, Outcome::Absent, message)
}

/// Cancels an acquire whose future is dropped before it has ended.
struct CancelOnDrop {
    client: Client,
    ticket: Option<Ticket>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let client = self.client.clone();
        // Outside a runtime nothing can be sent any more; the waiter is dropped by the cluster after its 10 s.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = client.cancel_acquire(&ticket).await {
                    tracing::warn!(request = ticket.request_id(), %error, "an acquire that was given up may still be granted");
                }
            });
        }
    }
}
