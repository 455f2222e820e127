//! A bench on which commands are applied one entry at a time and everything around an entry is asserted.
//!
//! It keeps the durable copy that a replica would keep (the rows of `take_changes`), and reads workers back from it: so
//! every test of the registry is also a test of what reaches the disk.
//!
//! Invariants (asserted after every entry)
//! * `check()` holds.
//! * A refused command leaves the digest as a mere tick at that time would have left it, and says nothing.
//! * A frame survives its encoding.

#![allow(dead_code, reason = "each test target uses its own part")]

pub(crate) mod receipt;
pub(crate) mod rng;

use std::collections::{BTreeMap, BTreeSet};

use remuda_registry::event::WorkerMoved;
use remuda_registry::frame::RequestMark;
use remuda_registry::row::{self, Table};
use remuda_registry::worker::{StateKind, Step, Worker, WorkerState};
use remuda_registry::{
    AgentId, Applied, Command, Event, Fact, Frame, LogTime, Outcome, Refusal, Request, Revision, SessionId, State,
    WorkerId, apply,
};

/// The wall clock of every frame: it must not matter.
const WALL_MS: u64 = 1_700_000_000_000;

/// A state, its durable copy, its log, and the time.
pub(crate) struct Bench {
    pub(crate) state: State,
    /// The durable copy.
    pub(crate) rows: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) revision: u64,
    pub(crate) term: u64,
    pub(crate) now: u64,
    /// The next frame says that the accumulator stood still.
    pub(crate) gap: bool,
    /// Every entry: revision, term, bytes.
    pub(crate) log: Vec<(u64, u64, Vec<u8>)>,
    /// Transitions that were made.
    pub(crate) taken: BTreeSet<(StateKind, Step)>,
    /// Transitions that a command could have made on a worker, and did not.
    pub(crate) denied: BTreeSet<(StateKind, Step)>,
    /// Refusals are compared with a tick at every n-th entry: the comparison copies the state.
    pub(crate) compare_every: u64,
    /// Whether transitions that were denied are noted.
    pub(crate) noting: bool,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            state: State::new(),
            rows: BTreeMap::new(),
            revision: 0,
            term: 1,
            now: 0,
            gap: false,
            log: Vec::new(),
            taken: BTreeSet::new(),
            denied: BTreeSet::new(),
            compare_every: 1,
            noting: true,
        }
    }

    /// Applies one entry.
    pub(crate) fn entry(&mut self, requests: Vec<Request>) -> Applied {
        let frame = Frame {
            term: self.term,
            stamp: LogTime(self.now),
            wall_ms: WALL_MS,
            gap: std::mem::take(&mut self.gap),
            requests,
        };
        let bytes = frame.encode();
        let frame = Frame::decode(&bytes).expect("a frame survives its encoding");
        let alone = matches!(frame.requests.as_slice(), [request] if leaves_no_row_when_refused(request));
        let compared = alone && self.revision.is_multiple_of(self.compare_every);
        let ticked = compared.then(|| self.ticked(&frame));
        let attempts = self.attempts(&frame);
        self.revision += 1;
        self.log.push((self.revision, self.term, bytes));
        let applied = apply(&mut self.state, Revision(self.revision), self.term, &frame);
        assert_eq!(applied.results.len(), frame.requests.len(), "one result per request");
        self.write_rows();
        self.note(&attempts, &applied.events);
        if let (Some(ticked), [Err(refusal)]) = (ticked, applied.results.as_slice()) {
            assert_eq!(self.state.digest(), ticked, "refused ({refusal}), but the tables changed: {frame:?}");
            assert_eq!(applied.events, [], "refused ({refusal}), but something happened: {frame:?}");
        }
        if let Err(why) = self.state.check() {
            panic!("revision {}: {why} after {frame:?}", self.revision);
        }
        applied
    }

    /// Applies one command without a mark.
    pub(crate) fn one(&mut self, command: Command) -> (Result<Outcome, Refusal>, Vec<Event>) {
        let mut applied = self.entry(vec![Request::unmarked(command)]);
        (applied.results.remove(0), applied.events)
    }

    /// Applies one command with a mark.
    pub(crate) fn marked(&mut self, mark: RequestMark, command: Command) -> (Result<Outcome, Refusal>, Vec<Event>) {
        let mut applied = self.entry(vec![Request { mark: Some(mark), command }]);
        (applied.results.remove(0), applied.events)
    }

    /// The digest that a tick instead of this frame would have led to.
    fn ticked(&self, frame: &Frame) -> remuda_registry::Digest {
        let mut state = self.state.clone();
        let tick = Frame { requests: vec![Request::unmarked(Command::Tick)], ..frame.clone() };
        apply(&mut state, Revision(self.revision + 1), self.term, &tick);
        state.digest()
    }

    fn write_rows(&mut self) {
        for (key, value) in self.state.take_changes().rows {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }

    /// The workers as their rows on disk say.
    pub(crate) fn workers(&self) -> BTreeMap<WorkerId, Worker> {
        let range = self.rows.range(vec![Table::Worker as u8]..vec![Table::Worker as u8 + 1]);
        let decode = |value: &Vec<u8>| row::decode_worker(value).expect("a worker's row decodes");
        range.map(|(_, value)| decode(value)).map(|worker| (worker.id.clone(), worker)).collect()
    }

    /// One worker as its row on disk says.
    pub(crate) fn worker(&self, id: &WorkerId) -> Option<Worker> {
        let value = self.rows.get(&row::worker_key(id))?;
        Some(row::decode_worker(value).expect("a worker's row decodes"))
    }

    /// The state that a restart would load.
    pub(crate) fn reloaded(&self) -> State {
        let rows = self.rows.iter().map(|(key, value)| (key.clone().into(), value.clone().into()));
        State::load(rows).expect("the rows of a state load")
    }

    /// The state that a replay of the whole log makes.
    pub(crate) fn replayed(&self) -> State {
        let mut state = State::new();
        for (revision, term, bytes) in &self.log {
            let frame = Frame::decode(bytes).expect("it was encoded here");
            apply(&mut state, Revision(*revision), *term, &frame);
        }
        state
    }

    /// Which steps the commands of a frame could make, on which workers, from which states.
    fn attempts(&self, frame: &Frame) -> Vec<(WorkerId, StateKind, Vec<Step>)> {
        let [Request { command, .. }] = frame.requests.as_slice() else { return Vec::new() };
        if !self.noting {
            return Vec::new();
        }
        let workers = self.workers();
        let mut attempts = Vec::new();
        for worker in workers.values() {
            let steps = could_make(command, worker);
            if !steps.is_empty() {
                attempts.push((worker.id.clone(), worker.state.kind(), steps));
            }
        }
        attempts
    }

    fn note(&mut self, attempts: &[(WorkerId, StateKind, Vec<Step>)], events: &[Event]) {
        let moves: Vec<&WorkerMoved> = events.iter().filter_map(moved).collect();
        for moved in &moves {
            if let (Some(from), Some(step)) = (moved.from, moved.step) {
                self.taken.insert((from, step));
            }
        }
        for (worker, from, steps) in attempts {
            for step in steps {
                let made = moves.iter().any(|moved| moved.worker == *worker && moved.step == Some(*step));
                if !made {
                    self.denied.insert((*from, *step));
                }
            }
        }
    }
}

