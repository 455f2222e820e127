//! `one_door`: a worker becomes Available only by Cleaning → Ready → Available, with a receipt accepted for its
//! current run.
//!
//! The edges are written out here anew. They are the design's, not the registry's table.

use super::Verdict;
use super::history::Condition::{self, Available, Busy, Cleaning, Lost, Maintenance, Ready, Retired};
use super::history::{Event, History};

/// Every edge of the picture in the design, section 3; Cleaning to Cleaning is a new run.
const EDGES: [(Condition, Condition); 22] = [
    (Cleaning, Cleaning),
    (Cleaning, Ready),
    (Cleaning, Maintenance),
    (Cleaning, Lost),
    (Cleaning, Retired),
    (Ready, Available),
    (Ready, Cleaning),
    (Ready, Maintenance),
    (Ready, Lost),
    (Ready, Retired),
    (Available, Busy),
    (Available, Ready),
    (Available, Cleaning),
    (Available, Maintenance),
    (Available, Lost),
    (Available, Retired),
    (Busy, Cleaning),
    (Maintenance, Cleaning),
    (Maintenance, Maintenance),
    (Maintenance, Retired),
    (Lost, Cleaning),
    (Lost, Retired),
];
/// Further edges: Lost workers can be put in maintenance, and a worker retired as lost may be registered again.
const RARE: [(Condition, Condition); 2] = [(Lost, Maintenance), (Retired, Cleaning)];

/// Judges the promise.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("one_door");
    for (worker, moves) in history.lives().iter() {
        judge_life(worker, moves, &mut verdict);
    }
    verdict
}

fn judge_life(worker: &str, moves: &[&Event], verdict: &mut Verdict) {
    let mut run = None;
    for event in moves {
        let at = event.position();
        match (event.from, event.to) {
            (None, Some(to)) => verdict.require(to == Cleaning, || format!("{at:?} {worker}: born {to:?}")),
            (Some(from), None) => {
                verdict.require(from == Retired, || format!("{at:?} {worker}: removed while {from:?}"));
            }
            (Some(from), Some(to)) => {
                let known = EDGES.contains(&(from, to)) || RARE.contains(&(from, to)) || (from, to) == (Busy, Busy);
                verdict.require(known, || format!("{at:?} {worker}: {from:?} to {to:?} is not in the picture"));
            }
            (None, None) => {}
        }
        if (event.from, event.to) == (Some(Cleaning), Some(Ready)) {
            verdict.require(run.is_none_or(|open| open == event.run), || {
                format!("{at:?} {worker}: passed by run {}, but run {run:?} was open", event.run)
            });
        }
        if event.to == Some(Cleaning) {
            run = Some(event.run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn the_way_round_the_door_is_rejected() {
        let mut bad = good();
        bad.events.retain(|event| event.to != Some(Ready));
        for event in &mut bad.events {
            if event.to == Some(Available) {
                event.from = Some(Cleaning);
            }
        }
        rejected(judge, &bad, "Cleaning to Available");
    }

    #[test]
    fn a_receipt_of_an_older_run_is_rejected() {
        let mut bad = good();
        let passed = bad.events.iter().rposition(|event| event.to == Some(Ready)).unwrap();
        bad.events[passed].run -= 1;
        rejected(judge, &bad, "was open");
    }

    #[test]
    fn a_worker_born_available_is_rejected() {
        let mut bad = good();
        bad.events[1].to = Some(Available);
        rejected(judge, &bad, "born Available");
    }

    #[test]
    fn a_busy_worker_that_vanishes_is_rejected() {
        let mut bad = good();
        let last = bad.events.last().unwrap().clone();
        bad.events.push(Event { revision: last.revision + 1, from: Some(Busy), to: None, ..last });
        rejected(judge, &bad, "removed while Busy");
    }
}
