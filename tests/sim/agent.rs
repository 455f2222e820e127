//! Agents: the real duties of each worker (`remuda_agent::job`) on a host that is made up.
//!
//! What an agent writes down outlives it; what it remembers does not. Jobs outlive it too, unless the host goes down.
//!
//! Never here: what an agent should do; that is decided by `Duties`.

mod runs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use remuda_agent::job::{Action, Assigned, Duties, Facts, Heard, Input, RunOrder};
use remuda_registry::command::{JobPresence, OpenSession, RunProgress, WorkerPresence};
use remuda_registry::selector::Labels;
use remuda_registry::worker::{RunStage, WorkerState};
use remuda_registry::{AgentId, Command, LogTime, Request, SecretHash, SessionId, State, Token, WorkerId};
use remuda_tests::guarantees::history::{Call, Deed};
use remuda_wire::convert::agent::{assignment_out, gone_out};
use remuda_wire::convert::plan::Frozen;
use remuda_wire::v1;

use crate::client::worker;
use crate::cluster::{Ask, REPLICAS};
use crate::record::Sent;
use crate::world::{Message, Origin, Timer, WORKERS, World};

/// Times of the agent that the simulation stands in for.
mod limits {
    /// Heartbeats.
    pub(super) const BEAT_MS: u64 = 1_000;
    /// An open or a report that is not answered is sent again.
    pub(super) const RETRY_MS: u64 = 1_500;
    /// How often a replica looks for what a watch must be shown.
    pub(super) const PUMP_MS: u64 = 60;
    /// A watch that broke is opened anew elsewhere.
    pub(super) const REWATCH_MS: u64 = 1_000;
    /// Runs at work at once.
    pub(super) const PARALLEL: usize = 1;
}

/// Assignments as a watch sends them.
#[derive(Debug, Clone)]
pub(crate) struct Assignments {
    pub(crate) stream: u64,
    session: u64,
    revision: u64,
    assignments: Vec<(WorkerId, v1::Assignment)>,
}

/// What an agent does by itself.
#[derive(Debug, Clone)]
pub(crate) enum AgentTimer {
    Open { incarnation: u64 },
    Beat,
    Pump { stream: u64 },
    Watch,
    Woke { worker: WorkerId },
    Turn { worker: WorkerId, run: u64 },
    Act { worker: WorkerId, run: u64 },
    Observe { worker: WorkerId, run: u64 },
    Join { worker: WorkerId, run: u64 },
    Report { worker: WorkerId, run: u64 },
}

/// A run at work.
#[derive(Debug, Clone)]
struct Run {
    order: RunOrder,
    cancelled: bool,
    residue: u64,
    /// It stops nothing: what it is up against does not die.
    powerless: bool,
}

#[derive(Debug, Clone)]
struct Report {
    session: u64,
    run: u64,
    receipt: Arc<v1::CleaningReceipt>,
    ops: Vec<usize>,
}

/// A watch at a replica.
#[derive(Debug, Clone)]
struct Stream {
    number: u64,
    replica: usize,
    sent: BTreeMap<WorkerId, v1::Assignment>,
    marked: u64,
}

/// One agent: its host and disk first, then what a process remembers.
pub(crate) struct Agent {
    number: usize,
    workers: Vec<WorkerId>,
    incarnation: u64,
    disk: BTreeMap<WorkerId, Facts>,
    boot: u64,
    processes: BTreeMap<WorkerId, BTreeSet<u64>>,
    /// Counts processes of the agent; timers and messages of an earlier one are dropped.
    life: u64,
    pub(crate) up: bool,
    /// Nothing reaches it, and it reaches nobody, until then.
    pub(crate) isolated_until: u64,
    opening: Option<OpenSession>,
    session: Option<u64>,
    opened_at: u64,
    duties: BTreeMap<WorkerId, Duties>,
    queue: VecDeque<(WorkerId, u64)>,
    runs: BTreeMap<(WorkerId, u64), Run>,
    reports: BTreeMap<WorkerId, Report>,
    stream: Option<Stream>,
    streams: u64,
    opens: Vec<usize>,
}

