//! Every write there is.
//!
//! Commands are orders; `apply` judges each against the state and either does it whole or refuses it. What was decided
//! elsewhere, from an older view of the state, carries what was believed (epoch, run, session, token) and is refused
//! when that is stale.
//!
//! Never here: secrets (only their SHA-256), the time (the frame's stamp), anything random.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{
    AgentId, ClusterId, JobId, PoolId, ReplicaId, RequestId, Revision, SecretHash, SessionId, Token, WaiterId, WorkerId,
};
use crate::lease::{JobOutcome, Renewal};
use crate::plan::Receipt;
use crate::pool::PoolSpec;
use crate::selector::{Labels, Selector};
use crate::time::Millis;
use crate::worker::{RunStage, Then};

/// One write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a group; refused ever after.
    Bootstrap(Bootstrap),
    /// Make a pool.
    CreatePool {
        /// Its name.
        pool: PoolId,
        /// Its settings.
        spec: Box<PoolSpec>,
        /// Who asks.
        actor: Arc<str>,
    },
    /// Replace a pool's settings.
    UpdatePool {
        /// Its name.
        pool: PoolId,
        /// All its settings.
        spec: Box<PoolSpec>,
        /// The generation that the caller saw; `None` overwrites.
        etag: Option<u64>,
        /// Who asks.
        actor: Arc<str>,
    },
    /// Remove a pool that has no rows but Retired ones.
    DeletePool {
        /// Its name.
        pool: PoolId,
        /// The generation that the caller saw.
        etag: Option<u64>,
        /// Who asks.
        actor: Arc<str>,
    },
    /// An agent is present; registers its workers.
    OpenSession(Box<OpenSession>),
    /// An agent is silent, or leaves.
    EndSession {
        /// The session believed silent.
        session: SessionId,
    },
    /// A worker for a job.
    AcquireWorker(Box<AcquireWorker>),
    /// Never mind the acquire with this id, whether it came, waits, was granted, or is still to come.
    CancelAcquire {
        /// The id of the acquire.
        request: RequestId,
        /// Refuse a later acquire under that id until this log time.
        not_after: crate::time::LogTime,
    },
    /// A batch of renewals; each has its own result.
    RenewLeases {
        /// The leases.
        renewals: Vec<Renewal>,
    },
    /// The holder returns its worker.
    BeginReturn {
        /// The worker held.
        worker: WorkerId,
        /// The job that held it.
        job: JobId,
        /// Its epoch.
        epoch: Token,
        /// SHA-256 of the secret presented.
        secret: SecretHash,
        /// How the holder judges the worker.
        outcome: JobOutcome,
    },
    /// Timed: the lease ran out (cause LeaseExpired or Drained, which apply finds).
    EndLease {
        /// The worker.
        worker: WorkerId,
        /// The epoch believed live.
        epoch: Token,
    },
    /// Agents say how far runs are; each has its own result.
    ReportProgress {
        /// The runs.
        runs: Vec<RunProgress>,
    },
    /// The report of a run.
    CompleteCleaning {
        /// The worker.
        worker: WorkerId,
        /// The run that the receipt is about.
        run: Token,
        /// The session that reports.
        session: SessionId,
        /// What was observed.
        receipt: Box<Receipt>,
    },
    /// Timed: a run is late.
    EndRun {
        /// The worker.
        worker: WorkerId,
        /// The run believed open.
        run: Token,
    },
    /// Offer a Ready worker; where its receipt is stale by now, clean it anew.
    Admit {
        /// The worker.
        worker: WorkerId,
        /// The newest token believed: a later run or epoch makes this stale.
        token: Token,
    },
    /// Timed: a worker stood free for long.
    BeginIdleCheck {
        /// The worker.
        worker: WorkerId,
        /// The newest token believed.
        token: Token,
    },
    /// Timed: the ladder's next try.
    RetryWorker {
        /// The worker.
        worker: WorkerId,
        /// The newest token believed.
        token: Token,
    },
    /// Timed: nobody came back within `lost.retention`.
    GiveUpWorker {
        /// The worker.
        worker: WorkerId,
        /// The newest token believed.
        token: Token,
    },
    /// Timed: remove the row of a Retired worker.
    RemoveWorker {
        /// The worker.
        worker: WorkerId,
        /// The newest token believed.
        token: Token,
    },
    /// The agent knows that its worker is retired and will not register it again.
    AcknowledgeRetired {
        /// The worker.
        worker: WorkerId,
        /// The agent's session.
        session: SessionId,
    },
    /// An operator's order to one worker.
    Operate {
        /// The worker.
        worker: WorkerId,
        /// What to do.
        operation: Operation,
        /// Who asks.
        actor: Arc<str>,
        /// Why.
        reason: Arc<str>,
        /// The generation that the caller saw; `None`: any.
        etag: Option<u64>,
    },
    /// Nobody has vouched for a waiter: it ends.
    DropWaiter {
        /// The waiter.
        waiter: WaiterId,
    },
    /// Timed: a waiter has waited as long as it wanted.
    ExpireWaiter {
        /// The waiter.
        waiter: WaiterId,
    },
    /// Grant what one entry could not.
    GrantOwed {
        /// The pool.
        pool: PoolId,
    },
    /// Remove rows beyond their retention; apply decides which.
    Trim {
        /// Where.
        table: TrimTable,
    },
    /// A replica's digest at a mark.
    ReportDigest {
        /// The mark.
        mark: Revision,
        /// Who reports.
        replica: ReplicaId,
        /// What it has.
        digest: Digest,
    },
    /// Nothing but the frame's stamp: log time goes on.
    Tick,
    /// Every member supports this level.
    RaiseFeatureLevel {
        /// The new level.
        level: u32,
    },
}

