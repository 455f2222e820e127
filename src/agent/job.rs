//! One worker's duties: what its agent starts, cancels and reports, decided purely.
//!
//! The watch, the heartbeats, the runs and the executions of a worker all end here, as [`Input`]s to [`Duties::step`];
//! what is to be done comes back as [`Action`]s, in order. There is no IO and no clock in it (time is an argument), so
//! the simulation drives exactly the code that the agent runs.
//!
//! ```text
//!   watch ──Assigned──> ┌────────┐ ──Persist, Queue, Start, Cancel──> runner
//!   runner ──RunJoined─>│ Duties │ ──Report, DropReport─────────────> link
//!   link ──Answered───> └────────┘ ──OpenLease, CloseLease, AdmitJob─> executions
//!
//!   doing:  Nothing ─> Waiting ─> Queued ─> Running ─> Reporting ─> Nothing
//!                          (superseded: Running ─> Cancelling ─> Nothing)
//! ```
//!
//! Every token of a worker, epoch or run, comes from one growing counter, so "newer" is one comparison. An agent that
//! cleaned because of something old could wipe a worker that is Busy again; the invariants below are what prevents it.
//!
//! Invariants
//! * A run is acted on only if its token is above every token seen for the worker, across restarts: `seen` is synced
//!   (`Persist`) before the run is queued.
//! * Between `Start` and its `RunJoined` nothing else starts: no run, no lease is opened, no job admitted.
//! * Nothing is believed of a session that is not the current one, nor of a revision before the session's.
//! * A report carries the session under which its run was assigned; a new session drops it.
//! * What is not understood is kept as it is: it starts nothing and ends nothing.
//!
//! Never here: IO, async, clocks, randomness, decisions about what a run does.

use std::sync::Arc;

use remuda_wire::v1;

mod order;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

pub use order::{Assigned, Duty, Heard, LeaseOrder, RunOrder};

/// Milliseconds of a monotonic clock, from any origin.
pub type Millis = u64;

/// A run that ended without a receipt (its task failed) is tried again after this long: at once would spin.
pub const RETRY_WITHOUT_RECEIPT_MS: Millis = 1_000;

/// What must outlive the agent's process, for one worker. Written by [`Action::Persist`] before anything acts on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Facts {
    /// The highest token, epoch or run, that was seen for this worker.
    pub seen: u64,
    /// The highest run that ended with a receipt.
    pub finished: u64,
    /// The epoch of the lease held last; zero when a run has followed it.
    pub epoch: u64,
    /// The job begun under `epoch`, if one was.
    pub job: Option<JobFact>,
    /// Why the worker was retired, when it may not be registered again.
    pub retired: Option<String>,
}

/// A job that was begun: written down before its supervisor exists.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JobFact {
    /// The lease's epoch.
    pub epoch: u64,
    /// The boot under which it was begun.
    pub boot_id: String,
    /// A digest of what was asked for, to tell the same request from another.
    pub asked: String,
}

/// What happened to a worker.
#[derive(Clone, Debug)]
pub enum Input {
    /// A session was opened in which this worker is served, or the agent's open was answered again.
    SessionOpened {
        /// The session.
        session: u64,
        /// The revision of the entry that opened it.
        revision: u64,
    },
    /// The watch of a session showed this worker's assignment.
    Assigned {
        /// The session watched.
        session: u64,
        /// The last revision the stream has passed.
        revision: u64,
        /// The assignment.
        assigned: Assigned,
    },
    /// The time asked for by [`Action::WakeAt`] has come, or any other time.
    Woke,
    /// A place among the runs at work is free for this run.
    Turn {
        /// The run.
        run: u64,
    },
    /// Everything a run started has ended: its walkers, hooks and probes are joined.
    RunJoined {
        /// The run.
        run: u64,
        /// Its receipt; none when it was cancelled or failed to run.
        receipt: Option<Arc<v1::CleaningReceipt>>,
    },
    /// A report was answered, accepted or refused, so that sending it again is of no use.
    Answered {
        /// The run reported.
        run: u64,
    },
    /// The holder of a lease asks for its job to be started.
    JobAsked {
        /// The lease's epoch.
        epoch: u64,
        /// This host's boot id.
        boot_id: String,
        /// A digest of the request.
        asked: String,
    },
}

