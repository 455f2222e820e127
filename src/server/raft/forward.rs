//! What a replica asks of the leader, or of any other, on its own account: one hop, never more.
//!
//! Never here: openraft's messages (`net::client`).

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use remuda_registry::{Frame, LogTime, ReplicaId, Request, Revision};
use remuda_wire::raft::v1 as peer;
use tonic::Code;

use super::net::answer;
use super::net::channel::{PeerClient, Purpose};
use super::node::{Node, ReadError};
use super::read::Confirmed;
use super::types::Member;
use crate::propose::{LeaderHint, ProposeError, Proposed};

/// How long a call waits for a leader to be known: a usual election.
const ELECTION_PATIENCE: Duration = Duration::from_millis(1_500);
/// A replica that does not say how it stands within this time counts as unreachable.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// What a hop may take off the caller's deadline: the leader gives up first, so that its answer still arrives.
const HOP: Duration = Duration::from_millis(50);

/// Where the leader is.
pub(super) enum Whereabouts {
    /// It is this replica.
    Here,
    /// It is another.
    Elsewhere(LeaderHint),
}

impl Node {
    /// Where the leader is; waits a moment for one to be known, so that an election costs its callers no retry.
    pub(super) async fn whereabouts(&self, deadline: Instant) -> Option<Whereabouts> {
        let mut leadership = self.leadership();
        let me = self.replica_id();
        let known = leadership.wait_for(|now| now.leads || now.leader.as_ref().is_some_and(|leader| leader.id != me));
        let patience = deadline.min(Instant::now() + ELECTION_PATIENCE);
        let now = tokio::time::timeout_at(patience.into(), known).await.ok()?.ok()?;
        if now.leads { Some(Whereabouts::Here) } else { now.leader.clone().map(Whereabouts::Elsewhere) }
    }

