//! Snapshots between replicas: a follower far behind is caught up by install, and goes on from there.

use std::time::{Duration, Instant};

use remuda_registry::{Command, Request};

use super::cluster::{Cluster, commit, eventually};
use crate::propose::Propose;

/// Writes about `entries` entries, each a frame of its own.
pub(super) async fn write(cluster: &Cluster, entries: usize) {
    let leader = cluster.nodes[&cluster.leader().await].clone();
    for _ in 0..entries {
        let deadline = Instant::now() + Duration::from_secs(10);
        let answers = leader.propose(vec![Request::unmarked(Command::Tick)], deadline).await;
        assert!(answers[0].is_ok(), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_far_behind_is_caught_up_by_a_snapshot() {
    let mut cluster = Cluster::started(100).await;
    write(&cluster, 10).await;
    let behind = cluster.follower().await;
    cluster.kill(behind).await;
    write(&cluster, 350).await;
    let leader = cluster.leader().await;
    let node = cluster.nodes[&leader].clone();
    eventually("the leader has a snapshot", || node.status().own.snapshot > 100).await;
    let committed = commit(&node, Command::Tick).await;
    cluster.start(&[behind]).await;
    cluster.agree(committed.revision).await;
    let jumps = cluster.recorders[&behind].jumps.lock().clone();
    assert_eq!(jumps.len(), 2, "once at start, once by the snapshot: {jumps:?}");
    assert!(jumps[1] > jumps[0]);
    let rows = cluster.nodes[&behind].rows().await.unwrap();
    assert!(rows.revision() >= committed.revision, "the rows came with it");
    drop(rows);
    let state = cluster.data_dir(behind).join("replica/state");
    eventually("the old database and the received folder are gone", || {
        let names: Vec<_> =
            std::fs::read_dir(&state).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        let count = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
        count("db-") == 1 && count("incoming-") == 0 && count("snap-") == 1
    })
    .await;
    cluster.kill(behind).await;
    cluster.start(&[behind]).await;
    cluster.agree(committed.revision).await;
}
