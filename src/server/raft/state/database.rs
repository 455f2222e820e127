//! One open state database, and its removal when nobody reads it any more.
//!
//! No write-ahead log: the raft log is the truth, and one column family makes whatever a crash leaves a consistent
//! prefix of the batches written. What must be durable now (identity, an installed snapshot) is flushed.
//!
//! Never here: which database counts (`folder`), what rows mean.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use remuda_registry::State;
use rocksdb::{DB, DBCompressionType, IteratorMode, Options, WriteBatch, WriteOptions};

use super::record::{APPLIED_KEY, AppliedRecord, IDENTITY_KEY, SERVER_TAG, decode_identity, encode_identity};
use crate::raft::identity::Identity;

/// An open database. Dropping the last handle closes it and, once [`Database::retire`] was called, removes it.
pub struct Database {
    db: Option<DB>,
    path: PathBuf,
    retired: AtomicBool,
}

impl Database {
    /// Opens the database in `path`; with `create`, an absent one is made.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn open(path: &Path, create: bool) -> io::Result<Self> {
        let mut options = options();
        options.create_if_missing(create);
        let db = DB::open(&options, path).map_err(storage)?;
        Ok(Self { db: Some(db), path: path.to_owned(), retired: AtomicBool::new(false) })
    }

    /// RocksDB itself.
    pub fn db(&self) -> &DB {
        self.db.as_ref().expect("taken only by drop")
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entry that the rows stand at.
    ///
    /// # Errors
    /// What RocksDB says; `InvalidData` if the row is not understood.
    pub fn applied(&self) -> io::Result<AppliedRecord> {
        read_applied(self.db())
    }

    /// Who owns the database; `None` if it was never said.
    ///
    /// # Errors
    /// As [`Database::applied`].
    pub fn identity(&self) -> io::Result<Option<Identity>> {
        self.db().get(IDENTITY_KEY).map_err(storage)?.map(|bytes| decode_identity(&bytes)).transpose()
    }

    /// Writes the owner and makes everything so far durable.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn set_identity(&self, identity: &Identity) -> io::Result<()> {
        self.db().put_opt(IDENTITY_KEY, encode_identity(identity), &unlogged()).map_err(storage)?;
        self.db().flush().map_err(storage)
    }

    /// Writes one applied chunk: the registry's rows and the entry they stand at.
    ///
    /// # Errors
    /// What RocksDB says; nothing of the chunk is then written.
    pub fn write(&self, rows: Vec<(Vec<u8>, Option<Vec<u8>>)>, record: &AppliedRecord) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            debug_assert_ne!(key.first(), Some(&SERVER_TAG), "the registry keeps off the server's rows");
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch.put(APPLIED_KEY, record.encode());
        self.db().write_opt(batch, &unlogged()).map_err(storage)
    }

    /// Builds the registry from its rows, and compares its digest with the one stored.
    ///
    /// # Errors
    /// `InvalidData` if rows are not understood or do not add up to the stored digest: the replica must not serve.
    pub fn load(&self) -> io::Result<(State, AppliedRecord)> {
        let record = self.applied()?;
        let mut failed = None;
        let rows = self.db().iterator(IteratorMode::Start).map_while(|row: Result<_, rocksdb::Error>| match row {
            Ok(row) => Some(row),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        let registry = rows.filter(|(key, _)| key.first() != Some(&SERVER_TAG));
        let state =
            State::load(registry).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if let Some(error) = failed {
            return Err(storage(error));
        }
        let digest = state.digest();
        if record.last_applied.is_some() && digest != record.digest {
            let text =
                format!("digest {digest} of the rows differs from {} stored at {}", record.digest, record.revision());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok((state, record))
    }

    /// Has the folder removed as soon as the last reader is gone.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.db.take());
        if self.retired.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an old state database stays until the next start");
        }
    }
}

/// Reads the `applied` row of any database; the default where there is none.
///
/// # Errors
/// What RocksDB says; `InvalidData` if the row is not understood.
pub fn read_applied(db: &DB) -> io::Result<AppliedRecord> {
    let row = db.get(APPLIED_KEY).map_err(storage)?;
    row.map_or_else(|| Ok(AppliedRecord::default()), |bytes| AppliedRecord::decode(&bytes))
}

/// Opens a checkpoint for reading only.
///
/// # Errors
/// What RocksDB says.
pub fn open_checkpoint(path: &Path) -> io::Result<DB> {
    DB::open_for_read_only(&options(), path, false).map_err(storage)
}

/// What RocksDB says, as an `io::Error`.
pub fn storage(error: rocksdb::Error) -> io::Error {
    io::Error::other(error)
}

fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

fn options() -> Options {
    let mut options = Options::default();
    // Rows are small and rewritten often: a few large buffers absorb most rewrites before they reach a file.
    options.set_write_buffer_size(32 << 20);
    options.set_max_write_buffer_number(3);
    options.set_max_background_jobs(2);
    options.set_compression_type(DBCompressionType::None);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 << 20);
    options
}
