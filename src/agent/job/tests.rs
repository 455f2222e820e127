//! Each rule of the duties, one test each.

use super::*;

const SESSION: u64 = 7;
const OPENED_AT: u64 = 100;

/// Duties with a session open.
fn fresh() -> Duties {
    let mut duties = Duties::new(Facts::default());
    assert_eq!(open(&mut duties, SESSION, OPENED_AT), []);
    duties
}

fn open(duties: &mut Duties, session: u64, revision: u64) -> Vec<Action> {
    duties.step(0, Input::SessionOpened { session, revision })
}

fn order(run: u64) -> RunOrder {
    RunOrder {
        run,
        attempt: 1,
        cause: "RETURNED".into(),
        begin_after: 0,
        plan: Arc::new(v1::CleaningPlan::default()),
        epoch: run - 1,
        heard: Heard::Nothing,
    }
}

fn lease(epoch: u64) -> LeaseOrder {
    LeaseOrder {
        epoch,
        job_id: "job".into(),
        secret_sha256: vec![1; 32],
        stop_grace: 5_000,
        folders: Vec::new(),
        interrupted: false,
    }
}

fn show(duties: &mut Duties, revision: u64, token: u64, duty: Duty) -> Vec<Action> {
    show_in(duties, SESSION, revision, token, duty)
}

fn show_in(duties: &mut Duties, session: u64, revision: u64, token: u64, duty: Duty) -> Vec<Action> {
    duties.step(0, Input::Assigned { session, revision, assigned: Assigned { token, duty } })
}

fn clean(duties: &mut Duties, run: u64) -> Vec<Action> {
    show(duties, OPENED_AT, run, Duty::Clean(order(run)))
}

fn serve(duties: &mut Duties, epoch: u64) -> Vec<Action> {
    show(duties, OPENED_AT, epoch, Duty::Serve(lease(epoch)))
}

fn joined(duties: &mut Duties, run: u64, receipt: bool) -> Vec<Action> {
    duties.step(0, Input::RunJoined { run, receipt: receipt.then(Default::default) })
}

fn ask(duties: &mut Duties, epoch: u64) -> JobVerdict {
    ask_for(duties, epoch, "true")
}

fn ask_for(duties: &mut Duties, epoch: u64, asked: &str) -> JobVerdict {
    let input = Input::JobAsked { epoch, boot_id: "boot".into(), asked: asked.into() };
    match duties.step(0, input).pop() {
        Some(Action::Job { epoch: told, verdict }) if told == epoch => verdict,
        other => panic!("an asker is answered last: {other:?}"),
    }
}

/// A run brought as far as `Start`.
fn start(duties: &mut Duties, run: u64) {
    clean(duties, run);
    assert_eq!(duties.step(0, Input::Turn { run }), [Action::Start(order(run))]);
}

fn seen(token: u64) -> Facts {
    Facts { seen: token, ..Facts::default() }
}

#[test]
fn a_run_goes_from_its_assignment_to_the_answer() {
    let mut duties = fresh();
    assert_eq!(clean(&mut duties, 10), [Action::Persist(seen(10)), Action::Queue { run: 10 }]);
    assert_eq!(duties.progress(), Some((10, Heard::Queued)));
    assert_eq!(duties.step(0, Input::Turn { run: 10 }), [Action::Start(order(10))]);
    assert_eq!(duties.progress(), Some((10, Heard::Started)));
    let report = Action::Report { session: SESSION, run: 10, receipt: Default::default() };
    assert_eq!(joined(&mut duties, 10, true), [report]);
    assert!(duties.cleaning());
    assert_eq!(duties.step(0, Input::Answered { run: 10 }), []);
    assert!(!duties.cleaning());
    assert_eq!((duties.facts().finished, duties.progress()), (10, None));
}

#[test]
fn the_seen_token_is_synced_before_the_run_is_queued() {
    let mut duties = fresh();
    let actions = clean(&mut duties, 10);
    let place = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    assert!(
        place(&|a| matches!(a, Action::Persist(f) if f.seen == 10)) < place(&|a| matches!(a, Action::Queue { .. }))
    );
}

#[test]
fn a_run_not_newer_than_any_seen_is_not_acted_on() {
    let mut duties = fresh();
    start(&mut duties, 10);
    joined(&mut duties, 10, true);
    duties.step(0, Input::Answered { run: 10 });
    // A lagging follower still shows the run that is finished, and one before it.
    assert_eq!(clean(&mut duties, 10), []);
    assert_eq!(clean(&mut duties, 9), []);
    assert!(!duties.cleaning());
}

