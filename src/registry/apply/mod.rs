//! `apply`: the only function that changes a state.

use crate::event::Event;
use crate::frame::Frame;
use crate::id::Revision;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::state::State;

/// What an entry did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// One per request, in their order.
    pub results: Vec<Result<Outcome, Refusal>>,
    /// In their order; an event's ordinal is its position.
    pub events: Vec<Event>,
    /// This entry is a digest mark: report `state.digest()` as it is now.
    pub mark: bool,
}

/// Applies one entry. `term` is the term of the log entry; a frame's stamp made in another term is ignored.
///
/// # Panics
/// Where an invariant of the state is broken: the replica must stop rather than diverge.
pub fn apply(_state: &mut State, _revision: Revision, _term: u64, _frame: &Frame) -> Applied {
    Applied::default()
}
