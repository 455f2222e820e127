//! A small good history that every judge accepts: what the bad ones are made from.
//!
//! One worker: it joins, is leased to `j1` and returned; the leader changes during the return; the first run is late;
//! the agent opens a new session, which replaces the second run; the third passes; it is leased to `j2`, returned,
//! and ends free.

use super::history::Condition::{self, Available, Busy, Cleaning, Ready};
use super::history::{
    Answer, Call, Committed, Deed, Effect, Ending, Event, History, HostRecord, Op, Statement, Watch, WatchItem,
};
use super::{Judge, Verdict};

/// Asserts that a judge finds a violation that says `words`.
pub(crate) fn rejected(judge: Judge, history: &History, words: &str) {
    let Verdict { promise, violations, .. } = judge(history);
    let found = violations.iter().any(|violation| violation.contains(words));
    assert!(found, "{promise}: expected a violation with {words:?}, found {violations:#?}");
}

fn moved(place: (u64, u32), from: Option<Condition>, to: Condition, token: u64, attempt: u32) -> Event {
    let (revision, ordinal) = place;
    let lease = to == Busy;
    Event {
        revision,
        ordinal,
        term: if revision < 8 { 1 } else { 2 },
        log_time: revision * 1_000,
        kind: format!("{to:?}"),
        worker: "p/w".into(),
        from,
        to: Some(to),
        epoch: if lease { token } else { 0 },
        run: if lease { 0 } else { token },
        attempt,
        agent: "a".into(),
        ..Event::default()
    }
}

fn leased(place: (u64, u32), epoch: u64, job: &str) -> Event {
    Event { job: job.into(), ..moved(place, Some(Available), Busy, epoch, 0) }
}

fn returned(place: (u64, u32), run: u64, epoch: u64) -> Event {
    Event { epoch, ..moved(place, Some(Busy), Cleaning, run, 1) }
}

fn session(place: (u64, u32)) -> Event {
    let event = moved(place, None, Cleaning, 0, 0);
    Event { kind: "SessionOpened".into(), worker: String::new(), to: None, ..event }
}

fn events() -> Vec<Event> {
    vec![
        session((2, 0)),
        moved((2, 1), None, Cleaning, 10, 1),
        moved((4, 0), Some(Cleaning), Ready, 10, 1),
        moved((4, 1), Some(Ready), Available, 0, 0),
        leased((5, 0), 11, "j1"),
        returned((7, 0), 12, 11),
        Event { verdict: "TimedOut".into(), deadline: 8_500, ..moved((9, 0), Some(Cleaning), Cleaning, 13, 2) },
        session((10, 0)),
        moved((10, 1), Some(Cleaning), Cleaning, 14, 2),
        moved((12, 0), Some(Cleaning), Ready, 14, 2),
        moved((12, 1), Some(Ready), Available, 0, 0),
        leased((13, 0), 15, "j2"),
        returned((14, 0), 16, 15),
        moved((16, 0), Some(Cleaning), Ready, 16, 1),
        moved((16, 1), Some(Ready), Available, 0, 0),
    ]
}

fn op(id: u64, request: Option<&str>, call: Call, revision: u64, effect: Effect) -> Op {
    Op {
        id,
        process: "c".into(),
        invoked_at: id * 10,
        returned_at: Some(id * 10 + 5),
        request_id: request.map(Into::into),
        attempt: 1,
        not_after: request.map(|_| 60_000),
        served_by: 1,
        call,
        answer: Answer::Ok { revision, effect },
    }
}

fn ops() -> Vec<Op> {
    let worker = || "p/w".to_string();
    let acquire = |job: &str| Call::Acquire { pool: "p".into(), job: job.into(), wait_ms: 0, any: true };
    let bring = |job: &str, epoch| Call::Return { worker: worker(), job: job.into(), epoch };
    let report = |run| Call::Report { worker: worker(), run, session: 1, clean: true };
    let stale = Answer::Refused { revision: Some(15), reason: "STALE_LEASE".into(), superseded_by: Some(16) };
    vec![
        op(1, None, report(10), 4, Effect::Judged { accepted: true }),
        op(2, Some("c#1"), acquire("j1"), 5, Effect::Granted { worker: worker(), epoch: 11 }),
        op(3, None, Call::Renew { worker: worker(), epoch: 11 }, 6, Effect::Done),
        op(4, Some("c#2"), bring("j1", 11), 7, Effect::Returned { return_id: 12 }),
        // The answer was lost; the retry hears the first one.
        Op { attempt: 2, ..op(5, Some("c#2"), bring("j1", 11), 7, Effect::Returned { return_id: 12 }) },
        op(6, None, report(14), 12, Effect::Judged { accepted: true }),
        op(7, Some("c#3"), acquire("j2"), 13, Effect::Granted { worker: worker(), epoch: 15 }),
        op(8, Some("c#4"), bring("j2", 15), 14, Effect::Returned { return_id: 16 }),
        Op { answer: stale, ..op(9, None, Call::Renew { worker: worker(), epoch: 11 }, 15, Effect::Done) },
        op(10, None, report(16), 16, Effect::Judged { accepted: true }),
        op(11, None, Call::Read { worker: worker(), stale: false }, 16, Effect::Seen { state: Available, token: 16 }),
        Op {
            answer: Answer::Absent { reason: "NOT_ACCEPTED".into() },
            ..op(12, Some("c#5"), acquire("j3"), 0, Effect::Done)
        },
    ]
}

/// The good history.
pub(crate) fn good() -> History {
    let deed = |at, deed| HostRecord { at, worker: "p/w".into(), deed };
    let request =
        |revision, id: &str, effect| Committed { revision, log_time: revision * 1_000, request_id: id.into(), effect };
    let mut items = vec![WatchItem::From(0)];
    for event in events() {
        match items.last_mut() {
            Some(WatchItem::Batch(batch)) if batch[0].revision == event.revision => batch.push(event),
            _ => items.push(WatchItem::Batch(vec![event])),
        }
    }
    items.push(WatchItem::Bookmark(16));
    History {
        from_revision: 0,
        to_revision: 16,
        events: events(),
        requests: vec![
            request(5, "c#1", true),
            request(7, "c#2", true),
            request(8, "c#2", false),
            request(13, "c#3", true),
            request(14, "c#4", true),
        ],
        ops: ops(),
        watches: vec![Watch { name: "w".into(), prefix: String::new(), items }],
        statements: [1, 2]
            .map(|replica| Statement { replica, revision: 16, value: "cafe".into(), of: "state".into() })
            .into(),
        hosts: vec![
            deed(1, Deed::RunObserved { run: 10, residue: 0 }),
            deed(2, Deed::JobStarted { epoch: 11 }),
            deed(3, Deed::RunActed { run: 14 }),
            deed(4, Deed::JobGone { epoch: 11 }),
            deed(5, Deed::RunObserved { run: 14, residue: 0 }),
            deed(6, Deed::JobStarted { epoch: 15 }),
            deed(7, Deed::RunActed { run: 16 }),
            deed(8, Deed::JobGone { epoch: 15 }),
            deed(9, Deed::RunObserved { run: 16, residue: 0 }),
        ],
        cuts: Vec::new(),
        endings: vec![Ending {
            worker: "p/w".into(),
            state: Some(Available),
            cordoned: false,
            agent_alive: true,
            holder_alive: false,
        }],
    }
}
