//! The simulated world: one clock, one queue, one random generator; everything else is driven from here.
//!
//! ```text
//!   queue ──message──> cluster · agents · clients ──send (lost, late, doubled)──> queue
//!         ──timer────> ticks, crashes, elections, cuts
//! ```
//!
//! Invariants
//! * What happens depends on the seed alone: no map here has an order of its own.
//!
//! Never here: what a replica, an agent or a client does with a message.

use std::collections::BTreeMap;

use remuda_registry::{LogTime, WorkerId};
use remuda_tests::guarantees::history::Answer;

use crate::agent::{Agent, AgentTimer, Assignments};
use crate::client::{Client, ClientTimer, Grant};
use crate::cluster::{Ask, Cluster};
use crate::record::Record;
use crate::rng::Rng;
use crate::watcher::Watcher;

/// Agents, each on a host of its own.
pub(crate) const AGENTS: usize = 3;
/// Workers of an agent.
pub(crate) const WORKERS: usize = 2;
/// Clients at a time.
const CLIENTS: usize = 5;

/// Bounds of the faults; of a thousand messages so many are lost, late or doubled.
mod limits {
    /// Lost.
    pub(super) const LOST: u64 = 30;
    /// Late by seconds.
    pub(super) const LATE: u64 = 50;
    /// Late by more than any deadline of the pool.
    pub(super) const VERY_LATE: u64 = 6;
    /// Doubled, where a network may do that.
    pub(super) const DOUBLED: u64 = 30;
    /// A message that is not late.
    pub(super) const DELAY_MS: u64 = 30;
}

/// A rule that is broken on purpose, to see the judges find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Returns are taken under the live epoch, whatever they present.
    EpochCheck,
    /// Reports are taken for the open run and session, whatever they present.
    RunCheck,
    /// A replica loses an event now and then.
    DropEvent,
    /// An agent starts what is new before what is old has been joined.
    SkipJoin,
    /// A leader acknowledges before the entry is committed.
    EarlyAck,
    /// Agents report clean what they have not looked at.
    BareVerdict,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Client { client: usize, life: u64 },
    Agent { agent: usize, life: u64 },
    Operator,
}

/// What travels.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// To the leader.
    Ask(Ask),
    /// Back to who asked.
    Answer { to: Origin, op: usize, answer: Answer, grant: Option<Box<Grant>> },
    /// The answer to a heartbeat: the session lives or does not.
    Beaten { agent: usize, life: u64, session: u64, lives: bool },
    /// An accepted open.
    Opened { agent: usize, life: u64, incarnation: u64, session: u64, revision: u64, served: Vec<WorkerId> },
    /// Assignments of a watch.
    Assignments { agent: usize, life: u64, sent: Assignments },
    /// A client asks an agent to run its job.
    Execute { client: usize, life: u64, agent: usize, worker: WorkerId, epoch: u64, job: String },
    /// And is told whether it runs.
    Executed { client: usize, life: u64, epoch: u64, verdict: remuda_agent::job::JobVerdict },
}

impl Message {
    /// The agent that sends or is sent it.
    fn agent(&self) -> Option<usize> {
        match self {
            Self::Ask(Ask::Write { from, .. } | Ask::Read { from, .. }) | Self::Answer { to: from, .. } => match from {
                Origin::Agent { agent, .. } => Some(*agent),
                Origin::Client { .. } | Origin::Operator => None,
            },
            Self::Ask(Ask::Heartbeat { agent, .. })
            | Self::Beaten { agent, .. }
            | Self::Opened { agent, .. }
            | Self::Assignments { agent, .. }
            | Self::Execute { agent, .. } => Some(*agent),
            Self::Executed { .. } => None,
        }
    }
}

/// What happens by itself.
#[derive(Debug, Clone)]
pub(crate) enum Timer {
    Tick,
    Flush { term: u64 },
    Commit { term: u64, upto: u64 },
    Follow { replica: usize },
    Elected { replica: usize },
    Healed { term: u64 },
    ReadIndex { replica: usize, needed: u64, until: u64, op: usize, to: Origin, worker: WorkerId },
    Agent { agent: usize, life: u64, timer: AgentTimer },
    Restart { agent: usize },
    Client { client: usize, life: u64, timer: ClientTimer },
    Watch { watcher: usize },
    Operate,
    Fault,
}

