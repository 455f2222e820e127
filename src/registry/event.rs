//! Past facts: what watchers see, in the order of (revision, ordinal).
//!
//! Invariants
//! * One [`Fact::Worker`] per transition, appended in the entry that made it.
//! * No secret, nor a secret's hash.

mod words;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{
    AgentId, ClusterId, JobId, PoolId, ReplicaId, RequestId, Revision, SessionId, Token, WaiterId, WorkerId,
};
use crate::plan::Evidence;
use crate::time::{LogTime, Millis};
use crate::worker::{Cause, MaintenanceReason, RetiredReason, RunStage, StateKind, Step, Then, Verdict};

/// One fact with its time. Its revision is the entry's, its ordinal its position there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Log time.
    pub at: LogTime,
    /// The leader's wall clock, for people.
    pub wall_ms: u64,
    /// The term of the entry.
    pub term: u64,
    /// What happened.
    pub fact: Fact,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// A worker was registered, moved from state to state, or its row was removed.
    Worker(Box<WorkerMoved>),
    /// Something about a worker that is no transition.
    WorkerNoted {
        /// The worker.
        worker: WorkerId,
        /// Its state.
        state: StateKind,
        /// What.
        note: Note,
    },
    /// A return came to its end.
    ReturnEnded(Box<ReturnEnded>),
    /// A pool was created.
    PoolCreated {
        /// The pool.
        pool: PoolId,
        /// Its generation.
        generation: u64,
        /// By whom.
        actor: Arc<str>,
    },
    /// A pool was changed.
    PoolUpdated {
        /// The pool.
        pool: PoolId,
        /// Its generation.
        generation: u64,
        /// By whom.
        actor: Arc<str>,
    },
    /// A pool was deleted.
    PoolDeleted {
        /// The pool.
        pool: PoolId,
        /// By whom.
        actor: Arc<str>,
    },
    /// A session began.
    SessionOpened {
        /// The agent.
        agent: AgentId,
        /// The session.
        session: SessionId,
        /// The session that it ended, if one was live.
        replaced: Option<SessionId>,
    },
    /// A session was ended.
    SessionEnded {
        /// The agent.
        agent: AgentId,
        /// The session.
        session: SessionId,
    },
    /// An acquire began to wait.
    WaiterQueued {
        /// Its pool.
        pool: PoolId,
        /// The waiter.
        waiter: WaiterId,
        /// Its job.
        job: JobId,
        /// Its request.
        request: Option<RequestId>,
    },
    /// A waiter is over.
    WaiterEnded {
        /// Its pool.
        pool: PoolId,
        /// The waiter.
        waiter: WaiterId,
        /// Its request.
        request: Option<RequestId>,
        /// How.
        end: WaiterEnd,
        /// How long it had waited.
        waited: Millis,
    },
    /// The group began.
    Bootstrapped {
        /// The cluster.
        cluster: ClusterId,
    },
    /// The feature level was raised.
    FeatureLevelRaised {
        /// To this.
        level: u32,
    },
    /// A majority of the voters has this digest at the mark.
    DigestAgreed {
        /// The mark.
        mark: Revision,
        /// The digest.
        digest: Digest,
        /// Replicas that reported another one: they must stop.
        differing: Vec<ReplicaId>,
    },
    /// Two digests at one mark and no majority yet: writes are refused until there is one.
    DigestDiverged {
        /// The mark.
        mark: Revision,
    },
}

