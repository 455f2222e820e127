//! How a command fails: the words on stderr and the exit status.
//!
//! ```text
//! error: no worker of pools/default was free within 0ns
//! hint: ...
//! reason: NO_AVAILABLE_WORKER
//! ```
//!
//! Invariants
//! * The status follows from the reason alone, so that scripts can rely on it.
//!
//! Never here: a debug print.

use std::process::ExitCode;

use remuda_client::{Error, Outcome, WorkerReturnError};
use remuda_wire::reasons;
use tonic::Code;

/// Anything that has no status of its own.
pub(crate) const OTHER: u8 = 1;
/// The command line or a file named by it is wrong.
pub(crate) const USAGE: u8 = 2;
/// What was named does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// It is in another state, or was changed by another.
pub(crate) const CONFLICT: u8 = 4;
/// No worker is free, or the cluster is full.
pub(crate) const NO_CAPACITY: u8 = 5;
/// Not known, or not permitted.
pub(crate) const AUTH: u8 = 6;
/// No leader, or nobody answers; nothing happened.
pub(crate) const UNREACHABLE: u8 = 7;
/// Time was over, and it may have happened.
pub(crate) const UNKNOWN: u8 = 8;
/// It answers and is not well.
pub(crate) const UNHEALTHY: u8 = 10;
/// Ended by a signal.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The cluster, an agent or the way there.
    Call(Error),
    /// A return that did not end well.
    Return(WorkerReturnError),
    /// The caller's words.
    Usage(String),
    /// Nothing of that name, as this command found.
    NotFound(String),
    /// It answered, and is not well.
    Unhealthy(String),
    /// A signal came.
    Interrupted,
    /// Nobody reads our results any more; the rest is not wanted.
    Unread,
    /// Anything else.
    Other(String),
}

impl Failure {
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Call(error) => of_error(error),
            Self::Return(error) => match error {
                WorkerReturnError::NotHeld { .. } | WorkerReturnError::Stale(_) => CONFLICT,
                WorkerReturnError::Maintenance { .. } | WorkerReturnError::Lost { .. } => UNHEALTHY,
                WorkerReturnError::Unfinished { .. } => UNKNOWN,
                WorkerReturnError::Refused(error) => of_error(error),
            },
            Self::Usage(_) => USAGE,
            Self::NotFound(_) => NOT_FOUND,
            Self::Unhealthy(_) => UNHEALTHY,
            Self::Interrupted => INTERRUPTED,
            Self::Unread => 0,
            Self::Other(_) => OTHER,
        }
    }

    /// Says it on stderr; gives the exit status.
    pub(crate) fn tell(&self) -> ExitCode {
        self.say();
        ExitCode::from(self.status())
    }

    /// Says it on stderr.
    pub(crate) fn say(&self) {
        match self {
            Self::Call(error) => say_error(error),
            Self::Return(WorkerReturnError::Stale(error) | WorkerReturnError::Refused(error)) => say_error(error),
            Self::Return(error) => {
                eprintln!("error: {error}");
                if let WorkerReturnError::Unfinished { return_name, committed, last } = error {
                    let state = if *committed { "it goes on" } else { "it may go on" };
                    eprintln!("hint: {state}; `remuda returns get {return_name}` tells how it ends");
                    eprintln!("reason: {}", last.reason());
                }
                if let WorkerReturnError::Maintenance { reason, .. } = error {
                    eprintln!("reason: {reason}");
                }
            }
            Self::Usage(message) => {
                eprintln!("error: {message}");
                eprintln!("hint: see `remuda --help`");
            }
            Self::NotFound(message) | Self::Unhealthy(message) | Self::Other(message) => eprintln!("error: {message}"),
            Self::Interrupted => eprintln!("error: interrupted"),
            Self::Unread => {}
        }
    }
}

fn say_error(error: &Error) {
    eprintln!("error: {}", error.message());
    for violation in error.violations() {
        eprintln!("  {}: {}", violation.field, violation.description);
    }
    if let Some(hint) = hint(error) {
        eprintln!("hint: {hint}");
    }
    eprintln!("reason: {}", error.reason());
}

/// Reasons that are given on this side of the connection: name, meaning and remedy.
pub(crate) const OWN: [(&str, &str, &str); 3] = [
    (
        "UNREACHABLE",
        "No replica could be reached.",
        "Is the cluster running, and does --endpoints or REMUDA_ENDPOINTS name its client endpoints?",
    ),
    (
        "TRANSPORT",
        "Something on the way answered instead of a replica.",
        "Does --endpoints or REMUDA_ENDPOINTS name client endpoints, not those of peers or operators?",
    ),
    ("BAD_ANSWER", "An answer lacked what it must have.", "Compare the versions of this command and of the replicas."),
];

fn hint(error: &Error) -> Option<&'static str> {
    if ["STALE_LEASE", "WRONG_SECRET"].contains(&error.reason()) {
        return Some("without the lease's file an operator uses `remuda worker drain --now`");
    }
    let own = OWN.iter().find(|(name, ..)| error.is(name)).map(|(.., remedy)| *remedy);
    own.or_else(|| reasons::find(error.reason()).map(|reason| reason.remedy))
}

fn of_error(error: &Error) -> u8 {
    match error.code() {
        Code::NotFound => NOT_FOUND,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted | Code::OutOfRange => CONFLICT,
        Code::ResourceExhausted => NO_CAPACITY,
        Code::Unauthenticated | Code::PermissionDenied => AUTH,
        Code::InvalidArgument => USAGE,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => match error.outcome() {
            Outcome::Absent => UNREACHABLE,
            Outcome::Unknown => UNKNOWN,
        },
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => OTHER,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl From<WorkerReturnError> for Failure {
    fn from(error: WorkerReturnError) -> Self {
        Self::Return(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_follow_from_code_and_outcome() {
        let status = |code, outcome| Failure::Call(Error::own("X", code, outcome, "x")).status();
        assert_eq!(status(Code::NotFound, Outcome::Absent), 3);
        assert_eq!(status(Code::FailedPrecondition, Outcome::Absent), 4);
        assert_eq!(status(Code::AlreadyExists, Outcome::Absent), 4);
        assert_eq!(status(Code::ResourceExhausted, Outcome::Absent), 5);
        assert_eq!(status(Code::PermissionDenied, Outcome::Absent), 6);
        assert_eq!(status(Code::Unavailable, Outcome::Absent), 7);
        assert_eq!(status(Code::Unavailable, Outcome::Unknown), 8);
        assert_eq!(status(Code::DeadlineExceeded, Outcome::Unknown), 8);
        assert_eq!(status(Code::InvalidArgument, Outcome::Absent), 2);
        assert_eq!(status(Code::Internal, Outcome::Unknown), 1);
        assert_eq!(Failure::Interrupted.status(), 130);
        assert_eq!(Failure::Unhealthy(String::new()).status(), 10);
    }

    #[test]
    fn a_return_fails_by_how_it_ended() {
        let maintenance = WorkerReturnError::Maintenance {
            return_name: "r".into(),
            reason: "DISK_LOW".into(),
            evidence: String::new(),
        };
        assert_eq!(Failure::Return(maintenance).status(), 10);
        let stale = Error::own("STALE_LEASE", Code::FailedPrecondition, Outcome::Absent, "x");
        assert_eq!(Failure::Return(WorkerReturnError::Stale(stale)).status(), 4);
    }
}
