//! The state folder: what an agent remembers from one process to the next.
//!
//! ```text
//!   lock              held by the one agent process that uses the folder, for its whole life
//!   agent.json        the agent's lasting id and key, made once
//!   incarnation.json  counted up before each OpenSession
//!   facts/W.json      the pool of local worker W and its facts (see `job::Facts`)
//! ```
//! The folders of leases lie beside these, in `workers/`, and belong to `host.rs`.
//!
//! Files are replaced, never changed: written aside, synced, renamed, and the folder synced, so that a crash leaves the
//! old content or the new. A file that cannot be read is an error and not a fresh start: forgetting a token could let
//! an old assignment clean a worker that is Busy again.
//!
//! Invariants
//! * At most one process holds an open [`StateFolder`] of a path.
//! * When a write has returned, a power cut does not undo it.
//!
//! Never here: decisions about workers, the network.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::job::Facts;

#[cfg(test)]
mod tests;

/// Version of the files' format.
const FORMAT: u32 = 1;

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another agent process holds the folder.
    #[error("state folder {} is in use by another agent process{}", path.display(), holder(*pid))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who holds it, when the lock file says so.
        pid: Option<u32>,
    },
    /// A file holds something that this version did not write.
    #[error("{} is damaged or of another version: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Who the agent is, for ever.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    /// The agent's id, `agent-` and 32 hexadecimal digits.
    pub id: String,
    /// The agent's key; the registry keeps its SHA-256.
    pub key: [u8; 32],
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What is remembered of one local worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    format: u32,
    /// The pool it was registered in; it stays there until its row is retired, whatever the configuration says.
    pub pool: String,
    /// Its facts.
    pub facts: Facts,
}

impl WorkerRecord {
    /// A record of a worker that is to be registered in `pool`.
    pub fn new(pool: &str, facts: Facts) -> WorkerRecord {
        WorkerRecord { format: FORMAT, pool: pool.to_owned(), facts }
    }
}

#[derive(Serialize, Deserialize)]
struct Incarnation {
    format: u32,
    incarnation: u64,
}

/// An open state folder; the lock is held until it is dropped.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// Closed on exec, so that no job or supervisor keeps the lock when the agent is gone.
    _lock: File,
}

impl StateFolder {
    /// Opens the folder, making it if need be, and takes its lock.
    pub fn open(path: &Path) -> Result<StateFolder, FolderError> {
        make_folder(path)?;
        make_folder(&path.join("facts"))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| FolderError::Io { path: lock_path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(FolderError::InUse { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(FolderError::Io { path: lock_path, source }),
        }
        // For people; the lock is the flock, not the text.
        lock.set_len(0)
            .and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(|source| FolderError::Io { path: lock_path, source })?;
        Ok(StateFolder { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The agent's identity, made at the first call.
    pub fn identity(&self) -> Result<Identity, FolderError> {
        let path = self.path.join("agent.json");
        if let Some(identity) = read::<Identity>(&path)? {
            return checked(identity.format, identity, &path);
        }
        let id = format!("agent-{}", uuid::Uuid::new_v4().simple());
        let identity = Identity { format: FORMAT, id, key: rand::random() };
        replace(&path, &identity)?;
        Ok(identity)
    }

    /// Counts the incarnation up and syncs it; the answer has never been returned before.
    pub fn next_incarnation(&self) -> Result<u64, FolderError> {
        self.incarnation_above(0)
    }

    /// Counts the incarnation up to above `floor`, for a registry that has seen higher ones (a folder put back from a
    /// backup), and syncs it.
    pub fn incarnation_above(&self, floor: u64) -> Result<u64, FolderError> {
        let path = self.path.join("incarnation.json");
        let last = match read::<Incarnation>(&path)? {
            Some(found) => checked(found.format, found.incarnation, &path)?,
            None => 0,
        };
        let incarnation = last.max(floor) + 1;
        replace(&path, &Incarnation { format: FORMAT, incarnation })?;
        Ok(incarnation)
    }

    /// What is remembered of a local worker, if it was ever served here.
    pub fn worker(&self, name: &str) -> Result<Option<WorkerRecord>, FolderError> {
        let path = self.worker_path(name);
        match read::<WorkerRecord>(&path)? {
            Some(record) => checked(record.format, record, &path).map(Some),
            None => Ok(None),
        }
    }

    /// Writes and syncs what is to be remembered of a local worker.
    pub fn save_worker(&self, name: &str, record: &WorkerRecord) -> Result<(), FolderError> {
        replace(&self.worker_path(name), record)
    }

    fn worker_path(&self, name: &str) -> PathBuf {
        assert!(!name.contains('/') && !name.is_empty(), "a worker's name is one path component: {name:?}");
        self.path.join("facts").join(format!("{name}.json"))
    }
}

fn checked<T>(format: u32, value: T, path: &Path) -> Result<T, FolderError> {
    if format == FORMAT {
        return Ok(value);
    }
    Err(FolderError::Damaged { path: path.to_owned(), reason: format!("format {format}, this version reads {FORMAT}") })
}

fn make_folder(path: &Path) -> Result<(), FolderError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FolderError::Io { path: path.to_owned(), source })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FolderError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FolderError::Io { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| FolderError::Damaged { path: path.to_owned(), reason: error.to_string() })
}

/// Replaces a file by `value`, so that a crash at any point leaves the old content or the new.
fn replace<T: Serialize>(path: &Path, value: &T) -> Result<(), FolderError> {
    let aside = path.with_extension("json.new");
    let folder = path.parent().expect("every file lies in the state folder");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(&serde_json::to_vec(value).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(|source| FolderError::Io { path: path.to_owned(), source })
}
