//! Three replicas, of which one leads: an abstraction of Raft that keeps what the registry is promised by it.
//!
//! ```text
//!   asks ──> inbox ──flush──> pending (in flight) ──commit──> log ──apply──> leader, then followers, each when it likes
//!                                └── a new leader keeps a prefix of what was in flight, with its old term
//! ```
//! A deposed leader answers nothing; a leader that is cut off commits nothing and its clock stands still.
//!
//! Invariants
//! * One log. Every replica applies all of it in order, and comes to the same digest.
//!
//! Never here: a decision of the registry; what the clock demands is `due`.

mod leader;

use std::collections::{BTreeMap, VecDeque};

use remuda_registry::command::{Bootstrap, RunProgress};
use remuda_registry::event::WaiterEnd;
use remuda_registry::pool::PoolSpec;
use remuda_registry::{
    Applied, ClusterId, Command, Fact, Frame, LogTime, Millis, Outcome, PoolId, Refusal, ReplicaId, Request, Revision,
    SessionId, State, WaiterId, WorkerId, apply,
};
use remuda_tests::guarantees::history::{Answer, Effect, Statement};

use crate::client::Grant;
use crate::record;
use crate::world::{Broken, Message, Origin, Timer, World};

/// Replicas.
pub(crate) const REPLICAS: usize = 3;
/// Pools of the simulation.
pub(crate) const POOLS: [&str; 2] = ["ci", "other"];

/// Times of the server that the simulation stands in for.
mod limits {
    /// The leader's tick.
    pub(super) const TICK_MS: u64 = 100;
    /// A session is silent after this long.
    pub(super) const SILENT_MS: u64 = 5_000;
    /// A new leader's first period is longer.
    pub(super) const FIRST_PERIOD_MS: u64 = 10_000;
    /// A waiter that nobody vouches for is dropped.
    pub(super) const UNATTENDED_MS: u64 = 10_000;
    /// While a deadline is pending a tick is written this long after the last stamp.
    pub(super) const STAMP_EVERY_MS: u64 = 1_000;
    /// Replicas state their digests so often.
    pub(super) const STATEMENT_EVERY: u64 = 50;
}

/// One replica: its state and its durable copy.
pub(crate) struct Replica {
    pub(crate) state: State,
    pub(crate) rows: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) applied: u64,
    /// It applies nothing until then.
    stalled_until: u64,
}

/// What the leader is asked.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// A write.
    Write { from: Origin, op: usize, request: Request },
    /// A heartbeat: leader-local but for what it reports.
    Heartbeat { agent: usize, life: u64, session: u64, progress: Vec<RunProgress>, retired: Vec<WorkerId> },
    /// A linearizable read, at any replica.
    Read { from: Origin, op: usize, worker: WorkerId, replica: usize },
}

/// Who waits for the answer to a request in flight.
#[derive(Debug, Clone, Copy)]
enum Asker {
    Op { from: Origin, op: usize },
    Due,
    Nobody,
}

struct InFlight {
    number: u64,
    frame: Frame,
    askers: Vec<Asker>,
}

/// What a leader knows that the state does not.
struct Leader {
    replica: usize,
    term: u64,
    /// The accumulator.
    clock: u64,
    ticked_at: u64,
    stamped: u64,
    cut: bool,
    gap: bool,
    due_in_flight: bool,
    inbox: Vec<(Request, Asker)>,
    pending: VecDeque<InFlight>,
    numbered: u64,
    heard: BTreeMap<SessionId, u64>,
    vouched: BTreeMap<WaiterId, u64>,
    calls: BTreeMap<WaiterId, Vec<(Origin, usize)>>,
}

/// The replicas, the log and the leader.
pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Replica>,
    log: Vec<(u64, Option<Frame>)>,
    leader: Option<Leader>,
    survivors: Vec<(u64, InFlight)>,
    term: u64,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let replica = || Replica { state: State::new(), rows: BTreeMap::new(), applied: 0, stalled_until: 0 };
        let replicas = (0..REPLICAS).map(|_| replica()).collect();
        Self { replicas, log: Vec::new(), leader: None, survivors: Vec::new(), term: 0 }
    }

    /// The newest state: the one that has applied most.
    pub(crate) fn newest(&self) -> &State {
        &self.replicas.iter().max_by_key(|replica| replica.applied).expect("there are replicas").state
    }

    /// The leader's accumulator, or log time while there is none.
    pub(crate) fn clock(&self) -> u64 {
        self.leader.as_ref().map_or(self.newest().log_time().0, |leader| leader.clock)
    }

    pub(crate) fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    fn write_rows(replica: &mut Replica, drop_event: bool) {
        let mut dropped = !drop_event;
        for (key, value) in replica.state.take_changes().rows {
            if !dropped && remuda_registry::row::event_position(&key).is_some() {
                dropped = true;
                continue;
            }
            match value {
                Some(value) => replica.rows.insert(key, value),
                None => replica.rows.remove(&key),
            };
        }
    }
}

