//! A generator of commands that knows what would be sensible, and now and then does not care.

use std::collections::{BTreeMap, BTreeSet};

use remuda_registry::command::{
    AcquireWorker, Bootstrap, JobPresence, OpenSession, Operation, RunProgress, TrimTable, WorkerPresence,
};
use remuda_registry::frame::RequestMark;
use remuda_registry::lease::{JobOutcome, Renewal};
use remuda_registry::plan::{CleaningPlan, StepOutcome};
use remuda_registry::pool::{Policy, PoolSpec};
use remuda_registry::selector::{Condition, Labels, Requirement, Selector};
use remuda_registry::worker::{RunStage, StateKind, Then, Worker};
use remuda_registry::{
    Applied, ClientId, ClusterId, Command, Digest, Identity, LogTime, Millis, Outcome, PoolId, ReplicaId, Request,
    RequestId, Revision, SecretHash, SessionId, Token, WaiterId, WorkerId, due,
};

use crate::bench::rng::Rng;
use crate::bench::{Bench, agent, is_cleaning, moved, receipt, session_of};

/// Agents, each with its own workers.
const AGENTS: u64 = 5;
/// Workers of an agent.
const WORKERS: u64 = 6;
/// Pools that always exist.
const POOLS: u64 = 3;

/// A bench and what its clients, agents and operators remember.
pub(crate) struct Chaos {
    pub(crate) bench: Bench,
    pub(crate) accepted: BTreeMap<&'static str, u64>,
    pub(crate) refused: BTreeMap<&'static str, u64>,
    rng: Rng,
    incarnations: BTreeMap<u64, u64>,
    sessions: BTreeMap<u64, SessionId>,
    waiters: Vec<WaiterId>,
    requests: Vec<(RequestMark, Command)>,
    marks: Vec<(Revision, Digest)>,
    seq: u64,
}

