//! A history: everything that was asked, answered, committed, watched and done on the workers' hosts in one run.
//!
//! The simulation and the chaos harness both write one, and the files beside this one judge it. It has types of its
//! own on purpose: a judge that used the registry's decisions would repeat the registry's errors.
//!
//! ```text
//!   ops      what clients and agents asked, when, and what they were told      (their own clock)
//!   events   what the committed log says happened, in revision order           (one replica's dump, or apply itself)
//!   requests which request ids the committed log holds, and which had an effect
//!   watches  what independent watchers were sent
//!   hosts    what really happened to each worker: jobs, runs, residue          (ground truth)
//! ```
//!
//! Conventions
//! * A job id is used by one acquire only (with all its retries); that is how a grant is told from another.
//! * `at` values come from one monotonic clock; only their order counts.
//!
//! Never here: an import from the product.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The seven states of a worker as a watcher reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Condition {
    /// Being cleaned and checked.
    Cleaning,
    /// Clean and healthy, not on offer.
    Ready,
    /// On offer.
    Available,
    /// Leased.
    Busy,
    /// Out of use with a reason.
    Maintenance,
    /// Its agent is silent.
    Lost,
    /// Out of use for ever.
    Retired,
}

/// One committed event. Fields that do not apply are zero or empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Event {
    /// The log index.
    pub revision: u64,
    /// Its place among the events of its revision, from 0.
    pub ordinal: u32,
    /// The term of its entry.
    pub term: u64,
    /// Log time in milliseconds.
    pub log_time: u64,
    /// What happened, in the product's words; judges read it only where `from` and `to` do not say enough.
    pub kind: String,
    /// The worker, or empty.
    pub worker: String,
    /// The state before; `None` with a worker and `to` set: the worker was born.
    pub from: Option<Condition>,
    /// The state after; `None` with `from` set: the row is gone.
    pub to: Option<Condition>,
    /// Why.
    pub cause: String,
    /// The lease's token.
    pub epoch: u64,
    /// The run's token.
    pub run: u64,
    /// The run's attempt.
    pub attempt: u32,
    /// The job.
    pub job: String,
    /// The agent, or empty.
    pub agent: String,
    /// How the run that the event closes was judged, in the product's words; empty where unknown.
    pub verdict: String,
    /// When the run that the event closes was late, in log time; zero where unknown.
    pub deadline: u64,
}

impl Event {
    /// Whether it changes a worker's state, its birth, its removal or its open run.
    pub fn moves(&self) -> bool {
        !self.worker.is_empty() && (self.from.is_some() || self.to.is_some())
    }

    /// Where it stands in the log.
    pub fn position(&self) -> (u64, u32) {
        (self.revision, self.ordinal)
    }
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// A worker for a job.
    Acquire {
        /// The pool.
        pool: String,
        /// The job, used by this request only.
        job: String,
        /// How long it would wait.
        wait_ms: u64,
        /// No selector: every worker of the pool would do.
        any: bool,
    },
    /// An end to an acquire.
    Cancel {
        /// The acquire's request id.
        acquire: String,
    },
    /// More time.
    Renew {
        /// The worker held.
        worker: String,
        /// The epoch held.
        epoch: u64,
    },
    /// The return of a worker.
    Return {
        /// The worker held.
        worker: String,
        /// The job.
        job: String,
        /// The epoch held.
        epoch: u64,
    },
    /// An agent's session.
    Open {
        /// The agent.
        agent: String,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A report on a run.
    Report {
        /// The worker.
        worker: String,
        /// The run.
        run: u64,
        /// The session that it speaks for.
        session: u64,
        /// Whether the agent had observed it clean and healthy.
        clean: bool,
    },
    /// An operator's wish.
    Operate {
        /// The worker.
        worker: String,
        /// What was wished.
        verb: String,
    },
    /// A look at a worker.
    Read {
        /// The worker.
        worker: String,
        /// The caller accepts a stale answer.
        stale: bool,
    },
}

/// What was done or seen, as the caller was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Done, nothing more to say.
    Done,
    /// A lease.
    Granted {
        /// The worker.
        worker: String,
        /// The epoch.
        epoch: u64,
    },
    /// A return began.
    Returned {
        /// Its token.
        return_id: u64,
    },
    /// A session.
    Opened {
        /// Its id.
        session: u64,
    },
    /// A report was judged.
    Judged {
        /// Clean and healthy.
        accepted: bool,
    },
    /// A worker was read.
    Seen {
        /// Its state.
        state: Condition,
        /// Its newest token.
        token: u64,
    },
    /// There was no such worker.
    Missing,
}

/// How a call ended for its caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A success.
    Ok {
        /// The revision of the write, or at which the read was served.
        revision: u64,
        /// What.
        effect: Effect,
    },
    /// A deterministic no; the effect is absent.
    Refused {
        /// Where it was judged, if the answer said so.
        revision: Option<u64>,
        /// The typed reason.
        reason: String,
        /// The token, session or incarnation that superseded the caller's.
        superseded_by: Option<u64>,
    },
    /// An error that says: the effect is definitely absent.
    Absent {
        /// The typed reason.
        reason: String,
    },
    /// An error that says: the effect is unknown; or no answer at all.
    Unknown {
        /// The typed reason.
        reason: String,
    },
}

