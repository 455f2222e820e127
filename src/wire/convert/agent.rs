//! What agents say and hear.

use std::sync::Arc;

use remuda_registry::command::{JobPresence, OpenSession, RunProgress, WorkerPresence};
use remuda_registry::outcome::Registration;
use remuda_registry::worker::{RunStage, Worker, WorkerState};
use remuda_registry::{AgentId, Command, LogTime, Millis, SessionId, Token, WorkerId};

use super::plan::{Frozen, plan_out, receipt_in};
use super::worker::{capabilities_in, phase_out, retired_out, state_out};
use super::{Violations, duration, limits, word};
use crate::name::limits::{AGENT_BYTES_MAX, AGENT_BYTES_MIN};
use crate::{name, reasons, v1};

/// The agent of a text.
///
/// # Errors
/// Where it has not the form `[a-z0-9-]{8,64}`.
pub fn agent_in(text: &str) -> Result<AgentId, String> {
    let length = (AGENT_BYTES_MIN..=AGENT_BYTES_MAX).contains(&text.len());
    let letters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if length && letters { Ok(AgentId::from(text)) } else { Err("must have the form [a-z0-9-]{8,64}".to_owned()) }
}

/// The command of OpenSession.
///
/// # Errors
/// All violations.
pub fn open_session_in(request: &v1::OpenSessionRequest) -> Result<OpenSession, Violations> {
    let mut found = Violations::default();
    let agent = found.take("agent_id", agent_in(&request.agent_id));
    found.require(request.agent_key.len() == 32, "agent_key", "must have 32 bytes");
    let key = found.secret("agent_key", &request.agent_key);
    found.require(request.incarnation > 0, "incarnation", "must be above zero");
    let machine = found.needed_text("machine_id", &request.machine_id, limits::TEXT_BYTES_MAX);
    let boot = found.needed_text("boot_id", &request.boot_id, limits::TEXT_BYTES_MAX);
    let endpoint = found.text("execution_endpoint", &request.execution_endpoint, limits::TEXT_BYTES_MAX);
    let version = found.text("version", &request.version, limits::TEXT_BYTES_MAX);
    let capabilities = capabilities_in(&mut found, "capabilities", &request.capabilities);
    let missing_capabilities = capabilities_in(&mut found, "missing_capabilities", &request.missing_capabilities);
    let count = request.workers.len();
    found.require(count > 0, "workers", "must not be empty");
    found.require(count <= limits::SESSION_WORKERS_MAX, "workers", "must have at most 1000 entries");
    let mut workers: Vec<WorkerPresence> = Vec::new();
    for (at, worker) in request.workers.iter().take(limits::SESSION_WORKERS_MAX).enumerate() {
        let presence = presence_in(&mut found, &format!("workers[{at}]"), worker);
        workers.extend(presence);
    }
    let mut names: Vec<&WorkerId> = workers.iter().map(|presence| &presence.worker).collect();
    names.sort();
    found.require(names.windows(2).all(|pair| pair[0] != pair[1]), "workers", "must name each worker once");
    let made = agent.map(|agent| OpenSession {
        agent,
        key,
        incarnation: request.incarnation,
        machine,
        boot,
        endpoint,
        capabilities,
        missing_capabilities,
        version,
        workers,
    });
    found.finish(made)
}

fn presence_in(found: &mut Violations, field: &str, worker: &v1::SessionWorker) -> Option<WorkerPresence> {
    let id = found.take(&format!("{field}.name"), name::worker(&worker.name));
    let labels = found.labels(&format!("{field}.labels"), &worker.labels);
    let annotations = found.annotations(&format!("{field}.annotations"), &worker.annotations);
    let job = match v1::session_worker::Job::try_from(worker.job) {
        Ok(v1::session_worker::Job::Unspecified | v1::session_worker::Job::Alive) => JobPresence::Alive,
        Ok(v1::session_worker::Job::Lost) => JobPresence::Lost,
        Err(_) => {
            found.add(format!("{field}.job"), "must be ALIVE or LOST");
            JobPresence::Alive
        }
    };
    let epoch = Some(Token(worker.epoch)).filter(|epoch| epoch.0 > 0);
    id.map(|worker| WorkerPresence { worker, labels, annotations, epoch, job })
}

/// What became of one worker of a session.
pub fn registration_out(registration: &Registration) -> v1::SessionWorkerResult {
    let refused = registration.result.as_ref().err();
    v1::SessionWorkerResult {
        name: name::worker_name(&registration.worker),
        refused: refused.map_or("", |refusal| reasons::of_refusal(refusal.code()).name).to_owned(),
        detail: refused.map(ToString::to_string).unwrap_or_default(),
    }
}

