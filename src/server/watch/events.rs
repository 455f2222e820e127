//! The stream of WatchEvents: a cursor over initial workers, rows and ring.
//!
//! ```text
//!   [send_initial: workers of one revision] ──> [rows: what left the ring] ──> [ring] <──> wait for the head
//! ```
//!
//! Invariants
//! * Revisions go strictly up, a revision's events are sent together, and none between two that were sent is skipped.
//! * A point that is no longer kept ends the stream with REVISION_COMPACTED.
//!
//! Never here: reading requests (the service does), writing to the transport (it pulls).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_registry::selector::Selector;
use remuda_registry::{Event, Fact, Revision, row};
use remuda_wire::convert::event::{event_out, pool_of};
use remuda_wire::name::Parent;
use remuda_wire::{reasons, v1};

use super::{Batch, Since, resume};
use crate::raft::Rows;
use crate::service::Replica;
use crate::service::status::Failure;

/// Bounds of streams.
mod limits {
    use std::time::Duration;

    /// Batches taken from the ring at once.
    pub(super) const BATCHES: usize = 256;
    /// Rows read at once.
    pub(super) const ROWS: usize = 1_000;
    /// Workers in one initial message: well below the largest message.
    pub(super) const INITIAL: usize = 200;
    /// How often a waiting stream looks whether the leader is still heard of.
    pub(super) const LOOK: Duration = Duration::from_millis(250);
}

/// What a watcher wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Confined to this.
    pub parent: Parent,
    /// Only workers whose labels match.
    pub selector: Selector,
    /// The first revision.
    pub next: Revision,
    /// First all workers as they are.
    pub initial: bool,
    /// A bookmark after this long without an event.
    pub progress: Duration,
    /// End at this revision.
    pub until: Option<Revision>,
}

/// One event stream.
pub struct EventStream {
    replica: Arc<Replica>,
    wanted: Wanted,
    initial: Option<(Rows, Vec<u8>)>,
    rows: Option<Rows>,
    ready: VecDeque<v1::WatchEventsResponse>,
    /// The last revision that was passed.
    passed: Revision,
    /// The last revision that a message carried.
    told: Revision,
    last_message: Instant,
    live: bool,
    over: bool,
}

impl EventStream {
    /// A stream of what is wanted.
    ///
    /// # Errors
    /// Where the rows cannot be read.
    pub async fn open(replica: Arc<Replica>, mut wanted: Wanted) -> Result<Self, Failure> {
        let mut initial = None;
        if wanted.initial {
            let rows = replica.node.rows().await?;
            wanted.next = Revision(rows.revision().0 + 1);
            initial = Some((rows, Vec::new()));
        }
        let passed = Revision(wanted.next.0.saturating_sub(1));
        let (rows, ready) = (None, VecDeque::new());
        let (last_message, live, over) = (Instant::now(), false, false);
        Ok(Self { replica, wanted, initial, rows, ready, passed, told: passed, last_message, live, over })
    }

    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<v1::WatchEventsResponse, Failure>> {
        if self.over {
            return None;
        }
        match self.step().await {
            Ok(Some(message)) => {
                self.last_message = Instant::now();
                self.told = Revision(message.header.as_ref().map_or(0, |header| header.revision));
                Some(Ok(message))
            }
            Ok(None) => {
                self.over = true;
                None
            }
            Err(failure) => {
                self.over = true;
                Some(Err(failure.with("last_revision", self.told)))
            }
        }
    }

