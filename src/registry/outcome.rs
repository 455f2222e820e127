//! The answer to a command that took effect.
//!
//! Never here: a "no"; that is [`crate::refusal::Refusal`].

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, JobId, PoolId, Revision, SessionId, Token, WaiterId, WorkerId};
use crate::refusal::Refusal;
use crate::time::{LogTime, Millis};
use crate::worker::{Cause, RunStage, StateKind, Verdict};

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The group exists.
    Bootstrapped,
    /// The pool was created or changed and has this generation.
    PoolSaved {
        /// The pool.
        pool: PoolId,
        /// Its generation: the etag.
        generation: u64,
    },
    /// The pool is gone.
    PoolDeleted {
        /// The pool.
        pool: PoolId,
    },
    /// The agent is present.
    SessionOpened(SessionOpened),
    /// The session is over.
    SessionEnded {
        /// The session.
        session: SessionId,
    },
    /// A worker was granted, now or when the waiter's turn came.
    Granted(Grant),
    /// No worker was free; the acquire waits.
    Queued {
        /// The waiter.
        waiter: WaiterId,
        /// When it ends unless granted.
        expires_at: LogTime,
    },
    /// The acquire is cancelled.
    AcquireCancelled {
        /// What the cancelled acquire had come to.
        was: Cancelled,
    },
    /// One result per renewal, in their order.
    Renewed {
        /// The results.
        results: Vec<Result<Renewed, Refusal>>,
    },
    /// The return has begun; the lease is over.
    ReturnBegun {
        /// The worker.
        worker: WorkerId,
        /// The return: the token of its first run.
        return_id: Token,
    },
    /// The lease was ended.
    LeaseEnded {
        /// The worker.
        worker: WorkerId,
        /// The epoch that ended.
        epoch: Token,
        /// Why.
        cause: Cause,
    },
    /// One result per run, in their order.
    ProgressNoted {
        /// The results.
        results: Vec<Result<RunNoted, Refusal>>,
    },
    /// The report was accepted as the end of its run (which says nothing good about the worker).
    CleaningCompleted {
        /// The worker.
        worker: WorkerId,
        /// The run.
        run: Token,
        /// How apply judged the receipt.
        verdict: Verdict,
        /// The state that followed, before admission.
        to: StateKind,
    },
    /// The worker is in this state now: what the coordinator asked for is done.
    Moved {
        /// The worker.
        worker: WorkerId,
        /// Its state after the command.
        to: StateKind,
    },
    /// The operator's order stands.
    Operated {
        /// The worker.
        worker: WorkerId,
        /// Its generation: the etag.
        generation: u64,
        /// Its state after the command.
        state: StateKind,
    },
    /// The row is gone.
    WorkerRemoved {
        /// The worker.
        worker: WorkerId,
    },
    /// The acknowledgement is noted.
    RetiredAcknowledged {
        /// The worker.
        worker: WorkerId,
    },
    /// The waiter is over.
    WaiterEnded {
        /// The waiter.
        waiter: WaiterId,
    },
    /// Waiters were granted.
    GrantsMade {
        /// How many.
        granted: u32,
        /// More are owed.
        more: bool,
    },
    /// Rows were removed.
    Trimmed {
        /// How many.
        rows: u32,
    },
    /// The digest is noted.
    DigestNoted,
    /// Log time went on.
    Ticked,
    /// The feature level is this now.
    FeatureLevelRaised {
        /// The level.
        level: u32,
    },
}

/// A lease as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The worker.
    pub worker: WorkerId,
    /// The fencing token.
    pub epoch: Token,
    /// The holder's work.
    pub job: JobId,
    /// The agent that serves the worker.
    pub agent: AgentId,
    /// Where it serves executions; empty where no session is live.
    pub endpoint: Arc<str>,
    /// The revision of the grant.
    pub revision: Revision,
    /// When the lease ends unless renewed.
    pub deadline: LogTime,
    /// What a renewal grants.
    pub ttl: Millis,
    /// True where a waiter's grant must still be claimed by a renewal.
    pub unclaimed: bool,
}

/// A renewal that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The worker.
    pub worker: WorkerId,
    /// Its epoch.
    pub epoch: Token,
    /// Deadline minus log time at apply, already cut by `lease.max` and a drain.
    pub granted: Millis,
    /// When the lease ends unless renewed.
    pub deadline: LogTime,
    /// No session serves the worker; the lease stands.
    pub agent_silent: bool,
    /// A drain ends the lease at this time.
    pub drain_at: Option<LogTime>,
}

/// Progress that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunNoted {
    /// The worker.
    pub worker: WorkerId,
    /// The run.
    pub run: Token,
    /// How far it is now.
    pub stage: RunStage,
    /// When it is late.
    pub deadline: LogTime,
}

