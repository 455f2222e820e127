//! The replica's one handle on Raft: everything the rest of the server may ask of replication.
//!
//! Invariants
//! * What a linearizable read sees is at or above the revision that a quorum confirmed after the read arrived.
//!
//! Never here: openraft's types in a public signature; registry decisions.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::RwLock;
use remuda_registry::{Digest, Event, LogTime, ReplicaId, Request, Revision, State};
use remuda_wire::raft::v1 as peer;
use tokio::sync::{mpsc, watch};

use super::Raft;
use super::batch::Batcher;
use super::clock::Clock;
use super::forward::Whereabouts;
use super::log::LogHandle;
use super::net::caller::Parties;
use super::net::channel::Channels;
use super::read::{Confirmed, ReadIndex};
use super::state::{Applied, Rows, Shared};
use super::types::Member;
use crate::propose::{LeaderHint, Propose, ProposeError, Proposed};

/// What one entry did, handed on in revision order after it is in both copies of the state.
#[derive(Debug, Clone)]
pub struct Published {
    /// The entry.
    pub revision: Revision,
    /// Its term.
    pub term: u64,
    /// Log time after it.
    pub log_time: LogTime,
    /// The state's digest after it.
    pub digest: Digest,
    /// What happened in it; the ordinal is the position.
    pub events: Arc<[Event]>,
}

/// Hears what is applied. Called from the apply task: it must not block.
pub trait Sink: Send + Sync + 'static {
    /// An entry was applied. Every entry is published once per run of the process, blank ones with no events.
    fn published(&self, published: Published);

    /// The state was replaced by a snapshot at `revision`: what lies between was not published and never will be.
    /// Called once at start too, with the revision that was loaded.
    fn jumped(&self, revision: Revision);
}

/// Takes what followers relay: heartbeats and calls that wait.
pub trait RelaySink: Send + Sync + 'static {
    /// `from` relayed `request` to this replica, which leads in `term`. The answer's `ended` and
    /// `heartbeat_interval_ms` are the callee's; the node fills in the rest.
    fn relayed(&self, from: ReplicaId, term: u64, request: peer::RelayRequest) -> peer::RelayResponse;
}

/// Who leads, as far as this replica knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The highest term seen.
    pub term: u64,
    /// The leader of that term.
    pub leader: Option<LeaderHint>,
    /// True when it is this replica, the first entry of the term is applied, and its log time runs.
    pub leads: bool,
}

/// Why a read was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody could confirm the revision.
    #[error("no leader confirmed the read")]
    NoLeader {
        /// Who may know better.
        hint: Option<LeaderHint>,
    },
    /// The deadline passed first.
    #[error("the deadline passed before the replica had caught up")]
    Deadline,
    /// The replica is stopping.
    #[error("the replica is stopping")]
    Stopping,
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This replica does not lead.
    #[error("this replica does not lead")]
    NotLeader,
    /// No other voter is near enough, or the one asked for is no voter.
    #[error("no successor: {0}")]
    NoSuccessor(String),
    /// It was tried, and this replica still leads.
    #[error("the successor did not take over in time")]
    Late,
}

/// Why the replica must end its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to.
    Asked,
    /// Raft, log or state failed.
    Fatal(String),
    /// Its state differs from the majority's.
    Diverged(String),
}

/// How this replica stands.
#[derive(Debug, Clone)]
pub struct Status {
    /// This replica.
    pub replica: ReplicaId,
    /// The same as its peers hear it.
    pub own: peer::StatusResponse,
    /// Who leads.
    pub leadership: Leadership,
    /// The members.
    pub members: Vec<(ReplicaId, Member)>,
    /// Below the disk reserve.
    pub disk_is_low: bool,
}

/// One replica, running. Clones are the same replica.
#[derive(Clone)]
pub struct Node {
    pub(super) inner: Arc<Inner>,
}

/// The node, once there is one and as long as it runs.
pub(super) type Slot = Arc<RwLock<Option<Node>>>;

pub(super) struct Inner {
    pub(super) raft: Raft,
    pub(super) shared: Arc<Shared>,
    pub(super) log: LogHandle,
    pub(super) clock: Arc<Clock>,
    pub(super) parties: Arc<Parties>,
    pub(super) channels: Arc<Channels>,
    pub(super) batcher: Batcher,
    /// Leader only: asks the quorum.
    pub(super) confirms: ReadIndex,
    /// Anywhere: asks the leader.
    pub(super) reads: std::sync::OnceLock<ReadIndex>,
    pub(super) relay: Arc<dyn RelaySink>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) disk_is_low: AtomicBool,
    pub(super) stop: watch::Sender<Option<StopReason>>,
    pub(super) stop_serving: mpsc::Sender<()>,
    /// Where the peer port finds the node; emptied when it stops.
    pub(super) slot: Slot,
    /// The lock on the data folder.
    pub(super) _folder: super::identity::DataFolder,
}

impl Node {
    /// This replica's number.
    pub fn replica_id(&self) -> ReplicaId {
        ReplicaId(self.inner.parties.identity().replica)
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> String {
        self.read(|state| state.cluster().map(ToString::to_string)).unwrap_or_default()
    }

    /// Looks at the registry in memory. Apply waits meanwhile: single keys only.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.inner.shared.read(look)
    }

