//! The indexes: everything that can be computed from the tables, kept so that no path scans them.
//!
//! What the indexes need of a worker is its [`Facets`]; a change takes the facets before and after and moves only what
//! differs.
//!
//! Invariants
//! * The indexes equal those that are built anew from the tables; `State::check` compares them.
//!
//! Never here: decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{AgentId, ClientId, PoolId, RequestId, SessionId, WaiterId, WorkerId};
use crate::limits;
use crate::selector::Labels;
use crate::time::LogTime;
use crate::waiter::{Question, Waiter};
use crate::worker::{Cause, Offer, RetiredReason, StateKind, Worker, WorkerState};

/// Whose deadline it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A worker's: what is owed follows from its state.
    Worker(WorkerId),
    /// A waiter's end.
    Waiter(WaiterId),
    /// The next idle check of a pool that may have one more.
    Idle(PoolId),
}

/// All indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) timers: BTreeSet<(LogTime, Timer)>,
    /// Ready workers without a cordon.
    pub(crate) admissions: BTreeSet<WorkerId>,
    /// Pools with grants owed.
    pub(crate) owed: BTreeSet<PoolId>,
    pub(crate) sessions: BTreeMap<SessionId, AgentId>,
    pub(crate) agent_workers: BTreeMap<AgentId, BTreeSet<WorkerId>>,
    pub(crate) pools: BTreeMap<PoolId, PoolIndex>,
    pub(crate) outcome_ends: BTreeSet<(LogTime, RequestId)>,
    pub(crate) client_ends: BTreeSet<(LogTime, ClientId)>,
}

/// The indexes of one pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PoolIndex {
    /// Workers by state, in the order of [`StateKind::ALL`].
    pub(crate) counts: [u64; 7],
    pub(crate) class_of: BTreeMap<Arc<Labels>, u32>,
    pub(crate) classes: BTreeMap<u32, ClassIndex>,
    /// Questions with waiters.
    pub(crate) questions: BTreeMap<Question, Queue>,
    pub(crate) waiting: u64,
    /// Open runs by the generation that they froze.
    pub(crate) frozen: BTreeMap<u64, u64>,
    /// Free workers by the time of their idle check.
    pub(crate) idle: BTreeSet<(LogTime, WorkerId)>,
    /// Workers in an idle check.
    pub(crate) idle_checking: u64,
    /// The pool's entry among the timers.
    idle_timer: Option<LogTime>,
}

/// The indexes of one class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClassIndex {
    pub(crate) labels: Arc<Labels>,
    pub(crate) members: u64,
    /// Available workers in the order of the choice.
    pub(crate) free: BTreeSet<(Offer, Arc<str>)>,
    /// Unnamed questions with waiters that this class fits.
    pub(crate) questions: BTreeSet<Question>,
}

/// Waiters with the same question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Classes that fit the selector.
    pub(crate) classes: BTreeSet<u32>,
    pub(crate) waiters: BTreeSet<(u64, WaiterId)>,
}

/// What the indexes hold of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facets {
    kind: StateKind,
    agent: AgentId,
    class: u32,
    timer: Option<LogTime>,
    admission: bool,
    offer: Option<Offer>,
    idle: Option<LogTime>,
    idle_checking: bool,
    frozen: Option<u64>,
}

impl Facets {
    pub(crate) fn of(worker: &Worker) -> Self {
        let cleaning = worker.cleaning();
        let (offer, idle) = match &worker.state {
            WorkerState::Available { offer, idle_check_at, .. } => (Some(*offer), *idle_check_at),
            WorkerState::Cleaning(..)
            | WorkerState::Ready { .. }
            | WorkerState::Busy(..)
            | WorkerState::Maintenance(..)
            | WorkerState::Lost { .. }
            | WorkerState::Retired { .. } => (None, None),
        };
        Self {
            kind: worker.state.kind(),
            agent: worker.agent.clone(),
            class: worker.class,
            timer: deadline(worker),
            admission: worker.state.kind() == StateKind::Ready && worker.cordon.is_none(),
            offer,
            idle,
            idle_checking: cleaning.is_some_and(|cleaning| cleaning.cause == Cause::IdleCheck),
            frozen: cleaning.map(|cleaning| cleaning.generation),
        }
    }

