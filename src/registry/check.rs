//! `State::check`: every invariant, judged over the whole state. For tests and for the paranoid; O(rows).
//!
//! The indexes and the digest are made anew from the tables and compared; then each worker, and then what the tables say
//! of each other.
//!
//! Never here: anything that apply needs; apply asserts for itself.

mod records;
mod worker;

use std::collections::BTreeSet;

use crate::limits;
use crate::state::State;
use crate::worker::StateKind;

/// What does not hold.
type Verdict = Result<(), String>;

/// `Err` with these words unless the condition holds.
fn hold(condition: bool, why: impl FnOnce() -> String) -> Verdict {
    if condition { Ok(()) } else { Err(why()) }
}

impl State {
    /// Whether every invariant holds, or the first that does not.
    pub fn check(&self) -> Result<(), String> {
        let built = self.build_index()?;
        hold(built == self.index, || {
            format!("indexes differ from the tables:\nbuilt {built:?}\nkept  {:?}", self.index)
        })?;
        hold(self.sum_anew() == self.sum, || "the digest differs from the rows".into())?;
        self.check_group()?;
        for (id, worker) in self.workers.iter() {
            self.check_worker(id, worker).map_err(|why| format!("worker {id}: {why}"))?;
        }
        self.check_tokens()?;
        self.check_agents()?;
        self.check_pools()?;
        self.check_returns()?;
        self.check_waiters()?;
        self.check_outcomes()?;
        self.check_marks()
    }

    fn check_group(&self) -> Verdict {
        let group = self.group();
        hold(group.held_until <= group.log_time + limits::GRACE, || "a grace is longer than it may be".into())?;
        hold(group.cluster.is_some() == (group.feature_level > 0), || "bootstrapped by half".into())?;
        hold(group.feature_level <= limits::FEATURE_LEVEL, || "an unknown feature level".into())
    }

    /// `single_holder`: a token names one run or epoch of one worker, a session one agent.
    fn check_tokens(&self) -> Verdict {
        let mut seen = BTreeSet::new();
        for (id, worker) in self.workers.iter() {
            hold(seen.insert(worker.token.0), || format!("worker {id} shares its token {}", worker.token))?;
        }
        for (session, agent) in &self.index.sessions {
            hold(seen.insert(session.0), || format!("agent {agent} shares its session {session}"))?;
        }
        for (id, _) in self.waiters.iter() {
            hold(seen.insert(id.0), || format!("waiter {id} shares its id"))?;
        }
        let newest = seen.last().copied();
        let next = self.group().next_token;
        hold(newest.is_none_or(|newest| newest < next), || format!("{newest:?} was never drawn"))
    }

    fn check_agents(&self) -> Verdict {
        for (id, agent) in self.agents.iter() {
            let live = agent.session.is_none_or(|session| self.agent_of(session) == Some(id));
            hold(live, || format!("agent {id} has a session that is not live"))?;
            let needed = agent.session.is_some() || self.index.agent_workers.contains_key(id);
            hold(needed, || format!("agent {id} is remembered for nothing"))?;
        }
        let sessions = self.agents.iter().filter(|(_, agent)| agent.session.is_some()).count();
        hold(sessions == self.index.sessions.len(), || "a session has no agent".into())
    }

    fn check_pools(&self) -> Verdict {
        for (id, pool) in self.pools.iter() {
            let index = &self.index.pools[id];
            hold(pool.spec.violations().is_empty(), || format!("pool {id} breaks its bounds"))?;
            hold(index.class_of.len() == index.classes.len(), || format!("pool {id} has two classes of one kind"))?;
            let bounded = index.classes.len() <= limits::CLASSES_PER_POOL_MAX
                && index.questions.len() <= limits::WAITING_SELECTORS_PER_POOL_MAX
                && index.waiting <= limits::WAITERS_PER_POOL_MAX;
            hold(bounded, || format!("pool {id} has more classes or waiters than it may"))?;
            for (number, class) in &index.classes {
                hold(class.members > 0, || format!("pool {id}: class {number} has no worker"))?;
                let unnamed = !class.free.is_empty() && !class.questions.is_empty();
                let asked = |(_, name): &(_, _)| index.named(name).any(|(asked, _)| asked.1.matches(&class.labels));
                let waits = unnamed || class.free.iter().any(asked);
                hold(!waits || pool.grants_owed, || format!("pool {id}: a waiter matches an Available worker"))?;
            }
            self.check_statistics(id).map_err(|why| format!("pool {id}: {why}"))?;
        }
        for ((pool, generation), _) in self.frozen.iter() {
            let used = self.index.pools.get(pool).is_some_and(|index| index.frozen.contains_key(generation));
            let old = self.pools.get(pool).is_some_and(|pool| pool.generation > *generation);
            hold(used && old, || format!("pool {pool}: settings {generation} are kept for nobody"))?;
        }
        Ok(())
    }

    /// The counters agree with the workers.
    fn check_statistics(&self, pool: &crate::id::PoolId) -> Verdict {
        let statistics = self.statistics.get(pool).ok_or("it has no statistics")?;
        let ended = statistics.returns_succeeded + statistics.returns_failed;
        let open = self.workers.iter().filter(|(id, worker)| {
            id.pool == *pool && worker.cleaning().is_some_and(|cleaning| cleaning.epoch.is_some())
        });
        hold(ended + open.count() as u64 == statistics.returns_begun, || "a return is not counted".into())?;
        hold(statistics.took.count == ended, || "a duration is not counted".into())?;
        let busy = self.workers.iter().filter(|(id, row)| id.pool == *pool && row.state.kind() == StateKind::Busy);
        let leases = statistics.returns_begun + busy.count() as u64;
        hold(statistics.leases == leases, || "a lease did not end in a return".into())
    }
}
