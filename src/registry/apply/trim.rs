//! Retention by entries: what is beyond its age or number is removed, a bounded number of rows at a time.
//!
//! Invariants
//! * No replica trims by its own clock: equal entries trim equal rows.

use crate::command::TrimTable;
use crate::id::RequestId;
use crate::limits;
use crate::outcome::Outcome;
use crate::refusal::Refusal;

use super::entry::Entry;

impl Entry<'_> {
    pub(super) fn trim(&mut self, table: TrimTable) -> Result<Outcome, Refusal> {
        let now = self.now();
        let rows = match table {
            TrimTable::Events => match self.state.cold.trim_events(now) {
                Some((rows, last)) => {
                    self.state.edit_group().events_trimmed = last;
                    rows
                }
                None => 0,
            },
            TrimTable::Returns => self.state.cold.trim_returns(now),
            TrimTable::Outcomes => self.trim_outcomes() + self.trim_clients(),
        };
        if rows == 0 { Err(Refusal::NothingOwed) } else { Ok(Outcome::Trimmed { rows }) }
    }

    fn trim_outcomes(&mut self) -> u32 {
        let mut rows = 0;
        while rows < limits::TRIM_ROWS_MAX as u32
            && let Some((at, id)) = self.state.index.outcome_ends.first()
            && *at < self.now()
        {
            let id: RequestId = id.clone();
            self.state.remove_outcome(&id);
            rows += 1;
        }
        rows
    }

    /// A client's row goes when no request of it can come any more; one that still waits is looked at again later.
    fn trim_clients(&mut self) -> u32 {
        let mut rows = 0;
        while rows < limits::TRIM_ROWS_MAX as u32
            && let Some((at, id)) = self.state.index.client_ends.first()
            && *at < self.now()
        {
            let id = id.clone();
            let later = self.now() + limits::REQUEST_LINGER;
            if self.state.clients.get(&id).is_some_and(|row| row.rows > 0) {
                self.state.change_client(&id, |row| row.lives_until = later);
            } else {
                self.state.remove_client(&id);
            }
            rows += 1;
        }
        rows
    }
}