    pub(crate) const fn class(&self) -> u32 {
        self.class
    }

    pub(crate) const fn frozen(&self) -> Option<u64> {
        self.frozen
    }
}

/// When the worker's next step is owed by the clock, if it is.
pub(crate) fn deadline(worker: &Worker) -> Option<LogTime> {
    match &worker.state {
        WorkerState::Cleaning(cleaning) => Some(cleaning.deadline),
        WorkerState::Ready { .. } | WorkerState::Available { .. } => None,
        WorkerState::Busy(lease) => Some(lease.deadline),
        WorkerState::Maintenance(maintenance) => maintenance.lost_at.or(maintenance.retry_at),
        WorkerState::Lost { give_up_at } => Some(*give_up_at),
        WorkerState::Retired { reason, remove_at, acknowledged } => {
            (*acknowledged || *reason == RetiredReason::Lost).then_some(*remove_at)
        }
    }
}

impl Index {
    /// Moves the indexes from a worker's facets before to those after; `None` where there is no row.
    pub(crate) fn move_worker(&mut self, id: &WorkerId, before: Option<&Facets>, after: Option<&Facets>) {
        if let Some(facets) = before {
            self.remove_facets(id, facets);
        }
        if let Some(facets) = after {
            self.add_facets(id, facets);
        }
        self.refresh_idle(&id.pool);
    }

    fn remove_facets(&mut self, id: &WorkerId, facets: &Facets) {
        if let Some(at) = facets.timer {
            self.timers.remove(&(at, Timer::Worker(id.clone())));
        }
        if facets.admission {
            self.admissions.remove(id);
        }
        let workers = self.agent_workers.get_mut(&facets.agent).expect("every worker is listed with its agent");
        workers.remove(id);
        if workers.is_empty() {
            self.agent_workers.remove(&facets.agent);
        }
        let pool = self.pools.get_mut(&id.pool).expect("every worker has a pool");
        pool.counts[facets.kind as usize] -= 1;
        let class = pool.classes.get_mut(&facets.class).expect("every worker has a class");
        class.members -= 1;
        if let Some(offer) = facets.offer {
            class.free.remove(&(offer, id.name.clone()));
        }
        if let Some(at) = facets.idle {
            pool.idle.remove(&(at, id.clone()));
        }
        pool.idle_checking -= u64::from(facets.idle_checking);
        if let Some(generation) = facets.frozen {
            let runs = pool.frozen.get_mut(&generation).expect("every open run is counted");
            *runs -= 1;
            if *runs == 0 {
                pool.frozen.remove(&generation);
            }
        }
    }

    fn add_facets(&mut self, id: &WorkerId, facets: &Facets) {
        if let Some(at) = facets.timer {
            self.timers.insert((at, Timer::Worker(id.clone())));
        }
        if facets.admission {
            self.admissions.insert(id.clone());
        }
        self.agent_workers.entry(facets.agent.clone()).or_default().insert(id.clone());
        let pool = self.pools.get_mut(&id.pool).expect("every worker has a pool");
        pool.counts[facets.kind as usize] += 1;
        let class = pool.classes.get_mut(&facets.class).expect("every worker has a class");
        class.members += 1;
        if let Some(offer) = facets.offer {
            class.free.insert((offer, id.name.clone()));
        }
        if let Some(at) = facets.idle {
            pool.idle.insert((at, id.clone()));
        }
        pool.idle_checking += u64::from(facets.idle_checking);
        if let Some(generation) = facets.frozen {
            *pool.frozen.entry(generation).or_default() += 1;
        }
    }

