//! What the simulation writes down for the judges: events in their words, calls with their answers, deeds on hosts.
//!
//! Never here: a judgment.

use std::collections::BTreeMap;

use remuda_registry::worker::StateKind;
use remuda_registry::{Event, Fact, Outcome, Refusal, Request, RequestId, WorkerId};
use remuda_tests::guarantees::history::{
    Answer, Call, Committed, Condition, Deed, Effect, Event as Told, History, HostRecord, Op,
};
use remuda_wire::reasons;

/// The history in the making.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) history: History,
    /// When the run that an event closes was late.
    deadlines: BTreeMap<(u64, u32), u64>,
    deeds: u64,
}

/// What makes a call's op.
pub(crate) struct Sent<'a> {
    pub(crate) process: String,
    pub(crate) call: Call,
    pub(crate) request: Option<(&'a RequestId, u64)>,
    pub(crate) attempt: u32,
}

impl Record {
    /// A call is sent; nothing is known of it yet.
    pub(crate) fn sent(&mut self, now: u64, sent: Sent<'_>) -> usize {
        let id = self.history.ops.len();
        self.history.ops.push(Op {
            id: id as u64,
            process: sent.process,
            invoked_at: now,
            returned_at: None,
            request_id: sent.request.map(|(id, _)| id.to_string()),
            attempt: sent.attempt,
            not_after: sent.request.map(|(_, not_after)| not_after),
            served_by: 0,
            call: sent.call,
            answer: Answer::Unknown { reason: "NONE".into() },
        });
        id
    }

    /// A call is answered; `false` where it had been answered before.
    pub(crate) fn answered(&mut self, op: usize, now: u64, answer: Answer) -> bool {
        let op = &mut self.history.ops[op];
        if op.returned_at.is_some() {
            return false;
        }
        (op.returned_at, op.answer) = (Some(now), answer);
        true
    }

    /// Something happened on a host.
    pub(crate) fn deed(&mut self, worker: &WorkerId, deed: Deed) {
        self.deeds += 1;
        self.history.hosts.push(HostRecord { at: self.deeds, worker: worker.to_string(), deed });
    }

    /// An entry was committed with these events; `late` says when a worker's open run was late before it.
    pub(crate) fn committed(&mut self, revision: u64, events: &[Event], late: &BTreeMap<WorkerId, u64>) {
        self.history.to_revision = revision;
        for (ordinal, event) in (0..).zip(events) {
            if let Fact::Worker(moved) = &event.fact
                && let Some(deadline) = late.get(&moved.worker)
            {
                self.deadlines.insert((revision, ordinal), *deadline);
            }
            let told = self.tell(revision, ordinal, event);
            self.history.events.push(told);
        }
    }

    /// The requests of an entry; each event that only one of them can have made is the effect of one copy.
    pub(crate) fn requests(&mut self, revision: u64, log_time: u64, requests: &[Request], events: &[Event]) {
        let mut taken = vec![false; events.len()];
        for request in requests {
            let Some(mark) = &request.mark else { continue };
            let made = events.iter().enumerate().position(|(at, event)| !taken[at] && is_effect(request, event));
            if let Some(at) = made {
                taken[at] = true;
            }
            self.history.requests.push(Committed {
                revision,
                log_time,
                request_id: mark.id.to_string(),
                effect: made.is_some(),
            });
        }
    }

