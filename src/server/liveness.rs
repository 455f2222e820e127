//! Liveness: heartbeats and open calls, counted on the leader, relayed by the others.
//!
//! ```text
//!   agent ──heartbeat──> replica ──[leads]──────────────> core ──tick──> EndSession, DropWaiter
//!                           └──[follows]──relay, each tick──┘
//! ```
//!
//! A heartbeat is answered OK only by a leader sure of its quorum, so that an agent behind a cut-off replica notices.
//!
//! Never here: writing heartbeats to the log; what silence does to a worker (the registry).

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use remuda_registry::{AgentId, Command, Millis, ReplicaId, Request, SessionId};
use remuda_wire::convert::request::id_in;
use remuda_wire::raft::v1 as peer;
use remuda_wire::reasons;
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::propose::Propose as _;
use crate::raft::{Node, RelaySink};
use crate::service::Replica;
use crate::service::agent::session_ended;
use crate::service::status::Failure;

pub mod count;

use count::{Core, Owed};

/// Bounds of relaying.
mod limits {
    use std::time::Duration;

    /// Followers relay, and the leader counts, this often.
    pub(super) const TICK: Duration = Duration::from_millis(100);
    /// Open calls are vouched for this often.
    pub(super) const VOUCH: Duration = Duration::from_secs(1);
    /// The state is looked through for new sessions and waiters this often.
    pub(super) const SYNC: Duration = Duration::from_secs(1);
    /// An older heartbeat is thrown away instead of relayed.
    pub(super) const BEAT_AGE_MAX: Duration = Duration::from_secs(1);
    /// A relay that takes longer has failed.
    pub(super) const RELAY: Duration = Duration::from_secs(1);
    /// What the leader owes may take this long.
    pub(super) const PROPOSE: Duration = Duration::from_secs(5);
}

/// What a heartbeat is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The leader's applied revision.
    pub revision: u64,
    /// The leader's term.
    pub term: u64,
    /// Its log time.
    pub log_time_ms: u64,
    /// Beat this often.
    pub interval: Millis,
}

struct Pending {
    agent: AgentId,
    session: SessionId,
    since: Instant,
    reply: oneshot::Sender<Result<Heard, Failure>>,
}

struct Count {
    core: Core,
    term: u64,
    synced: Option<Instant>,
}

/// Sessions and waiters of a replica.
pub struct Liveness {
    node: OnceLock<Node>,
    metrics: Arc<Metrics>,
    count: Mutex<Count>,
    pending: Mutex<Vec<Pending>>,
    told: Mutex<Millis>,
}

impl Liveness {
    /// Liveness with the bounds of heartbeat intervals.
    pub fn new(interval_min: Millis, interval_max: Millis, metrics: Arc<Metrics>) -> Arc<Self> {
        let count = Count { core: Core::new(interval_min, interval_max), term: 0, synced: None };
        let (pending, told) = (Mutex::default(), Mutex::new(interval_min));
        Arc::new(Self { node: OnceLock::new(), metrics, count: Mutex::new(count), pending, told })
    }

    /// Gives it the node, once there is one.
    pub fn attach(&self, node: Node) {
        // Attached once, at start.
        let _ = self.node.set(node);
    }

    /// How often agents should beat, as far as this replica has heard.
    pub fn interval(&self) -> Millis {
        *self.told.lock()
    }

    /// Takes a heartbeat, here or at the leader.
    ///
    /// # Errors
    /// SESSION_ENDED, NO_LEADER.
    pub async fn heard(
        &self,
        replica: &Replica,
        agent: AgentId,
        session: SessionId,
        deadline: Instant,
    ) -> Result<Heard, Failure> {
        let clock = replica.node.clock();
        if let Some(term) = clock.leads_in() {
            if !clock.has_quorum() {
                return Err(Failure::new(reasons::NO_QUORUM, "the leader has not heard from a majority lately"));
            }
            if !self.beat(&replica.node, term, session, replica.node.replica_id()) {
                return Err(session_ended(session));
            }
            let (revision, log_time_ms) = (replica.node.applied().borrow().revision.0, clock.now().0);
            return Ok(Heard { revision, term, log_time_ms, interval: self.interval() });
        }
        let (reply, heard) = oneshot::channel();
        self.pending.lock().push(Pending { agent, session, since: Instant::now(), reply });
        let nobody = || Failure::new(reasons::NO_LEADER, "no leader took the heartbeat");
        let until = deadline.min(Instant::now() + limits::RELAY + limits::BEAT_AGE_MAX);
        match tokio::time::timeout_at(until.into(), heard).await {
            Ok(Ok(heard)) => heard,
            Ok(Err(_)) | Err(_) => Err(nobody()),
        }
    }

    /// Counts a beat. False where the session is not live.
    fn beat(&self, node: &Node, term: u64, session: SessionId, through: ReplicaId) -> bool {
        let now = node.clock().now();
        let mut count = self.count.lock();
        self.enter(&mut count, node, term);
        if count.core.beat(now, session, through) {
            return true;
        }
        drop(count);
        // A session younger than the last look is in the state already.
        if !node.read(|state| state.session(session).is_some()) {
            return false;
        }
        let mut count = self.count.lock();
        Self::sync(&mut count, node, false);
        count.core.beat(now, session, through)
    }

    /// Begins the count of a term.
    fn enter(&self, count: &mut Count, node: &Node, term: u64) {
        if count.term == term {
            return;
        }
        count.term = term;
        count.core.begin();
        Self::sync(count, node, true);
    }

    fn sync(count: &mut Count, node: &Node, first: bool) {
        let (sessions, waiters) = node.read(|state| {
            let sessions: BTreeSet<_> = state.sessions().map(|(session, _)| session).collect();
            let waiters: BTreeSet<_> = state.waiters().map(|waiter| waiter.id).collect();
            (sessions, waiters)
        });
        count.core.sync(node.clock().now(), node.replica_id(), first, sessions, waiters);
        count.synced = Some(Instant::now());
    }

