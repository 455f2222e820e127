//! Bringing a replica up: folder, log, state, peer port, its part in the cluster, Raft.
//!
//! ```text
//!   open folder, log, state ── serve Identify ── [log and vote empty: find its part] ── build Raft ── serve all ── run
//! ```
//!
//! Invariants
//! * Nothing but `Identify` is answered before Raft is built, and Raft is not built before this replica knows that it
//!   may be.
//!
//! Never here: clients' ports.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use remuda_registry::ReplicaId;
use remuda_wire::raft::v1::peer_service_server::PeerServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::Raft;
use super::batch::Batcher;
use super::bootstrap::{Introduction, Part, ReplicaLost, find_part};
use super::clock::Clock;
use super::identity::{DataFolder, FolderError};
use super::log::{LogOptions, LogStore};
use super::net::caller::Parties;
use super::net::channel::{Channels, MESSAGE_BYTES_MAX};
use super::net::client::Network;
use super::net::service::Service;
use super::node::{Inner, Leadership, Node, RelaySink, Sink, Slot};
use super::read::{ReadIndex, ask_quorum};
use super::state::folder::Folder;
use super::state::record::AppliedRecord;
use super::state::shared::Mark;
use super::state::{Shared, StateMachine};
use super::{driver, read};
use crate::{digest, failpoint, guard};

/// How a replica is set up.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// This replica's number.
    pub replica_id: ReplicaId,
    /// The peer endpoints (`host:port`) of all replicas, this one included.
    pub peers: BTreeMap<ReplicaId, String>,
    /// Where the peer port listens.
    pub peer_listen: SocketAddr,
    /// Where clients reach this replica, `host:port`.
    pub client_advertise: String,
    /// Entries between two snapshots.
    pub snapshot_threshold: u64,
    /// Entries kept after a snapshot: followers that lag less catch up from the log.
    pub log_keep: u64,
    /// Free bytes below which what makes the state grow is refused.
    pub disk_reserve_bytes: u64,
    /// Raft's clocks.
    pub timing: Timing,
}

impl NodeSettings {
    /// The defaults for a replica.
    pub fn new(
        data_dir: PathBuf,
        replica_id: ReplicaId,
        peers: BTreeMap<ReplicaId, String>,
        peer_listen: SocketAddr,
    ) -> NodeSettings {
        NodeSettings {
            data_dir,
            replica_id,
            peers,
            peer_listen,
            client_advertise: String::new(),
            snapshot_threshold: 200_000,
            log_keep: 100_000,
            disk_reserve_bytes: 256 << 20,
            timing: Timing::default(),
        }
    }
}

/// Raft's clocks.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Pause between heartbeats; also their time limit, so above the disk's slowest sync.
    pub heartbeat: Duration,
    /// Shortest time without a leader before an election.
    pub election_min: Duration,
    /// Longest; also the leader's lease.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
        }
    }
}

