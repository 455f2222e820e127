//! Sessions against a registry made for the test.

use std::sync::atomic::Ordering;

use crate::fake::{Registry, Rig, eventually};

const W1: &str = "pools/ci/workers/w-1";
const W2: &str = "pools/ci/workers/w-2";
const W3: &str = "pools/ci/workers/w-3";

#[tokio::test]
async fn an_assignment_is_run_reported_and_answered() {
    let rig = Rig::new(1).await;
    let run = rig.registry.assign(W1);
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("the report", |memory| memory.reports.iter().any(|report| report.worker == W1)).await;
    // The open replaced the run that was open before it.
    rig.registry.until("accepted", |memory| memory.accepted == [run + 1]).await;
    eventually("idle", || !agent.crew.cleaning()).await;
    agent.stop().await;
    assert_eq!(rig.cleaner.finished(), [(W1.to_owned(), run + 1)]);
}

#[tokio::test]
async fn an_open_whose_answer_was_lost_is_sent_again_under_the_same_incarnation() {
    let rig = Rig::new(1).await;
    rig.replicas[0].faults.lose_opens.store(2, Ordering::SeqCst);
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("three opens", |memory| memory.opens.len() == 3 && !memory.heartbeats.is_empty()).await;
    agent.stop().await;
    let memory = rig.registry.memory.lock();
    assert!(memory.opens.iter().all(|open| open.incarnation == 1), "{:?}", memory.opens);
    let first = memory.heartbeats[0].session;
    assert!(memory.heartbeats.iter().all(|beat| beat.session == first));
}

#[tokio::test]
async fn a_report_whose_answer_was_lost_is_sent_again_and_is_the_same() {
    let rig = Rig::new(2).await;
    for replica in &rig.replicas {
        replica.faults.lose_reports.store(1, Ordering::SeqCst);
    }
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("live", |memory| !memory.heartbeats.is_empty()).await;
    rig.cleaner.hold(true);
    let run = rig.registry.assign(W1);
    eventually("started", || rig.cleaner.at_work() == [(W1.to_owned(), run)]).await;
    // The watch lags, so that only the answer can end the reporting.
    rig.lag(true);
    rig.cleaner.hold(false);
    rig.registry.until("three reports", |memory| memory.reports.len() == 3).await;
    rig.lag(false);
    eventually("idle", || !agent.crew.cleaning()).await;
    agent.stop().await;
    let memory = rig.registry.memory.lock();
    assert!(memory.reports.iter().all(|report| *report == memory.reports[0]), "{:#?}", memory.reports);
    assert_eq!(memory.accepted, [run]);
    assert_eq!(rig.cleaner.finished(), [(W1.to_owned(), run)], "the run was carried out once");
}

#[tokio::test]
async fn a_session_that_ended_is_followed_by_a_new_one_that_redoes_its_runs() {
    let rig = Rig::new(2).await;
    rig.cleaner.hold(true);
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("live", |memory| !memory.heartbeats.is_empty()).await;
    let old = rig.registry.assign(W1);
    eventually("started", || rig.cleaner.at_work() == [(W1.to_owned(), old)]).await;
    rig.registry.end_session();
    // The replacing run starts only when the replaced one is joined.
    eventually("replaced", || rig.cleaner.at_work() == [(W1.to_owned(), old + 1)]).await;
    rig.cleaner.hold(false);
    rig.registry.until("accepted", |memory| memory.accepted == [old + 1]).await;
    agent.stop().await;
    let memory = rig.registry.memory.lock();
    let incarnations: Vec<_> = memory.opens.iter().map(|open| open.incarnation).collect();
    assert_eq!(incarnations, [1, 2]);
    assert!(memory.reports.iter().all(|report| report.run == old + 1), "nothing is reported of the old run");
    assert!(!rig.cleaner.overlapped());
}

#[tokio::test]
async fn an_agent_moves_on_from_a_replica_that_falls_silent() {
    let rig = Rig::new(2).await;
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("live", |memory| memory.heartbeats.len() > 1).await;
    for silent in [0, 1] {
        let before = rig.registry.memory.lock().heartbeats.len();
        rig.replicas[silent].faults.silent.store(true, Ordering::SeqCst);
        let run = rig.registry.assign(W1);
        rig.registry.until("heartbeats elsewhere", |memory| memory.heartbeats.len() > before + 3).await;
        rig.registry.until("the run", |memory| memory.accepted.contains(&run)).await;
        rig.replicas[silent].faults.silent.store(false, Ordering::SeqCst);
    }
    assert!(rig.replicas.iter().all(|replica| replica.faults.served.load(Ordering::SeqCst) > 1));
    assert_eq!(rig.registry.memory.lock().opens.len(), 1, "the session went on");
    agent.stop().await;
}

#[tokio::test]
async fn a_watch_that_lags_behind_the_leader_is_dropped_for_another_replica() {
    let rig = Rig::new(2).await;
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("live", |memory| !memory.heartbeats.is_empty()).await;
    for lagging in [0, 1] {
        rig.replicas[lagging].faults.lags.store(true, Ordering::SeqCst);
        let run = rig.registry.assign(W1);
        rig.registry.until("the run", |memory| memory.accepted.contains(&run)).await;
        rig.replicas[lagging].faults.lags.store(false, Ordering::SeqCst);
    }
    agent.stop().await;
}