impl World {
    /// The group and its pools, and the first leader.
    pub(crate) fn bootstrap(&mut self) {
        self.elected(0);
        let voters = (1..=3).map(ReplicaId).collect();
        let group = Bootstrap { cluster: ClusterId::from("sim"), unix_ms: 1, voters };
        let mut requests = vec![Request::unmarked(Command::Bootstrap(group))];
        for pool in POOLS {
            let (pool, spec) = (PoolId::from(pool), Box::new(spec()));
            requests.push(Request::unmarked(Command::CreatePool { pool, spec, actor: "sim".into() }));
        }
        for request in requests {
            self.propose(request, Asker::Nobody);
        }
    }

    fn leader(&mut self) -> Option<&mut Leader> {
        self.cluster.leader.as_mut()
    }

    /// A message for the leader has come.
    pub(crate) fn asked(&mut self, ask: Ask) {
        if let Ask::Read { from, op, worker, replica } = ask {
            self.begin_read(from, op, worker, replica);
            return;
        }
        let Some(leader) = self.cluster.leader.as_mut() else {
            // No leader is known: definitely absent; or nobody is there to say so.
            if let Ask::Write { from, op, .. } = ask
                && self.rng.chance(500)
            {
                let answer = Answer::Absent { reason: "NO_LEADER".into() };
                self.send(Message::Answer { to: from, op, answer, grant: None });
            }
            return;
        };
        match ask {
            Ask::Write { from, op, request } => {
                if self.broken == Some(Broken::EarlyAck)
                    && let Command::BeginReturn { epoch, .. } = &request.command
                {
                    let (revision, effect) =
                        (self.cluster.log.len() as u64 + 1, Effect::Returned { return_id: epoch.0 });
                    let answer = Answer::Ok { revision, effect };
                    self.send(Message::Answer { to: from, op, answer, grant: None });
                }
                self.propose(request, Asker::Op { from, op });
            }
            Ask::Heartbeat { agent, life, session, progress, retired } => {
                if leader.cut {
                    return;
                }
                let state = &self.cluster.replicas[leader.replica].state;
                let lives = state.session(SessionId(session)).is_some();
                if lives {
                    leader.heard.insert(SessionId(session), leader.clock);
                }
                self.send(Message::Beaten { agent, life, session, lives });
                if lives && !progress.is_empty() {
                    self.propose(Request::unmarked(Command::ReportProgress { runs: progress }), Asker::Nobody);
                }
                for worker in retired.into_iter().filter(|_| lives) {
                    let command = Command::AcknowledgeRetired { worker, session: SessionId(session) };
                    self.propose(Request::unmarked(command), Asker::Nobody);
                }
            }
            Ask::Read { .. } => unreachable!("reads were taken above"),
        }
    }

    /// Puts a request into the next frame.
    fn propose(&mut self, request: Request, asker: Asker) {
        let request = self.sabotage(request);
        let Some(leader) = self.leader() else { return };
        leader.inbox.push((request, asker));
        if leader.inbox.len() == 1 {
            let term = leader.term;
            self.after(2, Timer::Flush { term });
        }
    }

    /// Breaks a rule of apply from outside: a stale token is made the live one.
    fn sabotage(&self, mut request: Request) -> Request {
        let state = self.cluster.newest();
        match (&mut request.command, self.broken) {
            (Command::BeginReturn { worker, epoch, job, secret, .. }, Some(Broken::EpochCheck)) => {
                if let Some(lease) = state.worker(worker).and_then(|row| row.lease()) {
                    (*epoch, *job, *secret) = (lease.epoch, lease.job.clone(), lease.secret);
                }
            }
            (Command::CompleteCleaning { worker, run, session, .. }, Some(Broken::RunCheck)) => {
                if let Some(row) = state.worker(worker)
                    && let (Some(cleaning), Some(live)) = (row.cleaning(), row.session)
                {
                    (*run, *session) = (cleaning.run, live);
                }
            }
            _ => {}
        }
        request
    }

