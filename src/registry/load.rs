//! Loading a state from the rows of its durable copy.
//!
//! Hot rows are decoded into their tables, cold rows are only hashed; then the indexes and the digest are computed anew.
//! Nothing is believed that can be computed.
//!
//! Invariants
//! * Loading the rows of a state gives a state with the same digest.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::{AgentId, ClientId, PoolId, RequestId, Revision, SessionId, WaiterId};
use crate::index::{Facets, Index};
use crate::limits;
use crate::row::{RowError, Table as Tag, decode};
use crate::state::{LoadError, State};
use crate::table::{KeyParts, RowKey, Table};

impl State {
    /// The state of these rows: every row of every table of the durable copy, in any order.
    pub fn load(rows: impl Iterator<Item = (Box<[u8]>, Box<[u8]>)>) -> Result<Self, LoadError> {
        let mut state = Self::default();
        for (key, value) in rows {
            let tag = *key.first().ok_or(LoadError::UnknownTable(None))?;
            let taken = match state.cold.load(&key, &value) {
                Some(taken) => taken,
                None => state.load_row(tag, &key[1..], &value).ok_or(LoadError::UnknownTable(Some(tag)))?,
            };
            taken.map_err(|error| LoadError::Malformed { table: tag, error })?;
        }
        let level = state.group().feature_level;
        if level > limits::FEATURE_LEVEL {
            return Err(LoadError::UnknownFeatureLevel(level));
        }
        state.index = state.build_index().map_err(LoadError::Inconsistent)?;
        state.flush();
        state.pending.clear();
        state.sum = state.sum_anew();
        Ok(state)
    }

    fn load_row(&mut self, tag: u8, key: &[u8], value: &[u8]) -> Option<Result<(), RowError>> {
        let mut parts = KeyParts(key);
        let is = |table: Tag| tag == table as u8;
        Some(if is(Tag::Applied) {
            decode(value).map(|revision| self.revision = revision)
        } else if is(Tag::Group) {
            put(&mut self.group, Some(()), value)
        } else if is(Tag::Pool) {
            put(&mut self.pools, parts.text().map(PoolId), value)
        } else if is(Tag::Plan) {
            put(&mut self.frozen, parts.text().map(PoolId).zip(parts.number()), value)
        } else if is(Tag::Class) {
            put(&mut self.classes, parts.text().map(PoolId).zip(parts.ordinal()), value)
        } else if is(Tag::Agent) {
            put(&mut self.agents, parts.text().map(AgentId), value)
        } else if is(Tag::Worker) {
            put(&mut self.workers, parts.worker(), value)
        } else if is(Tag::Waiter) {
            put(&mut self.waiters, parts.number().map(WaiterId), value)
        } else if is(Tag::Outcome) {
            put(&mut self.outcomes, request_id(&mut parts), value)
        } else if is(Tag::Client) {
            put(&mut self.clients, parts.text().map(ClientId), value)
        } else if is(Tag::Mark) {
            put(&mut self.marks, parts.number().map(Revision), value)
        } else if is(Tag::Statistics) {
            put(&mut self.statistics, parts.text().map(PoolId), value)
        } else {
            return None;
        })
    }

    /// The indexes of the tables, built anew.
    pub(crate) fn build_index(&self) -> Result<Index, String> {
        let mut index = Index::default();
        for (id, pool) in self.pools.iter() {
            index.pools.insert(id.clone(), Default::default());
            if pool.grants_owed {
                index.owed.insert(id.clone());
            }
        }
        for ((pool, number), labels) in self.classes.iter() {
            let pool = index.pools.get_mut(pool).ok_or_else(|| format!("class {number} of no pool {pool}"))?;
            pool.add_class(*number, labels);
        }
        for (id, agent) in self.agents.iter() {
            if let Some(session) = agent.session {
                index.sessions.insert(session, id.clone());
            }
        }
        for (id, worker) in self.workers.iter() {
            let pool = index.pools.get(&id.pool).ok_or_else(|| format!("worker {id} of no pool"))?;
            if !pool.classes.contains_key(&worker.class) {
                return Err(format!("worker {id} of no class {}", worker.class));
            }
            index.move_worker(id, None, Some(&Facets::of(worker)));
        }
        for (id, waiter) in self.waiters.iter() {
            if !index.pools.contains_key(&waiter.pool) {
                return Err(format!("waiter {id} of no pool {}", waiter.pool));
            }
            index.add_waiter(waiter);
        }
        index.outcome_ends = self.outcomes.iter().map(|(id, row)| (row.lives_until, id.clone())).collect();
        index.client_ends = self.clients.iter().map(|(id, row)| (row.lives_until, id.clone())).collect();
        Ok(index)
    }

    /// The sum of all rows' hashes, computed anew.
    pub(crate) fn sum_anew(&self) -> u128 {
        let sums = [
            self.group.sum(),
            self.pools.sum(),
            self.frozen.sum(),
            self.classes.sum(),
            self.agents.sum(),
            self.workers.sum(),
            self.waiters.sum(),
            self.outcomes.sum(),
            self.clients.sum(),
            self.marks.sum(),
            self.statistics.sum(),
            self.cold.sum(),
        ];
        sums.into_iter().fold(0, u128::wrapping_add)
    }

    /// The agent of a live session.
    pub(crate) fn agent_of(&self, session: SessionId) -> Option<&AgentId> {
        self.index.sessions.get(&session)
    }
}

fn put<K: RowKey, V: Serialize + DeserializeOwned>(
    table: &mut Table<K, V>,
    key: Option<K>,
    value: &[u8],
) -> Result<(), RowError> {
    let key = key.ok_or_else(|| RowError("key is malformed".into()))?;
    table.put(key, decode(value)?);
    Ok(())
}

fn request_id(parts: &mut KeyParts<'_>) -> Option<RequestId> {
    if parts.number()? == 0 {
        let (client, seq) = (parts.text().map(ClientId)?, parts.number()?);
        Some(RequestId::Numbered { client, seq })
    } else {
        parts.text().map(RequestId::Named)
    }
}
