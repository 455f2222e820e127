//! The leader's queue: first in, first out, drained into frames.
//!
//! One task takes whatever has gathered, stamps it and hands it to openraft without waiting for earlier frames: the log
//! writer groups their syncs. How many commands share a frame follows from the load alone; no timer holds one back.
//!
//! ```text
//!   propose ──> queue ──drain ≤ 256, stamp──> raft.write(frame).with_leader(term) ──> answers, each to its caller
//! ```
//!
//! Invariants
//! * A frame is written only as the leader of the term it is stamped in.
//! * A caller hears "absent" only where openraft refused the frame before it entered the log. A frame that was
//!   discarded, or whose answer never came, is unknown: an openraft error after that point proves nothing.
//!
//! Never here: deadlines (the waiting side keeps its own), forwarding.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use remuda_registry::limits::FRAME_COMMANDS_MAX;
use remuda_registry::{Frame, Request, Revision};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Raft;
use super::clock::{Clock, Stamp};
use super::types::{Answer, CommittedLeaderId, Payload, TypeConfig};
use crate::failpoint;
use crate::propose::{Committed, ProposeError, Proposed};

/// Commands that may wait in the queue: above that callers are told at once, instead of after their deadline.
pub const QUEUE_COMMANDS_MAX: usize = 65_536;
/// Frames between openraft and their answers: bounds memory when commits stall.
const FRAMES_IN_FLIGHT_MAX: usize = 256;
/// A frame's answer is awaited no longer than this, whatever its callers want: a deposed leader's may never come.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(120);

/// One command on its way into a frame.
pub struct Job {
    /// The command.
    pub request: Request,
    /// Propose it only in this term.
    pub term: Option<u64>,
    /// Not worth proposing after this.
    pub deadline: Instant,
    /// Where its answer goes.
    pub answer: oneshot::Sender<Proposed>,
}

/// The sending end of the queue.
#[derive(Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Job>,
}

impl Batcher {
    /// Starts the task that drains the queue. It ends when the last handle is dropped.
    pub fn start(raft: Raft, clock: Arc<Clock>) -> Batcher {
        let (queue, jobs) = mpsc::channel(QUEUE_COMMANDS_MAX);
        tokio::spawn(run(raft, clock, jobs));
        Batcher { queue }
    }

    /// Queues `requests` in their order and waits for their answers until `deadline`.
    pub async fn propose(&self, term: Option<u64>, requests: Vec<Request>, deadline: Instant) -> Vec<Proposed> {
        let mut waits = Vec::with_capacity(requests.len());
        for request in requests {
            let (answer, wait) = oneshot::channel();
            waits.push(match self.queue.try_send(Job { request, term, deadline, answer }) {
                Ok(()) => Ok(wait),
                Err(mpsc::error::TrySendError::Full(_)) => Err(not_accepted("the leader's queue is full")),
                Err(mpsc::error::TrySendError::Closed(_)) => Err(not_accepted("the replica is stopping")),
            });
        }
        let mut answers = Vec::with_capacity(waits.len());
        for wait in waits {
            answers.push(match wait {
                Ok(wait) => match tokio::time::timeout_at(deadline.into(), wait).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(_)) => Err(unknown("the replica stopped before the answer came")),
                    Err(_) => Err(unknown("the deadline passed before the answer came")),
                },
                Err(error) => Err(error),
            });
        }
        answers
    }
}

async fn run(raft: Raft, clock: Arc<Clock>, mut jobs: mpsc::Receiver<Job>) {
    let in_flight = Arc::new(Semaphore::new(FRAMES_IN_FLIGHT_MAX));
    let mut gathered = Vec::with_capacity(FRAME_COMMANDS_MAX);
    while jobs.recv_many(&mut gathered, FRAME_COMMANDS_MAX).await > 0 {
        let permit = Arc::clone(&in_flight).acquire_owned().await.expect("the semaphore is never closed");
        // What arrived while a place was awaited shares the frame.
        while gathered.len() < FRAME_COMMANDS_MAX {
            match jobs.try_recv() {
                Ok(job) => gathered.push(job),
                Err(_) => break,
            }
        }
        let frame = std::mem::take(&mut gathered);
        send(&raft, &clock, frame, permit).await;
        gathered = Vec::with_capacity(FRAME_COMMANDS_MAX);
    }
}

