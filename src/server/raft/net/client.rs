//! The network as openraft sees it: a client per follower and purpose.
//!
//! Never here: our own calls between replicas (`node`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetworkFactory};
use remuda_wire::raft::v1 as peer;

use super::caller::Parties;
use super::channel::{Channels, PeerClient, Purpose};
use super::{frame, snapshot, stream};
use crate::raft::clock::Clock;
use crate::raft::log::encoding::DecodeError;
use crate::raft::state::SnapshotDir;
use crate::raft::types::{Member, ReplicaId, TypeConfig, Vote};

type Error = RPCError<TypeConfig>;

/// Makes a client for each follower and purpose.
#[derive(Clone)]
pub struct Network {
    /// The connections.
    pub channels: Arc<Channels>,
    /// Who we are, whom we know.
    pub parties: Arc<Parties>,
    /// What append frames carry.
    pub clock: Arc<Clock>,
    /// An append that is not acknowledged for this long ends its stream.
    pub stall: Duration,
}

impl Network {
    fn peer(&self, target: ReplicaId, member: &Member, purpose: Purpose) -> Peer {
        Peer { network: self.clone(), target, member: member.clone(), purpose }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: ReplicaId, member: &Member) -> Peer {
        self.peer(target, member, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, member: &Member) -> Peer {
        self.peer(target, member, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: ReplicaId, member: &Member) -> Peer {
        self.peer(target, member, Purpose::Snapshot)
    }
}

/// One follower, for one purpose.
pub struct Peer {
    network: Network,
    target: ReplicaId,
    member: Member,
    purpose: Purpose,
}

impl Peer {
    fn client(&self) -> Result<PeerClient, Error> {
        let client = self.network.channels.client(&self.member.peer, self.purpose);
        client.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    fn caller(&self) -> peer::Caller {
        self.network.parties.caller(self.target, Some(&self.member))
    }

    async fn within<T>(
        &self,
        option: &RPCOption,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Error> {
        let limit = option.soft_ttl();
        let answer = tokio::time::timeout(limit, call).await.map_err(|_| {
            let text = format!("no answer within {} ms", limit.as_millis());
            RPCError::Network(NetworkError::new(&AnyError::error(text)))
        })?;
        answer.map(tonic::Response::into_inner).map_err(|status| stream::refused(&status))
    }
}

fn garbled(error: DecodeError) -> Error {
    RPCError::Network(NetworkError::new(&error))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotDir;

    /// Never called: `stream_append` is overridden, and openraft has no other caller.
    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Error> {
        Err(RPCError::Unreachable(Unreachable::new(&AnyError::error("entries travel by stream only"))))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Error>>, Error>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let (clock, stall) = (Arc::clone(&self.network.clock), self.network.stall);
            let answers = stream::append(self.client()?, self.caller(), clock, input, stall).await?;
            Ok(answers.boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        let message = peer::VoteRequest { caller: Some(self.caller()), body: frame::put_ask(&request) };
        let answer = self.within(&option, self.client()?.vote(message)).await?;
        frame::take_voted(answer.body).map_err(garbled)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        let message = peer::PreVoteRequest { caller: Some(self.caller()), body: frame::put_ask(&request) };
        let answer = self.within(&option, self.client()?.pre_vote(message)).await?;
        frame::take_voted(answer.body).map_err(garbled)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotDir>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let client = self.client().map_err(StreamingError::from)?;
        let sending = snapshot::send(client, self.caller(), vote, snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sending => answer.map_err(StreamingError::from),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Error> {
        let message = peer::TransferLeaderRequest { caller: Some(self.caller()), body: frame::put_hand_over(&request) };
        let answer = self.within(&option, self.client()?.transfer_leader(message)).await?;
        frame::take_handed(answer.body).map_err(garbled)
    }
}