/// What is to be done, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write and sync the facts before going on to the next action.
    Persist(Facts),
    /// Call [`Input::Woke`] at this time.
    WakeAt(Millis),
    /// Wait for a place among the runs at work, then [`Input::Turn`].
    Queue {
        /// The run.
        run: u64,
    },
    /// Give up the wait for a place.
    Unqueue {
        /// The run.
        run: u64,
    },
    /// Carry out the run, then [`Input::RunJoined`].
    Start(RunOrder),
    /// Cancel the run; [`Input::RunJoined`] is still owed.
    Cancel {
        /// The run.
        run: u64,
    },
    /// Report the run under this session until it is answered, then [`Input::Answered`].
    Report {
        /// The session under which the run was assigned.
        session: u64,
        /// The run.
        run: u64,
        /// What was observed.
        receipt: Arc<v1::CleaningReceipt>,
    },
    /// Stop reporting the run.
    DropReport {
        /// The run.
        run: u64,
    },
    /// The holder of this lease may execute and attach; also repeated when the lease changes.
    OpenLease(LeaseOrder),
    /// The lease is over: no execution, input or signal under it any more.
    CloseLease {
        /// The lease's epoch.
        epoch: u64,
    },
    /// Answers [`Input::JobAsked`].
    Job {
        /// The lease's epoch.
        epoch: u64,
        /// The answer.
        verdict: JobVerdict,
    },
}

/// Whether a job may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobVerdict {
    /// Start it: it is written down.
    Admitted,
    /// The same was begun before, under this boot or an earlier one: look for it, never start it twice.
    Begun,
    /// Another job was begun under this lease, which has one execution only.
    Another,
    /// The job under this lease is known to be gone.
    Interrupted,
    /// A newer token has superseded the epoch.
    Stale {
        /// The newest token seen.
        seen: u64,
    },
    /// The lease is not known here yet, or what ran before it has not been joined.
    NotYet,
}

/// What is under way for a worker.
#[derive(Clone, Debug, PartialEq)]
enum Doing {
    Nothing,
    Waiting { run: u64, until: Millis },
    Queued { run: u64 },
    Running { run: u64 },
    Cancelling { run: u64 },
    Reporting { run: u64 },
}

/// What the newest believed assignment wants.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    Nothing,
    Run { order: RunOrder, session: u64, arrived: Millis },
    Lease(LeaseOrder),
}

/// The duties of one worker.
#[derive(Clone, Debug)]
pub struct Duties {
    facts: Facts,
    session: Option<(u64, u64)>,
    wanted: Wanted,
    doing: Doing,
    open: Option<LeaseOrder>,
}

impl Duties {
    /// Duties as after a start of the agent: nothing under way, and only the facts remembered.
    pub fn new(facts: Facts) -> Duties {
        Duties { facts, session: None, wanted: Wanted::Nothing, doing: Doing::Nothing, open: None }
    }

    /// The facts as they should be on disk.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// True while a run of this worker is anywhere between its assignment and the answer to its report.
    pub fn cleaning(&self) -> bool {
        self.doing != Doing::Nothing
    }

    /// The run that heartbeats must name, and whether it has started; none once the watch has shown it.
    pub fn progress(&self) -> Option<(u64, Heard)> {
        let Wanted::Run { order, .. } = &self.wanted else { return None };
        let phase = match self.doing {
            Doing::Queued { run } if run == order.run => Heard::Queued,
            Doing::Running { run } | Doing::Reporting { run } if run == order.run => Heard::Started,
            _ => return None,
        };
        (phase > order.heard).then_some((order.run, phase))
    }

