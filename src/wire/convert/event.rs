//! Events: past facts as messages.

use remuda_registry::event::{Note, WaiterEnd};
use remuda_registry::worker::{StateKind, Verdict};
use remuda_registry::{Event, Fact, PoolId, Revision, Token, WorkerId};

use super::worker::{reason_out, retired_out, state_out};
use super::{duration, timestamp, word};
use crate::{name, v1};

/// The pool that a fact is about, if it is about one.
pub fn pool_of(fact: &Fact) -> Option<&PoolId> {
    match fact {
        Fact::PoolCreated { pool, .. } | Fact::PoolUpdated { pool, .. } | Fact::PoolDeleted { pool, .. } => Some(pool),
        Fact::WaiterQueued { pool, .. } | Fact::WaiterEnded { pool, .. } => Some(pool),
        Fact::Worker(_) | Fact::WorkerNoted { .. } | Fact::ReturnEnded(_) => fact.worker().map(|worker| &worker.pool),
        Fact::SessionOpened { .. }
        | Fact::SessionEnded { .. }
        | Fact::Bootstrapped { .. }
        | Fact::FeatureLevelRaised { .. }
        | Fact::DigestAgreed { .. }
        | Fact::DigestDiverged { .. } => None,
    }
}

/// An event as a message has it.
pub fn event_out(revision: Revision, ordinal: u32, event: &Event) -> v1::Event {
    let fact = &event.fact;
    let mut made = v1::Event {
        revision: revision.0,
        ordinal,
        term: event.term,
        kind: word(fact.name()),
        pool: pool_of(fact).map(name::pool_name).unwrap_or_default(),
        worker: fact.worker().map(name::worker_name).unwrap_or_default(),
        at: timestamp(event.wall_ms),
        log_time_ms: event.at.0,
        ..Default::default()
    };
    match fact {
        Fact::Worker(moved) => worker_moved(&mut made, moved),
        Fact::WorkerNoted { worker, state, note } => {
            made.from = state_out(*state).into();
            made.to = made.from;
            note_out(&mut made, worker, note);
        }
        Fact::ReturnEnded(ended) => {
            made.cause = word(&ended.cause.to_string());
            made.epoch = ended.epoch.map_or(0, |epoch| epoch.0);
            made.attempt = ended.attempts;
            made.detail = ended.result.to_string();
            made.elapsed = Some(duration(ended.took));
            made.return_name = name::return_name(&ended.worker, ended.return_id);
        }
        Fact::PoolCreated { actor, generation, .. } | Fact::PoolUpdated { actor, generation, .. } => {
            made.actor = actor.to_string();
            made.detail = format!("generation {generation}");
        }
        Fact::PoolDeleted { actor, .. } => made.actor = actor.to_string(),
        Fact::SessionOpened { agent, session, replaced } => {
            let replaced = replaced.map(|old| format!(", replaces {old}")).unwrap_or_default();
            made.detail = format!("agent {agent}, session {session}{replaced}");
        }
        Fact::SessionEnded { agent, session } => made.detail = format!("agent {agent}, session {session}"),
        Fact::WaiterQueued { waiter, job, .. } => {
            made.job_id = job.to_string();
            made.detail = format!("waiter {waiter}");
        }
        Fact::WaiterEnded { waiter, end, waited, .. } => {
            made.cause = waiter_end(end).to_owned();
            made.detail = format!("waiter {waiter}");
            made.elapsed = Some(duration(*waited));
            if let WaiterEnd::Granted { worker, epoch } = end {
                made.worker = name::worker_name(worker);
                made.epoch = epoch.0;
            }
        }
        Fact::Bootstrapped { cluster } => made.detail = format!("cluster {cluster}"),
        Fact::FeatureLevelRaised { level } => made.detail = format!("level {level}"),
        Fact::DigestAgreed { mark, digest, .. } => made.detail = format!("mark {mark}, digest {digest}"),
        Fact::DigestDiverged { mark } => made.detail = format!("mark {mark}"),
    }
    made
}

fn waiter_end(end: &WaiterEnd) -> &'static str {
    match end {
        WaiterEnd::Granted { .. } => "GRANTED",
        WaiterEnd::Cancelled => "CANCELLED",
        WaiterEnd::Dropped => "DROPPED",
        WaiterEnd::Expired => "EXPIRED",
        WaiterEnd::PoolDeleted => "POOL_DELETED",
    }
}

fn state(kind: Option<StateKind>) -> i32 {
    kind.map_or(v1::worker::State::Unspecified, state_out).into()
}

fn worker_moved(made: &mut v1::Event, moved: &remuda_registry::event::WorkerMoved) {
    made.from = state(moved.from);
    made.to = state(moved.to);
    let reason = moved.reason.as_ref().map(|reason| reason_out(reason).0);
    let cause = reason.or_else(|| moved.retired.map(retired_out)).or_else(|| moved.cause.map(|c| word(&c.to_string())));
    made.cause = cause.unwrap_or_default();
    made.epoch = moved.epoch.map_or(0, |epoch| epoch.0);
    made.run = moved.run.map_or(0, |run| run.0);
    made.attempt = moved.attempt.unwrap_or(0);
    made.job_id = moved.job.as_ref().map(ToString::to_string).unwrap_or_default();
    made.actor = moved.actor.as_ref().map(ToString::to_string).unwrap_or_default();
    let verdict = moved.verdict.as_ref().map(verdict_out);
    let words = [verdict, moved.because.as_ref().map(ToString::to_string)];
    made.detail = words.into_iter().flatten().collect::<Vec<_>>().join("; ");
    made.elapsed = Some(duration(moved.elapsed));
    let named = moved.return_id.filter(|token| *token != Token(0));
    made.return_name = named.map(|token| name::return_name(&moved.worker, token)).unwrap_or_default();
}

/// How a run was judged, as a word and its reason.
pub fn verdict_out(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Unclean(reason) | Verdict::Unhealthy(reason) => {
            let (word, subject) = reason_out(reason);
            if subject.is_empty() { word } else { format!("{word} {subject}") }
        }
        Verdict::Clean
        | Verdict::Stopped
        | Verdict::TimedOut
        | Verdict::Replaced
        | Verdict::Lost
        | Verdict::Overtaken => word(&verdict.to_string()),
    }
}

fn note_out(made: &mut v1::Event, worker: &WorkerId, note: &Note) {
    let mut ordered = |actor: &str, because: &str| {
        made.actor = actor.to_owned();
        made.detail = because.to_owned();
    };
    match note {
        Note::RunProgressed { run, .. } => made.run = run.0,
        Note::LeaseClaimed { epoch } | Note::AgentSilent { epoch } => made.epoch = epoch.0,
        Note::AgentBack { epoch, session } => {
            made.epoch = epoch.0;
            made.detail = format!("session {session}");
        }
        Note::JobInterrupted { epoch, .. } => made.epoch = epoch.0,
        Note::Cordoned { actor, because } | Note::Uncordoned { actor, because } | Note::Released { actor, because } => {
            ordered(actor, because)
        }
        Note::Draining { then, actor, because, .. } | Note::NextOrdered { then, actor, because } => {
            ordered(actor, because);
            made.cause = word(&then.to_string());
        }
        Note::LabelsChanged | Note::LabelsKept | Note::RetiredAcknowledged => {
            made.detail = worker.name.to_string();
        }
    }
}