    /// The rows of the durable copy as they are now, for lists and old events.
    ///
    /// # Errors
    /// [`ReadError::Stopping`] when the database does not answer.
    pub async fn rows(&self) -> Result<Rows, ReadError> {
        self.inner.shared.rows().await.map_err(|error| {
            tracing::error!(%error, "the state database cannot be read");
            ReadError::Stopping
        })
    }

    /// A revision at or above every write acknowledged before this call, once this replica has applied it.
    ///
    /// # Errors
    /// [`ReadError`]; nothing may be read then that claims to be linearizable.
    pub async fn read_index(&self, deadline: Instant) -> Result<Revision, ReadError> {
        let reads = self.inner.reads.get().ok_or(ReadError::Stopping)?;
        let (revision, _) = reads.confirm(deadline).await.map_err(|error| self.with_hint(error))?;
        self.wait_applied(revision, deadline).await?;
        Ok(revision)
    }

    /// Waits until memory and rows hold `revision`.
    ///
    /// # Errors
    /// [`ReadError::Deadline`] if they do not in time.
    pub async fn wait_applied(&self, revision: Revision, deadline: Instant) -> Result<(), ReadError> {
        let mut applied = self.applied();
        let reached = applied.wait_for(|applied| applied.revision >= revision);
        match tokio::time::timeout_at(deadline.into(), reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopping),
            Err(_) => Err(ReadError::Deadline),
        }
    }

    /// How far this replica has applied.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.inner.shared.applied()
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// Log time, and contact with the leader.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Figures of the log's writer.
    pub fn log(&self) -> &LogHandle {
        &self.inner.log
    }

    /// True below the disk reserve: what makes the state grow is refused, what shrinks it goes on.
    pub fn disk_is_low(&self) -> bool {
        self.inner.disk_is_low.load(Ordering::Relaxed)
    }

    /// How this replica stands.
    pub fn status(&self) -> Status {
        Status {
            replica: self.replica_id(),
            own: self.own_status(),
            leadership: self.inner.leadership.borrow().clone(),
            members: self.inner.parties.members().into_iter().map(|(id, member)| (ReplicaId(id), member)).collect(),
            disk_is_low: self.disk_is_low(),
        }
    }

    /// Resolves when the process must end.
    pub fn stopped(&self) -> impl Future<Output = StopReason> + Send + 'static {
        let mut stop = self.inner.stop.subscribe();
        async move {
            match stop.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or(StopReason::Asked),
                Err(_) => StopReason::Asked,
            }
        }
    }

    /// Says that the process must end, and why. The first reason stands.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.inner.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            if first {
                *stop = Some(reason);
            }
            first
        });
    }

    pub(crate) fn disk_flag(&self) -> &AtomicBool {
        &self.inner.disk_is_low
    }

    /// Index up to which entries are committed as far as this replica knows.
    pub(crate) fn committed(&self) -> u64 {
        self.inner.raft.data_metrics().borrow_watched().local_committed.map_or(0, |id| id.index)
    }

    pub(super) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    pub(super) fn parties(&self) -> &Parties {
        &self.inner.parties
    }

    pub(super) fn parties_handle(&self) -> Arc<Parties> {
        Arc::clone(&self.inner.parties)
    }

    pub(super) fn clock_handle(&self) -> &Arc<Clock> {
        &self.inner.clock
    }

    /// Proposes on this replica or not at all.
    pub(super) async fn propose_here(
        &self,
        term: Option<u64>,
        requests: Vec<Request>,
        deadline: Instant,
    ) -> Vec<Proposed> {
        let mut answers = self.inner.batcher.propose(term, requests, deadline).await;
        for answer in &mut answers {
            if let Err(ProposeError::NoLeader { hint }) = answer {
                *hint = self.hint();
            }
        }
        answers
    }

    /// A revision that the quorum confirms to this replica as the leader.
    pub(super) async fn confirm_as_leader(&self, deadline: Instant) -> Confirmed {
        self.inner.confirms.confirm(deadline).await.map_err(|error| self.with_hint(error))
    }

    /// The leader as far as it is known, if it is another replica or ready here.
    pub(super) fn hint(&self) -> Option<LeaderHint> {
        self.inner.leadership.borrow().leader.clone()
    }

    pub(super) fn with_hint(&self, error: ReadError) -> ReadError {
        match error {
            ReadError::NoLeader { .. } => ReadError::NoLeader { hint: self.hint() },
            ReadError::Deadline | ReadError::Stopping => error,
        }
    }
}

impl Propose for Node {
    fn propose(&self, requests: Vec<Request>, deadline: Instant) -> BoxFuture<'static, Vec<Proposed>> {
        let node = self.clone();
        Box::pin(async move {
            match node.whereabouts(deadline).await {
                Some(Whereabouts::Elsewhere(leader)) => node.forward(leader, requests, deadline).await,
                Some(Whereabouts::Here) => node.propose_here(None, requests, deadline).await,
                None => vec![Err(ProposeError::NoLeader { hint: None }); requests.len()],
            }
        })
    }

    fn propose_in_term(
        &self,
        term: u64,
        requests: Vec<Request>,
        deadline: Instant,
    ) -> BoxFuture<'static, Vec<Proposed>> {
        let node = self.clone();
        Box::pin(async move { node.propose_here(Some(term), requests, deadline).await })
    }
}
