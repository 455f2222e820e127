//! What the watch shows of one worker, in the words of its duties.
//!
//! Reading the wire is total: what this version does not understand, or what lacks a part that it must have, becomes
//! [`Duty::Unknown`], which starts nothing and ends nothing.
//!
//! Never here: deciding what follows from it.

use std::sync::Arc;

use remuda_wire::v1;

use super::Millis;

/// A run to carry out, as assigned.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOrder {
    /// The run's token.
    pub run: u64,
    /// The attempt.
    pub attempt: u32,
    /// Why the worker is being cleaned.
    pub cause: String,
    /// Not before this long after the assignment arrived.
    pub begin_after: Millis,
    /// The plan.
    pub plan: Arc<v1::CleaningPlan>,
    /// Epoch of the lease that it follows; zero when there was none.
    pub epoch: u64,
    /// How far the registry has heard that it is.
    pub heard: Heard,
}

/// How far the registry has heard that a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// Nothing, or a word this agent does not know.
    Nothing,
    /// That it is queued.
    Queued,
    /// That it has started.
    Started,
}

/// A lease whose job may run here.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseOrder {
    /// The lease's epoch.
    pub epoch: u64,
    /// The job's id.
    pub job_id: String,
    /// SHA-256 of the lease's secret.
    pub secret_sha256: Vec<u8>,
    /// Grace between TERM and KILL.
    pub stop_grace: Millis,
    /// Further folders that the job may write to.
    pub folders: Vec<String>,
    /// The job is known to be gone.
    pub interrupted: bool,
}

/// What a worker owes, as the watch shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Duty {
    /// To be cleaned.
    Clean(RunOrder),
    /// To let a job run.
    Serve(LeaseOrder),
    /// Nothing: Ready, Available, Maintenance or Lost.
    Rest,
    /// Nothing any more.
    Retired(String),
    /// Something this version does not understand.
    Unknown,
}

/// One worker's assignment.
#[derive(Clone, Debug, PartialEq)]
pub struct Assigned {
    /// The highest token ever used for the worker.
    pub token: u64,
    /// What it owes.
    pub duty: Duty,
}

impl Assigned {
    /// Reads an assignment from the wire. Total: what is not understood becomes [`Duty::Unknown`].
    pub fn from_wire(message: &v1::Assignment) -> Assigned {
        use v1::worker::State;
        let duty = match (State::try_from(message.state), &message.run, &message.lease) {
            (Ok(State::Cleaning), Some(run), _) => match &run.plan {
                Some(plan) => Duty::Clean(RunOrder {
                    run: run.run,
                    attempt: run.attempt,
                    cause: run.cause.clone(),
                    begin_after: run.begin_after.as_ref().map_or(0, millis),
                    plan: Arc::new(plan.clone()),
                    epoch: run.epoch,
                    heard: Heard::from_wire(&run.phase),
                }),
                None => Duty::Unknown,
            },
            (Ok(State::Busy), _, Some(lease)) => Duty::Serve(LeaseOrder {
                epoch: lease.epoch,
                job_id: lease.job_id.clone(),
                secret_sha256: lease.secret_sha256.clone(),
                stop_grace: lease.stop_grace.as_ref().map_or(0, millis),
                folders: lease.folders.clone(),
                interrupted: lease.interrupted,
            }),
            (Ok(State::Ready | State::Available | State::Maintenance | State::Lost), ..) => Duty::Rest,
            (Ok(State::Retired), ..) => Duty::Retired(message.retired_reason.clone()),
            _ => Duty::Unknown,
        };
        Assigned { token: message.token, duty }
    }
}

impl Heard {
    fn from_wire(phase: &str) -> Heard {
        match phase {
            "QUEUED" => Heard::Queued,
            "STARTED" => Heard::Started,
            _ => Heard::Nothing,
        }
    }
}

/// Milliseconds of a protobuf duration, rounded up; a negative one is zero.
fn millis(duration: &prost_types::Duration) -> Millis {
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let rest = u64::try_from(duration.nanos).unwrap_or(0).div_ceil(1_000_000);
    seconds.saturating_mul(1_000).saturating_add(rest)
}
