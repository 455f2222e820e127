//! What the log is asked to do, in order, on its way to the writer thread.
//!
//! openraft's core submits and goes on; the writer takes all that has gathered at once. While one sync runs the next batch
//! fills, so batches grow with the load by themselves, without a timer. The queue also knows since when it waits: the stall
//! guard asks it.
//!
//! Invariants
//! * Requests leave in the order in which they came.
//! * `stalled_for` is `None` exactly when nothing is queued and nothing is being written.
//!
//! Never here: IO, deciding what belongs into one batch beyond its size.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::chain::Encoded;
use crate::raft::types::{IoFlushed, LogId, Vote};

/// Answered once what was asked is on disk.
pub(super) type Done = oneshot::Sender<Result<(), io::Error>>;

/// One request to the writer.
pub(super) enum Request {
    /// Write entries behind the last ones; `flushed` is called once they are synced.
    Append { entries: Encoded, commands: u64, generation: u64, flushed: IoFlushed },
    /// Write the vote and sync.
    Vote { vote: Vote, done: Done },
    /// Note the commit index, unsynced.
    Committed(Option<LogId>),
    /// Drop what follows this id (the last entry that stays, or the last purged one).
    Truncate(Option<LogId>),
    /// Drop everything up to and including this id.
    Purge(LogId),
}

impl Request {
    fn size(&self) -> usize {
        match self {
            Request::Append { entries, .. } => entries.size(),
            Request::Vote { .. } | Request::Committed(_) | Request::Truncate(_) | Request::Purge(_) => 0,
        }
    }
}

/// How far the writer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Requests submitted since the log was opened.
    pub submitted: u64,
    /// Requests finished since then.
    pub done: u64,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

struct State {
    requests: VecDeque<Request>,
    submitted: u64,
    done: u64,
    /// When the last batch was finished, or when work came after none was left.
    since: Instant,
    closed: bool,
    /// A test lets the process "die": nothing leaves the queue any more.
    #[cfg(test)]
    lost: bool,
}

impl Default for State {
    fn default() -> State {
        State {
            requests: VecDeque::new(),
            submitted: 0,
            done: 0,
            since: Instant::now(),
            closed: false,
            #[cfg(test)]
            lost: false,
        }
    }
}

impl Queue {
    /// Puts `request` at the end.
    pub(super) fn push(&self, request: Request) {
        let mut state = self.state.lock();
        if state.submitted == state.done {
            state.since = Instant::now();
        }
        state.submitted += 1;
        state.requests.push_back(request);
        drop(state);
        self.filled.notify_one();
    }

    /// Waits for work and takes what has gathered, in order, up to `max_requests` and about `max_bytes`; `None` once the
    /// queue is closed and empty.
    pub(super) fn take(&self, max_requests: usize, max_bytes: usize) -> Option<Vec<Request>> {
        let mut state = self.state.lock();
        #[cfg(test)]
        while state.lost {
            if state.closed {
                return None;
            }
            self.filled.wait(&mut state);
        }
        while state.requests.is_empty() {
            if state.closed {
                return None;
            }
            self.filled.wait(&mut state);
            #[cfg(test)]
            if state.lost {
                drop(state);
                return self.take(max_requests, max_bytes);
            }
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < max_requests && bytes < max_bytes {
            let Some(request) = state.requests.pop_front() else { break };
            bytes += request.size();
            taken.push(request);
        }
        Some(taken)
    }

    /// Notes that `count` taken requests are finished.
    pub(super) fn finish(&self, count: usize) {
        let mut state = self.state.lock();
        state.done += count as u64;
        state.since = Instant::now();
    }

    /// Lets the writer end after what is queued.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_all();
    }

    /// What is queued now or later is never written, as if the process had died before the writer came to it.
    #[cfg(test)]
    pub(super) fn lose(&self) {
        self.state.lock().lost = true;
        self.filled.notify_all();
    }

    /// Counts of requests.
    pub(super) fn progress(&self) -> Progress {
        let state = self.state.lock();
        Progress { submitted: state.submitted, done: state.done }
    }

    /// For how long requests have been waiting without any being finished; `None` if none waits.
    pub(super) fn stalled_for(&self) -> Option<Duration> {
        let state = self.state.lock();
        (state.submitted > state.done).then(|| state.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_all_that_has_gathered_in_order() {
        let queue = Queue::default();
        assert_eq!(queue.stalled_for(), None);
        for index in 0..5 {
            queue.push(Request::Purge(crate::raft::types::log_id(1, index)));
        }
        assert!(queue.stalled_for().is_some());
        let taken = queue.take(3, usize::MAX).unwrap();
        let indices: Vec<u64> = taken.iter().map(|r| if let Request::Purge(id) = r { id.index } else { 99 }).collect();
        assert_eq!(indices, [0, 1, 2]);
        queue.finish(3);
        assert_eq!(queue.progress(), Progress { submitted: 5, done: 3 });
        assert!(queue.stalled_for().is_some(), "two are left");
        queue.close();
        assert_eq!(queue.take(3, usize::MAX).map(|taken| taken.len()), Some(2), "a closed queue is emptied first");
        queue.finish(2);
        assert!(queue.take(3, usize::MAX).is_none());
        assert_eq!(queue.stalled_for(), None);
    }
}
