//! Names and numbers that identify things: small types, so that the compiler keeps a run from being used as a session.
//!
//! Text ids share their bytes (`Arc<str>`), so a clone is cheap. Their syntax is checked in `wire`; here they are
//! opaque and ordered by their bytes.
//!
//! Invariants
//! * Tokens are drawn from one counter of the state: an epoch and a run of one worker are totally ordered.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub [u8; $size]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

text_id! {
    /// A pool's name, for example `ci`.
    PoolId
}
text_id! {
    /// An agent's lasting id, made by the agent and kept in its state folder.
    AgentId
}
text_id! {
    /// The holder's id for its work, chosen by the client.
    JobId
}
text_id! {
    /// One running client library: the first half of its request ids.
    ClientId
}
text_id! {
    /// The cluster's random id, fixed by the bootstrap command.
    ClusterId
}
number_id! {
    /// The index of the log entry that changed something, as a watcher sees it.
    Revision
}
number_id! {
    /// A fencing token: an epoch (of a lease) or a run (of a cleaning). Zero is "none yet".
    Token
}
number_id! {
    /// One agent's presence, from `OpenSession` to `EndSession`; drawn from the token counter.
    SessionId
}
number_id! {
    /// One queued acquire; drawn from the token counter, so older waiters have lower ids.
    WaiterId
}
number_id! {
    /// A replica's number in the cluster.
    ReplicaId
}
hash_id! {
    /// SHA-256 of a secret. The registry never sees a secret itself.
    SecretHash, 32
}
hash_id! {
    /// Hash of a request's method, caller, `not_after` and the fields that decide its effect.
    Identity, 16
}

/// A worker's full name: `pools/<pool>/workers/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    /// The pool that the worker belongs to for ever.
    pub pool: PoolId,
    /// The name within the pool.
    pub name: Arc<str>,
}

impl WorkerId {
    /// The worker `name` of `pool`.
    pub fn new(pool: impl Into<PoolId>, name: impl Into<Arc<str>>) -> Self {
        Self { pool: pool.into(), name: name.into() }
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

/// A client-chosen id that makes a retried request the same request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RequestId {
    /// From a client library that numbers its requests.
    Numbered {
        /// The library's own id.
        client: ClientId,
        /// Its sequence number, never used twice.
        seq: u64,
    },
    /// Any other id; lives until its `not_after`.
    Named(Arc<str>),
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbered { client, seq } => write!(f, "{client}#{seq}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}