/// One call, from its sending to its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Unique in the history.
    pub id: u64,
    /// Who asked.
    pub process: String,
    /// When it was sent.
    pub invoked_at: u64,
    /// When the answer was heard; `None` with [`Answer::Unknown`] when none was.
    pub returned_at: Option<u64>,
    /// Makes retries of one request one request.
    pub request_id: Option<String>,
    /// How often this request had been sent, from 1; each sending is an op of its own.
    pub attempt: u32,
    /// Log time after which it is never executed.
    pub not_after: Option<u64>,
    /// Who answered; zero where nobody did.
    pub served_by: u64,
    /// What was asked.
    pub call: Call,
    /// What was told.
    pub answer: Answer,
}

impl Op {
    /// The revision and effect of a success.
    pub fn success(&self) -> Option<(u64, &Effect)> {
        match &self.answer {
            Answer::Ok { revision, effect } => Some((*revision, effect)),
            Answer::Refused { .. } | Answer::Absent { .. } | Answer::Unknown { .. } => None,
        }
    }

    /// Whether it asks to change something.
    pub fn writes(&self) -> bool {
        !matches!(self.call, Call::Read { .. })
    }
}

/// A request id as the committed log holds it, once per time it was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The revision.
    pub revision: u64,
    /// Log time when it was applied.
    pub log_time: u64,
    /// The request id.
    pub request_id: String,
    /// This copy had an effect; later copies of the same request only repeat the answer.
    pub effect: bool,
}

/// One message of a watch, in the order it was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchItem {
    /// The stream begins (or begins again) and owes every event above this revision.
    From(u64),
    /// All events of one revision that pass the filter.
    Batch(Vec<Event>),
    /// Everything up to this revision has been sent.
    Bookmark(u64),
    /// The point asked for is gone; the oldest revision that is kept.
    Compacted(u64),
}

/// What one watcher was sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Watch {
    /// Its name.
    pub name: String,
    /// Only events of workers of this pool (`<pool>/`); empty for all.
    pub prefix: String,
    /// In order of receipt.
    pub items: Vec<WatchItem>,
}

/// A replica's statement of what it has at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The replica.
    pub replica: u64,
    /// The revision.
    pub revision: u64,
    /// State digest or hash of the log entry, hexadecimal; compared only within the same `of`.
    pub value: String,
    /// What was hashed: `state`, `entry`.
    pub of: String,
}

/// What happened to a worker on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// A job's process began.
    JobStarted {
        /// Under this epoch.
        epoch: u64,
    },
    /// Nothing of the job is left.
    JobGone {
        /// Under this epoch.
        epoch: u64,
    },
    /// A run stopped or removed something.
    RunActed {
        /// The run.
        run: u64,
    },
    /// A run looked whether anything is left.
    RunObserved {
        /// The run.
        run: u64,
        /// What was left: processes, files, mounts.
        residue: u64,
    },
    /// Work under a stale token was turned away.
    TurnedAway {
        /// The token.
        token: u64,
    },
}

/// A deed with its place; the order of the list is the order in which things happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// When.
    pub at: u64,
    /// The worker.
    pub worker: String,
    /// What.
    pub deed: Deed,
}

/// A time in which a replica could not reach a quorum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The replica.
    pub replica: u64,
    /// From when it was certain (its leader's lease included).
    pub from: u64,
    /// Until when it was certain.
    pub until: u64,
}

/// A worker after the faults ended and the system was given its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The worker.
    pub worker: String,
    /// Its state; `None` when no row was found.
    pub state: Option<Condition>,
    /// It is cordoned or draining.
    pub cordoned: bool,
    /// Its agent lives.
    pub agent_alive: bool,
    /// The holder of its lease lives.
    pub holder_alive: bool,
}

/// Everything of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// The first revision whose events are here; a whole log starts at 0.
    pub from_revision: u64,
    /// The last revision known to be committed.
    pub to_revision: u64,
    /// Committed events.
    pub events: Vec<Event>,
    /// Committed request ids.
    pub requests: Vec<Committed>,
    /// Calls.
    pub ops: Vec<Op>,
    /// Watches.
    pub watches: Vec<Watch>,
    /// Digests and entry hashes.
    pub statements: Vec<Statement>,
    /// Ground truth.
    pub hosts: Vec<HostRecord>,
    /// Replicas without a quorum.
    pub cuts: Vec<Cut>,
    /// The end, when the run had a liveness phase.
    pub endings: Vec<Ending>,
}

/// Each worker's events in log order.
pub struct Lives<'a> {
    by_worker: BTreeMap<&'a str, Vec<&'a Event>>,
}

impl History {
    /// Each worker's moves in log order.
    pub fn lives(&self) -> Lives<'_> {
        let mut by_worker: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.moves()) {
            by_worker.entry(&event.worker).or_default().push(event);
        }
        Lives { by_worker }
    }
}

impl<'a> Lives<'a> {
    /// All workers with their moves.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &[&'a Event])> {
        self.by_worker.iter().map(|(worker, moves)| (*worker, moves.as_slice()))
    }

    /// One worker's moves.
    pub fn of(&self, worker: &str) -> &[&'a Event] {
        self.by_worker.get(worker).map_or(&[], Vec::as_slice)
    }

    /// The last move of a worker at or before a revision.
    pub fn at(&self, worker: &str, revision: u64) -> Option<&'a Event> {
        let moves = self.of(worker);
        let after = moves.partition_point(|event| event.revision <= revision);
        after.checked_sub(1).map(|index| moves[index])
    }

    /// Moves of a worker in exactly this revision.
    pub fn within(&self, worker: &str, revision: u64) -> &[&'a Event] {
        let moves = self.of(worker);
        let from = moves.partition_point(|event| event.revision < revision);
        let to = moves.partition_point(|event| event.revision <= revision);
        &moves[from..to]
    }
}