    /// An event in the judges' words.
    pub(crate) fn tell(&self, revision: u64, ordinal: u32, event: &Event) -> Told {
        let mut told = Told {
            revision,
            ordinal,
            term: event.term,
            log_time: event.at.0,
            kind: event.fact.name().to_owned(),
            worker: event.fact.worker().map(ToString::to_string).unwrap_or_default(),
            deadline: self.deadlines.get(&(revision, ordinal)).copied().unwrap_or(0),
            ..Told::default()
        };
        match &event.fact {
            Fact::Worker(moved) => {
                told.from = moved.from.map(condition);
                told.to = moved.to.map(condition);
                told.cause = moved.cause.map(|cause| cause.to_string()).unwrap_or_default();
                told.epoch = moved.epoch.map_or(0, |epoch| epoch.0);
                told.run = moved.run.map_or(0, |run| run.0);
                told.attempt = moved.attempt.unwrap_or(0);
                told.job = moved.job.as_ref().map(ToString::to_string).unwrap_or_default();
                told.agent = moved.agent.to_string();
                told.verdict = moved.verdict.as_ref().map(ToString::to_string).unwrap_or_default();
            }
            Fact::SessionOpened { agent, .. } | Fact::SessionEnded { agent, .. } => told.agent = agent.to_string(),
            Fact::WorkerNoted { .. }
            | Fact::ReturnEnded(..)
            | Fact::PoolCreated { .. }
            | Fact::PoolUpdated { .. }
            | Fact::PoolDeleted { .. }
            | Fact::WaiterQueued { .. }
            | Fact::WaiterEnded { .. }
            | Fact::Bootstrapped { .. }
            | Fact::FeatureLevelRaised { .. }
            | Fact::DigestAgreed { .. }
            | Fact::DigestDiverged { .. } => {}
        }
        told
    }
}

/// Whether only this request can have made that event. To wait is no effect: it may still come to nothing.
fn is_effect(request: &Request, event: &Event) -> bool {
    use remuda_registry::Command;
    match (&request.command, &event.fact) {
        (Command::AcquireWorker(acquire), Fact::Worker(moved)) => {
            moved.to == Some(StateKind::Busy) && moved.job.as_ref() == Some(&acquire.job)
        }
        (Command::BeginReturn { worker, epoch, .. }, Fact::Worker(moved)) => {
            moved.worker == *worker && moved.from == Some(StateKind::Busy) && moved.epoch == Some(*epoch)
        }
        _ => false,
    }
}

pub(crate) fn condition(state: StateKind) -> Condition {
    match state {
        StateKind::Cleaning => Condition::Cleaning,
        StateKind::Ready => Condition::Ready,
        StateKind::Available => Condition::Available,
        StateKind::Busy => Condition::Busy,
        StateKind::Maintenance => Condition::Maintenance,
        StateKind::Lost => Condition::Lost,
        StateKind::Retired => Condition::Retired,
    }
}

/// A result in the judges' words. `first` is the revision at which a remembered answer was made.
pub(crate) fn answer(result: &Result<Outcome, Refusal>, revision: u64, first: Option<u64>) -> Answer {
    let ok = |revision, effect| Answer::Ok { revision, effect };
    let first = first.unwrap_or(revision);
    match result {
        Ok(Outcome::Granted(grant)) => {
            ok(grant.revision.0, Effect::Granted { worker: grant.worker.to_string(), epoch: grant.epoch.0 })
        }
        Ok(Outcome::ReturnBegun { return_id, .. }) => ok(first, Effect::Returned { return_id: return_id.0 }),
        Ok(Outcome::SessionOpened(opened)) => ok(revision, Effect::Opened { session: opened.session.0 }),
        Ok(Outcome::CleaningCompleted { verdict, .. }) => {
            let accepted = *verdict == remuda_registry::worker::Verdict::Clean;
            ok(revision, Effect::Judged { accepted })
        }
        Ok(Outcome::Renewed { results }) => match &results[0] {
            Ok(_) => ok(revision, Effect::Done),
            Err(refusal) => refused(refusal, revision),
        },
        Ok(_) => ok(first, Effect::Done),
        Err(refusal) => refused(refusal, revision),
    }
}

fn refused(refusal: &Refusal, revision: u64) -> Answer {
    let superseded_by = match refusal {
        Refusal::StaleLease { current, .. } | Refusal::StaleRun { current, .. } => Some(current.0),
        Refusal::LeaseEnded { end, .. } => end.as_ref().map(|end| end.return_id.0),
        Refusal::SessionEnded { session, current } => Some(current.unwrap_or(*session).0),
        Refusal::StaleIncarnation { last, .. } => Some(*last),
        Refusal::RefusedBefore { revision, .. } => Some(revision.0),
        _ => None,
    };
    let at = if let Refusal::RefusedBefore { revision, .. } = refusal { revision.0 } else { revision };
    let reason = reasons::of_refusal(refusal.code()).name.to_owned();
    Answer::Refused { revision: Some(at), reason, superseded_by }
}