#[derive(Debug, Clone)]
enum Item {
    Message(Box<Message>),
    Timer(Timer),
}

macro_rules! counts {
    ($($field:ident),+ $(,)?) => {
        /// How often what went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub(crate) struct Faults {
            $(pub(crate) $field: u64,)+
        }

        impl Faults {
            /// Adds another run's.
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)+
            }
        }
    };
}
counts! {
    delivered, lost, late, doubled, leader_changes, cuts, entries_dropped, entries_survived, agent_crashes, reboots,
    torn_actions, isolations, client_deaths, client_pauses, retries, replica_restarts, watches_broken, residue, refusals, grants,
}

/// What the run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything goes wrong.
    Safety,
    /// Nothing goes wrong any more, and clients go on.
    Liveness,
    /// Nothing new is asked for.
    Quiet,
}

/// Everything.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) phase: Phase,
    pub(crate) broken: Option<Broken>,
    pub(crate) cluster: Cluster,
    pub(crate) agents: Vec<Agent>,
    pub(crate) clients: Vec<Client>,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) record: Record,
    pub(crate) faults: Faults,
    queue: BTreeMap<(u64, u64), Item>,
    sent: u64,
    /// Everything that happened, hashed.
    pub(crate) trace: u64,
}

impl World {
    pub(crate) fn new(seed: u64, broken: Option<Broken>) -> Self {
        let mut world = Self {
            now: 0,
            rng: Rng::new(seed),
            phase: Phase::Safety,
            broken,
            cluster: Cluster::new(),
            agents: (0..AGENTS).map(Agent::new).collect(),
            clients: (0..CLIENTS).map(Client::new).collect(),
            watchers: vec![Watcher::new("all", ""), Watcher::new("ci", "ci/"), Watcher::new("other", "other/")],
            record: Record::default(),
            faults: Faults::default(),
            queue: BTreeMap::new(),
            sent: 0,
            trace: 0xcbf2_9ce4_8422_2325,
        };
        world.bootstrap();
        world.after(1, Timer::Tick);
        for replica in 0..crate::cluster::REPLICAS {
            world.after(10, Timer::Follow { replica });
        }
        for agent in 0..AGENTS {
            world.after(1 + agent as u64, Timer::Restart { agent });
        }
        for client in 0..CLIENTS {
            world.after(500, Timer::Client { client, life: 1, timer: ClientTimer::Go });
        }
        for watcher in 0..world.watchers.len() {
            world.after(50, Timer::Watch { watcher });
        }
        world.after(3_000, Timer::Operate);
        world.after(4_000, Timer::Fault);
        world
    }

    /// Whether things go wrong.
    pub(crate) fn faulty(&self) -> bool {
        self.phase == Phase::Safety
    }

    /// True in `permille` of a thousand cases, while things go wrong.
    pub(crate) fn fault(&mut self, permille: u64) -> bool {
        self.faulty() && self.rng.chance(permille)
    }

    /// Sets a timer.
    pub(crate) fn after(&mut self, delay: u64, timer: Timer) {
        self.push(delay, Item::Timer(timer));
    }

    fn push(&mut self, delay: u64, item: Item) {
        self.sent += 1;
        self.queue.insert((self.now + delay.max(1), self.sent), item);
    }

    /// Sends what a network must not double.
    pub(crate) fn send(&mut self, message: Message) {
        self.transmit(message, false);
    }

    /// Sends what a network or a retry may double.
    pub(crate) fn send_any(&mut self, message: Message) {
        self.transmit(message, true);
    }

    fn transmit(&mut self, message: Message, may_double: bool) {
        let isolated = message.agent().is_some_and(|agent| self.agents[agent].isolated_until > self.now);
        if self.fault(limits::LOST) || (isolated && self.faulty()) {
            self.faults.lost += 1;
            self.lost(&message);
            return;
        }
        let delay = self.delay();
        if may_double && self.fault(limits::DOUBLED) {
            self.faults.doubled += 1;
            let later = self.delay();
            self.push(later, Item::Message(Box::new(message.clone())));
        }
        self.push(delay, Item::Message(Box::new(message)));
    }