#[test]
fn a_restarted_agent_does_not_act_on_what_it_saw_before() {
    let mut before = fresh();
    start(&mut before, 10);
    // The process dies; what was persisted is all that is left.
    let mut after = Duties::new(before.facts().clone());
    open(&mut after, SESSION + 1, OPENED_AT + 50);
    let lagging = Duty::Clean(order(10));
    assert_eq!(show_in(&mut after, SESSION + 1, OPENED_AT + 50, 10, lagging), []);
    let replaced = Duty::Clean(order(11));
    let actions = show_in(&mut after, SESSION + 1, OPENED_AT + 50, 11, replaced);
    assert_eq!(actions.last(), Some(&Action::Queue { run: 11 }));
}

#[test]
fn nothing_is_believed_from_before_the_session() {
    let mut duties = fresh();
    assert_eq!(show(&mut duties, OPENED_AT - 1, 10, Duty::Clean(order(10))), []);
    assert_eq!(show(&mut duties, OPENED_AT - 1, 10, Duty::Serve(lease(10))), []);
    assert_eq!(*duties.facts(), Facts::default());
    assert_ne!(show(&mut duties, OPENED_AT, 10, Duty::Clean(order(10))), []);
}

#[test]
fn nothing_is_believed_of_another_session_or_of_none() {
    let mut duties = fresh();
    for session in [SESSION - 1, SESSION + 1] {
        assert_eq!(show_in(&mut duties, session, OPENED_AT + 9, 10, Duty::Clean(order(10))), []);
    }
    let mut without = Duties::new(Facts::default());
    assert_eq!(clean(&mut without, 10), []);
    assert_eq!(ask(&mut without, 10), JobVerdict::NotYet);
}

#[test]
fn a_newer_run_waits_until_the_older_one_is_joined() {
    let mut duties = fresh();
    start(&mut duties, 10);
    assert_eq!(clean(&mut duties, 12), [Action::Persist(Facts { seen: 12, ..seen(12) }), Action::Cancel { run: 10 }]);
    assert_eq!(duties.progress(), None, "the new one is neither queued nor started");
    // Its walker wakes, and whatever it found is not reported.
    assert_eq!(joined(&mut duties, 10, true), [Action::Queue { run: 12 }]);
    assert_eq!(duties.facts().finished, 0);
}

#[test]
fn a_lease_that_supersedes_a_run_is_opened_only_when_the_run_is_joined() {
    let mut duties = fresh();
    start(&mut duties, 10);
    let actions = serve(&mut duties, 11);
    assert_eq!(actions.last(), Some(&Action::Cancel { run: 10 }));
    assert_eq!(ask(&mut duties, 11), JobVerdict::NotYet);
    assert_eq!(joined(&mut duties, 10, false), [Action::OpenLease(lease(11))]);
    assert_eq!(ask(&mut duties, 11), JobVerdict::Admitted);
}

#[test]
fn cancelling_twice_asks_once_and_joins_the_newest() {
    let mut duties = fresh();
    start(&mut duties, 10);
    clean(&mut duties, 12);
    let actions = clean(&mut duties, 14);
    assert!(!actions.iter().any(|action| matches!(action, Action::Cancel { .. })), "{actions:?}");
    assert_eq!(joined(&mut duties, 12, true), [], "a run that never started is not joined");
    assert_eq!(joined(&mut duties, 10, true), [Action::Queue { run: 14 }]);
}

#[test]
fn a_queued_run_that_is_superseded_leaves_the_queue_and_its_turn_is_void() {
    let mut duties = fresh();
    clean(&mut duties, 10);
    let actions = clean(&mut duties, 12);
    assert_eq!(actions[1..], [Action::Unqueue { run: 10 }, Action::Queue { run: 12 }]);
    assert_eq!(duties.step(0, Input::Turn { run: 10 }), []);
    assert_eq!(duties.step(0, Input::Turn { run: 12 }), [Action::Start(order(12))]);
}

#[test]
fn a_new_session_cancels_the_run_and_drops_the_report_of_the_old_one() {
    let mut duties = fresh();
    start(&mut duties, 10);
    assert_eq!(open(&mut duties, SESSION + 1, OPENED_AT + 50), [Action::Cancel { run: 10 }]);

    let mut duties = fresh();
    start(&mut duties, 10);
    joined(&mut duties, 10, true);
    assert_eq!(open(&mut duties, SESSION + 1, OPENED_AT + 50), [Action::DropReport { run: 10 }]);
}