    fn vouch(&self, node: &Node, waiting: &[String]) {
        let now = node.clock().now();
        let ids: Vec<_> = node.read(|state| {
            let ids = waiting.iter().filter_map(|text| id_in(text).ok());
            ids.filter_map(|id| state.waiter_of(&id)).collect()
        });
        let mut count = self.count.lock();
        for id in ids {
            count.core.vouch(now, id);
        }
    }

    /// Counts, relays and vouches until the replica closes.
    pub async fn run(self: Arc<Self>, replica: Arc<Replica>) {
        let mut ticks = tokio::time::interval(limits::TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut vouched = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = replica.closed() => return,
            }
            let vouch = vouched.elapsed() >= limits::VOUCH;
            if vouch {
                vouched = Instant::now();
                replica.pages.sweep();
            }
            match replica.node.clock().leads_in() {
                Some(term) => self.lead(&replica, term, vouch),
                None => self.follow(&replica, vouch),
            }
        }
    }

    fn lead(&self, replica: &Arc<Replica>, term: u64, vouch: bool) {
        let node = &replica.node;
        let owed = {
            let mut count = self.count.lock();
            self.enter(&mut count, node, term);
            if count.synced.is_none_or(|at| at.elapsed() >= limits::SYNC) {
                Self::sync(&mut count, node, false);
            }
            let owed = count.core.tick(node.clock().now());
            *self.told.lock() = count.core.interval();
            self.metrics.silent(count.core.silent());
            owed
        };
        if vouch {
            self.vouch(node, &replica.waiting.list());
            if node.clock().has_quorum() {
                replica.waiting.vouched();
            }
        }
        self.answer_pending(replica);
        self.pay(replica, term, owed);
    }

    /// Heartbeats that came while this replica still followed.
    fn answer_pending(&self, replica: &Arc<Replica>) {
        let pending = std::mem::take(&mut *self.pending.lock());
        for beat in pending {
            let (liveness, replica) = (replica.liveness.clone(), replica.clone());
            tokio::spawn(async move {
                let heard = liveness.heard(&replica, beat.agent, beat.session, Instant::now() + limits::RELAY).await;
                // The caller may have gone.
                let _ = beat.reply.send(heard);
            });
        }
    }

    fn pay(&self, replica: &Replica, term: u64, owed: Owed) {
        if let Some(silent) = owed.alarm {
            self.metrics.alarmed();
            tracing::error!(silent, term, "too many agents fell silent at once: no session is ended for now");
        }
        let sessions = owed.sessions.into_iter().map(|session| Command::EndSession { session });
        let waiters = owed.waiters.into_iter().map(|waiter| Command::DropWaiter { waiter });
        let requests: Vec<Request> = sessions.chain(waiters).map(Request::unmarked).collect();
        if !requests.is_empty() {
            // What does not come through is owed again a second later.
            tokio::spawn(replica.node.propose_in_term(term, requests, Instant::now() + limits::PROPOSE));
        }
    }

    fn follow(&self, replica: &Arc<Replica>, vouch: bool) {
        let mut pending = std::mem::take(&mut *self.pending.lock());
        pending.retain(|beat| beat.since.elapsed() < limits::BEAT_AGE_MAX);
        if pending.is_empty() && !vouch {
            return;
        }
        let beats = pending.iter().map(|beat| peer::RelayedBeat {
            agent_id: beat.agent.to_string(),
            session: beat.session.0,
            age_ms: millis(beat.since.elapsed()),
        });
        let beats: Vec<_> = beats.collect();
        let waiting = if vouch { replica.waiting.list() } else { Vec::new() };
        let (liveness, replica) = (replica.liveness.clone(), replica.clone());
        tokio::spawn(async move {
            let answer = replica.node.relay(beats, waiting, Instant::now() + limits::RELAY).await;
            if answer.is_ok() && vouch {
                replica.waiting.vouched();
            }
            let heard = answer.map_err(|_| Failure::new(reasons::NO_LEADER, "no leader took the heartbeat"));
            liveness.settle(pending, heard);
        });
    }

    fn settle(&self, pending: Vec<Pending>, answer: Result<peer::RelayResponse, Failure>) {
        if let Ok(answer) = &answer {
            *self.told.lock() = Millis(answer.heartbeat_interval_ms);
        }
        for beat in pending {
            let heard = match &answer {
                Err(failure) => Err(failure.clone()),
                Ok(answer) if answer.ended.contains(&beat.session.0) => Err(session_ended(beat.session)),
                Ok(answer) => Ok(Heard {
                    revision: answer.revision,
                    term: answer.term,
                    log_time_ms: answer.log_time_ms,
                    interval: Millis(answer.heartbeat_interval_ms),
                }),
            };
            // The caller may have gone.
            let _ = beat.reply.send(heard);
        }
    }
}

impl RelaySink for Liveness {
    fn relayed(&self, from: ReplicaId, term: u64, request: peer::RelayRequest) -> peer::RelayResponse {
        let Some(node) = self.node.get() else { return peer::RelayResponse::default() };
        let mut ended = Vec::new();
        for beat in request.beats {
            if beat.age_ms <= millis(limits::BEAT_AGE_MAX) && !self.beat(node, term, SessionId(beat.session), from) {
                ended.push(beat.session);
            }
        }
        if !request.waiting.is_empty() {
            self.vouch(node, &request.waiting);
        }
        let heartbeat_interval_ms = self.count.lock().core.interval().0;
        peer::RelayResponse { ended, heartbeat_interval_ms, ..Default::default() }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
