//! A group on which single commands are tried; `check()` is asserted after each. The scripts of `testscripts` tell
//! whole stories; here are the bounds and corners that a script could not reach or would hide.

mod bounds;
mod corners;

use std::sync::Arc;

use crate::command::{AcquireWorker, Bootstrap, Command, JobPresence, OpenSession, Operation, WorkerPresence};
use crate::event::Event;
use crate::frame::{Frame, Request, RequestMark};
use crate::id::{
    AgentId, ClientId, ClusterId, Identity, PoolId, ReplicaId, RequestId, Revision, SecretHash, SessionId, Token,
    WorkerId,
};
use crate::lease::JobOutcome;
use crate::outcome::Outcome;
use crate::plan::{Evidence, Measures, Receipt, StepOutcome, StepReceipt};
use crate::pool::PoolSpec;
use crate::refusal::Refusal;
use crate::selector::{Labels, Selector};
use crate::state::State;
use crate::time::{LogTime, Millis};
use crate::worker::{StateKind, Worker};

/// A state and the time, and what happened in the last entry.
pub(super) struct Group {
    pub(super) state: State,
    pub(super) now: u64,
    pub(super) events: Vec<Event>,
    /// Whether `check()` is asserted: it is O(rows).
    pub(super) checked: bool,
    incarnation: u64,
}

impl Group {
    /// A bootstrapped group with the pool `ci`.
    pub(super) fn new(spec: PoolSpec) -> Self {
        let mut group = Self { state: State::new(), now: 0, events: Vec::new(), checked: true, incarnation: 0 };
        let voters = (1..=3).map(ReplicaId).collect();
        let bootstrap = Bootstrap { cluster: ClusterId::from("test"), unix_ms: 1, voters };
        group.ok(Command::Bootstrap(bootstrap));
        group.ok(Command::CreatePool { pool: PoolId::from("ci"), spec: Box::new(spec), actor: "test".into() });
        group
    }

    pub(super) fn apply(&mut self, requests: Vec<Request>) -> Vec<Result<Outcome, Refusal>> {
        let frame = Frame { term: 1, stamp: LogTime(self.now), wall_ms: self.now, gap: false, requests };
        let revision = Revision(self.state.revision().0 + 1);
        let applied = super::apply(&mut self.state, revision, 1, &frame);
        self.events = applied.events;
        if self.checked {
            assert_eq!(self.state.check(), Ok(()), "after {frame:?}");
        }
        applied.results
    }

    pub(super) fn run(&mut self, command: Command) -> Result<Outcome, Refusal> {
        self.apply(vec![Request::unmarked(command)]).remove(0)
    }

    pub(super) fn ok(&mut self, command: Command) -> Outcome {
        let words = format!("{command:?}");
        self.run(command).unwrap_or_else(|refusal| panic!("{refusal}: {words}"))
    }

    pub(super) fn marked(&mut self, mark: RequestMark, command: Command) -> Result<Outcome, Refusal> {
        self.apply(vec![Request { mark: Some(mark), command }]).remove(0)
    }

    /// Applies what is due until nothing is.
    pub(super) fn settle(&mut self) {
        for _ in 0..100 {
            let owed = crate::due(&self.state);
            if owed.is_empty() {
                return;
            }
            self.apply(owed.into_iter().map(Request::unmarked).collect());
        }
        panic!("there is always something due: {:?}", crate::due(&self.state));
    }

    /// Log time goes on, past every grace.
    pub(super) fn wait(&mut self, duration: Millis) {
        self.now += duration.0;
        self.ok(Command::Tick);
        self.settle();
    }

    /// Opens a session of agent `a` with these workers and labels.
    pub(super) fn open(&mut self, workers: &[(&str, Labels)]) -> SessionId {
        self.incarnation += 1;
        let presence = |(name, labels): &(&str, Labels)| WorkerPresence {
            worker: worker(name),
            labels: labels.clone(),
            annotations: Labels::new(),
            epoch: None,
            job: JobPresence::Alive,
        };
        let open = OpenSession {
            agent: AgentId::from("a"),
            key: SecretHash([7; 32]),
            incarnation: self.incarnation,
            machine: "machine".into(),
            boot: "boot".into(),
            endpoint: "http://host:1".into(),
            capabilities: Vec::new(),
            missing_capabilities: Vec::new(),
            version: "test".into(),
            workers: workers.iter().map(presence).collect(),
        };
        match self.ok(Command::OpenSession(Box::new(open))) {
            Outcome::SessionOpened(opened) => opened.session,
            other => panic!("{other}"),
        }
    }

