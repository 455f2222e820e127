//! Events in words: their names, for logs and filters, and a line of text for each, for golden scripts.

use std::fmt;

use super::{Event, Fact, Note, ReturnResult, WaiterEnd, WorkerMoved};
use crate::id::WorkerId;
use crate::worker::{RunStage, StateKind, Step};

impl Fact {
    /// The fact's name in the past tense, for logs and filters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Worker(moved) => moved.name(),
            Self::WorkerNoted { note, .. } => note.name(),
            Self::ReturnEnded(..) => "ReturnEnded",
            Self::PoolCreated { .. } => "PoolCreated",
            Self::PoolUpdated { .. } => "PoolUpdated",
            Self::PoolDeleted { .. } => "PoolDeleted",
            Self::SessionOpened { .. } => "SessionOpened",
            Self::SessionEnded { .. } => "SessionEnded",
            Self::WaiterQueued { .. } => "WaiterQueued",
            Self::WaiterEnded { .. } => "WaiterEnded",
            Self::Bootstrapped { .. } => "Bootstrapped",
            Self::FeatureLevelRaised { .. } => "FeatureLevelRaised",
            Self::DigestAgreed { .. } => "DigestAgreed",
            Self::DigestDiverged { .. } => "DigestDiverged",
        }
    }

    /// The worker that the fact is about, if it is about one.
    pub fn worker(&self) -> Option<&WorkerId> {
        match self {
            Self::Worker(moved) => Some(&moved.worker),
            Self::WorkerNoted { worker, .. } => Some(worker),
            Self::ReturnEnded(ended) => Some(&ended.worker),
            Self::PoolCreated { .. }
            | Self::PoolUpdated { .. }
            | Self::PoolDeleted { .. }
            | Self::SessionOpened { .. }
            | Self::SessionEnded { .. }
            | Self::WaiterQueued { .. }
            | Self::WaiterEnded { .. }
            | Self::Bootstrapped { .. }
            | Self::FeatureLevelRaised { .. }
            | Self::DigestAgreed { .. }
            | Self::DigestDiverged { .. } => None,
        }
    }
}

impl WorkerMoved {
    /// The transition's name in the past tense.
    pub fn name(&self) -> &'static str {
        match (self.step, self.to) {
            (Some(step), Some(_) | None) => match step {
                Step::Register => "WorkerRegistered",
                Step::Acquire => "WorkerLeased",
                Step::EndLease => "WorkerReturning",
                Step::Pass => "WorkerCleaned",
                Step::Rerun => "RunFailed",
                Step::Replace => "RunReplaced",
                Step::Fail => "WorkerFailed",
                Step::Spend => "WorkerSpent",
                Step::Admit => "WorkerAdmitted",
                Step::Withhold => "WorkerWithheld",
                Step::Recheck => "WorkerRechecked",
                Step::Silence => "WorkerLost",
                Step::Reconnect => "WorkerReconnected",
                Step::Retry => "WorkerRetried",
                Step::Resume => "WorkerResumed",
                Step::Maintain => "WorkerMaintained",
                Step::Retire => "WorkerRetired",
                Step::GiveUp => "WorkerGivenUp",
            },
            (None, Some(_)) => "WorkerRegistered",
            (None, None) => "WorkerRemoved",
        }
    }
}

