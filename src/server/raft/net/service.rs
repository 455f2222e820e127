//! The peer port: what other replicas may ask of this one.
//!
//! It serves `Identify` from the first moment, so that replicas can find each other before there is a Raft to speak;
//! everything else answers UNAVAILABLE until the node is up.
//!
//! Invariants
//! * Every call but `Identify` passes [`Parties::check`] before it has an effect.
//! * A forwarded proposal is proposed here or refused, never handed on.
//!
//! Never here: clients.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use remuda_registry::{Frame, LogTime, ReplicaId};
use remuda_wire::raft::v1 as peer;
use remuda_wire::raft::v1::peer_service_server::PeerService;
use tonic::{Request, Response, Status, Streaming};

use super::caller::Parties;
use super::{answer, frame, snapshot};
use crate::raft::bootstrap::Introduction;
use crate::raft::clock::Clock;
use crate::raft::node::{Node, Slot, StopReason};
use crate::raft::types::TypeConfig;

/// Serves the other replicas.
#[derive(Clone)]
pub struct Service {
    introduction: Arc<Introduction>,
    slot: Slot,
}

impl Service {
    /// A service that introduces the replica, and does more while `slot` holds the node.
    pub(in crate::raft) fn new(introduction: Arc<Introduction>, slot: Slot) -> Service {
        Service { introduction, slot }
    }

    fn node(&self) -> Result<Node, Status> {
        self.slot.read().clone().ok_or_else(|| Status::unavailable("the replica is starting or stopping"))
    }

    /// The node, if the caller may speak to it.
    fn admit(&self, caller: Option<&peer::Caller>) -> Result<(Node, u64), Status> {
        let node = self.node()?;
        let from = node.parties().check(caller)?;
        Ok((node, from))
    }
}

type AppendRequest = AppendEntriesRequest<TypeConfig>;
type Responses = BoxStream<'static, Result<peer::AppendResponse, Status>>;

#[tonic::async_trait]
impl PeerService for Service {
    type AppendStream = Responses;

    async fn identify(
        &self,
        _request: Request<peer::IdentifyRequest>,
    ) -> Result<Response<peer::IdentifyResponse>, Status> {
        let members = self.node().map(|node| node.parties().members()).unwrap_or_default();
        Ok(Response::new(self.introduction.answer(&members)))
    }

    async fn append(&self, request: Request<Streaming<peer::AppendRequest>>) -> Result<Response<Responses>, Status> {
        let node = self.node()?;
        let incoming = Incoming::new(&node, request.into_inner());
        let (accepted, failed) = (Arc::clone(&incoming.arrived), Arc::clone(&incoming.failed));
        let clock = Arc::clone(node.clock_handle());
        let answers = node.raft().stream_append(incoming.into_stream()).map(move |result| match result {
            Ok(result) => {
                let arrived = accepted.lock().pop_front();
                if let Some(arrived) = arrived.filter(|_| !is_higher_vote(&result)) {
                    arrived.accept(&clock);
                }
                Ok(peer::AppendResponse { body: frame::put_appended(&result) })
            }
            Err(fatal) => Err(Status::unavailable(format!("the replica has stopped: {fatal}"))),
        });
        let epilogue = stream::once(async move { failed.lock().take() }).filter_map(|failed| async { failed.map(Err) });
        Ok(Response::new(answers.chain(epilogue).boxed()))
    }

