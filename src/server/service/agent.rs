//! AgentService.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use remuda_registry::refusal::Refusal;
use remuda_registry::worker::{Verdict, WorkerState};
use remuda_registry::{Command, Outcome, Request as Proposal, Revision, SessionId};
use remuda_wire::convert::agent::{Heartbeat, agent_in, heartbeat_in, open_session_in, registration_out, report_in};
use remuda_wire::convert::event::verdict_out;
use remuda_wire::convert::{Violations, duration};
use remuda_wire::v1;
use tonic::{Request, Response, Status};

use super::front::Deadline;
use super::status::Failure;
use super::{Replica, unexpected};
use crate::propose::Propose as _;
use crate::watch::assignments::{AssignmentStream, is_live};

/// How long what a heartbeat brings may take to be committed; the next heartbeat brings it again.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(5);

/// What agents say and hear.
pub struct AgentService {
    replica: Arc<Replica>,
}

impl AgentService {
    /// The service of a replica.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    async fn open(
        &self,
        request: v1::OpenSessionRequest,
        deadline: Instant,
    ) -> Result<v1::OpenSessionResponse, Failure> {
        let open = open_session_in(&request)?;
        self.replica.room()?;
        let command = Command::OpenSession(Box::new(open));
        let done = self.replica.propose(Proposal::unmarked(command), deadline).await?;
        let Outcome::SessionOpened(opened) = &done.outcome else { return Err(unexpected(&done.outcome)) };
        // A retry's answer was given at an earlier revision; the agent waits for that one.
        let header = Some(self.replica.header(opened.revision, false));
        Ok(v1::OpenSessionResponse {
            header,
            session: opened.session.0,
            heartbeat_interval: Some(duration(self.replica.liveness.interval())),
            workers: opened.workers.iter().map(registration_out).collect(),
        })
    }

    async fn watch(
        &self,
        request: v1::WatchAssignmentsRequest,
        deadline: Instant,
    ) -> Result<AssignmentStream, Failure> {
        let mut found = Violations::default();
        let agent = found.take("agent_id", agent_in(&request.agent_id));
        found.require(request.session > 0, "session", "must be set");
        let agent = found.finish(agent)?;
        self.replica.in_contact()?;
        self.replica.node.wait_applied(Revision(request.min_revision), deadline).await?;
        let session = SessionId(request.session);
        if let Err(failure) = self.live(&agent, session) {
            // A replica that is behind may not know of the session yet.
            self.replica.node.read_index(deadline).await?;
            self.live(&agent, session).map_err(|_| failure)?;
        }
        AssignmentStream::open(self.replica.clone(), agent, session)
    }

    fn live(&self, agent: &remuda_registry::AgentId, session: SessionId) -> Result<(), Failure> {
        Ok(self.replica.node.read(|state| is_live(state, agent, session))?)
    }

    async fn beat(&self, request: v1::HeartbeatRequest, deadline: Instant) -> Result<v1::HeartbeatResponse, Failure> {
        let beat = heartbeat_in(&request)?;
        if let Err(failure) = self.live(&beat.agent, beat.session) {
            self.replica.node.read_index(deadline).await?;
            self.live(&beat.agent, beat.session).map_err(|_| failure)?;
        }
        let session = beat.session;
        let news = self.news(&beat);
        if !news.is_empty() {
            // The agent does not wait for these: it repeats them until its watch shows them.
            let written = self.replica.node.propose(news, Instant::now() + PROGRESS_PATIENCE);
            tokio::spawn(written);
        }
        let heard = self.replica.liveness.heard(&self.replica, beat.agent, session, deadline).await?;
        let mut header = self.replica.header(Revision(heard.revision), false);
        header.term = heard.term;
        header.log_time_ms = heard.log_time_ms;
        Ok(v1::HeartbeatResponse { header: Some(header), heartbeat_interval: Some(duration(heard.interval)) })
    }

    /// What a heartbeat says that the state does not have yet.
    fn news(&self, beat: &Heartbeat) -> Vec<Proposal> {
        let (runs, retired) = self.replica.node.read(|state| {
            let runs = beat.progress.iter().filter(|run| {
                let open = state.worker(&run.worker).and_then(|worker| worker.cleaning());
                open.is_some_and(|open| open.run == run.run && open.stage < run.stage)
            });
            let retired = beat.retired.iter().filter(|id| {
                let state = state.worker(id).map(|worker| &worker.state);
                matches!(state, Some(WorkerState::Retired { acknowledged: false, .. }))
            });
            (runs.cloned().collect::<Vec<_>>(), retired.cloned().collect::<Vec<_>>())
        });
        let session = beat.session;
        let retired = retired.into_iter().map(|worker| Command::AcknowledgeRetired { worker, session });
        let runs = Some(runs).filter(|runs| !runs.is_empty()).map(|runs| Command::ReportProgress { runs });
        runs.into_iter().chain(retired).map(Proposal::unmarked).collect()
    }

    async fn report(
        &self,
        request: v1::ReportCleaningRequest,
        deadline: Instant,
    ) -> Result<v1::ReportCleaningResponse, Failure> {
        let command = report_in(&request)?;
        if let Command::CompleteCleaning { receipt, .. } = &command {
            self.replica.metrics.stepped(receipt);
        }
        let done = self.replica.propose(Proposal::unmarked(command), deadline).await?;
        let Outcome::CleaningCompleted { verdict, .. } = &done.outcome else { return Err(unexpected(&done.outcome)) };
        let accepted = matches!(verdict, Verdict::Clean | Verdict::Stopped);
        self.replica.metrics.checked(verdict);
        Ok(v1::ReportCleaningResponse {
            header: Some(self.replica.header(done.revision, false)),
            accepted,
            reason: if accepted { String::new() } else { verdict_out(verdict) },
        })
    }
}

/// The session has ended.
pub fn session_ended(session: SessionId) -> Failure {
    Refusal::SessionEnded { session, current: None }.into()
}

#[tonic::async_trait]
impl v1::agent_service_server::AgentService for AgentService {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.open(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    type WatchAssignmentsStream = BoxStream<'static, Result<v1::WatchAssignmentsResponse, Status>>;

    async fn watch_assignments(
        &self,
        request: Request<v1::WatchAssignmentsRequest>,
    ) -> Result<Response<Self::WatchAssignmentsStream>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO).min(Instant::now() + super::PATIENCE);
        let opened = self.watch(request.into_inner(), deadline).await;
        let open = opened.map_err(|failure| self.replica.status(failure))?;
        let watching = self.replica.metrics.watching("assignments");
        let replica = self.replica.clone();
        let stream = stream::unfold((open, replica, watching), |(mut open, replica, watching)| async move {
            let message = open.next().await?;
            let message = message.map_err(|failure| replica.status(failure));
            Some((message, (open, replica, watching)))
        });
        Ok(Response::new(stream.boxed()))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.beat(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn report_cleaning(
        &self,
        request: Request<v1::ReportCleaningRequest>,
    ) -> Result<Response<v1::ReportCleaningResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.report(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }
}
