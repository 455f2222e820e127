//! The pool registry: the pure, deterministic, synchronous domain of Remuda.
//!
//! A pool lends workers to jobs. Everything that may change is a [`Command`]; commands travel in a [`Frame`], one
//! frame per log entry, and [`apply()`] is the only function that changes a [`State`]. It answers each command with an
//! [`Outcome`] or a [`Refusal`] and says what happened as [`Event`]s. What the clock demands is computed by [`due()`].
//!
//! ```text
//!   Frame ──apply──> State ──take_changes──> rows for the durable copy
//!             │        └──due──> Vec<Command>   (the leader proposes them; apply judges them again)
//!             └──> results for the callers, events for the watchers
//! ```
//!
//! Invariants
//! * The same frames at the same revisions give the same state, digest, results and events, on every machine.
//! * A refused command leaves every table as it was.
//!
//! Never here: a clock, randomness, IO, async, an order that depends on hashing, floats in decisions.

pub mod agent;
mod apply;
mod check;
mod cold;
pub mod command;
pub mod digest;
mod due;
pub mod event;
pub mod frame;
pub mod group;
pub mod id;
mod index;
pub mod lease;
pub mod limits;
mod load;
pub mod outcome;
pub mod plan;
pub mod pool;
pub mod refusal;
pub mod request;
pub mod row;
pub mod selector;
pub mod state;
pub mod statistics;
mod table;
pub mod time;
pub mod view;
pub mod waiter;
pub mod worker;

pub use apply::{Applied, apply};
pub use command::Command;
pub use digest::Digest;
pub use due::{due, next_deadline};
pub use event::{Event, Fact};
pub use frame::{Frame, Request, RequestMark};
pub use id::{
    AgentId, ClientId, ClusterId, Identity, JobId, PoolId, ReplicaId, RequestId, Revision, SecretHash, SessionId,
    Token, WaiterId, WorkerId,
};
pub use outcome::Outcome;
pub use refusal::{Refusal, RefusalCode};
pub use state::{Changes, LoadError, State};
pub use time::{LogTime, Millis};
