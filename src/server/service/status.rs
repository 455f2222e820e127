//! Errors as gRPC has them: the only file that picks codes and details.
//!
//! What went wrong becomes a [`Failure`] with a row of the table in `wire::reasons`; [`Failure::status`] writes it down
//! with everything that a caller may act on. Every error says where and when it was made, who leads, and whether the
//! effect is absent or unknown.
//!
//! Never here: deciding that something failed.

use std::collections::HashMap;
use std::time::Duration;

use remuda_registry::refusal::Refusal;
use remuda_wire::convert::{Violations, word};
use remuda_wire::name;
use remuda_wire::reasons::{self, DOMAIN, Effect, Reason};
use remuda_wire::v1::ResponseHeader;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

use crate::propose::{LeaderHint, ProposeError};
use crate::raft::ReadError;

/// Something that a call is refused for.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The row of the table.
    pub reason: &'static Reason,
    /// For people; its dynamic parts are in `metadata` too.
    pub message: String,
    /// Whether the effect can have happened.
    pub unknown: bool,
    metadata: Vec<(&'static str, String)>,
    violations: Vec<FieldViolation>,
    resource: Option<(&'static str, String)>,
    hint: Option<LeaderHint>,
}

impl Failure {
    /// A failure for `reason`.
    pub fn new(reason: &'static Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            unknown: reason.effect == Effect::Unknown,
            metadata: Vec::new(),
            violations: Vec::new(),
            resource: None,
            hint: None,
        }
    }

    /// With a dynamic part.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// About this resource.
    #[must_use]
    pub fn about(mut self, kind: &'static str, name: String) -> Self {
        self.resource = Some((kind, name));
        self
    }

    /// The effect may have happened.
    #[must_use]
    pub fn perhaps(mut self) -> Self {
        self.unknown = true;
        self
    }

    /// The deadline passed; `unknown` where a command had been handed over.
    pub fn deadline(unknown: bool) -> Self {
        let mut failure = Self::new(reasons::DEADLINE_PASSED, "the call's deadline passed");
        failure.unknown = unknown;
        failure
    }

    /// The status, as made at the place that `header` describes.
    pub fn status(self, header: &ResponseHeader) -> Status {
        let reason = self.reason;
        let (leader, leader_term) = match &self.hint {
            Some(hint) if hint.term >= header.leader_term => (hint.client.as_str(), hint.term),
            Some(_) | None => (header.leader_endpoint.as_str(), header.leader_term),
        };
        let mut metadata: HashMap<String, String> =
            self.metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        for (key, value) in [
            ("outcome", if self.unknown { "unknown" } else { "absent" }.to_owned()),
            ("cluster_id", header.cluster_id.clone()),
            ("revision", header.revision.to_string()),
            ("term", header.term.to_string()),
            ("served_by", header.served_by.to_string()),
            ("leader_endpoint", leader.to_owned()),
            ("leader_term", leader_term.to_string()),
            ("log_time_ms", header.log_time_ms.to_string()),
        ] {
            metadata.insert(key.to_owned(), value);
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(reason.name, DOMAIN, metadata);
        if reason.retry_after_ms > 0 {
            details.set_retry_info(Some(Duration::from_millis(reason.retry_after_ms)));
        }
        if !self.violations.is_empty() {
            details.set_bad_request(self.violations);
        }
        let (kind, resource) = self.resource.unwrap_or_default();
        if reason.code == Code::FailedPrecondition {
            details.set_precondition_failure([PreconditionViolation::new(reason.name, &resource, &self.message)]);
        }
        if !resource.is_empty() {
            details.set_resource_info(kind, resource, "", &self.message);
        }
        details.add_help_link(reason.remedy, format!("remuda:explain/{}", reason.name));
        Status::with_error_details(reason.code, self.message, details)
    }
}

impl From<Violations> for Failure {
    fn from(found: Violations) -> Self {
        let fields: Vec<&str> = found.0.iter().map(|violation| violation.field.as_str()).collect();
        let mut failure = Self::new(reasons::INVALID_FIELD, format!("not allowed: {}", fields.join(", ")));
        let violation = |v: &remuda_wire::convert::FieldViolation| FieldViolation::new(&v.field, &v.description);
        failure.violations = found.0.iter().map(violation).collect();
        failure.with("fields", fields.join(","))
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        let message = error.to_string();
        match error {
            ProposeError::NoLeader { hint } => {
                let mut failure = Self::new(reasons::NO_LEADER, message);
                failure.hint = hint;
                failure
            }
            ProposeError::NotAccepted { .. } => Self::new(reasons::NOT_ACCEPTED, message),
            ProposeError::Unknown { .. } => Self::new(reasons::OUTCOME_UNKNOWN, message),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::NoLeader { hint } => {
                let mut failure = Self::new(reasons::NO_LEADER, message);
                failure.hint = hint;
                failure
            }
            ReadError::Deadline => Self::new(reasons::LOG_BEHIND, message),
            ReadError::Stopping => Self::new(reasons::SHUTTING_DOWN, message),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let failure = Self::new(reasons::of_refusal(refusal.code()), refusal.to_string());
        detailed(failure, refusal)
    }
}

/// Adds what the refusal carries.
fn detailed(failure: Failure, refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Invalid { violations } => {
            let mut failure = failure;
            failure.violations =
                violations.iter().map(|violation| FieldViolation::new(&violation.field, &violation.why)).collect();
            failure
        }
        Refusal::PoolNotFound { pool } | Refusal::PoolExists { pool } | Refusal::PoolDeleted { pool } => {
            failure.about("remuda.v1.Pool", name::pool_name(&pool))
        }
        Refusal::PoolNotEmpty { pool, workers } => {
            failure.about("remuda.v1.Pool", name::pool_name(&pool)).with("workers", workers)
        }
        Refusal::NoAvailableWorker { pool, selector, waiting } => {
            let failure = failure.about("remuda.v1.Pool", name::pool_name(&pool));
            failure.with("selector", selector).with("waiting", waiting)
        }
        Refusal::QueueFull { pool, limit } | Refusal::TooManyClasses { pool, limit } => {
            failure.about("remuda.v1.Pool", name::pool_name(&pool)).with("limit", limit)
        }
        Refusal::EtagMismatch { presented, current } => {
            failure.with("presented_etag", presented).with("current_etag", current)
        }
        Refusal::WorkerNotFound { worker } | Refusal::WorkerRetired { worker } => of_worker(failure, &worker),
        Refusal::WrongState { worker, state } => of_worker(failure, &worker).with("state", word(&state.to_string())),
        Refusal::StaleToken { worker, presented, current, state }
        | Refusal::StaleRun { worker, presented, current, state } => {
            let failure = of_worker(failure, &worker).with("state", word(&state.to_string()));
            failure.with("presented_token", presented).with("current_token", current)
        }
        Refusal::StaleLease { worker, presented, current, state, job } => {
            let failure = of_worker(failure, &worker).with("state", word(&state.to_string()));
            let failure = failure.with("presented_token", presented).with("current_token", current);
            failure.with("job_id", job.map(|job| job.to_string()).unwrap_or_default())
        }
        Refusal::LeaseEnded { worker, epoch, end } => {
            let failure = of_worker(failure, &worker).with("epoch", epoch);
            let Some(end) = end else { return failure };
            let named = name::return_name(&worker, end.return_id);
            failure.with("job_id", end.job).with("cause", word(&end.cause.to_string())).with("return", named)
        }
        Refusal::Interrupted { worker, epoch, deadline } => {
            of_worker(failure, &worker).with("epoch", epoch).with("deadline_ms", deadline.0)
        }
        Refusal::ReceiptConflict { worker, run } => of_worker(failure, &worker).with("run", run),
        Refusal::RunBacksOff { worker, run, not_before } => {
            of_worker(failure, &worker).with("run", run).with("not_before_ms", not_before.0)
        }
        Refusal::AlreadyRegistered { worker, owner } => of_worker(failure, &worker).with("owner", owner),
        Refusal::AgentKeyMismatch { agent } | Refusal::AgentDuplicated { agent } => failure.with("agent", agent),
        Refusal::StaleIncarnation { agent, presented, last } => {
            failure.with("agent", agent).with("presented", presented).with("last_incarnation", last)
        }
        Refusal::SessionEnded { session, current } => {
            let current = current.map(|current| current.to_string()).unwrap_or_default();
            failure.with("session", session).with("current_session", current)
        }
        other => of_request(failure, other),
    }
}

/// Adds what refusals of requests, waiters and the group carry.
fn of_request(failure: Failure, refusal: Refusal) -> Failure {
    match refusal {
        Refusal::WaiterDropped { request }
        | Refusal::WaiterExpired { request }
        | Refusal::RequestCancelled { request }
        | Refusal::RequestTooOld { request }
        | Refusal::RequestIdReused { request } => failure.with("request_id", id(&request)),
        Refusal::WindowTooLong { request, latest } => {
            failure.with("request_id", id(&request)).with("latest_ms", latest.0)
        }
        Refusal::WaiterNotFound { waiter } => failure.with("waiter", waiter),
        Refusal::TooManyOutcomes { limit } => failure.with("limit", limit),
        Refusal::RefusedBefore { revision, .. } => failure.with("first_revision", revision),
        Refusal::Diverged { mark } | Refusal::DigestNotWanted { mark } => failure.with("mark", mark),
        Refusal::NotDue { due_at } => failure.with("due_at_ms", due_at.0),
        Refusal::FeatureLevel { current } => failure.with("current", current),
        _ => failure,
    }
}

fn id(request: &remuda_registry::RequestId) -> String {
    remuda_wire::convert::request::id_out(request)
}

fn of_worker(failure: Failure, worker: &remuda_registry::WorkerId) -> Failure {
    failure.about("remuda.v1.Worker", name::worker_name(worker))
}

#[cfg(test)]
mod tests;
