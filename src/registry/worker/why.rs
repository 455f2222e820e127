//! Why a worker is where it is: causes of Cleaning, reasons of Maintenance and of Retired.
//!
//! They are types and not words, so that a figure, an alarm and a retry decide by them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a worker is being cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// It was registered.
    Joined,
    /// Its holder returned it.
    Returned,
    /// Its lease ran out.
    LeaseExpired,
    /// A drain's deadline ended its lease.
    Drained,
    /// An operator ended its lease at once.
    Revoked,
    /// Its host started again.
    Rebooted,
    /// Its receipt was too old when it would have been admitted.
    StaleReceipt,
    /// It stood free for long.
    IdleCheck,
    /// Another worker of its host left something behind that both share.
    SharedResidue,
    /// The pool's ladder tries again.
    Retry,
    /// An operator sent it back.
    Resumed,
    /// Its agent came back.
    Reconnected,
}

/// Why a worker is in maintenance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MaintenanceReason {
    /// Free disk space is below a threshold.
    DiskLow,
    /// Free inodes are below the threshold.
    InodesLow,
    /// Available memory is below the threshold.
    MemoryLow,
    /// Pressure or runnable tasks are above the pool's threshold.
    LoadHigh,
    /// The host's clock is off by more than the threshold.
    ClockSkew,
    /// A probe did not pass.
    ProbeFailed {
        /// The probe's name in the plan.
        name: Arc<str>,
    },
    /// Processes were observed after the stop.
    LeftoverProcesses,
    /// Files were observed after removal.
    LeftoverFiles,
    /// Mounts were observed after removal.
    LeftoverMounts,
    /// No report in time, attempts spent.
    CleaningTimedOut,
    /// A step failed or lacked its post-condition, attempts spent.
    CleaningFailed {
        /// The first step that failed.
        step: Arc<str>,
    },
    /// The holder returned it as broken.
    DeclaredBroken,
    /// Held for inspection.
    Held,
    /// An operator asked for it.
    Operator,
}

/// Why a worker is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RetiredReason {
    /// An operator asked for it.
    Operator,
    /// A limit of reuse was reached.
    Spent,
    /// Its agent stayed away.
    Lost,
}
