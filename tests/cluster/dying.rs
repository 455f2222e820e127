//! Every place to die in: one test per row of the design's section 4, with a real process killed exactly there.
//!
//! Each asserts that its failpoint acted once and that the log stood as the row says; that every worker is Available
//! afterwards, that the promised answer was given, and that each transition stands once, is asserted for all by
//! `cluster.rs`.
//!
//! Never here: deaths of all replicas at once, and stopped ones.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use remuda_client::LeaseKey;
use remuda_wire::v1;
use rustix::process::Signal;

use crate::cluster::{Cluster, POOL, Shape, limits, processes_with, tried, until};
use crate::program;

/// The one event of this kind for the lease's worker, from the lease's grant on.
async fn only(cluster: &Cluster, kind: &str, key: &LeaseKey) -> Result<v1::Event> {
    let events = cluster.events_of(kind, key).await?;
    let mut events: Vec<_> = events.into_iter().filter(|event| event.revision > key.granted_revision).collect();
    ensure!(events.len() == 1, "{kind} of {} after {}: {events:?}", key.worker, key.granted_revision);
    Ok(events.remove(0))
}

#[test]
fn a_report_lands_in_the_term_after_its_leader_was_killed() {
    let shape = Shape { agents_fail: "agent.clean.before_files=sleep(2000)*1", ..Shape::default() };
    tried(shape, async |cluster| {
        let key = cluster.acquire().await?;
        cluster.run_job(&key, "echo dirt > dirt").await?;
        cluster.agents[0].open_gate()?;
        let answer = cluster.begin_return(&key).await?;
        cluster.agents[0].marked(1, limits::WAIT).await?;
        let leader = cluster.leader(None).await?;
        cluster.replicas[leader].kill()?;
        ensure!(cluster.leader(Some(leader)).await? != leader);
        let ret = cluster.accepted(&answer.return_name).await?;
        ensure!(ret.result() == v1::r#return::Result::Accepted, "{ret:?}");
        cluster.replicas[leader].start("")?;

        let (began, ended) =
            (only(cluster, "WORKER_RETURNING", &key).await?, only(cluster, "WORKER_CLEANED", &key).await?);
        ensure!(ended.term > began.term, "returned in term {}, clean in term {}", began.term, ended.term);
        ensure!((ended.run, ended.attempt) == (began.run, 1), "{began:?} {ended:?}");
        ensure!(cluster.agents[0].marks() == ["agent.clean.before_files sleep"]);
        Ok(())
    });
}

#[test]
fn a_leader_that_dies_before_the_commit_of_a_return_leaves_the_worker_busy() {
    let shape = Shape { replicas_fail: "propose.before_write=abort*1", ..Shape::default() };
    tried(shape, async |cluster| {
        let key = cluster.acquire().await?;
        let leader = cluster.leader(None).await?;
        cluster.tick().await?;
        cluster.replicas[leader].open_gate()?;
        let answer = cluster.begin_return(&key).await?;
        cluster.replicas[leader].aborted(limits::WAIT).await?;
        cluster.replicas[leader].start("")?;
        cluster.accepted(&answer.return_name).await?;

        let (granted, began) = (only_grant(cluster, &key).await?, only(cluster, "WORKER_RETURNING", &key).await?);
        ensure!(began.term > granted.term, "the return is in the dead leader's term: {began:?}");
        ensure!(marks(cluster) == ["propose.before_write abort"]);
        Ok(())
    });
}

#[test]
fn a_leader_that_dies_after_the_commit_of_a_return_leaves_its_answer_behind() {
    let shape = Shape { replicas_fail: "propose.after_commit=abort*1", ..Shape::default() };
    tried(shape, async |cluster| {
        let key = cluster.acquire().await?;
        let leader = cluster.leader(None).await?;
        cluster.tick().await?;
        cluster.replicas[leader].open_gate()?;
        let answer = cluster.begin_return(&key).await?;
        cluster.replicas[leader].aborted(limits::WAIT).await?;
        cluster.replicas[leader].start("")?;
        cluster.accepted(&answer.return_name).await?;

        let (granted, began) = (only_grant(cluster, &key).await?, only(cluster, "WORKER_RETURNING", &key).await?);
        ensure!(began.term == granted.term, "the return was not committed by the dead leader: {began:?}");
        ensure!(answer.return_name == began.return_name, "{} {began:?}", answer.return_name);
        ensure!(marks(cluster) == ["propose.after_commit abort"]);
        Ok(())
    });
}

/// The grant of the lease.
async fn only_grant(cluster: &Cluster, key: &LeaseKey) -> Result<v1::Event> {
    let leased = cluster.events_of("WORKER_LEASED", key).await?;
    leased.into_iter().find(|event| event.epoch == key.epoch).context("the grant has an event")
}

/// What acted in all replicas.
fn marks(cluster: &Cluster) -> Vec<String> {
    cluster.replicas.iter().flat_map(|replica| replica.marks()).collect()
}

#[test]
fn an_agent_killed_in_the_middle_of_cleaning_is_replaced_in_the_same_attempt() {
    const PLACES: [&str; 4] =
        ["agent.clean.after_stop", "agent.files.after_aside", "agent.clean.before_temp", "agent.clean.before_receipt"];
    tried(Shape { agents_fail: "agent.clean.after_stop=abort*1", ..Shape::default() }, async |cluster| {
        for (at, place) in PLACES.iter().enumerate() {
            let key = cluster.acquire().await?;
            let stray = format!("4217.{}{}", std::process::id(), at);
            cluster.run_job(&key, &format!("mkdir d; echo x > d/f; setsid sleep {stray} > /dev/null 2>&1 &")).await?;
            cluster.agents[0].open_gate()?;
            let answer = cluster.begin_return(&key).await?;
            cluster.agents[0].aborted(limits::WAIT).await.with_context(|| (*place).to_owned())?;
            let next = PLACES.get(at + 1).map(|next| format!("{next}=abort*1")).unwrap_or_default();
            cluster.agents[0].start(&next)?;
            cluster.accepted(&answer.return_name).await.with_context(|| (*place).to_owned())?;

            let (began, ended) =
                (only(cluster, "WORKER_RETURNING", &key).await?, only(cluster, "WORKER_CLEANED", &key).await?);
            let replaced = only(cluster, "RUN_REPLACED", &key).await?;
            ensure!(replaced.run > began.run && ended.run == replaced.run, "{began:?} {replaced:?} {ended:?}");
            ensure!(replaced.attempt == 1, "a new session is no failed attempt: {replaced:?}");
            ensure!(processes_with(&stray).is_empty(), "{place}: a stray of the job is left");
            let expected: Vec<_> = PLACES[..=at].iter().map(|place| format!("{place} abort")).collect();
            ensure!(cluster.agents[0].marks() == expected, "{:?}", cluster.agents[0].marks());
            cluster.all_available().await?;
        }
        Ok(())
    });
}

#[test]
fn an_agent_that_dies_before_it_heard_that_its_report_was_accepted_reports_once() {
    let shape = Shape { agents_fail: "agent.report.after_answer=abort*1", ..Shape::default() };
    tried(shape, async |cluster| {
        let key = cluster.acquire().await?;
        cluster.agents[0].open_gate()?;
        let answer = cluster.begin_return(&key).await?;
        cluster.agents[0].aborted(limits::WAIT).await?;
        cluster.accepted(&answer.return_name).await?;
        cluster.agents[0].start("")?;
        let ended = only(cluster, "WORKER_CLEANED", &key).await?;
        ensure!(ended.run == only(cluster, "WORKER_RETURNING", &key).await?.run, "{ended:?}");
        ensure!(cluster.agents[0].marks() == ["agent.report.after_answer abort"]);
        // The worker can be leased again, by the new session.
        let next = cluster.acquire().await?;
        let answer = cluster.begin_return(&next).await?;
        cluster.accepted(&answer.return_name).await?;
        Ok(())
    });
}

/// A leader dies at `place` while an agent's report is on its way; the report is accepted once, in the same run.
fn a_leader_dies_under_a_report(place: &'static str, orders: &'static str) {
    let shape =
        Shape { replicas_fail: orders, agents_fail: "agent.report.before_send=sleep(50)*1", ..Shape::default() };
    tried(shape, async |cluster| {
        let key = cluster.acquire().await?;
        let leader = cluster.leader(None).await?;
        cluster.agents[0].open_gate()?;
        let answer = cluster.begin_return(&key).await?;
        cluster.agents[0].marked(1, limits::WAIT).await?;
        cluster.replicas[leader].open_gate()?;
        cluster.replicas[leader].aborted(limits::WAIT).await?;
        cluster.accepted(&answer.return_name).await?;
        cluster.replicas[leader].start("")?;
        let (began, ended) =
            (only(cluster, "WORKER_RETURNING", &key).await?, only(cluster, "WORKER_CLEANED", &key).await?);
        ensure!((ended.run, ended.attempt) == (began.run, 1), "{began:?} {ended:?}");
        ensure!(marks(cluster) == [format!("{place} abort")]);
        Ok(())
    });
}

#[test]
fn a_leader_that_dies_between_a_report_and_its_commit_is_told_again() {
    a_leader_dies_under_a_report("propose.before_write", "propose.before_write=abort*1");
}

#[test]
fn a_leader_that_dies_after_a_report_was_committed_is_told_again() {
    a_leader_dies_under_a_report("propose.after_commit", "propose.after_commit=abort*1");
}

#[test]
fn a_leader_that_dies_between_ready_and_available_leaves_the_admission_to_the_next() {
    // The first command behind the gate is the uncordoning, the second the admission that it makes due.
    let shape = Shape { replicas_fail: "propose.before_write=abort*2", ..Shape::default() };
    tried(shape, async |cluster| {
        let held = cluster.acquire().await?;
        let workers = cluster.client.list(v1::ListWorkersRequest { parent: POOL.into(), ..Default::default() }).await?;
        let free = workers.workers.into_iter().find(|worker| worker.name != held.worker.as_str());
        let name = free.context("two workers")?.name;
        cluster.client.write(v1::CordonWorkerRequest { name: name.clone(), ..Default::default() }).await?;
        let leader = cluster.leader(None).await?;
        cluster.tick().await?;
        cluster.replicas[leader].open_gate()?;
        cluster.client.write(v1::UncordonWorkerRequest { name: name.clone(), ..Default::default() }).await?;
        cluster.replicas[leader].aborted(limits::WAIT).await?;
        let admitted = until("the admission", limits::WAIT, async || {
            let events = cluster.events().await?;
            let mut events = events.into_iter().filter(|event| event.worker == name);
            let uncordoned = events.find(|event| event.kind == "WORKER_UNCORDONED").context("it was uncordoned")?;
            let admitted = events.find(|event| event.kind == "WORKER_ADMITTED");
            Ok(admitted.map(|admitted| (uncordoned.term, admitted.term)))
        })
        .await?;
        ensure!(admitted.0 < admitted.1, "uncordoned and admitted in the terms {admitted:?}");
        ensure!(marks(cluster) == ["propose.before_write abort"]);
        cluster.replicas[leader].start("")?;
        let answer = cluster.begin_return(&held).await?;
        cluster.accepted(&answer.return_name).await?;
        Ok(())
    });
}

#[test]
fn a_report_of_a_session_that_has_ended_makes_no_worker_available() {
    let shape = Shape { agents: &[1], agents_fail: "agent.clean.before_receipt=sleep(300)*1", ..Shape::default() };
    tried(shape, async |cluster| {
        let key = cluster.acquire().await?;
        cluster.agents[0].open_gate()?;
        let answer = cluster.begin_return(&key).await?;
        cluster.agents[0].marked(1, limits::WAIT).await?;
        // The run is over but for its report when the agent stands still, and is long replaced when it goes on.
        cluster.agents[0].signal(Signal::STOP)?;
        let lost = until("the worker to be Lost", limits::WAIT, async || {
            let events = cluster.events_of("WORKER_LOST", &key).await?;
            Ok(events.into_iter().next())
        })
        .await;
        cluster.agents[0].signal(Signal::CONT)?;
        let lost = lost?;
        let ended = cluster.accepted(&answer.return_name).await;
        ensure!(ended.is_err(), "the return is told to have ended well: {ended:?}");
        cluster.all_available().await?;

        let returning = only(cluster, "WORKER_RETURNING", &key).await?;
        let reconnected = only(cluster, "WORKER_RECONNECTED", &key).await?;
        let clean = only(cluster, "WORKER_CLEANED", &key).await?;
        ensure!(lost.revision < reconnected.revision && reconnected.revision < clean.revision, "{reconnected:?}");
        ensure!(clean.run == reconnected.run && clean.run > returning.run, "{returning:?} {clean:?}");
        ensure!(cluster.agents[0].marks() == ["agent.clean.before_receipt sleep"]);
        Ok(())
    });
}

#[test]
fn a_client_that_dies_before_returning_loses_its_worker_to_the_deadline() {
    tried(Shape::default(), async |cluster| {
        let stray = format!("4218.{}", std::process::id());
        let mut run = Command::new(program::path())
            .args(["run", "--pool", "default", "--job", "orphan", "--ttl", "3s", "--", "sleep", &stray])
            .env("REMUDA_ENDPOINTS", cluster.endpoints())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let started = until("the job", limits::WAIT, async || {
            // The client names the job's command as well.
            Ok((processes_with(&stray).len() > 1).then_some(()))
        });
        let started = started.await;
        run.kill()?;
        run.wait()?;
        started?;
        let expired = until("the deadline", limits::WAIT, async || {
            let events = cluster.events().await?;
            Ok(events.into_iter().find(|event| event.kind == "WORKER_RETURNING" && event.cause == "LEASE_EXPIRED"))
        })
        .await?;
        cluster.all_available().await?;
        ensure!(processes_with(&stray).is_empty(), "the job of the dead client still runs");
        let events = cluster.events().await?;
        let grant = events.iter().find(|event| event.kind == "WORKER_LEASED").context("a grant")?;
        ensure!(grant.worker == expired.worker && grant.job_id == "orphan", "{grant:?} {expired:?}");
        let held = Duration::from_millis(expired.log_time_ms - grant.log_time_ms);
        ensure!(held >= Duration::from_secs(3), "expired after {held:?}");
        Ok(())
    });
}