/// Who listens to the node.
#[derive(Clone)]
pub struct Hooks {
    /// Hears what is applied.
    pub sink: Arc<dyn Sink>,
    /// Takes what followers relay.
    pub relay: Arc<dyn RelaySink>,
    /// Hears what the start waits for.
    pub progress: watch::Sender<String>,
}

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log does not open.
    #[error(transparent)]
    Log(#[from] super::log::OpenError),
    /// The state does not open.
    #[error("the state does not open: {0}")]
    State(io::Error),
    /// The peer port cannot be used.
    #[error("the peer port {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// This replica's data is gone.
    #[error(transparent)]
    Lost(#[from] ReplicaLost),
    /// The settings do not fit together.
    #[error("settings: {0}")]
    Settings(String),
    /// openraft does not start.
    #[error("raft: {0}")]
    Raft(String),
}

/// What the folder holds, opened.
struct Opened {
    folder: DataFolder,
    log: LogStore,
    shared: Arc<Shared>,
    record: AppliedRecord,
    marks: mpsc::UnboundedReceiver<Mark>,
}

impl Node {
    /// Starts a replica and returns once it is a member of a cluster that exists. Waits for its peers as long as it
    /// takes; dropping the future gives up.
    ///
    /// # Errors
    /// [`StartError`]. The process should then end.
    pub async fn start(settings: NodeSettings, hooks: Hooks) -> Result<Node, StartError> {
        let address = settings.peer_listen;
        let listener = TcpListener::bind(address).await.map_err(|error| StartError::Listen { address, error })?;
        Node::start_on(settings, hooks, listener).await
    }

    /// As [`Node::start`], on a listener that is bound already.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_on(settings: NodeSettings, hooks: Hooks, listener: TcpListener) -> Result<Node, StartError> {
        let config = Arc::new(config(&settings)?);
        let opened = open(&settings, &hooks).await?;
        let identity = opened.folder.identity;
        let own = settings.peers.get(&settings.replica_id);
        let own =
            own.ok_or_else(|| StartError::Settings(format!("replica {} is not among the peers", identity.replica)))?;
        let introduction = Arc::new(Introduction {
            identity,
            empty: opened.log.is_empty(),
            peer: own.clone(),
            client: settings.client_advertise.clone(),
        });
        let slot = Slot::default();
        let (stop_serving, stopping) = mpsc::channel(1);
        let service = Service::new(Arc::clone(&introduction), Arc::clone(&slot));
        let server = Server { stop: Some(stop_serving.clone()) };
        tokio::spawn(serve(listener, service, stopping));
        let channels = Arc::new(Channels::default());
        let part = match introduction.empty {
            true => {
                let peers = settings.peers.iter().map(|(id, endpoint)| (id.0, endpoint.clone())).collect();
                find_part(&introduction, &peers, &channels, &hooks.progress).await?
            }
            false => Part::Join,
        };
        let node = build(&settings, &hooks, opened, config, channels, (stop_serving, Arc::clone(&slot))).await?;
        node.raft().run();
        *slot.write() = Some(node.clone());
        server.keep();
        tokio::spawn(driver::run(node.clone()));
        if let Part::Initialize(members) = part {
            failpoint::hit("bootstrap.before_initialize");
            tracing::info!(?members, "initializing the cluster");
            node.raft().initialize(members).await.map_err(|error| StartError::Raft(error.to_string()))?;
        }
        node.await_cluster(&hooks.progress).await?;
        Ok(node)
    }

    /// Waits until the bootstrap command is applied here.
    async fn await_cluster(&self, progress: &watch::Sender<String>) -> Result<(), StartError> {
        progress.send_replace("waiting for the cluster's first entries".to_owned());
        let mut applied = self.applied();
        while self.read(|state| state.cluster().is_none()) {
            tokio::select! {
                // The sender lives as long as the node, which is held here.
                _ = applied.changed() => {}
                reason = self.stopped() => return Err(StartError::Raft(format!("{reason:?}"))),
            }
        }
        progress.send_replace(String::new());
        Ok(())
    }
}

/// Ends the peer port when a start is given up.
struct Server {
    stop: Option<mpsc::Sender<()>>,
}

impl Server {
    fn keep(mut self) {
        self.stop = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = &self.stop {
            // It may have ended by itself.
            let _ = stop.try_send(());
        }
    }
}

async fn open(settings: &NodeSettings, hooks: &Hooks) -> Result<Opened, StartError> {
    let (data_dir, replica, sink) = (settings.data_dir.clone(), settings.replica_id.0, Arc::clone(&hooks.sink));
    let work = move || {
        let folder = DataFolder::open(&data_dir, replica)?;
        let log = LogStore::open(&folder.log(), &LogOptions::default())?;
        folder.check("log", Some(log.identity()))?;
        let (marks, received) = mpsc::unbounded_channel();
        let state = Folder::new(folder.state());
        let (shared, record) = Shared::open(state, folder.identity, sink, marks).map_err(StartError::State)?;
        Ok(Opened { folder, log, shared, record, marks: received })
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StartError::State(io::Error::other(error)))?
}

