//! What is remembered of requests: one small row per outcome, and one per client library.
//!
//! Invariants
//! * A row is never trimmed with the lease or the return that it speaks of, only by its own `lives_until`.
//! * While its waiter or unclaimed grant exists a row lives, whatever its `not_after`.

use serde::{Deserialize, Serialize};

use crate::id::{Identity, PoolId, Revision, Token, WaiterId, WorkerId};
use crate::outcome::Cancelled;
use crate::refusal::RefusalCode;
use crate::time::LogTime;
use crate::worker::StateKind;

/// The first answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRow {
    /// What the request was; `None` where it was cancelled before it was seen.
    pub identity: Option<Identity>,
    /// The request's own bound; zero where it was cancelled before it was seen.
    pub not_after: LogTime,
    /// Until when the answer is given.
    pub lives_until: LogTime,
    /// The answer.
    pub record: Record,
    /// The revision of the answer.
    pub revision: Revision,
}

/// What remains of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The acquire waits.
    Waiting {
        /// Its waiter.
        waiter: WaiterId,
    },
    /// The acquire has, or had, a worker.
    Granted {
        /// The worker.
        worker: WorkerId,
        /// The epoch.
        epoch: Token,
    },
    /// The acquire was cancelled.
    Cancelled,
    /// Nobody vouched for the waiter.
    Dropped,
    /// The waiter waited long enough.
    Expired,
    /// The waiter's pool was deleted.
    PoolGone {
        /// The pool.
        pool: PoolId,
    },
    /// The return began.
    Returned {
        /// The worker.
        worker: WorkerId,
        /// The return.
        return_id: Token,
    },
    /// The pool was created or changed.
    PoolSaved {
        /// The pool.
        pool: PoolId,
        /// Its generation.
        generation: u64,
    },
    /// The pool was deleted.
    PoolDeleted {
        /// The pool.
        pool: PoolId,
    },
    /// The operator's order was taken.
    Operated {
        /// The worker.
        worker: WorkerId,
        /// Its generation.
        generation: u64,
        /// Its state then.
        state: StateKind,
    },
    /// The cancellation was done.
    Cancellation {
        /// What the acquire had come to.
        was: Cancelled,
    },
    /// The request was refused.
    Refused {
        /// Why.
        code: RefusalCode,
    },
}

/// What is remembered of a client library.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClientRow {
    /// Every seq below was answered; such requests are refused.
    pub answered_below: u64,
    /// The row is kept until then: no older request can come later.
    pub lives_until: LogTime,
    /// Rows kept for it.
    pub rows: u64,
}

impl Record {
    /// Its name, for people.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Granted { .. } => "granted",
            Self::Cancelled => "cancelled",
            Self::Dropped => "dropped",
            Self::Expired => "expired",
            Self::PoolGone { .. } => "pool gone",
            Self::Returned { .. } => "returned",
            Self::PoolSaved { .. } => "pool saved",
            Self::PoolDeleted { .. } => "pool deleted",
            Self::Operated { .. } => "operated",
            Self::Cancellation { .. } => "cancellation",
            Self::Refused { .. } => "refused",
        }
    }

    /// The worker and token that it speaks of, where it does.
    pub const fn subject(&self) -> Option<(&WorkerId, Token)> {
        match self {
            Self::Granted { worker, epoch } => Some((worker, *epoch)),
            Self::Returned { worker, return_id } => Some((worker, *return_id)),
            Self::Operated { worker, .. } => Some((worker, Token(0))),
            Self::Waiting { .. }
            | Self::Cancelled
            | Self::Dropped
            | Self::Expired
            | Self::PoolGone { .. }
            | Self::PoolSaved { .. }
            | Self::PoolDeleted { .. }
            | Self::Cancellation { .. }
            | Self::Refused { .. } => None,
        }
    }
}
