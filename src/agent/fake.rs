//! A registry made for tests: AgentService over gRPC on loopback, whose misbehaviour the test sets.
//!
//! One [`Registry`] is the cluster's memory; each [`Replica`] serves it on a port of its own and can be told to lose
//! answers, to be silent, or to lag.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use remuda_wire::agent::v1::execution_service_client::ExecutionServiceClient;
use remuda_wire::v1;
use remuda_wire::v1::agent_service_server::{AgentService, AgentServiceServer};
use remuda_wire::v1::lease_service_server::{LeaseService, LeaseServiceServer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::agent::Agent;
use crate::config::{AgentConfig, WorkerConfig};
use crate::folder::{FolderError, StateFolder, WorkerRecord};
use crate::job::{Facts, RunOrder};
use crate::link::Link;
use crate::metrics::Metrics;
use crate::runner::{Cleaner, Crew, Shared};
use crate::session::{Introduction, Presence};
use crate::supervisor::Launcher;

type Answer<T> = Result<Response<T>, Status>;

/// What the cluster remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) revision: u64,
    pub(crate) token: u64,
    /// Incarnation and session of the last accepted open.
    pub(crate) session: Option<(u64, u64)>,
    pub(crate) opens: Vec<v1::OpenSessionRequest>,
    pub(crate) assignments: BTreeMap<String, v1::Assignment>,
    pub(crate) heartbeats: Vec<v1::HeartbeatRequest>,
    pub(crate) reports: Vec<v1::ReportCleaningRequest>,
    /// Runs whose report was accepted.
    pub(crate) accepted: Vec<u64>,
    /// Workers whose registration is refused.
    pub(crate) refuses: Vec<String>,
    pub(crate) leases: BTreeMap<String, v1::Lease>,
}

/// The cluster.
pub(crate) struct Registry {
    pub(crate) memory: Mutex<Memory>,
    changed: watch::Sender<u64>,
}

/// How a replica misbehaves.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// So many answers to opens are lost, after their effect.
    pub(crate) lose_opens: AtomicUsize,
    /// So many answers to reports are lost, after their effect.
    pub(crate) lose_reports: AtomicUsize,
    /// Nothing is answered and watches fall silent.
    pub(crate) silent: AtomicBool,
    /// Watches stay at the revision where they are.
    pub(crate) lags: AtomicBool,
    /// Calls served.
    pub(crate) served: AtomicUsize,
}

/// One replica of it; served until it is dropped.
pub(crate) struct Replica {
    pub(crate) endpoint: String,
    pub(crate) faults: Arc<Faults>,
    _stop: DropGuard,
}

impl Registry {
    pub(crate) fn new() -> Arc<Registry> {
        let memory = Memory { revision: 100, token: 1_000, ..Memory::default() };
        Arc::new(Registry { memory: Mutex::new(memory), changed: watch::Sender::new(100) })
    }

    pub(crate) async fn replica(self: &Arc<Self>) -> Replica {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (faults, stop) = (Arc::new(Faults::default()), CancellationToken::new());
        let service = Service { registry: Arc::clone(self), faults: Arc::clone(&faults) };
        let serving = tonic::transport::Server::builder()
            .add_service(AgentServiceServer::new(service.clone()))
            .add_service(LeaseServiceServer::new(service))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
        tokio::spawn(serving);
        Replica { endpoint, faults, _stop: stop.drop_guard() }
    }

    /// Changes the memory in one entry.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memory = self.memory.lock();
        memory.revision += 1;
        let changed = change(&mut memory);
        self.changed.send_replace(memory.revision);
        changed
    }

    /// Waits until the memory is as `wanted` says, for at most ten seconds.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Memory) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while !wanted(&self.memory.lock()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "not in time: {what}; {:#?}", self.memory.lock());
    }

    /// Ends the session, as silence does.
    pub(crate) fn end_session(&self) {
        self.change(|memory| memory.session = None);
    }

    /// Assigns a run with a new token.
    pub(crate) fn assign(&self, worker: &str) -> u64 {
        self.change(|memory| memory.assign(worker))
    }

    /// Leases the worker with a new token.
    pub(crate) fn lease(&self, worker: &str, secret: &[u8]) -> u64 {
        use sha2::Digest as _;
        self.change(|memory| {
            memory.token += 1;
            let lease = v1::LeaseAssignment {
                epoch: memory.token,
                job_id: "job-1".into(),
                secret_sha256: sha2::Sha256::digest(secret).to_vec(),
                stop_grace: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
                ..Default::default()
            };
            let state = v1::worker::State::Busy.into();
            memory.show(worker, v1::Assignment { state, lease: Some(lease), ..Default::default() });
            memory.token
        })
    }
}

impl Memory {
    fn show(&mut self, worker: &str, assignment: v1::Assignment) {
        let assignment = v1::Assignment { worker: worker.into(), token: self.token, ..assignment };
        self.assignments.insert(worker.into(), assignment);
    }

