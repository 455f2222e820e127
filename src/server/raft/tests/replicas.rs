//! Three replicas: bootstrap, proposals and reads from anywhere, death and return, leadership handed over.

use std::time::{Duration, Instant};

use remuda_registry::{Command, Outcome, ReplicaId, Request};
use remuda_wire::raft::v1 as peer;

use super::cluster::{Cluster, PATIENCE, commit, eventually, propose};
use crate::propose::{Propose, ProposeError};
use crate::raft::{ReadError, StartError};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_bootstrap_and_take_proposals_anywhere() {
    let cluster = Cluster::started(10_000).await;
    let leader = cluster.leader().await;
    let mut last = None;
    for (id, node) in &cluster.nodes {
        let committed = propose(node, Command::Tick).await.unwrap_or_else(|error| panic!("at {id}: {error}"));
        assert_eq!(committed.result, Ok(Outcome::Ticked));
        assert!(last < Some(committed.revision), "revisions grow");
        last = Some(committed.revision);
        let read = node.read_index(soon()).await.unwrap();
        assert!(Some(read) >= last, "a read at {id} sees the write");
    }
    let names: Vec<_> = cluster.nodes.values().map(|node| node.cluster_id()).collect();
    assert!(!names[0].is_empty() && names.iter().all(|name| *name == names[0]), "{names:?}");
    cluster.agree(last.unwrap()).await;
    let hint = cluster.nodes[&leader].leadership().borrow().leader.clone().unwrap();
    assert_eq!((hint.id, hint.client), (ReplicaId(leader), format!("client-{leader}:1")));
    let stands = cluster.nodes[&1].cluster().await;
    assert_eq!(stands.len(), 3);
    assert!(stands.iter().all(|(_, _, status)| status.as_ref().is_ok_and(|status| status.leader_id == leader)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_entry_is_published_once_and_in_order_everywhere() {
    let cluster = Cluster::started(10_000).await;
    let node = cluster.nodes[&cluster.follower().await].clone();
    let requests = |count| vec![Request::unmarked(Command::Tick); count];
    let proposals: Vec<_> = (0..40).map(|_| tokio::spawn(node.propose(requests(25), soon()))).collect();
    let mut ordinals = Vec::new();
    for proposal in proposals {
        let answers = proposal.await.unwrap();
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
        let positions: Vec<_> = answers.iter().map(|answer| (answer.revision, answer.ordinal)).collect();
        assert!(positions.is_sorted_by(|a, b| a < b), "one caller's commands keep their order");
        ordinals.extend(positions);
    }
    ordinals.sort_unstable();
    ordinals.dedup();
    assert_eq!(ordinals.len(), 1000, "each command has a place of its own");
    let last = ordinals.last().unwrap().0;
    cluster.agree(last).await;
    for (id, recorder) in &cluster.recorders {
        let published = recorder.published.lock();
        let begin = published[0].0.0;
        let expected: Vec<_> = (begin..).take(published.len()).collect();
        assert_eq!(published.iter().map(|(revision, _)| revision.0).collect::<Vec<_>>(), expected, "replica {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_catches_up_when_it_returns() {
    let mut cluster = Cluster::started(10_000).await;
    let first = cluster.leader().await;
    let term = cluster.nodes[&first].leadership().borrow().term;
    commit(&cluster.nodes[&first], Command::Tick).await;
    cluster.kill(first).await;
    let second = cluster.leader().await;
    assert_ne!(first, second);
    let committed = commit(&cluster.nodes[&second], Command::Tick).await;
    assert!(committed.term > term);
    cluster.start(&[first]).await;
    cluster.agree(committed.revision).await;
    let read = cluster.nodes[&first].read_index(soon()).await.unwrap();
    assert!(read >= committed.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_replicas_restart_with_what_was_acknowledged() {
    let mut cluster = Cluster::started(10_000).await;
    let leader = cluster.leader().await;
    let name = cluster.nodes[&leader].cluster_id();
    let committed = commit(&cluster.nodes[&leader], Command::Tick).await;
    for id in [1, 2, 3] {
        cluster.kill(id).await;
    }
    cluster.start(&[1, 2, 3]).await;
    cluster.agree(committed.revision).await;
    assert!(cluster.nodes.values().all(|node| node.cluster_id() == name));
    let later = commit(&cluster.nodes[&1], Command::Tick).await;
    assert!(later.revision > committed.revision && later.term > committed.term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_neither_writes_nor_reads() {
    let mut cluster = Cluster::started(10_000).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    for id in others {
        cluster.kill(id).await;
    }
    let node = &cluster.nodes[&leader];
    let deadline = Instant::now() + Duration::from_secs(3);
    let answer = node.propose(vec![Request::unmarked(Command::Tick)], deadline).await.remove(0);
    assert!(answer.is_err(), "{answer:?}");
    let read = node.read_index(Instant::now() + Duration::from_secs(3)).await;
    assert!(matches!(read, Err(ReadError::NoLeader { .. } | ReadError::Deadline)), "{read:?}");
    eventually("the leader loses contact with the quorum", || !node.clock().has_quorum()).await;
    let stood = node.clock().now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.clock().now(), stood, "log time stands still without a quorum");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request_and_on_shutdown() {
    let mut cluster = Cluster::started(10_000).await;
    let first = cluster.leader().await;
    let to = cluster.follower().await;
    let taken = cluster.nodes[&first].transfer_leader(Some(ReplicaId(to)), soon()).await;
    assert_eq!(taken, Ok(ReplicaId(to)));
    assert_eq!(cluster.leader().await, to);
    let begun = Instant::now();
    let node = cluster.nodes.remove(&to).unwrap();
    node.shutdown(Duration::from_secs(5)).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "it did not wait in vain");
    let next = cluster.leader().await;
    assert_ne!(next, to);
    commit(&cluster.nodes[&next], Command::Tick).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_time_runs_on_the_leader_and_is_heard_by_followers() {
    let cluster = Cluster::started(10_000).await;
    let leader = cluster.nodes[&cluster.leader().await].clone();
    let follower = cluster.nodes[&cluster.follower().await].clone();
    let (real, log) = (Instant::now(), leader.clock().now());
    eventually("log time passes", || leader.clock().now().since(log).0 >= 1_000).await;
    assert!(leader.clock().now().since(log).0 <= u64::try_from(real.elapsed().as_millis()).unwrap() + 100);
    let then = leader.clock().now();
    eventually("the follower hears it", || follower.clock().now() >= then).await;
    assert!(follower.clock().now() <= leader.clock().now());
    eventually("contact is fresh", || follower.clock().contact_age().is_some_and(|age| age < Duration::from_secs(1)))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_followers_relay_reaches_the_leaders_hook() {
    let cluster = Cluster::started(10_000).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let beat = peer::RelayedBeat { agent_id: "a".into(), session: 100, age_ms: 1 };
    for id in [leader, follower] {
        let response = cluster.nodes[&id].relay(vec![beat.clone()], Vec::new(), soon()).await.unwrap();
        assert_eq!((response.ended, response.term > 0), (vec![100 + id], true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_another_term_are_refused_as_absent() {
    let cluster = Cluster::started(10_000).await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[&leader].leadership().borrow().term;
    let tick = || vec![Request::unmarked(Command::Tick)];
    assert!(cluster.nodes[&leader].propose_in_term(term, tick(), soon()).await[0].is_ok());
    let stale = cluster.nodes[&leader].propose_in_term(term - 1, tick(), soon()).await.remove(0);
    assert!(matches!(stale, Err(ProposeError::NoLeader { hint: Some(_) })), "{stale:?}");
    let follower = cluster.follower().await;
    let foreign = cluster.nodes[&follower].propose_in_term(term, tick(), soon()).await.remove(0);
    assert!(matches!(foreign, Err(ProposeError::NoLeader { .. })), "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_its_folder_stays_out() {
    let mut cluster = Cluster::started(10_000).await;
    let lost = cluster.follower().await;
    cluster.kill(lost).await;
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    let start = tokio::time::timeout(PATIENCE, cluster.starting(lost)).await.unwrap();
    match start {
        Err(StartError::Lost(error)) => assert!(error.to_string().starts_with("REPLICA_LOST"), "{error}"),
        Err(error) => panic!("another reason: {error}"),
        Ok(_) => panic!("it lost its data and yet it runs"),
    }
    let leader = cluster.leader().await;
    commit(&cluster.nodes[&leader], Command::Tick).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_do_not_bootstrap() {
    let mut cluster = Cluster::new(10_000);
    let starts: Vec<_> = [1, 2].map(|id| tokio::spawn(cluster.starting(id))).into();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(starts.iter().all(|start| !start.is_finished()), "one peer is silent");
    let third = cluster.starting(3);
    let third = tokio::time::timeout(PATIENCE, third).await.unwrap().unwrap();
    for start in starts {
        tokio::time::timeout(PATIENCE, start).await.unwrap().unwrap().unwrap();
    }
    assert!(!third.cluster_id().is_empty());
}