#[test]
fn an_open_answered_twice_or_an_older_session_changes_nothing() {
    let mut duties = fresh();
    start(&mut duties, 10);
    assert_eq!(open(&mut duties, SESSION, OPENED_AT), []);
    assert_eq!(open(&mut duties, SESSION - 1, OPENED_AT + 50), []);
    let report = joined(&mut duties, 10, true);
    assert!(matches!(report[..], [Action::Report { session: SESSION, .. }]), "{report:?}");
}

#[test]
fn a_lease_outlives_its_session() {
    let mut duties = fresh();
    serve(&mut duties, 10);
    assert_eq!(open(&mut duties, SESSION + 1, OPENED_AT + 50), []);
    assert_eq!(ask(&mut duties, 10), JobVerdict::Admitted);
}

#[test]
fn a_report_goes_on_until_it_is_answered_or_superseded() {
    let mut duties = fresh();
    start(&mut duties, 10);
    joined(&mut duties, 10, true);
    // The answer was lost, and a watch opened anew still shows the run: one report is enough.
    assert_eq!(clean(&mut duties, 10), []);
    assert!(duties.cleaning());
    assert_eq!(show(&mut duties, OPENED_AT + 3, 10, Duty::Rest), [Action::DropReport { run: 10 }]);
    assert!(!duties.cleaning());
}

#[test]
fn rest_at_an_older_token_ends_nothing() {
    let mut duties = fresh();
    start(&mut duties, 10);
    assert_eq!(show(&mut duties, OPENED_AT + 3, 9, Duty::Rest), []);
    // At its own token it does: the registry has given the run up.
    assert_eq!(show(&mut duties, OPENED_AT + 4, 10, Duty::Rest), [Action::Cancel { run: 10 }]);
}

#[test]
fn progress_is_repeated_until_the_watch_has_shown_it() {
    let mut duties = fresh();
    clean(&mut duties, 10);
    let heard = |duties: &mut Duties, heard| show(duties, OPENED_AT, 10, Duty::Clean(RunOrder { heard, ..order(10) }));
    assert_eq!(duties.progress(), Some((10, Heard::Queued)));
    heard(&mut duties, Heard::Queued);
    assert_eq!(duties.progress(), None);
    duties.step(0, Input::Turn { run: 10 });
    assert_eq!(duties.progress(), Some((10, Heard::Started)));
    heard(&mut duties, Heard::Started);
    assert_eq!(duties.progress(), None);
    // A lagging replica does not take it back.
    heard(&mut duties, Heard::Queued);
    assert_eq!(duties.progress(), None);
}

#[test]
fn a_run_that_backs_off_begins_at_its_time() {
    let mut duties = fresh();
    let later = RunOrder { begin_after: 500, ..order(10) };
    let actions = show(&mut duties, OPENED_AT, 10, Duty::Clean(later));
    assert_eq!(actions[1..], [Action::WakeAt(500)]);
    assert_eq!((duties.progress(), duties.step(499, Input::Woke)), (None, vec![]));
    assert_eq!(duties.step(500, Input::Woke), [Action::Queue { run: 10 }]);
}

#[test]
fn a_run_that_ended_without_a_receipt_is_tried_again_after_a_pause() {
    let mut duties = fresh();
    start(&mut duties, 10);
    assert_eq!(joined(&mut duties, 10, false), [Action::WakeAt(RETRY_WITHOUT_RECEIPT_MS)]);
    assert_eq!(duties.step(RETRY_WITHOUT_RECEIPT_MS, Input::Woke), [Action::Queue { run: 10 }]);
}

#[test]
fn a_job_is_written_down_before_it_is_admitted_and_begun_only_once() {
    let mut duties = fresh();
    serve(&mut duties, 10);
    let input = Input::JobAsked { epoch: 10, boot_id: "boot".into(), asked: "true".into() };
    let actions = duties.step(0, input);
    let job = Some(JobFact { epoch: 10, boot_id: "boot".into(), asked: "true".into() });
    let facts = Facts { seen: 10, epoch: 10, job, ..Facts::default() };
    assert_eq!(actions, [Action::Persist(facts), Action::Job { epoch: 10, verdict: JobVerdict::Admitted }]);
    assert_eq!(ask(&mut duties, 10), JobVerdict::Begun);
    assert_eq!(ask_for(&mut duties, 10, "false"), JobVerdict::Another);
    // Also after a restart.
    let mut after = Duties::new(duties.facts().clone());
    open(&mut after, SESSION + 1, OPENED_AT + 50);
    let actions = show_in(&mut after, SESSION + 1, OPENED_AT + 50, 10, Duty::Serve(lease(10)));
    assert_eq!(actions, [Action::OpenLease(lease(10))]);
    assert_eq!(ask(&mut after, 10), JobVerdict::Begun);
}