/// A transition of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerMoved {
    /// The worker.
    pub worker: WorkerId,
    /// What was done; `None` where the row was made or removed.
    pub step: Option<Step>,
    /// The state before; `None` for a new row.
    pub from: Option<StateKind>,
    /// The state after; `None` for a removed row.
    pub to: Option<StateKind>,
    /// Why it is cleaned, where `to` or `from` is Cleaning.
    pub cause: Option<Cause>,
    /// Why it is in maintenance, where `to` is Maintenance.
    pub reason: Option<MaintenanceReason>,
    /// Why it is retired, where `to` is Retired.
    pub retired: Option<RetiredReason>,
    /// How the closed run was judged, where a run was closed.
    pub verdict: Option<Verdict>,
    /// The lease that begins or ends here.
    pub epoch: Option<Token>,
    /// That lease's job.
    pub job: Option<JobId>,
    /// The open run after a step into Cleaning, else the run closed by it.
    pub run: Option<Token>,
    /// Its attempt.
    pub attempt: Option<u32>,
    /// The return that the run belongs to.
    pub return_id: Option<Token>,
    /// The agent that the row belongs to.
    pub agent: AgentId,
    /// The session that served it before the step.
    pub session: Option<SessionId>,
    /// How long it had been in the state before; for a rerun, how long that run was open.
    pub elapsed: Millis,
    /// The operator, where one acted.
    pub actor: Option<Arc<str>>,
    /// The operator's reason.
    pub because: Option<Arc<str>>,
    /// What was seen, where the step is a judgment.
    pub evidence: Option<Evidence>,
}

/// Something about a worker that is no transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// The agent has taken its run on, or started it.
    RunProgressed {
        /// The run.
        run: Token,
        /// How far it is.
        stage: RunStage,
        /// When it is late now.
        deadline: LogTime,
    },
    /// A waiter's grant was claimed.
    LeaseClaimed {
        /// The epoch.
        epoch: Token,
    },
    /// The worker is Busy and its agent fell silent.
    AgentSilent {
        /// The epoch.
        epoch: Token,
    },
    /// The worker is Busy and its agent is back.
    AgentBack {
        /// The epoch.
        epoch: Token,
        /// The new session.
        session: SessionId,
    },
    /// The job of the live lease is lost; the lease can only be returned.
    JobInterrupted {
        /// The epoch.
        epoch: Token,
        /// When it ends.
        deadline: LogTime,
    },
    /// An operator cordoned it.
    Cordoned {
        /// By whom.
        actor: Arc<str>,
        /// Why.
        because: Arc<str>,
    },
    /// An operator took the cordon back.
    Uncordoned {
        /// By whom.
        actor: Arc<str>,
        /// Why.
        because: Arc<str>,
    },
    /// An operator drains it.
    Draining {
        /// The lease ends here.
        deadline: LogTime,
        /// Where it goes afterwards.
        then: Then,
        /// By whom.
        actor: Arc<str>,
        /// Why.
        because: Arc<str>,
    },
    /// An operator ordered what comes after the lease or the cleaning.
    NextOrdered {
        /// What.
        then: Then,
        /// By whom.
        actor: Arc<str>,
        /// Why.
        because: Arc<str>,
    },
    /// An operator lets another agent have the name.
    Released {
        /// By whom.
        actor: Arc<str>,
        /// Why.
        because: Arc<str>,
    },
    /// Its labels or annotations changed.
    LabelsChanged,
    /// Its labels would have made one class too many: it keeps the old ones.
    LabelsKept,
    /// Its agent knows that it is retired.
    RetiredAcknowledged,
}

/// The end of a return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnEnded {
    /// The worker.
    pub worker: WorkerId,
    /// The return.
    pub return_id: Token,
    /// Why it was cleaned.
    pub cause: Cause,
    /// The lease that it followed.
    pub epoch: Option<Token>,
    /// How it ended.
    pub result: ReturnResult,
    /// Runs used.
    pub attempts: u32,
    /// From its begin.
    pub took: Millis,
}

/// How a return ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReturnResult {
    /// The receipt was accepted: the worker became Ready.
    Clean,
    /// The receipt was accepted, and a limit of reuse reached.
    Spent,
    /// The receipt was accepted, and an operator wanted the worker elsewhere.
    Diverted(Then),
    /// The worker went to Maintenance for its own sake.
    Failed(MaintenanceReason),
    /// Its agent fell silent.
    Lost,
    /// An operator took it out before it was clean.
    Overtaken,
}

/// How a waiter ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaiterEnd {
    /// It was granted a worker.
    Granted {
        /// The worker.
        worker: WorkerId,
        /// The epoch.
        epoch: Token,
    },
    /// It was cancelled.
    Cancelled,
    /// Nobody vouched for it.
    Dropped,
    /// It had waited long enough.
    Expired,
    /// Its pool was deleted.
    PoolDeleted,
}