impl Note {
    /// The note's name in the past tense.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RunProgressed { stage: RunStage::Assigned, .. } => "RunAssigned",
            Self::RunProgressed { stage: RunStage::Queued, .. } => "RunQueued",
            Self::RunProgressed { stage: RunStage::Started, .. } => "RunStarted",
            Self::LeaseClaimed { .. } => "LeaseClaimed",
            Self::AgentSilent { .. } => "AgentSilent",
            Self::AgentBack { .. } => "AgentBack",
            Self::JobInterrupted { .. } => "JobInterrupted",
            Self::Cordoned { .. } => "WorkerCordoned",
            Self::Uncordoned { .. } => "WorkerUncordoned",
            Self::Draining { .. } => "WorkerDraining",
            Self::NextOrdered { .. } => "NextOrdered",
            Self::Released { .. } => "WorkerReleased",
            Self::LabelsChanged => "LabelsChanged",
            Self::LabelsKept => "LabelsKept",
            Self::RetiredAcknowledged => "RetiredAcknowledged",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fact.fmt(f)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Worker(moved) => moved.fmt(f),
            Self::WorkerNoted { worker, state, note } => write!(f, " {worker} {state}{note}"),
            Self::ReturnEnded(ended) => {
                write!(f, " {} return={} cause={}", ended.worker, ended.return_id, ended.cause)?;
                show(f, "epoch", ended.epoch.as_ref())?;
                write!(f, " result={} attempts={} took={}", ended.result, ended.attempts, ended.took)
            }
            Self::PoolCreated { pool, generation, actor } | Self::PoolUpdated { pool, generation, actor } => {
                write!(f, " {pool} generation={generation} actor={actor}")
            }
            Self::PoolDeleted { pool, actor } => write!(f, " {pool} actor={actor}"),
            Self::SessionOpened { agent, session, replaced } => {
                write!(f, " {agent} session={session}")?;
                show(f, "replaced", replaced.as_ref())
            }
            Self::SessionEnded { agent, session } => write!(f, " {agent} session={session}"),
            Self::WaiterQueued { pool, waiter, job, request } => {
                write!(f, " {pool} waiter={waiter} job={job}")?;
                show(f, "request", request.as_ref())
            }
            Self::WaiterEnded { pool, waiter, request: _, end, waited } => {
                write!(f, " {pool} waiter={waiter} {end} waited={waited}")
            }
            Self::Bootstrapped { cluster } => write!(f, " {cluster}"),
            Self::FeatureLevelRaised { level } => write!(f, " level={level}"),
            Self::DigestAgreed { mark, digest, differing } => {
                write!(f, " mark={mark} digest={digest}")?;
                differing.iter().try_for_each(|replica| write!(f, " differing={replica}"))
            }
            Self::DigestDiverged { mark } => write!(f, " mark={mark}"),
        }
    }
}

/// Writes ` key=value` where there is a value.
fn show<T: fmt::Display>(f: &mut fmt::Formatter<'_>, key: &str, value: Option<&T>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {key}={value}"))
}

impl fmt::Display for WorkerMoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |state: Option<StateKind>| state.map_or("-".to_owned(), |state| state.to_string());
        write!(f, " {} {} -> {}", self.worker, name(self.from), name(self.to))?;
        show(f, "cause", self.cause.as_ref())?;
        show(f, "reason", self.reason.as_ref())?;
        show(f, "retired", self.retired.as_ref())?;
        show(f, "verdict", self.verdict.as_ref())?;
        show(f, "epoch", self.epoch.as_ref())?;
        show(f, "job", self.job.as_ref())?;
        show(f, "run", self.run.as_ref())?;
        show(f, "attempt", self.attempt.as_ref())?;
        write!(f, " elapsed={}", self.elapsed)?;
        show(f, "actor", self.actor.as_ref())
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunProgressed { run, stage: _, deadline } => write!(f, " run={run} deadline={deadline}"),
            Self::LeaseClaimed { epoch } | Self::AgentSilent { epoch } => write!(f, " epoch={epoch}"),
            Self::AgentBack { epoch, session } => write!(f, " epoch={epoch} session={session}"),
            Self::JobInterrupted { epoch, deadline } => write!(f, " epoch={epoch} deadline={deadline}"),
            Self::Cordoned { actor, .. } | Self::Uncordoned { actor, .. } | Self::Released { actor, .. } => {
                write!(f, " actor={actor}")
            }
            Self::Draining { deadline, then, actor, .. } => {
                write!(f, " deadline={deadline} then={then} actor={actor}")
            }
            Self::NextOrdered { then, actor, .. } => write!(f, " then={then} actor={actor}"),
            Self::LabelsChanged | Self::LabelsKept | Self::RetiredAcknowledged => Ok(()),
        }
    }
}

impl fmt::Display for ReturnResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diverted(then) => write!(f, "Diverted({then})"),
            Self::Failed(reason) => write!(f, "Failed({reason})"),
            Self::Clean | Self::Spent | Self::Lost | Self::Overtaken => fmt::Debug::fmt(self, f),
        }
    }
}

impl fmt::Display for WaiterEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted { worker, epoch } => write!(f, "Granted({worker} epoch={epoch})"),
            Self::Cancelled | Self::Dropped | Self::Expired | Self::PoolDeleted => fmt::Debug::fmt(self, f),
        }
    }
}