    /// Hands `requests` to `leader`.
    pub(super) async fn forward(&self, leader: LeaderHint, requests: Vec<Request>, deadline: Instant) -> Vec<Proposed> {
        let count = requests.len();
        let (client, caller) = match self.reach(leader.id.0) {
            Ok(reached) => reached,
            Err(reason) => return vec![Err(ProposeError::NotAccepted { reason }); count],
        };
        let frame = Frame { term: 0, stamp: LogTime::default(), wall_ms: 0, gap: false, requests };
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.saturating_sub(HOP).as_millis()).unwrap_or(u64::MAX);
        let message = peer::ProposeRequest { caller: Some(caller), frame: frame.encode().into(), timeout_ms };
        let mut client: PeerClient = client;
        match tokio::time::timeout_at(deadline.into(), client.propose(message)).await {
            Err(_) => vec![Err(unknown("the deadline passed before the leader answered")); count],
            Ok(Err(status)) => vec![Err(what_failed(&status, Some(leader))); count],
            Ok(Ok(response)) => {
                let answers = response.into_inner().answers;
                let mut answers: Vec<_> = answers.iter().map(|bytes| answer::decode(bytes)).collect();
                answers.resize(count, Err(unknown("the leader did not answer each command")));
                answers
            }
        }
    }

    /// Asks the leader, which may be this replica, for a revision to read at.
    pub(super) async fn ask_leader(&self, patience: Duration) -> Confirmed {
        let deadline = Instant::now() + patience;
        let nobody = || ReadError::NoLeader { hint: self.hint() };
        let leader = match self.whereabouts(deadline).await.ok_or_else(nobody)? {
            Whereabouts::Here => return self.confirm_as_leader(deadline).await,
            Whereabouts::Elsewhere(leader) => leader,
        };
        let (mut client, caller) = self.reach(leader.id.0).map_err(|_| nobody())?;
        let timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let call = client.read_index(peer::ReadIndexRequest { caller: Some(caller), timeout_ms });
        match tokio::time::timeout_at(deadline.into(), call).await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                Ok((Revision(response.revision), response.term))
            }
            Ok(Err(_)) | Err(_) => Err(nobody()),
        }
    }

    /// Tells the leader what this replica heard from agents and which calls it holds open.
    ///
    /// # Errors
    /// [`ReadError`] where no leader took it.
    pub async fn relay(
        &self,
        beats: Vec<peer::RelayedBeat>,
        waiting: Vec<String>,
        deadline: Instant,
    ) -> Result<peer::RelayResponse, ReadError> {
        let nobody = || ReadError::NoLeader { hint: self.hint() };
        let leader = match self.whereabouts(deadline).await.ok_or_else(nobody)? {
            Whereabouts::Here => {
                let request = peer::RelayRequest { caller: None, beats, waiting };
                return self.relayed(self.replica_id(), request).map_err(|_| nobody());
            }
            Whereabouts::Elsewhere(leader) => leader,
        };
        let (mut client, caller) = self.reach(leader.id.0).map_err(|_| nobody())?;
        let call = client.relay(peer::RelayRequest { caller: Some(caller), beats, waiting });
        match tokio::time::timeout_at(deadline.into(), call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(_)) => Err(nobody()),
            Err(_) => Err(ReadError::Deadline),
        }
    }

    /// Takes what `from` relays, if this replica leads.
    pub(super) fn relayed(
        &self,
        from: ReplicaId,
        request: peer::RelayRequest,
    ) -> Result<peer::RelayResponse, tonic::Status> {
        let Some(term) = self.inner.clock.leads_in().filter(|_| self.inner.clock.has_quorum()) else {
            return Err(tonic::Status::unavailable("this replica does not lead, or has no quorum"));
        };
        let mut response = self.inner.relay.relayed(from, term, request);
        response.revision = self.applied().borrow().revision.0;
        response.term = term;
        response.log_time_ms = self.inner.clock.now().0;
        Ok(response)
    }

    /// How every member stands, this replica included.
    pub async fn cluster(&self) -> Vec<(ReplicaId, Member, Result<peer::StatusResponse, String>)> {
        let members = self.inner.parties.members();
        join_all(members.into_iter().map(|(id, member)| async move {
            let status = if id == self.replica_id().0 { Ok(self.own_status()) } else { self.status_of(id).await };
            (ReplicaId(id), member, status)
        }))
        .await
    }

    async fn status_of(&self, id: u64) -> Result<peer::StatusResponse, String> {
        let (mut client, caller) = self.reach(id)?;
        let call = client.status(peer::StatusRequest { caller: Some(caller) });
        let answer = tokio::time::timeout(STATUS_TIMEOUT, call).await.map_err(|_| "no answer in time".to_owned())?;
        answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    }

    /// How this replica stands, as its peers hear it.
    pub(super) fn own_status(&self) -> peer::StatusResponse {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let (applied, digest) = self.inner.shared.standing();
        let age = self.inner.clock.contact_age();
        peer::StatusResponse {
            role: format!("{:?}", metrics.state).to_uppercase(),
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: applied.0,
            digest: digest.0.to_vec().into(),
            leader_id: metrics.current_leader.unwrap_or(0),
            contact_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            snapshot: metrics.snapshot.map_or(0, |id| id.index),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn reach(&self, id: u64) -> Result<(PeerClient, peer::Caller), String> {
        let member = self.inner.parties.member(id).ok_or_else(|| format!("replica {id} is no member"))?;
        let client = self.inner.channels.client(&member.peer, Purpose::Node).map_err(|error| error.to_string())?;
        Ok((client, self.inner.parties.caller(id, Some(&member))))
    }
}

/// Whether a failed call can have had an effect. The callee's own refusals come before any; so does a connection that
/// never was.
fn what_failed(status: &tonic::Status, hint: Option<LeaderHint>) -> ProposeError {
    match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
            ProposeError::NotAccepted { reason: status.message().to_owned() }
        }
        _ if never_connected(status) => ProposeError::NoLeader { hint },
        _ => unknown(&format!("the call to the leader failed: {}", status.message())),
    }
}

fn never_connected(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn unknown(reason: &str) -> ProposeError {
    ProposeError::Unknown { reason: reason.to_owned() }
}
