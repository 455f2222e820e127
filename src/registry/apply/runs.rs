//! What agents say of runs, and what the clock says: progress, the report, the run that is late.
//!
//! Invariants
//! * Only the open run of the live session moves anything; the same report again has the same answer.
//! * Progress never goes back, and repeating it moves no deadline.

use crate::command::RunProgress;
use crate::event::Note;
use crate::id::{SessionId, Token, WorkerId};
use crate::limits;
use crate::outcome::{Outcome, RunNoted};
use crate::plan::Receipt;
use crate::refusal::Refusal;
use crate::row::encode;
use crate::worker::{
    Cause, Cleaning, ClosedRun, MaintenanceReason, RunStage, StateKind, Step, Verdict, Worker, WorkerState,
};

use super::cleaning::{Begin, Closing};
use super::entry::{Entry, Violations};
use super::judge::{bounded, judge};

impl Entry<'_> {
    pub(super) fn report_progress(&mut self, runs: &[RunProgress]) -> Outcome {
        Outcome::ProgressNoted { results: runs.iter().map(|run| self.progress(run)).collect() }
    }

    fn progress(&mut self, progress: &RunProgress) -> Result<RunNoted, Refusal> {
        let RunProgress { worker: id, run, session, stage } = progress;
        let worker = self.worker(id)?;
        self.served_by(worker, *session)?;
        let cleaning = open_run(worker, *run)?;
        let (now, not_before) = (self.now(), cleaning.not_before);
        if *stage <= cleaning.stage {
            let (stage, deadline) = (cleaning.stage, cleaning.deadline);
            return Ok(RunNoted { worker: id.clone(), run: *run, stage, deadline });
        }
        if *stage == RunStage::Started && now < not_before {
            return Err(Refusal::RunBacksOff { worker: id.clone(), run: *run, not_before });
        }
        let spec = self.state.settings(&id.pool, cleaning.generation).expect("the settings of open runs are kept");
        let deadline = match stage {
            RunStage::Assigned => cleaning.deadline,
            RunStage::Queued => now.max(not_before) + spec.cleaning.queue_max,
            RunStage::Started => now + spec.cleaning.timeout,
        };
        let moment = self.moment;
        self.state.change_worker(id, |worker| {
            if let WorkerState::Cleaning(cleaning) = &mut worker.state {
                cleaning.stage = *stage;
                cleaning.deadline = deadline;
                match stage {
                    RunStage::Assigned => {}
                    RunStage::Queued => cleaning.queued = Some(moment),
                    RunStage::Started => cleaning.started = Some(moment),
                }
            }
        });
        self.note_worker(id, Note::RunProgressed { run: *run, stage: *stage, deadline });
        Ok(RunNoted { worker: id.clone(), run: *run, stage: *stage, deadline })
    }

    pub(super) fn complete_cleaning(
        &mut self,
        id: &WorkerId,
        run: Token,
        session: SessionId,
        receipt: &Receipt,
    ) -> Result<Outcome, Refusal> {
        let worker = self.worker(id)?;
        self.served_by(worker, session)?;
        let hash = hash(receipt);
        if let Some(closed) = worker.closed.as_ref().filter(|closed| closed.run == run) {
            if closed.receipt != hash {
                return Err(Refusal::ReceiptConflict { worker: id.clone(), run });
            }
            let (verdict, to) = (closed.verdict.clone(), closed.to);
            return Ok(Outcome::CleaningCompleted { worker: id.clone(), run, verdict, to });
        }
        let cleaning = open_run(worker, run)?;
        judge_size(receipt)?;
        let (agent, cause) = (worker.agent.clone(), cleaning.cause);
        let spec = self.state.settings(&id.pool, cleaning.generation).expect("the settings of open runs are kept");
        let (verdict, evidence) = judge(receipt, cleaning.generation, spec, cleaning.stop_only);
        self.state.statistics.edit(&id.pool).expect("every pool has statistics").receipt(&verdict);
        let receipt = bounded(receipt);
        let shared_residue = receipt.shared_residue && cause != Cause::SharedResidue;
        let evidence = evidence.map(|evidence| crate::plan::Evidence::new(evidence.0));
        self.close_by_report(id, Closing { verdict: verdict.clone(), receipt: Some(receipt), evidence });
        let to = self.state.change_worker(id, |worker| {
            let to = worker.state.kind();
            worker.closed = Some(Box::new(ClosedRun { run, receipt: hash, verdict: verdict.clone(), to }));
            to
        });
        if to == StateKind::Ready {
            self.offer_if_open(id);
        }
        if shared_residue {
            self.recheck_siblings(id, &agent);
        }
        Ok(Outcome::CleaningCompleted { worker: id.clone(), run, verdict, to })
    }

    fn close_by_report(&mut self, id: &WorkerId, closing: Closing) {
        match closing.verdict.clone() {
            Verdict::Clean => self.cleaned(id, closing),
            Verdict::Stopped => self.cleaning_failed(id, MaintenanceReason::DeclaredBroken, closing),
            Verdict::Unclean(reason) => self.run_failed(id, reason, closing),
            Verdict::Unhealthy(reason) => self.cleaning_failed(id, reason, closing),
            verdict @ (Verdict::TimedOut | Verdict::Replaced | Verdict::Lost | Verdict::Overtaken) => {
                unreachable!("no receipt is judged {verdict}")
            }
        }
    }

    /// Something was found that other workers of this agent share: those that are free are cleaned anew.
    fn recheck_siblings(&mut self, id: &WorkerId, agent: &crate::id::AgentId) {
        let free = |worker: &&Worker| matches!(worker.state.kind(), StateKind::Ready | StateKind::Available);
        let siblings: Vec<_> = self.state.workers_of(agent).filter(free).map(|worker| worker.id.clone()).collect();
        for sibling in siblings.iter().filter(|sibling| *sibling != id) {
            self.begin_cleaning(sibling, Step::Recheck, Cause::SharedResidue, Begin::default());
        }
    }

    pub(super) fn end_run(&mut self, id: &WorkerId, run: Token) -> Result<Outcome, Refusal> {
        let cleaning = open_run(self.worker(id)?, run)?;
        self.timed(cleaning.deadline)?;
        self.run_failed(id, MaintenanceReason::CleaningTimedOut, Closing::silent(Verdict::TimedOut));
        Ok(self.moved(id))
    }

    pub(super) fn moved(&self, id: &WorkerId) -> Outcome {
        let worker = self.state.workers.get(id).expect("the caller has moved the worker");
        Outcome::Moved { worker: id.clone(), to: worker.state.kind() }
    }
}

/// Refuses a receipt that is too large to be kept.
fn judge_size(receipt: &Receipt) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    let most = limits::RECEIPT_ENTRIES_MAX as u64;
    violations.at_most("receipt.steps", receipt.steps.len() as u64, most);
    violations.at_most("receipt.checks", receipt.checks.len() as u64, most);
    violations.at_most("receipt.missing_capabilities", receipt.missing_capabilities.len() as u64, most);
    let names = receipt.steps.iter().map(|step| step.name.len());
    let longest = names.chain(receipt.checks.iter().map(|check| check.name.len())).max().unwrap_or(0);
    violations.at_most("receipt.names", longest as u64, limits::ID_BYTES_MAX as u64);
    violations.refuse()
}

/// The worker's open run, if it is this one.
fn open_run(worker: &Worker, run: Token) -> Result<&Cleaning, Refusal> {
    let open = worker.cleaning().filter(|cleaning| cleaning.run == run);
    let (current, state) = (worker.token, worker.state.kind());
    open.ok_or_else(|| Refusal::StaleRun { worker: worker.id.clone(), presented: run, current, state })
}

fn hash(receipt: &Receipt) -> [u8; 16] {
    let hash = blake3::hash(&encode(receipt));
    *hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes").0
}
