//! What the clock demands: the commands that a leader owes the registry right now.
//!
//! `due` reads the indexes and lists what must be proposed; apply judges each again, so two leaders asking at once do no
//! harm. It knows only the state: sessions that fall silent, waiters that nobody vouches for, and digests are proposed
//! by those who see them.
//!
//! ```text
//!   Busy ──> EndLease    Cleaning ──> EndRun        Ready ──> Admit      Available ──> BeginIdleCheck
//!   Lost ──> GiveUp      Maintenance ──> Retry | GiveUp   Retired ──> Remove     waiter ──> Expire
//! ```
//!
//! Invariants
//! * Applying its answer, and again until it is empty, comes to an end: each command takes away what owed it.
//! * The order is that of the deadlines, so every replica and every test sees the same list.
//!
//! Never here: a clock, a decision that depends on who asks.

use crate::command::{Command, TrimTable};
use crate::id::{PoolId, WorkerId};
use crate::index::Timer;
use crate::limits;
use crate::state::State;
use crate::time::LogTime;
use crate::worker::WorkerState;

/// Rows that one answer can have trimmed: more need not be counted.
const TRIMMED_MAX: usize = limits::DUE_MAX * limits::TRIM_ROWS_MAX;

/// At most [`DUE_MAX`](crate::limits::DUE_MAX) commands that are owed at the state's log time. O(what is due).
pub fn due(state: &State) -> Vec<Command> {
    let mut owed = Vec::new();
    if state.group().diverged.is_some() {
        return owed;
    }
    for pool in &state.index.owed {
        owed.push(Command::GrantOwed { pool: pool.clone() });
    }
    for worker in state.index.admissions.iter().take(limits::DUE_MAX) {
        let token = state.worker(worker).expect("the index lists only workers that exist").token;
        owed.push(Command::Admit { worker: worker.clone(), token });
    }
    if let Some(until) = state.group().due_until() {
        for (_, timer) in state.index.timers.iter().take_while(|(at, _)| *at <= until).take(limits::DUE_MAX) {
            match timer {
                Timer::Worker(worker) => owed.push(of_worker(state, worker)),
                Timer::Waiter(waiter) => owed.push(Command::ExpireWaiter { waiter: *waiter }),
                Timer::Idle(pool) => idle_checks(state, pool, until, &mut owed),
            }
        }
    }
    trims(state, &mut owed);
    owed.truncate(limits::DUE_MAX);
    owed
}

/// The earliest deadline that is pending, if any: while there is one the leader must write ticks.
pub fn next_deadline(state: &State) -> Option<LogTime> {
    state.index.timers.first().map(|(at, _)| *at)
}

/// What a worker owes whose deadline has come.
fn of_worker(state: &State, id: &WorkerId) -> Command {
    let row = state.worker(id).expect("the index lists only workers that exist");
    let (worker, token) = (id.clone(), row.token);
    match &row.state {
        WorkerState::Cleaning(cleaning) => Command::EndRun { worker, run: cleaning.run },
        WorkerState::Busy(lease) => Command::EndLease { worker, epoch: lease.epoch },
        WorkerState::Maintenance(maintenance) if maintenance.lost_at.is_none() => {
            Command::RetryWorker { worker, token }
        }
        WorkerState::Maintenance(_) | WorkerState::Lost { .. } => Command::GiveUpWorker { worker, token },
        WorkerState::Retired { .. } => Command::RemoveWorker { worker, token },
        WorkerState::Ready { .. } | WorkerState::Available { .. } => {
            unreachable!("{id}: Ready and Available workers have no timer of their own")
        }
    }
}

/// As many idle checks as the pool may have at once.
fn idle_checks(state: &State, pool: &PoolId, until: LogTime, owed: &mut Vec<Command>) {
    let index = state.index.pools.get(pool).expect("the index lists only pools that exist");
    let ripe = index.idle.iter().take_while(|(at, _)| *at <= until);
    let room = usize::try_from(index.idle_room()).unwrap_or(limits::DUE_MAX).min(limits::DUE_MAX);
    for (_, worker) in ripe.take(room) {
        let token = state.worker(worker).expect("the index lists only workers that exist").token;
        owed.push(Command::BeginIdleCheck { worker: worker.clone(), token });
    }
}

/// Trims, each of a bounded number of rows, once the slack is over.
fn trims(state: &State, owed: &mut Vec<Command>) {
    let now = state.log_time();
    let mut owe = |table, rows: usize| {
        let times = rows.div_ceil(limits::TRIM_ROWS_MAX).min(limits::DUE_MAX);
        owed.extend(std::iter::repeat_n(Command::Trim { table }, times));
    };
    if state.cold.events_trim_due(now) {
        owe(TrimTable::Events, state.cold.events_owed(now, TRIMMED_MAX));
    }
    if state.cold.returns_trim_due(now) {
        owe(TrimTable::Returns, state.cold.returns_owed(now, TRIMMED_MAX));
    }
    let (outcomes, clients) = (&state.index.outcome_ends, &state.index.client_ends);
    let late = |at: LogTime| at + limits::TRIM_SLACK < now;
    if outcomes.first().is_some_and(|(at, _)| late(*at)) || clients.first().is_some_and(|(at, _)| late(*at)) {
        let outcomes = outcomes.iter().take_while(|(at, _)| *at < now).take(TRIMMED_MAX).count();
        let clients = clients.iter().take_while(|(at, _)| *at < now).take(TRIMMED_MAX).count();
        owe(TrimTable::Outcomes, outcomes.max(clients));
    }
}