#[tokio::test]
async fn runs_beyond_the_places_wait_and_heartbeats_say_so() {
    let rig = Rig::new(1).await;
    rig.cleaner.hold(true);
    let agent = rig.start(&["w-1", "w-2", "w-3"], 1);
    rig.registry.until("live", |memory| !memory.heartbeats.is_empty()).await;
    for worker in [W1, W2, W3] {
        rig.registry.assign(worker);
    }
    rig.registry
        .until("one started and two queued", |memory| {
            let phases = memory.heartbeats.last().map(|beat| beat.progress.iter().map(|p| p.phase).collect::<Vec<_>>());
            phases.is_some_and(|mut phases| {
                phases.sort_unstable();
                phases == [1, 1, 2]
            })
        })
        .await;
    assert_eq!(rig.cleaner.at_work().len(), 1);
    rig.cleaner.hold(false);
    rig.registry.until("all three", |memory| memory.accepted.len() == 3).await;
    assert_eq!(rig.cleaner.most_at_once(), 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_refused_registration_is_tried_again_and_the_others_are_served_meanwhile() {
    let rig = Rig::new(1).await;
    rig.registry.change(|memory| memory.refuses.push(W2.into()));
    let agent = rig.start(&["w-1", "w-2"], 2);
    rig.registry.until("live", |memory| !memory.heartbeats.is_empty()).await;
    let run = rig.registry.assign(W1);
    rig.registry.until("the other's run", |memory| memory.accepted.contains(&run)).await;
    rig.registry.change(|memory| memory.refuses.clear());
    rig.registry.until("opened again", |memory| memory.opens.len() > 1).await;
    let run = rig.registry.assign(W2);
    rig.registry.until("its run", |memory| memory.accepted.contains(&run)).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_restarted_agent_ignores_what_a_lagging_replica_still_shows() {
    let rig = Rig::new(1).await;
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("live", |memory| !memory.heartbeats.is_empty()).await;
    let run = rig.registry.assign(W1);
    rig.registry.until("the run", |memory| memory.accepted.contains(&run)).await;
    agent.stop().await;

    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("live again", |memory| memory.opens.len() == 2).await;
    // The worker is Busy again, but what is shown is the run from before, at a revision that looks new.
    let old = shown_run(run);
    rig.registry.change(|memory| memory.assignments.insert(W1.into(), old));
    let beats = rig.registry.memory.lock().heartbeats.len();
    rig.registry
        .until("the watch passed it", |memory| {
            let passed = memory.heartbeats[beats..].iter().any(|beat| beat.watch_revision >= memory.revision);
            passed && memory.heartbeats.len() > beats + 3
        })
        .await;
    assert_eq!(rig.cleaner.finished(), [(W1.to_owned(), run)], "carried out once, before the restart");
    agent.stop().await;
}

fn shown_run(run: u64) -> remuda_wire::v1::Assignment {
    let registry = Registry::new();
    registry.change(|memory| {
        memory.token = run - 1;
        memory.assign(W1);
        memory.assignments[W1].clone()
    })
}

#[tokio::test]
async fn a_stopping_agent_joins_its_runs_and_the_next_one_takes_a_higher_incarnation() {
    let rig = Rig::new(1).await;
    rig.cleaner.hold(true);
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("live", |memory| !memory.heartbeats.is_empty()).await;
    let run = rig.registry.assign(W1);
    eventually("started", || rig.cleaner.at_work() == [(W1.to_owned(), run)]).await;
    agent.stop().await;
    assert_eq!(rig.cleaner.at_work(), [], "cancelled and joined");
    rig.cleaner.hold(false);
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("the replaced run", |memory| memory.accepted == [run + 1]).await;
    let opens: Vec<_> = rig.registry.memory.lock().opens.iter().map(|open| open.incarnation).collect();
    assert_eq!(opens, [1, 2]);
    agent.stop().await;
}

#[tokio::test]
async fn a_report_of_an_ended_session_has_no_effect_and_is_given_up() {
    let rig = Rig::new(1).await;
    rig.cleaner.hold(true);
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("live", |memory| !memory.heartbeats.is_empty()).await;
    let old = rig.registry.assign(W1);
    eventually("started", || rig.cleaner.at_work() == [(W1.to_owned(), old)]).await;
    // The run ends while nothing is answered; the session ends before its report arrives.
    rig.replicas[0].faults.silent.store(true, Ordering::SeqCst);
    rig.cleaner.hold(false);
    eventually("finished", || rig.cleaner.finished() == [(W1.to_owned(), old)]).await;
    rig.registry.end_session();
    rig.replicas[0].faults.silent.store(false, Ordering::SeqCst);
    rig.registry.until("the replacing run", |memory| memory.accepted == [old + 1]).await;
    eventually("idle", || !agent.crew.cleaning()).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_worker_retired_for_good_is_acknowledged_and_not_registered_again() {
    let rig = Rig::new(1).await;
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("live", |memory| !memory.heartbeats.is_empty()).await;
    rig.registry.change(|memory| memory.retire(W1));
    let acknowledged = |memory: &crate::fake::Memory| memory.heartbeats.last().is_some_and(|beat| beat.retired == [W1]);
    rig.registry.until("the acknowledgement", acknowledged).await;
    agent.stop().await;
    // The next process remembers, and goes on acknowledging.
    rig.registry.change(|memory| memory.heartbeats.clear());
    let agent = rig.start(&["w-1"], 1);
    rig.registry.until("the acknowledgement again", acknowledged).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_worker_retired_while_the_agent_was_away_is_learned_of_and_not_tried_again() {
    let rig = Rig::new(1).await;
    rig.registry.change(|memory| {
        memory.refusal = "WORKER_RETIRED";
        memory.refuses.push(W1.into());
        memory.retire(W1);
    });
    let agent = rig.start(&["w-1"], 1);
    let acknowledged = |memory: &crate::fake::Memory| memory.heartbeats.last().is_some_and(|beat| beat.retired == [W1]);
    rig.registry.until("the acknowledgement", acknowledged).await;
    assert_eq!(rig.registry.memory.lock().opens.len(), 1);
    agent.stop().await;
}
