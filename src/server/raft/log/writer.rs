//! The one thread that writes the log.
//!
//! It takes all requests that have queued, makes one write batch of them, writes it, syncs once if anyone waits for the
//! disk, and then completes the callbacks, newest first: openraft keeps only the highest, so the older ones cost nothing.
//!
//! ```text
//! queue ──drain──> draft ──> write ──> sync ──> callbacks ──> tail evicts
//!                                        └────> seal thread
//! ```
//!
//! A write or sync that failed leaves the disk in an unknown state, and Linux may report success the next time with the
//! pages gone. So there is no next time: the process aborts, and the log is verified when it is opened again.
//!
//! Invariants
//! * A callback is completed only after a sync that followed its write has returned.
//! * Requests are written in queue order: a vote is on disk before the entries that follow it.
//!
//! Never here: deciding what to write; a second writer.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use rocksdb::{DB, WriteBatch, WriteOptions};

use super::LogMetrics;
use super::chain::{Chain, Draft};
use super::queue::{Done, Queue, Request};
use super::row;
use super::seal::Sealer;
use super::tail::Tail;
use crate::failpoint;
use crate::raft::types::IoFlushed;

mod limits {
    /// Requests in one batch: far more than 64 clients submit during one sync, and the callbacks stay a short loop.
    pub(super) const BATCH_REQUESTS: usize = 4096;
    /// Bytes of entries in one batch: one group row, which a reader decodes as a whole.
    pub(super) const BATCH_BYTES: usize = 4 << 20;
}

/// Everything the thread works with.
pub(super) struct Writer {
    pub(super) db: Arc<DB>,
    pub(super) chain: Chain,
    pub(super) queue: Arc<Queue>,
    pub(super) tail: Arc<parking_lot::RwLock<Tail>>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) metrics: LogMetrics,
}

/// What one batch holds and who waits for it.
#[derive(Default)]
struct Load {
    flushed: Vec<IoFlushed>,
    done: Vec<Done>,
    /// Index of the last appended entry and the tail's generation at that time.
    appended: Option<(u64, u64)>,
    entries: u64,
    commands: u64,
    bytes: u64,
    vote: bool,
    committed: bool,
    truncate: bool,
    purge: bool,
}

impl Load {
    fn needs_sync(&self) -> bool {
        !self.flushed.is_empty() || !self.done.is_empty()
    }
}

impl Writer {
    /// Writes until the queue is closed and empty. The body of the thread.
    pub(super) fn run(mut self) {
        while let Some(requests) = self.queue.take(limits::BATCH_REQUESTS, limits::BATCH_BYTES) {
            let count = requests.len();
            self.write_batch(requests);
            self.queue.finish(count);
            self.metrics.queued.dec_by(count as i64);
        }
        self.sealer.close();
    }

    fn write_batch(&mut self, requests: Vec<Request>) {
        let mut load = Load::default();
        let mut draft = Draft::new(&mut self.chain, &self.db);
        for request in requests {
            gather(request, &mut draft, &mut load);
        }
        let batch = draft.finish();
        let number = self.chain.head.number;
        pass_before_write(&load);
        self.write(batch);
        pass_after_write(&load);
        if load.needs_sync() {
            self.sync(&load);
            pass_after_sync(&load);
        }
        let (synced, appended) = (load.needs_sync(), load.appended);
        complete(load);
        if synced {
            self.sealer.publish(number);
        }
        if let Some((last, generation)) = appended {
            let mut tail = self.tail.write();
            if tail.generation() == generation {
                tail.evict(last);
            }
        }
    }

    fn write(&self, batch: WriteBatch) {
        let began = Instant::now();
        // The write and its sync are two calls, so that a test can die between them.
        let result = if failpoint::fails("log.write") {
            Err(io::Error::other("failpoint log.write"))
        } else {
            self.db.write_opt(batch, &WriteOptions::default()).map_err(io::Error::other)
        };
        if let Err(error) = result {
            abort("a batch could not be written", &error);
        }
        self.metrics.batches.inc();
        self.metrics.write_seconds.observe(began.elapsed().as_secs_f64());
    }

    fn sync(&self, load: &Load) {
        let began = Instant::now();
        let result = if failpoint::fails("log.sync") {
            Err(io::Error::other("failpoint log.sync"))
        } else {
            self.db.flush_wal(true).map_err(io::Error::other)
        };
        if let Err(error) = result {
            abort("a batch could not be synced", &error);
        }
        let metrics = &self.metrics;
        metrics.sync_seconds.observe(began.elapsed().as_secs_f64());
        metrics.syncs.inc();
        if load.entries > 0 {
            metrics.entries.inc_by(load.entries);
            metrics.commands.inc_by(load.commands);
            metrics.bytes.inc_by(load.bytes);
            metrics.entries_per_sync.observe(load.entries as f64);
            metrics.commands_per_sync.observe(load.commands as f64);
        }
    }
}

/// Moves one request into the batch, and who waits for it into the load.
fn gather(request: Request, draft: &mut Draft<'_>, load: &mut Load) {
    match request {
        Request::Append { entries, commands, generation, flushed } => {
            load.entries += entries.len() as u64;
            load.commands += commands;
            load.bytes += entries.size() as u64;
            load.appended = entries.last().map(|id| (id.index, generation)).or(load.appended);
            load.flushed.push(flushed);
            draft.append(entries);
        }
        Request::Vote { vote, done } => {
            draft.put_vote(&row::encode_vote(&vote));
            load.done.push(done);
            load.vote = true;
        }
        Request::Committed(committed) => {
            draft.put(row::COMMITTED, &row::encode_committed(committed.as_ref()));
            load.committed = true;
        }
        Request::Truncate(last) => {
            load.truncate = true;
            if let Err(error) = draft.truncate(last) {
                abort("the group to truncate could not be read", &error);
            }
        }
        Request::Purge(upto) => {
            load.purge = true;
            draft.purge(upto);
        }
    }
}

fn complete(load: Load) {
    let append = !load.flushed.is_empty();
    for flushed in load.flushed.into_iter().rev() {
        flushed.io_completed(Ok(()));
    }
    for done in load.done.into_iter().rev() {
        // Whoever asked may have gone; the row is written all the same.
        let _ = done.send(Ok(()));
    }
    if append {
        failpoint::hit("log.append.after_callbacks");
    }
}

fn pass_before_write(load: &Load) {
    if !load.flushed.is_empty() {
        failpoint::hit("log.append.before_write");
    }
    if load.vote {
        failpoint::hit("log.vote.before_write");
    }
    if load.truncate {
        failpoint::hit("log.truncate.before_write");
    }
    if load.purge {
        failpoint::hit("log.purge.before_write");
    }
}

fn pass_after_write(load: &Load) {
    if !load.flushed.is_empty() {
        failpoint::hit("log.append.after_write");
    }
    if load.vote {
        failpoint::hit("log.vote.after_write");
    }
    if load.truncate {
        failpoint::hit("log.truncate.after_write");
    }
    if load.purge {
        failpoint::hit("log.purge.after_write");
    }
    if load.committed {
        failpoint::hit("log.committed.after_write");
    }
}

fn pass_after_sync(load: &Load) {
    if !load.flushed.is_empty() {
        failpoint::hit("log.append.after_sync");
    }
    if load.vote {
        failpoint::hit("log.vote.after_sync");
    }
}

/// Ends the process: what is on disk is no longer known, and nobody may be told otherwise.
pub(super) fn abort(what: &str, error: &dyn Display) -> ! {
    tracing::error!(%error, "{what}; this replica stops");
    std::process::abort();
}
