//! The state machine as openraft drives it: committed entries in, answers and events out.
//!
//! Each entry is applied to memory and its caller answered at once; what a chunk of entries changed goes to the
//! database in one batch, and only then are its events published and its revision announced. A crash in between loses
//! nothing: the log still has the entries, and the database says where to go on.
//!
//! Invariants
//! * Entries are applied in the order of their indices, each once per run of the process.
//! * Events are published in revision order, every entry's exactly once, those of blank entries as empty.
//!
//! Never here: a clock, a decision; `registry::apply` makes those.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use remuda_registry::{Frame, Revision};

use super::checkpoint::Builder;
use super::install;
use super::manifest::SnapshotDir;
use super::record::AppliedRecord;
use super::shared::{Applied, Mark, Shared};
use crate::failpoint;
use crate::raft::node::Published;
use crate::raft::types::{Answer, Entry, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig, term_of};

/// Entries applied before their rows are written: bounds how long callers' reads lag behind their answers.
const CHUNK_ENTRIES: usize = 64;

/// Applies what is committed.
pub struct StateMachine {
    shared: Arc<Shared>,
    record: AppliedRecord,
    unpublished: Vec<Published>,
    marks: Vec<Mark>,
}

impl StateMachine {
    /// The state machine over `shared`, which stands at `record`.
    pub fn new(shared: Arc<Shared>, record: AppliedRecord) -> StateMachine {
        StateMachine { shared, record, unpublished: Vec::new(), marks: Vec::new() }
    }

    /// Applies one entry to memory.
    fn step(&mut self, entry: Entry) -> io::Result<Answer> {
        let id = entry.log_id;
        let (revision, term) = (Revision(id.index), term_of(&id));
        let mut answer = Answer { revision: id.index, term, results: Vec::new() };
        let mut events = Vec::new();
        let last = self.record.last_applied.as_ref();
        assert!(last.is_none_or(|last| id.index > last.index), "entries are applied in order, each once");
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                self.record.membership = StoredMembership::new(Some(id), membership)
            }
            EntryPayload::Normal(payload) => {
                let frame = Frame::decode(payload.bytes()).map_err(|error| unknown(&id, &payload, &error))?;
                let mut hot = self.shared.hot.write();
                let applied = remuda_registry::apply(&mut hot, revision, term, &frame);
                if applied.mark {
                    self.marks.push(Mark { revision, digest: hot.digest() });
                }
                *self.shared.stands_at.lock() = revision;
                answer.results = applied.results;
                events = applied.events;
            }
        }
        self.record.last_applied = Some(id);
        let (log_time, digest) = {
            let hot = self.shared.hot.read();
            *self.shared.stands_at.lock() = revision;
            (hot.log_time(), hot.digest())
        };
        self.unpublished.push(Published { revision, term, log_time, digest, events: events.into() });
        Ok(answer)
    }

    /// Writes what was applied since the last call, then tells everybody.
    fn write(&mut self) -> io::Result<()> {
        let Some(last) = self.record.last_applied.filter(|_| !self.unpublished.is_empty()) else { return Ok(()) };
        let changes = {
            let mut hot = self.shared.hot.write();
            self.record.digest = hot.digest();
            hot.take_changes()
        };
        failpoint::hit("state.apply.before_write");
        let database = Arc::clone(&self.shared.open.read().database);
        database.write(changes.rows, &self.record)?;
        failpoint::hit("state.apply.after_write");
        for published in self.unpublished.drain(..) {
            self.shared.sink.published(published);
        }
        self.shared.applied.send_replace(Applied { revision: Revision(last.index), term: term_of(&last) });
        for mark in self.marks.drain(..) {
            // Nobody reports digests while the replica stops.
            let _ = self.shared.marks.send(mark);
        }
        Ok(())
    }
}

fn unknown(id: &LogId, payload: &Payload, error: &remuda_registry::frame::FrameError) -> io::Error {
    let text = format!("entry {id} ({payload}) is not understood, the replica stops before it: {error}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotDir;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.record.last_applied, self.record.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let answer = self.step(entry)?;
            if let Some(responder) = responder {
                responder.send(answer);
            }
            if self.unpublished.len() >= CHUNK_ENTRIES {
                self.write()?;
            }
        }
        self.write()
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder::new(Arc::clone(&self.shared))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotDir) -> Result<(), io::Error> {
        self.record = install::install(&self.shared, meta, snapshot).await?;
        self.unpublished.clear();
        self.marks.clear();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotDir>>, io::Error> {
        let newest = self.shared.newest.lock().clone();
        Ok(newest.map(|snapshot| openraft::alias::SnapshotOf::<TypeConfig, SnapshotDir> {
            meta: snapshot.meta().clone(),
            snapshot,
        }))
    }
}
