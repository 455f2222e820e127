//! Figures for Prometheus, one registry per replica.
//!
//! Counters are moved where things happen: by calls as they are answered, and by events as they are applied. Gauges are
//! set when they are asked for. No worker, job or agent is a label: only pool, state, reason, method, code.
//!
//! Never here: decisions; the state's own statistics, which are replicated.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use remuda_registry::event::{ReturnResult, WaiterEnd, WorkerMoved};
use remuda_registry::plan::Receipt;
use remuda_registry::refusal::Refusal;
use remuda_registry::worker::{StateKind, Step, Verdict};
use remuda_registry::{Event, Fact, Millis, PoolId};
use remuda_wire::convert::event::verdict_out;
use remuda_wire::convert::word;
use remuda_wire::convert::worker::reason_out;

use crate::propose::ProposeError;
use crate::raft::Node;

type Seconds = Family<One, Histogram, fn() -> Histogram>;

/// One label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct One {
    /// Pool, step, reason, stream: what the family says.
    of: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolState {
    pool: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolResult {
    pool: String,
    result: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolOnly {
    pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    grpc_service: String,
    grpc_method: String,
    grpc_code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    grpc_service: String,
    grpc_method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: String,
}

/// All figures of a replica.
pub struct Metrics {
    registry: Mutex<Registry>,
    handled: Family<Called, Counter>,
    handling: Family<Method, Histogram, fn() -> Histogram>,
    workers: Family<PoolState, Gauge>,
    transitions: Family<PoolResult, Counter>,
    returns: Family<PoolResult, Counter>,
    return_seconds: Family<PoolOnly, Histogram, fn() -> Histogram>,
    step_seconds: Seconds,
    health: Family<One, Counter>,
    acquires: Family<PoolResult, Counter>,
    acquire_seconds: Family<PoolOnly, Histogram, fn() -> Histogram>,
    leases: Family<PoolOnly, Counter>,
    leases_reused: Family<PoolOnly, Counter>,
    leases_expired: Family<PoolOnly, Counter>,
    waiters: Family<PoolOnly, Gauge>,
    waiters_ended: Family<PoolResult, Counter>,
    maintenance: Family<One, Counter>,
    fenced: Family<One, Counter>,
    refused: Family<PoolResult, Counter>,
    failed: Family<One, Counter>,
    watching: Family<One, Gauge>,
    silent: Gauge,
    alarms: Counter,
    renewals: Counter,
    raft: RaftGauges,
}

/// What the node says of itself.
#[derive(Default)]
struct RaftGauges {
    has_leader: Gauge,
    is_leader: Gauge,
    term: Gauge,
    leader_changes: Counter,
    last_leader: AtomicU64,
    applied: Gauge,
    last_log: Gauge,
    snapshot: Gauge,
    lag: Family<Peer, Gauge>,
    contact_seconds: Gauge<f64, AtomicU64>,
    disk_low: Gauge,
    events: Gauge,
    outcomes: Gauge,
}

fn calls() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 18))
}