/// What a group starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Wall time, for the start of the token counter.
    pub unix_ms: u64,
    /// The voters, for majorities of digests.
    pub voters: BTreeSet<ReplicaId>,
}

/// An agent's presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// The agent.
    pub agent: AgentId,
    /// SHA-256 of its key.
    pub key: SecretHash,
    /// Counted up and synced in the agent's state folder before each open.
    pub incarnation: u64,
    /// The machine it runs on.
    pub machine: Arc<str>,
    /// The boot of that machine.
    pub boot: Arc<str>,
    /// Where it serves executions.
    pub endpoint: Arc<str>,
    /// What its host can do, by name.
    pub capabilities: Vec<Arc<str>>,
    /// What its host cannot do, by name.
    pub missing_capabilities: Vec<Arc<str>>,
    /// The agent's version, for people.
    pub version: Arc<str>,
    /// Its workers.
    pub workers: Vec<WorkerPresence>,
}

/// One worker as its agent presents it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerPresence {
    /// Its name.
    pub worker: WorkerId,
    /// What selectors ask about.
    pub labels: Labels,
    /// What is unique to it.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// The epoch that `job` speaks of; another epoch than the live one is ignored.
    pub epoch: Option<Token>,
    /// Whether that epoch's job lives.
    pub job: JobPresence,
}

/// Whether the job of an epoch lives on the agent's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobPresence {
    /// It runs, ended with a recorded status, or none was started.
    Alive,
    /// There was one, and its boot id or lease folder is gone.
    Lost,
}

/// A request for a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireWorker {
    /// From which pool.
    pub pool: PoolId,
    /// Which workers fit.
    pub selector: Selector,
    /// Only this worker fits.
    pub name: Option<Arc<str>>,
    /// The holder's work.
    pub job: JobId,
    /// Labels of the job.
    pub job_labels: Labels,
    /// Who asks.
    pub holder: Arc<str>,
    /// SHA-256 of the lease secret that the client made.
    pub secret: SecretHash,
    /// TTL, within the pool's bounds; `None`: the pool's.
    pub ttl: Option<Millis>,
    /// How long to wait when no worker is free.
    pub wait: Millis,
    /// Higher goes first; capped by the pool.
    pub priority: u32,
}

/// How far one run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProgress {
    /// The worker.
    pub worker: WorkerId,
    /// The run.
    pub run: Token,
    /// The session that says so.
    pub session: SessionId,
    /// Queued or Started.
    pub stage: RunStage,
}

/// What an operator asks of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Out of the offer, where it is.
    Cordon,
    /// Back into the offer; also ends a drain and takes back what was to come after it.
    Uncordon,
    /// Cordon, and end the lease at the deadline.
    Drain {
        /// Log time from now until the lease is ended; zero is `--now`.
        within: Millis,
        /// Where to go afterwards.
        then: Then,
    },
    /// To Maintenance: at once, or after the lease or the cleaning.
    Maintain {
        /// End a lease first.
        now: bool,
    },
    /// From Maintenance back through cleaning; on a Busy or Cleaning worker it takes back what was ordered to follow.
    Resume,
    /// To Retired: at once, or after the lease or the cleaning.
    Retire {
        /// End a lease first.
        now: bool,
    },
    /// Let another agent register this name.
    Release,
    /// Keep it as it is, for inspection: stop only, then Maintenance(Held).
    Hold {
        /// End a lease first.
        now: bool,
    },
}

/// What is trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TrimTable {
    /// Events beyond their age or number.
    Events,
    /// Ended returns, with their runs and receipts.
    Returns,
    /// Outcome rows and client rows beyond their `not_after`.
    Outcomes,
}

impl Command {
    /// The command's name, for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bootstrap(..) => "Bootstrap",
            Self::CreatePool { .. } => "CreatePool",
            Self::UpdatePool { .. } => "UpdatePool",
            Self::DeletePool { .. } => "DeletePool",
            Self::OpenSession(..) => "OpenSession",
            Self::EndSession { .. } => "EndSession",
            Self::AcquireWorker(..) => "AcquireWorker",
            Self::CancelAcquire { .. } => "CancelAcquire",
            Self::RenewLeases { .. } => "RenewLeases",
            Self::BeginReturn { .. } => "BeginReturn",
            Self::EndLease { .. } => "EndLease",
            Self::ReportProgress { .. } => "ReportProgress",
            Self::CompleteCleaning { .. } => "CompleteCleaning",
            Self::EndRun { .. } => "EndRun",
            Self::Admit { .. } => "Admit",
            Self::BeginIdleCheck { .. } => "BeginIdleCheck",
            Self::RetryWorker { .. } => "RetryWorker",
            Self::GiveUpWorker { .. } => "GiveUpWorker",
            Self::RemoveWorker { .. } => "RemoveWorker",
            Self::AcknowledgeRetired { .. } => "AcknowledgeRetired",
            Self::Operate { .. } => "Operate",
            Self::DropWaiter { .. } => "DropWaiter",
            Self::ExpireWaiter { .. } => "ExpireWaiter",
            Self::GrantOwed { .. } => "GrantOwed",
            Self::Trim { .. } => "Trim",
            Self::ReportDigest { .. } => "ReportDigest",
            Self::Tick => "Tick",
            Self::RaiseFeatureLevel { .. } => "RaiseFeatureLevel",
        }
    }
}
