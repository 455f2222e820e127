//! A refusal without its data: what an outcome row keeps of it.

use serde::{Deserialize, Serialize};

use super::Refusal;

/// A refusal without its data: what an outcome row keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each names the refusal that documents it")]
pub enum RefusalCode {
    NotBootstrapped,
    AlreadyBootstrapped,
    Diverged,
    Invalid,
    PoolNotFound,
    PoolExists,
    PoolNotEmpty,
    PoolDeleted,
    EtagMismatch,
    WorkerNotFound,
    WrongState,
    StaleToken,
    NotDue,
    AlreadyRegistered,
    WorkerRetired,
    AgentKeyMismatch,
    AgentDuplicated,
    StaleIncarnation,
    SessionEnded,
    TooManyClasses,
    NoAvailableWorker,
    QueueFull,
    LeaseEnded,
    StaleLease,
    Interrupted,
    StaleRun,
    ReceiptConflict,
    RunBacksOff,
    WaiterNotFound,
    WaiterDropped,
    WaiterExpired,
    RequestCancelled,
    RequestTooOld,
    RequestIdReused,
    WindowTooLong,
    TooManyOutcomes,
    DigestNotWanted,
    FeatureLevel,
    NothingOwed,
}

impl Refusal {
    /// The refusal without its data.
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::NotBootstrapped => RefusalCode::NotBootstrapped,
            Self::AlreadyBootstrapped => RefusalCode::AlreadyBootstrapped,
            Self::Diverged { .. } => RefusalCode::Diverged,
            Self::Invalid { .. } => RefusalCode::Invalid,
            Self::PoolNotFound { .. } => RefusalCode::PoolNotFound,
            Self::PoolExists { .. } => RefusalCode::PoolExists,
            Self::PoolNotEmpty { .. } => RefusalCode::PoolNotEmpty,
            Self::PoolDeleted { .. } => RefusalCode::PoolDeleted,
            Self::EtagMismatch { .. } => RefusalCode::EtagMismatch,
            Self::WorkerNotFound { .. } => RefusalCode::WorkerNotFound,
            Self::WrongState { .. } => RefusalCode::WrongState,
            Self::StaleToken { .. } => RefusalCode::StaleToken,
            Self::NotDue { .. } => RefusalCode::NotDue,
            Self::AlreadyRegistered { .. } => RefusalCode::AlreadyRegistered,
            Self::WorkerRetired { .. } => RefusalCode::WorkerRetired,
            Self::AgentKeyMismatch { .. } => RefusalCode::AgentKeyMismatch,
            Self::AgentDuplicated { .. } => RefusalCode::AgentDuplicated,
            Self::StaleIncarnation { .. } => RefusalCode::StaleIncarnation,
            Self::SessionEnded { .. } => RefusalCode::SessionEnded,
            Self::TooManyClasses { .. } => RefusalCode::TooManyClasses,
            Self::NoAvailableWorker { .. } => RefusalCode::NoAvailableWorker,
            Self::QueueFull { .. } => RefusalCode::QueueFull,
            Self::LeaseEnded { .. } => RefusalCode::LeaseEnded,
            Self::StaleLease { .. } => RefusalCode::StaleLease,
            Self::Interrupted { .. } => RefusalCode::Interrupted,
            Self::StaleRun { .. } => RefusalCode::StaleRun,
            Self::ReceiptConflict { .. } => RefusalCode::ReceiptConflict,
            Self::RunBacksOff { .. } => RefusalCode::RunBacksOff,
            Self::WaiterNotFound { .. } => RefusalCode::WaiterNotFound,
            Self::WaiterDropped { .. } => RefusalCode::WaiterDropped,
            Self::WaiterExpired { .. } => RefusalCode::WaiterExpired,
            Self::RequestCancelled { .. } => RefusalCode::RequestCancelled,
            Self::RequestTooOld { .. } => RefusalCode::RequestTooOld,
            Self::RequestIdReused { .. } => RefusalCode::RequestIdReused,
            Self::WindowTooLong { .. } => RefusalCode::WindowTooLong,
            Self::TooManyOutcomes { .. } => RefusalCode::TooManyOutcomes,
            Self::RefusedBefore { code, .. } => *code,
            Self::DigestNotWanted { .. } => RefusalCode::DigestNotWanted,
            Self::FeatureLevel { .. } => RefusalCode::FeatureLevel,
            Self::NothingOwed => RefusalCode::NothingOwed,
        }
    }
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}
