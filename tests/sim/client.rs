//! Clients: acquire, run a job, renew, return; they retry what was not answered, die, sleep too long, and are stubborn.
//!
//! ```text
//!   Idle ──acquire──> Asking ──granted──> Holding ──job done──> Returning ──answered──> Idle
//! ```
//!
//! Never here: a guess at what the registry did; a client knows what it was told.

use remuda_agent::job::JobVerdict;
use remuda_registry::command::{AcquireWorker, Operation};
use remuda_registry::frame::RequestMark;
use remuda_registry::lease::{JobOutcome, Renewal};
use remuda_registry::selector::{Labels, Selector};
use remuda_registry::worker::Then;
use remuda_registry::{
    ClientId, Command, Identity, JobId, LogTime, Millis, Outcome, PoolId, Refusal, Request, RequestId, SecretHash,
    Token, WorkerId,
};
use remuda_tests::guarantees::history::{Answer, Call};

use crate::cluster::{Ask, POOLS};
use crate::record::Sent;
use crate::world::{AGENTS, Message, Origin, Phase, Timer, WORKERS, World};

/// Times of the client library that the simulation stands in for.
mod limits {
    /// Before a request that was not answered is sent again.
    pub(super) const RETRY_MS: u64 = 1_200;
    /// The window of a request.
    pub(super) const WINDOW_MS: u64 = 60_000;
    /// A lease is renewed so often.
    pub(super) const RENEW_MS: u64 = 2_500;
    /// A request that is sent this often is given up.
    pub(super) const ATTEMPTS: u32 = 40;
}

/// A grant as the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) worker: WorkerId,
    pub(crate) epoch: Token,
}

impl Grant {
    pub(crate) fn of(result: &Result<Outcome, Refusal>) -> Option<Box<Self>> {
        let Ok(Outcome::Granted(grant)) = result else { return None };
        Some(Box::new(Self { worker: grant.worker.clone(), epoch: grant.epoch }))
    }
}

/// What a client does by itself.
#[derive(Debug, Clone)]
pub(crate) enum ClientTimer {
    Go,
    Retry { seq: u64 },
    Renew { epoch: Token },
    Done { epoch: Token },
    Execute { epoch: Token },
}

/// A request with all it takes to send it again.
#[derive(Debug, Clone)]
struct Asking {
    seq: u64,
    not_after: u64,
    attempts: u32,
    command: Command,
    call: Call,
    ops: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Held {
    worker: WorkerId,
    epoch: Token,
    job: String,
}

/// One client after another under the same number.
pub(crate) struct Client {
    number: usize,
    life: u64,
    seq: u64,
    asking: Option<Asking>,
    held: Option<Held>,
    asleep_until: u64,
}

impl Client {
    pub(crate) fn new(number: usize) -> Self {
        Self { number, life: 1, seq: 0, asking: None, held: None, asleep_until: 0 }
    }

    fn id(&self) -> ClientId {
        ClientId::from(format!("client-{}-{}", self.number, self.life))
    }

    /// Whether it is the living holder of this epoch.
    pub(crate) fn holds(&self, worker: &WorkerId, epoch: Token) -> bool {
        self.held.as_ref().is_some_and(|held| held.worker == *worker && held.epoch == epoch)
    }
}

fn secret(job: &str) -> SecretHash {
    let mut hash = [0; 32];
    for (index, byte) in job.bytes().enumerate() {
        hash[index % 32] ^= byte;
    }
    SecretHash(hash)
}

/// The worker of a number; the last of each agent's is in the other pool.
pub(crate) fn worker(number: usize) -> WorkerId {
    let pool = if number % WORKERS == WORKERS - 1 && number > WORKERS { POOLS[1] } else { POOLS[0] };
    WorkerId::new(pool, format!("w{number}"))
}

impl World {
    /// A client dies and leaves its lease behind; another begins.
    pub(crate) fn kill_client(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.life += 1;
        (client.asking, client.held, client.seq, client.asleep_until) = (None, None, 0, 0);
        let life = client.life;
        self.faults.client_deaths += 1;
        self.after(700, Timer::Client { client: number, life, timer: ClientTimer::Go });
    }

    pub(crate) fn client_timer(&mut self, client: usize, life: u64, timer: ClientTimer) {
        if self.clients[client].life != life {
            return;
        }
        if self.fault(6) {
            // It sleeps through everything and then goes on as if nothing had been.
            self.faults.client_pauses += 1;
            self.clients[client].asleep_until = self.now + self.rng.below(30_000);
        }
        let asleep = self.clients[client].asleep_until;
        if asleep > self.now {
            self.after(asleep - self.now, Timer::Client { client, life, timer });
            return;
        }
        match timer {
            ClientTimer::Go => self.go(client),
            ClientTimer::Retry { seq } => {
                let waits = self.clients[client].asking.as_ref().is_some_and(|asking| asking.seq == seq);
                if waits {
                    self.faults.retries += 1;
                    self.ask_again(client);
                }
            }
            ClientTimer::Renew { epoch } => self.renew(client, epoch),
            ClientTimer::Done { epoch } => self.give_back(client, epoch),
            ClientTimer::Execute { epoch } => self.ask_execute(client, epoch),
        }
    }

