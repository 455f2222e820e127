//! Bounds: of outcomes, classes, selectors, receipts, retention, and of memory.

use super::{Group, acquire, named, numbered, worker};
use crate::command::{Command, Operation, TrimTable};
use crate::event::{Fact, Note};
use crate::id::{SecretHash, WorkerId};
use crate::lease::JobOutcome;
use crate::limits;
use crate::outcome::{Cancelled, Outcome};
use crate::pool::PoolSpec;
use crate::refusal::{Refusal, RefusalCode};
use crate::selector::{Condition, Labels, Requirement, Selector};
use crate::time::Millis;
use crate::worker::{StateKind, Worker, WorkerState};

fn code(result: Result<Outcome, Refusal>) -> RefusalCode {
    result.expect_err("this is refused").code()
}

#[test]
fn a_full_table_of_outcomes_refuses_all_but_what_frees() {
    let mut group = Group::new(PoolSpec::default());
    group.open(&[("w1", Labels::new())]);
    group.report("w1");
    let mark = named(&group, "held", 0);
    let Ok(Outcome::Granted(grant)) = group.marked(mark, acquire("j1", Millis(0))) else { panic!("w1 is free") };
    let mark = named(&group, "waiting", 0);
    group.marked(mark.clone(), acquire("j2", Millis::mins(30))).expect("it waits");
    group.checked = false;
    while group.state.outcomes_count() < limits::OUTCOMES_MAX {
        let more = named(&group, &format!("r{}", group.state.outcomes_count()), 0);
        group.marked(more, Command::CancelAcquire { request: mark.id.clone(), not_after: mark.not_after }).ok();
    }
    group.checked = true;
    let refused = named(&group, "one more", 0);
    assert_eq!(code(group.marked(refused, acquire("j3", Millis::secs(1)))), RefusalCode::TooManyOutcomes);
    let (actor, reason): (std::sync::Arc<str>, std::sync::Arc<str>) = ("op".into(), "because".into());
    let cordon = Command::Operate { worker: worker("w1"), operation: Operation::Cordon, actor, reason, etag: None };
    let refused = named(&group, "an order", 0);
    assert_eq!(code(group.marked(refused, cordon)), RefusalCode::TooManyOutcomes);

    let cancel = named(&group, "cancel", 0);
    let cancelled = group.marked(cancel, Command::CancelAcquire { request: mark.id, not_after: mark.not_after });
    assert_eq!(cancelled, Ok(Outcome::AcquireCancelled { was: Cancelled::Over }), "it was cancelled above");
    let (secret, outcome) = (SecretHash([1; 32]), JobOutcome::Success);
    let back = Command::BeginReturn { worker: grant.worker, job: grant.job, epoch: grant.epoch, secret, outcome };
    let mark = named(&group, "return", 0);
    let Ok(Outcome::ReturnBegun { return_id, .. }) = group.marked(mark.clone(), back.clone()) else { panic!("full") };
    assert!(group.state.outcome(&mark.id).is_none(), "there was no room for its row");
    match group.marked(mark, back) {
        Err(Refusal::LeaseEnded { end: Some(end), .. }) => assert_eq!(end.return_id, return_id),
        other => panic!("its retry is told the return, not {other:?}"),
    }
}

#[test]
fn a_client_that_hears_no_answers_is_refused_until_it_does() {
    let mut group = Group::new(PoolSpec::default());
    group.checked = false;
    let seqs = limits::OUTCOMES_PER_CLIENT_MAX as u64;
    for seq in 0..seqs {
        let mark = numbered(&group, seq, 0);
        group.marked(mark, acquire("j", Millis::mins(30))).expect("it waits");
    }
    group.checked = true;
    let mark = numbered(&group, seqs, 0);
    assert_eq!(code(group.marked(mark, acquire("j", Millis::secs(1)))), RefusalCode::TooManyOutcomes);
    let mark = numbered(&group, seqs, 10);
    group.marked(mark, acquire("j", Millis::secs(1))).expect("ten answers were heard");
    let old = numbered(&group, 9, 0);
    assert_eq!(code(group.marked(old, acquire("j", Millis::secs(1)))), RefusalCode::RequestTooOld);
    assert_eq!(group.state.outcomes_count() as u64, seqs + 1 - 10);
}

