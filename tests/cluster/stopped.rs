//! Leaders that are told to end, and leaders that stand still: SIGTERM, SIGSTOP and SIGCONT.
//!
//! Never here: deaths.

use std::cell::Cell;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use remuda_client::{Acquire, LeaseKey, endpoints};
use remuda_wire::v1;
use remuda_wire::v1::cluster_service_client::ClusterServiceClient;
use remuda_wire::v1::event_service_client::EventServiceClient;
use remuda_wire::v1::worker_service_client::WorkerServiceClient;
use rustix::process::Signal;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::cluster::{Cluster, Shape, limits, tried, until};

/// What a shutdown is promised to take.
mod promised {
    use std::time::Duration;

    /// Until another replica leads.
    pub(super) const HANDOVER: Duration = Duration::from_secs(5);
    /// Until the process has ended.
    pub(super) const EXIT: Duration = Duration::from_secs(15);
}

/// A connection to one replica, without the client's retries.
fn straight_to(cluster: &Cluster, replica: usize) -> Result<Channel> {
    Ok(endpoints::channel(&format!("http://{}", cluster.endpoint(replica)))?)
}

/// Asks one replica for a worker.
async fn read(channel: Channel, worker: String, patience: Duration) -> Result<v1::GetWorkerResponse, Status> {
    let mut request = Request::new(v1::GetWorkerRequest { name: worker, read: None });
    request.set_timeout(patience);
    let answer = tokio::time::timeout(patience, WorkerServiceClient::new(channel).get_worker(request)).await;
    Ok(answer.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner())
}

/// That an answer shows a lease which was acknowledged before it was asked for.
fn is_fresh(answer: &v1::GetWorkerResponse, key: &LeaseKey) -> Result<()> {
    let header = answer.header.as_ref().context("every answer has a header")?;
    let epoch = answer.worker.as_ref().and_then(|worker| worker.lease.as_ref()).map(|lease| lease.epoch);
    ensure!(
        header.revision >= key.granted_revision && epoch == Some(key.epoch) && !header.stale,
        "epoch {} was granted at {}, later this was read: {answer:?}",
        key.epoch,
        key.granted_revision
    );
    Ok(())
}

#[test]
fn followers_serve_fresh_reads_themselves_and_none_when_the_leader_stands_still() {
    tried(Shape { agents: &[1], ..Shape::default() }, async |cluster| {
        let leader = cluster.leader(None).await?;
        let followers: Vec<usize> = (0..3).filter(|replica| *replica != leader).collect();
        for _ in 0..5 {
            let key = cluster.acquire().await?;
            for follower in &followers {
                let answer = read(straight_to(cluster, *follower)?, key.worker.to_string(), limits::WAIT).await?;
                is_fresh(&answer, &key)?;
                let served_by = answer.header.map_or(0, |header| header.served_by);
                ensure!(served_by == *follower as u64 + 1, "replica {served_by} answered for {}", follower + 1);
            }
            let answer = cluster.begin_return(&key).await?;
            cluster.accepted(&answer.return_name).await?;
        }

        let first = cluster.acquire().await?;
        cluster.replicas[leader].signal(Signal::STOP)?;
        let began = Instant::now();
        let mut answered = 0;
        while began.elapsed() < Duration::from_secs(3) {
            for follower in &followers {
                let channel = straight_to(cluster, *follower)?;
                if let Ok(answer) = read(channel, first.worker.to_string(), Duration::from_millis(500)).await {
                    is_fresh(&answer, &first)?;
                    answered += 1;
                }
            }
        }
        ensure!(answered > 0, "the followers elected no leader among them");

        // The one that stood still must not answer with what it knew.
        let answer = cluster.begin_return(&first).await?;
        cluster.accepted(&answer.return_name).await?;
        let second = cluster.acquire().await?;
        let old = straight_to(cluster, leader)?;
        let asked: Vec<_> =
            (0..20).map(|_| tokio::spawn(read(old.clone(), second.worker.to_string(), limits::STOP))).collect();
        // The questions lie in the socket before it runs again.
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.replicas[leader].signal(Signal::CONT)?;
        for answer in asked {
            match answer.await? {
                Ok(answer) => is_fresh(&answer, &second)?,
                Err(status) => ensure!(status.code() == tonic::Code::Unavailable, "{status:?}"),
            }
        }
        let answer = cluster.begin_return(&second).await?;
        cluster.accepted(&answer.return_name).await?;
        Ok(())
    });
}

