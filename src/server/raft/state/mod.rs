//! The replicated state on one replica: the registry in memory, its durable copy, and snapshots of that copy.
//!
//! ```text
//!   state/
//!     CURRENT                     names the database that counts; replaced by rename, the commit point of an install
//!     db-<n>/                     RocksDB: one column family, no write-ahead log (the raft log is the truth)
//!     snap-<index>-<term>/        a checkpoint with its MANIFEST.json: what followers far behind are sent
//!     incoming-<n>/               a snapshot being received;  building-<n>/  one being made: both are litter at start
//! ```
//!
//! Memory is what apply changes and single-key reads see. The database follows it once per applied chunk, in one write
//! batch that also says which entry it stands at, so that any crash leaves the state as of some entry; Raft applies the
//! rest again.
//!
//! Invariants
//! * The rows of a database are those of the entry its `applied` row names: same batch, one column family.
//! * A snapshot's meta is read from the checkpoint itself, never from the live database.
//! * Building and installing exclude each other.
//!
//! Never here: what a command means; the network.

pub mod checkpoint;
pub mod database;
pub mod folder;
pub mod install;
pub mod machine;
pub mod manifest;
pub mod record;
pub mod rows;
pub mod shared;

pub use machine::StateMachine;
pub use manifest::SnapshotDir;
pub use rows::Rows;
pub use shared::{Applied, Shared};