    /// Sets the pool's timer to its first idle check, where it may have one more.
    fn refresh_idle(&mut self, id: &PoolId) {
        let Some(pool) = self.pools.get_mut(id) else { return };
        let wanted = if pool.idle_room() > 0 { pool.idle.first().map(|(at, _)| *at) } else { None };
        if wanted == pool.idle_timer {
            return;
        }
        if let Some(at) = std::mem::replace(&mut pool.idle_timer, wanted) {
            self.timers.remove(&(at, Timer::Idle(id.clone())));
        }
        if let Some(at) = wanted {
            self.timers.insert((at, Timer::Idle(id.clone())));
        }
    }

    pub(crate) fn add_waiter(&mut self, waiter: &Waiter) {
        self.timers.insert((waiter.expires_at, Timer::Waiter(waiter.id)));
        let pool = self.pools.get_mut(&waiter.pool).expect("every waiter has a pool");
        pool.waiting += 1;
        let PoolIndex { questions, classes, .. } = pool;
        let queue = questions.entry(waiter.question.clone()).or_insert_with(|| {
            let (name, selector) = &waiter.question;
            let fitting = classes.iter_mut().filter(|(_, class)| selector.matches(&class.labels));
            let mut queue = Queue::default();
            for (number, class) in fitting {
                queue.classes.insert(*number);
                if name.is_none() {
                    class.questions.insert(waiter.question.clone());
                }
            }
            queue
        });
        queue.waiters.insert((waiter.rank, waiter.id));
    }

    pub(crate) fn remove_waiter(&mut self, waiter: &Waiter) {
        self.timers.remove(&(waiter.expires_at, Timer::Waiter(waiter.id)));
        let pool = self.pools.get_mut(&waiter.pool).expect("every waiter has a pool");
        pool.waiting -= 1;
        let queue = pool.questions.get_mut(&waiter.question).expect("every waiter has a queue");
        queue.waiters.remove(&(waiter.rank, waiter.id));
        if !queue.waiters.is_empty() {
            return;
        }
        let queue = pool.questions.remove(&waiter.question).expect("it was there a moment ago");
        for number in queue.classes {
            let class = pool.classes.get_mut(&number).expect("a queue lists only classes that exist");
            class.questions.remove(&waiter.question);
        }
    }
}

impl PoolIndex {
    /// How many more idle checks may run: 5 % of the workers that are not Retired, at least one, less those that run.
    pub(crate) fn idle_room(&self) -> u64 {
        let living = self.counts.iter().sum::<u64>() - self.counts[StateKind::Retired as usize];
        let most = (living * limits::IDLE_CHECK_PERMILLE_MAX as u64 / 1_000).max(1);
        most.saturating_sub(self.idle_checking)
    }

    pub(crate) fn add_class(&mut self, number: u32, labels: &Arc<Labels>) {
        self.class_of.insert(labels.clone(), number);
        let mut class = ClassIndex { labels: labels.clone(), ..ClassIndex::default() };
        for (question, queue) in &mut self.questions {
            if question.1.matches(labels) {
                queue.classes.insert(number);
                if question.0.is_none() {
                    class.questions.insert(question.clone());
                }
            }
        }
        self.classes.insert(number, class);
    }

    pub(crate) fn remove_class(&mut self, number: u32) {
        let class = self.classes.remove(&number).expect("only classes that exist are removed");
        self.class_of.remove(&class.labels);
        for queue in self.questions.values_mut() {
            queue.classes.remove(&number);
        }
    }

    /// The questions that wait for one worker by its name.
    pub(crate) fn named(&self, name: &Arc<str>) -> impl Iterator<Item = (&Question, &Queue)> {
        let first: Question = (Some(name.clone()), Arc::default());
        let name = name.clone();
        self.questions.range(first..).take_while(move |(question, _)| question.0.as_ref() == Some(&name))
    }
}
