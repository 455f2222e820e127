//! What a call that did not succeed says: a typed reason, words for people, and whether it may have had an effect.
//!
//! Replicas send a `google.rpc.ErrorInfo` of domain `remuda` with every error; its reason is what programs decide by,
//! never the message. An error without one was made on the way (no connection, a broken stream, a proxy) and gets one
//! of this crate's own reasons below.
//!
//! Invariants
//! * [`Outcome::Absent`] is said only where no attempt of the call can have had an effect.
//!
//! Never here: deciding whether to try again, see `retry.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The domain of every reason that a replica or an agent gives.
pub const DOMAIN: &str = "remuda";

/// Reasons that this library gives itself; all others come from the cluster.
pub mod reason {
    /// No replica could be reached.
    pub const UNREACHABLE: &str = "UNREACHABLE";
    /// The call's time was over before an answer came.
    pub const DEADLINE_PASSED: &str = "DEADLINE_PASSED";
    /// Something on the way answered instead of a replica.
    pub const TRANSPORT: &str = "TRANSPORT";
    /// What the caller gave cannot be sent: an endpoint, a name or an id of the wrong form.
    pub const INVALID_FIELD: &str = "INVALID_FIELD";
    /// An answer lacked what it must have.
    pub const BAD_ANSWER: &str = "BAD_ANSWER";
    /// The wait of an acquire was over before a worker was free.
    pub const NO_AVAILABLE_WORKER: &str = "NO_AVAILABLE_WORKER";
}

/// Whether a failed call may have had an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It had none and will have none.
    Absent,
    /// It may have happened, or may still happen.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Absent => "absent",
            Outcome::Unknown => "unknown",
        })
    }
}

/// A call that did not succeed.
#[derive(Clone)]
pub struct Error(Box<Facts>);

#[derive(Clone)]
struct Facts {
    reason: String,
    message: String,
    code: Code,
    outcome: Outcome,
    metadata: BTreeMap<String, String>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    /// Whether a replica or an agent said so, with an `ErrorInfo`.
    said: bool,
}

/// A field of a request that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl Error {
    /// An error of this library's own making.
    pub fn own(reason: &str, code: Code, outcome: Outcome, message: impl Into<String>) -> Self {
        Self(Box::new(Facts {
            reason: reason.to_owned(),
            message: message.into(),
            code,
            outcome,
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: None,
            said: false,
        }))
    }

    /// What the caller gave is of the wrong form.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::own(reason::INVALID_FIELD, Code::InvalidArgument, Outcome::Absent, message)
    }

    /// An answer lacks what it must have.
    pub(crate) fn bad_answer(what: &str) -> Self {
        Self::own(reason::BAD_ANSWER, Code::Internal, Outcome::Unknown, format!("the answer has no {what}"))
    }

    /// Reads what came back instead of an answer.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|i| i.domain == DOMAIN);
        let metadata: BTreeMap<_, _> = info.map(|i| i.metadata.clone().into_iter().collect()).unwrap_or_default();
        let outcome = match metadata.get("outcome").map(String::as_str) {
            Some("absent") => Outcome::Absent,
            Some(_) => Outcome::Unknown,
            None if connect_failed(status) => Outcome::Absent,
            None => outcome_by_code(status.code()),
        };
        let violations = details.bad_request().map(|b| b.field_violations.as_slice()).unwrap_or_default();
        let own_reason = || if connect_failed(status) { reason::UNREACHABLE } else { reason_by_code(status.code()) };
        Self(Box::new(Facts {
            reason: info.map_or_else(|| own_reason().to_owned(), |i| i.reason.clone()),
            message: message_of(status),
            code: status.code(),
            outcome,
            metadata,
            violations: violations
                .iter()
                .map(|v| Violation { field: v.field.clone(), description: v.description.clone() })
                .collect(),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
            said: info.is_some(),
        }))
    }

    /// The typed reason, such as `NO_AVAILABLE_WORKER`.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// Whether this is the reason.
    pub fn is(&self, reason: &str) -> bool {
        self.0.reason == reason
    }

    /// The words for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Whether the call may have had an effect.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// A fact that belongs to the reason, such as `current_token`.
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.0.metadata.get(key).map(String::as_str)
    }

    /// All facts that belong to the reason.
    pub fn facts(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// Every field that was not as it must be.
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// How long the cluster asks to wait before another try.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether a replica or an agent gave this error, and not something on the way.
    pub fn said_by_cluster(&self) -> bool {
        self.0.said
    }

    /// The same error with what is known of the effect of the whole call.
    #[must_use]
    pub(crate) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }
}

/// A connection could not be made, so that nothing was sent.
fn connect_failed(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// tonic keeps the cause of a failed transport out of the message; people need it.
fn message_of(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let word = error.to_string();
        if !text.contains(&word) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&word);
        }
        source = error.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}

fn outcome_by_code(code: Code) -> Outcome {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Aborted
        | Code::ResourceExhausted => Outcome::Absent,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Outcome::Unknown,
    }
}

fn reason_by_code(code: Code) -> &'static str {
    match code {
        Code::DeadlineExceeded | Code::Cancelled => reason::DEADLINE_PASSED,
        Code::Unavailable => reason::UNREACHABLE,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => reason::TRANSPORT,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, effect {})", self.0.message, self.0.reason, self.0.outcome)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("reason", &self.0.reason)
            .field("message", &self.0.message)
            .field("code", &self.0.code)
            .field("outcome", &self.0.outcome)
            .field("facts", &self.0.metadata)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_reason_of_the_domain_is_taken_with_its_facts() {
        let mut details = ErrorDetails::new();
        let facts = HashMap::from([("outcome".to_owned(), "absent".to_owned()), ("pool".to_owned(), "ci".to_owned())]);
        details.set_error_info("NO_LEADER", DOMAIN, facts).set_retry_info(Some(Duration::from_millis(70)));
        let error = Error::from_status(&Status::with_error_details(Code::Unavailable, "no leader", details));
        assert!(error.is("NO_LEADER") && error.said_by_cluster());
        assert_eq!(error.outcome(), Outcome::Absent);
        assert_eq!(error.fact("pool"), Some("ci"));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(70)));
    }

    #[test]
    fn another_domain_is_not_believed() {
        let mut details = ErrorDetails::new();
        details.set_error_info("NO_LEADER", "elsewhere", HashMap::from([("outcome".to_owned(), "absent".to_owned())]));
        let error = Error::from_status(&Status::with_error_details(Code::Unavailable, "?", details));
        assert!(!error.said_by_cluster());
        assert_eq!(error.outcome(), Outcome::Unknown);
    }

    #[test]
    fn without_details_the_code_decides() {
        assert_eq!(Error::from_status(&Status::internal("x")).outcome(), Outcome::Unknown);
        assert_eq!(Error::from_status(&Status::not_found("x")).outcome(), Outcome::Absent);
    }
}
