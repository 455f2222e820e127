//! A worker: its row, its seven states, and the one table of legal transitions.
//!
//! ```text
//!   register ─┐   resume ─┐   reconnect ─┐
//!             v           v              v
//!         Cleaning ──clean and healthy──> Ready ──admit──> Available ──acquire──> Busy ──ended──> Cleaning
//!            └──attempts spent or unhealthy──> Maintenance ──retry, resume──> Cleaning
//!   Cleaning, Ready, Available ──silence──> Lost ──reconnect──> Cleaning        any but Busy ──retire──> Retired
//! ```
//!
//! Invariants
//! * Every change of state goes through [`next`]; what it does not list never happens.
//! * Only `Admit` leads to Available, only from Ready, and only `Pass` leads to Ready from Cleaning.
//!
//! Never here: who may ask for a step, and what it costs; that is `apply`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, JobId, SecretHash, SessionId, Token, WorkerId};
use crate::lease::{JobOutcome, Lease};
use crate::time::{LogTime, Moment, Stamp};

/// The seven states without their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StateKind {
    /// The agent owes a report.
    Cleaning,
    /// Clean and healthy; the coordinator owes admission, unless a cordon rests it here.
    Ready,
    /// Free.
    Available,
    /// Leased; the holder owes a renewal or the return.
    Busy,
    /// Out of use until an operator or the retry ladder acts.
    Maintenance,
    /// Its agent fell silent; the agent owes a new session.
    Lost,
    /// Out of use for ever.
    Retired,
}

/// What may be done to a worker; with the state before it decides the state after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Step {
    /// Its agent registers it again: Retired(Lost), or Lost and released to another agent.
    Register,
    /// A lease begins.
    Acquire,
    /// The lease ends: returned, expired, drained or revoked.
    EndLease,
    /// A clean and healthy receipt.
    Pass,
    /// A run was late or failed and attempts are left: a new run.
    Rerun,
    /// Its agent's new session replaces the open run by a new one.
    Replace,
    /// Attempts are spent, or the worker is unhealthy, declared broken or held.
    Fail,
    /// Clean, but a limit of reuse is reached.
    Spend,
    /// The coordinator offers it.
    Admit,
    /// A cordon takes it out of the offer.
    Withhold,
    /// It must be cleaned and checked anew: stale receipt, idle check, shared residue, reboot.
    Recheck,
    /// Its agent's session ended.
    Silence,
    /// Its agent opened a new session.
    Reconnect,
    /// The pool's ladder tries it again.
    Retry,
    /// An operator sends it back.
    Resume,
    /// An operator puts it in maintenance.
    Maintain,
    /// An operator retires it.
    Retire,
    /// Nobody came back within `lost.retention`.
    GiveUp,
}

impl StateKind {
    /// All states in the order of a worker's life.
    pub const ALL: [Self; 7] =
        [Self::Cleaning, Self::Ready, Self::Available, Self::Busy, Self::Maintenance, Self::Lost, Self::Retired];
    /// The state in which a newly registered worker starts: there is one door.
    pub const BORN: Self = Self::Cleaning;
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 18] = [
        Self::Register,
        Self::Acquire,
        Self::EndLease,
        Self::Pass,
        Self::Rerun,
        Self::Replace,
        Self::Fail,
        Self::Spend,
        Self::Admit,
        Self::Withhold,
        Self::Recheck,
        Self::Silence,
        Self::Reconnect,
        Self::Retry,
        Self::Resume,
        Self::Maintain,
        Self::Retire,
        Self::GiveUp,
    ];
}

/// The transition table: where `step` leads from `from`, or `None` where it is not legal.
pub const fn next(from: StateKind, step: Step) -> Option<StateKind> {
    use StateKind::{Available, Busy, Cleaning, Lost, Maintenance, Ready, Retired};
    match (from, step) {
        (Lost | Retired, Step::Register) => Some(Cleaning),
        (Cleaning | Ready | Available | Busy | Maintenance, Step::Register) => None,

        (Available, Step::Acquire) => Some(Busy),
        (Cleaning | Ready | Busy | Maintenance | Lost | Retired, Step::Acquire) => None,

        (Busy, Step::EndLease) => Some(Cleaning),
        (Cleaning | Ready | Available | Maintenance | Lost | Retired, Step::EndLease) => None,

        (Cleaning, Step::Pass) => Some(Ready),
        (Ready | Available | Busy | Maintenance | Lost | Retired, Step::Pass) => None,

        (Cleaning, Step::Rerun | Step::Replace) => Some(Cleaning),
        (Ready | Available | Busy | Maintenance | Lost | Retired, Step::Rerun | Step::Replace) => None,

        (Cleaning, Step::Fail) => Some(Maintenance),
        (Ready | Available | Busy | Maintenance | Lost | Retired, Step::Fail) => None,

        (Cleaning, Step::Spend) => Some(Retired),
        (Ready | Available | Busy | Maintenance | Lost | Retired, Step::Spend) => None,

        (Ready, Step::Admit) => Some(Available),
        (Cleaning | Available | Busy | Maintenance | Lost | Retired, Step::Admit) => None,

        (Available, Step::Withhold) => Some(Ready),
        (Cleaning | Ready | Busy | Maintenance | Lost | Retired, Step::Withhold) => None,

        (Ready | Available, Step::Recheck) => Some(Cleaning),
        (Cleaning | Busy | Maintenance | Lost | Retired, Step::Recheck) => None,

        (Cleaning | Ready | Available, Step::Silence) => Some(Lost),
        (Busy | Maintenance | Lost | Retired, Step::Silence) => None,

        (Lost, Step::Reconnect) => Some(Cleaning),
        (Cleaning | Ready | Available | Busy | Maintenance | Retired, Step::Reconnect) => None,

        (Maintenance, Step::Retry | Step::Resume) => Some(Cleaning),
        (Cleaning | Ready | Available | Busy | Lost | Retired, Step::Retry | Step::Resume) => None,

        (Cleaning | Ready | Available | Maintenance | Lost, Step::Maintain) => Some(Maintenance),
        (Busy | Retired, Step::Maintain) => None,

        (Cleaning | Ready | Available | Maintenance | Lost, Step::Retire) => Some(Retired),
        (Busy | Retired, Step::Retire) => None,

        (Maintenance | Lost, Step::GiveUp) => Some(Retired),
        (Cleaning | Ready | Available | Busy | Retired, Step::GiveUp) => None,
    }
}

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

