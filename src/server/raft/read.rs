//! Linearizable reads: one question to the quorum serves everybody who asked before it.
//!
//! A leader may have been deposed without knowing; so a read first has the quorum confirm it, at a revision that is at
//! or above every write acknowledged before the read began. Questions that arrive while one is out wait for the next,
//! however many they are. Never by lease: a follower that restarts forgets that it granted one.
//!
//! Invariants
//! * The question that answers a read was asked after the read arrived.
//!
//! Never here: waiting for this replica to have applied (`node`), asking the leader from a follower.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use openraft::raft::ReadPolicy;
use remuda_registry::Revision;
use tokio::sync::{mpsc, oneshot};

use super::Raft;
use super::node::ReadError;

/// Reads that may wait for one question; above that they are refused.
const READS_MAX: usize = 65_536;
/// A question unanswered for this long has failed: the quorum is gone, or an election is on.
pub(super) const ROUND_MAX: Duration = Duration::from_secs(2);

/// A confirmed revision, and the term in which it was confirmed.
pub type Confirmed = Result<(Revision, u64), ReadError>;

/// Asks on behalf of all readers.
#[derive(Clone)]
pub struct ReadIndex {
    readers: mpsc::Sender<oneshot::Sender<Confirmed>>,
}

impl ReadIndex {
    /// Starts the task that asks by `ask`. It ends when the last handle is dropped.
    pub fn start(ask: impl Fn() -> BoxFuture<'static, Confirmed> + Send + 'static) -> ReadIndex {
        let (readers, queue) = mpsc::channel(READS_MAX);
        tokio::spawn(run(ask, queue));
        ReadIndex { readers }
    }

    /// A revision confirmed after this call began.
    ///
    /// # Errors
    /// [`ReadError::NoLeader`] where no quorum confirms it.
    pub async fn confirm(&self, deadline: Instant) -> Confirmed {
        let (reply, answer) = oneshot::channel();
        self.readers.try_send(reply).map_err(|_| ReadError::Stopping)?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(answer) => answer.unwrap_or(Err(ReadError::Stopping)),
            Err(_) => Err(ReadError::Deadline),
        }
    }
}

async fn run(
    ask: impl Fn() -> BoxFuture<'static, Confirmed> + Send + 'static,
    mut queue: mpsc::Receiver<oneshot::Sender<Confirmed>>,
) {
    let mut readers = Vec::new();
    while queue.recv_many(&mut readers, READS_MAX).await > 0 {
        let round = tokio::time::timeout(ROUND_MAX, ask()).await;
        let answer = round.unwrap_or(Err(ReadError::NoLeader { hint: None }));
        // A reader that has gone does not hear it.
        readers.drain(..).for_each(|reader: oneshot::Sender<Confirmed>| drop(reader.send(answer.clone())));
    }
}

/// Has the quorum confirm that this replica leads, and up to where every acknowledged write reaches.
///
/// # Errors
/// [`ReadError::NoLeader`] where it does not.
pub async fn ask_quorum(raft: &Raft) -> Confirmed {
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => {
            let id = linearizer.read_log_id();
            Ok((Revision(id.index()), raft.as_leader().map_or(0, |leader| leader.term())))
        }
        Err(_) => Err(ReadError::NoLeader { hint: None }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn readers_share_a_question_that_was_asked_after_they_came() {
        let asked = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&asked);
        let reads = ReadIndex::start(move || {
            let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok((Revision(number), 1))
            })
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        let reader = || {
            tokio::spawn({
                let reads = reads.clone();
                async move { reads.confirm(deadline).await }
            })
        };
        let first = reader();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let late: Vec<_> = (0..50).map(|_| reader()).collect();
        assert_eq!(first.await.unwrap(), Ok((Revision(1), 1)));
        for reader in late {
            assert_eq!(reader.await.unwrap(), Ok((Revision(2), 1)), "the first question was out already");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
