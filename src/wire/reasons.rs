//! Every reason that an error can give, as data: code, outcome, meaning and remedy.
//!
//! The server picks its gRPC codes from this table and nowhere else, and the command line prints the same rows, so that
//! `remuda explain REASON` and an error's help say the same without a server.
//!
//! Invariants
//! * Names are UPPER_SNAKE, at most 63 bytes, and distinct.
//! * Every [`RefusalCode`] has a row ([`of_refusal`]).

use remuda_registry::RefusalCode;
use tonic::Code;

/// The domain of `google.rpc.ErrorInfo` in every error.
pub const DOMAIN: &str = "remuda";

/// Whether the effect of a call that failed can have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It has not happened and will not.
    Absent,
    /// It may have happened, or may yet happen.
    Unknown,
    /// It depends on the call; each error says which.
    PerCall,
}

/// One reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// Its name, as in `ErrorInfo.reason`.
    pub name: &'static str,
    /// The gRPC code that goes with it.
    pub code: Code,
    /// Whether the effect can have happened.
    pub effect: Effect,
    /// Retry the call as it is after this many milliseconds; zero: not as it is.
    pub retry_after_ms: u64,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// The reason of this name.
pub fn find(name: &str) -> Option<&'static Reason> {
    ALL.iter().copied().find(|reason| reason.name == name)
}

/// What the command line prints about a reason.
pub fn explain(reason: &Reason) -> String {
    let effect = match reason.effect {
        Effect::Absent => "absent: it has not happened and will not",
        Effect::Unknown => "unknown: it may have happened, or may yet happen",
        Effect::PerCall => "absent or unknown, as the error says",
    };
    let Reason { name, code, meaning, remedy, .. } = reason;
    format!("{name} (gRPC {code:?})\n\n{meaning}\n\nWhat to do: {remedy}\n\nEffect of the call: {effect}.\n")
}

macro_rules! reasons {
    ($($name:ident $code:ident $effect:ident $retry:literal $meaning:literal $remedy:literal)+) => {
        $(
            #[doc = $meaning]
            pub const $name: &Reason = &Reason {
                name: stringify!($name),
                code: Code::$code,
                effect: Effect::$effect,
                retry_after_ms: $retry,
                meaning: $meaning,
                remedy: $remedy,
            };
        )+

        /// All reasons.
        pub const ALL: &[&Reason] = &[$($name),+];
    };
}

