//! Idempotency: a retried request has one effect and gets the first answer.
//!
//! A request with a mark is looked up before it is done and recorded after. An acceptance is always recorded; a refusal
//! only of a retry, so that an earlier copy in flight cannot succeed after the client was told no. What epochs, runs,
//! incarnations and marks fence by themselves has no row.
//!
//! Invariants
//! * After `not_after`, or below the client's `answered_below`, a request is refused and never done.
//! * A row whose waiter or unclaimed grant exists outlives its `not_after`.

use crate::command::Command;
use crate::frame::{Request, RequestMark};
use crate::id::RequestId;
use crate::limits;
use crate::outcome::Outcome;
use crate::refusal::{LeaseEnd, Refusal};
use crate::request::{OutcomeRow, Record};
use crate::time::LogTime;
use crate::worker::Worker;

use super::entry::{Entry, Violations};

/// What is to be done with a marked request.
enum Admission {
    /// It was done before: the first answer.
    Answered(Result<Outcome, Refusal>),
    /// Do it, and remember how it went.
    Recorded,
    /// Do it; there is no room to remember it, and its own epoch fences it.
    Unrecorded,
}

impl Entry<'_> {
    /// Serves one request.
    pub(super) fn serve(&mut self, request: &Request) -> Result<Outcome, Refusal> {
        let command = &request.command;
        self.judge_group(command)?;
        let Some(mark) = request.mark.as_ref().filter(|_| keeps_outcome(command)) else {
            return self.execute(command, None);
        };
        match self.judge_mark(mark, command)? {
            Admission::Answered(answer) => answer,
            Admission::Unrecorded => self.execute(command, None),
            Admission::Recorded => {
                let result = self.execute(command, Some(mark));
                self.record(mark, &result);
                result
            }
        }
    }

    /// Refuses everything before bootstrap, and all but digests and time while replicas disagree.
    fn judge_group(&self, command: &Command) -> Result<(), Refusal> {
        let group = self.state.group();
        if group.cluster.is_none() && !matches!(command, Command::Bootstrap(_) | Command::Tick) {
            return Err(Refusal::NotBootstrapped);
        }
        match group.diverged {
            Some(mark) if !matches!(command, Command::ReportDigest { .. } | Command::Tick) => {
                Err(Refusal::Diverged { mark })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn judge_mark(&mut self, mark: &RequestMark, command: &Command) -> Result<Admission, Refusal> {
        let request = || mark.id.clone();
        judge_id(&mark.id)?;
        if self.answered(&mark.id) || matches!(&mark.id, RequestId::Numbered { seq, .. } if *seq < mark.answered_below)
        {
            return Err(Refusal::RequestTooOld { request: request() });
        }
        if let Some(row) = self.state.outcomes.get(&mark.id).filter(|row| row.lives_until >= self.now()) {
            if row.identity.is_some_and(|identity| identity != mark.identity) {
                return Err(Refusal::RequestIdReused { request: request() });
            }
            return Ok(Admission::Answered(self.first_answer(&mark.id, row)));
        }
        if mark.not_after < self.now() {
            return Err(Refusal::RequestTooOld { request: request() });
        }
        self.judge_window(&mark.id, mark.not_after)?;
        match self.judge_room(&mark.id, mark.answered_below) {
            Ok(()) => Ok(Admission::Recorded),
            Err(Refusal::TooManyOutcomes { limit }) if limit == limits::OUTCOMES_MAX as u64 && frees(command) => {
                Ok(Admission::Unrecorded)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Refuses a `not_after` too far ahead.
    pub(super) fn judge_window(&self, id: &RequestId, not_after: LogTime) -> Result<(), Refusal> {
        let latest = self.now() + limits::REQUEST_WINDOW_MAX.plus(limits::REQUEST_TIME_AGE_MAX);
        if not_after > latest { Err(Refusal::WindowTooLong { request: id.clone(), latest }) } else { Ok(()) }
    }

    /// Refuses where no row can be added.
    pub(super) fn judge_room(&self, id: &RequestId, answered_below: u64) -> Result<(), Refusal> {
        judge_id(id)?;
        if let RequestId::Numbered { client, .. } = id
            && let Some(row) = self.state.clients.get(client)
            && row.rows >= limits::OUTCOMES_PER_CLIENT_MAX as u64
        {
            let first = self.state.outcomes_of(client).next();
            if !first.is_some_and(|id| matches!(id, RequestId::Numbered { seq, .. } if *seq < answered_below)) {
                return Err(Refusal::TooManyOutcomes { limit: limits::OUTCOMES_PER_CLIENT_MAX as u64 });
            }
        }
        if self.state.outcomes.len() >= limits::OUTCOMES_MAX {
            return Err(Refusal::TooManyOutcomes { limit: limits::OUTCOMES_MAX as u64 });
        }
        Ok(())
    }

    /// Whether the client has said that it has this request's answer.
    pub(super) fn answered(&self, id: &RequestId) -> bool {
        match id {
            RequestId::Numbered { client, seq } => {
                self.state.clients.get(client).is_some_and(|row| *seq < row.answered_below)
            }
            RequestId::Named(_) => false,
        }
    }

    fn record(&mut self, mark: &RequestMark, result: &Result<Outcome, Refusal>) {
        let record = match result {
            Ok(outcome) => record_of(outcome),
            Err(refusal) if mark.retry => Some(Record::Refused { code: refusal.code() }),
            Err(_) => None,
        };
        let Some(record) = record else { return };
        if let RequestId::Numbered { client, .. } = &mark.id {
            self.forget_answered(client, mark);
        }
        let waits = matches!(record, Record::Waiting { .. });
        let lives_until = if waits { LogTime::MAX } else { mark.not_after };
        let identity = Some(mark.identity);
        let revision = self.moment.revision;
        let row = OutcomeRow { identity, not_after: mark.not_after, lives_until, record, revision };
        self.state.put_outcome(&mark.id, row);
    }

    /// Drops the rows that the client has answers to, and keeps in mind which those were.
    fn forget_answered(&mut self, client: &crate::id::ClientId, mark: &RequestMark) {
        self.state.change_client(client, |row| {
            row.answered_below = row.answered_below.max(mark.answered_below);
            row.lives_until = row.lives_until.max(mark.not_after);
        });
        let below = RequestId::Numbered { client: client.clone(), seq: mark.answered_below };
        let rows: Vec<_> = self.state.outcomes_of(client).take_while(|id| **id < below).cloned().collect();
        for id in rows {
            self.state.remove_outcome(&id);
        }
    }

    /// Changes what is remembered of a request, and until when; nothing where it is not remembered.
    pub(super) fn update_outcome(&mut self, id: &RequestId, record: Record, lives_until: LogTime) {
        let Some(row) = self.state.outcomes.get(id) else { return };
        let mut row = row.clone();
        row.lives_until = lives_until.max(row.not_after);
        if row.record != record {
            row.record = record;
            row.revision = self.moment.revision;
        }
        self.state.put_outcome(id, row);
    }

    /// The first answer, as far as its row and the tables still tell.
    fn first_answer(&self, id: &RequestId, row: &OutcomeRow) -> Result<Outcome, Refusal> {
        let request = id.clone();
        match row.record.clone() {
            Record::Waiting { waiter } => {
                let waiting = self.state.waiters.get(&waiter).expect("a row waits only while its waiter does");
                Ok(Outcome::Queued { waiter, expires_at: waiting.expires_at })
            }
            Record::Granted { worker, epoch } => match self.state.grant(&worker, epoch) {
                Some(grant) => Ok(Outcome::Granted(grant)),
                None => {
                    let end = self.state.workers.get(&worker).and_then(|worker| lease_end(worker, epoch));
                    Err(Refusal::LeaseEnded { worker, epoch, end })
                }
            },
            Record::Cancelled => Err(Refusal::RequestCancelled { request }),
            Record::Dropped => Err(Refusal::WaiterDropped { request }),
            Record::Expired => Err(Refusal::WaiterExpired { request }),
            Record::PoolGone { pool } => Err(Refusal::PoolDeleted { pool }),
            Record::Returned { worker, return_id } => Ok(Outcome::ReturnBegun { worker, return_id }),
            Record::PoolSaved { pool, generation } => Ok(Outcome::PoolSaved { pool, generation }),
            Record::PoolDeleted { pool } => Ok(Outcome::PoolDeleted { pool }),
            Record::Operated { worker, generation, state } => Ok(Outcome::Operated { worker, generation, state }),
            Record::Cancellation { was } => Ok(Outcome::AcquireCancelled { was }),
            Record::Refused { code } => Err(Refusal::RefusedBefore { code, revision: row.revision }),
        }
    }
}

/// How the lease of this epoch ended, if the worker still knows.
fn lease_end(worker: &Worker, epoch: crate::id::Token) -> Option<LeaseEnd> {
    let last = worker.last_lease.as_ref().filter(|last| last.epoch == epoch)?;
    Some(LeaseEnd { job: last.job.clone(), cause: last.cause, return_id: last.return_id })
}

/// Whether a command takes a lease or a waiter away, and so goes on where there is no room to remember it.
const fn frees(command: &Command) -> bool {
    matches!(command, Command::BeginReturn { .. } | Command::CancelAcquire { .. })
}

/// Whether the outcome of a command is remembered by its request id.
fn keeps_outcome(command: &Command) -> bool {
    match command {
        Command::CreatePool { .. }
        | Command::UpdatePool { .. }
        | Command::DeletePool { .. }
        | Command::AcquireWorker(_)
        | Command::CancelAcquire { .. }
        | Command::BeginReturn { .. }
        | Command::Operate { .. } => true,
        Command::Bootstrap(_)
        | Command::OpenSession(_)
        | Command::EndSession { .. }
        | Command::RenewLeases { .. }
        | Command::EndLease { .. }
        | Command::ReportProgress { .. }
        | Command::CompleteCleaning { .. }
        | Command::EndRun { .. }
        | Command::Admit { .. }
        | Command::BeginIdleCheck { .. }
        | Command::RetryWorker { .. }
        | Command::GiveUpWorker { .. }
        | Command::RemoveWorker { .. }
        | Command::AcknowledgeRetired { .. }
        | Command::DropWaiter { .. }
        | Command::ExpireWaiter { .. }
        | Command::GrantOwed { .. }
        | Command::Trim { .. }
        | Command::ReportDigest { .. }
        | Command::Tick
        | Command::RaiseFeatureLevel { .. } => false,
    }
}

/// What is remembered of an outcome, where it is remembered at all.
fn record_of(outcome: &Outcome) -> Option<Record> {
    match outcome.clone() {
        Outcome::Granted(grant) => Some(Record::Granted { worker: grant.worker, epoch: grant.epoch }),
        Outcome::Queued { waiter, .. } => Some(Record::Waiting { waiter }),
        Outcome::AcquireCancelled { was } => Some(Record::Cancellation { was }),
        Outcome::ReturnBegun { worker, return_id } => Some(Record::Returned { worker, return_id }),
        Outcome::PoolSaved { pool, generation } => Some(Record::PoolSaved { pool, generation }),
        Outcome::PoolDeleted { pool } => Some(Record::PoolDeleted { pool }),
        Outcome::Operated { worker, generation, state } => Some(Record::Operated { worker, generation, state }),
        Outcome::Bootstrapped
        | Outcome::SessionOpened(_)
        | Outcome::SessionEnded { .. }
        | Outcome::Renewed { .. }
        | Outcome::LeaseEnded { .. }
        | Outcome::ProgressNoted { .. }
        | Outcome::CleaningCompleted { .. }
        | Outcome::Moved { .. }
        | Outcome::WorkerRemoved { .. }
        | Outcome::RetiredAcknowledged { .. }
        | Outcome::WaiterEnded { .. }
        | Outcome::GrantsMade { .. }
        | Outcome::Trimmed { .. }
        | Outcome::DigestNoted
        | Outcome::Ticked
        | Outcome::FeatureLevelRaised { .. } => None,
    }
}

/// An id ends with a zero byte in its row's key.
fn judge_id(id: &RequestId) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    match id {
        RequestId::Numbered { client, .. } => violations.name("request_id", client.as_str(), limits::ID_BYTES_MAX),
        RequestId::Named(name) => violations.name("request_id", name, limits::ID_BYTES_MAX),
    }
    violations.refuse()
}
