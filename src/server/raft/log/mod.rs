//! The Raft log: what a replica has promised, on disk, in an order that survives its death.
//!
//! It has a RocksDB instance of its own, written by one thread. openraft's core submits appends, votes, truncations and
//! purges and goes on; the thread takes all that has gathered, writes one batch, syncs once and completes the callbacks.
//! Readers are served from memory.
//!
//! ```text
//! core ── append, vote, … ──> queue ──> writer ──> rows (RocksDB, synced) ──> callbacks
//!   └── at once ──> tail <── readers        └──> seal (how many batches must be there)
//! ```
//!
//! A disk may lose or change what it was given, and RocksDB may take that for a torn tail. So groups of entries are
//! chained, each batch carries a numbered head row, and the seal counts the synced batches; a log that does not add up
//! does not open ([`OpenError`] says what is damaged), and its replica stays out until it is replaced.
//!
//! Invariants
//! * What was reported as flushed, and a vote that was saved, is there after any crash, or the log does not open.
//! * An entry can be read from the moment `append` returns.
//! * Any write or sync that fails ends the process.
//!
//! Never here: what an entry means; timers; openraft's serde as a format.

mod chain;
pub mod encoding;
mod framing;
mod metrics;
mod open;
mod queue;
mod reader;
mod row;
mod seal;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::storage::{LogState, RaftLogStorage};
use parking_lot::{Mutex, RwLock};
use remuda_registry::Frame;
use rocksdb::DB;
use tokio::sync::oneshot;

use self::chain::Encoded;
use self::queue::{Done, Queue, Request};
use self::seal::Sealer;
use self::tail::Tail;
use self::writer::Writer;
use crate::raft::types::{Entry, EntryPayload, Identity, IoFlushed, LogId, TypeConfig, Vote};

pub use self::metrics::LogMetrics;
pub use self::open::{OpenError, Problem};
pub use self::queue::Progress;
pub use self::reader::LogReader;
pub use self::row::RowError;
pub use self::seal::SealError;

/// What may be chosen about a log; the defaults fit a replica of a million workers.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Bytes of entries that stay in memory after they are on disk: followers that lag less read no disk.
    pub tail_bytes: usize,
    /// Bytes that RocksDB gathers before it makes a file of them. Entries purged before then never leave the
    /// write-ahead log.
    pub write_buffer: usize,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { tail_bytes: 64 << 20, write_buffer: 64 << 20 }
    }
}

/// The log of one replica. Clones are the same log; it is closed when the last of them and of its readers is dropped.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

/// A cheap view of a log's writer for guards and metrics; does not keep the log open.
#[derive(Clone)]
pub struct LogHandle {
    queue: Arc<Queue>,
    metrics: LogMetrics,
}

struct Inner {
    db: Arc<DB>,
    tail: Arc<RwLock<Tail>>,
    queue: Arc<Queue>,
    vote: Mutex<Option<Vote>>,
    committed: Mutex<Option<LogId>>,
    identity: Identity,
    metrics: LogMetrics,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl LogStore {
    /// Makes an empty log in `folder`, which is absent or empty, and syncs it with the folder.
    ///
    /// # Errors
    /// An [`OpenError`] inside, if the folder is not empty or the file system refuses; what was made by then stays.
    pub fn create(folder: &Path, identity: Identity) -> io::Result<()> {
        open::create(folder, &identity, &LogOptions::default()).map_err(io::Error::other)
    }

    /// Opens and verifies the log in `folder`. Blocks for the time that reading all of it takes.
    ///
    /// # Errors
    /// [`OpenError`] says what is damaged; nothing was repaired.
    pub fn open(folder: &Path, options: &LogOptions) -> Result<LogStore, OpenError> {
        let opened = open::open(folder, options)?;
        let (db, tail) = (Arc::new(opened.db), Arc::new(RwLock::new(opened.tail)));
        let (queue, sealer, metrics) = (Arc::<Queue>::default(), Arc::<Sealer>::default(), LogMetrics::default());
        let writer = Writer {
            db: Arc::clone(&db),
            chain: opened.chain,
            queue: Arc::clone(&queue),
            tail: Arc::clone(&tail),
            sealer: Arc::clone(&sealer),
            metrics: metrics.clone(),
        };
        let seal = opened.seal;
        let write_seal = move || {
            if let Err(error) = sealer.run(seal) {
                writer::abort("the seal could not be written", &error);
            }
        };
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
            thread.map_err(|error| OpenError { folder: folder.to_owned(), problem: error.into() })
        };
        // The seal's thread first: should the other fail to start, it has nothing to do and ends with the process.
        let threads = vec![spawn("log-seal", Box::new(write_seal))?, spawn("log-writer", Box::new(|| writer.run()))?];
        let inner = Inner {
            db,
            tail,
            queue,
            vote: Mutex::new(opened.vote),
            committed: Mutex::new(opened.committed),
            identity: opened.identity,
            metrics,
            threads: Mutex::new(threads),
        };
        Ok(LogStore { inner: Arc::new(inner) })
    }