impl Chaos {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chaos = Self {
            bench: Bench::new(),
            accepted: BTreeMap::new(),
            refused: BTreeMap::new(),
            rng: Rng::new(seed),
            incarnations: BTreeMap::new(),
            sessions: BTreeMap::new(),
            waiters: Vec::new(),
            requests: Vec::new(),
            marks: Vec::new(),
            seq: 0,
        };
        chaos.bench.compare_every = 5;
        chaos.bench.noting = false;
        let voters = (1..=3).map(ReplicaId).collect();
        let bootstrap = Bootstrap { cluster: ClusterId::from("test"), unix_ms: 1, voters };
        chaos.bench.one(Command::Bootstrap(bootstrap)).0.expect("a new group can be bootstrapped");
        for number in 0..POOLS {
            let (pool, spec) = (pool(number), Box::new(spec(number)));
            let made = chaos.bench.one(Command::CreatePool { pool, spec, actor: "test".into() }).0;
            made.expect("the pools of the test are valid");
        }
        chaos
    }

    /// One random command, and time goes on.
    pub(crate) fn step(&mut self) {
        self.bench.now += match self.rng.below(1_000) {
            0..=699 => self.rng.below(400),
            700..=979 => self.rng.below(4_000),
            980..=997 => self.rng.below(90_000),
            _ => 3_700_000,
        };
        if self.rng.chance(5) {
            self.bench.term += 1;
        }
        self.bench.gap = self.rng.chance(5);
        let owed = due(&self.bench.state);
        if self.rng.chance(400)
            && let Some(command) = self.owed(&owed)
        {
            self.entry(vec![Request::unmarked(command)]);
            return;
        }
        if self.rng.chance(40)
            && let Some((mark, command)) = self.rng.pick(&self.requests).cloned()
        {
            let mark = RequestMark { retry: true, ..mark };
            self.entry(vec![Request { mark: Some(mark), command }]);
            return;
        }
        let mut requests = vec![self.request()];
        while self.rng.chance(100) {
            requests.push(self.request());
        }
        self.entry(requests);
    }

    /// One of what is due: each kind as often as another, so that what is rare happens too.
    fn owed(&mut self, owed: &[Command]) -> Option<Command> {
        let kinds: BTreeSet<_> = owed.iter().map(Command::name).collect();
        let kind = *self.rng.pick(&kinds.into_iter().collect::<Vec<_>>())?;
        let fit: Vec<_> = owed.iter().filter(|command| command.name() == kind).collect();
        self.rng.pick(&fit).map(|command| (*command).clone())
    }

    /// Applies an entry and remembers what its callers would.
    pub(crate) fn entry(&mut self, requests: Vec<Request>) -> Applied {
        let commands: Vec<_> = requests.iter().map(|request| request.command.clone()).collect();
        let applied = self.bench.entry(requests);
        for (command, result) in commands.iter().zip(&applied.results) {
            let count = if result.is_ok() { &mut self.accepted } else { &mut self.refused };
            *count.entry(command.name()).or_default() += 1;
            if let Ok(outcome) = result {
                self.remember(command, outcome);
            }
        }
        if applied.mark {
            self.marks.push((Revision(self.bench.revision), self.bench.state.digest()));
        }
        applied
    }

    fn remember(&mut self, command: &Command, outcome: &Outcome) {
        match (command, outcome) {
            (Command::OpenSession(open), Outcome::SessionOpened(opened)) => {
                let number = open.agent.as_str()[1..].parse().expect("agents are numbered");
                self.sessions.insert(number, opened.session);
                self.incarnations.insert(number, open.incarnation);
            }
            (Command::AcquireWorker(..), Outcome::Queued { waiter, .. }) => self.waiters.push(*waiter),
            (Command::RenewLeases { .. }, Outcome::Renewed { results }) => {
                *self.accepted.entry("Renewal").or_default() +=
                    results.iter().filter(|result| result.is_ok()).count() as u64;
            }
            _ => {}
        }
    }

    fn request(&mut self) -> Request {
        let command = self.command();
        let marked = matches!(
            command,
            Command::AcquireWorker(..)
                | Command::BeginReturn { .. }
                | Command::Operate { .. }
                | Command::CreatePool { .. }
                | Command::UpdatePool { .. }
                | Command::DeletePool { .. }
        );
        let waits = matches!(&command, Command::AcquireWorker(acquire) if acquire.wait > Millis(0));
        if !marked || (!waits && self.rng.chance(400)) {
            return Request::unmarked(command);
        }
        let mark = self.mark();
        self.requests.push((mark.clone(), command.clone()));
        if self.requests.len() > 40 {
            self.requests.remove(0);
        }
        Request { mark: Some(mark), command }
    }

    fn mark(&mut self) -> RequestMark {
        self.seq += 1;
        let named = self.rng.chance(200);
        let id = if named {
            RequestId::Named(format!("named-{}", self.seq).into())
        } else {
            RequestId::Numbered { client: ClientId::from("client"), seq: self.seq }
        };
        let window = if self.rng.chance(30) { Millis::hours(1) } else { Millis::secs(60) };
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&self.seq.to_be_bytes());
        RequestMark {
            id,
            identity: Identity(identity),
            not_after: LogTime(self.bench.now) + window,
            retry: self.rng.chance(100),
            answered_below: if named { 0 } else { self.seq.saturating_sub(30) },
        }
    }

    /// A worker in one of these states; now and then any worker.
    fn worker(&mut self, states: &[StateKind]) -> Option<Worker> {
        let all: Vec<_> = self.bench.workers().into_values().collect();
        if self.rng.chance(30) {
            return self.rng.pick(&all).cloned();
        }
        let fit: Vec<_> = all.into_iter().filter(|worker| states.contains(&worker.state.kind())).collect();
        self.rng.pick(&fit).cloned()
    }

    /// The newest token; now and then a wrong one.
    fn token(&mut self, right: Token) -> Token {
        if self.rng.chance(40) { Token(right.0.saturating_sub(self.rng.below(5))) } else { right }
    }

    fn command(&mut self) -> Command {
        let made = match self.rng.below(100) {
            0..=7 => Some(self.open()),
            8..=10 => self.end_session(),
            11..=24 => Some(self.acquire()),
            25..=26 => self.cancel(),
            27..=34 => self.renew(),
            35..=44 => self.begin_return(),
            45..=50 => self.progress(),
            51..=66 => self.complete(),
            67..=77 => self.operate(),
            78..=81 => Some(self.create_or_delete()),
            82..=83 => Some(self.update_pool()),
            84..=87 => self.drop_waiter(),
            88..=91 => self.acknowledge(),
            92..=94 => Some(Command::Trim { table: self.trim_table() }),
            95..=97 => self.report_digest(),
            _ => None,
        };
        made.unwrap_or(Command::Tick)
    }

    fn open(&mut self) -> Command {
        let number = self.rng.below(AGENTS);
        let last = self.incarnations.get(&number).copied().unwrap_or(0);
        let incarnation = if self.rng.chance(50) { last } else { last + 1 };
        let workers = (0..WORKERS).map(|index| self.presence(number, index)).collect();
        let machine = if self.rng.chance(30) { "elsewhere".to_owned() } else { format!("machine-{number}") };
        Command::OpenSession(Box::new(OpenSession {
            agent: agent(number),
            key: secret(if self.rng.chance(20) { 99 } else { number }),
            incarnation,
            machine: machine.into(),
            boot: format!("boot-{}", self.bench.revision / 2_000).into(),
            endpoint: "http://host:1".into(),
            capabilities: Vec::new(),
            missing_capabilities: Vec::new(),
            version: "test".into(),
            workers,
        }))
    }

    fn presence(&mut self, number: u64, index: u64) -> WorkerPresence {
        // Neighbours overlap by one worker, so that some belong to another agent.
        let worker = WorkerId::new(pool(index % POOLS), format!("w{}", number * (WORKERS - 1) + index));
        let lease = self.bench.worker(&worker).and_then(|row| row.lease().map(|lease| lease.epoch));
        let labels: Labels = match self.rng.below(4) {
            0 => [("os".into(), "linux".into()), ("gpu".into(), "yes".into())].into(),
            _ => [("os".into(), "linux".into())].into(),
        };
        let job = if self.rng.chance(100) { JobPresence::Lost } else { JobPresence::Alive };
        WorkerPresence { worker, labels, annotations: Labels::new(), epoch: lease, job }
    }

    fn end_session(&mut self) -> Option<Command> {
        let sessions: Vec<_> = self.sessions.values().copied().collect();
        Some(Command::EndSession { session: *self.rng.pick(&sessions)? })
    }

    fn acquire(&mut self) -> Command {
        self.seq += 1;
        let wait = if self.rng.chance(600) { Millis::secs(1 + self.rng.below(40)) } else { Millis(0) };
        let gpu = Requirement { key: "gpu".into(), condition: Condition::Exists };
        let selector = if self.rng.chance(200) { Selector::new(vec![gpu]) } else { Selector::default() };
        Command::AcquireWorker(Box::new(AcquireWorker {
            pool: pool(self.rng.below(POOLS)),
            selector,
            name: None,
            job: format!("job-{}", self.seq).into(),
            job_labels: Labels::new(),
            holder: "test".into(),
            secret: secret(1),
            ttl: self.rng.chance(300).then(|| Millis::secs(1 + self.rng.below(20))),
            wait,
            priority: u32::try_from(self.rng.below(20)).expect("a small number"),
        }))
    }

    fn cancel(&mut self) -> Option<Command> {
        let (mark, _) = self.rng.pick(&self.requests)?.clone();
        Some(Command::CancelAcquire { request: mark.id, not_after: mark.not_after })
    }

    fn renew(&mut self) -> Option<Command> {
        let mut renewals = Vec::new();
        for _ in 0..=self.rng.below(3) {
            let worker = self.worker(&[StateKind::Busy])?;
            let epoch = self.token(worker.token);
            let secret = secret(if self.rng.chance(20) { 2 } else { 1 });
            renewals.push(Renewal { worker: worker.id, epoch, secret, ttl: None });
        }
        Some(Command::RenewLeases { renewals })
    }

    fn begin_return(&mut self) -> Option<Command> {
        let worker = self.worker(&[StateKind::Busy])?;
        let epoch = self.token(worker.token);
        let outcome = match self.rng.below(20) {
            0 => JobOutcome::Broken,
            1..=4 => JobOutcome::Failure,
            _ => JobOutcome::Success,
        };
        let job = worker.lease().map_or_else(|| "none".into(), |lease| lease.job.clone());
        Some(Command::BeginReturn { worker: worker.id, job, epoch, secret: secret(1), outcome })
    }

    fn progress(&mut self) -> Option<Command> {
        let worker = self.worker(&[StateKind::Cleaning])?;
        let run = self.token(worker.token);
        let stage = if self.rng.chance(500) { RunStage::Queued } else { RunStage::Started };
        let session = session_of(Some(&worker));
        Some(Command::ReportProgress { runs: vec![RunProgress { worker: worker.id, run, session, stage }] })
    }

    fn complete(&mut self) -> Option<Command> {
        let worker = self.worker(&[StateKind::Cleaning])?;
        let run = self.token(worker.token);
        let cleaning = worker.cleaning();
        let stop_only = cleaning.is_some_and(|cleaning| cleaning.stop_only.is_some());
        let plan = CleaningPlan::default();
        let plan = if stop_only { plan.stop_only() } else { plan };
        let generation = cleaning.map_or(1, |cleaning| cleaning.generation);
        let mut receipt = receipt::clean(&plan, generation);
        match self.rng.below(20) {
            0 => receipt.measures.disk_free_bytes = Some(0),
            1 => receipt.steps[0].outcome = StepOutcome::Failed,
            2 => receipt.steps[0].observed = false,
            3 => receipt.shared_residue = true,
            4 => receipt.steps.clear(),
            _ => {}
        }
        let session = session_of(Some(&worker));
        debug_assert!(is_cleaning(&worker) || cleaning.is_none());
        Some(Command::CompleteCleaning { worker: worker.id, run, session, receipt: Box::new(receipt) })
    }

    fn operate(&mut self) -> Option<Command> {
        use StateKind::{Available, Busy, Cleaning, Lost, Maintenance, Ready};
        let now = self.rng.chance(500);
        let then = [Then::Ready, Then::Maintenance, Then::Retired];
        let then = *self.rng.pick(&then).expect("there are three");
        let (operation, states) = match self.rng.below(20) {
            0..=3 => (Operation::Cordon, vec![Available]),
            4 => (Operation::Cordon, vec![Busy, Cleaning]),
            5..=8 => (Operation::Uncordon, vec![Ready]),
            9 => (Operation::Uncordon, vec![Busy, Cleaning]),
            10 => (Operation::Drain { within: Millis::secs(self.rng.below(10)), then }, vec![Busy, Available]),
            11 => (Operation::Maintain { now }, vec![Busy, Available, Ready, Cleaning, Lost]),
            12..=14 => (Operation::Resume, vec![Maintenance]),
            15 | 16 => (Operation::Retire { now }, vec![Available, Busy, Cleaning, Maintenance]),
            17 => (Operation::Release, vec![Lost]),
            18 => (Operation::Hold { now }, vec![Busy, Available]),
            _ => (Operation::Uncordon, vec![Ready]),
        };
        let worker = self.worker(&states)?;
        let etag = self.rng.chance(300).then_some(worker.generation);
        let (actor, reason) = ("operator".into(), "because".into());
        Some(Command::Operate { worker: worker.id, operation, actor, reason, etag })
    }

    fn create_or_delete(&mut self) -> Command {
        let (pool, actor) = (PoolId::from("spare"), "test".into());
        let exists = self.bench.state.pool(&pool).is_some();
        if exists != self.rng.chance(100) {
            return Command::DeletePool { pool, etag: None, actor };
        }
        Command::CreatePool { pool, spec: Box::new(PoolSpec::default()), actor }
    }

    fn update_pool(&mut self) -> Command {
        let number = self.rng.below(POOLS);
        let mut spec = spec(number);
        spec.policy = [Policy::LeastRecentlyUsed, Policy::MostRecentlyUsed, Policy::LeastUsed]
            [usize::try_from(self.rng.below(3)).expect("below three")];
        if self.rng.chance(50) {
            spec.cleaning.attempts = 0;
        }
        let etag = self.rng.chance(50).then_some(1);
        Command::UpdatePool { pool: pool(number), spec: Box::new(spec), etag, actor: "test".into() }
    }

    fn drop_waiter(&mut self) -> Option<Command> {
        let live: Vec<_> = self.bench.state.waiters().map(|waiter| waiter.id).collect();
        let ended = self.rng.chance(100);
        let from = if ended { &self.waiters } else { &live };
        Some(Command::DropWaiter { waiter: *self.rng.pick(from)? })
    }

    fn acknowledge(&mut self) -> Option<Command> {
        let worker = self.worker(&[StateKind::Retired])?;
        let number: u64 = worker.agent.as_str()[1..].parse().expect("agents are numbered");
        Some(Command::AcknowledgeRetired { worker: worker.id, session: *self.sessions.get(&number)? })
    }

    fn trim_table(&mut self) -> TrimTable {
        *self.rng.pick(&[TrimTable::Events, TrimTable::Returns, TrimTable::Outcomes]).expect("there are three")
    }

    fn report_digest(&mut self) -> Option<Command> {
        let recent = self.marks.len().saturating_sub(3);
        let (mark, digest) = *self.rng.pick(&self.marks[recent..])?;
        Some(Command::ReportDigest { mark, replica: ReplicaId(1 + self.rng.below(3)), digest })
    }

    /// `size` workers that no waiter wants get a label that as many waiters want, in one entry. Returns how many grants
    /// each entry made.
    pub(crate) fn crowd(&mut self, size: u64) -> Vec<usize> {
        let gpu = Requirement { key: "gpu".into(), condition: Condition::Exists };
        let open = |incarnation, labels: &Labels| {
            let presence = |index| WorkerPresence {
                worker: WorkerId::new(pool(0), format!("crowd-{index}")),
                labels: labels.clone(),
                annotations: Labels::new(),
                epoch: None,
                job: JobPresence::Alive,
            };
            Request::unmarked(Command::OpenSession(Box::new(OpenSession {
                agent: agent(77),
                key: secret(77),
                incarnation,
                machine: "crowd".into(),
                boot: "boot".into(),
                endpoint: "http://host:1".into(),
                capabilities: Vec::new(),
                missing_capabilities: Vec::new(),
                version: "test".into(),
                workers: (0..size).map(presence).collect(),
            })))
        };
        self.entry(vec![open(1, &Labels::new())]);
        for worker in self.bench.workers().into_values() {
            let receipt = Box::new(receipt::clean(&CleaningPlan::default(), 1));
            let session = session_of(Some(&worker));
            let (worker, run) = (worker.id, worker.token);
            self.entry(vec![Request::unmarked(Command::CompleteCleaning { worker, run, session, receipt })]);
        }
        for _ in 0..size {
            let mut command = self.acquire();
            if let Command::AcquireWorker(acquire) = &mut command {
                (acquire.pool, acquire.wait) = (pool(0), Millis::mins(10));
                (acquire.selector, acquire.priority) = (Selector::new(vec![gpu.clone()]), 0);
            }
            let not_after = LogTime(self.bench.now) + Millis::secs(60);
            let mark = RequestMark { answered_below: 0, retry: false, not_after, ..self.mark() };
            self.entry(vec![Request { mark: Some(mark), command }]);
        }
        let grants = |applied: &Applied| {
            let busy =
                |event: &&remuda_registry::Event| moved(event).is_some_and(|moved| moved.to == Some(StateKind::Busy));
            applied.events.iter().filter(busy).count()
        };
        let mut granted = vec![grants(&self.entry(vec![open(2, &[("gpu".into(), "yes".into())].into())]))];
        loop {
            let owed = due(&self.bench.state);
            let owed: Vec<_> =
                owed.into_iter().filter(|command| matches!(command, Command::GrantOwed { .. })).collect();
            if owed.is_empty() {
                return granted;
            }
            granted.push(grants(&self.entry(owed.into_iter().map(Request::unmarked).collect())));
        }
    }
}

fn pool(number: u64) -> PoolId {
    PoolId::from(format!("pool-{number}"))
}

fn secret(number: u64) -> SecretHash {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    SecretHash(hash)
}

/// Short times, so that everything happens within a run.
fn spec(number: u64) -> PoolSpec {
    let mut spec = PoolSpec::default();
    spec.lease.ttl = Millis::secs(8);
    spec.lease.max = Millis::secs(120);
    spec.cleaning.start_within = Millis::secs(10);
    spec.cleaning.queue_max = Millis::secs(20);
    spec.cleaning.attempts = 2;
    spec.maintenance.retry_after = Millis::secs(5);
    spec.maintenance.retry_after_max = Millis::secs(20);
    spec.retention.lost = Millis::secs(5);
    spec.retention.retired = Millis::secs(2);
    spec.retention.hold_max_age = Millis::secs(10);
    spec.ready_max_age = Millis::secs(10);
    if number == 1 {
        spec.idle_check = Some(Millis::secs(4));
        spec.policy = Policy::MostRecentlyUsed;
    }
    if number == 2 {
        spec.reuse.max_uses = Some(4);
        spec.policy = Policy::LeastUsed;
    }
    spec
}
