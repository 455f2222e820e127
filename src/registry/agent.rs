//! An agent's row: who serves workers, and its live session.
//!
//! Invariants
//! * `incarnation` only grows; a session belongs to the incarnation that opened it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, SecretHash, SessionId};
use crate::time::Moment;

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its lasting id.
    pub id: AgentId,
    /// SHA-256 of its key, from its first session on.
    pub key: SecretHash,
    /// The last incarnation that was accepted.
    pub incarnation: u64,
    /// Hash of the open that was accepted: the same open again has the same answer.
    pub opening: [u8; 16],
    /// The machine.
    pub machine: Arc<str>,
    /// Its boot.
    pub boot: Arc<str>,
    /// Where it serves executions.
    pub endpoint: Arc<str>,
    /// What its host can do.
    pub capabilities: Vec<Arc<str>>,
    /// What its host cannot do.
    pub missing_capabilities: Vec<Arc<str>>,
    /// Its version, for people.
    pub version: Arc<str>,
    /// The live session, if any.
    pub session: Option<SessionId>,
    /// When the newest session was opened.
    pub opened: Moment,
}
