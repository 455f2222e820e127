//! WorkerService.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_registry::command::Operation;
use remuda_registry::refusal::Refusal;
use remuda_registry::{Command, Outcome, Revision};
use remuda_wire::convert::Violations;
use remuda_wire::convert::worker::{OrderIn, drain_in, operate_in, states_in};
use remuda_wire::{name, selector, v1};
use tonic::{Request, Response, Status};

use super::front::Deadline;
use super::status::Failure;
use super::{Replica, pages, unexpected};

/// Workers, and what operators do with them.
pub struct WorkerService {
    replica: Arc<Replica>,
}

/// A worker after an order, and the revision of the order.
type Operated = (Revision, v1::Worker);

impl WorkerService {
    /// The service of a replica.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    async fn get(&self, request: v1::GetWorkerRequest, deadline: Instant) -> Result<v1::GetWorkerResponse, Failure> {
        let mut found = Violations::default();
        let worker = found.take("name", name::worker(&request.name));
        let worker = found.finish(worker)?;
        let freshness = self.replica.fresh(request.read.as_ref(), deadline).await?;
        let message = self.replica.worker_message(&worker).await?.ok_or(Refusal::WorkerNotFound { worker })?;
        Ok(v1::GetWorkerResponse { header: Some(self.replica.read_header(freshness)), worker: Some(message) })
    }

    async fn list(
        &self,
        request: v1::ListWorkersRequest,
        deadline: Instant,
    ) -> Result<v1::ListWorkersResponse, Failure> {
        let mut found = Violations::default();
        let parent = found.take("parent", name::parent(&request.parent));
        let parent = parent.filter(|parent| !matches!(parent, name::Parent::Worker(_)));
        if parent.is_none() && found.0.is_empty() {
            found.add("parent", "must be empty, `pools/-` or `pools/{pool}`");
        }
        let selector = found.take("selector", selector::parse(&request.selector));
        let states = states_in(&mut found, "states", &request.states);
        let size = found.page_size("page_size", request.page_size);
        let (parent, selector) = found.finish(parent.zip(selector))?;
        let states_text = format!("{states:?}");
        let asked = pages::asked(&["workers", &request.parent, &request.selector, &states_text]);
        let page = if request.page_token.is_empty() {
            self.replica.fresh(request.read.as_ref(), deadline).await?;
            self.replica.pages.first(self.replica.node.rows().await?, asked)
        } else {
            self.replica.pages.next(&self.replica.issuer, &request.page_token, asked)?
        };
        let list = self.replica.workers_of(&parent, &selector, &states);
        let (workers, last) = list.page(&page.rows, page.after.clone(), size).await?;
        let token = last.map(|last| self.replica.pages.token(&self.replica.issuer, &page, last)).unwrap_or_default();
        let header = Some(self.replica.header(page.rows.revision(), super::pool::is_stale(request.read.as_ref())));
        Ok(v1::ListWorkersResponse { header, workers, next_page_token: token })
    }

    async fn operate(
        &self,
        method: &'static str,
        command: Result<Command, Violations>,
        options: Option<&v1::RequestOptions>,
        deadline: Instant,
    ) -> Result<Operated, Failure> {
        let done = self.replica.write(method, options, command?, deadline).await?;
        let Outcome::Operated { worker, generation, state } = done.outcome else {
            return Err(unexpected(&done.outcome));
        };
        let mut message = None;
        if self.replica.node.wait_applied(done.revision, deadline).await.is_ok() {
            message = self.replica.worker_message(&worker).await?;
        }
        let message = message.unwrap_or_else(|| v1::Worker {
            name: name::worker_name(&worker),
            state: remuda_wire::convert::worker::state_out(state).into(),
            etag: generation.to_string(),
            ..Default::default()
        });
        Ok((done.revision, message))
    }
}

/// An order's method: the request becomes an operation, the answer the worker as it is now.
macro_rules! order {
    ($method:ident, $name:literal, $request:ident, $response:ident, $operation:expr) => {
        fn $method<'life, 'call>(
            &'life self,
            request: Request<v1::$request>,
        ) -> futures_util::future::BoxFuture<'call, Result<Response<v1::$response>, Status>>
        where
            'life: 'call,
            Self: 'call,
        {
            Box::pin(async move {
                let deadline = Deadline::of(&request, Duration::ZERO);
                let request = request.into_inner();
                let operation: fn(&v1::$request) -> Operation = $operation;
                let v1::$request { name, actor, reason, etag, .. } = &request;
                let command = operate_in(OrderIn { name, actor, reason, etag }, operation(&request));
                let answer = self.operate($name, command, request.request.as_ref(), deadline).await;
                let (revision, worker) = answer.map_err(|failure| self.replica.status(failure))?;
                let header = Some(self.replica.header(revision, false));
                Ok(Response::new(v1::$response { header, worker: Some(worker) }))
            })
        }
    };
}

#[tonic::async_trait]
impl v1::worker_service_server::WorkerService for WorkerService {
    async fn get_worker(
        &self,
        request: Request<v1::GetWorkerRequest>,
    ) -> Result<Response<v1::GetWorkerResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.get(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.list(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    order!(cordon_worker, "CordonWorker", CordonWorkerRequest, CordonWorkerResponse, |_| Operation::Cordon);

    order!(uncordon_worker, "UncordonWorker", UncordonWorkerRequest, UncordonWorkerResponse, |_| Operation::Uncordon);

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let request = request.into_inner();
        let answer = self.operate("DrainWorker", drain_in(&request), request.request.as_ref(), deadline).await;
        let (revision, worker) = answer.map_err(|failure| self.replica.status(failure))?;
        let header = Some(self.replica.header(revision, false));
        Ok(Response::new(v1::DrainWorkerResponse { header, worker: Some(worker) }))
    }

    order!(set_maintenance, "SetMaintenance", SetMaintenanceRequest, SetMaintenanceResponse, |request| {
        if request.hold { Operation::Hold { now: request.now } } else { Operation::Maintain { now: request.now } }
    });

    order!(resume_worker, "ResumeWorker", ResumeWorkerRequest, ResumeWorkerResponse, |_| Operation::Resume);

    order!(retire_worker, "RetireWorker", RetireWorkerRequest, RetireWorkerResponse, |request| {
        Operation::Retire { now: request.now }
    });

    order!(release_worker, "ReleaseWorker", ReleaseWorkerRequest, ReleaseWorkerResponse, |_| Operation::Release);
}