/// What a cancelled acquire had come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cancelled {
    /// Nothing yet: it will be refused if it comes.
    Unseen,
    /// It waited.
    Waiting,
    /// It had an unclaimed grant; the worker is being cleaned.
    Unclaimed {
        /// The worker.
        worker: WorkerId,
    },
    /// It holds a worker; cancelling does not take it away.
    Held {
        /// The worker.
        worker: WorkerId,
        /// Its epoch.
        epoch: Token,
    },
    /// It was over already.
    Over,
}

/// A new session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpened {
    /// The session.
    pub session: SessionId,
    /// The revision that opened it: an assignment from an older view must not be acted on.
    pub revision: Revision,
    /// One per worker presented, in their order.
    pub workers: Vec<Registration>,
}

/// What became of one worker that an agent presented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The worker.
    pub worker: WorkerId,
    /// Its state, or why it is not served by this session.
    pub result: Result<StateKind, Refusal>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootstrapped => f.write_str("bootstrapped"),
            Self::PoolSaved { pool, generation } => write!(f, "pool saved {pool} generation={generation}"),
            Self::PoolDeleted { pool } => write!(f, "pool deleted {pool}"),
            Self::SessionOpened(opened) => {
                write!(f, "session opened {}", opened.session)?;
                opened.workers.iter().try_for_each(|registration| match &registration.result {
                    Ok(state) => write!(f, " {}={state}", registration.worker),
                    Err(refusal) => write!(f, " {}=[{refusal}]", registration.worker),
                })
            }
            Self::SessionEnded { session } => write!(f, "session ended {session}"),
            Self::Granted(grant) => grant.fmt(f),
            Self::Queued { waiter, expires_at } => write!(f, "queued waiter={waiter} expires_at={expires_at}"),
            Self::AcquireCancelled { was } => write!(f, "acquire cancelled was={was}"),
            Self::Renewed { results } => {
                f.write_str("renewed")?;
                results.iter().try_for_each(|result| match result {
                    Ok(renewed) => write!(f, " [{renewed}]"),
                    Err(refusal) => write!(f, " [refused: {refusal}]"),
                })
            }
            Self::ReturnBegun { worker, return_id } => write!(f, "return begun {worker} return={return_id}"),
            Self::LeaseEnded { worker, epoch, cause } => write!(f, "lease ended {worker} epoch={epoch} cause={cause}"),
            Self::ProgressNoted { results } => {
                f.write_str("progress noted")?;
                results.iter().try_for_each(|result| match result {
                    Ok(run) => write!(f, " [{} run={} {} deadline={}]", run.worker, run.run, run.stage, run.deadline),
                    Err(refusal) => write!(f, " [refused: {refusal}]"),
                })
            }
            Self::CleaningCompleted { worker, run, verdict, to } => {
                write!(f, "cleaning completed {worker} run={run} verdict={verdict} to={to}")
            }
            Self::Moved { worker, to } => write!(f, "moved {worker} to={to}"),
            Self::Operated { worker, generation, state } => {
                write!(f, "operated {worker} generation={generation} state={state}")
            }
            Self::WorkerRemoved { worker } => write!(f, "worker removed {worker}"),
            Self::RetiredAcknowledged { worker } => write!(f, "retired acknowledged {worker}"),
            Self::WaiterEnded { waiter } => write!(f, "waiter ended {waiter}"),
            Self::GrantsMade { granted, more } => write!(f, "grants made {granted} more={more}"),
            Self::Trimmed { rows } => write!(f, "trimmed {rows}"),
            Self::DigestNoted => f.write_str("digest noted"),
            Self::Ticked => f.write_str("ticked"),
            Self::FeatureLevelRaised { level } => write!(f, "feature level {level}"),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "granted {} epoch={} job={} deadline={}", self.worker, self.epoch, self.job, self.deadline)?;
        if self.unclaimed { f.write_str(" unclaimed") } else { Ok(()) }
    }
}

impl fmt::Display for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} epoch={} granted={}", self.worker, self.epoch, self.granted)?;
        if self.agent_silent {
            f.write_str(" agent_silent")?;
        }
        self.drain_at.map_or(Ok(()), |at| write!(f, " drain_at={at}"))
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unseen => f.write_str("unseen"),
            Self::Waiting => f.write_str("waiting"),
            Self::Unclaimed { worker } => write!(f, "unclaimed({worker})"),
            Self::Held { worker, epoch } => write!(f, "held({worker} epoch={epoch})"),
            Self::Over => f.write_str("over"),
        }
    }
}
