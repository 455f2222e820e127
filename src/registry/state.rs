//! The state: every table, the indexes over them, and the digest.
//!
//! Tables are the truth and go to the durable copy; indexes are built from them. A change goes through a method here
//! that keeps both in step. After each entry the changed rows are encoded once, for the digest and for
//! [`State::take_changes`].
//!
//! Invariants (asserted by [`State::check`])
//! * The indexes equal those built anew from the tables; the digest equals the sum of all rows' hashes.
//! * Cleaning, Ready and Available have a live session; no token of a worker is above the counter.
//! * No waiter matches an Available worker, unless its pool owes grants.
//!
//! Never here: decisions; those are in `apply`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::agent::Agent;
use crate::cold::Cold;
use crate::digest::Digest;
use crate::group::{Group, Mark};
use crate::id::{AgentId, ClientId, PoolId, RequestId, Revision, Token, WaiterId, WorkerId};
use crate::index::{Facets, Index};
use crate::pool::{Pool, PoolSpec};
use crate::request::{ClientRow, OutcomeRow};
use crate::row::{self, RowError};
use crate::selector::{Labels, Selector};
use crate::statistics::Statistics;
use crate::table::Table;
use crate::time::LogTime;
use crate::waiter::Waiter;
use crate::worker::Worker;

/// The whole state of a group: what is hot, in memory.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) group: Table<(), Group>,
    pub(crate) pools: Table<PoolId, Pool>,
    /// Settings that open runs froze and the pool has left behind.
    pub(crate) frozen: Table<(PoolId, u64), Arc<PoolSpec>>,
    pub(crate) classes: Table<(PoolId, u32), Arc<Labels>>,
    pub(crate) agents: Table<AgentId, Agent>,
    pub(crate) workers: Table<WorkerId, Worker>,
    pub(crate) waiters: Table<WaiterId, Waiter>,
    pub(crate) outcomes: Table<RequestId, OutcomeRow>,
    pub(crate) clients: Table<ClientId, ClientRow>,
    pub(crate) marks: Table<Revision, Mark>,
    pub(crate) statistics: Table<PoolId, Statistics>,
    pub(crate) cold: Cold,
    pub(crate) index: Index,
    /// Classes that fit a selector, by pool: a memory of answers, without influence on them.
    pub(crate) answers: BTreeMap<PoolId, BTreeMap<Selector, Arc<[u32]>>>,
    pub(crate) revision: Revision,
    pub(crate) sum: u128,
    pub(crate) pending: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// Rows that the durable copy must write, in one batch, for what was applied since they were last taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Key and value, in key order; `None` removes the row. No key twice.
    pub rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Rows that are not the rows of a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A key of no known table.
    #[error("row of unknown table {0:?}")]
    UnknownTable(Option<u8>),
    /// A key or a value that does not decode.
    #[error("table {table}: {error}")]
    Malformed {
        /// The table's tag.
        table: u8,
        /// What is wrong.
        error: RowError,
    },
    /// Rows that contradict each other.
    #[error("rows contradict each other: {0}")]
    Inconsistent(String),
    /// A feature level that this build does not know.
    #[error("feature level {0} is unknown")]
    UnknownFeatureLevel(u32),
}

impl Default for State {
    fn default() -> Self {
        use crate::row::Table as Tag;
        let mut group = Table::new(Tag::Group);
        group.put((), Group::default());
        let mut state = Self {
            group,
            pools: Table::new(Tag::Pool),
            frozen: Table::new(Tag::Plan),
            classes: Table::new(Tag::Class),
            agents: Table::new(Tag::Agent),
            workers: Table::new(Tag::Worker),
            waiters: Table::new(Tag::Waiter),
            outcomes: Table::new(Tag::Outcome),
            clients: Table::new(Tag::Client),
            marks: Table::new(Tag::Mark),
            statistics: Table::new(Tag::Statistics),
            cold: Cold::default(),
            index: Index::default(),
            answers: BTreeMap::new(),
            revision: Revision(0),
            sum: 0,
            pending: BTreeMap::new(),
        };
        state.flush();
        state
    }
}

