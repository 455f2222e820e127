//! Deaths of everything at once, and processes that must not run twice.
//!
//! Never here: single deaths.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use remuda_client::LeaseKey;

use crate::cluster::{Cluster, Shape, limits, tried};

#[test]
fn what_was_acknowledged_is_there_after_all_replicas_were_killed_at_once() {
    tried(Shape { agents: &[3], ..Shape::default() }, async |cluster| {
        let (kept, returned) = (cluster.acquire().await?, cluster.acquire().await?);
        keep_busy(cluster, Duration::from_secs(1)).await?;
        // Nothing lies between this answer and the deaths.
        let answer = cluster.begin_return(&returned).await?;
        for replica in &mut cluster.replicas {
            replica.signal(rustix::process::Signal::KILL)?;
        }
        for replica in &mut cluster.replicas {
            replica.ended(limits::STOP).await?;
            replica.start("")?;
        }
        cluster.accepted(&answer.return_name).await?;
        let request = remuda_wire::v1::GetLeaseRequest { worker: kept.worker.to_string(), read: None };
        let lease = cluster.client.ask(request).await?.lease.context("the lease is there")?;
        ensure!((lease.epoch, lease.job_id.as_str()) == (kept.epoch, kept.job.as_str()), "{lease:?}");
        let renewed = cluster.client.renew(&kept, None).await?;
        ensure!(renewed.refused.is_empty(), "{renewed:?}");
        let answer = cluster.begin_return(&kept).await?;
        cluster.accepted(&answer.return_name).await?;
        Ok(())
    });
}

/// Acquires and returns the free worker for a while.
async fn keep_busy(cluster: &Cluster, time: Duration) -> Result<()> {
    let began = std::time::Instant::now();
    while began.elapsed() < time {
        let key: LeaseKey = cluster.acquire().await?;
        let answer = cluster.begin_return(&key).await?;
        cluster.accepted(&answer.return_name).await?;
    }
    Ok(())
}

#[test]
fn a_dead_follower_does_not_keep_its_leader_busy() {
    const WHILE: Duration = Duration::from_secs(2);
    tried(Shape::default(), async |cluster| {
        let leader = cluster.leader(None).await?;
        let follower = (leader + 1) % cluster.replicas.len();
        cluster.replicas[follower].kill()?;
        let key = cluster.acquire().await?;
        let before = cluster.replicas[leader].busy()?;
        tokio::time::sleep(WHILE).await;
        let busy = cluster.replicas[leader].busy()? - before;
        ensure!(busy < WHILE / 3, "the leader was busy for {busy:?} of {WHILE:?}");
        cluster.replicas[follower].start("")?;
        let answer = cluster.begin_return(&key).await?;
        cluster.accepted(&answer.return_name).await?;
        Ok(())
    });
}

#[test]
fn a_second_agent_on_the_same_folder_refuses_to_run() {
    tried(Shape::default(), async |cluster| {
        let before = cluster.events().await?.len();
        let (status, text) = cluster.agents[0].run_double(limits::STOP).await?;
        ensure!(!status.success(), "a second agent ended with {status}");
        ensure!(text.contains("agent-1"), "it does not name its folder: {text}");
        let after = cluster.events().await?;
        ensure!(after.len() == before, "the second agent was heard: {:?}", &after[before..]);
        let key = cluster.acquire().await?;
        let answer = cluster.begin_return(&key).await?;
        cluster.accepted(&answer.return_name).await?;
        Ok(())
    });
}
