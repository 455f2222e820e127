//! A worker: its seven states and the one table of legal transitions; below it its row and what the row is made of.
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

mod order;
mod row;
mod run;
mod show;
mod why;

use serde::{Deserialize, Serialize};

pub use order::{Drain, Next, Order, OrderedBy, Then};
pub use row::{EndedLease, Maintenance, Offer, Worker, WorkerState};
pub use run::{Cleaning, ClosedRun, RunStage, StopOnly, Verdict};
pub use why::{Cause, MaintenanceReason, RetiredReason};

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
