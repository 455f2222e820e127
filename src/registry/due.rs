//! What the clock demands: the commands that a leader owes the registry right now.

use crate::command::Command;
use crate::state::State;
use crate::time::LogTime;

/// At most [`DUE_MAX`](crate::limits::DUE_MAX) commands that are owed at the state's log time. O(what is due).
pub fn due(_state: &State) -> Vec<Command> {
    Vec::new()
}

/// The earliest deadline that is pending, if any: while there is one the leader must write ticks.
pub fn next_deadline(_state: &State) -> Option<LogTime> {
    None
}
