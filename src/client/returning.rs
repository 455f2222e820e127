//! Bringing a worker back: the commit that ends the lease, and the wait for the receipt.
//!
//! The return is committed when `ReturnWorker` answers; from then on it goes on without the client. A client which lost
//! every answer finds it as the worker's last return.
//!
//! Never here: what makes a worker clean.

use std::time::{Duration, Instant};

use remuda_wire::v1::{self, JobOutcome, r#return::Result as Ended};

use crate::client::Client;
use crate::error::{Error, Outcome};
use crate::lease::LeaseKey;
use crate::name::{JobId, WorkerId};
use crate::retry::Patience;

/// Bounds of returning.
mod limits {
    use std::time::Duration;

    /// For the commit: longer than other calls, since a worker that is not returned stays away until its lease ends.
    pub(super) const COMMIT: Duration = Duration::from_secs(30);
    /// For the receipt, in [`Client::return_worker_to_pool`](super::Client::return_worker_to_pool): all the attempts
    /// that a pool makes by default, with their pauses.
    pub(super) const RECEIPT: Duration = Duration::from_secs(5 * 60);
    /// One question for the receipt; short, so that a replica that lost its leader is left soon.
    pub(super) const QUESTION: Duration = Duration::from_secs(20);
}

/// Why a worker is not back in its pool.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WorkerReturnError {
    /// This client holds no lease of that worker for that job.
    #[error("this client does not hold {worker} for job {job}")]
    NotHeld {
        /// The worker.
        worker: WorkerId,
        /// The job.
        job: JobId,
    },
    /// The lease had ended before, or another holds the worker: nothing was returned.
    #[error("the lease is no more: {0}")]
    Stale(Error),
    /// The worker could not be shown to be clean and healthy.
    #[error("{return_name} ended in Maintenance: {reason}: {evidence}")]
    Maintenance {
        /// The return.
        return_name: String,
        /// The typed reason.
        reason: String,
        /// What was seen.
        evidence: String,
    },
    /// The worker's agent fell silent; when it comes back the worker is cleaned before it is offered.
    #[error("{return_name}: the worker was lost")]
    Lost {
        /// The return.
        return_name: String,
    },
    /// Time was over. What was committed goes on without this client.
    #[error("{return_name} had not ended when time was over: {last}")]
    Unfinished {
        /// The return; as long as it is not known to be committed, the worker, whose last return it may be.
        return_name: String,
        /// Whether it is known that the lease has ended and the return has begun.
        committed: bool,
        /// The last error.
        last: Error,
    },
    /// The cluster decided otherwise.
    #[error(transparent)]
    Refused(Error),
}

/// Reasons by which the cluster says that a lease is not the one that holds the worker.
const STALE: [&str; 4] = ["STALE_LEASE", "LEASE_ENDED", "WRONG_SECRET", "WRONG_STATE"];

impl Client {
    /// Brings a worker that this client holds for a job back to its pool, and waits until it is clean there.
    ///
    /// Ok when the return's receipt was accepted: the worker is Available, or leased on at once, or Ready under a
    /// cordon, or retired as spent.
    ///
    /// # Errors
    /// See [`WorkerReturnError`].
    pub async fn return_worker_to_pool(&self, worker: &WorkerId, job: &JobId) -> Result<(), WorkerReturnError> {
        let held = self.inner.leases.find(worker, job);
        let Some(held) = held else {
            return Err(WorkerReturnError::NotHeld { worker: worker.clone(), job: job.clone() });
        };
        let return_name = self.begin_return(&held.key, JobOutcome::Success).await?;
        self.finish_return(&return_name, limits::RECEIPT).await.map(|_| ())
    }

