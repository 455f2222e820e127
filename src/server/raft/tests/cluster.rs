//! Three replicas in one process, for tests: real TCP, real folders, and a look at what each published.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use remuda_registry::{Command, ReplicaId, Request, Revision};
use remuda_wire::raft::v1 as peer;
use tempfile::TempDir;
use tokio::sync::watch;

use super::ports::Ports;
use crate::propose::{Committed, Propose, Proposed};
use crate::raft::log::{LogOptions, LogStore};
use crate::raft::{Hooks, Node, NodeSettings, Published, RelaySink, Sink, StartError};

/// Nothing here takes longer on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What a replica published.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) published: Mutex<Vec<(Revision, usize)>>,
    pub(super) jumps: Mutex<Vec<Revision>>,
}

impl Sink for Recorder {
    fn published(&self, published: Published) {
        self.published.lock().push((published.revision, published.events.len()));
    }

    fn jumped(&self, revision: Revision) {
        self.jumps.lock().push(revision);
    }
}

impl RelaySink for Recorder {
    fn relayed(&self, from: ReplicaId, _term: u64, request: peer::RelayRequest) -> peer::RelayResponse {
        let ended = request.beats.iter().map(|beat| beat.session + from.0).collect();
        peer::RelayResponse { ended, heartbeat_interval_ms: 1_000, ..Default::default() }
    }
}

/// Up to three replicas.
pub(super) struct Cluster {
    root: PathBuf,
    first_port: u16,
    /// What was taken for this cluster alone.
    _own: Option<(TempDir, Ports)>,
    snapshot_threshold: u64,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) recorders: BTreeMap<u64, Arc<Recorder>>,
}

impl Cluster {
    /// Nothing runs yet.
    pub(super) fn new(snapshot_threshold: u64) -> Cluster {
        let (folder, ports) = (TempDir::new().unwrap(), Ports::take());
        let cluster = Cluster::at(folder.path(), ports.first(), snapshot_threshold);
        Cluster { _own: Some((folder, ports)), ..cluster }
    }

    /// A cluster whose folder and ports somebody else keeps.
    pub(super) fn at(root: &Path, first_port: u16, snapshot_threshold: u64) -> Cluster {
        let (nodes, recorders) = (BTreeMap::new(), BTreeMap::new());
        Cluster { root: root.to_owned(), first_port, _own: None, snapshot_threshold, nodes, recorders }
    }

    /// Three running replicas of a new cluster.
    pub(super) async fn started(snapshot_threshold: u64) -> Cluster {
        let mut cluster = Cluster::new(snapshot_threshold);
        cluster.start(&[1, 2, 3]).await;
        cluster
    }

    pub(super) fn settings(&self, id: u64) -> NodeSettings {
        let address = |id: u64| SocketAddr::from(([127, 0, 0, 1], self.first_port + u16::try_from(id).unwrap()));
        let peers = (1..=3).map(|id| (ReplicaId(id), address(id).to_string())).collect();
        let mut settings = NodeSettings::new(self.data_dir(id), ReplicaId(id), peers, address(id));
        settings.client_advertise = format!("client-{id}:1");
        settings.snapshot_threshold = self.snapshot_threshold;
        settings.log_keep = self.snapshot_threshold / 5;
        settings.disk_reserve_bytes = 1;
        settings
    }

    pub(super) fn data_dir(&self, id: u64) -> PathBuf {
        self.root.join(format!("replica-{id}"))
    }

    /// Begins to start one replica.
    pub(super) fn starting(&mut self, id: u64) -> impl Future<Output = Result<Node, StartError>> + use<> {
        let recorder = Arc::new(Recorder::default());
        self.recorders.insert(id, Arc::clone(&recorder));
        let hooks = Hooks { sink: Arc::clone(&recorder) as _, relay: recorder, progress: watch::Sender::default() };
        Node::start(self.settings(id), hooks)
    }

    /// Starts replicas side by side and waits until all run.
    pub(super) async fn start(&mut self, ids: &[u64]) {
        let starts: Vec<_> = ids.iter().map(|id| (*id, tokio::spawn(self.starting(*id)))).collect();
        for (id, start) in starts {
            let node = tokio::time::timeout(PATIENCE, start).await.expect("starts in time").unwrap().unwrap();
            self.nodes.insert(id, node);
        }
    }

    /// Stops one replica without handing over and waits until its folder is free.
    pub(super) async fn kill(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("it runs");
        node.shutdown(Duration::ZERO).await;
        let inner = Arc::downgrade(&node.inner);
        drop(node);
        eventually("the replica's last task ends", || inner.strong_count() == 0).await;
        let log = self.data_dir(id).join("replica/log");
        eventually("its log is closed", || LogStore::open(&log, &LogOptions::default()).is_ok()).await;
    }

    /// The leader, once one says so and all running replicas agree.
    pub(super) async fn leader(&self) -> u64 {
        let mut found = 0;
        eventually("all agree on a leader that leads", || {
            let views: Vec<_> = self.nodes.iter().map(|(id, node)| (*id, node.leadership().borrow().clone())).collect();
            let leading: Vec<_> = views.iter().filter(|(_, view)| view.leads).map(|(id, _)| *id).collect();
            found = leading.first().copied().unwrap_or(0);
            leading.len() == 1
                && views.iter().all(|(_, view)| view.leader.as_ref().is_some_and(|leader| leader.id.0 == found))
        })
        .await;
        found
    }

    /// A running replica that does not lead.
    pub(super) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.nodes.keys().find(|id| **id != leader).expect("more than one runs")
    }

    /// Waits until all running replicas have applied `revision` and have the same digest there.
    pub(super) async fn agree(&self, revision: Revision) {
        eventually("all replicas stand at the same entry with the same digest", || {
            let stands: Vec<_> = self.nodes.values().map(|node| node.status().own).collect();
            stands.iter().all(|own| own.applied >= revision.0 && own.applied == stands[0].applied)
                && stands.iter().all(|own| own.digest == stands[0].digest)
        })
        .await;
    }
}

/// Polls until `condition` holds.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Proposes one command that every registry accepts or refuses deterministically.
pub(super) async fn propose(node: &Node, command: Command) -> Proposed {
    let deadline = Instant::now() + Duration::from_secs(10);
    node.propose(vec![Request::unmarked(command)], deadline).await.remove(0)
}

/// Proposes until it is committed; for tests that only need entries.
pub(super) async fn commit(node: &Node, command: Command) -> Committed {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match propose(node, command.clone()).await {
            Ok(committed) => return committed,
            Err(error) => assert!(Instant::now() < deadline, "never committed: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
