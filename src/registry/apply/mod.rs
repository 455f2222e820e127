//! `apply`: the only function that changes a state.
//!
//! An entry first moves log time, then does its commands in order, each whole or not at all, then encodes what changed.
//! Commands are judged before anything is touched; what follows a judgment cannot fail. One file per area; each is an
//! `impl Entry` whose command methods return `Result<Outcome, Refusal>`.
//!
//! Invariants
//! * A refused command leaves every table as it was.
//! * A state changes only through `Entry::step`, and so only as `worker::next` allows.
//!
//! Never here: a clock, randomness, IO.

mod acquire;
mod admission;
mod cleaning;
mod digests;
mod entry;
mod grants;
mod judge;
mod leases;
mod operators;
mod pools;
mod presence;
mod requests;
mod runs;
mod sessions;
#[cfg(test)]
mod tests;
mod timed;
mod trim;

use crate::command::Command;
use crate::event::Event;
use crate::frame::{Frame, RequestMark};
use crate::id::Revision;
use crate::limits;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::state::State;

use entry::Entry;

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
pub fn apply(state: &mut State, revision: Revision, term: u64, frame: &Frame) -> Applied {
    assert!(revision > state.revision, "entries are applied in the order of the log, each once");
    let before = state.log_time();
    advance(state, term, frame);
    state.revision = revision;
    let mut entry = Entry::new(state, revision, term, frame.wall_ms);
    let results = frame.requests.iter().map(|request| entry.serve(request)).collect();
    let mark = entry.mark(before);
    let Entry { events, .. } = entry;
    state.cold.put_events(revision, &events);
    state.flush();
    Applied { results, events, mark }
}

/// Moves log time, and begins the grace after an election or a gap.
fn advance(state: &mut State, term: u64, frame: &Frame) {
    let group = state.edit_group();
    if frame.term == term {
        group.log_time = group.log_time.max(frame.stamp);
        group.wall_ms = frame.wall_ms;
    }
    if group.term != term || (frame.gap && frame.term == term) {
        group.term = term;
        group.held_until = group.log_time + limits::GRACE;
    }
}

impl Entry<'_> {
    /// Does one command.
    fn execute(&mut self, command: &Command, mark: Option<&RequestMark>) -> Result<Outcome, Refusal> {
        match command {
            Command::Bootstrap(bootstrap) => self.bootstrap(bootstrap),
            Command::CreatePool { pool, spec, actor } => self.create_pool(pool, spec, actor),
            Command::UpdatePool { pool, spec, etag, actor } => self.update_pool(pool, spec, *etag, actor),
            Command::DeletePool { pool, etag, actor } => self.delete_pool(pool, *etag, actor),
            Command::OpenSession(open) => self.open_session(open),
            Command::EndSession { session } => self.end_session(*session),
            Command::AcquireWorker(acquire) => self.acquire(acquire, mark),
            Command::CancelAcquire { request, not_after } => self.cancel_acquire(request, *not_after),
            Command::RenewLeases { renewals } => Ok(self.renew_leases(renewals)),
            Command::BeginReturn { worker, job, epoch, secret, outcome } => {
                self.begin_return(worker, job, *epoch, secret, *outcome)
            }
            Command::EndLease { worker, epoch } => self.end_due_lease(worker, *epoch),
            Command::ReportProgress { runs } => Ok(self.report_progress(runs)),
            Command::CompleteCleaning { worker, run, session, receipt } => {
                self.complete_cleaning(worker, *run, *session, receipt)
            }
            Command::EndRun { worker, run } => self.end_run(worker, *run),
            Command::Admit { worker, token } => self.admit(worker, *token),
            Command::BeginIdleCheck { worker, token } => self.begin_idle_check(worker, *token),
            Command::RetryWorker { worker, token } => self.retry_worker(worker, *token),
            Command::GiveUpWorker { worker, token } => self.give_up_worker(worker, *token),
            Command::RemoveWorker { worker, token } => self.remove_worker(worker, *token),
            Command::AcknowledgeRetired { worker, session } => self.acknowledge_retired(worker, *session),
            Command::Operate { worker, operation, actor, reason, etag } => {
                self.operate(worker, operation, actor, reason, *etag)
            }
            Command::DropWaiter { waiter } => self.drop_waiter(*waiter),
            Command::ExpireWaiter { waiter } => self.expire_waiter(*waiter),
            Command::GrantOwed { pool } => self.grant_owed(pool),
            Command::Trim { table } => self.trim(*table),
            Command::ReportDigest { mark, replica, digest } => self.report_digest(*mark, *replica, *digest),
            Command::Tick => Ok(Outcome::Ticked),
            Command::RaiseFeatureLevel { level } => self.raise_feature_level(*level),
        }
    }
}