    fn timer(&mut self, client: usize, delay: u64, timer: ClientTimer) {
        let life = self.clients[client].life;
        self.after(delay, Timer::Client { client, life, timer });
    }

    /// An idle client reads or acquires.
    fn go(&mut self, client: usize) {
        if self.phase == Phase::Quiet || self.clients[client].asking.is_some() || self.clients[client].held.is_some() {
            return;
        }
        if self.rng.chance(500) {
            self.read(client);
        }
        let pool = POOLS[usize::from(self.rng.chance(250))];
        let wait = if self.rng.chance(600) { Millis(1_000 + self.rng.below(9_000)) } else { Millis(0) };
        let number = &self.clients[client];
        let job = format!("job-{client}-{}-{}", number.life, number.seq + 1);
        let command = Command::AcquireWorker(Box::new(AcquireWorker {
            pool: PoolId::from(pool),
            selector: Selector::default(),
            name: None,
            job: JobId::from(job.as_str()),
            job_labels: Labels::new(),
            holder: "sim".into(),
            secret: secret(&job),
            ttl: None,
            wait,
            priority: u32::try_from(self.rng.below(3)).expect("a small number"),
        }));
        self.ask(client, command, Call::Acquire { pool: pool.into(), job, wait_ms: wait.0, any: true });
    }

    fn read(&mut self, client: usize) {
        let number = self.rng.index(AGENTS * WORKERS);
        let replica = self.rng.index(3);
        let worker = worker(number);
        let call = Call::Read { worker: worker.to_string(), stale: false };
        let process = self.clients[client].id().to_string();
        let op = self.record.sent(self.now, Sent { process, call, request: None, attempt: 1 });
        let from = Origin::Client { client, life: self.clients[client].life };
        self.send(Message::Ask(Ask::Read { from, op, worker, replica }));
    }

    /// Begins a request.
    fn ask(&mut self, client: usize, command: Command, call: Call) {
        let not_after = self.heard_time().0 + limits::WINDOW_MS;
        let it = &mut self.clients[client];
        it.seq += 1;
        it.asking = Some(Asking { seq: it.seq, not_after, attempts: 0, command, call, ops: Vec::new() });
        self.ask_again(client);
    }

    /// Sends the request under way, for the first time or again.
    fn ask_again(&mut self, client: usize) {
        let (now, it) = (self.now, &mut self.clients[client]);
        let (id, life) = (it.id(), it.life);
        let Some(asking) = &mut it.asking else { return };
        asking.attempts += 1;
        if asking.attempts > limits::ATTEMPTS {
            it.asking = None;
            it.held = None;
            self.timer(client, 1_000, ClientTimer::Go);
            return;
        }
        let request = RequestId::Numbered { client: id.clone(), seq: asking.seq };
        let (attempt, not_after, seq) = (asking.attempts, asking.not_after, asking.seq);
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&seq.to_be_bytes());
        let mark = RequestMark {
            id: request.clone(),
            identity: Identity(identity),
            not_after: LogTime(not_after),
            retry: attempt > 1,
            answered_below: seq,
        };
        let sent =
            Sent { process: id.to_string(), call: asking.call.clone(), request: Some((&request, not_after)), attempt };
        let op = self.record.sent(now, sent);
        asking.ops.push(op);
        let request = Request { mark: Some(mark), command: asking.command.clone() };
        let message = Message::Ask(Ask::Write { from: Origin::Client { client, life }, op, request });
        // Only a copy that says that it is one may be doubled: the first answer to a first copy is final.
        if attempt > 1 {
            self.send_any(message)
        } else {
            self.send(message)
        }
        self.timer(client, limits::RETRY_MS, ClientTimer::Retry { seq });
    }

    /// An answer has come; the request under way is over unless its effect is unknown.
    pub(crate) fn client_answered(
        &mut self,
        client: usize,
        life: u64,
        op: usize,
        answer: &Answer,
        grant: Option<Box<Grant>>,
    ) {
        let it = &mut self.clients[client];
        if it.life != life {
            return;
        }
        let Some(asking) = it.asking.take_if(|asking| asking.ops.contains(&op)) else {
            self.renewal_answered(client, op, answer);
            return;
        };
        match (answer, &asking.call, grant) {
            (Answer::Unknown { .. } | Answer::Absent { .. }, ..) => it.asking = Some(asking),
            (Answer::Ok { .. }, Call::Acquire { job, .. }, Some(grant)) => {
                let (worker, epoch) = (grant.worker, grant.epoch);
                it.held = Some(Held { worker, epoch, job: job.clone() });
                self.timer(client, 1, ClientTimer::Renew { epoch });
                self.timer(client, 2, ClientTimer::Execute { epoch });
                let works = 300 + self.rng.below(6_000);
                self.timer(client, works, ClientTimer::Done { epoch });
            }
            _ => {
                it.held = None;
                let idle = 100 + self.rng.below(900);
                self.timer(client, idle, ClientTimer::Go);
            }
        }
    }

