//! Every deterministic "no". A refusal is replicated like an outcome: every replica refuses alike, and the tables are
//! unchanged.
//!
//! Never here: what went wrong with one call or one replica; that is an error of the server.

mod code;

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, JobId, PoolId, RequestId, Revision, SessionId, Token, WaiterId, WorkerId};
use crate::pool::Violation;
use crate::time::LogTime;
use crate::worker::{Cause, StateKind};

pub use code::RefusalCode;

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The group was not bootstrapped. The tables are unchanged.
    #[error("the group is not bootstrapped")]
    NotBootstrapped,
    /// The group was bootstrapped before. The tables are unchanged.
    #[error("the group is bootstrapped already")]
    AlreadyBootstrapped,
    /// Replicas disagree on the state; only digests and ticks are accepted. The tables are unchanged.
    #[error("replicas diverged at mark {mark}")]
    Diverged {
        /// The mark without a majority.
        mark: Revision,
    },
    /// Fields with bad values, all of them. The tables are unchanged.
    #[error("invalid: {}", show(.violations))]
    Invalid {
        /// What is wrong.
        violations: Vec<Violation>,
    },
    /// No such pool. The tables are unchanged.
    #[error("pool {pool} not found")]
    PoolNotFound {
        /// The pool asked for.
        pool: PoolId,
    },
    /// A pool of that name exists. The tables are unchanged.
    #[error("pool {pool} exists")]
    PoolExists {
        /// The pool.
        pool: PoolId,
    },
    /// The pool has workers that are not Retired. The tables are unchanged.
    #[error("pool {pool} has {workers} workers that are not retired")]
    PoolNotEmpty {
        /// The pool.
        pool: PoolId,
        /// How many.
        workers: u64,
    },
    /// The waiter's pool was deleted. The tables are unchanged.
    #[error("pool {pool} was deleted")]
    PoolDeleted {
        /// The pool.
        pool: PoolId,
    },
    /// The caller saw another generation. The tables are unchanged.
    #[error("generation is {current}, not {presented}")]
    EtagMismatch {
        /// What the caller saw.
        presented: u64,
        /// What it is.
        current: u64,
    },
    /// No such worker. The tables are unchanged.
    #[error("worker {worker} not found")]
    WorkerNotFound {
        /// The worker asked for.
        worker: WorkerId,
    },
    /// The worker's state does not allow it. The tables are unchanged.
    #[error("worker {worker} is {state}")]
    WrongState {
        /// The worker.
        worker: WorkerId,
        /// Its state.
        state: StateKind,
    },
    /// The worker moved on since the command was made. The tables are unchanged.
    #[error("worker {worker} moved on: token {presented} was believed, {current} is the newest, {state}")]
    StaleToken {
        /// The worker.
        worker: WorkerId,
        /// What was believed.
        presented: Token,
        /// The newest token.
        current: Token,
        /// Its state.
        state: StateKind,
    },
    /// A timed command came before its time, or is held back by the grace. The tables are unchanged.
    #[error("not due before {due_at}")]
    NotDue {
        /// When it would be accepted.
        due_at: LogTime,
    },
    /// The row belongs to another agent. The tables are unchanged.
    #[error("worker {worker} belongs to agent {owner}")]
    AlreadyRegistered {
        /// The worker.
        worker: WorkerId,
        /// The agent that it belongs to.
        owner: AgentId,
    },
    /// The worker is retired for good and may not be registered again. The tables are unchanged.
    #[error("worker {worker} is retired")]
    WorkerRetired {
        /// The worker.
        worker: WorkerId,
    },
    /// The agent's key is not the one of its first session. The tables are unchanged.
    #[error("agent {agent} presented another key")]
    AgentKeyMismatch {
        /// The agent.
        agent: AgentId,
    },
    /// The agent's id is live on another machine. The tables are unchanged.
    #[error("agent {agent} is live on another machine")]
    AgentDuplicated {
        /// The agent.
        agent: AgentId,
    },
    /// The incarnation is not above the last one. The tables are unchanged.
    #[error("agent {agent} presented incarnation {presented}, the last is {last}")]
    StaleIncarnation {
        /// The agent.
        agent: AgentId,
        /// What it presented.
        presented: u64,
        /// The last accepted.
        last: u64,
    },
    /// The session is over, or never was. The tables are unchanged.
    #[error("session {session} has ended")]
    SessionEnded {
        /// The session presented.
        session: SessionId,
        /// The agent's live session, where it is known.
        current: Option<SessionId>,
    },
    /// The pool has as many classes as it may. The tables are unchanged.
    #[error("pool {pool} would have more than {limit} classes")]
    TooManyClasses {
        /// The pool.
        pool: PoolId,
        /// The bound.
        limit: u64,
    },
    /// No worker is free and the caller does not wait. The tables are unchanged.
    #[error("no available worker in pool {pool} for selector [{selector}]")]
    NoAvailableWorker {
        /// The pool.
        pool: PoolId,
        /// The selector.
        selector: String,
        /// How many acquires wait in the pool.
        waiting: u64,
    },
    /// Too many distinct selectors wait. The tables are unchanged.
    #[error("pool {pool} has {limit} distinct selectors waiting")]
    QueueFull {
        /// The pool.
        pool: PoolId,
        /// The bound.
        limit: u64,
    },
    /// The lease has ended. The tables are unchanged.
    #[error("lease {epoch} on {worker} has ended{}", ended(.end))]
    LeaseEnded {
        /// The worker.
        worker: WorkerId,
        /// The epoch that ended.
        epoch: Token,
        /// How it ended, while the worker remembers: it does so until its next lease ends.
        end: Option<LeaseEnd>,
    },
    /// Another epoch, job or secret than the live lease's. The tables are unchanged.
    #[error("lease {presented} on {worker} is stale: newest token {current}, {state}{}", holder(.job))]
    StaleLease {
        /// The worker.
        worker: WorkerId,
        /// The epoch presented.
        presented: Token,
        /// The newest token: epoch or run.
        current: Token,
        /// The worker's state.
        state: StateKind,
        /// The job that holds it, if one does.
        job: Option<JobId>,
    },
    /// The job is lost; the lease can only be returned. The tables are unchanged.
    #[error("job on {worker} under epoch {epoch} was interrupted; return by {deadline}")]
    Interrupted {
        /// The worker.
        worker: WorkerId,
        /// The epoch.
        epoch: Token,
        /// When the lease ends.
        deadline: LogTime,
    },
    /// The run is not the open one. The tables are unchanged.
    #[error("run {presented} on {worker} is stale: newest token {current}, {state}")]
    StaleRun {
        /// The worker.
        worker: WorkerId,
        /// The run presented.
        presented: Token,
        /// The newest token.
        current: Token,
        /// The worker's state.
        state: StateKind,
    },
    /// The run was closed by another receipt. The tables are unchanged.
    #[error("run {run} on {worker} was closed by another receipt")]
    ReceiptConflict {
        /// The worker.
        worker: WorkerId,
        /// The run.
        run: Token,
    },
    /// The run backs off: its time to start has not come. The tables are unchanged.
    #[error("run {run} on {worker} must not start before {not_before}")]
    RunBacksOff {
        /// The worker.
        worker: WorkerId,
        /// The run.
        run: Token,
        /// When it may.
        not_before: LogTime,
    },
    /// No such waiter. The tables are unchanged.
    #[error("waiter {waiter} not found")]
    WaiterNotFound {
        /// The waiter.
        waiter: WaiterId,
    },
    /// The acquire waited unattended and was dropped. The tables are unchanged.
    #[error("the waiter of request {request} was dropped")]
    WaiterDropped {
        /// The request.
        request: RequestId,
    },
    /// The acquire waited as long as it wanted. The tables are unchanged.
    #[error("the waiter of request {request} expired")]
    WaiterExpired {
        /// The request.
        request: RequestId,
    },
    /// The acquire was cancelled. The tables are unchanged.
    #[error("request {request} was cancelled")]
    RequestCancelled {
        /// The request.
        request: RequestId,
    },
    /// Log time is past `not_after`, or the seq is below what was answered. The tables are unchanged.
    #[error("request {request} is too old")]
    RequestTooOld {
        /// The request.
        request: RequestId,
    },
    /// The id was used for another request. The tables are unchanged.
    #[error("request id {request} was used for another request")]
    RequestIdReused {
        /// The request.
        request: RequestId,
    },
    /// `not_after` lies too far ahead. The tables are unchanged.
    #[error("not_after of request {request} is beyond {latest}")]
    WindowTooLong {
        /// The request.
        request: RequestId,
        /// The latest that is allowed now.
        latest: LogTime,
    },
    /// The client has too many unanswered outcomes, or the group too many in all. The tables are unchanged.
    #[error("{limit} outcomes are kept already")]
    TooManyOutcomes {
        /// The bound that was met.
        limit: u64,
    },
    /// The same request was refused before; this is what remains of the first answer. The tables are unchanged.
    #[error("refused before at revision {revision}: {code}")]
    RefusedBefore {
        /// What the first answer was.
        code: RefusalCode,
        /// The revision of the first answer.
        revision: Revision,
    },
    /// The mark is unknown, too old, or the replica reported already or is no voter. The tables are unchanged.
    #[error("digest report for mark {mark} is not wanted")]
    DigestNotWanted {
        /// The mark.
        mark: Revision,
    },
    /// The level is not above the present one, or unknown here. The tables are unchanged.
    #[error("feature level is {current}")]
    FeatureLevel {
        /// The present level.
        current: u32,
    },
    /// Nothing is owed of what was asked for. The tables are unchanged.
    #[error("nothing is owed")]
    NothingOwed,
}

/// How a lease ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEnd {
    /// Its job.
    pub job: JobId,
    /// Why it ended.
    pub cause: Cause,
    /// The return that followed.
    pub return_id: Token,
}

/// All violations in one line.
fn show(violations: &[Violation]) -> String {
    let lines: Vec<_> = violations.iter().map(|violation| format!("{} {}", violation.field, violation.why)).collect();
    lines.join("; ")
}

/// The end of a lease in words, where it is known.
fn ended(end: &Option<LeaseEnd>) -> String {
    let words = |end: &LeaseEnd| format!(": job {}, cause {}, return {}", end.job, end.cause, end.return_id);
    end.as_ref().map_or(String::new(), words)
}

/// The holder in words, where there is one.
fn holder(job: &Option<JobId>) -> String {
    job.as_ref().map_or(String::new(), |job| format!(", held by job {job}"))
}
