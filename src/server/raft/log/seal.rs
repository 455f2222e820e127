//! The seal: a small file beside the database that says how many batches must be there.
//!
//! RocksDB may take damage at the end of its write-ahead log for a torn write, drop it and open; acknowledged entries would
//! be gone without a word. So after a batch's sync has returned, off the acknowledgement's path, its number goes into this
//! file, and at open a head row with a lower number means that batches were lost.
//!
//! ```text
//! offset 0     slot: magic · store id · number · crc32        numbers are written into one slot until it was synced,
//! offset 4096  slot: the same                                 then into the other: a torn write costs one slot only
//! ```
//!
//! The file is made at its full length and synced with its folder when the log is made, so later syncs change no metadata.
//! It is synced at most every [`SYNC_EVERY`]: a power cut may leave it that much behind, which only delays what it tells.
//!
//! Invariants
//! * A number is written only after the batch with this number was synced: the seal is never ahead of the database.
//! * At most one slot holds unsynced bytes.
//!
//! Never here: log indices. A follower whose log was truncated is shorter and healthy.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use crate::failpoint;
use crate::raft::types::StoreId;

/// Rewriting the file is cheap, syncing it competes with the log's own syncs; what is sealed may lag a little.
const SYNC_EVERY: Duration = Duration::from_millis(100);

const MAGIC: [u8; 8] = *b"remuda\x00\x01";
const SLOT_BYTES: usize = 8 + 16 + 8 + 4;
/// Distance of the slots: no disk tears two of its pages in one write.
const SLOT_STEP: u64 = 4096;
const FILE_BYTES: u64 = 2 * SLOT_STEP;

/// Why a seal says nothing.
#[derive(Debug, Error)]
pub enum SealError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Neither slot has its magic and checksum.
    #[error("neither of its two slots is valid")]
    NoValidSlot,
    /// The slots name different stores.
    #[error("its slots name two stores, {0} and {1}")]
    TwoStores(StoreId, StoreId),
}

/// The seal file, open for writing.
#[derive(Debug)]
pub(super) struct Seal {
    file: File,
    store: StoreId,
    number: u64,
    /// The slot that may be overwritten: the other one is valid and synced.
    free: u64,
}

impl Seal {
    /// Makes the file with `number` in its first slot, synced; the folder's sync is the caller's.
    pub(super) fn create(path: &Path, store: StoreId, number: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        // Zeros, not a hole: overwriting them later needs no new blocks, not even on a full disk.
        file.write_all_at(&[0; FILE_BYTES as usize], 0)?;
        file.write_all_at(&slot(store, number), 0)?;
        file.sync_all()
    }

    /// Opens the file and reads the highest number that a valid slot holds.
    pub(super) fn open(path: &Path) -> Result<Seal, SealError> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // What was written before a kill may not be synced: after this both slots are.
        file.sync_data()?;
        let (a, b) = (read_slot(&file, 0)?, read_slot(&file, 1)?);
        let ((store, number), free) = match (a, b) {
            (Some(a), Some(b)) if a.0 != b.0 => return Err(SealError::TwoStores(a.0, b.0)),
            (Some(a), Some(b)) if a.1 < b.1 => (b, 0),
            (Some(a), _) => (a, 1),
            (None, Some(b)) => (b, 0),
            (None, None) => return Err(SealError::NoValidSlot),
        };
        Ok(Seal { file, store, number, free })
    }

    /// The store that the seal belongs to.
    pub(super) fn store(&self) -> StoreId {
        self.store
    }

    /// The number of a batch that was synced.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn write(&mut self, number: u64) -> io::Result<()> {
        self.file.write_all_at(&slot(self.store, number), self.free * SLOT_STEP)?;
        self.number = number;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.free = 1 - self.free;
        Ok(())
    }
}

