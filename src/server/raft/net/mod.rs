//! Replica to replica: Raft's messages and our own, over gRPC on the peer port.
//!
//! ```text
//!   openraft ──> client (one per follower and purpose) ══ append stream, votes, snapshots ══> service ──> openraft
//!   node     ──> peers (forwarded proposals, read index, relay, status) ═══════════════════> service ──> node
//! ```
//!
//! Heartbeats, entries, snapshots and all else have a connection each, so that a snapshot or a burst of entries cannot
//! hold up a heartbeat. Every call says who calls and whom it means to reach; see [`caller`].
//!
//! Never here: what entries mean; elections.

pub mod answer;
pub mod caller;
pub mod channel;
pub mod client;
pub mod frame;
pub mod service;
pub mod snapshot;
pub mod stream;