impl Agent {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number,
            workers: (0..WORKERS).map(|index| worker(number * WORKERS + index)).collect(),
            incarnation: 0,
            disk: BTreeMap::new(),
            boot: 1,
            processes: BTreeMap::new(),
            life: 0,
            up: false,
            isolated_until: 0,
            opening: None,
            session: None,
            opened_at: 0,
            duties: BTreeMap::new(),
            queue: VecDeque::new(),
            runs: BTreeMap::new(),
            reports: BTreeMap::new(),
            stream: None,
            streams: 0,
            opens: Vec::new(),
        }
    }

    fn id(&self) -> AgentId {
        AgentId::from(format!("sim-agent-{}", self.number))
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// What it says of a worker in an open: a job is lost where the host went down under it.
    fn presence(&self, id: &WorkerId) -> WorkerPresence {
        let facts = self.duties[id].facts();
        let lost = facts.job.as_ref().is_some_and(|job| job.epoch == facts.epoch && job.boot_id != self.boot_id());
        WorkerPresence {
            worker: id.clone(),
            labels: Labels::new(),
            annotations: Labels::new(),
            epoch: Some(Token(facts.epoch)).filter(|epoch| epoch.0 > 0),
            job: if lost { JobPresence::Lost } else { JobPresence::Alive },
        }
    }
}

impl World {
    fn agent_after(&mut self, agent: usize, delay: u64, timer: AgentTimer) {
        let life = self.agents[agent].life;
        self.after(delay, Timer::Agent { agent, life, timer });
    }

    /// The process dies, and its walkers with it; with a reboot its jobs too.
    pub(crate) fn crash(&mut self, number: usize, reboot: bool) {
        let agent = &mut self.agents[number];
        if !agent.up {
            return;
        }
        (agent.up, agent.session, agent.stream, agent.opening) = (false, None, None, None);
        agent.life += 1;
        agent.duties.clear();
        agent.queue.clear();
        agent.runs.clear();
        agent.reports.clear();
        agent.opens.clear();
        self.faults.agent_crashes += 1;
        if reboot {
            self.faults.reboots += 1;
            agent.boot += 1;
            for (id, jobs) in std::mem::take(&mut agent.processes) {
                for epoch in jobs {
                    self.record.deed(&id, Deed::JobGone { epoch });
                }
            }
        }
        let down = 100 + self.rng.below(9_000);
        self.after(down, Timer::Restart { agent: number });
    }

    /// A process starts from what is on disk.
    pub(crate) fn start_agent(&mut self, number: usize) {
        let agent = &mut self.agents[number];
        if agent.up {
            return;
        }
        agent.up = true;
        agent.life += 1;
        for id in agent.workers.clone() {
            let facts = agent.disk.get(&id).cloned().unwrap_or_default();
            agent.duties.insert(id, Duties::new(facts));
        }
        self.open(number);
        self.agent_after(number, limits::BEAT_MS, AgentTimer::Beat);
    }

    /// Opens a session under the next incarnation.
    fn open(&mut self, number: usize) {
        let agent = &mut self.agents[number];
        agent.incarnation += 1;
        (agent.session, agent.stream) = (None, None);
        agent.opening = Some(OpenSession {
            agent: agent.id(),
            key: SecretHash([u8::try_from(number).expect("a small number"); 32]),
            incarnation: agent.incarnation,
            machine: format!("machine-{number}").into(),
            boot: agent.boot_id().into(),
            endpoint: "http://host:1".into(),
            capabilities: Vec::new(),
            missing_capabilities: Vec::new(),
            version: "sim".into(),
            workers: agent.workers.iter().map(|id| agent.presence(id)).collect(),
        });
        agent.opens.clear();
        let incarnation = agent.incarnation;
        self.ask_open(number, incarnation);
    }

    fn ask_open(&mut self, number: usize, incarnation: u64) {
        let agent = &self.agents[number];
        let Some(open) = agent.opening.clone().filter(|open| open.incarnation == incarnation) else { return };
        let (process, life) = (agent.id().to_string(), agent.life);
        let call = Call::Open { agent: process.clone(), incarnation };
        let op = self.record.sent(self.now, Sent { process, call, request: None, attempt: 1 });
        self.agents[number].opens.push(op);
        let request = Request::unmarked(Command::OpenSession(Box::new(open)));
        self.send_any(Message::Ask(Ask::Write { from: Origin::Agent { agent: number, life }, op, request }));
        self.agent_after(number, limits::RETRY_MS, AgentTimer::Open { incarnation });
    }