    /// Sends what has gathered to the followers.
    pub(crate) fn flush(&mut self, term: u64) {
        let now = self.now;
        let latency = 1 + self.rng.below(25);
        let Some(leader) = self.leader().filter(|leader| leader.term == term && !leader.inbox.is_empty()) else {
            return;
        };
        leader.advance(now);
        let (requests, askers) = leader.inbox.drain(..).unzip();
        let stamp = LogTime(leader.clock);
        let frame = Frame { term, stamp, wall_ms: now, gap: std::mem::take(&mut leader.gap), requests };
        leader.stamped = leader.clock;
        leader.numbered += 1;
        let number = leader.numbered;
        leader.pending.push_back(InFlight { number, frame, askers });
        self.after(latency, Timer::Commit { term, upto: number });
    }

    /// A quorum has what is in flight up to a number.
    pub(crate) fn commit_upto(&mut self, term: u64, upto: u64) {
        while let Some(leader) = self.leader().filter(|leader| leader.term == term && !leader.cut)
            && leader.pending.front().is_some_and(|first| first.number <= upto)
        {
            let first = leader.pending.pop_front().expect("it is there");
            self.commit(term, first);
        }
    }

    fn commit(&mut self, term: u64, entry: InFlight) {
        let replica = self.leader().expect("only leaders commit").replica;
        self.cluster.log.push((term, Some(entry.frame.clone())));
        let revision = self.cluster.log.len() as u64;
        let state = &self.cluster.replicas[replica].state;
        let late = state.workers().filter_map(|row| Some((row.id.clone(), row.cleaning()?.deadline.0))).collect();
        let first = |request: &Request| Some(state.outcome(&request.mark.as_ref()?.id)?.revision.0);
        let firsts: Vec<_> = entry.frame.requests.iter().map(first).collect();
        let applied = self.apply_next(replica);
        self.record.committed(revision, &applied.events, &late);
        let log_time = self.cluster.replicas[replica].state.log_time().0;
        self.record.requests(revision, log_time, &entry.frame.requests, &applied.events);
        for (at, asker) in entry.askers.iter().enumerate() {
            let (request, result) = (&entry.frame.requests[at], &applied.results[at]);
            match asker {
                Asker::Op { from, op } => self.answer((*from, *op), request, result, (revision, firsts[at])),
                Asker::Due => self.leader().expect("it leads").due_in_flight = false,
                Asker::Nobody => {}
            }
        }
        self.waiters_ended(&applied, revision);
        if applied.mark {
            let digest = self.cluster.replicas[replica].state.digest();
            for voter in 1..=3 {
                let command = Command::ReportDigest { mark: Revision(revision), replica: ReplicaId(voter), digest };
                self.propose(Request::unmarked(command), Asker::Nobody);
            }
        }
    }

    /// Answers a call, or keeps it open while its waiter waits. `first` is where a remembered answer was made.
    fn answer(
        &mut self,
        (to, op): (Origin, usize),
        request: &Request,
        result: &Result<Outcome, Refusal>,
        (revision, first): (u64, Option<u64>),
    ) {
        let leader = self.cluster.leader.as_mut().expect("only leaders answer");
        if let Ok(Outcome::Queued { waiter, .. }) = result {
            leader.vouched.insert(*waiter, leader.clock);
            leader.calls.entry(*waiter).or_default().push((to, op));
            return;
        }
        let grant = Grant::of(result);
        if let (Ok(Outcome::SessionOpened(opened)), Origin::Agent { agent, life }, Command::OpenSession(open)) =
            (result, to, &request.command)
        {
            leader.heard.insert(opened.session, leader.clock);
            let served = opened.workers.iter().filter(|row| row.result.is_ok()).map(|row| row.worker.clone()).collect();
            let (session, revision) = (opened.session.0, opened.revision.0);
            self.send_any(Message::Opened { agent, life, incarnation: open.incarnation, session, revision, served });
        }
        self.faults.grants += u64::from(grant.is_some());
        let answer = record::answer(result, revision, first);
        self.send(Message::Answer { to, op, answer, grant });
    }

    /// Calls whose waiter is over are answered from the record.
    fn waiters_ended(&mut self, applied: &Applied, revision: u64) {
        for event in &applied.events {
            let Fact::WaiterEnded { waiter, end, .. } = &event.fact else { continue };
            let leader = self.cluster.leader.as_mut().expect("only leaders commit");
            leader.vouched.remove(waiter);
            let calls = leader.calls.remove(waiter).unwrap_or_default();
            let state = &self.cluster.replicas[leader.replica].state;
            let granted = match end {
                WaiterEnd::Granted { worker, epoch } => state.grant(worker, *epoch),
                WaiterEnd::Cancelled | WaiterEnd::Dropped | WaiterEnd::Expired | WaiterEnd::PoolDeleted => None,
            };
            for (to, op) in calls {
                let (answer, grant) = match &granted {
                    Some(grant) => {
                        let result = Ok(Outcome::Granted(grant.clone()));
                        (record::answer(&result, revision, None), Grant::of(&result))
                    }
                    None => {
                        let reason = "WAITER_ENDED".to_owned();
                        (Answer::Refused { revision: Some(revision), reason, superseded_by: None }, None)
                    }
                };
                self.faults.grants += u64::from(grant.is_some());
                self.send(Message::Answer { to, op, answer, grant });
            }
        }
    }