    async fn vote(&self, request: Request<peer::VoteRequest>) -> Result<Response<peer::VoteResponse>, Status> {
        let request = request.into_inner();
        let (node, _) = self.admit(request.caller.as_ref())?;
        let ask = frame::take_ask(request.body).map_err(garbled)?;
        let voted = node.raft().vote(ask).await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(peer::VoteResponse { body: frame::put_voted(&voted) }))
    }

    async fn pre_vote(
        &self,
        request: Request<peer::PreVoteRequest>,
    ) -> Result<Response<peer::PreVoteResponse>, Status> {
        let request = request.into_inner();
        let (node, _) = self.admit(request.caller.as_ref())?;
        let ask = frame::take_ask(request.body).map_err(garbled)?;
        let voted = node.raft().pre_vote(ask).await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(peer::PreVoteResponse { body: frame::put_voted(&voted) }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::InstallSnapshotRequest>>,
    ) -> Result<Response<peer::InstallSnapshotResponse>, Status> {
        let mut parts = request.into_inner();
        let head = snapshot::receive_head(&mut parts).await?;
        let (node, from) = self.admit(head.caller.as_ref())?;
        let vote = frame::take_lone_vote(head.vote.clone()).map_err(garbled)?;
        tracing::info!(from, %vote, "receiving a snapshot");
        let received = snapshot::receive(node.shared(), &head, &mut parts).await?;
        let meta = received.meta().clone();
        let snapshot = openraft::alias::SnapshotOf::<TypeConfig, _> { meta, snapshot: received };
        let installed = node.raft().install_full_snapshot(vote, snapshot).await;
        let installed = installed.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        Ok(Response::new(peer::InstallSnapshotResponse { body: frame::put_lone_vote(&installed.vote) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        let (node, _) = self.admit(request.caller.as_ref())?;
        let hand_over = frame::take_hand_over(request.body).map_err(garbled)?;
        let handed = node.raft().handle_transfer_leader(hand_over).await;
        let handed = handed.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        Ok(Response::new(peer::TransferLeaderResponse { body: frame::put_handed(&handed) }))
    }

    async fn propose(&self, request: Request<peer::ProposeRequest>) -> Result<Response<peer::ProposeResponse>, Status> {
        let request = request.into_inner();
        let (node, _) = self.admit(request.caller.as_ref())?;
        let frame = Frame::decode(&request.frame).map_err(|error| Status::failed_precondition(error.to_string()))?;
        let deadline = Instant::now() + Duration::from_millis(request.timeout_ms);
        let answers = node.propose_here(None, frame.requests, deadline).await;
        Ok(Response::new(peer::ProposeResponse { answers: answers.into_iter().map(answer::encode).collect() }))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexResponse>, Status> {
        let request = request.into_inner();
        let (node, _) = self.admit(request.caller.as_ref())?;
        let deadline = Instant::now() + Duration::from_millis(request.timeout_ms);
        let (revision, term) =
            node.confirm_as_leader(deadline).await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(peer::ReadIndexResponse { revision: revision.0, term }))
    }

    async fn relay(&self, request: Request<peer::RelayRequest>) -> Result<Response<peer::RelayResponse>, Status> {
        let request = request.into_inner();
        let (node, from) = self.admit(request.caller.as_ref())?;
        node.relayed(ReplicaId(from), request).map(Response::new)
    }

    async fn status(&self, request: Request<peer::StatusRequest>) -> Result<Response<peer::StatusResponse>, Status> {
        let (node, _) = self.admit(request.into_inner().caller.as_ref())?;
        Ok(Response::new(node.own_status()))
    }
}

fn garbled(error: crate::raft::log::encoding::DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn is_higher_vote(result: &openraft::raft::StreamAppendResult<TypeConfig>) -> bool {
    matches!(result, Err(openraft::raft::StreamAppendError::HigherVote(_)))
}

/// A frame that came in and is not yet judged.
struct Arrived {
    at: Instant,
    quorum_age: Duration,
    log_time: LogTime,
}

impl Arrived {
    fn accept(self, clock: &Clock) {
        clock.heard(self.at, self.quorum_age, self.log_time);
    }
}

/// The requests of one append stream, checked and decoded. The first that is wrong ends the stream, and so does the
/// end of the node: a live leader would keep it open.
struct Incoming {
    parties: Arc<Parties>,
    stopped: BoxFuture<'static, StopReason>,
    messages: Streaming<peer::AppendRequest>,
    first: bool,
    arrived: Arc<Mutex<VecDeque<Arrived>>>,
    failed: Arc<Mutex<Option<Status>>>,
}

impl Incoming {
    fn new(node: &Node, messages: Streaming<peer::AppendRequest>) -> Incoming {
        let (parties, stopped) = (node.parties_handle(), node.stopped().boxed());
        Incoming { parties, stopped, messages, first: true, arrived: Arc::default(), failed: Arc::default() }
    }

    fn into_stream(self) -> impl Stream<Item = AppendRequest> + Send + 'static {
        stream::unfold(self, |mut incoming| async move {
            match incoming.next().await {
                Ok(request) => request.map(|request| (request, incoming)),
                Err(status) => {
                    *incoming.failed.lock() = Some(status);
                    None
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Option<AppendRequest>, Status> {
        let message = tokio::select! {
            message = self.messages.message() => message?,
            _ = &mut self.stopped => return Err(Status::unavailable("the replica is stopping")),
        };
        let Some(message) = message else { return Ok(None) };
        if std::mem::take(&mut self.first) {
            self.parties.check(message.caller.as_ref())?;
        }
        let request = frame::take_append(message.body).map_err(garbled)?;
        self.arrived.lock().push_back(Arrived {
            at: Instant::now(),
            quorum_age: Duration::from_millis(message.quorum_age_ms),
            log_time: LogTime(message.log_time_ms),
        });
        Ok(Some(request))
    }
}
