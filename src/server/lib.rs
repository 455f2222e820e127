//! One Remuda replica: everything from its listeners to its log.
//!
//! ```text
//!   client port ──> front ──> services ──> propose ──> raft ──> registry::apply ──> rows
//!                              │  ^                                  │
//!                              │  └──── hub <──── narrator <─────────┘
//!   coordinator, liveness, renewals: propose for themselves          admin port: figures and health
//! ```
//!
//! [`run`] brings it up in the order in which it can be useful: the admin port first, then the node, which may wait for
//! its peers, then the client port. It goes down in the reverse order and never takes longer than its deadline.
//!
//! Never here: rules about workers (registry), gRPC codes (`service/status.rs`), openraft (`raft/`).

pub mod admin;
pub mod config;
pub mod coordinator;
pub(crate) mod digest;
pub mod failpoint;
pub(crate) mod guard;
pub mod liveness;
pub mod metrics;
pub mod propose;
pub mod raft;
pub mod renewals;
pub mod serve;
pub mod service;
pub mod waiting;
pub mod watch;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use remuda_registry::{Millis, ReplicaId};
use tokio::net::TcpListener;
use tokio::sync::watch as signal;
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;

use crate::config::ServerConfig;
use admin::Admin;
use liveness::Liveness;
use metrics::Metrics;
use raft::{Hooks, Node, NodeSettings, StartError, StopReason, Timing};
use renewals::Renewals;
use service::Replica;
use service::pages::{Issuer, Pages};
use waiting::Waiting;
use watch::Hub;
use watch::narrate::Narrator;

/// Why a replica ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be used.
    #[error("{which} port {address}: {source}")]
    Listen {
        /// Which port.
        which: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The node does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The reflection service cannot be made.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Raft, log or state failed while it ran.
    #[error("this replica stops: {0}")]
    Failed(String),
}

/// Parts that exist before the node does.
struct Parts {
    metrics: Arc<Metrics>,
    hub: Arc<Hub>,
    narrator: Arc<Narrator>,
    liveness: Arc<Liveness>,
    admin: Arc<Admin>,
    closing: signal::Sender<bool>,
    progress: signal::Sender<String>,
}

impl Parts {
    fn new(config: &ServerConfig) -> Self {
        let metrics = Arc::new(Metrics::new());
        let hub = Hub::new(config.watch.ring_events);
        let narrator = Narrator::new(hub.clone(), metrics.clone());
        let (min, max) = (Millis(config.agents.heartbeat_min_ms), Millis(config.agents.heartbeat_max_ms));
        let liveness = Liveness::new(min, max, metrics.clone());
        let (closing, closed) = signal::channel(false);
        let (progress, waits_for) = signal::channel("starting".to_owned());
        let admin = Arc::new(Admin {
            replica: OnceLock::new(),
            progress: waits_for,
            metrics: metrics.clone(),
            narrator: narrator.clone(),
            closing: closed,
        });
        Self { metrics, hub, narrator, liveness, admin, closing, progress }
    }

    fn replica(&self, node: &Node, config: ServerConfig) -> Arc<Replica> {
        self.narrator.attach(node.clone());
        self.liveness.attach(node.clone());
        self.metrics.attach(node);
        let issuer = Issuer { cluster: node.cluster_id(), replica: node.replica_id().0, run: rand::random() };
        let replica = Arc::new(Replica {
            node: node.clone(),
            hub: self.hub.clone(),
            liveness: self.liveness.clone(),
            renewals: Renewals::new(),
            waiting: Waiting::new(),
            pages: Pages::default(),
            issuer,
            metrics: self.metrics.clone(),
            settings: config,
            closing: self.closing.subscribe(),
        });
        // Set once, here.
        let _ = self.admin.replica.set(replica.clone());
        replica
    }
}

