//! Cleaning: the open run of a return, and how runs are closed.
//!
//! Invariants
//! * A run is a fencing token; an attempt counts and never fences.

use serde::{Deserialize, Serialize};

use super::{Cause, MaintenanceReason, StateKind};
use crate::id::{JobId, Token};
use crate::lease::JobOutcome;
use crate::time::{LogTime, Moment};

/// How far the agent says it is with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RunStage {
    /// The agent has not taken it on.
    Assigned,
    /// It waits in the agent.
    Queued,
    /// It is being worked on.
    Started,
}

/// The data of Cleaning: one open run of one return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaning {
    /// The return that this run belongs to: the token of its first run.
    pub return_id: Token,
    /// The fencing token of the open run.
    pub run: Token,
    /// How many runs this Cleaning has used, from 1; counts, never fences.
    pub attempt: u32,
    /// How often a new session replaced the open run within this Cleaning.
    pub replaced: u32,
    /// Why it is cleaned.
    pub cause: Cause,
    /// The epoch of the lease that ended here, if one did.
    pub epoch: Option<Token>,
    /// The pool generation whose plan and thresholds are frozen for this run.
    pub generation: u64,
    /// The plan is cut to its stop step (broken, held).
    pub stop_only: Option<StopOnly>,
    /// How far the agent is.
    pub stage: RunStage,
    /// When the run is late.
    pub deadline: LogTime,
    /// The agent must not start before (backoff).
    pub not_before: LogTime,
    /// When this run was assigned.
    pub assigned: Moment,
    /// When the agent said that it is queued.
    pub queued: Option<Moment>,
    /// When the agent said that it started.
    pub started: Option<Moment>,
    /// When the return began.
    pub began: Moment,
    /// The job of the lease that ended here, if one did.
    pub job: Option<JobId>,
    /// How its holder judged the worker.
    pub outcome: Option<JobOutcome>,
}

/// Why a plan is cut to its stop step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StopOnly {
    /// The holder declared the worker broken.
    Broken,
    /// An operator holds the worker.
    Held,
}

/// How a closed run was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Clean and healthy.
    Clean,
    /// A step failed or lacked its post-condition.
    Unclean(MaintenanceReason),
    /// Clean, but a measure or a check is bad.
    Unhealthy(MaintenanceReason),
    /// The stop step of a cut plan is done.
    Stopped,
    /// No report in time.
    TimedOut,
    /// A new session replaced the run.
    Replaced,
    /// The worker was lost while the run was open.
    Lost,
    /// An operator took the worker out while the run was open.
    Overtaken,
}

/// The last run that was closed by a report: lets the same report have the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedRun {
    /// The run.
    pub run: Token,
    /// Hash of the receipt's encoding.
    pub receipt: [u8; 16],
    /// The answer that was given.
    pub verdict: Verdict,
    /// The state that the report led to (before admission).
    pub to: StateKind,
}
