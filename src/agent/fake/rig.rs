//! Agents on a registry made for tests: only their presence, or whole with real supervisors and real cleaning.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use remuda_wire::agent::v1::execution_service_client::ExecutionServiceClient;
use remuda_wire::v1;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use super::eventually;
use super::idler::Idler;
use super::registry::{Registry, Replica};
use crate::agent::Agent;
use crate::capability::Switches;
use crate::clean;
use crate::config::{AgentConfig, WorkerConfig};
use crate::folder::{FolderError, StateFolder, WorkerRecord};
use crate::host::Host;
use crate::job::Facts;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::runner::{Cleaner, Crew, Shared};
use crate::session::{Introduction, Presence};
use crate::supervisor::Launcher;

/// A registry with replicas, a state folder and a cleaner, on which agents can be started one after another.
pub(crate) struct Rig {
    pub(crate) registry: Arc<Registry>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) cleaner: Arc<Idler>,
    pub(crate) home: tempfile::TempDir,
}

/// An agent without a host: workers and presence.
pub(crate) struct Running {
    pub(crate) crew: Arc<Crew>,
    stop: CancellationToken,
    keeping: tokio::task::JoinHandle<Result<(), FolderError>>,
}

impl Rig {
    pub(crate) async fn new(replicas: usize) -> Rig {
        let registry = Registry::new();
        let mut served = Vec::new();
        for _ in 0..replicas {
            served.push(registry.replica().await);
        }
        let (cleaner, home) = (Arc::new(Idler::default()), tempfile::tempdir().unwrap());
        Rig { registry, replicas: served, cleaner, home }
    }

    /// Lets all watches stay where they are, or go on.
    pub(crate) fn lag(&self, lags: bool) {
        self.replicas.iter().for_each(|replica| replica.faults.lags.store(lags, Ordering::SeqCst));
    }

    /// Starts an agent with these workers of pool `ci`.
    pub(crate) fn start(&self, workers: &[&str], places: usize) -> Running {
        self.start_with(workers, places, Arc::clone(&self.cleaner) as Arc<dyn Cleaner>)
    }

    pub(crate) fn start_with(&self, workers: &[&str], places: usize, cleaner: Arc<dyn Cleaner>) -> Running {
        let folder = Arc::new(StateFolder::open(self.home.path()).unwrap());
        let identity = folder.identity().unwrap();
        let endpoints: Vec<_> = self.replicas.iter().map(|replica| replica.endpoint.clone()).collect();
        let stop = CancellationToken::new();
        let record = |name: &&str| {
            let known = folder.worker(name).unwrap();
            ((*name).to_owned(), known.unwrap_or_else(|| WorkerRecord::new("ci", Facts::default())))
        };
        let records = workers.iter().map(record).collect();
        let shared = Shared {
            link: Link::new(&endpoints).unwrap(),
            agent: identity.id.clone(),
            cleaner,
            places: Arc::new(Semaphore::new(places)),
            metrics: Metrics::new(),
            ended: watch::Sender::new(0),
            passed: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
            folder,
        };
        let crew = Crew::start(records, Arc::new(shared));
        let introduction = Introduction {
            machine_id: "machine".into(),
            boot_id: "boot".into(),
            execution_endpoint: "http://127.0.0.1:1".into(),
            capabilities: Vec::new(),
            missing_capabilities: Vec::new(),
        };
        let served = Arc::clone(&crew);
        let workers = Arc::new(move || {
            let introduced = |member: &crate::runner::Member| v1::SessionWorker {
                name: member.name.clone(),
                epoch: member.view().borrow().facts.epoch,
                ..Default::default()
            };
            served.members().map(introduced).collect()
        });
        let live = watch::Sender::new(false);
        let presence = Presence { identity, introduction, crew: Arc::clone(&crew), workers, live };
        let until = stop.clone();
        let keeping = tokio::spawn(async move { presence.keep(&until).await });
        Running { crew, stop, keeping }
    }
}

impl Running {
    /// Stops the agent and waits until all of it has ended, so that its folder can be opened again.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.keeping.await.unwrap().unwrap();
        self.crew.stop().await;
        let folder = Arc::downgrade(&self.crew.shared().folder);
        drop(self.crew);
        eventually("the folder is given back", || folder.strong_count() == 0).await;
    }
}

/// A whole agent on this host, with real supervisors and real cleaning.
pub(crate) struct Whole {
    pub(crate) endpoint: String,
    pub(crate) shutdown: CancellationToken,
    pub(crate) orphaned: CancellationToken,
    living: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Rig {
    /// The configuration of a whole agent with these workers of pool `ci`.
    pub(crate) fn config(&self, workers: &[&str]) -> AgentConfig {
        let worker = |name: &&str| WorkerConfig {
            pool: "ci".into(),
            name: (*name).into(),
            labels: [("os".into(), "linux".into())].into(),
            annotations: Default::default(),
        };
        AgentConfig {
            endpoints: self.replicas.iter().map(|replica| replica.endpoint.clone()).collect(),
            state_dir: self.home.path().join("state"),
            workers: workers.iter().map(worker).collect(),
            ..AgentConfig::default()
        }
    }

    pub(crate) async fn whole(&self, config: &AgentConfig) -> Whole {
        // The tests' executable is what is run again as a supervisor; see `host/trial.rs`.
        let arguments = ["--exact", "host::trial::helper", "--nocapture", "--test-threads=1"];
        let launcher = Launcher::new(std::env::current_exe().unwrap(), arguments);
        let agent = Agent::start(config, launcher).await.unwrap();
        let (shutdown, orphaned) = (CancellationToken::new(), CancellationToken::new());
        let (endpoint, drain) = (agent.presence.introduction.execution_endpoint.clone(), config.drain);
        let (until, or) = (shutdown.clone(), orphaned.clone());
        let opens = self.registry.memory.lock().opens.len();
        let living = tokio::spawn(async move { agent.live(&until, &or, drain).await });
        self.registry.until("a session", |memory| memory.opens.len() > opens).await;
        Whole { endpoint, shutdown, orphaned, living }
    }
}

impl Drop for Rig {
    /// Ends what jobs a test has left, and removes their groups, also when it has failed.
    fn drop(&mut self) {
        let state = self.home.path().join("state");
        if !state.is_dir() {
            return;
        }
        let host = Host::open(&state, &Switches::default(), Launcher::own()).unwrap();
        clean::end_all_in_a_test(&host.roots("pools/ci/workers/w-1").unwrap());
        host.dissolve();
    }
}

impl Whole {
    pub(crate) async fn executions(&self) -> ExecutionServiceClient<Channel> {
        ExecutionServiceClient::connect(self.endpoint.clone()).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.ended().await;
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(Duration::from_secs(10), self.living).await.expect("in time").unwrap().unwrap();
    }
}