    /// The open was accepted.
    pub(crate) fn opened(
        &mut self,
        number: usize,
        life: u64,
        incarnation: u64,
        (session, revision): (u64, u64),
        served: &[WorkerId],
    ) {
        let agent = &mut self.agents[number];
        let current = agent.opening.as_ref().is_some_and(|open| open.incarnation == incarnation);
        if agent.life != life || !current {
            return;
        }
        agent.opening = None;
        (agent.session, agent.opened_at) = (Some(session), revision);
        for id in served {
            self.step(number, id, Input::SessionOpened { session, revision });
        }
        self.rewatch(number);
    }

    /// Opens a watch at some replica.
    fn rewatch(&mut self, number: usize) {
        let replica = self.rng.index(REPLICAS);
        let agent = &mut self.agents[number];
        agent.streams += 1;
        let stream = agent.streams;
        agent.stream = Some(Stream { number: stream, replica, sent: BTreeMap::new(), marked: 0 });
        self.agent_after(number, 5, AgentTimer::Pump { stream });
    }

    /// A message of a watch was lost: the stream is broken.
    pub(crate) fn break_watch(&mut self, number: usize, life: u64, stream: u64) {
        let agent = &mut self.agents[number];
        if agent.life == life && agent.stream.as_ref().is_some_and(|live| live.number == stream) {
            agent.stream = None;
            self.faults.watches_broken += 1;
            self.agent_after(number, limits::REWATCH_MS, AgentTimer::Watch);
        }
    }

    /// A replica shows a watch what has changed.
    fn pump(&mut self, number: usize, stream: u64) {
        let now = LogTime(self.cluster.clock());
        let agent = &mut self.agents[number];
        let (Some(session), Some(live)) = (agent.session, agent.stream.as_mut().filter(|live| live.number == stream))
        else {
            return;
        };
        let replica = &self.cluster.replicas[live.replica];
        if replica.applied >= agent.opened_at {
            let state = &replica.state;
            if state.session(SessionId(session)).is_none() {
                let life = agent.life;
                self.send(Message::Beaten { agent: number, life, session, lives: false });
            } else {
                let mut changed = Vec::new();
                for id in &agent.workers {
                    let assignment = assignment(state, id, now);
                    if live.sent.get(id) != Some(&assignment) {
                        live.sent.insert(id.clone(), assignment.clone());
                        changed.push((id.clone(), assignment));
                    }
                }
                if !changed.is_empty() || live.marked + 1_000 <= self.now {
                    live.marked = self.now;
                    let sent = Assignments { stream, session, revision: replica.applied, assignments: changed };
                    let life = agent.life;
                    self.send_any(Message::Assignments { agent: number, life, sent });
                }
            }
        }
        if self.fault(3) {
            let life = self.agents[number].life;
            self.break_watch(number, life, stream);
        }
        self.agent_after(number, limits::PUMP_MS, AgentTimer::Pump { stream });
    }

    pub(crate) fn assigned(&mut self, number: usize, life: u64, sent: &Assignments) {
        for (id, assignment) in &sent.assignments {
            if self.agents[number].life != life {
                return;
            }
            let (session, revision) = (sent.session, sent.revision);
            let assigned = Assigned::from_wire(assignment);
            self.step(number, id, Input::Assigned { session, revision, assigned });
        }
    }

    pub(crate) fn beaten(&mut self, number: usize, life: u64, session: u64, lives: bool) {
        let agent = &self.agents[number];
        if agent.life == life && agent.session == Some(session) && !lives {
            self.open(number);
        }
    }

    fn beat(&mut self, number: usize) {
        let agent = &self.agents[number];
        let life = agent.life;
        if let Some(session) = agent.session {
            let progress = agent.duties.iter().filter_map(|(id, duties)| {
                let (run, heard) = duties.progress()?;
                let stage = if heard == Heard::Started { RunStage::Started } else { RunStage::Queued };
                Some(RunProgress { worker: id.clone(), run: Token(run), session: SessionId(session), stage })
            });
            let progress = progress.collect();
            let retired = agent.duties.iter().filter(|(_, duties)| duties.facts().retired.is_some());
            let retired = retired.map(|(id, _)| id.clone()).collect();
            self.send_any(Message::Ask(Ask::Heartbeat { agent: number, life, session, progress, retired }));
        }
        self.agent_after(number, limits::BEAT_MS, AgentTimer::Beat);
    }

