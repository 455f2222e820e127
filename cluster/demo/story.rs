//! The story: what happens in the demonstration, in order, and how it is judged.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::answers::{Event, PoolStats, Replica, Return, Worker, list, one, short};
use crate::cluster::{Cluster, wait_for};
use crate::jobs;
use crate::outside::Look;
use crate::report::{self, Verdict, heading};

/// Workers in the demonstration.
const WORKERS: u32 = 4;
/// Grace between TERM and KILL: long enough for the leader to be killed and another to be elected within it.
const STOP_GRACE: &str = "4s";
/// An election takes about a second; the machine may be busy.
const ELECTED_WITHIN: Duration = Duration::from_secs(15);
/// All jobs and all returns, on a busy machine.
const DONE_WITHIN: Duration = Duration::from_secs(90);

/// Where the demonstration keeps things.
struct Places {
    data: PathBuf,
    further: PathBuf,
}

/// What was seen of the leader's death.
struct Killed {
    leader: String,
    elected_after: Duration,
    new_leader: String,
}

/// Tells the whole story; true if the verdict holds.
pub(crate) fn tell() -> Result<bool> {
    let temp = tempfile::Builder::new().prefix("remuda-demo-").tempdir()?;
    let places = Places { data: temp.path().join("data"), further: temp.path().join("further") };
    std::fs::create_dir_all(&places.data)?;
    for worker in 1..=WORKERS {
        std::fs::create_dir_all(places.further.join(format!("w-{worker}")))?;
    }
    let exact = std::env::var_os(crate::INSIDE).is_some();
    let before = Look::now(&[&places.further])?;
    let mut verdict = Verdict::default();

    heading("Three replicas and four workers");
    let cluster = Cluster::start(&places.data, WORKERS)?;
    println!("  ready after {:.1} s; clients: {}", cluster.ready_after.as_secs_f64(), cluster.endpoints);
    name_further_folder(&cluster, &places)?;

    let killed = run_jobs(&cluster, &mut verdict)?;
    let workers = wait_for("every worker to be Available", DONE_WITHIN, || {
        let workers: Vec<Worker> = list(&cluster.ask(&["worker", "list"])?, "workers")?;
        let all = workers.len() == WORKERS as usize && workers.iter().all(|w| w.state == "STATE_AVAILABLE");
        Ok(all.then_some(workers))
    })?;
    verdict.says(true, format!("all {WORKERS} workers are Available"));
    judge_catching_up(&cluster, &killed, &mut verdict)?;

    report::workers(&workers);
    let returns = judge_returns(&cluster, &mut verdict)?;
    judge_events(&cluster, &returns, &killed, &mut verdict)?;
    let stats: PoolStats = one(&cluster.ask(&["pool", "stats", "default"])?, "stats")?;
    report::figures(&stats);
    verdict.says(
        stats.returns_succeeded == u64::from(jobs::COUNT) && stats.returns_failed == 0,
        format!("{} of {} returns succeeded", stats.returns_succeeded, jobs::COUNT),
    );

    let stopped = cluster.stop()?;
    println!("\n  the cluster stopped in {:.1} s", stopped.as_secs_f64());
    judge_from_outside(&places, &before, exact, &mut verdict)?;
    Ok(verdict.print())
}

/// Tells the pool that jobs may write to a further folder, which cleaning then empties.
fn name_further_folder(cluster: &Cluster, places: &Places) -> Result<()> {
    let pools = include_str!("pools.toml").replace("@FURTHER@", &places.further.display().to_string());
    let file = places.data.with_extension("pools.toml");
    std::fs::write(&file, pools.replace("@STOP_GRACE@", STOP_GRACE))?;
    cluster.run(&["pool", "apply", "-f", &file.display().to_string()])?;
    println!("  pool default: jobs may also write to {}", places.further.display());
    Ok(())
}

/// Runs all jobs, kills the leader while the stubborn job's worker is being cleaned, and waits for the jobs.
fn run_jobs(cluster: &Cluster, verdict: &mut Verdict) -> Result<Killed> {
    heading(&format!("{} jobs, each of which leaves dirt", jobs::COUNT));
    let mut running = Vec::new();
    for number in 1..=jobs::COUNT {
        running.push((number, jobs::start(cluster, number, number % 4 == 0)?));
    }
    let killed = kill_leader_in_return(cluster)?;
    let mut wrong = Vec::new();
    for (number, child) in running {
        let out = child.wait_with_output()?;
        let line = String::from_utf8_lossy(&out.stdout);
        println!("  {}: exit {}; {}", jobs::id(number), out.status.code().unwrap_or(-1), line.trim());
        if out.status.code() != Some(jobs::status(number)) {
            wrong.push(format!("{} {}: {}", jobs::id(number), out.status, String::from_utf8_lossy(&out.stderr).trim()));
        }
    }
    verdict.says(wrong.is_empty(), format!("every job's exit status came through {}", wrong.join("; ")));
    Ok(killed)
}