fn slot(store: StoreId, number: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..24].copy_from_slice(&store.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&number.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..32]);
    bytes[32..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn read_slot(file: &File, which: u64) -> io::Result<Option<(StoreId, u64)>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, which * SLOT_STEP) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let store = StoreId(u128::from_le_bytes(*bytes[8..].first_chunk().expect("the slot is long enough")));
    let number = u64::from_le_bytes(*bytes[24..].first_chunk().expect("the slot is long enough"));
    Ok((bytes == slot(store, number)).then_some((store, number)))
}

/// Hands numbers to the thread that writes the seal.
#[derive(Debug, Default)]
pub(super) struct Sealer {
    state: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    number: u64,
    closed: bool,
}

impl Sealer {
    /// Notes that the batch `number`, and so all before it, was synced.
    pub(super) fn publish(&self, number: u64) {
        self.state.lock().number = number;
        self.changed.notify_one();
    }

    /// Lets the thread end once the last number is written and synced.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    /// Writes published numbers into `seal` until closed. The body of the thread.
    ///
    /// # Errors
    /// The first failed write or sync; the file's content is unknown then.
    pub(super) fn run(self: Arc<Sealer>, mut seal: Seal) -> io::Result<()> {
        let mut synced = Instant::now();
        let mut dirty = false;
        loop {
            let due = dirty.then_some(synced + SYNC_EVERY);
            let (number, closed) = self.wait(seal.number(), due);
            if number > seal.number() {
                failpoint::hit("log.seal.before_write");
                seal.write(number)?;
                failpoint::hit("log.seal.after_write");
                dirty = true;
            }
            if dirty && (closed || synced.elapsed() >= SYNC_EVERY) {
                seal.sync()?;
                failpoint::hit("log.seal.after_sync");
                (dirty, synced) = (false, Instant::now());
            }
            if closed && !dirty {
                return Ok(());
            }
        }
    }

    /// Waits for a number above `written`, for the close, or until `due`.
    fn wait(&self, written: u64, due: Option<Instant>) -> (u64, bool) {
        let mut wanted = self.state.lock();
        while wanted.number <= written && !wanted.closed {
            match due {
                None => self.changed.wait(&mut wanted),
                Some(due) => {
                    if self.changed.wait_until(&mut wanted, due).timed_out() {
                        break;
                    }
                }
            }
        }
        (wanted.number, wanted.closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_slot_leaves_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal");
        Seal::create(&path, StoreId(7), 1).unwrap();
        let mut seal = Seal::open(&path).unwrap();
        for number in 2..=6 {
            seal.write(number).unwrap();
            seal.sync().unwrap();
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let newest = [0, 1].map(|which| read_slot(&file, which).unwrap().unwrap().1);
        assert_eq!(newest, [5, 6]);
        for at in 0..SLOT_BYTES as u64 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, SLOT_STEP + at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], SLOT_STEP + at).unwrap();
            assert_eq!(Seal::open(&path).unwrap().number(), 5, "offset {at}");
            file.write_all_at(&byte, SLOT_STEP + at).unwrap();
        }
        assert_eq!(Seal::open(&path).unwrap().number(), 6);
    }

    #[test]
    fn no_valid_slot_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal");
        assert!(matches!(Seal::open(&path), Err(SealError::Io(_))), "absent");
        std::fs::write(&path, []).unwrap();
        assert!(matches!(Seal::open(&path), Err(SealError::NoValidSlot)), "empty");
        std::fs::write(&path, [0; FILE_BYTES as usize]).unwrap();
        assert!(matches!(Seal::open(&path), Err(SealError::NoValidSlot)), "zeros");
    }

    #[test]
    fn the_thread_writes_the_last_number_before_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal");
        Seal::create(&path, StoreId(7), 1).unwrap();
        let sealer = Arc::new(Sealer::default());
        let thread = std::thread::spawn({
            let (sealer, seal) = (Arc::clone(&sealer), Seal::open(&path).unwrap());
            move || sealer.run(seal)
        });
        (2..100).for_each(|number| sealer.publish(number));
        sealer.close();
        thread.join().unwrap().unwrap();
        assert_eq!(Seal::open(&path).unwrap().number(), 99);
    }
}