/// Runs one replica until `shutdown` is cancelled, then ends it in good order within the configured deadline.
///
/// # Errors
/// [`ServeError`]: it could not start, or had to stop by itself.
pub async fn run(config: ServerConfig, shutdown: CancellationToken) -> Result<(), ServeError> {
    let clients = bind("client", config.listen.client).await?;
    let operators = bind("admin", config.listen.admin).await?;
    let parts = Parts::new(&config);
    let admin = tokio::spawn(admin::serve(operators, parts.admin.clone()));
    let hooks = Hooks { sink: parts.narrator.clone(), relay: parts.liveness.clone(), progress: parts.progress.clone() };
    let started = tokio::select! {
        node = Node::start(node_settings(&config), hooks) => Some(node?),
        () = shutdown.cancelled() => None,
    };
    let Some(node) = started else {
        parts.closing.send_replace(true);
        admin.abort();
        return Ok(());
    };
    let (transfer, patience) = (config.shutdown.transfer_ms, config.shutdown.deadline_ms);
    let (transfer, patience) = (Duration::from_millis(transfer), Duration::from_millis(patience));
    let replica = parts.replica(&node, config);
    let (routes, reporter) = serve::routes(&replica)?;
    tokio::spawn(replica.liveness.clone().run(replica.clone()));
    tokio::spawn(replica.renewals.clone().run(replica.clone()));
    tokio::spawn(coordinator::run(replica.clone()));
    tokio::spawn(report_health(reporter.clone(), replica.clone()));
    let closed = replica.clone();
    let serving = async move { closed.closed().await };
    let served = tokio::spawn(serve::serve(clients, routes, replica.clone(), serving));
    tracing::info!(replica = node.replica_id().0, client = %replica.settings.client_endpoint(), "serving");
    let reason = tokio::select! {
        () = shutdown.cancelled() => None,
        reason = node.stopped() => Some(reason),
    };
    let ending = async {
        serve::set_health(&reporter, false).await;
        if reason.is_none() {
            hand_over(&node, transfer).await;
        }
        parts.closing.send_replace(true);
        if let Err(error) = served.await {
            tracing::warn!(%error, "the client port failed");
        }
        // The hand-over has had its time.
        node.shutdown(Duration::ZERO).await;
    };
    if tokio::time::timeout(patience, ending).await.is_err() {
        tracing::warn!("not everything had ended by the deadline; what is left is dropped");
    }
    admin.abort();
    match reason {
        None | Some(StopReason::Asked) => Ok(()),
        Some(StopReason::Fatal(why) | StopReason::Diverged(why)) => Err(ServeError::Failed(why)),
    }
}

/// Gives leadership away, so that clients meet no election.
async fn hand_over(node: &Node, patience: Duration) {
    if node.clock().leads_in().is_none() {
        return;
    }
    match node.transfer_leader(None, Instant::now() + patience).await {
        Ok(to) => tracing::info!(to = to.0, "another replica leads"),
        Err(error) => tracing::warn!(%error, "leadership could not be handed over"),
    }
}

/// Says in the health protocol what readiness is, until the replica closes.
async fn report_health(reporter: HealthReporter, replica: Arc<Replica>) {
    reporter.set_service_status("remuda-liveness", tonic_health::ServingStatus::Serving).await;
    let mut told = None;
    loop {
        if *replica.closing.borrow() {
            return;
        }
        let serving = replica.in_contact().is_ok();
        if told != Some(serving) {
            serve::set_health(&reporter, serving).await;
            told = Some(serving);
        }
        tokio::select! {
            () = tokio::time::sleep(serve::HEALTH_EVERY) => {}
            () = replica.closed() => return,
        }
    }
}

async fn bind(which: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { which, address, source })
}

fn node_settings(config: &ServerConfig) -> NodeSettings {
    let mut peers: std::collections::BTreeMap<ReplicaId, String> =
        config.cluster.iter().map(|(id, member)| (ReplicaId(*id), member.peer.clone())).collect();
    let id = ReplicaId(config.replica_id);
    peers.insert(id, config.peer_endpoint());
    let timing = Timing {
        heartbeat: Duration::from_millis(config.raft.heartbeat_ms),
        election_min: Duration::from_millis(config.raft.election_min_ms),
        election_max: Duration::from_millis(config.raft.election_max_ms),
    };
    NodeSettings {
        client_advertise: config.client_endpoint(),
        snapshot_threshold: config.raft.snapshot_entries,
        log_keep: config.raft.log_keep_entries,
        disk_reserve_bytes: config.storage.disk_reserve_bytes,
        timing,
        ..NodeSettings::new(config.data_dir.clone(), id, peers, config.listen.peer)
    }
}