/// The transition that an event tells.
pub(crate) fn moved(event: &Event) -> Option<&WorkerMoved> {
    if let Fact::Worker(moved) = &event.fact { Some(moved) } else { None }
}

/// A refusal of this request is recorded nowhere.
fn leaves_no_row_when_refused(request: &Request) -> bool {
    request.mark.as_ref().is_none_or(|mark| !mark.retry && mark.answered_below == 0)
}

/// The steps that a command is about, for a worker.
fn could_make(command: &Command, worker: &Worker) -> Vec<Step> {
    let it = |id: &WorkerId, steps: &[Step]| if *id == worker.id { steps.to_vec() } else { Vec::new() };
    match command {
        Command::OpenSession(open) => {
            let presented = open.workers.iter().any(|presence| presence.worker == worker.id);
            match (presented, open.agent == worker.agent) {
                (true, true) => vec![Step::Reconnect, Step::Replace, Step::Register],
                (true, false) => vec![Step::Register],
                (false, _) => Vec::new(),
            }
        }
        // A worker without a session was served by the one that is named, or by one before it.
        Command::EndSession { session } if worker.session.is_none_or(|own| own == *session) => vec![Step::Silence],
        Command::EndSession { .. } => Vec::new(),
        Command::AcquireWorker(acquire) => {
            let named = acquire.name.as_ref() == Some(&worker.id.name) && acquire.pool == worker.id.pool;
            if named { vec![Step::Acquire] } else { Vec::new() }
        }
        Command::BeginReturn { worker, .. } | Command::EndLease { worker, .. } => it(worker, &[Step::EndLease]),
        Command::CompleteCleaning { worker, .. } => it(worker, &[Step::Pass, Step::Fail, Step::Spend, Step::Rerun]),
        Command::EndRun { worker, .. } => it(worker, &[Step::Rerun, Step::Fail]),
        Command::Admit { worker, .. } => it(worker, &[Step::Admit, Step::Recheck]),
        Command::BeginIdleCheck { worker, .. } => it(worker, &[Step::Recheck]),
        Command::RetryWorker { worker, .. } => it(worker, &[Step::Retry]),
        Command::GiveUpWorker { worker, .. } => it(worker, &[Step::GiveUp]),
        Command::Operate { worker, operation, .. } => it(worker, operation_steps(operation)),
        Command::Bootstrap(..)
        | Command::CreatePool { .. }
        | Command::UpdatePool { .. }
        | Command::DeletePool { .. }
        | Command::CancelAcquire { .. }
        | Command::RenewLeases { .. }
        | Command::ReportProgress { .. }
        | Command::RemoveWorker { .. }
        | Command::AcknowledgeRetired { .. }
        | Command::DropWaiter { .. }
        | Command::ExpireWaiter { .. }
        | Command::GrantOwed { .. }
        | Command::Trim { .. }
        | Command::ReportDigest { .. }
        | Command::Tick
        | Command::RaiseFeatureLevel { .. } => Vec::new(),
    }
}

fn operation_steps(operation: &remuda_registry::command::Operation) -> &'static [Step] {
    use remuda_registry::command::Operation;
    match operation {
        Operation::Cordon => &[Step::Withhold],
        Operation::Drain { .. } => &[Step::Withhold, Step::EndLease],
        Operation::Maintain { .. } | Operation::Hold { .. } => &[Step::Maintain],
        Operation::Resume => &[Step::Resume],
        Operation::Retire { .. } => &[Step::Retire],
        Operation::Uncordon | Operation::Release => &[],
    }
}

/// The session that serves a worker, or one that never was.
pub(crate) fn session_of(worker: Option<&Worker>) -> SessionId {
    worker.and_then(|worker| worker.session).unwrap_or(SessionId(0))
}

/// Whether a worker is Cleaning.
pub(crate) fn is_cleaning(worker: &Worker) -> bool {
    matches!(worker.state, WorkerState::Cleaning(_))
}

/// An agent by its number.
pub(crate) fn agent(number: u64) -> AgentId {
    AgentId::from(format!("a{number}"))
}