    /// Whose log this is.
    pub fn identity(&self) -> Identity {
        self.inner.identity
    }

    /// Whether this log never held anything: no vote, no entry, nothing purged.
    pub fn is_empty(&self) -> bool {
        self.inner.tail.read().last().is_none() && self.inner.vote.lock().is_none()
    }

    /// From now on nothing is written any more, as if the process had died before the writer came to it.
    #[cfg(test)]
    fn lose_what_is_not_written(&self) {
        self.inner.queue.lose();
    }

    /// A view for guards and metrics.
    pub fn handle(&self) -> LogHandle {
        LogHandle { queue: Arc::clone(&self.inner.queue), metrics: self.inner.metrics.clone() }
    }
}

impl LogHandle {
    /// How many requests were submitted and finished.
    pub fn progress(&self) -> Progress {
        self.queue.progress()
    }

    /// For how long the writer has finished nothing although something waits; `None` while nothing waits.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.queue.stalled_for()
    }

    /// The log's metrics.
    pub fn metrics(&self) -> &LogMetrics {
        &self.metrics
    }
}

impl Inner {
    fn submit(&self, request: Request) {
        self.metrics.queued.inc();
        self.queue.push(request);
    }

    async fn ask(&self, request: impl FnOnce(Done) -> Request) -> Result<(), io::Error> {
        let (done, answer) = oneshot::channel();
        self.submit(request(done));
        answer.await.map_err(|_| io::Error::other("the log is closing"))?
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.get_mut().drain(..) {
            // A panic there is a bug that was already reported; the log is as good as its last synced batch.
            let _ = thread.join();
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.inner.tail.read();
        Ok(LogState { last_purged_log_id: tail.purged(), last_log_id: tail.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { inner: Arc::clone(&self.inner) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.inner.ask(|done| Request::Vote { vote, done }).await?;
        *self.inner.vote.lock() = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        *self.inner.committed.lock() = committed;
        self.inner.submit(Request::Committed(committed));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(*self.inner.committed.lock())
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut encoded = Encoded::default();
        entries.iter().for_each(|entry| encoded.push(entry));
        let commands = entries.iter().map(commands_of).sum();
        let mut tail = self.inner.tail.write();
        let generation = tail.generation();
        entries.into_iter().for_each(|entry| tail.push(entry));
        drop(tail);
        self.inner.submit(Request::Append { entries: encoded, commands, generation, flushed: callback });
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let dropped = self.inner.tail.write().truncate(last_log_id);
        if let Some(last) = dropped {
            self.inner.submit(Request::Truncate(last));
        }
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let dropped = self.inner.tail.write().purge(upto);
        if dropped {
            self.inner.submit(Request::Purge(upto));
        }
        Ok(())
    }
}

/// Commands in one entry.
fn commands_of(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Normal(payload) => Frame::count(payload.bytes()).unwrap_or_default() as u64,
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}
