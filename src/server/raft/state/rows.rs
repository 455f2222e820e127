//! Reads of the durable copy as it stood at one revision: for lists, old events, and what is not in memory.
//!
//! A RocksDB snapshot borrows its database, so one thread per open database owns both: it holds every snapshot that
//! somebody keeps, and runs their reads one after another. A page of rows is short work, and Tokio's workers never
//! wait for a disk.
//!
//! Invariants
//! * All reads of one [`Rows`] see the same revision, and `revision()` names it.
//! * When the last handle to a replaced database is gone its thread ends, and its folder with it.
//!
//! Never here: what rows mean; which pages are kept, for how long (the services).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use remuda_registry::Revision;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, Snapshot};
use tokio::sync::oneshot;

use super::database::{Database, storage};
use super::record::{APPLIED_KEY, AppliedRecord};

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

enum Job {
    /// Take a snapshot under this number and say which revision it is of.
    Take(u64, oneshot::Sender<io::Result<Revision>>),
    Get(u64, Vec<u8>, oneshot::Sender<io::Result<Option<Vec<u8>>>>),
    Scan(u64, Range, oneshot::Sender<io::Result<Vec<Row>>>),
    Release(u64),
}

struct Range {
    from: Vec<u8>,
    until: Vec<u8>,
    limit: usize,
}

/// Takes snapshots of one open database.
#[derive(Clone)]
pub struct RowReader {
    jobs: mpsc::Sender<Job>,
    next: Arc<AtomicU64>,
}

impl RowReader {
    /// Starts the thread that reads `database`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(database: Arc<Database>) -> io::Result<RowReader> {
        let (jobs, queue) = mpsc::channel();
        std::thread::Builder::new().name("rows".to_owned()).spawn(move || serve(&database, &queue))?;
        Ok(RowReader { jobs, next: Arc::new(AtomicU64::new(1)) })
    }

    /// A view of all rows as they are now.
    ///
    /// # Errors
    /// What RocksDB says.
    pub async fn take(&self) -> io::Result<Rows> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let revision = ask(&self.jobs, |reply| Job::Take(number, reply)).await?;
        Ok(Rows { held: Arc::new(Held { number, revision, jobs: self.jobs.clone() }) })
    }
}

/// The rows at one revision. Cheap to clone; keeps disk space that compaction would free, so keep it for long only on
/// purpose.
#[derive(Clone)]
pub struct Rows {
    held: Arc<Held>,
}

struct Held {
    number: u64,
    revision: Revision,
    jobs: mpsc::Sender<Job>,
}

impl Rows {
    /// The revision that all reads see.
    pub fn revision(&self) -> Revision {
        self.held.revision
    }

    /// The value of one row.
    ///
    /// # Errors
    /// What RocksDB says.
    pub async fn get(&self, key: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
        ask(&self.held.jobs, |reply| Job::Get(self.held.number, key, reply)).await
    }

    /// At most `limit` rows with `from <= key < until`, in the order of their keys.
    ///
    /// # Errors
    /// What RocksDB says.
    pub async fn scan(&self, from: Vec<u8>, until: Vec<u8>, limit: usize) -> io::Result<Vec<Row>> {
        ask(&self.held.jobs, |reply| Job::Scan(self.held.number, Range { from, until, limit }, reply)).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The thread may have ended with its process; nothing is held then.
        let _ = self.jobs.send(Job::Release(self.number));
    }
}

async fn ask<T>(jobs: &mpsc::Sender<Job>, job: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Job) -> io::Result<T> {
    let (reply, answer) = oneshot::channel();
    let gone = || io::Error::other("the reader of the state database has ended");
    jobs.send(job(reply)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn serve(database: &Database, queue: &mpsc::Receiver<Job>) {
    let db = database.db();
    let mut held: HashMap<u64, Snapshot<'_>> = HashMap::new();
    // A reader that was dropped meanwhile does not hear its answer; that is fine.
    for job in queue {
        match job {
            Job::Take(number, reply) => {
                let snapshot = db.snapshot();
                let _ = reply.send(revision_of(&snapshot));
                held.insert(number, snapshot);
            }
            Job::Get(number, key, reply) => {
                let value = held.get(&number).map_or(Ok(None), |snapshot| snapshot.get(key).map_err(storage));
                let _ = reply.send(value);
            }
            Job::Scan(number, range, reply) => {
                let rows = held.get(&number).map_or_else(|| Ok(Vec::new()), |snapshot| scan(snapshot, range));
                let _ = reply.send(rows);
            }
            Job::Release(number) => drop(held.remove(&number)),
        }
    }
}

fn revision_of(snapshot: &Snapshot<'_>) -> io::Result<Revision> {
    let row = snapshot.get(APPLIED_KEY).map_err(storage)?;
    let record = row.map_or_else(|| Ok(AppliedRecord::default()), |bytes| AppliedRecord::decode(&bytes))?;
    Ok(Revision(record.revision()))
}

fn scan(snapshot: &rocksdb::SnapshotWithThreadMode<'_, DB>, range: Range) -> io::Result<Vec<Row>> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(range.until);
    let rows = snapshot.iterator_opt(IteratorMode::From(&range.from, Direction::Forward), options);
    rows.take(range.limit).map(|row| row.map(|(key, value)| (key.into(), value.into())).map_err(storage)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::log_id;

    fn at(index: u64) -> AppliedRecord {
        AppliedRecord { last_applied: Some(log_id(1, index)), ..Default::default() }
    }

    #[tokio::test]
    async fn a_view_stays_at_its_revision() {
        let temporary = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(temporary.path(), true).unwrap());
        let reader = RowReader::start(Arc::clone(&database)).unwrap();
        let row = |key: &str, value: &str| (key.into(), Some(value.into()));
        database.write(vec![row("a1", "x"), row("a2", "y"), row("b1", "z")], &at(5)).unwrap();
        let rows = reader.take().await.unwrap();
        database.write(vec![row("a1", "new"), (b"a2".to_vec(), None)], &at(6)).unwrap();
        assert_eq!(rows.revision(), Revision(5));
        assert_eq!(rows.get(b"a1".to_vec()).await.unwrap(), Some(b"x".to_vec()));
        let page = rows.scan(b"a".to_vec(), b"b".to_vec(), 10).await.unwrap();
        assert_eq!(page, [(b"a1".to_vec(), b"x".to_vec()), (b"a2".to_vec(), b"y".to_vec())]);
        assert_eq!(rows.scan(b"a".to_vec(), b"c".to_vec(), 1).await.unwrap().len(), 1);
        let later = reader.take().await.unwrap();
        assert_eq!((later.revision(), later.get(b"a2".to_vec()).await.unwrap()), (Revision(6), None));
    }
}
