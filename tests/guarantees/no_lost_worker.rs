//! `no_lost_worker`: every registered worker is in exactly one state, and once faults have ended every worker with a
//! living agent comes to rest where somebody can use it or knows why not.

use std::collections::BTreeSet;

use super::Verdict;
use super::history::Condition::{Available, Busy, Cleaning, Lost, Maintenance, Ready, Retired};
use super::history::{Ending, Event, History};

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("no_lost_worker");
    let lives = history.lives();
    for (worker, moves) in lives.iter() {
        judge_chain(history, worker, moves, &mut verdict);
    }
    if history.endings.is_empty() {
        return verdict;
    }
    let ended: BTreeSet<&str> = history.endings.iter().map(|ending| ending.worker.as_str()).collect();
    for (worker, moves) in lives.iter() {
        let gone = moves.last().is_some_and(|event| event.to.is_none());
        verdict.require(gone || ended.contains(worker), || format!("{worker}: missing at the end"));
    }
    for ending in &history.endings {
        judge_ending(ending, &mut verdict);
    }
    verdict
}

/// Each move starts where the one before ended.
fn judge_chain(history: &History, worker: &str, moves: &[&Event], verdict: &mut Verdict) {
    let mut state = if history.from_revision == 0 { None } else { moves.first().and_then(|event| event.from) };
    for event in moves {
        verdict.require(event.from == state, || {
            format!("{:?} {worker}: moved from {:?}, but was {state:?}", event.position(), event.from)
        });
        state = event.to;
    }
}

/// With a living agent: at rest.
fn judge_ending(ending: &Ending, verdict: &mut Verdict) {
    let Ending { worker, state, cordoned, agent_alive, holder_alive } = ending;
    let at_rest = match state {
        Some(Available | Maintenance | Retired) => true,
        Some(Ready) => *cordoned,
        Some(Busy) => *holder_alive,
        Some(Cleaning | Lost) => !agent_alive,
        None => false,
    };
    verdict.require(at_rest, || {
        format!("{worker}: ended {state:?} (cordoned {cordoned}, agent {agent_alive}, holder {holder_alive})")
    });
}

#[cfg(test)]
mod tests {
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn a_transition_without_its_event_is_rejected() {
        let mut bad = good();
        let admitted = bad.events.iter().position(|event| event.to == Some(Available)).unwrap();
        bad.events.remove(admitted);
        rejected(judge, &bad, "but was Some(Ready)");
    }

    #[test]
    fn a_worker_that_is_gone_at_the_end_is_rejected() {
        let mut bad = good();
        bad.endings.remove(0);
        bad.endings.push(Ending { worker: "p/other".into(), ..good().endings[0].clone() });
        rejected(judge, &bad, "missing at the end");
    }

    #[test]
    fn a_worker_stuck_in_cleaning_is_rejected() {
        let mut bad = good();
        bad.endings[0].state = Some(Cleaning);
        rejected(judge, &bad, "ended Some(Cleaning)");
    }

    #[test]
    fn a_worker_held_by_the_dead_is_rejected() {
        let mut bad = good();
        bad.endings[0] = Ending { state: Some(Busy), holder_alive: false, ..bad.endings[0].clone() };
        rejected(judge, &bad, "ended Some(Busy)");
    }

    #[test]
    fn a_ready_worker_that_nobody_admits_is_rejected() {
        let mut bad = good();
        bad.endings[0] = Ending { state: Some(Ready), cordoned: false, ..bad.endings[0].clone() };
        rejected(judge, &bad, "ended Some(Ready)");
    }
}
