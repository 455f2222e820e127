//! Replication: the only place in the server that names openraft.
//!
//! ```text
//!   node ──> batch ──> openraft ──> log (own database)        state: apply ──> memory ──> rows ──> sink
//!     │        read ──────┤  └────> state machine ───────────────^
//!     └─ peers <── net ───┘  (append streams, votes, snapshots, forwarded calls)
//! ```
//!
//! Never here: gRPC for clients, registry decisions.

pub mod batch;
pub mod bootstrap;
pub mod clock;
mod driver;
mod forward;
pub mod identity;
pub mod log;
pub mod net;
pub mod node;
pub mod read;
pub mod start;
pub mod state;
#[cfg(test)]
mod tests;
mod transfer;
pub mod types;

pub use clock::Clock;
pub use node::{Leadership, Node, Published, ReadError, RelaySink, Sink, Status, StopReason, TransferError};
pub use start::{Hooks, NodeSettings, StartError, Timing};
pub use state::{Applied, Rows};

/// openraft with this server's state machine.
pub type Raft = openraft::Raft<types::TypeConfig, state::StateMachine>;
