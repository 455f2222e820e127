//! A registry made for tests: AgentService over gRPC on loopback, whose misbehaviour the test sets.
//!
//! One [`Registry`] is the cluster's memory; each [`Replica`] serves it on a port of its own and can be told to lose
//! answers, to be silent, or to lag.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use remuda_wire::v1;
use remuda_wire::v1::agent_service_server::{AgentService, AgentServiceServer};
use remuda_wire::v1::lease_service_server::{LeaseService, LeaseServiceServer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

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
    /// Workers whose registration is refused, and why.
    pub(crate) refuses: Vec<String>,
    pub(crate) refusal: &'static str,
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
        let memory = Memory { revision: 100, token: 1_000, refusal: "POOL_NOT_FOUND", ..Memory::default() };
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

    pub(crate) fn retire(&mut self, worker: &str) {
        let (state, retired_reason) = (v1::worker::State::Retired.into(), "OPERATOR".into());
        self.show(worker, v1::Assignment { state, retired_reason, ..Default::default() });
    }

    pub(crate) fn assign(&mut self, worker: &str) -> u64 {
        self.token += 1;
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let kinds =
            [("stop", v1::step::Kind::Stop), ("strays", v1::step::Kind::Strays), ("files", v1::step::Kind::Files)];
        let step = |(name, kind): (&str, v1::step::Kind)| v1::Step {
            name: name.into(),
            kind: kind.into(),
            timeout: seconds(5),
            ..Default::default()
        };
        let plan = v1::CleaningPlan {
            version: 1,
            steps: kinds.map(step).to_vec(),
            stop_grace: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
            timeout: seconds(30),
            ..Default::default()
        };
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
                refused: if memory.refuses.contains(&worker.name) { memory.refusal.into() } else { String::new() },
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
        Ok(Response::new(v1::ReportCleaningResponse {
            header: header(revision),
            accepted: true,
            reason: String::new(),
        }))
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