impl State {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The rows changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let applied = row::Key::new(row::Table::Applied).done();
        self.pending.insert(applied, Some(row::encode(&self.revision)));
        Changes { rows: std::mem::take(&mut self.pending).into_iter().collect() }
    }

    /// The digest of all rows. O(1).
    pub fn digest(&self) -> Digest {
        Digest(self.sum.to_be_bytes())
    }

    /// The revision of the last applied entry.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Log time.
    pub fn log_time(&self) -> LogTime {
        self.group().log_time
    }

    /// The group's row.
    pub fn group(&self) -> &Group {
        self.group.get(&()).expect("the group's row always exists")
    }

    pub(crate) fn edit_group(&mut self) -> &mut Group {
        self.group.edit(&()).expect("the group's row always exists")
    }

    /// Draws the next token.
    pub(crate) fn draw(&mut self) -> Token {
        let group = self.edit_group();
        let token = Token(group.next_token);
        group.next_token += 1;
        token
    }

    /// Encodes what changed since the last flush.
    pub(crate) fn flush(&mut self) {
        let pending = &mut self.pending;
        let mut write = |key: Vec<u8>, value: Option<Vec<u8>>| {
            pending.insert(key, value);
        };
        let moved = [
            self.group.flush(&mut write),
            self.pools.flush(&mut write),
            self.frozen.flush(&mut write),
            self.classes.flush(&mut write),
            self.agents.flush(&mut write),
            self.workers.flush(&mut write),
            self.waiters.flush(&mut write),
            self.outcomes.flush(&mut write),
            self.clients.flush(&mut write),
            self.marks.flush(&mut write),
            self.statistics.flush(&mut write),
        ];
        let (changes, cold) = self.cold.flush();
        for (key, value) in changes {
            self.pending.insert(key, value);
        }
        self.sum = moved.into_iter().fold(self.sum.wrapping_add(cold), u128::wrapping_add);
    }

    /// Changes a worker's row and moves the indexes with it.
    pub(crate) fn change_worker<T>(&mut self, id: &WorkerId, change: impl FnOnce(&mut Worker) -> T) -> T {
        let worker = self.workers.edit(id).expect("only workers that exist are changed");
        let before = Facets::of(worker);
        let answer = change(worker);
        let after = Facets::of(worker);
        if before != after {
            self.move_worker(id, Some(before), Some(after));
        }
        answer
    }

    pub(crate) fn add_worker(&mut self, worker: Worker) {
        let (id, after) = (worker.id.clone(), Facets::of(&worker));
        self.workers.put(id.clone(), worker);
        self.move_worker(&id, None, Some(after));
    }

    pub(crate) fn remove_worker(&mut self, id: &WorkerId) {
        let worker = self.workers.remove(id).expect("only workers that exist are removed");
        self.cold.put_evidence(id, None);
        self.move_worker(id, Some(Facets::of(&worker)), None);
        self.forget_agent(&worker.agent);
    }

    /// Removes the row of an agent that has neither a session nor a worker's row: there is nothing left to fence.
    pub(crate) fn forget_agent(&mut self, id: &AgentId) {
        let gone = self.agents.get(id).is_some_and(|agent| agent.session.is_none());
        if gone && !self.index.agent_workers.contains_key(id) {
            self.agents.remove(id);
        }
    }

    fn move_worker(&mut self, id: &WorkerId, before: Option<Facets>, after: Option<Facets>) {
        self.index.move_worker(id, before.as_ref(), after.as_ref());
        let Some(before) = before else { return };
        let pool = self.index.pools.get(&id.pool).expect("every worker has a pool");
        if pool.classes.get(&before.class()).is_some_and(|class| class.members == 0) {
            self.remove_class(&id.pool, before.class());
        }
        if let Some(generation) = before.frozen()
            && after.is_none_or(|after| after.frozen() != Some(generation))
        {
            let pool = self.index.pools.get(&id.pool).expect("every worker has a pool");
            if !pool.frozen.contains_key(&generation) {
                self.frozen.remove(&(id.pool.clone(), generation));
            }
        }
    }

    /// The class of these labels, made if it is new.
    pub(crate) fn class_of(&mut self, pool: &PoolId, labels: &Labels) -> u32 {
        let index = self.index.pools.get_mut(pool).expect("the caller has found the pool");
        if let Some(class) = index.class_of.get(labels) {
            return *class;
        }
        let row = self.pools.edit(pool).expect("the caller has found the pool");
        let number = row.classes_made;
        row.classes_made += 1;
        let labels = Arc::new(labels.clone());
        index.add_class(number, &labels);
        self.classes.put((pool.clone(), number), labels);
        self.answers.remove(pool);
        number
    }

    fn remove_class(&mut self, pool: &PoolId, number: u32) {
        self.index.pools.get_mut(pool).expect("a class has a pool").remove_class(number);
        self.classes.remove(&(pool.clone(), number));
        self.answers.remove(pool);
    }

    /// The classes that fit a selector, from memory where the pool's classes have not changed since.
    pub(crate) fn fitting(&mut self, pool: &PoolId, selector: &Selector) -> Arc<[u32]> {
        if let Some(classes) = self.answers.get(pool).and_then(|answers| answers.get(selector)) {
            return classes.clone();
        }
        let index = self.index.pools.get(pool).expect("the caller has found the pool");
        let fits = index.classes.iter().filter(|(_, class)| selector.matches(&class.labels));
        let classes: Arc<[u32]> = fits.map(|(number, _)| *number).collect();
        let answers = self.answers.entry(pool.clone()).or_default();
        if answers.len() >= crate::limits::SELECTOR_CACHE_MAX {
            answers.clear();
        }
        answers.insert(selector.clone(), classes.clone());
        classes
    }

    pub(crate) fn add_waiter(&mut self, waiter: Waiter) {
        self.index.add_waiter(&waiter);
        self.waiters.put(waiter.id, waiter);
    }

    pub(crate) fn remove_waiter(&mut self, id: WaiterId) -> Waiter {
        let waiter = self.waiters.remove(&id).expect("only waiters that exist are removed");
        self.index.remove_waiter(&waiter);
        waiter
    }

    pub(crate) fn put_outcome(&mut self, id: &RequestId, row: OutcomeRow) {
        if let Some(old) = self.outcomes.get(id) {
            self.index.outcome_ends.remove(&(old.lives_until, id.clone()));
        } else if let RequestId::Numbered { client, .. } = id {
            self.change_client(client, |row| row.rows += 1);
        }
        if let RequestId::Numbered { client, .. } = id
            && row.lives_until < LogTime::MAX
        {
            self.change_client(client, |client| client.lives_until = client.lives_until.max(row.lives_until));
        }
        self.index.outcome_ends.insert((row.lives_until, id.clone()));
        self.outcomes.put(id.clone(), row);
    }

    pub(crate) fn remove_outcome(&mut self, id: &RequestId) {
        let Some(row) = self.outcomes.remove(id) else { return };
        self.index.outcome_ends.remove(&(row.lives_until, id.clone()));
        if let RequestId::Numbered { client, .. } = id {
            self.change_client(client, |row| row.rows -= 1);
        }
    }

    pub(crate) fn change_client(&mut self, id: &ClientId, change: impl FnOnce(&mut ClientRow)) {
        if self.clients.get(id).is_none() {
            self.clients.put(id.clone(), ClientRow::default());
        }
        let row = self.clients.edit(id).expect("it was put a moment ago");
        self.index.client_ends.remove(&(row.lives_until, id.clone()));
        change(row);
        self.index.client_ends.insert((row.lives_until, id.clone()));
    }

    pub(crate) fn remove_client(&mut self, id: &ClientId) {
        if let Some(row) = self.clients.remove(id) {
            self.index.client_ends.remove(&(row.lives_until, id.clone()));
        }
    }

    pub(crate) fn add_pool(&mut self, pool: Pool) {
        self.index.pools.insert(pool.id.clone(), Default::default());
        self.statistics.put(pool.id.clone(), Statistics::default());
        self.pools.put(pool.id.clone(), pool);
    }

    /// Removes a pool that has neither workers nor waiters.
    pub(crate) fn remove_pool(&mut self, id: &PoolId) {
        self.set_grants_owed(id, false);
        self.pools.remove(id);
        self.statistics.remove(id);
        self.answers.remove(id);
        let index = self.index.pools.remove(id).expect("every pool has an index");
        assert!(index.classes.is_empty() && index.questions.is_empty(), "a pool is removed when it is empty");
    }

    pub(crate) fn set_grants_owed(&mut self, id: &PoolId, owed: bool) {
        if self.pools.get(id).is_some_and(|pool| pool.grants_owed != owed) {
            self.pools.edit(id).expect("it was found a moment ago").grants_owed = owed;
            if owed {
                self.index.owed.insert(id.clone())
            } else {
                self.index.owed.remove(id)
            };
        }
    }
}