    pub(super) fn row(&self, name: &str) -> &Worker {
        self.state.worker(&worker(name)).expect("the worker has a row")
    }

    pub(super) fn kind(&self, name: &str) -> StateKind {
        self.row(name).state.kind()
    }

    /// Reports the open run of a worker, clean as far as its plan asks.
    pub(super) fn report(&mut self, name: &str) -> Outcome {
        let receipt = self.receipt(name);
        self.report_with(name, receipt).expect("a clean report of the open run is accepted")
    }

    pub(super) fn report_with(&mut self, name: &str, receipt: Receipt) -> Result<Outcome, Refusal> {
        let row = self.row(name);
        let (run, session) = (row.token, row.session.unwrap_or_default());
        self.run(Command::CompleteCleaning { worker: worker(name), run, session, receipt: Box::new(receipt) })
    }

    pub(super) fn receipt(&self, name: &str) -> Receipt {
        let cleaning = self.row(name).cleaning().expect("there is an open run");
        let spec = self.state.settings(&PoolId::from("ci"), cleaning.generation).expect("its settings are kept");
        let plan = if cleaning.stop_only.is_some() { spec.plan.stop_only() } else { spec.plan.clone() };
        receipt(&plan.steps.iter().map(|step| step.name.clone()).collect::<Vec<_>>(), cleaning.generation)
    }

    /// Acquires a worker: its epoch.
    pub(super) fn acquire(&mut self, job: &str) -> (WorkerId, Token) {
        match self.ok(acquire(job, Millis(0))) {
            Outcome::Granted(grant) => (grant.worker, grant.epoch),
            other => panic!("{other}"),
        }
    }

    pub(super) fn give_back(&mut self, id: &WorkerId, epoch: Token, outcome: JobOutcome) -> Result<Outcome, Refusal> {
        let job =
            self.state.worker(id).and_then(Worker::lease).map_or_else(|| "none".into(), |lease| lease.job.clone());
        self.run(Command::BeginReturn { worker: id.clone(), job, epoch, secret: SecretHash([1; 32]), outcome })
    }

    pub(super) fn operate(&mut self, name: &str, operation: Operation) -> Outcome {
        let (actor, reason) = ("operator".into(), "because".into());
        self.ok(Command::Operate { worker: worker(name), operation, actor, reason, etag: None })
    }
}

pub(super) fn worker(name: &str) -> WorkerId {
    WorkerId::new("ci", name)
}

/// A receipt in which all of these steps were observed and everything is healthy.
fn receipt(steps: &[Arc<str>], generation: u64) -> Receipt {
    let step = |name: &Arc<str>| StepReceipt {
        name: name.clone(),
        outcome: StepOutcome::Done,
        observed: true,
        tries: 1,
        took: Millis(1),
        removed: 0,
        left: 0,
        evidence: Evidence::default(),
    };
    Receipt {
        generation,
        steps: steps.iter().map(step).collect(),
        measures: Measures {
            disk_free_bytes: Some(1 << 40),
            disk_free_permille: Some(500),
            inodes_free_permille: Some(500),
            memory_available_bytes: Some(1 << 33),
            ..Measures::default()
        },
        checks: Vec::new(),
        shared_residue: false,
        missing_capabilities: Vec::new(),
        took: Millis(9),
    }
}

pub(super) fn acquire(job: &str, wait: Millis) -> Command {
    Command::AcquireWorker(Box::new(AcquireWorker {
        pool: PoolId::from("ci"),
        selector: Selector::default(),
        name: None,
        job: job.into(),
        job_labels: Labels::new(),
        holder: "test".into(),
        secret: SecretHash([1; 32]),
        ttl: None,
        wait,
        priority: 0,
    }))
}

/// The mark of a client library's request.
pub(super) fn numbered(group: &Group, seq: u64, answered_below: u64) -> RequestMark {
    RequestMark {
        id: RequestId::Numbered { client: ClientId::from("client"), seq },
        ..named(group, &seq.to_string(), answered_below)
    }
}

/// The mark of any other request.
pub(super) fn named(group: &Group, name: &str, answered_below: u64) -> RequestMark {
    RequestMark {
        id: RequestId::Named(name.into()),
        identity: Identity::default(),
        not_after: LogTime(group.now) + Millis::secs(60),
        retry: false,
        answered_below,
    }
}