#[test]
fn a_stale_epoch_is_told_what_superseded_it() {
    let mut duties = fresh();
    serve(&mut duties, 10);
    assert_eq!(clean(&mut duties, 11)[1..], [Action::CloseLease { epoch: 10 }, Action::Queue { run: 11 }]);
    assert_eq!(ask(&mut duties, 10), JobVerdict::Stale { seen: 11 });
    assert_eq!(ask(&mut duties, 12), JobVerdict::NotYet);
    assert_eq!(serve(&mut duties, 10), [], "the lease does not come back");
    assert_eq!((duties.facts().epoch, &duties.facts().job), (0, &None));
}

#[test]
fn interrupted_is_for_good() {
    let mut duties = fresh();
    serve(&mut duties, 10);
    let gone = LeaseOrder { interrupted: true, ..lease(10) };
    let actions = show(&mut duties, OPENED_AT + 5, 10, Duty::Serve(gone.clone()));
    assert_eq!(actions, [Action::OpenLease(gone)]);
    assert_eq!(serve(&mut duties, 10), [], "a lagging replica does not heal it");
    assert_eq!(ask(&mut duties, 10), JobVerdict::Interrupted);
}

#[test]
fn retired_is_remembered_unless_it_was_by_silence() {
    let mut duties = fresh();
    start(&mut duties, 10);
    let actions = show(&mut duties, OPENED_AT, 10, Duty::Retired("OPERATOR".into()));
    assert!(matches!(&actions[..], [Action::Persist(f), Action::Cancel { run: 10 }] if f.retired.is_some()));
    let mut duties = fresh();
    assert_eq!(show(&mut duties, OPENED_AT, 10, Duty::Retired("LOST".into())), []);
    assert_eq!(duties.facts().retired, None);
}

#[test]
fn the_unknown_is_kept() {
    let mut duties = fresh();
    start(&mut duties, 10);
    assert_eq!(show(&mut duties, OPENED_AT + 5, 99, Duty::Unknown), []);
    assert!(matches!(joined(&mut duties, 10, true)[..], [Action::Report { .. }]));
}

#[test]
fn the_wire_is_read_in_full_or_not_at_all() {
    use v1::worker::State;
    let run = v1::RunAssignment {
        run: 10,
        attempt: 2,
        cause: "LEASE_EXPIRED".into(),
        begin_after: Some(prost_types::Duration { seconds: 1, nanos: 1 }),
        plan: Some(v1::CleaningPlan { generation: 3, ..Default::default() }),
        epoch: 9,
        phase: "QUEUED".into(),
    };
    let read = |state: i32, run, lease| {
        let message =
            v1::Assignment { state, run, lease, token: 10, retired_reason: "SPENT".into(), ..Default::default() };
        Assigned::from_wire(&message).duty
    };
    let Duty::Clean(order) = read(State::Cleaning.into(), Some(run.clone()), None) else { panic!("a run") };
    assert_eq!((order.run, order.begin_after, order.epoch, order.heard), (10, 1_001, 9, Heard::Queued));
    let planless = v1::RunAssignment { plan: None, ..run };
    assert_eq!(read(State::Cleaning.into(), Some(planless), None), Duty::Unknown);
    assert_eq!(read(State::Cleaning.into(), None, None), Duty::Unknown);
    assert_eq!(read(State::Busy.into(), None, None), Duty::Unknown);
    let busy = v1::LeaseAssignment { epoch: 9, interrupted: true, ..Default::default() };
    assert!(matches!(read(State::Busy.into(), None, Some(busy)), Duty::Serve(l) if l.epoch == 9 && l.interrupted));
    for state in [State::Ready, State::Available, State::Maintenance, State::Lost] {
        assert_eq!(read(state.into(), None, None), Duty::Rest);
    }
    assert_eq!(read(State::Retired.into(), None, None), Duty::Retired("SPENT".into()));
    assert_eq!(read(0, None, None), Duty::Unknown);
    assert_eq!(read(4711, None, None), Duty::Unknown);
}