/// What an operator wants after the lease or the cleaning, instead of Ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Then {
    /// Rest in Ready (a drain's default).
    Ready,
    /// Go to Maintenance(Operator).
    Maintenance,
    /// Go to Retired(Operator).
    Retired,
    /// Stop the job only, then Maintenance(Held).
    Held,
}

/// An operator's signature under what they asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Who asked.
    pub actor: Arc<str>,
    /// Why, in their words.
    pub reason: Arc<str>,
    /// When.
    pub at: LogTime,
}

/// Cordon, deadline and what comes after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The lease ends here; renewals never pass it.
    pub deadline: LogTime,
    /// By whom and why.
    pub order: Order,
}

/// What an order of what comes next belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OrderedBy {
    /// An operator's own order.
    Operator,
    /// A drain, with which it is taken back.
    Drain,
    /// The holder declared the worker broken, and it was lost before it could be stopped.
    Holder,
}

/// Taken instead of Ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// Where to go.
    pub then: Then,
    /// What it belongs to.
    pub by: OrderedBy,
    /// By whom and why.
    pub order: Order,
}

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

macro_rules! display_as_debug {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    )+};
}
display_as_debug!(StateKind, Step, Cause, RetiredReason, Then, RunStage, StopOnly);

impl fmt::Display for MaintenanceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProbeFailed { name } => write!(f, "ProbeFailed({name})"),
            Self::CleaningFailed { step } => write!(f, "CleaningFailed({step})"),
            Self::DiskLow
            | Self::InodesLow
            | Self::MemoryLow
            | Self::LoadHigh
            | Self::ClockSkew
            | Self::LeftoverProcesses
            | Self::LeftoverFiles
            | Self::LeftoverMounts
            | Self::CleaningTimedOut
            | Self::DeclaredBroken
            | Self::Held
            | Self::Operator => fmt::Debug::fmt(self, f),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclean(reason) => write!(f, "Unclean({reason})"),
            Self::Unhealthy(reason) => write!(f, "Unhealthy({reason})"),
            Self::Clean | Self::Stopped | Self::TimedOut | Self::Replaced | Self::Lost | Self::Overtaken => {
                fmt::Debug::fmt(self, f)
            }
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cleaning(c) => {
                write!(f, "Cleaning run={} attempt={} cause={} {}", c.run, c.attempt, c.cause, c.stage)?;
                write!(f, " deadline={}", c.deadline)
            }
            Self::Ready { cleaned_at } => write!(f, "Ready cleaned_at={cleaned_at}"),
            Self::Available { cleaned_at, .. } => write!(f, "Available cleaned_at={cleaned_at}"),
            Self::Busy(lease) => lease.fmt(f),
            Self::Maintenance(m) => {
                write!(f, "Maintenance reason={}", m.reason)?;
                m.retry_at.map_or(Ok(()), |at| write!(f, " retry_at={at}"))
            }
            Self::Lost { give_up_at } => write!(f, "Lost give_up_at={give_up_at}"),
            Self::Retired { reason, .. } => write!(f, "Retired reason={reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_door() {
        for from in StateKind::ALL {
            for step in Step::ALL {
                match next(from, step) {
                    Some(StateKind::Available) => assert_eq!((from, step), (StateKind::Ready, Step::Admit)),
                    Some(StateKind::Ready) => assert!(matches!(
                        (from, step),
                        (StateKind::Cleaning, Step::Pass) | (StateKind::Available, Step::Withhold)
                    )),
                    Some(StateKind::Busy) => assert_eq!((from, step), (StateKind::Available, Step::Acquire)),
                    Some(_) | None => {}
                }
            }
        }
    }

    #[test]
    fn nothing_but_the_end_of_its_lease_takes_a_busy_worker_away() {
        for step in Step::ALL {
            assert_eq!(next(StateKind::Busy, step).is_some(), step == Step::EndLease, "{step}");
        }
    }
}
