//! The watch hub: recent events in a ring, and wake-ups by key.
//!
//! The state machine hands every applied entry to the hub. Watchers of events pull from the ring by revision; what lies
//! before the ring they read from rows. Calls and streams that wait for one worker, session or waiter have an inbox,
//! and are woken only for their keys; what happened they then read from the state.
//!
//! Invariants
//! * The head moves after ring and inboxes know of its revision: who sees a head has been told of all before it.
//! * All events of a revision are in one batch.
//!
//! Never here: filters, messages, waiting in `published`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use remuda_registry::event::WaiterEnd;
use remuda_registry::{Event, Fact, Revision, SessionId, WaiterId, WorkerId};
use tokio::sync::{Notify, watch};

use crate::raft::{Published, Sink};

/// What an inbox can wait for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Anything about a worker, its returns included.
    Worker(WorkerId),
    /// The end of a session.
    Session(SessionId),
    /// The end of a waiter.
    Waiter(WaiterId),
}

/// The events of one revision.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// The term of its entry.
    pub term: u64,
    /// The events; the ordinal is the position.
    pub events: Arc<[Event]>,
}

/// What the ring has from a revision on.
#[derive(Debug)]
pub enum Since {
    /// Everything with events from there to `head`, at most as many batches as asked for.
    Batches {
        /// The batches, in revision order.
        batches: Vec<Batch>,
        /// Everything up to here is in `batches` or has no events.
        through: Revision,
    },
    /// The ring begins later: rows have it, if anything has.
    Earlier,
}

struct Ring {
    batches: VecDeque<Batch>,
    events: usize,
    /// Every event above this revision and up to the head is in the ring.
    floor: Revision,
    head: Revision,
}

/// Hears what is applied and hands it on.
pub struct Hub {
    ring: Mutex<Ring>,
    capacity: usize,
    inboxes: Mutex<HashMap<Key, Vec<Weak<Inbox>>>>,
    head: watch::Sender<Revision>,
}

/// Keys that something happened to.
pub struct Inbox {
    hub: Weak<Hub>,
    keys: Vec<Key>,
    dirty: Mutex<BTreeSet<Key>>,
    woken: Notify,
}

impl Hub {
    /// A hub that keeps at most `capacity` recent events.
    pub fn new(capacity: usize) -> Arc<Self> {
        let ring = Ring { batches: VecDeque::new(), events: 0, floor: Revision(0), head: Revision(0) };
        let (head, _) = watch::channel(Revision(0));
        Arc::new(Self { ring: Mutex::new(ring), capacity, inboxes: Mutex::default(), head })
    }

    /// The last revision that was published.
    pub fn head(&self) -> Revision {
        *self.head.borrow()
    }

    /// Follows the head.
    pub fn follow(&self) -> watch::Receiver<Revision> {
        self.head.subscribe()
    }

    /// What there is from `next` on, at most `limit` batches.
    pub fn since(&self, next: Revision, limit: usize) -> Since {
        let ring = self.ring.lock();
        if next <= ring.floor {
            return Since::Earlier;
        }
        let start = ring.batches.partition_point(|batch| batch.revision < next);
        let batches: Vec<Batch> = ring.batches.iter().skip(start).take(limit).cloned().collect();
        let cut = start + batches.len() < ring.batches.len();
        let through = match batches.last() {
            Some(last) if cut => last.revision,
            Some(_) | None => ring.head,
        };
        Since::Batches { batches, through }
    }

    /// How many batches lie from `next` on, and whether some have left the ring.
    pub fn behind(&self, next: Revision) -> (usize, bool) {
        let ring = self.ring.lock();
        let start = ring.batches.partition_point(|batch| batch.revision < next);
        (ring.batches.len() - start, next <= ring.floor)
    }

