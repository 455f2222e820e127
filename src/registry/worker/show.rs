//! Workers in words, for logs and golden scripts.

use std::fmt;

use super::{
    Cause, MaintenanceReason, OrderedBy, RetiredReason, RunStage, StateKind, Step, StopOnly, Then, Verdict, WorkerState,
};

macro_rules! display_as_debug {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    )+};
}
display_as_debug!(StateKind, Step, Cause, RetiredReason, Then, OrderedBy, RunStage, StopOnly);

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
