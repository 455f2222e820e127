//! Workers, and what operators ask of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use remuda_registry::command::Operation;
use remuda_registry::selector::Labels;
use remuda_registry::worker::{Maintenance, MaintenanceReason, RetiredReason, StateKind, Then, Worker, WorkerState};
use remuda_registry::{Command, LogTime, Millis, Token};

use super::{Violations, limits, map_of, timestamp, word};
use crate::{name, v1};

/// What a worker's message needs beside its row.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// Its class's labels.
    pub labels: Arc<Labels>,
    /// What its host can do.
    pub capabilities: Vec<String>,
    /// What its host cannot do.
    pub missing_capabilities: Vec<String>,
    /// Where executions are served.
    pub endpoint: String,
    /// What was seen when it went to Maintenance.
    pub evidence: String,
    /// Log time now, for what remains of a lease.
    pub now: LogTime,
}

/// A state as a message has it.
pub const fn state_out(state: StateKind) -> v1::worker::State {
    match state {
        StateKind::Cleaning => v1::worker::State::Cleaning,
        StateKind::Ready => v1::worker::State::Ready,
        StateKind::Available => v1::worker::State::Available,
        StateKind::Busy => v1::worker::State::Busy,
        StateKind::Maintenance => v1::worker::State::Maintenance,
        StateKind::Lost => v1::worker::State::Lost,
        StateKind::Retired => v1::worker::State::Retired,
    }
}

/// The states that a list asks for; none asks for all.
pub fn states_in(found: &mut Violations, field: &str, states: &[i32]) -> Vec<StateKind> {
    let mut wanted = Vec::new();
    for state in states {
        match v1::worker::State::try_from(*state).ok().and_then(kind_of) {
            Some(kind) => wanted.push(kind),
            None => found.add(field, format!("{state} is not a state")),
        }
    }
    wanted
}

fn kind_of(state: v1::worker::State) -> Option<StateKind> {
    StateKind::ALL.into_iter().find(|kind| state_out(*kind) == state)
}

/// Reason and subject of a Maintenance as words.
pub fn reason_out(reason: &MaintenanceReason) -> (String, String) {
    match reason {
        MaintenanceReason::ProbeFailed { name } => ("PROBE_FAILED".to_owned(), name.to_string()),
        MaintenanceReason::CleaningFailed { step } => ("CLEANING_FAILED".to_owned(), step.to_string()),
        MaintenanceReason::DiskLow
        | MaintenanceReason::InodesLow
        | MaintenanceReason::MemoryLow
        | MaintenanceReason::LoadHigh
        | MaintenanceReason::ClockSkew
        | MaintenanceReason::LeftoverProcesses
        | MaintenanceReason::LeftoverFiles
        | MaintenanceReason::LeftoverMounts
        | MaintenanceReason::CleaningTimedOut
        | MaintenanceReason::DeclaredBroken
        | MaintenanceReason::Held
        | MaintenanceReason::Operator => (word(&reason.to_string()), String::new()),
    }
}

/// Why a worker is retired, as a word.
pub fn retired_out(reason: RetiredReason) -> String {
    word(&reason.to_string())
}

/// A worker as a message has it.
pub fn worker_out(worker: &Worker, beside: Beside) -> v1::Worker {
    let (mut run, mut lease, mut maintenance, mut retired_reason) = (None, None, None, String::new());
    match &worker.state {
        WorkerState::Cleaning(cleaning) => {
            run = Some(v1::Run {
                run: cleaning.run.0,
                attempt: cleaning.attempt,
                cause: word(&cleaning.cause.to_string()),
                phase: phase_out(cleaning.stage),
                deadline_ms: cleaning.deadline.0,
                not_before_ms: cleaning.not_before.0,
            });
        }
        WorkerState::Busy(_) => lease = super::lease::lease_out(worker, &beside.endpoint, beside.now),
        WorkerState::Maintenance(held) => maintenance = Some(maintenance_out(held, beside.evidence)),
        WorkerState::Retired { reason, .. } => retired_reason = retired_out(*reason),
        WorkerState::Ready { .. } | WorkerState::Available { .. } | WorkerState::Lost { .. } => {}
    }
    let last_return = worker.last_return;
    v1::Worker {
        name: name::worker_name(&worker.id),
        state: state_out(worker.state.kind()).into(),
        labels: map_of(&beside.labels),
        annotations: map_of(&worker.annotations),
        uses: worker.uses + u64::from(worker.lease().is_some()),
        agent: worker.agent.to_string(),
        capabilities: beside.capabilities,
        missing_capabilities: beside.missing_capabilities,
        execution_endpoint: beside.endpoint,
        cordon: cordon_out(worker),
        run,
        lease,
        maintenance,
        retired_reason,
        last_return: if last_return == Token(0) { String::new() } else { name::return_name(&worker.id, last_return) },
        revision: worker.entered.revision.0,
        etag: worker.generation.to_string(),
        registered_at: timestamp(worker.registered.wall_ms),
        since: timestamp(worker.entered.wall_ms),
        since_log_ms: worker.entered.at.0,
        token: worker.token.0,
    }
}

