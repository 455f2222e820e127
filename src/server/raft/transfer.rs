//! Handing leadership over: on request, before a planned stop, and before a sick leader ends.
//!
//! Never here: deciding when.

use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use remuda_registry::ReplicaId;

use super::node::{Node, StopReason, TransferError};

mod limits {
    use std::time::Duration;

    /// Without a quorum's answer for this long on top of the lease, a hand-over is given up: an election, had one begun,
    /// would have been heard of by then.
    pub(super) const SILENCE: Duration = Duration::from_millis(600);
    /// Between two looks: short beside `SILENCE`.
    pub(super) const LOOK: Duration = Duration::from_millis(50);
}

impl Node {
    /// Hands leadership over, to the voter that is nearest where none is named, and waits until another leads.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn transfer_leader(&self, to: Option<ReplicaId>, deadline: Instant) -> Result<ReplicaId, TransferError> {
        let me = self.inner.parties.identity().replica;
        let leader = self.inner.raft.as_leader().map_err(|_| TransferError::NotLeader)?;
        let to = self.successor(to.map(|id| id.0))?;
        let failed = |error: openraft::errors::Fatal<_>| TransferError::NoSuccessor(error.to_string());
        tracing::info!(to, term = leader.term(), "handing leadership over");
        self.inner.raft.trigger().transfer_leader(to).await.map_err(failed)?;
        let wait = self.inner.raft.wait(Some(deadline.saturating_duration_since(Instant::now())));
        let taken = wait
            .metrics(|metrics| metrics.current_leader.is_some_and(|leader| leader != me), "leadership is handed over");
        let metrics = tokio::select! {
            metrics = taken => metrics.map_err(|_| TransferError::Late)?,
            () = self.quorum_lost() => return Err(TransferError::NoSuccessor("no quorum answers".to_owned())),
        };
        Ok(ReplicaId(metrics.current_leader.unwrap_or(to)))
    }

    /// Waits until no quorum has answered this leader for [`limits::SILENCE`] on end: then nobody is there to take over,
    /// as when all replicas are stopped at once.
    async fn quorum_lost(&self) {
        let mut heard = Instant::now();
        while heard.elapsed() < limits::SILENCE {
            tokio::time::sleep(limits::LOOK).await;
            if self.clock().has_quorum() {
                heard = Instant::now();
            }
        }
    }

    /// The voter to hand over to: the one asked for, else the one that has the most of the log.
    fn successor(&self, wanted: Option<u64>) -> Result<u64, TransferError> {
        let me = self.inner.parties.identity().replica;
        let (voters, replication) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched().clone();
            (metrics.membership_config.voter_ids().collect::<Vec<_>>(), metrics.replication.unwrap_or_default())
        };
        if let Some(wanted) = wanted {
            let fits = wanted != me && voters.contains(&wanted);
            return fits
                .then_some(wanted)
                .ok_or_else(|| TransferError::NoSuccessor(format!("{wanted} is no other voter")));
        }
        let others = voters.into_iter().filter(|id| *id != me);
        let nearest = others.max_by_key(|id| replication.get(id).copied().flatten());
        nearest.ok_or_else(|| TransferError::NoSuccessor("there is no other voter".to_owned()))
    }

    /// Hands leadership over where it leads (at most `patience`; zero does not try), then stops Raft and the peer port.
    pub async fn shutdown(&self, patience: Duration) {
        if !patience.is_zero() {
            self.step_down(patience).await;
        }
        self.stop(StopReason::Asked);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "openraft did not stop cleanly");
        }
        self.inner.slot.write().take();
        // The server may have ended by itself.
        let _ = self.inner.stop_serving.send(()).await;
    }

    async fn step_down(&self, patience: Duration) {
        match self.transfer_leader(None, Instant::now() + patience).await {
            Ok(to) => tracing::info!(to = to.0, "another replica leads"),
            Err(TransferError::NotLeader) => {}
            Err(error) => tracing::warn!(%error, "stopping as the leader"),
        }
    }
}
