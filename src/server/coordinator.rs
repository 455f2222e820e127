//! The coordinator: proposes what the clock demands, while this replica leads.
//!
//! `registry::due` knows what is owed; this loop asks it, proposes its answer, and asks again when that is applied. It
//! decides nothing, so two leaders asking at once do no harm: the later proposal is refused.
//!
//! Invariants
//! * At most one batch of due commands is in flight.
//! * A batch goes behind the renewals that had arrived.
//!
//! Never here: deadlines, the state's rules.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_registry::Request;

use crate::propose::Propose as _;
use crate::service::Replica;

/// Bounds of the loop.
mod limits {
    use std::time::Duration;

    /// Asked again this often while nothing is owed, and after a refusal.
    pub(super) const TICK: Duration = Duration::from_millis(100);
    /// A batch without an answer for this long is given up; it is owed again.
    pub(super) const PATIENCE: Duration = Duration::from_secs(5);
}

/// Proposes what is owed until the replica closes.
pub async fn run(replica: Arc<Replica>) {
    loop {
        let pause = match replica.node.clock().leads_in() {
            Some(term) => step(&replica, term).await,
            None => limits::TICK,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = replica.closed() => return,
        }
    }
}

/// Proposes one batch, and says when to ask again.
async fn step(replica: &Replica, term: u64) -> Duration {
    let owed = replica.node.read(remuda_registry::due);
    if owed.is_empty() {
        return limits::TICK;
    }
    let count = owed.len();
    let requests: Vec<Request> = owed.into_iter().map(Request::unmarked).collect();
    let batch = replica.node.propose_in_term(term, requests, Instant::now() + limits::PATIENCE);
    // Polled in this order, so that the renewals are queued first.
    let ((), answers) = futures_util::join!(replica.renewals.flush(replica), batch);
    let mut refused = 0;
    for answer in &answers {
        match answer {
            Ok(committed) => {
                if let Err(refusal) = &committed.result {
                    refused += 1;
                    tracing::debug!(term, %refusal, "what was due was refused");
                }
            }
            Err(error) => {
                refused += 1;
                tracing::debug!(term, %error, "what was due was not decided");
            }
        }
    }
    tracing::debug!(term, count, refused, "proposed what is due");
    if refused > 0 { limits::TICK } else { Duration::ZERO }
}