/// Stamps the jobs that are still wanted in the current term and hands their frame to openraft.
async fn send(raft: &Raft, clock: &Arc<Clock>, jobs: Vec<Job>, permit: OwnedSemaphorePermit) {
    let term = clock.leads_in();
    let now = Instant::now();
    let (mut requests, mut answers) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
    for job in jobs {
        // A caller that is gone, or late, is spared the work: nothing of it is in the log.
        if job.deadline <= now {
            let _ = job.answer.send(Err(not_accepted("the deadline passed in the leader's queue")));
        } else if term.is_none() || job.term.is_some_and(|wanted| Some(wanted) != term) {
            let _ = job.answer.send(Err(ProposeError::NoLeader { hint: None }));
        } else {
            requests.push(job.request);
            answers.push(job.answer);
        }
    }
    let Some((term, stamp)) = term.and_then(|term| clock.stamp(term).map(|stamp| (term, stamp))) else {
        answers.into_iter().for_each(|answer| drop(answer.send(Err(ProposeError::NoLeader { hint: None }))));
        return;
    };
    if requests.is_empty() {
        if stamp.gap {
            clock.tell_gap_again(term);
        }
        return;
    }
    let frame = Frame { term, stamp: stamp.time, wall_ms: wall_ms(), gap: stamp.gap, requests };
    let (responder, response) = ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::complete_only();
    failpoint::hit("propose.before_write");
    let write =
        raft.write(Payload::from(frame.encode())).with_leader(CommittedLeaderId::new(term)).responder(responder);
    if let Err(fatal) = write.await {
        let error = unknown(&format!("the replica has stopped: {fatal}"));
        answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))));
        return;
    }
    let clock = Arc::clone(clock);
    tokio::spawn(async move {
        let response = tokio::time::timeout(ANSWER_WAIT_MAX, response).await;
        let response = response.ok().and_then(Result::ok);
        drop(permit);
        finish(&clock, term, stamp, response, answers);
    });
}

/// Gives each caller its part of what became of the frame.
fn finish(
    clock: &Clock,
    term: u64,
    stamp: Stamp,
    response: Option<ClientWriteResult<TypeConfig>>,
    answers: Vec<oneshot::Sender<Proposed>>,
) {
    let error = match response {
        Some(Ok(response)) => {
            failpoint::hit("propose.after_commit");
            return deliver(response.data, answers);
        }
        Some(Err(ClientWriteError::ForwardToLeader(_))) => {
            if stamp.gap {
                clock.tell_gap_again(term);
            }
            ProposeError::NoLeader { hint: None }
        }
        Some(Err(error)) => unknown(&format!("the entry was not applied here: {error}")),
        None => unknown("no answer of the log"),
    };
    // A caller that has gone does not hear it.
    answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))));
}

fn deliver(answer: Answer, callers: Vec<oneshot::Sender<Proposed>>) {
    assert_eq!(answer.results.len(), callers.len(), "apply answers every command of a frame");
    for ((ordinal, result), caller) in (0..).zip(answer.results).zip(callers) {
        let committed = Committed { revision: Revision(answer.revision), term: answer.term, ordinal, result };
        let _ = caller.send(Ok(committed));
    }
}

/// The wall clock in milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn not_accepted(reason: &str) -> ProposeError {
    ProposeError::NotAccepted { reason: reason.to_owned() }
}

fn unknown(reason: &str) -> ProposeError {
    ProposeError::Unknown { reason: reason.to_owned() }
}