/// Waits until the stubborn job's return has been started by the agent, and kills the leader with -9.
fn kill_leader_in_return(cluster: &Cluster) -> Result<Killed> {
    let stubborn = jobs::id(jobs::STUBBORN);
    let open = wait_for("the stubborn job's worker to be Cleaning", DONE_WITHIN, || {
        let returns: Vec<Return> = list(&cluster.ask(&["returns", "list"])?, "returns")?;
        Ok(returns.into_iter().find(|r| r.job_id == stubborn))
    })?;
    if open.ended_revision != 0 {
        bail!("the return of {stubborn} was over before the leader could be killed");
    }
    let leader = cluster.leader(ELECTED_WITHIN)?;
    let child = cluster.replica(&leader)?;
    let pid = i32::try_from(child.pid).ok().and_then(rustix::process::Pid::from_raw).context("a pid is positive")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    let began = Instant::now();
    println!(
        "  {stubborn}: {} is Cleaning; killed the leader, replica {leader} (pid {}), with -9",
        short(&open.worker),
        child.pid
    );
    let new_leader = wait_for("another leader", ELECTED_WITHIN, || {
        let id = cluster.leader(ELECTED_WITHIN)?;
        Ok((id != leader).then_some(id))
    })?;
    let elected_after = began.elapsed();
    println!("  replica {new_leader} leads after {:.2} s", elected_after.as_secs_f64());
    Ok(Killed { leader, elected_after, new_leader })
}

/// The killed replica was started again and has the others' state.
fn judge_catching_up(cluster: &Cluster, killed: &Killed, verdict: &mut Verdict) -> Result<()> {
    let same = wait_for("the restarted replica to catch up", DONE_WITHIN, || {
        let replicas: Vec<Replica> = list(&cluster.ask(&["cluster", "status"])?, "replicas")?;
        let back = replicas.iter().any(|r| r.id.to_string() == killed.leader && r.role == "FOLLOWER");
        let agree = replicas.windows(2).all(|r| r[0].applied == r[1].applied && r[0].digest == r[1].digest);
        Ok((back && agree && replicas.len() == 3).then(|| (replicas[0].applied, replicas[0].digest.clone())))
    })?;
    verdict.says(
        !same.1.is_empty(),
        format!("replica {} came back; all three are at revision {} with digest {}", killed.leader, same.0, same.1),
    );
    verdict.says(
        killed.new_leader != killed.leader,
        format!("another replica led {:.2} s after the kill", killed.elected_after.as_secs_f64()),
    );
    Ok(())
}

/// Every job has one return, and each was accepted with every step observed.
fn judge_returns(cluster: &Cluster, verdict: &mut Verdict) -> Result<Vec<Return>> {
    let listed: Vec<Return> = list(&cluster.ask(&["returns", "list"])?, "returns")?;
    let mut returns = Vec::new();
    // A worker that joins is cleaned too, and that has a row of its own; only those that follow a job are meant here.
    for r in listed.iter().filter(|r| !r.job_id.is_empty()) {
        returns.push(one::<Return>(&cluster.ask(&["returns", "get", &r.name])?, "ret")?);
    }
    returns.sort_by_key(|r| r.began_revision);
    report::returns(&returns);
    let mut jobs_seen: Vec<&str> = returns.iter().map(|r| r.job_id.as_str()).collect();
    jobs_seen.sort_unstable();
    let wanted: Vec<String> = (1..=jobs::COUNT).map(jobs::id).collect();
    verdict.says(jobs_seen == wanted, "every job has exactly one return");
    let clean = returns.iter().all(|r| {
        let observed = r.receipt.steps.iter().all(|s| s.observed && s.outcome == "OUTCOME_DONE");
        r.result == "RESULT_ACCEPTED" && !r.receipt.steps.is_empty() && observed
    });
    verdict.says(clean, "every return was accepted, with each step's post-condition observed");
    Ok(returns)
}

/// The stubborn job's return began in one term and was reported clean in a later one; no event stands twice.
fn judge_events(cluster: &Cluster, returns: &[Return], killed: &Killed, verdict: &mut Verdict) -> Result<()> {
    let messages = cluster.ask_lines(&["events", "--since", "1"])?;
    let mut events: Vec<Event> = Vec::new();
    for message in &messages {
        events.push(serde_json::from_value(message.clone()).with_context(|| format!("unexpected event {message}"))?);
    }
    let places: Vec<(u64, u32)> = events.iter().map(|e| (e.revision, e.ordinal)).collect();
    verdict.says(places.windows(2).all(|p| p[0] < p[1]), format!("{} events, each once and in order", events.len()));

    let stubborn =
        returns.iter().find(|r| r.job_id == jobs::id(jobs::STUBBORN)).context("the stubborn job's return")?;
    let span = stubborn.began_revision..=stubborn.ended_revision;
    let of_return: Vec<&Event> =
        events.iter().filter(|e| e.worker == stubborn.worker && span.contains(&e.revision)).collect();
    report::events(&stubborn.job_id, &of_return);
    let (began, ended) = (of_return.first().context("a first event")?, of_return.last().context("a last event")?);
    verdict.says(
        began.to == "STATE_CLEANING" && ended.term > began.term,
        format!(
            "its return began in term {} under replica {} and was reported clean in term {}",
            began.term, killed.leader, ended.term
        ),
    );
    Ok(())
}

/// No process and no file of any job is left.
fn judge_from_outside(places: &Places, before: &Look, exact: bool, verdict: &mut Verdict) -> Result<()> {
    let after = Look::now(&[&places.further])?;
    let processes = after.new_processes(before, exact, &places.data);
    let scope = if exact { "the whole process table" } else { "the process table, by mark and working folder" };
    verdict.says(
        processes.is_empty(),
        format!("no process is left ({scope}, {} before) {}", before.process_count(), processes.join("; ")),
    );
    let mut files: Vec<String> = after.new_files(before).iter().map(|p| p.display().to_string()).collect();
    let job_files = Look::now(&[&places.data])?;
    files.extend(job_files.named(&["object.o", "scratch.", "left-by-"]).iter().map(|p| p.display().to_string()));
    verdict.says(files.is_empty(), format!("no file of a job is left {}", files.join("; ")));
    Ok(())
}
