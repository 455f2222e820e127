//! A replica's identity: its number, and the random name of the data folder that it was given once.
//!
//! ```text
//!   <data>/LOCK               held for the life of the process: one replica per folder
//!   <data>/replica/store      replica id, store id
//!   <data>/replica/log/       the log's database and seal   } both name the same replica and store
//!   <data>/replica/state/     the state's databases         }
//! ```
//!
//! The folder is made beside its place and renamed into it when all three hold the identity and are synced, so a crash
//! while it is made leaves only litter. After that, a folder in which one of the three lacks it or says something else
//! was damaged or put together by hand, and the replica refuses to start.
//!
//! Invariants
//! * A store id is drawn once per folder and never again: it is how the others know that this replica still remembers
//!   what it promised.
//!
//! Never here: the cluster's id (the registry holds it), asking peers (`bootstrap`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::failpoint;
use crate::raft::log::LogStore;
use crate::raft::state::database::Database;
use crate::raft::state::folder::{Folder, sync_folder, write_atomically};
pub use crate::raft::types::Identity;
use crate::raft::types::{ReplicaId, StoreId};

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process uses it.
    #[error("{}: another process holds the lock", .0.display())]
    InUse(PathBuf),
    /// It belongs to another replica.
    #[error("the data folder belongs to replica {found}, this is replica {configured}")]
    OtherReplica {
        /// Whose it is.
        found: ReplicaId,
        /// Who we are.
        configured: ReplicaId,
    },
    /// Its three parts do not agree.
    #[error("the data folder is damaged: {0}")]
    Damaged(String),
    /// The file system or RocksDB.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What went wrong.
        error: io::Error,
    },
}

/// A data folder that is ours.
#[derive(Debug)]
pub struct DataFolder {
    /// Who we are.
    pub identity: Identity,
    root: PathBuf,
    /// Released by the kernel when the process ends, however it ends.
    _lock: File,
}

impl DataFolder {
    /// Takes the folder at `root` for `replica`; an empty one is made.
    ///
    /// # Errors
    /// [`FolderError`]; nothing was changed then, but for litter of an unfinished making.
    pub fn open(root: &Path, replica: ReplicaId) -> Result<DataFolder, FolderError> {
        fs::create_dir_all(root).map_err(io_error("make the data folder"))?;
        let lock = File::create(root.join("LOCK")).map_err(io_error("open the lock file"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(FolderError::InUse(root.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(io_error("lock the data folder")(error)),
        }
        let place = root.join("replica");
        if !place.exists() {
            make(root, &place, replica)?;
        }
        let identity = read_store_file(&place.join("store"))?;
        if identity.replica != replica {
            return Err(FolderError::OtherReplica { found: identity.replica, configured: replica });
        }
        Ok(DataFolder { identity, root: place, _lock: lock })
    }

    /// Where the log is.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Where the state is.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Checks that what `part` (`log`, `state`) holds is this folder's identity.
    ///
    /// # Errors
    /// [`FolderError::Damaged`] if it is not.
    pub fn check(&self, part: &'static str, found: Option<Identity>) -> Result<(), FolderError> {
        match found {
            Some(found) if found == self.identity => Ok(()),
            Some(found) => {
                Err(FolderError::Damaged(format!("{part} belongs to {found:?}, the folder to {:?}", self.identity)))
            }
            None => Err(FolderError::Damaged(format!("{part} holds no identity"))),
        }
    }
}

/// Makes a folder whole beside its place, then moves it there.
fn make(root: &Path, place: &Path, replica: ReplicaId) -> Result<(), FolderError> {
    let workshop = root.join("replica.making");
    if workshop.exists() {
        fs::remove_dir_all(&workshop).map_err(io_error("remove an unfinished data folder"))?;
    }
    let identity = Identity { replica, store: StoreId(uuid::Uuid::new_v4().as_u128()) };
    let state = workshop.join("state");
    fs::create_dir_all(&state).map_err(io_error("make the state folder"))?;
    LogStore::create(&workshop.join("log"), identity).map_err(io_error("make the log"))?;
    failpoint::hit("identity.after_log");
    let folder = Folder::new(&state);
    let database = Database::open(&folder.database(1), true).map_err(io_error("make the state"))?;
    database.set_identity(&identity).map_err(io_error("make the state"))?;
    drop(database);
    folder.switch(1).map_err(io_error("make the state"))?;
    failpoint::hit("identity.after_state");
    let text = format!("remuda store 1\nreplica {replica}\nstore {}\n", identity.store);
    write_atomically(&workshop.join("store"), text.as_bytes()).map_err(io_error("write the store file"))?;
    failpoint::hit("identity.before_rename");
    fs::rename(&workshop, place).map_err(io_error("move the data folder into place"))?;
    sync_folder(root).map_err(io_error("sync the data folder"))?;
    tracing::info!(replica, store = %identity.store, "made a data folder");
    Ok(())
}

fn read_store_file(path: &Path) -> Result<Identity, FolderError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(FolderError::Damaged("there is no store file".to_owned()));
        }
        Err(error) => return Err(io_error("read the store file")(error)),
    };
    let mut lines = text.lines();
    let parsed = (lines.next() == Some("remuda store 1"))
        .then(|| {
            let replica = lines.next()?.strip_prefix("replica ")?.parse().ok()?;
            let store = lines.next()?.strip_prefix("store ")?.parse().ok()?;
            lines.next().is_none().then_some(Identity { replica, store })
        })
        .flatten();
    parsed.ok_or_else(|| FolderError::Damaged("the store file is not understood".to_owned()))
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> FolderError {
    move |error| FolderError::Io { what, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_identity_and_has_one_user() {
        let temporary = tempfile::tempdir().unwrap();
        let first = DataFolder::open(temporary.path(), 2).unwrap();
        assert!(matches!(DataFolder::open(temporary.path(), 2), Err(FolderError::InUse(_))));
        let identity = first.identity;
        drop(first);
        let second = DataFolder::open(temporary.path(), 2).unwrap();
        assert_eq!(second.identity, identity);
        let state = Database::open(&Folder::new(second.state()).database(1), false).unwrap();
        second.check("state", state.identity().unwrap()).unwrap();
        drop(second);
        assert!(matches!(DataFolder::open(temporary.path(), 3), Err(FolderError::OtherReplica { found: 2, .. })));
    }

    #[test]
    fn a_folder_without_its_store_file_is_damaged() {
        let temporary = tempfile::tempdir().unwrap();
        drop(DataFolder::open(temporary.path(), 1).unwrap());
        let store = temporary.path().join("replica/store");
        for text in [None, Some(""), Some("remuda store 1\nreplica 1\n"), Some("remuda store 2\nreplica 1\nstore 0\n")]
        {
            match text {
                Some(text) => fs::write(&store, text).unwrap(),
                None => fs::remove_file(&store).unwrap(),
            }
            assert!(matches!(DataFolder::open(temporary.path(), 1), Err(FolderError::Damaged(_))), "{text:?}");
        }
    }

    #[test]
    fn an_unfinished_making_is_begun_anew() {
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir_all(temporary.path().join("replica.making/state/db-00000001")).unwrap();
        fs::write(temporary.path().join("replica.making/store"), "half").unwrap();
        drop(DataFolder::open(temporary.path(), 1).unwrap());
        assert!(!temporary.path().join("replica.making").exists());
    }
}