fn long() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Figures at zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::default()),
            handled: Family::default(),
            handling: Family::new_with_constructor(calls),
            workers: Family::default(),
            transitions: Family::default(),
            returns: Family::default(),
            return_seconds: Family::new_with_constructor(long),
            step_seconds: Family::new_with_constructor(long),
            health: Family::default(),
            acquires: Family::default(),
            acquire_seconds: Family::new_with_constructor(long),
            leases: Family::default(),
            leases_reused: Family::default(),
            leases_expired: Family::default(),
            waiters: Family::default(),
            waiters_ended: Family::default(),
            maintenance: Family::default(),
            fenced: Family::default(),
            refused: Family::default(),
            failed: Family::default(),
            watching: Family::default(),
            silent: Gauge::default(),
            alarms: Counter::default(),
            renewals: Counter::default(),
            raft: RaftGauges::default(),
        };
        metrics.register_calls();
        metrics.register_pools();
        metrics.register_raft();
        metrics
    }

    fn register_calls(&self) {
        let mut registry = self.registry.lock();
        registry.register("grpc_server_handled", "Calls by how they ended", self.handled.clone());
        registry.register_with_unit("grpc_server_handling", "Time of calls", Unit::Seconds, self.handling.clone());
        let ours = registry.sub_registry_with_prefix("remuda");
        ours.register("refusals", "Commands that the registry refused", self.refused.clone());
        ours.register("fencing_rejections", "Stale epochs, runs and sessions that were refused", self.fenced.clone());
        ours.register("watchers", "Open streams by kind", self.watching.clone());
        ours.register("renewals", "Lease renewals proposed here", self.renewals.clone());
        ours.register("agents_silent", "Sessions that this leader finds silent", self.silent.clone());
        ours.register("mass_silence_alarms", "Silences too many at once to be believed", self.alarms.clone());
    }

    fn register_pools(&self) {
        let mut registry = self.registry.lock();
        let ours = registry.sub_registry_with_prefix("remuda");
        ours.register("workers", "Workers by state", self.workers.clone());
        ours.register("transitions", "Transitions of workers by step", self.transitions.clone());
        ours.register("returns", "Returns that ended, by result and reason", self.returns.clone());
        let seconds = self.return_seconds.clone();
        ours.register_with_unit("return", "Log time from a return's begin to its end", Unit::Seconds, seconds);
        let seconds = self.step_seconds.clone();
        ours.register_with_unit("return_step", "Time of cleaning steps as agents measured it", Unit::Seconds, seconds);
        ours.register("health_checks", "Receipts by verdict", self.health.clone());
        ours.register("acquires", "Acquires by result", self.acquires.clone());
        let seconds = self.acquire_seconds.clone();
        ours.register_with_unit("acquire_wait", "Time from an acquire to its answer", Unit::Seconds, seconds);
        ours.register("leases", "Leases granted", self.leases.clone());
        ours.register("leases_reused", "Leases granted on a worker that had served before", self.leases_reused.clone());
        ours.register("leases_expired", "Leases that ran out", self.leases_expired.clone());
        ours.register("queue_length", "Acquires that wait", self.waiters.clone());
        ours.register("waiters_ended", "Waiters by how they ended", self.waiters_ended.clone());
        ours.register("maintenance", "Workers taken out of use, by reason", self.maintenance.clone());
    }

    fn register_raft(&self) {
        let mut registry = self.registry.lock();
        let ours = registry.sub_registry_with_prefix("remuda");
        ours.register("events_kept", "Events in the state", self.raft.events.clone());
        ours.register("outcomes_kept", "Outcomes of requests in the state", self.raft.outcomes.clone());
        let raft = ours.sub_registry_with_prefix("raft");
        raft.register("has_leader", "1 while a leader is known", self.raft.has_leader.clone());
        raft.register("is_leader", "1 while this replica leads", self.raft.is_leader.clone());
        raft.register("term", "Term", self.raft.term.clone());
        raft.register("leader_changes", "Leaders seen after the first", self.raft.leader_changes.clone());
        raft.register("applied_index", "Last applied revision", self.raft.applied.clone());
        raft.register("last_log_index", "Last index of the log", self.raft.last_log.clone());
        raft.register("snapshot_index", "Index of the last snapshot", self.raft.snapshot.clone());
        raft.register("replication_lag_entries", "Entries that a peer has not applied", self.raft.lag.clone());
        let contact = self.raft.contact_seconds.clone();
        raft.register_with_unit("leader_last_contact", "Since the leader was heard of", Unit::Seconds, contact);
        raft.register("proposals_failed", "Proposals without an answer, by why", self.failed.clone());
        raft.register("disk_low", "1 below the disk reserve", self.raft.disk_low.clone());
    }

    /// Registers the log's own figures.
    pub fn attach(&self, node: &Node) {
        let mut registry = self.registry.lock();
        let raft = registry.sub_registry_with_prefix("remuda_raft");
        node.log().metrics().register(raft);
    }

    /// All figures in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }

    /// A call ended.
    pub fn handled(&self, path: &str, code: tonic::Code, took: Duration) {
        let (grpc_service, grpc_method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        let known = grpc_service.starts_with("remuda.") || grpc_service.starts_with("grpc.");
        // A path that nobody serves is the caller's text: it must not become a label.
        let known = known && code != tonic::Code::Unimplemented;
        let (service, method) = if known { (grpc_service, grpc_method) } else { ("unknown", "unknown") };
        let (grpc_service, grpc_method) = (service.to_owned(), method.to_owned());
        let grpc_code = format!("{code:?}");
        let seconds = self
            .handling
            .get_or_create_owned(&Method { grpc_service: grpc_service.clone(), grpc_method: grpc_method.clone() });
        seconds.observe(took.as_secs_f64());
        self.handled.get_or_create_owned(&Called { grpc_service, grpc_method, grpc_code }).inc();
    }

    /// An acquire was answered.
    pub fn acquired(&self, pool: &PoolId, result: &str, took: Duration) {
        let pool = pool.to_string();
        self.acquire_seconds.get_or_create_owned(&PoolOnly { pool: pool.clone() }).observe(took.as_secs_f64());
        self.acquires.get_or_create_owned(&PoolResult { pool, result: result.to_owned(), reason: String::new() }).inc();
    }

    /// The registry refused a command.
    pub fn refused(&self, command: &str, refusal: &Refusal) {
        let reason = remuda_wire::reasons::of_refusal(refusal.code()).name.to_owned();
        if matches!(
            refusal,
            Refusal::StaleLease { .. }
                | Refusal::LeaseEnded { .. }
                | Refusal::StaleRun { .. }
                | Refusal::SessionEnded { .. }
                | Refusal::StaleIncarnation { .. }
        ) {
            self.fenced.get_or_create_owned(&One { of: reason.clone() }).inc();
        }
        let labels = PoolResult { pool: String::new(), result: command.to_owned(), reason };
        self.refused.get_or_create_owned(&labels).inc();
    }

    /// A proposal had no answer.
    pub fn unanswered(&self, error: &ProposeError) {
        let of = match error {
            ProposeError::NoLeader { .. } => "NO_LEADER",
            ProposeError::NotAccepted { .. } => "NOT_ACCEPTED",
            ProposeError::Unknown { .. } => "OUTCOME_UNKNOWN",
        };
        self.failed.get_or_create_owned(&One { of: of.to_owned() }).inc();
    }

    /// A receipt was judged.
    pub fn checked(&self, verdict: &Verdict) {
        self.health.get_or_create_owned(&One { of: verdict_out(verdict) }).inc();
    }

    /// A receipt came in.
    pub fn stepped(&self, receipt: &Receipt) {
        for step in &receipt.steps {
            let seconds = self.step_seconds.get_or_create_owned(&One { of: step.name.to_string() });
            seconds.observe(seconds_of(step.took));
        }
    }

    /// Renewals were proposed.
    pub fn renewed(&self, count: usize) {
        self.renewals.inc_by(count as u64);
    }

    /// So many sessions are silent.
    pub fn silent(&self, count: usize) {
        self.silent.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Too many sessions fell silent at once.
    pub fn alarmed(&self) {
        self.alarms.inc();
    }

    /// Counts an open stream until the guard is dropped.
    pub fn watching(self: &Arc<Self>, kind: &str) -> Watching {
        let gauge = self.watching.get_or_create_owned(&One { of: kind.to_owned() });
        gauge.inc();
        Watching(gauge)
    }

    /// An event was applied.
    pub fn happened(&self, event: &Event) {
        match &event.fact {
            Fact::Worker(moved) => self.moved(moved),
            Fact::ReturnEnded(ended) => {
                let pool = ended.worker.pool.to_string();
                let (result, reason) = match &ended.result {
                    ReturnResult::Failed(reason) => ("FAILED".to_owned(), reason_out(reason).0),
                    ReturnResult::Diverted(then) => ("DIVERTED".to_owned(), word(&then.to_string())),
                    ReturnResult::Clean | ReturnResult::Spent | ReturnResult::Lost | ReturnResult::Overtaken => {
                        (word(&ended.result.to_string()), String::new())
                    }
                };
                let seconds = self.return_seconds.get_or_create_owned(&PoolOnly { pool: pool.clone() });
                seconds.observe(seconds_of(ended.took));
                self.returns.get_or_create_owned(&PoolResult { pool, result, reason }).inc();
            }
            Fact::WaiterEnded { pool, end, .. } => {
                let result = match end {
                    WaiterEnd::Granted { .. } => "GRANTED",
                    WaiterEnd::Cancelled => "CANCELLED",
                    WaiterEnd::Dropped => "DROPPED",
                    WaiterEnd::Expired => "EXPIRED",
                    WaiterEnd::PoolDeleted => "POOL_DELETED",
                };
                let (pool, result, reason) = (pool.to_string(), result.to_owned(), String::new());
                self.waiters_ended.get_or_create_owned(&PoolResult { pool, result, reason }).inc();
            }
            Fact::WorkerNoted { .. }
            | Fact::PoolCreated { .. }
            | Fact::PoolUpdated { .. }
            | Fact::PoolDeleted { .. }
            | Fact::SessionOpened { .. }
            | Fact::SessionEnded { .. }
            | Fact::WaiterQueued { .. }
            | Fact::Bootstrapped { .. }
            | Fact::FeatureLevelRaised { .. }
            | Fact::DigestAgreed { .. }
            | Fact::DigestDiverged { .. } => {}
        }
    }

    fn moved(&self, moved: &WorkerMoved) {
        let pool = moved.worker.pool.to_string();
        let result = moved.step.map_or_else(|| word(moved.name()), |step| word(&step.to_string()));
        let reason = moved.to.map(|to| word(&to.to_string())).unwrap_or_default();
        self.transitions.get_or_create_owned(&PoolResult { pool: pool.clone(), result, reason }).inc();
        if moved.step == Some(Step::Acquire) {
            self.leases.get_or_create_owned(&PoolOnly { pool: pool.clone() }).inc();
        }
        let expired = moved.cause == Some(remuda_registry::worker::Cause::LeaseExpired);
        if moved.step == Some(Step::EndLease) && expired {
            self.leases_expired.get_or_create_owned(&PoolOnly { pool }).inc();
        }
        if let Some(reason) = &moved.reason {
            self.maintenance.get_or_create_owned(&One { of: reason_out(reason).0 }).inc();
        }
    }

    /// Sets what is asked of the node and the state.
    pub fn look(&self, node: &Node) {
        let status = node.status();
        let raft = &self.raft;
        let leader = status.leadership.leader.as_ref().map_or(0, |leader| leader.id.0);
        raft.has_leader.set(i64::from(leader > 0));
        raft.is_leader.set(i64::from(status.leadership.leads));
        raft.term.set(signed(status.own.term));
        let last = raft.last_leader.swap(leader, Ordering::Relaxed);
        if last != leader && last != 0 && leader != 0 {
            raft.leader_changes.inc();
        }
        raft.applied.set(signed(status.own.applied));
        raft.last_log.set(signed(status.own.last_log));
        raft.snapshot.set(signed(status.own.snapshot));
        raft.contact_seconds.set(node.clock().contact_age().map_or(f64::INFINITY, |age| age.as_secs_f64()));
        raft.disk_low.set(i64::from(status.disk_is_low));
        self.workers.clear();
        self.waiters.clear();
        node.read(|state| {
            raft.events.set(signed(state.events_count()));
            raft.outcomes.set(i64::try_from(state.outcomes_count()).unwrap_or(i64::MAX));
            for pool in state.pools() {
                let counts = state.pool_counts(&pool.id).unwrap_or_default();
                let name = pool.id.to_string();
                for (kind, count) in StateKind::ALL.iter().zip(counts.by_state) {
                    let labels = PoolState { pool: name.clone(), state: word(&kind.to_string()) };
                    self.workers.get_or_create_owned(&labels).set(signed(count));
                }
                self.waiters.get_or_create_owned(&PoolOnly { pool: name.clone() }).set(signed(counts.waiting));
                let figures = state.statistics(&pool.id);
                let reused = figures.map_or(0, |figures| figures.leases_reused);
                let counter = self.leases_reused.get_or_create_owned(&PoolOnly { pool: name });
                counter.inc_by(reused.saturating_sub(counter.get()));
            }
        });
    }

    /// Sets how far the peers are behind; asks them.
    pub async fn look_at_peers(&self, node: &Node) {
        let own = node.applied().borrow().revision.0;
        for (id, _, status) in node.cluster().await {
            if let Ok(status) = status
                && id != node.replica_id()
            {
                let lag = self.raft.lag.get_or_create_owned(&Peer { peer: id.to_string() });
                lag.set(signed(own.saturating_sub(status.applied)));
            }
        }
    }
}

/// Counts one open stream.
pub struct Watching(Gauge<i64, AtomicI64>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn seconds_of(millis: Millis) -> f64 {
    Duration::from_millis(millis.0).as_secs_f64()
}
