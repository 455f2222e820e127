//! An agent's runs, reports and jobs: what its duties asked for, done on a host that is made up.
//!
//! A run acts three times and then looks. One that is cancelled acts once more before it is joined, as a walker that
//! wakes late would.
//!
//! Never here: whether a run may begin; the duties have said so.

use std::sync::Arc;

use remuda_agent::job::{Action, Input, JobVerdict, RunOrder};
use remuda_registry::{Request, WorkerId};
use remuda_tests::guarantees::history::{Answer, Call, Deed};
use remuda_wire::convert::agent::report_in;
use remuda_wire::{name, v1};

use super::{AgentTimer, Run, limits};
use crate::cluster::Ask;
use crate::record::Sent;
use crate::world::{Broken, Message, Origin, World};

impl World {
    /// The next run in the queue has its turn, where there is room.
    pub(super) fn pump_queue(&mut self, number: usize) {
        let agent = &mut self.agents[number];
        let joins = self.broken != Some(Broken::SkipJoin);
        let at_work = agent.runs.values().filter(|at_work| joins || !at_work.cancelled).count();
        if at_work < limits::PARALLEL
            && let Some((worker, run)) = agent.queue.pop_front()
        {
            let delay = 1 + self.rng.below(60);
            self.agent_after(number, delay, AgentTimer::Turn { worker, run });
        }
    }

    pub(super) fn begin_run(&mut self, number: usize, worker: WorkerId, order: RunOrder) {
        let run = order.run;
        let powerless = self.fault(80);
        let at_work = Run { order, cancelled: false, residue: 0, powerless };
        self.agents[number].runs.insert((worker.clone(), run), at_work);
        let slow = self.fault(60);
        let mut at = 0;
        for _ in 0..3 {
            at += 1 + self.rng.below(if slow { 20_000 } else { 150 });
            self.agent_after(number, at, AgentTimer::Act { worker: worker.clone(), run });
        }
        at += 1 + self.rng.below(50);
        self.agent_after(number, at, AgentTimer::Observe { worker, run });
    }

    pub(super) fn cancel(&mut self, number: usize, worker: WorkerId, run: u64) {
        if let Some(at_work) = self.agents[number].runs.get_mut(&(worker.clone(), run)) {
            at_work.cancelled = true;
        }
        if self.broken == Some(Broken::SkipJoin) {
            self.step(number, &worker, Input::RunJoined { run, receipt: None });
        }
        // A walker that wakes late finishes what it was about before it sees that it is cancelled.
        let late = 2 + self.rng.below(if self.faulty() { 900 } else { 50 });
        self.agent_after(number, late - 1, AgentTimer::Act { worker: worker.clone(), run });
        self.agent_after(number, late, AgentTimer::Join { worker, run });
    }

    /// A run stops and removes what it finds; some processes do not die at once.
    pub(super) fn act(&mut self, number: usize, id: &WorkerId, run: u64) {
        let Some(at_work) = self.agents[number].runs.get(&(id.clone(), run)) else { return };
        let powerless = at_work.powerless;
        self.record.deed(id, Deed::RunActed { run });
        let jobs = self.agents[number].processes.entry(id.clone()).or_default();
        if powerless {
            return;
        }
        for epoch in std::mem::take(jobs) {
            self.record.deed(id, Deed::JobGone { epoch });
        }
    }

    pub(super) fn observe(&mut self, number: usize, id: &WorkerId, run: u64) {
        let agent = &mut self.agents[number];
        let residue = agent.processes.get(id).map_or(0, |jobs| jobs.len() as u64);
        let Some(at_work) = agent.runs.get_mut(&(id.clone(), run)).filter(|at_work| !at_work.cancelled) else {
            return;
        };
        at_work.residue = residue;
        self.faults.residue += u64::from(residue > 0);
        self.record.deed(id, Deed::RunObserved { run, residue });
        let blind = self.fault(15);
        if blind {
            // Its task fails and leaves no receipt.
            self.agents[number].runs.get_mut(&(id.clone(), run)).expect("it is at work").cancelled = true;
        }
        self.agent_after(number, 1, AgentTimer::Join { worker: id.clone(), run });
    }

