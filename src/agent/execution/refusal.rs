//! The errors of executions: a code, a typed reason of domain `remuda`, and whether there was an effect.
//!
//! Never here: deciding that something is refused.

use std::collections::HashMap;
use std::io;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every reason.
const DOMAIN: &str = "remuda";

/// A refusal with its facts; nothing was done.
pub(super) fn refused(code: Code, reason: &str, words: &str, facts: &[(&str, &str)]) -> Status {
    let mut metadata: HashMap<String, String> = facts.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    metadata.insert("outcome".into(), "absent".into());
    Status::with_error_details(code, words, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

/// A request that nobody may make, with all that is wrong with it.
pub(super) fn invalid(wrong: &[(&str, String)]) -> Status {
    let mut details = ErrorDetails::new();
    let outcome = HashMap::from([("outcome".into(), "absent".into())]);
    details.set_error_info("INVALID_FIELD", DOMAIN, outcome);
    for (field, description) in wrong {
        details.add_bad_request_violation(*field, description);
    }
    let words: Vec<_> = wrong.iter().map(|(field, description)| format!("{field}: {description}")).collect();
    Status::with_error_details(Code::InvalidArgument, words.join("; "), details)
}

/// The host failed; whether there was an effect is not known.
pub(super) fn failed(error: &io::Error) -> Status {
    tracing::error!(%error, "an execution failed on this host");
    let unknown = HashMap::from([("outcome".into(), "unknown".into())]);
    let details = ErrorDetails::with_error_info("INTERNAL", DOMAIN, unknown);
    Status::with_error_details(Code::Internal, format!("the agent's host failed: {error}"), details)
}

/// The agent stops; the job goes on, and the next agent serves it.
pub(super) fn stopping() -> Status {
    refused(Code::Unavailable, "SHUTTING_DOWN", "the agent stops; attach again", &[])
}
