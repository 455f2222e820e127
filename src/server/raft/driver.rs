//! The loop that follows Raft: leadership, membership, log time, and what a leader owes for its own sake.
//!
//! Every tick, and at once when openraft's view or the applied revision changes, it compares what is with what others
//! were told. It decides nothing: a stale look is corrected by the next.
//!
//! Invariants
//! * The accumulator starts only when the first entry of the term is applied here, and only in that term.
//!
//! Never here: due commands of the registry (the coordinator), liveness.

use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use remuda_registry::command::Bootstrap;
use remuda_registry::{ClusterId, Command, ReplicaId, Request};

use super::clock::TICK;
use super::node::{Leadership, Node, StopReason};
use super::types::{StoredMembership, TypeConfig};
use crate::failpoint;
use crate::propose::{LeaderHint, Propose};

/// A pending deadline is looked at this long after the last stamped entry at the latest.
const TICK_ENTRY_AFTER: Duration = Duration::from_secs(1);
/// Patience with an entry that the leader writes for its own sake; it tries again.
const OWN_ENTRY_DEADLINE: Duration = Duration::from_secs(2);

/// Follows Raft until the node stops.
pub(super) async fn run(node: Node) {
    let mut metrics = node.raft().server_metrics();
    let mut applied = node.applied();
    let mut stop = node.inner.stop.subscribe();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut driver = Driver { node, membership: StoredMembership::default(), owed_at: None };
    loop {
        let waits_for_first_entry = driver.is_elected() && driver.node.clock().leads_in().is_none();
        tokio::select! {
            _ = ticks.tick() => driver.tick(),
            changed = metrics.changed() => if changed.is_err() { break },
            _ = applied.changed(), if waits_for_first_entry => {}
            _ = stop.wait_for(Option::is_some) => break,
        }
        driver.look();
    }
    driver.node.clock().end();
    driver.node.inner.leadership.send_replace(Leadership::default());
    // Where nobody asked for it, openraft has ended by itself: with an error, or by a panic of one of its tasks.
    driver.stop_if_failed();
    driver.node.stop(StopReason::Fatal("openraft has ended".to_owned()));
}

struct Driver {
    node: Node,
    membership: StoredMembership,
    /// When the leader last proposed something for its own sake.
    owed_at: Option<Instant>,
}

impl Driver {
    fn is_elected(&self) -> bool {
        self.node.raft().as_leader().is_ok()
    }

    /// Moves the accumulator and proposes what is owed.
    fn tick(&mut self) {
        if let Ok(leader) = self.node.raft().as_leader() {
            let acked_at = leader.last_quorum_acked().and_then(|at| Instant::now().checked_sub(TypeConfig::now() - at));
            if self.node.clock().leads_in() == Some(leader.term()) {
                self.node.clock().tick(acked_at);
                self.owe(leader.term());
            }
        }
        self.stop_if_failed();
    }

    /// Says so if openraft has failed.
    fn stop_if_failed(&self) {
        let running = self.node.raft().metrics().borrow_watched().running_state.clone();
        if let Err(fatal) = running {
            tracing::error!(%fatal, "openraft has failed");
            self.node.stop(StopReason::Fatal(fatal.to_string()));
        }
    }

    /// Brings what others see in line with what openraft says.
    fn look(&mut self) {
        let metrics = self.node.raft().server_metrics().borrow_watched().clone();
        let cluster = self.node.read(|state| state.cluster().map(ToString::to_string)).unwrap_or_default();
        if *metrics.membership_config != self.membership || cluster != self.node.parties().cluster() {
            self.membership = (*metrics.membership_config).clone();
            self.node.parties().learn(cluster, self.membership.membership().clone());
        }
        match self.node.raft().as_leader() {
            Ok(leader) => {
                let applied = *self.node.applied().borrow();
                if applied.term == leader.term() {
                    let log_time = self.node.read(|state| state.log_time());
                    self.node.clock().begin(leader.term(), log_time);
                } else if self.node.clock().leads_in() != Some(leader.term()) {
                    self.node.clock().end();
                }
            }
            Err(_) => self.node.clock().end(),
        }
        let term = metrics.vote.leader_id.term;
        let leader = metrics.current_leader.and_then(|id| {
            let member = self.membership.get_node(&id)?;
            Some(LeaderHint { id: ReplicaId(id), client: member.client.clone(), term })
        });
        let leads = self.node.clock().leads_in() == Some(term);
        let now = Leadership { term, leader, leads };
        self.node.inner.leadership.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                tracing::info!(term, leader = now.leader.as_ref().map(|hint| hint.id.0), leads, "leadership changed");
                *before = now;
            }
            changed
        });
    }

    /// Writes the bootstrap command while the state lacks one, and ticks while a deadline is pending.
    fn owe(&mut self, term: u64) {
        if self.owed_at.is_some_and(|at| at.elapsed() < TICK_ENTRY_AFTER) {
            return;
        }
        let command = if self.node.read(|state| state.cluster().is_none()) {
            failpoint::hit("bootstrap.before_command");
            let voters = self.membership.voter_ids().map(ReplicaId).collect();
            let cluster = ClusterId::from(uuid::Uuid::new_v4().to_string());
            Command::Bootstrap(Bootstrap { cluster, unix_ms: super::batch::wall_ms(), voters })
        } else if self.node.clock().since_stamp().is_some_and(|since| since >= TICK_ENTRY_AFTER)
            && self.node.read(remuda_registry::next_deadline).is_some()
        {
            Command::Tick
        } else {
            return;
        };
        self.owed_at = Some(Instant::now());
        let proposal =
            self.node.propose_in_term(term, vec![Request::unmarked(command)], Instant::now() + OWN_ENTRY_DEADLINE);
        // Whatever became of it, the next look says what is owed then.
        tokio::spawn(async move { drop(proposal.await) });
    }
}