    pub(super) fn join(&mut self, number: usize, id: &WorkerId, run: u64) {
        let Some(at_work) = self.agents[number].runs.remove(&(id.clone(), run)) else { return };
        let low = self.fault(20);
        let bare = self.broken == Some(Broken::BareVerdict);
        let residue = if bare { 0 } else { at_work.residue };
        let receipt = (!at_work.cancelled).then(|| Arc::new(receipt(&at_work.order, residue, low)));
        self.step(number, id, Input::RunJoined { run, receipt });
    }

    /// Sends a report, until it is answered.
    pub(super) fn report(&mut self, number: usize, id: &WorkerId, run: u64) {
        let agent = &mut self.agents[number];
        let (process, life) = (agent.id().to_string(), agent.life);
        let Some(report) = agent.reports.get_mut(id).filter(|report| report.run == run) else { return };
        let request = v1::ReportCleaningRequest {
            agent_id: process.clone(),
            session: report.session,
            worker: name::worker_name(id),
            run,
            receipt: Some((*report.receipt).clone()),
        };
        let command = report_in(&request).expect("an agent's report is valid");
        let clean = report.receipt.steps.iter().all(|step| step.observed);
        let call = Call::Report { worker: id.to_string(), run, session: report.session, clean };
        let op = self.record.sent(self.now, Sent { process, call, request: None, attempt: 1 });
        report.ops.push(op);
        let from = Origin::Agent { agent: number, life };
        self.send_any(Message::Ask(Ask::Write { from, op, request: Request::unmarked(command) }));
        self.agent_after(number, limits::RETRY_MS, AgentTimer::Report { worker: id.clone(), run });
    }

    pub(crate) fn agent_answered(&mut self, number: usize, life: u64, op: usize, answer: &Answer) {
        if self.agents[number].life != life || matches!(answer, Answer::Unknown { .. } | Answer::Absent { .. }) {
            return;
        }
        let about = self.agents[number].reports.iter().find(|(_, report)| report.ops.contains(&op));
        if let Some((id, report)) = about {
            let (id, run) = (id.clone(), report.run);
            self.agents[number].reports.remove(&id);
            self.step(number, &id, Input::Answered { run });
            if let Answer::Refused { reason, .. } = answer
                && reason == "SESSION_ENDED"
                && self.agents[number].session.is_some()
                && self.agents[number].life == life
            {
                self.open(number);
            }
            return;
        }
        // An open that was refused is tried under the next incarnation.
        if matches!(answer, Answer::Refused { .. }) && self.agents[number].opens.contains(&op) {
            let waits = self.agents[number].opening.is_some();
            if waits {
                self.open(number);
            }
        }
    }

    /// A client asks for its job to be run.
    pub(crate) fn execute(
        &mut self,
        number: usize,
        id: &WorkerId,
        epoch: u64,
        job: &str,
        (client, life): (usize, u64),
    ) {
        let now = self.now;
        let agent = &mut self.agents[number];
        let boot_id = agent.boot_id();
        let Some(duties) = agent.duties.get_mut(id) else { return };
        let mut actions = duties.step(now, Input::JobAsked { epoch, boot_id, asked: job.to_owned() });
        let Some(Action::Job { verdict, .. }) = actions.pop() else { unreachable!("an asker is answered last") };
        for action in actions {
            self.perform(number, id, action);
        }
        match verdict {
            JobVerdict::Admitted => {
                self.agents[number].processes.entry(id.clone()).or_default().insert(epoch);
                self.record.deed(id, Deed::JobStarted { epoch });
            }
            JobVerdict::Stale { .. } => self.record.deed(id, Deed::TurnedAway { token: epoch }),
            JobVerdict::Begun | JobVerdict::Another | JobVerdict::Interrupted | JobVerdict::NotYet => {}
        }
        self.send(Message::Executed { client, life, epoch, verdict });
    }
}

/// What the run observed.
fn receipt(order: &RunOrder, residue: u64, low: bool) -> v1::CleaningReceipt {
    let step = |step: &v1::Step| v1::StepResult {
        name: step.name.clone(),
        outcome: v1::step_result::Outcome::Done.into(),
        observed: residue == 0,
        tries: 1,
        left: residue,
        ..Default::default()
    };
    v1::CleaningReceipt {
        version: 1,
        generation: order.plan.generation,
        steps: order.plan.steps.iter().map(step).collect(),
        measures: Some(v1::Measures {
            disk_free_bytes: if low { 1 } else { 100 << 30 },
            disk_free_permille: 900,
            inodes_free_permille: 900,
            memory_available_bytes: 8 << 30,
            ..Default::default()
        }),
        ..Default::default()
    }
}
