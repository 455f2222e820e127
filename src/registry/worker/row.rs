//! One worker's row: its state with its data, and what is remembered beside it.
//!
//! What is large or rare is boxed, so that a free worker takes little memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Cause, Cleaning, ClosedRun, Drain, MaintenanceReason, Next, Order, RetiredReason, StateKind};
use crate::id::{AgentId, JobId, SecretHash, SessionId, Token, WorkerId};
use crate::lease::Lease;
use crate::time::{LogTime, Moment, Stamp};

/// The data of Maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// Why.
    pub reason: MaintenanceReason,
    /// When the ladder tries again; `None` waits for an operator.
    pub retry_at: Option<LogTime>,
    /// Who asked, where somebody did.
    pub order: Option<Order>,
    /// Set while no session serves the worker: when it will be given up.
    pub lost_at: Option<LogTime>,
}

/// A free worker's place in the choice: lower goes first, ties by id. Set when it is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offer {
    /// How often the pool's policy had changed: a change needs no new order, since older offers go first.
    pub policy_changes: u32,
    /// Made by the policy.
    pub rank: u64,
}

/// A state with its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerState {
    /// See [`StateKind::Cleaning`].
    Cleaning(Box<Cleaning>),
    /// See [`StateKind::Ready`].
    Ready {
        /// When the receipt was accepted.
        cleaned_at: LogTime,
    },
    /// See [`StateKind::Available`].
    Available {
        /// When the receipt was accepted.
        cleaned_at: LogTime,
        /// When an idle check is owed, where the pool wants one.
        idle_check_at: Option<LogTime>,
        /// Its place among the free workers of its class.
        offer: Offer,
    },
    /// See [`StateKind::Busy`].
    Busy(Box<Lease>),
    /// See [`StateKind::Maintenance`].
    Maintenance(Box<Maintenance>),
    /// See [`StateKind::Lost`].
    Lost {
        /// When it is given up: Retired(Lost).
        give_up_at: LogTime,
    },
    /// See [`StateKind::Retired`].
    Retired {
        /// Why.
        reason: RetiredReason,
        /// When the row may be removed.
        remove_at: LogTime,
        /// The agent knows; a row is removed only then (not asked for after Lost).
        acknowledged: bool,
    },
}

impl WorkerState {
    /// The state without its data.
    pub const fn kind(&self) -> StateKind {
        match self {
            Self::Cleaning(..) => StateKind::Cleaning,
            Self::Ready { .. } => StateKind::Ready,
            Self::Available { .. } => StateKind::Available,
            Self::Busy(..) => StateKind::Busy,
            Self::Maintenance(..) => StateKind::Maintenance,
            Self::Lost { .. } => StateKind::Lost,
            Self::Retired { .. } => StateKind::Retired,
        }
    }
}

/// One worker's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub id: WorkerId,
    /// The agent that the row belongs to.
    pub agent: AgentId,
    /// The live session that serves it, if any.
    pub session: Option<SessionId>,
    /// The class (equal label sets) in its pool.
    pub class: u32,
    /// What is unique to this worker; never asked by selectors.
    pub annotations: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    /// Its state.
    pub state: WorkerState,
    /// When it entered the state.
    pub entered: Moment,
    /// The newest token drawn for it: epoch or run.
    pub token: Token,
    /// Counts changes of operator-writable fields: the etag.
    pub generation: u64,
    /// Not admitted while set.
    pub cordon: Option<Box<Order>>,
    /// A drain under way.
    pub drain: Option<Box<Drain>>,
    /// Taken instead of Ready.
    pub next: Option<Box<Next>>,
    /// An operator released the row to another agent.
    pub released: Option<Box<Order>>,
    /// When it was first registered.
    pub registered: Stamp,
    /// Leases that ended.
    pub uses: u64,
    /// When the last lease ended or, before any, when it was registered: what the choice orders by.
    pub last_used_at: LogTime,
    /// Rungs of the retry ladder climbed since the last completed lease.
    pub ladder: u32,
    /// The last run closed by a report.
    pub closed: Option<Box<ClosedRun>>,
    /// The newest return, open or ended.
    pub last_return: Token,
    /// The job and epoch of the newest lease that ended, to name it to late callers.
    pub last_lease: Option<Box<EndedLease>>,
}

/// What is remembered of the newest lease that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedLease {
    /// Its epoch.
    pub epoch: Token,
    /// Its job.
    pub job: JobId,
    /// Its secret's hash: only who held it hears how it ended.
    pub secret: SecretHash,
    /// Why it ended.
    pub cause: Cause,
    /// The return that followed.
    pub return_id: Token,
}

impl Worker {
    /// The lease, while Busy.
    pub fn lease(&self) -> Option<&Lease> {
        if let WorkerState::Busy(lease) = &self.state { Some(lease) } else { None }
    }

    /// The open run, while Cleaning.
    pub fn cleaning(&self) -> Option<&Cleaning> {
        if let WorkerState::Cleaning(cleaning) = &self.state { Some(cleaning) } else { None }
    }

    /// Busy while no session serves it.
    pub fn agent_silent(&self) -> bool {
        self.session.is_none() && self.state.kind() == StateKind::Busy
    }
}
