//! Making a log and opening it again: nothing is served before everything was verified.
//!
//! ```text
//! <folder>/rows    the database, see `row` and `chain`
//! <folder>/seal    see `seal`
//! ```
//!
//! RocksDB is opened in the mode that takes a torn tail of its write-ahead log (a batch that was being written when the
//! power went) and refuses damage before it. What this mode swallows wrongly, the seal and the chain tell.
//!
//! Invariants
//! * A log that opens has every batch that the seal names, the vote of its head row, and an unbroken chain of groups from
//!   the anchor to the head's last log id.
//! * Opening refuses, it never repairs.
//!
//! Never here: writing entries; the data folder's `store` file, which belongs to the node.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rocksdb::{DB, DBRecoveryMode, Direction, IteratorMode, Options, WriteBatch, WriteOptions};
use thiserror::Error;

use super::LogOptions;
use super::chain::{Anchor, Chain, Group, open_group};
use super::encoding::{DecodeError, take_entry};
use super::framing::{Hanging, find_hanging};
use super::row;
use super::row::{Head, RowError};
use super::seal::{Seal, SealError};
use super::tail::Tail;
use crate::raft::types::{Entry, Identity, LogId, StoreId, Vote};

mod limits {
    /// RocksDB's own text log: enough to see the last days, never a burden.
    pub(super) const INFO_LOG_BYTES: usize = 4 << 20;
    /// Files of it.
    pub(super) const INFO_LOGS: usize = 3;
    /// Write buffers: two may wait for their flush while a third fills.
    pub(super) const WRITE_BUFFERS: i32 = 3;
    /// Flush and compaction; a log has little of either.
    pub(super) const BACKGROUND_JOBS: i32 = 2;
    /// Bytes of write-ahead log at which old buffers are flushed.
    pub(super) const WAL_BYTES: u64 = 256 << 20;
}

/// A log was not made or not opened.
#[derive(Debug, Error)]
#[error("raft log {}: {problem}", folder.display())]
pub struct OpenError {
    /// The log's folder.
    pub folder: PathBuf,
    /// What is the matter.
    pub problem: Problem,
}