async fn build(
    settings: &NodeSettings,
    hooks: &Hooks,
    opened: Opened,
    config: Arc<Config>,
    channels: Arc<Channels>,
    (stop_serving, slot): (mpsc::Sender<()>, Slot),
) -> Result<Node, StartError> {
    let identity = opened.folder.identity;
    let parties = Arc::new(Parties::new(identity));
    let cluster = opened.shared.read(|state| state.cluster().map(ToString::to_string)).unwrap_or_default();
    parties.learn(cluster, opened.record.membership.membership().clone());
    let clock = Arc::new(Clock::new(settings.timing.election_max));
    let stall = settings.timing.election_max * 2;
    let (channels_of, parties_of, clock_of) = (Arc::clone(&channels), Arc::clone(&parties), Arc::clone(&clock));
    let network = Network { channels: channels_of, parties: parties_of, clock: clock_of, stall };
    let machine = StateMachine::new(Arc::clone(&opened.shared), opened.record);
    let handle = opened.log.handle();
    let raft = Raft::build(identity.replica, config, network, opened.log, machine).await;
    let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
    let asked = raft.clone();
    let confirms = ReadIndex::start(move || {
        let raft = asked.clone();
        Box::pin(async move { ask_quorum(&raft).await })
    });
    let inner = Inner {
        batcher: Batcher::start(raft.clone(), Arc::clone(&clock)),
        raft,
        shared: opened.shared,
        log: handle,
        clock,
        parties,
        channels,
        confirms,
        reads: OnceLock::new(),
        relay: Arc::clone(&hooks.relay),
        leadership: watch::Sender::new(Leadership::default()),
        disk_is_low: AtomicBool::new(false),
        stop: watch::Sender::new(None),
        stop_serving,
        slot,
        _folder: opened.folder,
    };
    let node = Node { inner: Arc::new(inner) };
    let weak = Arc::downgrade(&node.inner);
    let reads = ReadIndex::start(move || {
        let inner = weak.upgrade();
        Box::pin(async move {
            let inner = inner.ok_or(super::ReadError::Stopping)?;
            Node { inner }.ask_leader(read::ROUND_MAX).await
        })
    });
    assert!(node.inner.reads.set(reads).is_ok(), "set here only");
    guard::start(&node, settings.data_dir.clone(), settings.disk_reserve_bytes);
    digest::start(&node, opened.marks);
    Ok(node)
}

async fn serve(listener: TcpListener, service: Service, mut stopping: mpsc::Receiver<()>) {
    let service = PeerServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move {
            stopping.recv().await;
        });
    // By then Raft has stopped, and with it every append stream: connections end as soon as they have said so.
    if let Err(error) = server.await {
        tracing::error!(%error, "the peer port has ended");
    }
}

/// openraft's settings.
fn config(settings: &NodeSettings) -> Result<Config, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let timing = settings.timing;
    let config = Config {
        cluster_name: "remuda".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        heartbeat_min_interval: Some(millis(timing.heartbeat) / 2),
        // A rejoining replica must not raise the term.
        enable_pre_vote: Some(true),
        // A restarted leader may have sent entries that it does not have: it must be elected anew.
        enable_leader_restore: Some(false),
        // Else the heartbeats of a leader without a quorum keep the others from electing.
        quorum_loss_probe_interval: Some(millis(timing.election_max) * 2),
        allow_log_reversion: None,
        max_payload_entries: 1024,
        max_append_entries: Some(4096),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_threshold),
        max_in_snapshot_log_to_keep: settings.log_keep,
        purge_batch_size: (settings.log_keep / 10).clamp(1, 10_000),
        install_snapshot_timeout: 60_000,
        backoff: "50ms 100ms 200ms ...1s".to_owned(),
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Settings(error.to_string()))
}
