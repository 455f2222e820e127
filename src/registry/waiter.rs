//! A waiter: an acquire that found no free worker.
//!
//! Its rank fixes its place once and for all: priority is worth a constant head start, so that waiting raises a waiter
//! as slowly as time passes, nobody starves, and the order never has to be made anew.
//!
//! Invariants
//! * Within a priority the order is first come, first served.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{JobId, PoolId, RequestId, SecretHash, WaiterId};
use crate::limits::PRIORITY_RISE_EVERY;
use crate::pool::bounds::PRIORITY_MAX;
use crate::selector::{Labels, Selector};
use crate::time::{LogTime, Millis};

/// What a waiter asks for; waiters with the same question share a queue. Name first: a name's questions are one range.
pub type Question = (Option<Arc<str>>, Arc<Selector>);

/// One waiter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// Its id.
    pub id: WaiterId,
    /// Its pool.
    pub pool: PoolId,
    /// What it asks for.
    pub question: Question,
    /// The holder's work.
    pub job: JobId,
    /// Labels of the job.
    pub job_labels: Arc<Labels>,
    /// Who asked.
    pub holder: Arc<str>,
    /// SHA-256 of the lease secret.
    pub secret: SecretHash,
    /// What a renewal will grant.
    pub ttl: Millis,
    /// Lower goes first; ties by id.
    pub rank: u64,
    /// When it began to wait.
    pub queued_at: LogTime,
    /// When it ends unless granted.
    pub expires_at: LogTime,
    /// The request that it answers, if it had an id.
    pub request: Option<RequestId>,
}

/// The place of a waiter of this priority that begins to wait now.
pub fn rank(queued_at: LogTime, priority: u32) -> u64 {
    let behind = u64::from(PRIORITY_MAX.saturating_sub(priority));
    queued_at.0.saturating_add(behind * PRIORITY_RISE_EVERY.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_goes_first_and_nobody_starves() {
        assert!(rank(LogTime(10), 1) < rank(LogTime(0), 0));
        let long_ago = rank(LogTime(0), 0);
        assert!(long_ago < rank(LogTime(0) + Millis(PRIORITY_RISE_EVERY.0 * 10 + 1), 10));
        assert!(rank(LogTime(1), 5) < rank(LogTime(2), 5));
    }
}
