//! ClusterService.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_registry::{Digest, ReplicaId};
use remuda_wire::raft::v1 as peer;
use remuda_wire::{reasons, v1};
use tonic::{Request, Response, Status};

use super::Replica;
use super::front::Deadline;
use super::status::Failure;
use crate::raft::TransferError;

/// The replicas and their leader.
pub struct ClusterService {
    replica: Arc<Replica>,
}

impl ClusterService {
    /// The service of a replica.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    async fn describe(&self) -> v1::GetClusterStatusResponse {
        let node = &self.replica.node;
        let members = node.cluster().await;
        let leadership = node.leadership().borrow().clone();
        let matched = |id: ReplicaId, status: Option<&peer::StatusResponse>| {
            // What a follower has applied is on it for certain; the leader has all of its own log.
            status.map_or(0, |status| if id == node.replica_id() { status.last_log } else { status.applied })
        };
        let replicas = members.into_iter().map(|(id, member, status)| {
            let status =
                status.inspect_err(|error| tracing::debug!(replica = id.0, %error, "a replica does not answer")).ok();
            let digest = status.as_ref().and_then(|status| <[u8; 16]>::try_from(status.digest.as_ref()).ok());
            let contact = status.as_ref().and_then(|status| status.contact_age_ms);
            v1::Replica {
                id: id.0,
                client_endpoint: member.client,
                peer_endpoint: member.peer,
                role: status.as_ref().map_or("UNREACHABLE", |status| status.role.as_str()).to_owned(),
                last_log: status.as_ref().map_or(0, |status| status.last_log),
                applied: status.as_ref().map_or(0, |status| status.applied),
                matched: if leadership.leads { matched(id, status.as_ref()) } else { 0 },
                last_contact: contact.map(|age| remuda_wire::convert::duration(remuda_registry::Millis(age))),
                digest: digest.map(|digest| Digest(digest).to_string()).unwrap_or_default(),
            }
        });
        let revision = node.applied().borrow().revision;
        v1::GetClusterStatusResponse {
            replicas: replicas.collect(),
            header: Some(self.replica.header(revision, true)),
            leader_id: leadership.leader.map_or(0, |leader| leader.id.0),
            feature_level: node.read(|state| state.feature_level()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

#[tonic::async_trait]
impl v1::cluster_service_server::ClusterService for ClusterService {
    async fn get_cluster_status(
        &self,
        _request: Request<v1::GetClusterStatusRequest>,
    ) -> Result<Response<v1::GetClusterStatusResponse>, Status> {
        Ok(Response::new(self.describe().await))
    }

    async fn get_time(&self, request: Request<v1::GetTimeRequest>) -> Result<Response<v1::GetTimeResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        // Log time is worth something only where it comes from a leader that is heard of.
        while self.replica.in_contact().is_err() || self.replica.node.clock().now().0 == 0 {
            if Instant::now() >= deadline {
                return Err(self.replica.status(Failure::new(reasons::NO_LEADER, "no leader told its log time")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let revision = self.replica.node.applied().borrow().revision;
        Ok(Response::new(v1::GetTimeResponse { header: Some(self.replica.header(revision, false)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let to = Some(ReplicaId(request.into_inner().to)).filter(|to| to.0 > 0);
        let patience = Duration::from_millis(self.replica.settings.shutdown.transfer_ms.max(1_000));
        let moved = self.replica.node.transfer_leader(to, deadline.min(Instant::now() + patience)).await;
        let leader = moved.map_err(|error| {
            let reason = match error {
                TransferError::NotLeader => reasons::NO_LEADER,
                TransferError::NoSuccessor(_) | TransferError::Late => reasons::TRANSFER_FAILED,
            };
            self.replica.status(Failure::new(reason, error.to_string()))
        })?;
        let revision = self.replica.node.applied().borrow().revision;
        let header = Some(self.replica.header(revision, false));
        Ok(Response::new(v1::TransferLeaderResponse { header, leader_id: leader.0 }))
    }
}