    fn delay(&mut self) -> u64 {
        let delay = 1 + self.rng.below(limits::DELAY_MS);
        if self.fault(limits::VERY_LATE) {
            self.faults.late += 1;
            return delay + self.rng.below(40_000);
        }
        if self.fault(limits::LATE) {
            self.faults.late += 1;
            return delay + self.rng.below(4_000);
        }
        delay
    }

    /// A stream breaks where it loses a message; everything else is simply not heard.
    fn lost(&mut self, message: &Message) {
        if let Message::Assignments { agent, life, sent } = message {
            self.break_watch(*agent, *life, sent.stream);
        }
    }

    /// Lets the world go on until `until`.
    pub(crate) fn run(&mut self, until: u64) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((now, _), item) = entry.remove_entry();
            self.now = now;
            self.note(&item);
            match item {
                Item::Message(message) => {
                    self.faults.delivered += 1;
                    self.deliver(*message);
                }
                Item::Timer(timer) => self.fire(timer),
            }
        }
        self.now = until;
    }

    fn note(&mut self, item: &Item) {
        let text = format!("{} {item:?}", self.now);
        for byte in text.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Ask(ask) => self.asked(ask),
            Message::Answer { to, op, answer, grant } => self.answered(to, op, answer, grant),
            Message::Beaten { agent, life, session, lives } => self.beaten(agent, life, session, lives),
            Message::Opened { agent, life, incarnation, session, revision, served } => {
                self.opened(agent, life, incarnation, (session, revision), &served);
            }
            Message::Assignments { agent, life, sent } => self.assigned(agent, life, &sent),
            Message::Execute { client, life, agent, worker, epoch, job } => {
                self.execute(agent, &worker, epoch, &job, (client, life));
            }
            Message::Executed { client, life, epoch, verdict } => self.executed(client, life, epoch, verdict),
        }
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Tick => self.tick(),
            Timer::Flush { term } => self.flush(term),
            Timer::Commit { term, upto } => self.commit_upto(term, upto),
            Timer::Follow { replica } => self.follow(replica),
            Timer::Elected { replica } => self.elected(replica),
            Timer::Healed { term } => self.healed(term),
            Timer::ReadIndex { replica, needed, until, op, to, worker } => {
                self.read_at(replica, needed, until, op, to, worker);
            }
            Timer::Agent { agent, life, timer } => self.agent_timer(agent, life, timer),
            Timer::Restart { agent } => self.start_agent(agent),
            Timer::Client { client, life, timer } => self.client_timer(client, life, timer),
            Timer::Watch { watcher } => self.watch(watcher),
            Timer::Operate => self.operate(),
            Timer::Fault => self.strike(),
        }
    }

    /// An answer reaches who asked; the first one counts.
    fn answered(&mut self, to: Origin, op: usize, answer: Answer, grant: Option<Box<Grant>>) {
        let now = self.now;
        let heard = self.record.answered(op, now, answer.clone());
        if matches!(answer, Answer::Refused { .. }) && heard {
            self.faults.refusals += 1;
        }
        match to {
            Origin::Client { client, life } => self.client_answered(client, life, op, &answer, grant),
            Origin::Agent { agent, life } => self.agent_answered(agent, life, op, &answer),
            Origin::Operator => {}
        }
    }

    /// One of the greater faults, and the next one is due.
    fn strike(&mut self) {
        if !self.faulty() {
            return;
        }
        match self.rng.below(12) {
            0..=2 => self.depose(),
            3 => self.cut(),
            4..=6 => {
                let agent = self.rng.index(AGENTS);
                let reboot = self.rng.chance(250);
                self.crash(agent, reboot);
            }
            7 => {
                let client = self.rng.index(CLIENTS);
                self.kill_client(client);
            }
            8 => self.restart_replica(),
            9 | 10 => {
                let agent = self.rng.index(AGENTS);
                self.agents[agent].isolated_until = self.now + self.rng.below(20_000);
                self.faults.isolations += 1;
            }
            _ => self.stall_replica(),
        }
        let next = 1_000 + self.rng.below(5_000);
        self.after(next, Timer::Fault);
    }

    /// Log time as a client may have heard it.
    pub(crate) fn heard_time(&self) -> LogTime {
        LogTime(self.cluster.clock())
    }

    /// The agent that serves a worker, by the worker's number.
    pub(crate) fn host_of(worker: &WorkerId) -> usize {
        let number: usize = worker.name[1..].parse().expect("workers are numbered");
        number / WORKERS
    }
}