/// What is the matter with a log folder.
#[derive(Debug, Error)]
pub enum Problem {
    /// There is no log here.
    #[error("there is none")]
    Missing,
    /// There is something here already.
    #[error("the folder is not empty")]
    Occupied,
    /// The file system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// RocksDB refused; most often because it found damage.
    #[error("the database does not open: {0}")]
    Database(#[from] rocksdb::Error),
    /// RocksDB would never return from opening this file.
    #[error("{} is damaged at offset {offset}: a record of type {kind} was never written", file.display())]
    Framing {
        /// The database's file.
        file: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// Its type, by RocksDB's numbers.
        kind: u8,
    },
    /// The seal says nothing.
    #[error("the seal file is damaged: {0}")]
    Seal(#[from] SealError),
    /// The seal belongs to another store.
    #[error("the seal belongs to store {seal}, the database to store {database}")]
    ForeignSeal {
        /// Store named by the seal.
        seal: StoreId,
        /// Store named by the database.
        database: StoreId,
    },
    /// Batches that were synced are gone.
    #[error("synced batches are lost: the seal counts {sealed}, the database ends at {found}")]
    BatchesLost {
        /// Number in the seal.
        sealed: u64,
        /// Number in the head row.
        found: u64,
    },
    /// A row that must be there is not.
    #[error("the {0} row is missing")]
    RowMissing(&'static str),
    /// A row is not what was written.
    #[error("the {name} row is damaged: {error}")]
    Row {
        /// The row.
        name: &'static str,
        /// What is wrong with it.
        error: RowError,
    },
    /// The vote row is older or newer than the head row.
    #[error("the vote row is not the one that was written last")]
    WrongVote,
    /// The groups do not lead from the anchor to the head's last log id.
    #[error("the entries are damaged at index {index}: {reason}")]
    ChainBroken {
        /// Index of the first entry in doubt.
        index: u64,
        /// Why.
        reason: String,
    },
}

/// What an open log starts with.
pub(super) struct Opened {
    pub(super) db: DB,
    pub(super) seal: Seal,
    pub(super) identity: Identity,
    pub(super) chain: Chain,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) tail: Tail,
}

/// Makes an empty log in `folder`, synced; the folder's parent is the caller's to sync.
pub(super) fn create(folder: &Path, identity: &Identity, options: &LogOptions) -> Result<(), OpenError> {
    try_create(folder, identity, options).map_err(|problem| OpenError { folder: folder.to_owned(), problem })
}

fn try_create(folder: &Path, identity: &Identity, options: &LogOptions) -> Result<(), Problem> {
    std::fs::create_dir_all(folder)?;
    if std::fs::read_dir(folder)?.next().is_some() {
        return Err(Problem::Occupied);
    }
    let mut settings = database_options(options);
    settings.create_if_missing(true);
    settings.set_error_if_exists(true);
    let db = DB::open(&settings, folder.join("rows"))?;
    let head = Head { number: 1, ..Head::default() };
    let mut batch = WriteBatch::default();
    batch.put(row::IDENTITY, row::encode_identity(identity));
    batch.put(row::HEAD, head.encode());
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    db.write_opt(batch, &synced)?;
    drop(db);
    Seal::create(&folder.join("seal"), identity.store, head.number)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Opens the log in `folder` and verifies it.
pub(super) fn open(folder: &Path, options: &LogOptions) -> Result<Opened, OpenError> {
    try_open(folder, options).map_err(|problem| OpenError { folder: folder.to_owned(), problem })
}

fn try_open(folder: &Path, options: &LogOptions) -> Result<Opened, Problem> {
    let rows = folder.join("rows");
    if !rows.try_exists()? {
        return Err(Problem::Missing);
    }
    let seal = Seal::open(&folder.join("seal"))?;
    if let Some(Hanging { file, offset, kind }) = find_hanging(&rows)? {
        return Err(Problem::Framing { file, offset, kind });
    }
    let db = DB::open(&database_options(options), rows)?;
    let head = required(&db, row::HEAD, "head", Head::decode)?;
    if head.number < seal.number() {
        return Err(Problem::BatchesLost { sealed: seal.number(), found: head.number });
    }
    let identity = required(&db, row::IDENTITY, "identity", row::decode_identity)?;
    if identity.store != seal.store() {
        return Err(Problem::ForeignSeal { seal: seal.store(), database: identity.store });
    }
    let vote = read_vote(&db, &head)?;
    let committed = optional(&db, row::COMMITTED, "committed", row::decode_committed)?.flatten();
    let (groups, tail) = walk(&db, &head, options)?;
    // The hint may have come further than the log: it must never name an entry that is not here.
    let committed = committed.map(|id| tail.last().filter(|last| last.index < id.index).unwrap_or(id));
    let committed = committed.filter(|_| tail.last().is_some());
    tracing::info!(batch = head.number, groups = groups.len(), last = ?tail.last(), purged = ?tail.purged(), "log verified");
    Ok(Opened { db, seal, identity, chain: Chain { head, groups }, vote, committed, tail })
}

fn database_options(options: &LogOptions) -> Options {
    let mut settings = Options::default();
    settings.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    settings.set_track_and_verify_wals_in_manifest(true);
    settings.set_write_buffer_size(options.write_buffer);
    settings.set_max_write_buffer_number(limits::WRITE_BUFFERS);
    settings.set_max_background_jobs(limits::BACKGROUND_JOBS);
    settings.set_max_total_wal_size(limits::WAL_BYTES);
    settings.set_compression_type(rocksdb::DBCompressionType::None);
    settings.set_max_log_file_size(limits::INFO_LOG_BYTES);
    settings.set_keep_log_file_num(limits::INFO_LOGS);
    settings.set_stats_dump_period_sec(0);
    settings
}

fn optional<T>(
    db: &DB,
    key: &[u8],
    name: &'static str,
    decode: impl FnOnce(&[u8]) -> Result<T, RowError>,
) -> Result<Option<T>, Problem> {
    let row = db.get_pinned(key)?;
    row.map(|row| decode(&row)).transpose().map_err(|error| Problem::Row { name, error })
}

fn required<T>(
    db: &DB,
    key: &[u8],
    name: &'static str,
    decode: impl FnOnce(&[u8]) -> Result<T, RowError>,
) -> Result<T, Problem> {
    optional(db, key, name, decode)?.ok_or(Problem::RowMissing(name))
}

fn read_vote(db: &DB, head: &Head) -> Result<Option<Vote>, Problem> {
    let Some(row) = db.get_pinned(row::VOTE)? else {
        return if head.vote_sum == 0 { Ok(None) } else { Err(Problem::RowMissing("vote")) };
    };
    let vote = row::decode_vote(&row).map_err(|error| Problem::Row { name: "vote", error })?;
    if row::vote_sum(&row) == head.vote_sum { Ok(Some(vote)) } else { Err(Problem::WrongVote) }
}

/// Follows the chain from the anchor to its end and checks that this is where the head row says.
fn walk(db: &DB, head: &Head, options: &LogOptions) -> Result<(VecDeque<Group>, Tail), Problem> {
    let mut groups = VecDeque::new();
    let mut tail = Tail::new(head.purged, options.tail_bytes);
    let Anchor { first, mut chain } = head.anchor;
    let mut next = None;
    let begin = row::group_key(first);
    for item in db.iterator(IteratorMode::From(&begin, Direction::Forward)) {
        let (key, value) = item?;
        let Some(first) = row::group_first(&key) else { break };
        let broken = |index, reason: String| Problem::ChainBroken { index, reason };
        let (stored, bytes) = open_group(Bytes::from(value)).map_err(|error| broken(first, error.to_string()))?;
        chain = chain.then(&bytes);
        if chain != stored {
            return Err(broken(first, "a group's chain value does not follow from the one before".to_owned()));
        }
        if next.is_some_and(|next| next != first) {
            return Err(broken(first, "a group does not begin where the one before ends".to_owned()));
        }
        let last = load_group(first, bytes, &mut tail).map_err(|error| broken(first, error.to_string()))?;
        groups.push_back(Group { first, last, chain });
        next = Some(last + 1);
    }
    let end = head.last.map_or(0, |id| id.index);
    if chain != head.chain || tail.last() != head.last {
        let reason = format!("the entries lead to {:?}, the head row says {:?}", tail.last(), head.last);
        return Err(Problem::ChainBroken { index: tail.last().map_or(first, |id| id.index + 1).min(end), reason });
    }
    Ok((groups, tail))
}

/// Decodes a group's entries into `tail`; returns the index of the last.
fn load_group(first: u64, mut bytes: Bytes, tail: &mut Tail) -> Result<u64, DecodeError> {
    let mut next = first;
    while !bytes.is_empty() {
        let entry: Entry = take_entry(&mut bytes)?;
        if entry.log_id.index != next {
            return Err(DecodeError::Unknown { what: "index order", value: entry.log_id.index });
        }
        next += 1;
        if tail.purged().is_none_or(|purged| entry.log_id.index > purged.index) {
            if tail.last().is_some_and(|last| last.index + 1 != entry.log_id.index) {
                return Err(DecodeError::Unknown { what: "index after a hole", value: entry.log_id.index });
            }
            tail.push(entry);
        }
    }
    tail.evict(next - 1);
    if next == first { Err(DecodeError::Short("a group's first entry")) } else { Ok(next - 1) }
}