/// What a heartbeat says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The agent.
    pub agent: AgentId,
    /// Its session.
    pub session: SessionId,
    /// Runs that it has taken on.
    pub progress: Vec<RunProgress>,
    /// Retired workers that it has taken note of.
    pub retired: Vec<WorkerId>,
}

/// A heartbeat.
///
/// # Errors
/// All violations.
pub fn heartbeat_in(request: &v1::HeartbeatRequest) -> Result<Heartbeat, Violations> {
    let mut found = Violations::default();
    let agent = found.take("agent_id", agent_in(&request.agent_id));
    found.require(request.session > 0, "session", "must be set");
    let session = SessionId(request.session);
    let most = limits::SESSION_WORKERS_MAX;
    found.require(request.progress.len() <= most, "progress", "must have at most 1000 entries");
    found.require(request.retired.len() <= most, "retired", "must have at most 1000 entries");
    let mut progress = Vec::new();
    for (at, run) in request.progress.iter().take(most).enumerate() {
        let field = format!("progress[{at}]");
        let worker = found.take(&format!("{field}.worker"), name::worker(&run.worker));
        found.require(run.run > 0, &format!("{field}.run"), "must be set");
        let stage = match run.phase() {
            v1::run_progress::Phase::Queued => Some(RunStage::Queued),
            v1::run_progress::Phase::Started => Some(RunStage::Started),
            v1::run_progress::Phase::Unspecified => {
                found.add(format!("{field}.phase"), "must be QUEUED or STARTED");
                None
            }
        };
        let made = worker.zip(stage);
        progress.extend(made.map(|(worker, stage)| RunProgress { worker, run: Token(run.run), session, stage }));
    }
    let mut retired = Vec::new();
    for (at, worker) in request.retired.iter().take(most).enumerate() {
        retired.extend(found.take(&format!("retired[{at}]"), name::worker(worker)));
    }
    found.finish(agent.map(|agent| Heartbeat { agent, session, progress, retired }))
}

/// The command of ReportCleaning.
///
/// # Errors
/// All violations.
pub fn report_in(request: &v1::ReportCleaningRequest) -> Result<Command, Violations> {
    let mut found = Violations::default();
    found.take("agent_id", agent_in(&request.agent_id));
    found.require(request.session > 0, "session", "must be set");
    found.require(request.run > 0, "run", "must be set");
    let worker = found.take("worker", name::worker(&request.worker));
    found.require(request.receipt.is_some(), "receipt", "must be set");
    let receipt = Box::new(receipt_in(&mut found, "receipt", request.receipt.as_ref().unwrap_or(&Default::default())));
    let (run, session) = (Token(request.run), SessionId(request.session));
    found.finish(worker.map(|worker| Command::CompleteCleaning { worker, run, session, receipt }))
}

/// What a worker owes, for its agent. `frozen` is the plan of its open run, or of its pool while it is Busy.
pub fn assignment_out(worker: &Worker, frozen: Option<Frozen<'_>>, now: LogTime) -> v1::Assignment {
    let mut made = v1::Assignment {
        worker: name::worker_name(&worker.id),
        state: state_out(worker.state.kind()).into(),
        token: worker.token.0,
        ..Default::default()
    };
    match &worker.state {
        WorkerState::Cleaning(cleaning) => {
            made.run = Some(v1::RunAssignment {
                run: cleaning.run.0,
                attempt: cleaning.attempt,
                cause: word(&cleaning.cause.to_string()),
                begin_after: Some(duration(cleaning.not_before.since(now))),
                plan: frozen.map(|frozen| plan_out(frozen, cleaning.stop_only.is_some())),
                epoch: cleaning.epoch.map_or(0, |epoch| epoch.0),
                phase: phase_out(cleaning.stage),
            });
        }
        WorkerState::Busy(lease) => {
            made.lease = Some(v1::LeaseAssignment {
                epoch: lease.epoch.0,
                job_id: lease.job.to_string(),
                secret_sha256: lease.secret.0.to_vec(),
                stop_grace: Some(duration(frozen.map_or(Millis(0), |frozen| frozen.stop_grace))),
                folders: frozen.map(|frozen| frozen.plan.folders.clone()).unwrap_or_default(),
                interrupted: lease.interrupted,
            });
        }
        WorkerState::Retired { reason, .. } => made.retired_reason = retired_out(*reason),
        WorkerState::Ready { .. }
        | WorkerState::Available { .. }
        | WorkerState::Maintenance(_)
        | WorkerState::Lost { .. } => {}
    }
    made
}

/// A worker that has no row any more: its agent need not think of it.
pub fn gone_out(worker: &WorkerId) -> v1::Assignment {
    v1::Assignment { worker: name::worker_name(worker), ..Default::default() }
}

/// A name as the registry keeps it.
pub fn text(text: &str) -> Arc<str> {
    Arc::from(text)
}