    /// A replica applies the next entry of the log.
    fn apply_next(&mut self, number: usize) -> Applied {
        let drop_event = self.broken == Some(Broken::DropEvent) && self.rng.chance(100);
        let replica = &mut self.cluster.replicas[number];
        let (term, frame) = &self.cluster.log[usize::try_from(replica.applied).expect("a small number")];
        replica.applied += 1;
        let revision = replica.applied;
        let Some(frame) = frame else { return Applied::default() };
        let frame = Frame::decode(&frame.encode()).expect("a frame survives its encoding");
        let applied = apply(&mut replica.state, Revision(revision), *term, &frame);
        Cluster::write_rows(replica, drop_event);
        if revision.is_multiple_of(limits::STATEMENT_EVERY) {
            if let Err(why) = replica.state.check() {
                panic!("replica {number} at {revision}: {why}");
            }
            self.state_digest(number);
        }
        applied
    }

    fn state_digest(&mut self, number: usize) {
        let replica = &self.cluster.replicas[number];
        let value = replica.state.digest().to_string();
        let (of, revision) = ("state".into(), replica.applied);
        self.record.history.statements.push(Statement { replica: number as u64 + 1, revision, value, of });
    }

    /// A follower applies some of what it lacks.
    pub(crate) fn follow(&mut self, number: usize) {
        let leads = self.cluster.leader.as_ref().is_some_and(|leader| leader.replica == number);
        if !leads && self.cluster.replicas[number].stalled_until <= self.now {
            let lacks = self.cluster.log.len() as u64 - self.cluster.replicas[number].applied;
            let some = if self.faulty() { self.rng.below(lacks + 1) } else { lacks };
            for _ in 0..some {
                self.apply_next(number);
            }
        }
        let next = 5 + self.rng.below(60);
        self.after(next, Timer::Follow { replica: number });
    }

    /// Everybody has everything.
    pub(crate) fn catch_up(&mut self) {
        for number in 0..REPLICAS {
            while self.cluster.replicas[number].applied < self.cluster.log.len() as u64 {
                self.apply_next(number);
            }
            self.state_digest(number);
        }
    }

    fn begin_read(&mut self, to: Origin, op: usize, worker: WorkerId, replica: usize) {
        let needed = self.cluster.log.len() as u64;
        let until = self.now + 2_000;
        if self.cluster.leader.as_ref().is_some_and(|leader| !leader.cut) {
            self.read_at(replica, needed, until, op, to, worker);
        } else {
            let answer = Answer::Absent { reason: "NO_LEADER".into() };
            self.send(Message::Answer { to, op, answer, grant: None });
        }
    }

    /// Serves a read once the replica has what was committed when it came.
    pub(crate) fn read_at(&mut self, replica: usize, needed: u64, until: u64, op: usize, to: Origin, worker: WorkerId) {
        let served = &self.cluster.replicas[replica];
        if served.applied < needed {
            if self.now < until {
                self.after(20, Timer::ReadIndex { replica, needed, until, op, to, worker });
            }
            return;
        }
        let effect = served.state.worker(&worker).map_or(Effect::Missing, |row| Effect::Seen {
            state: record::condition(row.state.kind()),
            token: row.token.0,
        });
        let answer = Answer::Ok { revision: served.applied, effect };
        self.send(Message::Answer { to, op, answer, grant: None });
    }
}

/// Short times, so that everything passes within a run.
fn spec() -> PoolSpec {
    let mut spec = PoolSpec::default();
    spec.lease.ttl = Millis::secs(8);
    spec.lease.max = Millis::secs(60);
    spec.cleaning.start_within = Millis::secs(6);
    spec.cleaning.queue_max = Millis::secs(15);
    spec.cleaning.timeout = Millis::secs(46);
    spec.maintenance.retry_after = Millis::secs(2);
    spec.maintenance.retry_after_max = Millis::secs(5);
    spec.maintenance.retries = 100;
    spec.ready_max_age = Millis::secs(20);
    spec
}
