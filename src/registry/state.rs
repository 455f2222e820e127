//! The tables and indexes.

use crate::digest::Digest;
use crate::id::Revision;
use crate::row::RowError;
use crate::time::LogTime;

/// The whole state of a group: what is hot, in memory.
#[derive(Debug, Clone, Default)]
pub struct State {
    revision: Revision,
    log_time: LogTime,
}

/// Rows that the durable copy must write, in one batch, for what was applied since they were last taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Key and value; `None` removes the row. No key twice.
    pub rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Rows that are not the rows of a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A key of no known table.
    #[error("row of unknown table {0:?}")]
    UnknownTable(Option<u8>),
    /// A value that does not decode.
    #[error("table {table}: {error}")]
    Malformed {
        /// The table's tag.
        table: u8,
        /// What is wrong.
        error: RowError,
    },
    /// Rows that contradict each other.
    #[error("rows contradict each other: {0}")]
    Inconsistent(String),
    /// A feature level that this build does not know.
    #[error("feature level {0} is unknown")]
    UnknownFeatureLevel(u32),
}

impl State {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of these rows: every row of every table of the durable copy, in any order. Cold rows are only hashed.
    pub fn load(_rows: impl Iterator<Item = (Box<[u8]>, Box<[u8]>)>) -> Result<Self, LoadError> {
        Ok(Self::default())
    }

    /// The rows changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        Changes::default()
    }

    /// The digest of all rows. O(1).
    pub fn digest(&self) -> Digest {
        Digest::default()
    }

    /// Whether every invariant holds. O(rows): for tests.
    pub fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The revision of the last applied entry.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Log time.
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }
}
