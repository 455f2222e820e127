//! The names under which the rest of the server speaks to openraft.
//!
//! An upgrade of openraft is meant to end in this file and its neighbours: nothing outside `raft/` names the crate. A log
//! entry carries a [`Payload`], the already encoded bytes of one registry frame: it is encoded once at the edge, stored and
//! replicated verbatim, and decoded once at apply. The state machine answers with an [`Answer`], one result per command of
//! the frame.
//!
//! Invariants
//! * A leader id is a term (`leader_id_std`): one leader per term, so (term, index) names an entry for ever.
//! * The serde derives here exist because openraft asks for them. They are no format: what goes to disk is encoded by
//!   `raft::log`, what goes to a peer by `raft::net`.
//!
//! Never here: behaviour, byte formats, configuration.

use std::fmt;

use bytes::Bytes;
use remuda_registry::{Outcome, Refusal};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The one configuration of openraft in this server.
    pub TypeConfig:
        D = Payload,
        R = Answer,
        NodeId = u64,
        Node = Member,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// A replica's number in its cluster, from its configuration; never given to another store.
pub type ReplicaId = u64;
/// A log entry: log id and blank, membership or [`Payload`].
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What an entry carries.
pub type EntryPayload = openraft::EntryPayload<Payload, ReplicaId, Member>;
/// (term, index) of an entry.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// The part of a [`LogId`] beside its index: the term.
pub type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
/// The term and candidate that this replica has promised itself to.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// Who votes and who learns, with their [`Member`] rows.
pub type Membership = openraft::Membership<ReplicaId, Member>;
/// A membership and the entry that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot claims to hold.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// Called once the entries of an append are on disk.
pub type IoFlushed = openraft::storage::IOFlushed<TypeConfig>;

/// The log id of an entry of `term` at `index`.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// The term in which the entry with this log id was proposed.
pub fn term_of(log_id: &LogId) -> u64 {
    log_id.leader_id.term
}

/// One encoded registry frame. Opaque to Raft and to the log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload(pub Bytes);

impl Payload {
    /// The frame's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload(Bytes::from(bytes))
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload(bytes)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame of {} B", self.0.len())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What apply made of one entry: a result for each command of its frame, in the frame's order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Index of the entry.
    pub revision: u64,
    /// Term of the entry.
    pub term: u64,
    /// One result per command; empty for blank and membership entries.
    pub results: Vec<Result<Outcome, Refusal>>,
}

/// A data folder's random name, made with the folder and never again.
///
/// The first membership entry fixes every member's store: a replica that comes back with another one has lost its data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreId(pub u128);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A text that is not a store id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a store id is 32 hexadecimal digits, not `{0}`")]
pub struct StoreIdError(String);

impl std::str::FromStr for StoreId {
    type Err = StoreIdError;

    fn from_str(text: &str) -> Result<StoreId, StoreIdError> {
        let well_formed = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let parsed = u128::from_str_radix(text, 16).ok().filter(|_| well_formed);
        parsed.map(StoreId).ok_or_else(|| StoreIdError(text.to_owned()))
    }
}

/// Which replica, on which store; written into every part of a data folder when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The replica's number, from its configuration.
    pub replica: ReplicaId,
    /// The data folder's random name.
    pub store: StoreId,
}

/// One replica as the membership knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where other replicas reach it, `host:port`.
    pub peer: String,
    /// Where clients reach it, `host:port`; what leader hints name.
    pub client: String,
    /// The store it was admitted with.
    pub store_id: StoreId,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (clients {}, store {})", self.peer, self.client, self.store_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_id_reads_back_what_it_shows() {
        let id = StoreId(0x0123_4567_89ab_cdef);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "12", "+0000000000000000123456789abcdef", "0000000000000000012345678_abcdef"] {
            assert!(wrong.parse::<StoreId>().is_err(), "{wrong:?} is no store id");
        }
    }
}