#[test]
fn one_class_too_many_is_refused_or_keeps_its_old_labels() {
    let mut group = Group::new(PoolSpec::default());
    group.checked = false;
    let labels = |number: usize| -> Labels { [("n".into(), number.to_string().into())].into() };
    let names: Vec<_> = (0..=limits::CLASSES_PER_POOL_MAX).map(|number| format!("w{number}")).collect();
    let present =
        |from: usize, to: usize| (from..to).map(|number| (&*names[number], labels(number))).collect::<Vec<_>>();
    let mut all = present(0, limits::CLASSES_PER_POOL_MAX);
    group.open(&all);
    group.checked = true;
    all.extend(present(limits::CLASSES_PER_POOL_MAX, names.len()));
    all[0].1 = labels(1);
    all[1].1 = labels(0);
    group.open(&all);
    let kept =
        group.events.iter().filter(|event| matches!(&event.fact, Fact::WorkerNoted { note: Note::LabelsKept, .. }));
    assert_eq!(kept.count(), 0, "moving between classes that exist needs no room");
    assert_eq!(group.state.worker(&worker(&names[limits::CLASSES_PER_POOL_MAX])), None, "one too many was refused");
    all.truncate(limits::CLASSES_PER_POOL_MAX);
    all.extend([("w0-twin", labels(0))]);
    group.open(&all);
    // A class of its own for one of two twins is one too many; for a worker that is alone in its class it is not.
    all.last_mut().expect("the twin").1 = labels(5_000);
    all[7].1 = labels(6_000);
    group.open(&all);
    assert_eq!(group.state.labels(group.row("w0-twin")).get("n").map(|n| &**n), Some("0"));
    assert_eq!(group.state.labels(group.row("w7")).get("n").map(|n| &**n), Some("6000"));
}

#[test]
fn distinct_selectors_that_wait_are_bounded() {
    let mut group = Group::new(PoolSpec::default());
    group.checked = false;
    let ask = |number: usize| {
        let mut command = acquire("j", Millis::mins(30));
        if let Command::AcquireWorker(acquire) = &mut command {
            let requirement = Requirement { key: format!("k{number}").into(), condition: Condition::Exists };
            acquire.selector = Selector::new(vec![requirement]);
        }
        command
    };
    for number in 0..limits::WAITING_SELECTORS_PER_POOL_MAX {
        group.ok(ask(number));
    }
    group.checked = true;
    assert_eq!(code(group.run(ask(limits::WAITING_SELECTORS_PER_POOL_MAX))), RefusalCode::QueueFull);
    group.ok(ask(0));
}

#[test]
fn a_receipt_that_is_too_large_is_refused_and_changes_nothing() {
    let mut group = Group::new(PoolSpec::default());
    group.open(&[("w1", Labels::new())]);
    let mut receipt = group.receipt("w1");
    let step = receipt.steps[0].clone();
    receipt.steps.resize(limits::RECEIPT_ENTRIES_MAX + 1, step);
    assert_eq!(code(group.report_with("w1", receipt)), RefusalCode::Invalid);
    group.report("w1");
    assert_eq!(group.kind("w1"), StateKind::Available);
}

#[test]
fn idle_checks_hold_five_percent_at_once() {
    let mut group = Group::new(PoolSpec { idle_check: Some(Millis::secs(1)), ..PoolSpec::default() });
    let names: Vec<_> = (0..40).map(|number| format!("w{number}")).collect();
    group.open(&names.iter().map(|name| (&**name, Labels::new())).collect::<Vec<_>>());
    names.iter().for_each(|name| drop(group.report(name)));
    group.wait(Millis::secs(10));
    let cleaning = |group: &Group| names.iter().filter(|name| group.kind(name) == StateKind::Cleaning).count();
    assert_eq!(cleaning(&group), 2, "5 % of 40");
    let first = names.iter().find(|name| group.kind(name) == StateKind::Cleaning).expect("one is checked");
    group.report(first);
    group.settle();
    assert_eq!(cleaning(&group), 2, "the next one's turn");
}

#[test]
fn what_is_old_is_trimmed_by_entries_a_bounded_number_at_a_time() {
    let mut group = Group::new(PoolSpec::default());
    group.checked = false;
    for seq in 0..3_000 {
        let mark = named(&group, &seq.to_string(), 0);
        group.marked(mark, acquire("j", Millis::secs(1))).expect("it waits");
    }
    group.checked = true;
    group.wait(Millis::secs(30));
    assert_eq!(code(group.run(Command::Trim { table: TrimTable::Events })), RefusalCode::NothingOwed);
    let events = group.state.events_count();
    group.now += Millis::hours(2).0;
    group.ok(Command::Tick);
    let owed = crate::due(&group.state);
    let trims = |table| owed.iter().filter(|command| **command == Command::Trim { table }).count();
    assert_eq!(trims(TrimTable::Events) as u64, events.div_ceil(limits::TRIM_ROWS_MAX as u64));
    group.settle();
    assert_eq!((group.state.events_count(), group.state.outcomes_count()), (0, 0));
}

#[test]
fn a_worker_takes_little_memory() {
    // The row with its slot and key, its history, and its places in two indexes; the texts, which are shared, are not
    // counted, nor what the trees need to hold it.
    let row = size_of::<crate::table::Slot<Worker>>() + size_of::<WorkerId>();
    assert!(row <= 320, "a row takes {row} bytes");
    let state = size_of::<WorkerState>();
    assert!(state <= 48, "a state takes {state} bytes: large data is boxed");
    let idle = size_of::<crate::worker::ClosedRun>() + size_of::<crate::worker::EndedLease>();
    let indexes = size_of::<WorkerId>() + size_of::<(crate::worker::Offer, std::sync::Arc<str>)>();
    let all = row + idle + indexes;
    assert!(all <= 512, "a free worker takes {all} bytes");
}