    pub(crate) fn agent_timer(&mut self, number: usize, life: u64, timer: AgentTimer) {
        if self.agents[number].life != life {
            return;
        }
        match timer {
            AgentTimer::Open { incarnation } => self.ask_open(number, incarnation),
            AgentTimer::Beat => self.beat(number),
            AgentTimer::Pump { stream } => self.pump(number, stream),
            AgentTimer::Watch => {
                if self.agents[number].stream.is_none() && self.agents[number].session.is_some() {
                    self.rewatch(number);
                }
            }
            AgentTimer::Woke { worker } => self.step(number, &worker, Input::Woke),
            AgentTimer::Turn { worker, run } => self.step(number, &worker, Input::Turn { run }),
            AgentTimer::Act { worker, run } => self.act(number, &worker, run),
            AgentTimer::Observe { worker, run } => self.observe(number, &worker, run),
            AgentTimer::Join { worker, run } => self.join(number, &worker, run),
            AgentTimer::Report { worker, run } => self.report(number, &worker, run),
        }
        self.pump_queue(number);
    }

    /// One step of a worker's duties, and what it asks for; the process may die in the midst of that.
    fn step(&mut self, number: usize, id: &WorkerId, input: Input) {
        let now = self.now;
        let Some(duties) = self.agents[number].duties.get_mut(id) else { return };
        let actions = duties.step(now, input);
        let life = self.agents[number].life;
        for action in actions {
            if self.agents[number].life != life {
                return;
            }
            self.perform(number, id, action);
            if self.fault(2) {
                self.faults.torn_actions += 1;
                self.crash(number, false);
            }
        }
    }

    fn perform(&mut self, number: usize, id: &WorkerId, action: Action) {
        let worker = id.clone();
        match action {
            Action::Persist(facts) => {
                self.agents[number].disk.insert(worker, facts);
            }
            Action::WakeAt(at) => {
                let delay = at.saturating_sub(self.now);
                self.agent_after(number, delay, AgentTimer::Woke { worker });
            }
            Action::Queue { run } => self.agents[number].queue.push_back((worker, run)),
            Action::Unqueue { run } => self.agents[number].queue.retain(|queued| *queued != (worker.clone(), run)),
            Action::Start(order) => self.begin_run(number, worker, order),
            Action::Cancel { run } => self.cancel(number, worker, run),
            Action::Report { session, run, receipt } => {
                let report = Report { session, run, receipt, ops: Vec::new() };
                self.agents[number].reports.insert(worker.clone(), report);
                self.report(number, &worker, run);
            }
            Action::DropReport { run } => {
                self.agents[number].reports.retain(|of, report| *of != worker || report.run != run);
            }
            Action::OpenLease(_) | Action::CloseLease { .. } => {}
            Action::Job { .. } => unreachable!("jobs are asked for by `execute` alone"),
        }
    }
}

/// What a replica would show of a worker.
fn assignment(state: &State, id: &WorkerId, now: LogTime) -> v1::Assignment {
    let Some(worker) = state.worker(id) else { return gone_out(id) };
    let generation = match &worker.state {
        WorkerState::Cleaning(cleaning) => Some(cleaning.generation),
        WorkerState::Busy(_)
        | WorkerState::Ready { .. }
        | WorkerState::Available { .. }
        | WorkerState::Maintenance(_)
        | WorkerState::Lost { .. }
        | WorkerState::Retired { .. } => None,
    };
    let settings = generation.and_then(|generation| Some((generation, state.settings(&id.pool, generation)?)));
    let frozen = settings.map(|(generation, spec)| Frozen {
        plan: &spec.plan,
        generation,
        stop_grace: spec.cleaning.stop_grace,
        timeout: spec.cleaning.timeout,
    });
    assignment_out(worker, frozen, now)
}
