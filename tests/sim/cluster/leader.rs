//! Leaders: elected, deposed, cut off; their clock, their tick and what they alone know.
//!
//! Never here: a decision of the registry; what the clock demands is `due`.

use std::collections::{BTreeMap, VecDeque};

use remuda_registry::{Command, Request, State, due};
use remuda_tests::guarantees::history::Cut;

use super::{Asker, Leader, REPLICAS, limits};
use crate::world::{Broken, Timer, World};

impl World {
    /// The leader's tick: time, silence, and what is due.
    pub(crate) fn tick(&mut self) {
        self.after(limits::TICK_MS, Timer::Tick);
        let now = self.now;
        let Some(leader) = self.cluster.leader.as_mut() else { return };
        leader.advance(now);
        let clock = leader.clock;
        let silent: Vec<_> = leader.heard.iter().filter(|(_, heard)| **heard + limits::SILENT_MS < clock).collect();
        let silent: Vec<_> = silent.into_iter().map(|(session, _)| *session).collect();
        let unattended: Vec<_> = leader.vouched.iter().filter(|(_, at)| **at + limits::UNATTENDED_MS < clock).collect();
        let unattended: Vec<_> = unattended.into_iter().map(|(waiter, _)| *waiter).collect();
        for session in &silent {
            leader.heard.remove(session);
        }
        for waiter in &unattended {
            leader.vouched.remove(waiter);
        }
        for session in silent {
            self.propose(Request::unmarked(Command::EndSession { session }), Asker::Nobody);
        }
        for waiter in unattended {
            self.propose(Request::unmarked(Command::DropWaiter { waiter }), Asker::Nobody);
        }
        let leader = self.cluster.leader.as_ref().expect("it was there a moment ago");
        if leader.cut {
            return;
        }
        let owed = if leader.due_in_flight { Vec::new() } else { due(&self.cluster.replicas[leader.replica].state) };
        if !owed.is_empty() {
            for command in owed {
                self.propose(Request::unmarked(command), Asker::Due);
            }
            self.leader().expect("it leads").due_in_flight = true;
        } else if leader.stamped + limits::STAMP_EVERY_MS <= clock {
            self.propose(Request::unmarked(Command::Tick), Asker::Nobody);
        }
    }

    /// The leader is deposed; what was in flight survives up to some point.
    pub(crate) fn depose(&mut self) {
        let Some(mut old) = self.cluster.leader.take() else { return };
        self.faults.leader_changes += 1;
        let survive = self.rng.below(old.pending.len() as u64 + 1);
        for _ in 0..survive {
            let entry = old.pending.pop_front().expect("as many are in flight");
            self.faults.entries_survived += 1;
            self.cluster.survivors.push((old.term, entry));
        }
        self.faults.entries_dropped += old.pending.len() as u64;
        let election = 150 + self.rng.below(2_500);
        let other = (old.replica + 1 + self.rng.index(2)) % REPLICAS;
        self.after(election, Timer::Elected { replica: other });
    }

    /// A replica leads: it has all that was committed, and commits what survived before anything of its own.
    pub(crate) fn elected(&mut self, number: usize) {
        while self.cluster.replicas[number].applied < self.cluster.log.len() as u64 {
            self.apply_next(number);
        }
        self.cluster.term += 1 + self.rng.below(2);
        let term = self.cluster.term;
        let now = self.now;
        self.cluster.leader = Some(Leader::new(number, term, now));
        for (old, mut entry) in std::mem::take(&mut self.cluster.survivors) {
            // Whoever asked the deposed leader hears nothing.
            entry.askers.fill(Asker::Nobody);
            self.commit(old, entry);
        }
        self.cluster.log.push((term, None));
        self.apply_next(number);
        self.record.history.to_revision = self.cluster.log.len() as u64;
        let state = &self.cluster.replicas[number].state;
        let leader = self.cluster.leader.as_mut().expect("it was set above");
        leader.clock = state.log_time().0;
        let first = leader.clock + limits::FIRST_PERIOD_MS;
        leader.heard = state.sessions().map(|(session, _)| (session, first)).collect();
        leader.vouched = state.waiters().map(|waiter| (waiter.id, leader.clock)).collect();
        self.propose(Request::unmarked(Command::Tick), Asker::Nobody);
    }

    /// The leader cannot reach a quorum for a while, and nobody else is elected.
    pub(crate) fn cut(&mut self) {
        let until = self.now + 500 + self.rng.below(20_000);
        let from = self.now;
        let Some(leader) = self.leader().filter(|leader| !leader.cut) else { return };
        leader.cut = true;
        let (term, replica) = (leader.term, leader.replica as u64 + 1);
        self.faults.cuts += 1;
        self.record.history.cuts.push(Cut { replica, from, until });
        self.after(until - from, Timer::Healed { term });
    }

    pub(crate) fn healed(&mut self, term: u64) {
        let now = self.now;
        let Some(leader) = self.leader().filter(|leader| leader.term == term) else { return };
        (leader.cut, leader.gap, leader.ticked_at) = (false, true, now);
        self.commit_upto(term, u64::MAX);
    }

    /// A follower applies nothing for a while: whoever watches it lags.
    pub(crate) fn stall_replica(&mut self) {
        let number = self.rng.index(REPLICAS);
        self.cluster.replicas[number].stalled_until = self.now + self.rng.below(15_000);
    }

    /// A replica starts anew from its durable copy.
    pub(crate) fn restart_replica(&mut self) {
        let number = self.rng.index(REPLICAS);
        let replica = &mut self.cluster.replicas[number];
        if replica.applied == 0 || self.broken == Some(Broken::DropEvent) {
            return;
        }
        let rows = replica.rows.iter().map(|(key, value)| (key.clone().into(), value.clone().into()));
        let state = State::load(rows).expect("the rows of a replica load");
        assert_eq!(state.digest(), replica.state.digest(), "replica {number} differs after a restart");
        replica.state = state;
        self.faults.replica_restarts += 1;
    }
}

impl Leader {
    pub(super) fn new(replica: usize, term: u64, now: u64) -> Self {
        Self {
            replica,
            term,
            clock: 0,
            ticked_at: now,
            stamped: 0,
            cut: false,
            gap: false,
            due_in_flight: false,
            inbox: Vec::new(),
            pending: VecDeque::new(),
            numbered: 0,
            heard: BTreeMap::new(),
            vouched: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    /// The accumulator adds real time, unless no quorum is heard.
    pub(super) fn advance(&mut self, now: u64) {
        if !self.cut {
            self.clock += now - self.ticked_at;
        }
        self.ticked_at = now;
    }
}