    /// An inbox for `keys`.
    pub fn inbox(self: &Arc<Self>, keys: Vec<Key>) -> Arc<Inbox> {
        let (hub, dirty, woken) = (Arc::downgrade(self), Mutex::default(), Notify::new());
        let inbox = Arc::new(Inbox { hub, keys, dirty, woken });
        let mut inboxes = self.inboxes.lock();
        for key in &inbox.keys {
            inboxes.entry(key.clone()).or_default().push(Arc::downgrade(&inbox));
        }
        inbox
    }

    fn wake(&self, keys: impl Iterator<Item = Key>) {
        // The last owner of an inbox may let go of it meanwhile: its drop takes the table's lock, so ours must be free.
        let mut woken = Vec::new();
        let inboxes = self.inboxes.lock();
        for key in keys {
            for inbox in inboxes.get(&key).into_iter().flatten().filter_map(Weak::upgrade) {
                inbox.dirty.lock().insert(key.clone());
                woken.push(inbox);
            }
        }
        drop(inboxes);
        for inbox in woken {
            inbox.woken.notify_one();
        }
    }

    fn wake_all(&self) {
        let all: Vec<Arc<Inbox>> = self.inboxes.lock().values().flatten().filter_map(Weak::upgrade).collect();
        for inbox in all {
            inbox.dirty.lock().extend(inbox.keys.iter().cloned());
            inbox.woken.notify_one();
        }
    }
}

impl Sink for Hub {
    fn published(&self, published: Published) {
        let Published { revision, term, events, .. } = published;
        if !events.is_empty() {
            self.wake(events.iter().flat_map(keys_of));
        }
        let mut ring = self.ring.lock();
        ring.head = revision;
        if !events.is_empty() {
            ring.events += events.len();
            ring.batches.push_back(Batch { revision, term, events });
        }
        while ring.events > self.capacity {
            let Some(oldest) = ring.batches.pop_front() else { break };
            ring.events -= oldest.events.len();
            ring.floor = oldest.revision;
        }
        drop(ring);
        self.head.send_replace(revision);
    }

    fn jumped(&self, revision: Revision) {
        let mut ring = self.ring.lock();
        *ring = Ring { batches: VecDeque::new(), events: 0, floor: revision, head: revision };
        drop(ring);
        self.wake_all();
        self.head.send_replace(revision);
    }
}

impl Inbox {
    /// Waits until something happened to one of the keys, and says to which.
    pub async fn next(&self) -> BTreeSet<Key> {
        loop {
            let woken = self.woken.notified();
            let dirty = self.take();
            if !dirty.is_empty() {
                return dirty;
            }
            woken.await;
        }
    }

    /// What happened since the last look, without waiting.
    pub fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut *self.dirty.lock())
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else { return };
        let mut inboxes = hub.inboxes.lock();
        for key in &self.keys {
            if let Some(list) = inboxes.get_mut(key) {
                list.retain(|inbox| inbox.strong_count() > 0);
                if list.is_empty() {
                    inboxes.remove(key);
                }
            }
        }
    }
}

/// Whom an event concerns.
fn keys_of(event: &Event) -> Vec<Key> {
    match &event.fact {
        Fact::Worker(_) | Fact::WorkerNoted { .. } | Fact::ReturnEnded(_) => {
            event.fact.worker().map(|worker| Key::Worker(worker.clone())).into_iter().collect()
        }
        Fact::SessionOpened { replaced, .. } => replaced.map(Key::Session).into_iter().collect(),
        Fact::SessionEnded { session, .. } => vec![Key::Session(*session)],
        Fact::WaiterEnded { waiter, end, .. } => match end {
            WaiterEnd::Granted { .. }
            | WaiterEnd::Cancelled
            | WaiterEnd::Dropped
            | WaiterEnd::Expired
            | WaiterEnd::PoolDeleted => vec![Key::Waiter(*waiter)],
        },
        Fact::PoolCreated { .. }
        | Fact::PoolUpdated { .. }
        | Fact::PoolDeleted { .. }
        | Fact::WaiterQueued { .. }
        | Fact::Bootstrapped { .. }
        | Fact::FeatureLevelRaised { .. }
        | Fact::DigestAgreed { .. }
        | Fact::DigestDiverged { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
