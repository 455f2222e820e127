//! `resumed_return`: a return goes on at the same step under the next leader; nothing starts it over.
//!
//! A run is given up only for a reason that the log shows: it was late, it failed, or its agent opened a new session.
//! A change of term is no reason. An attempt is counted once, and a return ends once.

use std::collections::BTreeSet;

use super::Verdict;
use super::history::{Condition, Event, History};

/// Judges the promise. `judged` counts new runs, and returns that saw more than one term.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::new("resumed_return");
    let opened: BTreeSet<(u64, &str)> = history
        .events
        .iter()
        .filter(|event| event.kind == "SessionOpened")
        .map(|event| (event.revision, event.agent.as_str()))
        .collect();
    for (worker, moves) in history.lives().iter() {
        let mut open: Option<&Event> = None;
        let mut began: Option<&Event> = None;
        for &event in moves {
            match (open, event.to) {
                (Some(run), Some(Condition::Cleaning)) if event.from == Some(Condition::Cleaning) => {
                    judge_new_run(worker, run, event, &opened, &mut verdict);
                    open = Some(event);
                }
                (_, Some(Condition::Cleaning)) => {
                    verdict.require(event.attempt == 1, || {
                        format!("{:?} {worker}: begins with attempt {}", event.position(), event.attempt)
                    });
                    (open, began) = (Some(event), Some(event));
                }
                (Some(run), _) => {
                    judge_end(worker, began, run, event, &mut verdict);
                    (open, began) = (None, None);
                }
                (None, _) => {}
            }
        }
    }
    verdict
}

/// A run after a run, within one return.
fn judge_new_run(worker: &str, run: &Event, next: &Event, opened: &BTreeSet<(u64, &str)>, verdict: &mut Verdict) {
    let at = next.position();
    let session = opened.contains(&(next.revision, next.agent.as_str()));
    verdict.require(next.attempt == run.attempt + 1 || (next.attempt == run.attempt && session), || {
        format!("{at:?} {worker}: attempt {} after {} without a new session", next.attempt, run.attempt)
    });
    let late = next.deadline == 0 || next.log_time >= next.deadline;
    verdict.require(next.verdict != "TimedOut" || late, || {
        format!("{at:?} {worker}: run {} was late at {}, its deadline {}", run.run, next.log_time, next.deadline)
    });
}

/// The end of a return: by its own open run, whatever the term.
fn judge_end(worker: &str, began: Option<&Event>, run: &Event, end: &Event, verdict: &mut Verdict) {
    let spans_terms = began.is_some_and(|began| began.term != end.term);
    if spans_terms || end.to == Some(Condition::Ready) {
        verdict.require(end.run == 0 || end.run == run.run, || {
            format!("{:?} {worker}: ended by run {}, but {} was open", end.position(), end.run, run.run)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{good, rejected};
    use super::*;

    #[test]
    fn a_new_leader_that_starts_over_is_rejected() {
        let mut bad = good();
        // The sample's second run follows a new session; without it nothing explains the new run.
        bad.events.retain(|event| event.kind != "SessionOpened" || event.revision < 3);
        rejected(judge, &bad, "without a new session");
    }

    #[test]
    fn an_attempt_counted_twice_is_rejected() {
        let mut bad = good();
        let rerun = bad.events.iter().position(|event| event.verdict == "TimedOut").unwrap();
        bad.events[rerun].attempt += 1;
        rejected(judge, &bad, "attempt 3 after 1");
    }

    #[test]
    fn a_run_given_up_before_its_deadline_is_rejected() {
        let mut bad = good();
        let rerun = bad.events.iter().position(|event| event.verdict == "TimedOut").unwrap();
        bad.events[rerun].deadline = bad.events[rerun].log_time + 1;
        rejected(judge, &bad, "was late at");
    }

    #[test]
    fn a_return_ended_by_another_run_is_rejected() {
        let mut bad = good();
        let passed = bad.events.iter().rposition(|event| event.to == Some(Condition::Ready)).unwrap();
        bad.events[passed].run -= 1;
        rejected(judge, &bad, "ended by run");
    }
}
