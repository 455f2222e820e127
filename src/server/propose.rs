//! The one way to change the registry: hand commands over, and hear what became of each.
//!
//! Services, the coordinator and liveness see only this trait, never Raft. Every proposal goes through one first-in,
//! first-out queue of the leader; a follower hands a proposal on to the leader once, and nobody hands it on again.
//!
//! ```text
//!   propose ──> [this replica leads] ──> queue ──> frame ──> log ──> apply ──> Committed
//!          └──> [it follows] ──one hop──> the leader's queue
//! ```
//!
//! Invariants
//! * `NoLeader` and `NotAccepted` are said only where no entry with the command can exist. All other failures are
//!   `Unknown`: the command may still be applied, later.
//! * Every wait ends at the caller's deadline.
//!
//! Never here: which gRPC code an error becomes; retries.

use std::time::Instant;

use futures_util::future::BoxFuture;
use remuda_registry::{Outcome, Refusal, ReplicaId, Request, Revision};

/// A command that is in the log for ever, with the registry's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The entry that holds the command.
    pub revision: Revision,
    /// The entry's term.
    pub term: u64,
    /// The command's position in its entry.
    pub ordinal: u32,
    /// What the registry answered. A refusal left every table as it was.
    pub result: Result<Outcome, Refusal>,
}

/// Where the leader is believed to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader.
    pub id: ReplicaId,
    /// Where clients reach it, `host:port`.
    pub client: String,
    /// The term in which it leads.
    pub term: u64,
}

/// Why there is no answer of the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nobody is known to lead, or this replica was asked as the leader and is not. Absent.
    #[error("no leader")]
    NoLeader {
        /// Who may know better.
        hint: Option<LeaderHint>,
    },
    /// The leader did not take the command on. Absent.
    #[error("not accepted: {reason}")]
    NotAccepted {
        /// For people.
        reason: String,
    },
    /// The command may have been applied, or may yet be.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// For people.
        reason: String,
    },
}

impl ProposeError {
    /// True where the command has no effect, now or later.
    pub fn is_absent(&self) -> bool {
        match self {
            ProposeError::NoLeader { .. } | ProposeError::NotAccepted { .. } => true,
            ProposeError::Unknown { .. } => false,
        }
    }
}

/// The answer for one request.
pub type Proposed = Result<Committed, ProposeError>;

/// Takes commands to the log.
pub trait Propose: Send + Sync + 'static {
    /// Proposes `requests` in their order, which neighbours may come between, and answers each in the same order. A
    /// replica that does not lead hands them to the leader.
    fn propose(&self, requests: Vec<Request>, deadline: Instant) -> BoxFuture<'static, Vec<Proposed>>;

    /// As `propose`, but only while this replica leads in `term`; else `NoLeader`. For what a leader owes by itself: a
    /// successor owes its own.
    fn propose_in_term(
        &self,
        term: u64,
        requests: Vec<Request>,
        deadline: Instant,
    ) -> BoxFuture<'static, Vec<Proposed>>;
}
