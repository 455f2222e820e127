//! Corners: what meets only when two rules meet.

use super::{Group, acquire, named, worker};
use crate::command::{Command, Operation};
use crate::digest::Digest;
use crate::event::{Fact, ReturnResult};
use crate::id::{ReplicaId, Revision, SecretHash};
use crate::lease::{JobOutcome, Renewal};
use crate::limits;
use crate::outcome::{Cancelled, Outcome};
use crate::pool::PoolSpec;
use crate::refusal::{Refusal, RefusalCode};
use crate::selector::Labels;
use crate::time::{LogTime, Millis};
use crate::worker::{Cause, MaintenanceReason, StateKind, StopOnly, WorkerState};

fn reason(group: &Group) -> Option<&MaintenanceReason> {
    if let WorkerState::Maintenance(maintenance) = &group.row("w1").state { Some(&maintenance.reason) } else { None }
}

/// A group whose worker `w1` is Available.
fn with_worker() -> Group {
    let mut group = Group::new(PoolSpec::default());
    group.open(&[("w1", Labels::new())]);
    group.report("w1");
    group
}

#[test]
fn a_broken_worker_that_was_lost_comes_back_only_to_be_stopped() {
    let mut group = with_worker();
    let (id, epoch) = group.acquire("j1");
    group.give_back(&id, epoch, JobOutcome::Broken).expect("its holder returns it");
    let session = group.row("w1").session.expect("it is served");
    group.ok(Command::EndSession { session });
    assert_eq!(group.kind("w1"), StateKind::Lost);
    group.open(&[("w1", Labels::new())]);
    let cleaning = group.row("w1").cleaning().expect("it reconnects through Cleaning");
    assert_eq!((cleaning.cause, cleaning.stop_only), (Cause::Reconnected, Some(StopOnly::Broken)));
    group.report("w1");
    assert_eq!(reason(&group), Some(&MaintenanceReason::DeclaredBroken));
}

#[test]
fn a_held_worker_that_was_lost_keeps_its_evidence() {
    let mut group = with_worker();
    group.acquire("j1");
    group.operate("w1", Operation::Hold { now: true });
    let session = group.row("w1").session.expect("it is served");
    group.ok(Command::EndSession { session });
    group.open(&[("w1", Labels::new())]);
    assert_eq!(group.row("w1").cleaning().and_then(|cleaning| cleaning.stop_only), Some(StopOnly::Held));
    group.report("w1");
    assert_eq!(reason(&group), Some(&MaintenanceReason::Held));
    group.wait(Millis::hours(5));
    assert_eq!(group.row("w1").cleaning().map(|cleaning| cleaning.cause), Some(Cause::Retry), "hold.max_age is over");
    assert_eq!(group.row("w1").ladder, 0, "a hold is no rung");
}

#[test]
fn no_renewal_moves_a_deadline_back() {
    let mut group = with_worker();
    let (id, epoch) = group.acquire("j1");
    let mut renew = |ttl| {
        let renewal = Renewal { worker: id.clone(), epoch, secret: SecretHash([1; 32]), ttl };
        match group.ok(Command::RenewLeases { renewals: vec![renewal] }) {
            Outcome::Renewed { results } => results.into_iter().next().expect("one each").expect("it is held").granted,
            other => panic!("{other}"),
        }
    };
    assert_eq!(renew(Some(Millis::secs(50))), Millis::secs(50));
    assert_eq!(renew(Some(Millis::secs(2))), Millis::secs(50), "the holder was told 50 s");
    group.now += 49_000;
    let renewal = Renewal { worker: worker("w1"), epoch, secret: SecretHash([1; 32]), ttl: None };
    group.ok(Command::RenewLeases { renewals: vec![renewal] });
    assert_eq!(group.row("w1").lease().map(|lease| lease.deadline), Some(LogTime(51_000)), "2 s from now on");
}

#[test]
fn a_cancelled_grant_is_no_completed_lease() {
    let mut group = with_worker();
    // One rung of the ladder.
    group.operate("w1", Operation::Maintain { now: false });
    group.operate("w1", Operation::Resume);
    let mut receipt = group.receipt("w1");
    receipt.measures.disk_free_bytes = Some(1);
    group.report_with("w1", receipt).expect("it is accepted as bad news");
    group.wait(Millis::mins(2));
    group.report("w1");
    assert_eq!((group.kind("w1"), group.row("w1").ladder), (StateKind::Available, 1));

    let mark = named(&group, "r", 0);
    group.marked(mark.clone(), acquire("j1", Millis(0))).expect("w1 is free");
    let was = group.ok(Command::CancelAcquire { request: mark.id, not_after: mark.not_after });
    assert_eq!(was, Outcome::AcquireCancelled { was: Cancelled::Unclaimed { worker: worker("w1") } });
    group.report("w1");
    assert_eq!(group.row("w1").ladder, 1);
    let (id, epoch) = group.acquire("j2");
    group.give_back(&id, epoch, JobOutcome::Failure).expect("its holder returns it");
    assert_eq!(group.row("w1").ladder, 0, "a lease was completed");
}

