//! Watchers: each follows the events that a replica has on disk, and goes on at another replica where it left off.
//!
//! Never here: a filter of the product; the prefix is the judge's.

use std::collections::BTreeMap;

use remuda_registry::Revision;
use remuda_registry::row;
use remuda_tests::guarantees::history::{Event, Watch, WatchItem};

use crate::world::{Timer, World};

/// One watcher.
pub(crate) struct Watcher {
    pub(crate) watch: Watch,
    replica: usize,
    passed: u64,
}

impl Watcher {
    pub(crate) fn new(name: &str, prefix: &str) -> Self {
        let items = vec![WatchItem::From(0)];
        Self { watch: Watch { name: name.into(), prefix: prefix.into(), items }, replica: 0, passed: 0 }
    }
}

impl World {
    /// Sends a watcher what its replica has for it.
    pub(crate) fn watch(&mut self, number: usize) {
        if self.fault(60) {
            let replica = self.rng.index(3);
            let watcher = &mut self.watchers[number];
            watcher.replica = replica;
            watcher.watch.items.push(WatchItem::From(watcher.passed));
        }
        self.show(number);
        let next = 100 + self.rng.below(400);
        self.after(next, Timer::Watch { watcher: number });
    }

    /// The same, now.
    pub(crate) fn show(&mut self, number: usize) {
        let watcher = &self.watchers[number];
        let replica = &self.cluster.replicas[watcher.replica];
        let (from, to) = (watcher.passed + 1, replica.applied);
        if to < from {
            return;
        }
        let range = row::event_key(Revision(from), 0)..row::event_key(Revision(to + 1), 0);
        let mut batches: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
        for (key, value) in replica.rows.range(range) {
            let (revision, ordinal) = row::event_position(key).expect("a key of an event");
            let event = row::decode_event(value).expect("the row of an event");
            let told = self.record.tell(revision.0, ordinal, &event);
            if told.worker.starts_with(&watcher.watch.prefix) {
                batches.entry(revision.0).or_default().push(told);
            }
        }
        let watcher = &mut self.watchers[number];
        watcher.watch.items.extend(batches.into_values().map(WatchItem::Batch));
        watcher.watch.items.push(WatchItem::Bookmark(to));
        watcher.passed = to;
    }
}