/// How far a run is, as a word.
pub fn phase_out(stage: remuda_registry::worker::RunStage) -> String {
    match stage {
        remuda_registry::worker::RunStage::Assigned => "WAITING".to_owned(),
        remuda_registry::worker::RunStage::Queued => "QUEUED".to_owned(),
        remuda_registry::worker::RunStage::Started => "STARTED".to_owned(),
    }
}

/// Who keeps a worker from being offered.
pub fn cordon_out(worker: &Worker) -> Option<v1::Cordon> {
    let (order, deadline) = match (&worker.drain, &worker.cordon, &worker.next) {
        (Some(drain), _, _) => (&drain.order, drain.deadline.0),
        (None, Some(order), _) => (order.as_ref(), 0),
        (None, None, Some(next)) => (&next.order, 0),
        (None, None, None) => return None,
    };
    let drained = worker.drain.is_some().then(|| "READY".to_owned());
    let then = worker.next.as_ref().map(|next| word(&next.then.to_string())).or(drained).unwrap_or_default();
    let (actor, reason) = (order.actor.to_string(), order.reason.to_string());
    Some(v1::Cordon { actor, reason, drain_deadline_ms: deadline, then })
}

fn maintenance_out(held: &Maintenance, evidence: String) -> v1::Maintenance {
    let (reason, subject) = reason_out(&held.reason);
    let actor = held.order.as_ref().map(|order| order.actor.to_string()).unwrap_or_default();
    v1::Maintenance { reason, subject, evidence, actor, retry_at_ms: held.retry_at.map_or(0, |at| at.0) }
}

/// An operator's order, as every such request has it.
#[derive(Debug, Clone, Copy)]
pub struct OrderIn<'a> {
    /// The worker's name.
    pub name: &'a str,
    /// Who asks.
    pub actor: &'a str,
    /// Why.
    pub reason: &'a str,
    /// The etag presented.
    pub etag: &'a str,
}

/// The command of an operator's order.
///
/// # Errors
/// All violations.
pub fn operate_in(order: OrderIn<'_>, operation: Operation) -> Result<Command, Violations> {
    let mut found = Violations::default();
    let worker = found.take("name", name::worker(order.name));
    let actor = found.text("actor", order.actor, limits::ACTOR_MAX);
    let reason = found.text("reason", order.reason, limits::REASON_MAX);
    let etag = found.etag("etag", order.etag);
    found.finish(worker.map(|worker| Command::Operate { worker, operation, actor, reason, etag }))
}

/// The command of a drain.
///
/// # Errors
/// All violations.
pub fn drain_in(request: &v1::DrainWorkerRequest) -> Result<Command, Violations> {
    let mut found = Violations::default();
    let within = found.duration("deadline", request.deadline.as_ref()).unwrap_or(Millis(0));
    let then = match v1::Then::try_from(request.then) {
        Ok(v1::Then::Unspecified | v1::Then::Ready) => Then::Ready,
        Ok(v1::Then::Maintenance) => Then::Maintenance,
        Ok(v1::Then::Retired) => Then::Retired,
        Err(_) => {
            found.add("then", "must be READY, MAINTENANCE or RETIRED");
            Then::Ready
        }
    };
    let v1::DrainWorkerRequest { name, actor, reason, etag, .. } = request;
    let command = operate_in(OrderIn { name, actor, reason, etag }, Operation::Drain { within, then });
    match command {
        Ok(command) => found.finish(Some(command)),
        Err(more) => {
            found.0.extend(more.0);
            Err(found)
        }
    }
}

/// Capabilities of a host, sorted and without doubles.
pub(super) fn capabilities_in(found: &mut Violations, field: &str, names: &[String]) -> Vec<Arc<str>> {
    found.require(names.len() <= limits::CAPABILITIES_MAX, field, "must have at most 64 entries");
    let texts = names.iter().map(|name| (found.text(field, name, limits::TEXT_BYTES_MAX), ()));
    texts.collect::<BTreeMap<_, ()>>().into_keys().collect()
}