    pub(crate) fn assign(&mut self, worker: &str) -> u64 {
        self.token += 1;
        let step = v1::Step { name: "stop".into(), kind: v1::step::Kind::Stop.into(), ..Default::default() };
        let plan = v1::CleaningPlan { version: 1, steps: vec![step], ..Default::default() };
        let run = v1::RunAssignment { run: self.token, attempt: 1, plan: Some(plan), ..Default::default() };
        let state = v1::worker::State::Cleaning.into();
        self.show(worker, v1::Assignment { state, run: Some(run), ..Default::default() });
        self.token
    }
}

#[derive(Clone)]
struct Service {
    registry: Arc<Registry>,
    faults: Arc<Faults>,
}

fn ended() -> Status {
    let details = ErrorDetails::with_error_info("SESSION_ENDED", "remuda", [("outcome".into(), "absent".into())]);
    Status::with_error_details(Code::FailedPrecondition, "the session has ended", details)
}

fn header(revision: u64) -> Option<v1::ResponseHeader> {
    Some(v1::ResponseHeader { revision, term: 3, ..Default::default() })
}

fn take_one(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Service {
    async fn enter(&self) {
        self.faults.served.fetch_add(1, Ordering::SeqCst);
        if self.faults.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    /// Sends what changes, and a mark each 50 ms in place of each second.
    async fn tell(self, session: u64, min: u64, stream: mpsc::Sender<Result<v1::WatchAssignmentsResponse, Status>>) {
        let mut known = BTreeMap::new();
        let (mut whole, mut at) = (true, 0);
        loop {
            let message = {
                let memory = self.registry.memory.lock();
                let live = memory.session.is_some_and(|(_, live)| live == session);
                let lags = self.faults.lags.load(Ordering::SeqCst) || self.faults.silent.load(Ordering::SeqCst);
                if !lags {
                    at = memory.revision;
                }
                let fresh = memory.assignments.values().filter(|a| known.get(&a.worker) != Some(*a) && !lags);
                let assignments: Vec<_> = fresh.cloned().collect();
                known.extend(assignments.iter().map(|a| (a.worker.clone(), a.clone())));
                live.then(|| v1::WatchAssignmentsResponse { header: header(at), assignments, whole })
            };
            let Some(message) = message else {
                let _ = stream.send(Err(ended())).await;
                return;
            };
            if at >= min && !self.faults.silent.load(Ordering::SeqCst) {
                whole = false;
                if stream.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    async fn open_session(&self, request: Request<v1::OpenSessionRequest>) -> Answer<v1::OpenSessionResponse> {
        self.enter().await;
        let asked = request.into_inner();
        let answer = self.registry.change(|memory| {
            memory.opens.push(asked.clone());
            let session = match memory.session {
                Some((incarnation, session)) if incarnation == asked.incarnation => session,
                Some((incarnation, _)) if incarnation > asked.incarnation => return Err(Status::internal("stale")),
                _ => {
                    let session = memory.revision;
                    memory.session = Some((asked.incarnation, session));
                    // Every open run is replaced.
                    let cleaning = memory.assignments.values().filter(|assignment| assignment.run.is_some());
                    let cleaning: Vec<_> = cleaning.map(|assignment| assignment.worker.clone()).collect();
                    for worker in cleaning {
                        memory.assign(&worker);
                    }
                    session
                }
            };
            let workers = asked.workers.iter().map(|worker| v1::SessionWorkerResult {
                name: worker.name.clone(),
                refused: if memory.refuses.contains(&worker.name) { "POOL_NOT_FOUND".into() } else { String::new() },
                detail: String::new(),
            });
            let heartbeat_interval = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
            let workers = workers.collect();
            Ok(v1::OpenSessionResponse { header: header(session), session, heartbeat_interval, workers })
        })?;
        if take_one(&self.faults.lose_opens) {
            return Err(Status::unavailable("the answer was lost"));
        }
        Ok(Response::new(answer))
    }

    type WatchAssignmentsStream = ReceiverStream<Result<v1::WatchAssignmentsResponse, Status>>;

    async fn watch_assignments(
        &self,
        request: Request<v1::WatchAssignmentsRequest>,
    ) -> Answer<Self::WatchAssignmentsStream> {
        self.enter().await;
        let asked = request.into_inner();
        let (sender, stream) = mpsc::channel(16);
        tokio::spawn(self.clone().tell(asked.session, asked.min_revision, sender));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Answer<v1::HeartbeatResponse> {
        self.enter().await;
        let asked = request.into_inner();
        let mut memory = self.registry.memory.lock();
        if memory.session.is_none_or(|(_, session)| session != asked.session) {
            return Err(ended());
        }
        memory.heartbeats.push(asked);
        let heartbeat_interval = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
        Ok(Response::new(v1::HeartbeatResponse { header: header(memory.revision), heartbeat_interval }))
    }

    async fn report_cleaning(&self, request: Request<v1::ReportCleaningRequest>) -> Answer<v1::ReportCleaningResponse> {
        self.enter().await;
        let asked = request.into_inner();
        let revision = self.registry.change(|memory| {
            memory.reports.push(asked.clone());
            if memory.session.is_none_or(|(_, session)| session != asked.session) {
                return Err(ended());
            }
            if !memory.accepted.contains(&asked.run) {
                memory.accepted.push(asked.run);
                let state = v1::worker::State::Available.into();
                memory.show(&asked.worker, v1::Assignment { state, ..Default::default() });
            }
            Ok(memory.revision)
        })?;
        if take_one(&self.faults.lose_reports) {
            return Err(Status::unavailable("the answer was lost"));
        }
        Ok(Response::new(v1::ReportCleaningResponse { header: header(revision), accepted: true, reason: String::new() }))
    }
}

#[tonic::async_trait]
impl LeaseService for Service {
    async fn get_lease(&self, request: Request<v1::GetLeaseRequest>) -> Answer<v1::GetLeaseResponse> {
        let memory = self.registry.memory.lock();
        let lease = memory.leases.get(&request.into_inner().worker).cloned();
        let absent = || Status::not_found("no lease");
        let lease = Some(lease.ok_or_else(absent)?);
        Ok(Response::new(v1::GetLeaseResponse { header: header(memory.revision), lease }))
    }

    async fn acquire_worker(&self, _: Request<v1::AcquireWorkerRequest>) -> Answer<v1::AcquireWorkerResponse> {
        Err(Status::unimplemented("agents do not call it"))
    }
    async fn cancel_acquire(&self, _: Request<v1::CancelAcquireRequest>) -> Answer<v1::CancelAcquireResponse> {
        Err(Status::unimplemented("agents do not call it"))
    }
    async fn renew_leases(&self, _: Request<v1::RenewLeasesRequest>) -> Answer<v1::RenewLeasesResponse> {
        Err(Status::unimplemented("agents do not call it"))
    }
    async fn return_worker(&self, _: Request<v1::ReturnWorkerRequest>) -> Answer<v1::ReturnWorkerResponse> {
        Err(Status::unimplemented("agents do not call it"))
    }
    async fn get_return(&self, _: Request<v1::GetReturnRequest>) -> Answer<v1::GetReturnResponse> {
        Err(Status::unimplemented("agents do not call it"))
    }
    async fn list_returns(&self, _: Request<v1::ListReturnsRequest>) -> Answer<v1::ListReturnsResponse> {
        Err(Status::unimplemented("agents do not call it"))
    }
    async fn get_request_outcome(
        &self,
        _: Request<v1::GetRequestOutcomeRequest>,
    ) -> Answer<v1::GetRequestOutcomeResponse> {
        Err(Status::unimplemented("agents do not call it"))
    }
}

/// Waits until `wanted` holds, for at most ten seconds.
pub(crate) async fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {what}");
}

/// A cleaner that does nothing, for as long as it is held.
#[derive(Default)]
pub(crate) struct Idler {
    hold: watch::Sender<bool>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    at_work: Vec<(String, u64)>,
    finished: Vec<(String, u64)>,
    most: usize,
    overlapped: bool,
}

impl Idler {
    /// Holds runs, those under way too, or lets them go.
    pub(crate) fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    /// Runs under way.
    pub(crate) fn at_work(&self) -> Vec<(String, u64)> {
        self.log.lock().at_work.clone()
    }

    /// Runs that were carried out to the end.
    pub(crate) fn finished(&self) -> Vec<(String, u64)> {
        self.log.lock().finished.clone()
    }

    /// How many were at work at once, at most.
    pub(crate) fn most_at_once(&self) -> usize {
        self.log.lock().most
    }

    /// Whether a worker ever had two at once.
    pub(crate) fn overlapped(&self) -> bool {
        self.log.lock().overlapped
    }
}

impl Cleaner for Idler {
    fn clean(
        &self,
        worker: &str,
        order: &RunOrder,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Option<v1::CleaningReceipt>> {
        let (mut hold, log) = (self.hold.subscribe(), Arc::clone(&self.log));
        let (entry, plan) = ((worker.to_owned(), order.run), Arc::clone(&order.plan));
        Box::pin(async move {
            {
                let mut log = log.lock();
                log.overlapped |= log.at_work.iter().any(|(other, _)| *other == entry.0);
                log.at_work.push(entry.clone());
                log.most = log.most.max(log.at_work.len());
            }
            let done = tokio::select! {
                () = async { drop(hold.wait_for(|hold| !hold).await) } => true,
                () = cancel.cancelled() => {
                    // What is cancelled takes its time to end.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    false
                }
            };
            let mut log = log.lock();
            log.at_work.retain(|other| *other != entry);
            if !done {
                return None;
            }
            log.finished.push(entry);
            let result = |step: &v1::Step| v1::StepResult { name: step.name.clone(), observed: true, ..Default::default() };
            let steps = plan.steps.iter().map(result).collect();
            Some(v1::CleaningReceipt { version: 1, steps, ..Default::default() })
        })
    }
}

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
        let (endpoint, drain) = (agent.endpoint.clone(), config.drain);
        let (until, or) = (shutdown.clone(), orphaned.clone());
        let living = tokio::spawn(async move { agent.live(&until, &or, drain).await });
        let opens = self.registry.memory.lock().opens.len();
        self.registry.until("a session", |memory| memory.opens.len() > opens || !memory.heartbeats.is_empty()).await;
        Whole { endpoint, shutdown, orphaned, living }
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