/// A lease for `TTL`, renewed by its client, lives through `trouble` and for longer than `TTL` after it.
fn a_renewed_lease_outlives(trouble: impl AsyncFnOnce(&mut Cluster, Duration) -> Result<()>) {
    const TTL: Duration = Duration::from_secs(3);
    tried(Shape::default(), async |cluster| {
        let asked = cluster.asked();
        let mut acquire = Acquire::new("pools/default", "patient".parse()?);
        acquire.ttl = Some(TTL);
        let mut lease = cluster.client.acquire(&acquire).await?;
        let key = lease.key().clone();
        cluster.note_acquire(asked, &key, Duration::ZERO);
        trouble(cluster, TTL + TTL / 2).await?;
        let ended = tokio::time::timeout(TTL + TTL / 2, lease.ended()).await;
        ensure!(ended.is_err(), "{ended:?}");
        let ended = cluster.events_of("WORKER_RETURNING", &key).await?;
        ensure!(ended.is_empty(), "{ended:?}");
        let answer = cluster.begin_return(&key).await?;
        cluster.accepted(&answer.return_name).await?;
        Ok(())
    });
}

#[test]
fn a_renewed_lease_outlives_a_leader_that_stands_still_for_longer_than_it() {
    a_renewed_lease_outlives(async |cluster, time| {
        let leader = cluster.leader(None).await?;
        cluster.replicas[leader].signal(Signal::STOP)?;
        tokio::time::sleep(time).await;
        cluster.replicas[leader].signal(Signal::CONT)
    });
}

#[test]
fn a_renewed_lease_outlives_a_cluster_that_stands_still_for_longer_than_it() {
    a_renewed_lease_outlives(async |cluster, time| {
        for replica in &cluster.replicas {
            replica.signal(Signal::STOP)?;
        }
        tokio::time::sleep(time).await;
        for replica in &cluster.replicas {
            replica.signal(Signal::CONT)?;
        }
        Ok(())
    });
}

#[test]
fn a_renewed_lease_outlives_a_storm_of_elections() {
    /// Changes of leadership that make it a storm.
    const CHANGES: u32 = 6;
    a_renewed_lease_outlives(async |cluster, time| {
        let (began, mut changes) = (Instant::now(), 0);
        while began.elapsed() < time || changes < CHANGES {
            ensure!(began.elapsed() < limits::WAIT, "only {changes} changes of leadership");
            let leader = cluster.leader(None).await?;
            // Nobody may be near enough at this moment.
            if cluster.client.ask(v1::TransferLeaderRequest { to: 0 }).await.is_ok() {
                cluster.leader(Some(leader)).await?;
                changes += 1;
            }
        }
        Ok(())
    });
}

/// Acquires and returns until `done`; the calls may be tried again by the client, but none may fail.
async fn load(cluster: &Cluster, done: &Cell<bool>) -> Result<u32> {
    let mut rounds = 0;
    loop {
        let last = done.get();
        let key = cluster.acquire().await?;
        let answer = cluster.begin_return(&key).await?;
        cluster.accepted(&answer.return_name).await?;
        rounds += 1;
        if last {
            return Ok(rounds);
        }
    }
}

/// Who leads, as one replica says.
async fn leader_seen_by(cluster: &Cluster, replica: usize) -> Result<u64> {
    let mut client = ClusterServiceClient::new(straight_to(cluster, replica)?);
    let mut request = Request::new(v1::GetClusterStatusRequest {});
    request.set_timeout(Duration::from_secs(2));
    Ok(client.get_cluster_status(request).await?.into_inner().leader_id)
}

#[test]
fn a_leader_that_is_told_to_end_hands_over_and_no_client_sees_more_than_a_retry() {
    tried(Shape::default(), async |cluster| {
        let leader = cluster.leader(None).await?;
        let other = (leader + 1) % 3;
        let idle = TcpStream::connect(cluster.endpoint(leader))?;
        let request = v1::WatchEventsRequest { start_revision: 1, ..Default::default() };
        let mut watch =
            EventServiceClient::new(straight_to(cluster, leader)?).watch_events(request).await?.into_inner();
        ensure!(watch.message().await?.is_some(), "the watch is open");

        let mut process = cluster.replicas.remove(leader);
        // Numbers of replicas are places in the list, so the rest of the test speaks of endpoints only.
        let done = Cell::new(false);
        let end = async {
            let result = async {
                let began = Instant::now();
                process.signal(Signal::TERM)?;
                until("another leader", promised::HANDOVER, async || {
                    let seen = leader_seen_by(cluster, other).await?;
                    Ok((seen != 0 && seen != leader as u64 + 1).then_some(()))
                })
                .await?;
                let left = promised::EXIT.saturating_sub(began.elapsed());
                let status = process.ended(left).await?;
                ensure!(status.success(), "the leader ended with {status}");
                Ok(())
            }
            .await;
            done.set(true);
            result
        };
        let (rounds, ended) = tokio::join!(load(cluster, &done), end);
        ended.with_context(|| process.tail())?;
        ensure!(rounds? > 0);
        process.start("")?;
        cluster.replicas.insert(leader, process);
        drop((idle, watch));
        Ok(())
    });
}
