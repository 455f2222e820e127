//! The README's figures, measured on three replicas and four workers of this machine.
//!
//! The latency of a return is what its holder sees: from the call of `return_worker_to_pool` after a job that did
//! nothing until the answer that the worker is clean, checked and back. The gap is what a client sees when the leader
//! is killed with -9: from the signal to the next acquire that succeeds, sent at once and tried again by the library.
//!
//! Never here: a figure taken from a mock, or from the servers' own word.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use remuda_client::{Acquire, Client, JobId};

use crate::answers::{PoolStats, Replica, Worker, list, one};
use crate::cluster::{Cluster, wait_for};

/// Returns measured; p99 then rests on ten of them.
const RETURNS: usize = 1_000;
/// Leaders killed; their p99 is the longest.
const KILLS: usize = 20;
/// Workers, as in the demonstration.
const WORKERS: u32 = 4;
/// For a replica that was killed to be started again and to catch up.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// For any single acquire or return here; far above what is measured.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures and prints; true if the four figures meet the story's.
pub(crate) fn measure() -> Result<bool> {
    let temp = tempfile::Builder::new().prefix("remuda-figures-").tempdir()?;
    let data = temp.path().join("data");
    std::fs::create_dir_all(&data)?;
    let cluster = Cluster::start(&data, WORKERS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = {
        let _entered = runtime.enter();
        Client::new(cluster.endpoints.split(','))?
    };

    let mut latencies = runtime.block_on(returns(&client))?;
    let stats: PoolStats = one(&cluster.ask(&["pool", "stats", "default"])?, "stats")?;
    let mut gaps = Vec::new();
    for _ in 0..KILLS {
        gaps.push(runtime.block_on(gap(&cluster, &client))?);
        settle(&cluster)?;
    }
    cluster.stop()?;

    let kind = if cfg!(debug_assertions) { "dev" } else { "release" };
    println!("{kind} build, 3 replicas, {WORKERS} workers, all on one machine with {} cores", cores());
    println!(
        "  returns                  {} of {} succeeded",
        stats.returns_succeeded,
        stats.returns_succeeded + stats.returns_failed
    );
    println!("  health checks            {} per mille passed", stats.health_pass_permille);
    println!("  reuse                    {} per mille of {} leases", stats.reuse_permille, stats.leases);
    println!("  return, empty job        {}", spread(&mut latencies));
    println!("  gap after kill -9        {}", spread(&mut gaps));
    Ok(stats.returns_failed == 0 && stats.health_pass_permille > 950 && stats.reuse_permille > 800)
}

/// Acquires, runs a job that does nothing, and returns, one after the other; the time of each return.
async fn returns(client: &Client) -> Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(RETURNS);
    for n in 0..RETURNS {
        let job: JobId = format!("figure-{n}").parse()?;
        let lease = client.acquire(&Acquire::new("pools/default", job).wait(PATIENCE)).await?;
        let execution = client.execution(lease.key())?;
        execution.start(vec!["true".to_owned()], HashMap::new(), false).await?;
        let mut attached = execution.attach();
        while let Some(part) = attached.next().await {
            part?;
        }
        let began = Instant::now();
        client.return_worker_to_pool(lease.worker(), lease.job()).await?;
        took.push(began.elapsed());
    }
    Ok(took)
}

/// Kills the leader and acquires at once; the time until that succeeds. The worker is returned.
async fn gap(cluster: &Cluster, client: &Client) -> Result<Duration> {
    let leader = cluster.leader(SETTLED_WITHIN)?;
    let pid = i32::try_from(cluster.replica(&leader)?.pid).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.context("a pid is positive")?, rustix::process::Signal::KILL)?;
    let began = Instant::now();
    let job: JobId = format!("after-{leader}").parse()?;
    let lease = client.acquire(&Acquire::new("pools/default", job).wait(PATIENCE)).await?;
    let took = began.elapsed();
    client.return_worker_to_pool(lease.worker(), lease.job()).await?;
    Ok(took)
}

/// Waits until all replicas agree and all workers are Available again.
fn settle(cluster: &Cluster) -> Result<()> {
    wait_for("the cluster to settle", SETTLED_WITHIN, || {
        let replicas: Vec<Replica> = list(&cluster.ask(&["cluster", "status"])?, "replicas")?;
        let workers: Vec<Worker> = list(&cluster.ask(&["worker", "list"])?, "workers")?;
        let agree = replicas.windows(2).all(|r| r[0].applied == r[1].applied && r[0].digest == r[1].digest);
        let roles = replicas.iter().filter(|r| matches!(r.role.as_str(), "LEADER" | "FOLLOWER")).count();
        let free = workers.iter().filter(|w| w.state == "STATE_AVAILABLE").count();
        Ok((agree && roles == 3 && free == WORKERS as usize).then_some(()))
    })
}

/// Median, 99th percentile and the ends, by the nearest rank.
fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let rank = |permille: usize| times[(times.len() * permille).div_ceil(1000).saturating_sub(1)];
    let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
    match times.len() {
        0 => "nothing measured".to_owned(),
        n => format!(
            "p50 {}, p99 {}, least {}, most {} ({n} times)",
            ms(rank(500)),
            ms(rank(990)),
            ms(rank(0)),
            ms(rank(1000))
        ),
    }
}

/// The machine's cores.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
