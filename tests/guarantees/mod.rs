//! The promises of Remuda as pure functions over a history: one file each, under the promise's own name.
//!
//! Each `judge` reads a [`History`] and returns a [`Verdict`]: how much it judged and what it found wrong. The
//! simulation, the cluster tests and the chaos harness call the same functions, so a promise means one thing.
//!
//! Invariants
//! * A judge that judged nothing says so (`judged` is 0): an empty verdict is no proof.
//! * Each is proven by a good history that it accepts and bad ones that it rejects.
//!
//! Never here: an import from the product, a clock, IO.

pub mod acked_is_durable;
pub mod exactly_once;
pub mod faithful_events;
pub mod fenced;
pub mod history;
pub mod honest_answer;
pub mod linearizable;
pub mod no_lost_worker;
pub mod observed_clean;
pub mod one_door;
pub mod resumed_return;
pub mod same_state;
pub mod single_holder;

#[cfg(test)]
mod sample;

use history::History;

/// What a judge found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The promise.
    pub promise: &'static str,
    /// Facts that were judged.
    pub judged: u64,
    /// What breaks the promise, in words that name revisions, tokens and ops.
    pub violations: Vec<String>,
}

impl Verdict {
    fn new(promise: &'static str) -> Self {
        Self { promise, judged: 0, violations: Vec::new() }
    }

    /// Judges one fact: `holds`, or a violation told by `tell`.
    fn require(&mut self, holds: bool, tell: impl FnOnce() -> String) {
        self.judged += 1;
        if !holds {
            self.violations.push(tell());
        }
    }

    /// Nothing was found wrong.
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }
}

/// A promise's judge.
pub type Judge = fn(&History) -> Verdict;

/// All judges, in the order of the design.
pub const ALL: [Judge; 12] = [
    single_holder::judge,
    one_door::judge,
    fenced::judge,
    acked_is_durable::judge,
    exactly_once::judge,
    no_lost_worker::judge,
    linearizable::judge,
    faithful_events::judge,
    honest_answer::judge,
    same_state::judge,
    resumed_return::judge,
    observed_clean::judge,
];

/// Judges a history by all promises.
pub fn judge(history: &History) -> Vec<Verdict> {
    ALL.iter().map(|judge| judge(history)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_history_is_judged_by_every_promise_and_accepted() {
        for verdict in judge(&sample::good()) {
            assert!(verdict.judged > 0, "{} judged nothing", verdict.promise);
            assert!(verdict.holds(), "{}: {:#?}", verdict.promise, verdict.violations);
        }
    }
}
