//! Replicas that answer from a script, to see what a client sends and what it makes of the answers.
//!
//! Each handler is a function of the request and the number of the call; what it is given is kept for the test to read.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use remuda_client::wire::v1::{self, cluster_service_server as cluster, event_service_server as event};
use remuda_client::wire::v1::{lease_service_server as lease, pool_service_server as pool};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

type Handler<Q, A> = Box<dyn Fn(&Q, usize) -> Result<A, Status> + Send + Sync>;
type Parts = Vec<Result<v1::WatchEventsResponse, Status>>;

/// A handler with the requests that it was given.
pub(crate) struct Script<Q, A> {
    handler: Mutex<Handler<Q, A>>,
    seen: Mutex<Vec<Q>>,
}

impl<Q: Clone, A> Default for Script<Q, A> {
    fn default() -> Self {
        let handler: Handler<Q, A> = Box::new(|_, _| Err(Status::unimplemented("not scripted")));
        Self { handler: Mutex::new(handler), seen: Mutex::default() }
    }
}

impl<Q: Clone, A> Script<Q, A> {
    /// Answers by `handler`, which gets the request and how many came before it.
    pub(crate) fn set(&self, handler: impl Fn(&Q, usize) -> Result<A, Status> + Send + Sync + 'static) {
        *self.handler.lock().unwrap() = Box::new(handler);
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Q> {
        self.seen.lock().unwrap().clone()
    }

    fn answer(&self, request: Request<Q>) -> Result<A, Status> {
        let request = request.into_inner();
        let before = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        (self.handler.lock().unwrap())(&request, before)
    }
}

/// One replica's scripts.
#[derive(Default)]
pub(crate) struct Scripts {
    pub(crate) acquire: Script<v1::AcquireWorkerRequest, v1::AcquireWorkerResponse>,
    pub(crate) cancel: Script<v1::CancelAcquireRequest, v1::CancelAcquireResponse>,
    pub(crate) renew: Script<v1::RenewLeasesRequest, v1::RenewLeasesResponse>,
    pub(crate) give_back: Script<v1::ReturnWorkerRequest, v1::ReturnWorkerResponse>,
    pub(crate) get_return: Script<v1::GetReturnRequest, v1::GetReturnResponse>,
    pub(crate) list_pools: Script<v1::ListPoolsRequest, v1::ListPoolsResponse>,
    pub(crate) watch: Script<v1::WatchEventsRequest, Parts>,
    pub(crate) time: Script<v1::GetTimeRequest, v1::GetTimeResponse>,
    /// Acquires take this long before they are answered.
    pub(crate) acquire_takes: Mutex<Duration>,
}

/// A replica that listens.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) scripts: Arc<Scripts>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A header at this revision, of a replica that knows no leader.
pub(crate) fn header(revision: u64) -> Option<v1::ResponseHeader> {
    Some(v1::ResponseHeader { revision, term: 1, log_time_ms: 1_000_000, ..Default::default() })
}

/// An error as replicas give it.
pub(crate) fn error(code: Code, reason: &str, outcome: &str) -> Status {
    error_with(code, reason, outcome, &[])
}

/// The same with further facts.
pub(crate) fn error_with(code: Code, reason: &str, outcome: &str, facts: &[(&str, &str)]) -> Status {
    let mut facts: HashMap<_, _> = facts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    facts.insert("outcome".to_owned(), outcome.to_owned());
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "remuda", facts);
    Status::with_error_details(code, reason.to_lowercase(), details)
}

