//! A lease: who holds a worker, until when, under which fencing token.
//!
//! Invariants
//! * `deadline` is never above `ends_by`, nor above the deadline of a drain.
//! * The secret itself is never here: only its SHA-256.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{JobId, RequestId, SecretHash, Token};
use crate::selector::Labels;
use crate::time::{LogTime, Millis, Moment};

/// The data of Busy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The fencing token.
    pub epoch: Token,
    /// The holder's work.
    pub job: JobId,
    /// Labels of the job, for people and lists.
    pub job_labels: Arc<Labels>,
    /// Who asked for it.
    pub holder: Arc<str>,
    /// SHA-256 of the lease secret.
    pub secret: SecretHash,
    /// The request that it answers, if it had an id.
    pub request: Option<RequestId>,
    /// When it began.
    pub granted: Moment,
    /// When it ends unless renewed.
    pub deadline: LogTime,
    /// What a renewal grants.
    pub ttl: Millis,
    /// `lease.max`: no renewal passes it.
    pub ends_by: LogTime,
    /// False while a waiter's grant has not been renewed once.
    pub claimed: bool,
    /// When it was last renewed.
    pub renewed_at: Option<LogTime>,
    /// Its job is lost; it can only be returned.
    pub interrupted: bool,
}

/// How the holder judges the worker it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobOutcome {
    /// The job succeeded.
    Success,
    /// The job failed; the worker is not to blame.
    Failure,
    /// The worker itself is broken.
    Broken,
}

/// One lease in a batch of renewals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The worker held.
    pub worker: crate::id::WorkerId,
    /// The epoch held.
    pub epoch: Token,
    /// SHA-256 of the secret presented.
    pub secret: SecretHash,
    /// Asks for another TTL from now on, within the pool's bounds.
    pub ttl: Option<Millis>,
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Busy epoch={} job={} deadline={}", self.epoch, self.job, self.deadline)?;
        if !self.claimed {
            f.write_str(" unclaimed")?;
        }
        if self.interrupted {
            f.write_str(" interrupted")?;
        }
        Ok(())
    }
}

impl fmt::Display for JobOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
