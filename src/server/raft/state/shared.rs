//! What the state machine shares with readers: the registry in memory, the open database, how far both are.
//!
//! Invariants
//! * `applied` is moved after both memory and database hold the entry, so whoever waited for a revision finds it in
//!   either.
//! * Only the state machine writes the registry.

use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use remuda_registry::{Digest, Revision, State};
use tokio::sync::{mpsc, watch};

use super::database::Database;
use super::folder::Folder;
use super::manifest::{self, SnapshotDir};
use super::rows::{RowReader, Rows};
use crate::raft::identity::Identity;
use crate::raft::node::Sink;

/// How far this replica has applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied; zero before any.
    pub revision: Revision,
    /// Its term.
    pub term: u64,
}

/// The digest of this replica at a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The entry that is the mark.
    pub revision: Revision,
    /// The state's digest after it.
    pub digest: Digest,
}

/// The state of one replica.
pub struct Shared {
    pub(super) folder: Folder,
    pub(super) identity: Identity,
    pub(super) hot: RwLock<State>,
    /// The last entry applied to `hot`; changed only under its lock.
    pub(super) stands_at: Mutex<Revision>,
    pub(super) open: RwLock<Open>,
    pub(super) applied: watch::Sender<Applied>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) marks: mpsc::UnboundedSender<Mark>,
    /// Held while a snapshot is built or installed.
    pub(super) snapshots: tokio::sync::Mutex<()>,
    /// The newest complete snapshot on disk.
    pub(super) newest: Mutex<Option<SnapshotDir>>,
    /// Numbers the folders of snapshots in the making, within this run of the process.
    pub(super) attempts: std::sync::atomic::AtomicU64,
}

/// The database that counts.
pub(super) struct Open {
    pub(super) number: u64,
    pub(super) database: Arc<Database>,
    pub(super) reader: RowReader,
}

impl Open {
    pub(super) fn new(number: u64, database: Arc<Database>) -> io::Result<Open> {
        Ok(Open { number, reader: RowReader::start(Arc::clone(&database))?, database })
    }
}

impl Shared {
    /// Opens the state in `folder`: loads the database that counts, checks its digest, sweeps litter.
    ///
    /// # Errors
    /// Where the folder is not that of `identity`, or does not hold what it should.
    pub fn open(
        folder: Folder,
        identity: Identity,
        sink: Arc<dyn Sink>,
        marks: mpsc::UnboundedSender<Mark>,
    ) -> io::Result<(Arc<Shared>, super::record::AppliedRecord)> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let number = folder.current()?.ok_or_else(|| invalid("the state folder names no database".to_owned()))?;
        folder.sweep(number)?;
        let database = Arc::new(Database::open(&folder.database(number), false)?);
        match database.identity()? {
            Some(found) if found == identity => {}
            found => return Err(invalid(format!("the state belongs to {found:?}, the folder to {identity:?}"))),
        }
        let (state, record) = database.load()?;
        let applied = Applied {
            revision: Revision(record.revision()),
            term: record.last_applied.as_ref().map_or(0, crate::raft::types::term_of),
        };
        let newest = manifest::newest(&folder)?;
        sink.jumped(applied.revision);
        let shared = Shared {
            folder,
            identity,
            hot: RwLock::new(state),
            stands_at: Mutex::new(applied.revision),
            open: RwLock::new(Open::new(number, database)?),
            applied: watch::Sender::new(applied),
            sink,
            marks,
            snapshots: tokio::sync::Mutex::new(()),
            newest: Mutex::new(newest),
            attempts: std::sync::atomic::AtomicU64::new(1),
        };
        Ok((Arc::new(shared), record))
    }

    /// Looks at the registry. Apply waits meanwhile: look at single keys only.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.hot.read())
    }

    /// The last entry applied to memory, and the registry's digest after it.
    pub fn standing(&self) -> (Revision, Digest) {
        let hot = self.hot.read();
        (*self.stands_at.lock(), hot.digest())
    }

    /// The rows as they are now.
    ///
    /// # Errors
    /// What RocksDB says.
    pub async fn rows(&self) -> io::Result<Rows> {
        let reader = self.open.read().reader.clone();
        reader.take().await
    }

    /// How far this replica has applied.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// The folder for the next snapshot to be received.
    pub fn next_incoming(&self) -> std::path::PathBuf {
        self.folder.incoming(self.next_attempt())
    }

    pub(super) fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

/// The cluster's id; empty before bootstrap.
pub(super) fn cluster_of(state: &State) -> String {
    state.cluster().map_or_else(String::new, |cluster| cluster.to_string())
}