reasons! {
    NO_LEADER Unavailable Absent 200
        "No replica is known to lead, or this one was asked as the leader and is not."
        "Retry with the same request id, at the leader that the error names if it names one. If it lasts, look whether a majority of the replicas runs."
    NOT_ACCEPTED Unavailable Absent 200
        "The leader did not take the command on, for example because its queue was full or it was stepping down."
        "Retry with the same request id."
    OUTCOME_UNKNOWN Unavailable Unknown 200
        "The command was handed to the log and its answer did not come back. It may have happened, or may yet happen."
        "Retry with the same request id: the first answer is kept."
    DEADLINE_PASSED DeadlineExceeded PerCall 0
        "The call's deadline passed before there was an answer."
        "The error says whether the effect is absent or unknown. Where it is unknown, retry with the same request id."
    SHUTTING_DOWN Unavailable Absent 100
        "This replica is stopping."
        "Go to another replica; the error names the leader."
    LOG_BEHIND Unavailable Absent 200
        "This replica has not yet applied the revision that the call asked for."
        "Go to another replica, or retry."
    NO_QUORUM Unavailable Absent 200
        "The leader has not heard from a majority lately, so it cannot vouch for the answer."
        "Go to another replica, or retry."
    UNATTENDED Unavailable Unknown 200
        "This replica could not tell the leader that the waiting call is still open."
        "Send the same acquire, with the same request id, to another replica within ten seconds: it goes on waiting in its place."
    INVALID_FIELD InvalidArgument Absent 0
        "One or more fields have values that are not allowed. All of them are listed."
        "Correct the fields and send a new request."
    DISK_LOW ResourceExhausted Absent 5000
        "The leader's disk is below its reserve, so it takes on no new acquires and registrations."
        "Free disk space on the replicas. Returns, renewals and reports go on meanwhile."
    PAGE_EXPIRED Aborted Absent 0
        "The page token is older than 60 seconds, or was given by another replica or an earlier run of this one."
        "Start the list again from its first page."
    REVISION_COMPACTED OutOfRange Absent 0
        "The events asked for are no longer kept, or the token is one of another cluster."
        "List the state, or watch with send_initial, and go on from there."
    SLOW_CONSUMER ResourceExhausted Absent 100
        "The watcher read too slowly and was ended, so that it could not hold up others."
        "Resume after the last revision that was received."
    RETURN_NOT_FOUND NotFound Absent 0
        "There is no such return, or it is no longer kept."
        "Check the name; ended returns are kept for a day."
    LEASE_NOT_FOUND NotFound Absent 0
        "The worker is under no lease."
        "Nothing: it is not held."
    OUTCOME_NOT_FOUND NotFound Absent 0
        "Nothing is recorded for this request id."
        "It was never decided, or its window is over."
    REVISION_UNKNOWN NotFound Absent 0
        "The digest of this revision is not kept: it is ahead, or more than 10,000 revisions back."
        "Ask for a recent revision."
    TRANSFER_FAILED FailedPrecondition Unknown 0
        "Leadership could not be handed over in time."
        "See the cluster's status; choose a replica that has caught up."
    WRONG_SECRET PermissionDenied Absent 0
        "The secret presented to the agent is not the lease's."
        "Present the secret that was made for the acquire."
    EXECUTION_EXISTS AlreadyExists Absent 0
        "Another command was started under this lease."
        "Attach to the execution, or return the worker and acquire another one."
    EXECUTION_NOT_FOUND NotFound Absent 0
        "No command was started under this lease, or its folder has been cleaned."
        "Nothing is left of it on the worker."
    GRANT_NOT_SEEN Unavailable Absent 200
        "The agent has not seen the lease's grant yet."
        "Retry: its watch will show it."
    INTERNAL Internal Unknown 0
        "A defect of this program, or damage on this replica."
        "Look into the replica's log and report it."
    NOT_BOOTSTRAPPED Unavailable Absent 500
        "The cluster has not been bootstrapped yet."
        "Wait until every replica has been started once."
    ALREADY_BOOTSTRAPPED FailedPrecondition Absent 0
        "The cluster was bootstrapped before."
        "Nothing."
    DIVERGED Unavailable Absent 1000
        "Replicas disagree on the state and no majority is known yet, so nothing is written."
        "Look at the replicas' logs; the one that differs stops by itself once a majority agrees."
    POOL_NOT_FOUND NotFound Absent 0
        "There is no such pool."
        "Check the name, or create the pool."
    POOL_EXISTS AlreadyExists Absent 0
        "A pool of this name exists."
        "Choose another name, or update the pool."
    POOL_NOT_EMPTY FailedPrecondition Absent 0
        "The pool has workers that are not Retired."
        "Retire its workers first."
    POOL_DELETED NotFound Absent 0
        "The pool was deleted while the acquire was waiting."
        "Use another pool."
    ETAG_MISMATCH Aborted Absent 0
        "The resource was changed since the etag was read."
        "Read it again and decide anew."
    WORKER_NOT_FOUND NotFound Absent 0
        "There is no such worker."
        "Check the name."
    WRONG_STATE FailedPrecondition Absent 0
        "The worker's state does not allow this."
        "The error names the state; see what leads out of it."
    STALE_TOKEN Aborted Absent 0
        "The worker has moved on since the caller looked."
        "Read the worker again."
    NOT_DUE FailedPrecondition Absent 0
        "A timed step came before its time."
        "Nothing: it is proposed again when it is due."
    ALREADY_REGISTERED AlreadyExists Absent 0
        "The worker's name belongs to another agent."
        "Give the worker another name, or release it if that agent is gone for good."
    WORKER_RETIRED FailedPrecondition Absent 0
        "The worker is retired for good and may not be registered again."
        "Register it under a new name."
    AGENT_KEY_MISMATCH PermissionDenied Absent 0
        "The agent's key is not the one it first came with."
        "Restore the agent's state folder, or give the agent a new id."
    AGENT_DUPLICATED FailedPrecondition Absent 0
        "An agent with this id is live on another machine."
        "Do not copy an agent's state folder; give one of them a new id."
    STALE_INCARNATION FailedPrecondition Absent 0
        "The agent's incarnation is not above its last one."
        "Another process of the same agent is younger; stop this one."
    SESSION_ENDED FailedPrecondition Absent 0
        "The agent's session has ended."
        "Open a new session and do what its answer says."
    TOO_MANY_CLASSES ResourceExhausted Absent 0
        "The pool has as many distinct sets of labels as it may."
        "Move what is unique to one worker from its labels to its annotations."
    NO_AVAILABLE_WORKER ResourceExhausted Absent 1000
        "No worker that fits is free, and the call does not wait."
        "Retry later, wait, or add workers."
    QUEUE_FULL ResourceExhausted Absent 5000
        "As many distinct selectors are waiting in the pool as may."
        "Retry later, or use fewer distinct selectors."
    LEASE_ENDED FailedPrecondition Absent 0
        "The lease has ended; the error says why and names the return that followed."
        "Stop the job: the worker is no longer yours. Acquire another one."
    STALE_LEASE FailedPrecondition Absent 0
        "Epoch, job or secret are not those of the live lease; the error says what holds the worker now."
        "Stop the job: the worker is not yours."
    INTERRUPTED FailedPrecondition Absent 0
        "The job is known to be gone, so the lease can only be returned."
        "Return the worker and run the job again."
    STALE_RUN FailedPrecondition Absent 0
        "The run is not the worker's open one."
        "Drop it and do what the assignments say."
    RECEIPT_CONFLICT FailedPrecondition Absent 0
        "The run was closed by another receipt."
        "Drop it and do what the assignments say."
    RUN_BACKS_OFF FailedPrecondition Absent 0
        "The run must not start yet."
        "Wait as long as the assignment says."
    WAITER_NOT_FOUND NotFound Absent 0
        "There is no such waiter."
        "Nothing: it has ended."
    WAITER_DROPPED Aborted Absent 0
        "Nobody vouched for the waiting acquire for ten seconds, so it lost its place."
        "Acquire again under a new request id."
    WAITER_EXPIRED ResourceExhausted Absent 0
        "No worker became free while the acquire waited."
        "Wait longer, or add workers."
    REQUEST_CANCELLED Aborted Absent 0
        "The acquire with this request id was cancelled."
        "Use a new request id."
    REQUEST_TOO_OLD FailedPrecondition Absent 0
        "Log time is past the request's not_after, or the client said that it has the answer already."
        "Use a new request id and a new not_after."
    REQUEST_ID_REUSED InvalidArgument Absent 0
        "The request id was used for a request with another effect."
        "Use a request id once."
    WINDOW_TOO_LONG InvalidArgument Absent 0
        "The request's not_after lies more than ten minutes ahead."
        "Compute it from a recent log time and a window of a minute."
    TOO_MANY_OUTCOMES ResourceExhausted Absent 1000
        "As many unanswered outcomes are kept as may, for this client or in all."
        "Say with answered_below which answers have arrived, or retry later."
    DIGEST_NOT_WANTED FailedPrecondition Absent 0
        "The digest report is unknown, too old, or given before."
        "Nothing."
    FEATURE_LEVEL FailedPrecondition Absent 0
        "The feature level is not above the present one, or is unknown here."
        "Nothing, or upgrade the replica."
    NOTHING_OWED FailedPrecondition Absent 0
        "Nothing is owed of what was asked for."
        "Nothing."
}