#[test]
fn a_dispute_behind_a_settled_one_goes_on_refusing() {
    let mut group = with_worker();
    let mut marks = Vec::new();
    for _ in 0..2 {
        group.now += limits::DIGEST_MARK_EVERY.0;
        group.ok(Command::Tick);
        marks.push(Revision(group.state.revision().0));
    }
    let report = |group: &mut Group, mark: usize, replica, value| {
        let digest = Digest([value; 16]);
        group.ok(Command::ReportDigest { mark: marks[mark], replica: ReplicaId(replica), digest });
    };
    for mark in 0..2 {
        report(&mut group, mark, 1, 1);
        report(&mut group, mark, 2, 2);
    }
    assert_eq!(group.run(acquire("j", Millis(0))), Err(Refusal::Diverged { mark: marks[0] }));
    assert_eq!(crate::due(&group.state), []);
    report(&mut group, 0, 3, 1);
    assert_eq!(group.run(acquire("j", Millis(0))), Err(Refusal::Diverged { mark: marks[1] }));
    report(&mut group, 1, 3, 2);
    assert!(
        group.events.iter().any(|event| {
            matches!(&event.fact, Fact::DigestAgreed { differing, .. } if *differing == [ReplicaId(1)])
        })
    );
    group.acquire("j");
    assert_eq!(group.state.reported(marks[1]), Some(Digest([2; 16])));
}

#[test]
fn an_agent_is_forgotten_with_its_last_worker() {
    let mut group = with_worker();
    group.operate("w1", Operation::Retire { now: false });
    let session = group.row("w1").session.expect("it is served");
    group.ok(Command::AcknowledgeRetired { worker: worker("w1"), session });
    group.wait(Millis::hours(2));
    assert_eq!(group.state.worker(&worker("w1")), None);
    assert!(group.state.agent(&"a".into()).is_some(), "it is present");
    group.ok(Command::EndSession { session });
    assert!(group.state.agent(&"a".into()).is_none());
    group.open(&[("w2", Labels::new())]);
}

#[test]
fn the_receipt_of_another_generation_or_with_something_left_is_not_clean() {
    let mut group = Group::new(PoolSpec::default());
    group.open(&[("w1", Labels::new())]);
    let mut receipt = group.receipt("w1");
    receipt.steps[1].left = 1;
    group.report_with("w1", receipt).expect("it is accepted as bad news");
    assert_eq!(group.row("w1").cleaning().map(|cleaning| cleaning.attempt), Some(2));
    let mut receipt = group.receipt("w1");
    let mut twice = receipt.steps[0].clone();
    twice.observed = false;
    receipt.steps.push(twice);
    group.report_with("w1", receipt).expect("it is accepted as bad news");
    assert_eq!(group.row("w1").cleaning().map(|cleaning| cleaning.attempt), Some(3));
    let mut receipt = group.receipt("w1");
    receipt.generation += 1;
    group.report_with("w1", receipt).expect("it is accepted as bad news");
    assert_eq!(reason(&group), Some(&MaintenanceReason::CleaningFailed { step: "plan".into() }));
}

#[test]
fn a_run_keeps_the_settings_with_which_it_began() {
    let mut group = Group::new(PoolSpec::default());
    group.open(&[("w1", Labels::new())]);
    let mut spec = PoolSpec::default();
    spec.thresholds.clock_skew_ms_max = Some(1);
    let update = Command::UpdatePool { pool: "ci".into(), spec: Box::new(spec), etag: Some(1), actor: "test".into() };
    group.ok(update);
    group.report("w1");
    assert_eq!(group.kind("w1"), StateKind::Available, "the new threshold asks for what the old plan did not measure");
    let (id, epoch) = group.acquire("j");
    group.give_back(&id, epoch, JobOutcome::Success).expect("its holder returns it");
    group.report("w1");
    assert_eq!(group.kind("w1"), StateKind::Cleaning, "the clock was not measured");
    let failed = |event: &crate::event::Event| matches!(&event.fact, Fact::ReturnEnded(ended) if matches!(ended.result, ReturnResult::Failed(_)));
    assert!(!group.events.iter().any(failed), "attempts are left");
}

#[test]
fn an_answered_refusal_stays_refused_though_the_request_would_now_succeed() {
    let mut group = Group::new(PoolSpec::default());
    group.open(&[("w1", Labels::new())]);
    let mark = crate::frame::RequestMark { retry: true, ..named(&group, "r", 0) };
    let first = group.marked(mark.clone(), acquire("j", Millis(0)));
    assert_eq!(first.expect_err("none is free").code(), RefusalCode::NoAvailableWorker);
    group.report("w1");
    let again = group.marked(mark, acquire("j", Millis(0)));
    assert!(matches!(again, Err(Refusal::RefusedBefore { code: RefusalCode::NoAvailableWorker, .. })), "{again:?}");
    assert_eq!(group.kind("w1"), StateKind::Available);
}
