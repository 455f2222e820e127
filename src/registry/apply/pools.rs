//! The group and its pools: bootstrap, feature level, create, update, delete.
//!
//! Invariants
//! * Open runs keep the settings that they froze: an update stores the old ones as long as a run needs them.

use std::sync::Arc;

use crate::command::Bootstrap;
use crate::event::Fact;
use crate::id::{PoolId, WorkerId};
use crate::limits;
use crate::outcome::Outcome;
use crate::pool::{Pool, PoolSpec};
use crate::refusal::Refusal;
use crate::worker::StateKind;

use super::acquire::Ending;
use super::entry::{Detail, Entry, Violations};

impl Entry<'_> {
    pub(super) fn bootstrap(&mut self, bootstrap: &Bootstrap) -> Result<Outcome, Refusal> {
        if self.state.group().cluster.is_some() {
            return Err(Refusal::AlreadyBootstrapped);
        }
        let mut violations = Violations::default();
        violations.name("cluster", bootstrap.cluster.as_str(), limits::ID_BYTES_MAX);
        violations.at_most("unix_ms", bootstrap.unix_ms, u64::MAX >> (limits::TOKENS_PER_MILLISECOND_BITS + 1));
        if bootstrap.voters.is_empty() {
            violations.add("voters", "must not be empty".into());
        }
        violations.refuse()?;
        let group = self.state.edit_group();
        group.cluster = Some(bootstrap.cluster.clone());
        group.voters = bootstrap.voters.clone();
        group.next_token = (bootstrap.unix_ms << limits::TOKENS_PER_MILLISECOND_BITS).max(1);
        group.feature_level = limits::FEATURE_LEVEL;
        self.note(Fact::Bootstrapped { cluster: bootstrap.cluster.clone() });
        Ok(Outcome::Bootstrapped)
    }

    pub(super) fn raise_feature_level(&mut self, level: u32) -> Result<Outcome, Refusal> {
        assert!(level <= limits::FEATURE_LEVEL, "feature level {level} is unknown: this build must not apply it");
        let current = self.state.group().feature_level;
        if level <= current {
            return Err(Refusal::FeatureLevel { current });
        }
        self.state.edit_group().feature_level = level;
        self.note(Fact::FeatureLevelRaised { level });
        Ok(Outcome::FeatureLevelRaised { level })
    }

    pub(super) fn create_pool(&mut self, id: &PoolId, spec: &PoolSpec, actor: &Arc<str>) -> Result<Outcome, Refusal> {
        let mut violations = Violations::default();
        violations.name("pool", id.as_str(), limits::NAME_BYTES_MAX);
        violations.refuse()?;
        judge_actor(actor)?;
        judge_spec(spec)?;
        if self.state.pools.get(id).is_some() {
            return Err(Refusal::PoolExists { pool: id.clone() });
        }
        self.state.add_pool(Pool {
            id: id.clone(),
            spec: Arc::new(spec.clone()),
            generation: 1,
            created: self.moment,
            grants_owed: false,
            classes_made: 0,
            policy_changes: 0,
        });
        self.note(Fact::PoolCreated { pool: id.clone(), generation: 1, actor: actor.clone() });
        Ok(Outcome::PoolSaved { pool: id.clone(), generation: 1 })
    }

    pub(super) fn update_pool(
        &mut self,
        id: &PoolId,
        spec: &PoolSpec,
        etag: Option<u64>,
        actor: &Arc<str>,
    ) -> Result<Outcome, Refusal> {
        let pool = self.pool(id)?;
        judge_etag(etag, pool.generation)?;
        judge_actor(actor)?;
        judge_spec(spec)?;
        let (old, before) = (pool.generation, pool.spec.clone());
        if *before == *spec {
            return Ok(Outcome::PoolSaved { pool: id.clone(), generation: old });
        }
        if self.state.index.pools.get(id).is_some_and(|index| index.frozen.contains_key(&old)) {
            self.state.frozen.put((id.clone(), old), before.clone());
        }
        let pool = self.state.pools.edit(id).expect("it was found a moment ago");
        pool.generation += 1;
        pool.policy_changes += u32::from(before.policy != spec.policy);
        pool.spec = Arc::new(spec.clone());
        let generation = pool.generation;
        self.note(Fact::PoolUpdated { pool: id.clone(), generation, actor: actor.clone() });
        Ok(Outcome::PoolSaved { pool: id.clone(), generation })
    }

    /// Removes a pool, its Retired rows and its waiters.
    pub(super) fn delete_pool(&mut self, id: &PoolId, etag: Option<u64>, actor: &Arc<str>) -> Result<Outcome, Refusal> {
        judge_etag(etag, self.pool(id)?.generation)?;
        judge_actor(actor)?;
        let index = self.state.index.pools.get(id).expect("every pool has an index");
        let retired = index.counts[StateKind::Retired as usize];
        let living = index.counts.iter().sum::<u64>() - retired;
        if living > 0 || retired > limits::POOL_DELETE_ROWS_MAX {
            return Err(Refusal::PoolNotEmpty { pool: id.clone(), workers: living.max(1) });
        }
        let waiters: Vec<_> = index.questions.values().flat_map(|queue| &queue.waiters).map(|(_, id)| *id).collect();
        for waiter in waiters {
            self.end_waiter(waiter, Ending::PoolDeleted);
        }
        let first = WorkerId { pool: id.clone(), name: Arc::from("") };
        let rows = self.state.workers.range(first..).take_while(|(worker, _)| worker.pool == *id);
        let rows: Vec<_> = rows.map(|(worker, _)| worker.clone()).collect();
        for worker in rows {
            self.drop_row(&worker);
        }
        self.state.remove_pool(id);
        self.note(Fact::PoolDeleted { pool: id.clone(), actor: actor.clone() });
        Ok(Outcome::PoolDeleted { pool: id.clone() })
    }

    /// Removes a Retired worker's row.
    pub(super) fn drop_row(&mut self, id: &WorkerId) {
        let worker = self.state.workers.get(id).expect("the caller has found the row").clone();
        assert_eq!(worker.state.kind(), StateKind::Retired, "{id}: only Retired rows are removed");
        self.state.remove_worker(id);
        self.note_row(&worker, None, Detail::default());
    }
}

/// Refuses where the caller saw another generation.
pub(super) fn judge_etag(presented: Option<u64>, current: u64) -> Result<(), Refusal> {
    match presented {
        Some(presented) if presented != current => Err(Refusal::EtagMismatch { presented, current }),
        Some(_) | None => Ok(()),
    }
}

fn judge_actor(actor: &str) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    violations.at_most("actor", actor.len() as u64, limits::ID_BYTES_MAX as u64);
    violations.refuse()
}

fn judge_spec(spec: &PoolSpec) -> Result<(), Refusal> {
    let violations = spec.violations();
    if violations.is_empty() { Ok(()) } else { Err(Refusal::Invalid { violations }) }
}