    fn renew(&mut self, client: usize, epoch: Token) {
        let it = &self.clients[client];
        let Some(held) = it.held.clone().filter(|held| held.epoch == epoch) else { return };
        let (process, life) = (it.id().to_string(), it.life);
        let call = Call::Renew { worker: held.worker.to_string(), epoch: epoch.0 };
        let op = self.record.sent(self.now, Sent { process, call, request: None, attempt: 1 });
        let renewal = Renewal { worker: held.worker, epoch, secret: secret(&held.job), ttl: None };
        let request = Request::unmarked(Command::RenewLeases { renewals: vec![renewal] });
        self.send_any(Message::Ask(Ask::Write { from: Origin::Client { client, life }, op, request }));
        self.timer(client, limits::RENEW_MS, ClientTimer::Renew { epoch });
    }

    /// A holder that is told that it holds nothing stops.
    fn renewal_answered(&mut self, client: usize, op: usize, answer: &Answer) {
        let call = &self.record.history.ops[op].call;
        let (Call::Renew { epoch, .. }, Answer::Refused { reason, .. }) = (call, answer) else { return };
        let it = &mut self.clients[client];
        let about_it = it.held.as_ref().is_some_and(|held| held.epoch.0 == *epoch);
        if !about_it || it.asking.is_some() {
            return;
        }
        let epoch = Token(*epoch);
        if reason == "INTERRUPTED" || self.rng.chance(600) {
            // It may return it; or it does so although it was told, and is refused.
            self.give_back(client, epoch);
        } else {
            self.clients[client].held = None;
            self.timer(client, 200, ClientTimer::Go);
        }
    }

    fn give_back(&mut self, client: usize, epoch: Token) {
        let it = &self.clients[client];
        let Some(held) = it.held.clone().filter(|held| held.epoch == epoch && it.asking.is_none()) else { return };
        let outcome = if self.rng.chance(60) { JobOutcome::Broken } else { JobOutcome::Success };
        let call = Call::Return { worker: held.worker.to_string(), job: held.job.clone(), epoch: epoch.0 };
        let (job, secret) = (JobId::from(held.job.as_str()), secret(&held.job));
        self.ask(client, Command::BeginReturn { worker: held.worker, job, epoch, secret, outcome }, call);
    }

    fn ask_execute(&mut self, client: usize, epoch: Token) {
        let it = &self.clients[client];
        let Some(held) = it.held.clone().filter(|held| held.epoch == epoch) else { return };
        let (life, agent) = (it.life, World::host_of(&held.worker));
        self.send_any(Message::Execute { client, life, agent, worker: held.worker, epoch: epoch.0, job: held.job });
        self.timer(client, 900, ClientTimer::Execute { epoch });
    }

    /// A job that runs is not asked for again; one that cannot is given back.
    pub(crate) fn executed(&mut self, client: usize, life: u64, epoch: u64, verdict: JobVerdict) {
        if self.clients[client].life == life && matches!(verdict, JobVerdict::Interrupted) {
            self.give_back(client, Token(epoch));
        }
    }

    /// An operator's wish; once the faults have ended operators put everything back into use.
    pub(crate) fn operate(&mut self) {
        match self.phase {
            Phase::Safety => {
                let number = self.rng.index(AGENTS * WORKERS);
                let operation = self.wish();
                self.order(worker(number), operation);
                let next = 500 + self.rng.below(2_500);
                self.after(next, Timer::Operate);
            }
            Phase::Liveness => {
                for number in 0..AGENTS * WORKERS {
                    self.order(worker(number), Operation::Uncordon);
                    self.order(worker(number), Operation::Resume);
                }
                self.after(10_000, Timer::Operate);
            }
            Phase::Quiet => {}
        }
    }

    fn wish(&mut self) -> Operation {
        let now = self.rng.chance(400);
        match self.rng.below(20) {
            0..=2 => Operation::Cordon,
            3..=9 => Operation::Uncordon,
            10 => Operation::Drain { within: Millis(self.rng.below(4_000)), then: Then::Ready },
            11 => Operation::Drain { within: Millis(0), then: Then::Maintenance },
            12 => Operation::Maintain { now },
            13 => Operation::Hold { now },
            _ => Operation::Resume,
        }
    }

    fn order(&mut self, worker: WorkerId, operation: Operation) {
        let verb = format!("{operation:?}");
        let call = Call::Operate { worker: worker.to_string(), verb };
        let op = self.record.sent(self.now, Sent { process: "operator".into(), call, request: None, attempt: 1 });
        let (actor, reason) = ("operator".into(), "because".into());
        let command = Command::Operate { worker, operation, actor, reason, etag: None };
        let request = Request::unmarked(command);
        self.send(Message::Ask(Ask::Write { from: Origin::Operator, op, request }));
    }
}
