//! Digest marks: this replica's at each, reported through the log, and held against the majority's.
//!
//! Apply says which entries are marks; everything else is done here, beside it. A report that does not get through is
//! tried again for a while and then dropped: a missing report says nothing.
//!
//! Invariants
//! * A replica whose digest at a mark differs from what a majority reported stops; it hands over first where it leads.
//!
//! Never here: deciding what a mark is, counting reports (the registry).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use remuda_registry::limits::DIGEST_MARKS_MAX;
use remuda_registry::{Command, Request};
use tokio::sync::mpsc;

use crate::propose::Propose;
use crate::raft::state::shared::Mark;
use crate::raft::{Node, StopReason};

/// How long one try to report may take.
const REPORT_DEADLINE: Duration = Duration::from_secs(5);
/// Tries before a report is dropped.
const REPORT_TRIES: u32 = 10;
/// Pause between tries, and between looks at what the others reported.
const PAUSE: Duration = Duration::from_secs(1);
/// A diverged leader hands over within this time, or stops as the leader.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Reports what comes in on `marks` until the node stops.
pub(crate) fn start(node: &Node, marks: mpsc::UnboundedReceiver<Mark>) {
    tokio::spawn(run(node.clone(), marks));
}

async fn run(node: Node, mut marks: mpsc::UnboundedReceiver<Mark>) {
    let mut own: VecDeque<Mark> = VecDeque::new();
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let mut looks = tokio::time::interval(PAUSE);
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            mark = marks.recv() => {
                let Some(mark) = mark else { return };
                tracing::info!(revision = mark.revision.0, digest = %mark.digest, "digest mark");
                tokio::spawn(report(node.clone(), mark));
                own.push_back(mark);
                if own.len() > DIGEST_MARKS_MAX {
                    own.pop_front();
                }
            }
            _ = looks.tick(), if !own.is_empty() => {
                if let Some(text) = own.iter().find_map(|mark| difference(&node, mark)) {
                    return leave(&node, text).await;
                }
            }
        }
    }
}

/// What is wrong with this replica's digest at `mark`, once a majority has spoken.
fn difference(node: &Node, mark: &Mark) -> Option<String> {
    let majority = node.read(|state| state.reported(mark.revision))?;
    (majority != mark.digest).then(|| {
        format!("at revision {} this replica's digest is {}, the majority's {majority}", mark.revision.0, mark.digest)
    })
}

async fn leave(node: &Node, text: String) {
    tracing::error!(%text, "this replica's state differs from the majority's: it stops");
    // It stops either way.
    let _ = node.transfer_leader(None, Instant::now() + HAND_OVER).await;
    node.stop(StopReason::Diverged(text));
}

async fn report(node: Node, mark: Mark) {
    let stopped = node.stopped();
    tokio::select! {
        () = try_to_report(&node, mark) => {}
        _ = stopped => {}
    }
}

async fn try_to_report(node: &Node, mark: Mark) {
    let command = Command::ReportDigest { mark: mark.revision, replica: node.replica_id(), digest: mark.digest };
    for _ in 0..REPORT_TRIES {
        let requests = vec![Request::unmarked(command.clone())];
        let answers = node.propose(requests, Instant::now() + REPORT_DEADLINE).await;
        // The first report per replica and mark counts, so a second after an unknown outcome does no harm; a refusal
        // will not change.
        if answers.iter().all(Result::is_ok) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    tracing::warn!(revision = mark.revision.0, "a digest was not reported");
}