impl Replica {
    /// Starts one on a port of its own; it knows log time and nothing else.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scripts = Arc::new(Scripts::default());
        scripts.time.set(|_, _| Ok(v1::GetTimeResponse { header: header(1) }));
        let fake = Fake(Arc::clone(&scripts));
        let server = tonic::transport::Server::builder()
            .add_service(lease::LeaseServiceServer::new(fake.clone()))
            .add_service(pool::PoolServiceServer::new(fake.clone()))
            .add_service(cluster::ClusterServiceServer::new(fake.clone()))
            .add_service(event::EventServiceServer::new(fake))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { address, scripts, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[derive(Clone)]
struct Fake(Arc<Scripts>);

fn unscripted<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no test asks for this"))
}

#[tonic::async_trait]
impl lease::LeaseService for Fake {
    async fn acquire_worker(
        &self,
        request: Request<v1::AcquireWorkerRequest>,
    ) -> Result<Response<v1::AcquireWorkerResponse>, Status> {
        let takes = *self.0.acquire_takes.lock().unwrap();
        let answer = self.0.acquire.answer(request);
        tokio::time::sleep(takes).await;
        answer.map(Response::new)
    }

    async fn cancel_acquire(
        &self,
        request: Request<v1::CancelAcquireRequest>,
    ) -> Result<Response<v1::CancelAcquireResponse>, Status> {
        self.0.cancel.answer(request).map(Response::new)
    }

    async fn renew_leases(
        &self,
        request: Request<v1::RenewLeasesRequest>,
    ) -> Result<Response<v1::RenewLeasesResponse>, Status> {
        self.0.renew.answer(request).map(Response::new)
    }

    async fn return_worker(
        &self,
        request: Request<v1::ReturnWorkerRequest>,
    ) -> Result<Response<v1::ReturnWorkerResponse>, Status> {
        self.0.give_back.answer(request).map(Response::new)
    }

    async fn get_lease(&self, _: Request<v1::GetLeaseRequest>) -> Result<Response<v1::GetLeaseResponse>, Status> {
        unscripted()
    }

    async fn get_return(
        &self,
        request: Request<v1::GetReturnRequest>,
    ) -> Result<Response<v1::GetReturnResponse>, Status> {
        self.0.get_return.answer(request).map(Response::new)
    }

    async fn list_returns(
        &self,
        _: Request<v1::ListReturnsRequest>,
    ) -> Result<Response<v1::ListReturnsResponse>, Status> {
        unscripted()
    }

    async fn get_request_outcome(
        &self,
        _: Request<v1::GetRequestOutcomeRequest>,
    ) -> Result<Response<v1::GetRequestOutcomeResponse>, Status> {
        unscripted()
    }
}

#[tonic::async_trait]
impl pool::PoolService for Fake {
    async fn create_pool(&self, _: Request<v1::CreatePoolRequest>) -> Result<Response<v1::CreatePoolResponse>, Status> {
        unscripted()
    }

    async fn get_pool(&self, _: Request<v1::GetPoolRequest>) -> Result<Response<v1::GetPoolResponse>, Status> {
        unscripted()
    }

    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        self.0.list_pools.answer(request).map(Response::new)
    }

    async fn update_pool(&self, _: Request<v1::UpdatePoolRequest>) -> Result<Response<v1::UpdatePoolResponse>, Status> {
        unscripted()
    }

    async fn delete_pool(&self, _: Request<v1::DeletePoolRequest>) -> Result<Response<v1::DeletePoolResponse>, Status> {
        unscripted()
    }

    async fn get_pool_stats(
        &self,
        _: Request<v1::GetPoolStatsRequest>,
    ) -> Result<Response<v1::GetPoolStatsResponse>, Status> {
        unscripted()
    }
}

#[tonic::async_trait]
impl cluster::ClusterService for Fake {
    async fn get_cluster_status(
        &self,
        _: Request<v1::GetClusterStatusRequest>,
    ) -> Result<Response<v1::GetClusterStatusResponse>, Status> {
        unscripted()
    }

    async fn get_time(&self, request: Request<v1::GetTimeRequest>) -> Result<Response<v1::GetTimeResponse>, Status> {
        self.0.time.answer(request).map(Response::new)
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        unscripted()
    }
}

#[tonic::async_trait]
impl event::EventService for Fake {
    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEventsResponse, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let parts = self.0.watch.answer(request)?;
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }
}