    /// Takes in what happened at `now` and says what is to be done.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::SessionOpened { session, revision } => self.opened(session, revision),
            Input::Assigned { session, revision, assigned } => {
                if self.believable(session, revision) {
                    self.assigned(now, session, assigned, &mut actions);
                }
            }
            Input::Woke => {}
            Input::Turn { run } => self.turn(run, &mut actions),
            Input::RunJoined { run, receipt } => self.joined(now, run, receipt, &mut actions),
            Input::Answered { run } => self.answered(run),
            Input::JobAsked { epoch, boot_id, asked } => {
                self.job_asked(JobFact { epoch, boot_id, asked }, &mut actions);
            }
        }
        self.advance(now, &mut actions);
        actions
    }

    /// Whether an assignment of this session at this revision may be acted on.
    fn believable(&self, session: u64, revision: u64) -> bool {
        self.session.is_some_and(|(current, opened_at)| session == current && revision >= opened_at)
    }

    /// The entry that opened the session has replaced every open run, so a run of an earlier session has no future.
    /// A lease goes on: it is the registry's, not the session's.
    fn opened(&mut self, session: u64, revision: u64) {
        if self.session.is_some_and(|(current, _)| current >= session) {
            return;
        }
        self.session = Some((session, revision));
        if matches!(self.wanted, Wanted::Run { .. }) {
            self.wanted = Wanted::Nothing;
        }
    }

    fn assigned(&mut self, now: Millis, session: u64, assigned: Assigned, actions: &mut Vec<Action>) {
        match assigned.duty {
            Duty::Clean(order) => {
                let current = matches!(&self.wanted, Wanted::Run { order: known, .. } if known.run == order.run);
                if current {
                    self.heard(order.heard);
                } else if order.run > self.facts.seen {
                    let finished = self.facts.finished;
                    assert!(order.run > finished, "run {} is not above the finished run {finished}", order.run);
                    self.facts = Facts { seen: order.run, epoch: 0, job: None, ..self.facts.clone() };
                    self.wanted = Wanted::Run { order, session, arrived: now };
                    actions.push(Action::Persist(self.facts.clone()));
                }
            }
            Duty::Serve(lease) => self.serve(lease, actions),
            Duty::Rest => self.rest(assigned.token),
            Duty::Retired(reason) => {
                // A worker lost by silence may be registered again, so that is not remembered.
                if reason != "LOST" && self.facts.retired.is_none() {
                    self.facts.retired = Some(reason);
                    actions.push(Action::Persist(self.facts.clone()));
                }
                self.rest(assigned.token);
            }
            Duty::Unknown => {}
        }
    }

    /// Notes how far the registry has heard; a lagging replica cannot take it back.
    fn heard(&mut self, heard: Heard) {
        if let Wanted::Run { order, .. } = &mut self.wanted {
            order.heard = order.heard.max(heard);
        }
    }

    fn serve(&mut self, lease: LeaseOrder, actions: &mut Vec<Action>) {
        if lease.epoch > self.facts.seen {
            self.facts = Facts { seen: lease.epoch, epoch: lease.epoch, job: None, ..self.facts.clone() };
            actions.push(Action::Persist(self.facts.clone()));
        } else if lease.epoch < self.facts.seen || lease.epoch != self.facts.epoch {
            return;
        }
        // Interrupted once is interrupted for good, whatever a lagging replica shows.
        let before = match &self.wanted {
            Wanted::Lease(known) => known.epoch == lease.epoch && known.interrupted,
            Wanted::Nothing | Wanted::Run { .. } => false,
        };
        self.wanted = Wanted::Lease(LeaseOrder { interrupted: lease.interrupted || before, ..lease });
    }

    /// Nothing is owed at `token`: what belongs to an earlier or that very token is over.
    fn rest(&mut self, token: u64) {
        let over = match &self.wanted {
            Wanted::Run { order, .. } => order.run <= token,
            Wanted::Lease(lease) => lease.epoch <= token,
            Wanted::Nothing => false,
        };
        if over {
            self.wanted = Wanted::Nothing;
        }
    }

    fn turn(&mut self, run: u64, actions: &mut Vec<Action>) {
        if self.doing != (Doing::Queued { run }) {
            return;
        }
        if let Wanted::Run { order, .. } = &self.wanted
            && order.run == run
        {
            self.doing = Doing::Running { run };
            actions.push(Action::Start(order.clone()));
        }
    }

    fn joined(&mut self, now: Millis, run: u64, receipt: Option<Arc<v1::CleaningReceipt>>, out: &mut Vec<Action>) {
        match self.doing {
            Doing::Cancelling { run: current } if current == run => self.doing = Doing::Nothing,
            Doing::Running { run: current } if current == run => {
                let (Some(receipt), Wanted::Run { session, .. }) = (receipt, &self.wanted) else {
                    self.doing = Doing::Waiting { run, until: now + RETRY_WITHOUT_RECEIPT_MS };
                    out.push(Action::WakeAt(now + RETRY_WITHOUT_RECEIPT_MS));
                    return;
                };
                self.doing = Doing::Reporting { run };
                self.facts.finished = run;
                out.push(Action::Report { session: *session, run, receipt });
            }
            _ => {}
        }
    }

    fn answered(&mut self, run: u64) {
        if self.doing == (Doing::Reporting { run }) {
            self.doing = Doing::Nothing;
            self.wanted = Wanted::Nothing;
        }
    }

    fn job_asked(&mut self, job: JobFact, actions: &mut Vec<Action>) {
        let epoch = job.epoch;
        let open = self.open.as_ref().filter(|lease| lease.epoch == epoch && self.holds(epoch));
        let begun = self.facts.job.as_ref().filter(|known| known.epoch == epoch);
        let verdict = match (open, begun) {
            (Some(lease), _) if lease.interrupted => JobVerdict::Interrupted,
            (Some(_), Some(known)) if known.asked == job.asked => JobVerdict::Begun,
            (Some(_), Some(_)) => JobVerdict::Another,
            (Some(_), None) => JobVerdict::Admitted,
            (None, _) if epoch < self.facts.seen => JobVerdict::Stale { seen: self.facts.seen },
            (None, _) => JobVerdict::NotYet,
        };
        if verdict == JobVerdict::Admitted {
            assert_eq!(self.doing, Doing::Nothing, "a lease is open only while no run is under way");
            self.facts.job = Some(job);
            actions.push(Action::Persist(self.facts.clone()));
        }
        actions.push(Action::Job { epoch, verdict });
    }

    /// Whether the newest assignment is this lease.
    fn holds(&self, epoch: u64) -> bool {
        matches!(&self.wanted, Wanted::Lease(lease) if lease.epoch == epoch)
    }

    /// Brings what is under way nearer to what is wanted: ends the old, and only when it is joined begins the new.
    fn advance(&mut self, now: Millis, actions: &mut Vec<Action>) {
        self.close_superseded(actions);
        let wanted_run = match &self.wanted {
            Wanted::Run { order, .. } => Some(order.run),
            Wanted::Nothing | Wanted::Lease(_) => None,
        };
        match self.doing {
            Doing::Waiting { run, .. } if wanted_run != Some(run) => self.doing = Doing::Nothing,
            Doing::Queued { run } if wanted_run != Some(run) => {
                actions.push(Action::Unqueue { run });
                self.doing = Doing::Nothing;
            }
            Doing::Running { run } if wanted_run != Some(run) => {
                actions.push(Action::Cancel { run });
                self.doing = Doing::Cancelling { run };
            }
            Doing::Reporting { run } if wanted_run != Some(run) => {
                actions.push(Action::DropReport { run });
                self.doing = Doing::Nothing;
            }
            _ => {}
        }
        match self.doing {
            Doing::Nothing => self.begin(now, actions),
            Doing::Waiting { run, until } if now >= until => {
                actions.push(Action::Queue { run });
                self.doing = Doing::Queued { run };
            }
            _ => {}
        }
    }

    fn close_superseded(&mut self, actions: &mut Vec<Action>) {
        if let Some(epoch) = self.open.as_ref().map(|lease| lease.epoch)
            && !self.holds(epoch)
        {
            actions.push(Action::CloseLease { epoch });
            self.open = None;
        }
    }

    /// Begins what is wanted; called only when nothing is under way.
    fn begin(&mut self, now: Millis, actions: &mut Vec<Action>) {
        match &self.wanted {
            Wanted::Nothing => {}
            Wanted::Run { order, arrived, .. } => {
                let (run, until) = (order.run, arrived + order.begin_after);
                if now < until {
                    self.doing = Doing::Waiting { run, until };
                    actions.push(Action::WakeAt(until));
                } else {
                    self.doing = Doing::Queued { run };
                    actions.push(Action::Queue { run });
                }
            }
            Wanted::Lease(lease) => {
                if self.open.as_ref() != Some(lease) {
                    self.open = Some(lease.clone());
                    actions.push(Action::OpenLease(lease.clone()));
                }
            }
        }
    }
}