/// The row of a refusal.
pub const fn of_refusal(code: RefusalCode) -> &'static Reason {
    match code {
        RefusalCode::NotBootstrapped => NOT_BOOTSTRAPPED,
        RefusalCode::AlreadyBootstrapped => ALREADY_BOOTSTRAPPED,
        RefusalCode::Diverged => DIVERGED,
        RefusalCode::Invalid => INVALID_FIELD,
        RefusalCode::PoolNotFound => POOL_NOT_FOUND,
        RefusalCode::PoolExists => POOL_EXISTS,
        RefusalCode::PoolNotEmpty => POOL_NOT_EMPTY,
        RefusalCode::PoolDeleted => POOL_DELETED,
        RefusalCode::EtagMismatch => ETAG_MISMATCH,
        RefusalCode::WorkerNotFound => WORKER_NOT_FOUND,
        RefusalCode::WrongState => WRONG_STATE,
        RefusalCode::StaleToken => STALE_TOKEN,
        RefusalCode::NotDue => NOT_DUE,
        RefusalCode::AlreadyRegistered => ALREADY_REGISTERED,
        RefusalCode::WorkerRetired => WORKER_RETIRED,
        RefusalCode::AgentKeyMismatch => AGENT_KEY_MISMATCH,
        RefusalCode::AgentDuplicated => AGENT_DUPLICATED,
        RefusalCode::StaleIncarnation => STALE_INCARNATION,
        RefusalCode::SessionEnded => SESSION_ENDED,
        RefusalCode::TooManyClasses => TOO_MANY_CLASSES,
        RefusalCode::NoAvailableWorker => NO_AVAILABLE_WORKER,
        RefusalCode::QueueFull => QUEUE_FULL,
        RefusalCode::LeaseEnded => LEASE_ENDED,
        RefusalCode::StaleLease => STALE_LEASE,
        RefusalCode::Interrupted => INTERRUPTED,
        RefusalCode::StaleRun => STALE_RUN,
        RefusalCode::ReceiptConflict => RECEIPT_CONFLICT,
        RefusalCode::RunBacksOff => RUN_BACKS_OFF,
        RefusalCode::WaiterNotFound => WAITER_NOT_FOUND,
        RefusalCode::WaiterDropped => WAITER_DROPPED,
        RefusalCode::WaiterExpired => WAITER_EXPIRED,
        RefusalCode::RequestCancelled => REQUEST_CANCELLED,
        RefusalCode::RequestTooOld => REQUEST_TOO_OLD,
        RefusalCode::RequestIdReused => REQUEST_ID_REUSED,
        RefusalCode::WindowTooLong => WINDOW_TOO_LONG,
        RefusalCode::TooManyOutcomes => TOO_MANY_OUTCOMES,
        RefusalCode::DigestNotWanted => DIGEST_NOT_WANTED,
        RefusalCode::FeatureLevel => FEATURE_LEVEL,
        RefusalCode::NothingOwed => NOTHING_OWED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_well_formed() {
        let mut names: Vec<_> = ALL.iter().map(|reason| reason.name).collect();
        assert!(names.iter().all(|name| name.len() <= 63));
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    /// A retry without thought is only offered where it can change the answer.
    #[test]
    fn codes_agree_with_retries() {
        for reason in ALL {
            let transient = matches!(reason.code, Code::Unavailable | Code::ResourceExhausted);
            assert!(transient || reason.retry_after_ms == 0, "{}", reason.name);
            assert!(reason.code != Code::Unavailable || reason.retry_after_ms > 0, "{}", reason.name);
            assert!(reason.code != Code::Ok, "{}", reason.name);
        }
    }

    #[test]
    fn what_is_explained_names_the_reason_and_the_remedy() {
        for reason in ALL {
            let text = explain(reason);
            assert!(text.starts_with(reason.name) && text.contains(reason.remedy), "{text}");
        }
        assert_eq!(find("NO_LEADER"), Some(NO_LEADER));
        assert_eq!(find("no_leader"), None);
    }
}
