//! What keeps a sick replica from dragging the cluster along: the stall guard and the disk guard.
//!
//! A replica whose log writer or apply makes no progress while work is queued may still answer heartbeats, and as the
//! leader would hold everything up. It hands over and ends its process; what restarts it finds the log as it was. Below
//! the disk reserve the replica only says so: the services then refuse what makes the state grow.
//!
//! Never here: refusing calls.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::raft::Node;

/// No progress for this long with work queued is a stall.
const STALLED_AFTER: Duration = Duration::from_secs(5);
/// How often progress and disk are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A stalled leader's try to hand over.
const HAND_OVER: Duration = Duration::from_secs(1);
/// The reserve must be exceeded by this share of itself before the disk counts as ample again: no flapping.
const AMPLE_SHARE: u64 = 8;

/// Watches `node` until it stops.
pub(crate) fn start(node: &Node, data_dir: PathBuf, reserve: u64) {
    tokio::spawn(run(node.clone(), data_dir, reserve));
}

async fn run(node: Node, data_dir: PathBuf, reserve: u64) {
    let mut apply = Progress::default();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stopped = node.stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            _ = looks.tick() => {}
        }
        look_at_disk(&node, &data_dir, reserve);
        let committed = node.committed();
        let applied = node.applied().borrow().revision.0;
        let apply_stalled = apply.stalled_for(applied, committed, Instant::now()) >= STALLED_AFTER;
        let log_stalled = node.log().stalled_for().is_some_and(|stalled| stalled >= STALLED_AFTER);
        if apply_stalled || log_stalled {
            give_up(&node, if log_stalled { "the log writer" } else { "apply" }).await;
        }
    }
}

/// The last progress seen.
#[derive(Debug, Default)]
struct Progress {
    done: u64,
    since: Option<Instant>,
}

impl Progress {
    /// How long `done` has stood still below `wanted`.
    fn stalled_for(&mut self, done: u64, wanted: u64, now: Instant) -> Duration {
        if done >= wanted || done != self.done || self.since.is_none() {
            *self = Progress { done, since: Some(now) };
        }
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

async fn give_up(node: &Node, part: &str) {
    tracing::error!(part, seconds = STALLED_AFTER.as_secs(), "no progress with work queued: the process ends");
    // With a stalled log this cannot be waited for; the others elect once this process is gone.
    let _ = node.transfer_leader(None, Instant::now() + HAND_OVER).await;
    std::process::abort();
}

fn look_at_disk(node: &Node, data_dir: &std::path::Path, reserve: u64) {
    let Ok(figures) = rustix::fs::statvfs(data_dir) else { return };
    let free = figures.f_bavail.saturating_mul(figures.f_frsize);
    let flag = &node.disk_flag();
    let low = flag.load(Ordering::Relaxed);
    let now_low = if low { free < reserve.saturating_add(reserve / AMPLE_SHARE) } else { free < reserve };
    if now_low != low {
        tracing::warn!(free, reserve, low = now_low, "disk reserve");
        flag.store(now_low, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_standing_still_with_work_queued_is_a_stall() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::default();
        assert_eq!(progress.stalled_for(5, 5, start), Duration::ZERO);
        assert_eq!(progress.stalled_for(5, 5, after(60)), Duration::ZERO, "idle");
        assert_eq!(progress.stalled_for(5, 9, after(64)), Duration::from_secs(4));
        assert_eq!(progress.stalled_for(6, 9, after(66)), Duration::ZERO, "slow is not stalled");
        assert_eq!(progress.stalled_for(6, 9, after(71)), Duration::from_secs(5));
    }
}