    async fn step(&mut self) -> Result<Option<v1::WatchEventsResponse>, Failure> {
        if let Some((rows, after)) = self.initial.take() {
            return self.initial_page(rows, after).await.map(Some);
        }
        let mut head = self.replica.hub.follow();
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            self.replica.in_contact()?;
            if self.wanted.until.is_some_and(|until| self.passed >= until) {
                self.over = true;
                return Ok(Some(self.bookmark()));
            }
            if self.take_more().await? {
                continue;
            }
            let wait = self.wanted.progress.saturating_sub(self.last_message.elapsed());
            if wait.is_zero() {
                return Ok(Some(self.bookmark()));
            }
            let _ = head.borrow_and_update();
            if self.replica.hub.head() > self.passed {
                continue;
            }
            let changed = tokio::time::timeout(wait.min(limits::LOOK), head.changed());
            tokio::select! {
                _ = changed => {}
                () = self.replica.closed() => return Err(Failure::new(reasons::SHUTTING_DOWN, "this replica is stopping")),
            }
        }
    }

    /// Takes what lies after `passed`, from ring or rows. False where there is nothing.
    async fn take_more(&mut self) -> Result<bool, Failure> {
        let next = Revision(self.passed.0 + 1);
        let (behind, left) = self.replica.hub.behind(next);
        if self.live && (left || behind > self.replica.settings.watch.lag_messages_max) {
            let lag = format!("{behind} revisions behind, and the limit is exceeded");
            return Err(Failure::new(reasons::SLOW_CONSUMER, lag));
        }
        match self.replica.hub.since(next, limits::BATCHES) {
            Since::Earlier => {
                self.take_rows(next).await?;
                Ok(true)
            }
            Since::Batches { batches, through } => {
                self.rows = None;
                let progress = through > self.passed;
                for batch in &batches {
                    self.pass(batch);
                }
                self.passed = self.passed.max(through);
                self.live = self.passed >= self.replica.hub.head();
                Ok(progress)
            }
        }
    }

    /// Reads the events from `next` on as the durable copy has them.
    async fn take_rows(&mut self, next: Revision) -> Result<(), Failure> {
        let rows = match self.rows.take() {
            Some(rows) if rows.revision() >= next => rows,
            Some(_) | None => self.replica.node.rows().await?,
        };
        let until = row::event_key(Revision(rows.revision().0 + 1), 0);
        let mut limit = limits::ROWS;
        let (found, whole) = loop {
            let found = rows.scan(row::event_key(next, 0), until.clone(), limit).await.map_err(unreadable)?;
            let whole = found.len() < limit;
            let several = found.first().map(|row| position(&row.0).0) != found.last().map(|row| position(&row.0).0);
            if whole || several {
                break (found, whole);
            }
            limit *= 2;
        };
        // The state is at or ahead of these rows: what it says is gone may be gone from them.
        let trimmed = self.replica.node.read(|state| state.events_trimmed());
        if next <= trimmed {
            let kept = trimmed.0 + 1;
            let failure =
                Failure::new(reasons::REVISION_COMPACTED, format!("events before revision {kept} are not kept"));
            return Err(failure.with("compact_revision", kept));
        }
        let mut batches: Vec<(Revision, Vec<Event>)> = Vec::new();
        for (key, value) in &found {
            let (revision, _) = position(key);
            let event = row::decode_event(value).map_err(unreadable)?;
            match batches.last_mut() {
                Some((last, events)) if *last == revision => events.push(event),
                Some(_) | None => batches.push((revision, vec![event])),
            }
        }
        if !whole {
            // The last revision may go on beyond what was read.
            batches.pop();
        }
        for (revision, events) in batches {
            let term = events.first().map_or(0, |event| event.term);
            self.pass(&Batch { revision, term, events: events.into() });
            self.passed = revision;
        }
        if whole {
            self.passed = self.passed.max(rows.revision());
        }
        self.rows = Some(rows);
        Ok(())
    }

    /// Makes a message of what a batch holds for this watcher.
    fn pass(&mut self, batch: &Batch) {
        if self.wanted.until.is_some_and(|until| batch.revision > until) {
            return;
        }
        let numbered = (0_u32..).zip(batch.events.iter());
        let fits = numbered.filter(|(_, event)| self.fits(&event.fact));
        let events: Vec<v1::Event> = fits.map(|(ordinal, event)| event_out(batch.revision, ordinal, event)).collect();
        if !events.is_empty() {
            let message = self.message(batch.revision);
            self.ready.push_back(v1::WatchEventsResponse { events, ..message });
        }
    }

    fn fits(&self, fact: &Fact) -> bool {
        let within = match &self.wanted.parent {
            Parent::All => true,
            Parent::Pool(pool) => pool_of(fact) == Some(pool),
            Parent::Worker(worker) => fact.worker() == Some(worker),
        };
        if !within || self.wanted.selector.requirements.is_empty() {
            return within;
        }
        fact.worker().is_some_and(|id| {
            self.replica
                .node
                .read(|state| state.worker(id).is_some_and(|worker| self.wanted.selector.matches(state.labels(worker))))
        })
    }

    async fn initial_page(&mut self, rows: Rows, after: Vec<u8>) -> Result<v1::WatchEventsResponse, Failure> {
        let list = self.replica.workers_of(&self.wanted.parent, &self.wanted.selector, &[]);
        let (initial, last) = list.page(&rows, after, limits::INITIAL).await?;
        let revision = rows.revision();
        let message = self.message(revision);
        match last {
            Some(last) => self.initial = Some((rows, last)),
            None => {
                let bookmark = v1::WatchEventsResponse { bookmark: true, ..message.clone() };
                self.ready.push_back(bookmark);
            }
        }
        // A stream that breaks here begins again: only the bookmark resumes.
        Ok(v1::WatchEventsResponse { initial, resume_token: String::new(), ..message })
    }

    fn bookmark(&self) -> v1::WatchEventsResponse {
        v1::WatchEventsResponse { bookmark: true, ..self.message(self.passed) }
    }

    fn message(&self, revision: Revision) -> v1::WatchEventsResponse {
        let header = self.replica.header(revision, false);
        let resume_token = resume::token(&header.cluster_id, revision);
        v1::WatchEventsResponse { header: Some(header), resume_token, ..Default::default() }
    }
}

fn position(key: &[u8]) -> (Revision, u32) {
    row::event_position(key).unwrap_or_default()
}

fn unreadable(error: impl std::fmt::Display) -> Failure {
    tracing::error!(%error, "a row cannot be read");
    Failure::new(reasons::INTERNAL, format!("a row cannot be read: {error}"))
}