    /// Ends a lease, whoever holds it, and gives the name of the return that has begun.
    ///
    /// # Errors
    /// See [`WorkerReturnError`]; what follows the commit is not among it.
    pub async fn begin_return(&self, key: &LeaseKey, outcome: JobOutcome) -> Result<String, WorkerReturnError> {
        let request = v1::ReturnWorkerRequest {
            worker: key.worker.to_string(),
            job_id: key.job.to_string(),
            epoch: key.epoch,
            secret: key.secret.bytes().to_vec(),
            outcome: outcome.into(),
            request: None,
        };
        match self.write_with(Patience::within(limits::COMMIT), request).await {
            Ok(answered) => {
                self.inner.leases.remove(&key.worker, key.epoch, "RETURNED", "the worker was returned");
                Ok(answered.answer.return_name)
            }
            // The first answer is kept with a bounded number of others; without it a retry is told how the lease ended.
            Err(error) if ended_by_return(&error, &key.job) => {
                self.inner.leases.remove(&key.worker, key.epoch, "RETURNED", "the worker was returned");
                Ok(error.fact("return").unwrap_or_default().to_owned())
            }
            Err(error) if STALE.contains(&error.reason()) => {
                self.inner.leases.remove(&key.worker, key.epoch, error.reason(), error.message());
                Err(WorkerReturnError::Stale(error))
            }
            Err(error) if error.outcome() == Outcome::Unknown => Err(WorkerReturnError::Unfinished {
                return_name: key.worker.to_string(),
                committed: false,
                last: error,
            }),
            Err(error) => Err(WorkerReturnError::Refused(error)),
        }
    }

    /// Waits until a return has ended well, at most for `patience`.
    ///
    /// # Errors
    /// See [`WorkerReturnError`].
    pub async fn finish_return(&self, name: &str, patience: Duration) -> Result<v1::Return, WorkerReturnError> {
        let unfinished = |last| WorkerReturnError::Unfinished { return_name: name.to_owned(), committed: true, last };
        let ret = match self.wait_return(name, patience).await {
            Ok(ret) => ret,
            Err(e) if e.code() == tonic::Code::NotFound => return Err(WorkerReturnError::Refused(e)),
            Err(e) => return Err(unfinished(e)),
        };
        let return_name = name.to_owned();
        match ret.result() {
            Ended::Accepted | Ended::Retired => Ok(ret),
            Ended::Maintenance => {
                Err(WorkerReturnError::Maintenance { return_name, reason: ret.reason, evidence: ret.evidence })
            }
            Ended::Lost => Err(WorkerReturnError::Lost { return_name }),
            Ended::Unspecified => Err(unfinished(still_open(name, patience))),
        }
    }

    /// A return as it is when it has ended, or when `patience` is over.
    ///
    /// # Errors
    /// What the cluster decided, or that nobody answered.
    pub async fn wait_return(&self, name: &str, patience: Duration) -> Result<v1::Return, Error> {
        let until = Instant::now() + patience;
        let mut min_revision = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = left.min(limits::QUESTION);
            let request = v1::GetReturnRequest {
                name: name.to_owned(),
                read: Some(v1::ReadOptions { min_revision, ..Default::default() }),
                wait: (!wait.is_zero()).then(|| wait.try_into().ok()).flatten(),
            };
            let answer = self.ask_with(Patience::waiting(wait), request).await?.answer;
            min_revision = answer.header.as_ref().map_or(min_revision, |h| h.revision.max(min_revision));
            let ret = answer.ret.ok_or_else(|| Error::bad_answer("return"))?;
            if ret.result() != Ended::Unspecified || Instant::now() >= until {
                return Ok(ret);
            }
        }
    }
}

/// Whether a refused return says that this very return has been made.
fn ended_by_return(error: &Error, job: &JobId) -> bool {
    let named = error.fact("return").is_some();
    error.is("LEASE_ENDED")
        && named
        && error.fact("cause") == Some("RETURNED")
        && error.fact("job_id") == Some(job.as_str())
}

fn still_open(name: &str, patience: Duration) -> Error {
    let message = format!("{name} was still in progress after {patience:?}");
    Error::own(crate::error::reason::DEADLINE_PASSED, tonic::Code::DeadlineExceeded, Outcome::Unknown, message)
}
