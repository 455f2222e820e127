//! What a test's cluster was asked, answered, committed and sent to a watcher, in the judges' words.
//!
//! The watcher follows from the first revision on, through every death of the replica that serves it; at the end a
//! second watch reads everything anew, and the first must have been sent the same.
//!
//! Never here: a judgment, other than that each transition stands once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, ensure};
use remuda_client::{Client, From, Part, WatchOptions};
use remuda_tests::guarantees::history::{
    Answer, Call, Condition, Effect, Ending, Event, History, Op, Watch, WatchItem,
};
use remuda_tests::guarantees::{self, Judge};
use remuda_wire::v1;

/// The judges of what can be seen from outside, without hosts and request ids.
const JUDGES: [Judge; 8] = [
    guarantees::single_holder::judge,
    guarantees::one_door::judge,
    guarantees::acked_is_durable::judge,
    guarantees::exactly_once::judge,
    guarantees::no_lost_worker::judge,
    guarantees::linearizable::judge,
    guarantees::faithful_events::judge,
    guarantees::resumed_return::judge,
];
/// Events about a worker that change neither its state nor its run.
const MOVES: [&str; 18] = [
    "WORKER_REGISTERED",
    "WORKER_LEASED",
    "WORKER_RETURNING",
    "WORKER_CLEANED",
    "RUN_FAILED",
    "RUN_REPLACED",
    "WORKER_FAILED",
    "WORKER_SPENT",
    "WORKER_ADMITTED",
    "WORKER_WITHHELD",
    "WORKER_RECHECKED",
    "WORKER_LOST",
    "WORKER_RECONNECTED",
    "WORKER_RETRIED",
    "WORKER_RESUMED",
    "WORKER_MAINTAINED",
    "WORKER_RETIRED",
    "WORKER_GIVEN_UP",
];

/// When a call was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked(u64);

/// Writes down calls and watches.
pub(crate) struct Recorder {
    began: Instant,
    ops: Mutex<Vec<Op>>,
    watched: Arc<Mutex<Vec<Part>>>,
}

impl Recorder {
    /// Begins, with a watcher of its own in the background.
    pub(crate) fn new(client: &Client) -> Self {
        let watched = Arc::<Mutex<Vec<Part>>>::default();
        let (sink, mut watch) = (Arc::clone(&watched), client.watch(from_the_first(false)));
        tokio::spawn(async move {
            while let Some(part) = watch.next().await {
                if let Ok(part) = part {
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push(part);
                }
            }
        });
        Self { began: Instant::now(), ops: Mutex::default(), watched }
    }

    /// A call is about to be made.
    pub(crate) fn asked(&self) -> Asked {
        Asked(self.now())
    }

    /// It was answered with success.
    pub(crate) fn answered(&self, asked: Asked, call: Call, revision: u64, effect: Effect, served_by: u64) {
        let mut ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        let id = ops.len() as u64;
        ops.push(Op {
            id,
            process: format!("call-{id}"),
            invoked_at: asked.0,
            returned_at: Some(self.now()),
            request_id: None,
            attempt: 1,
            not_after: None,
            served_by,
            call,
            answer: Answer::Ok { revision, effect },
        });
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("a test is short")
    }

    /// Asks every judge.
    pub(crate) fn judge(&self, events: Vec<v1::Event>, workers: &[v1::Worker]) -> Result<()> {
        each_once(&events)?;
        let agents: BTreeMap<&str, &str> = workers.iter().map(|w| (w.name.as_str(), w.agent.as_str())).collect();
        let tell = |event: &v1::Event| told(event, &agents);
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let items = watched.iter().filter_map(|part| match part {
            Part::Events { events, .. } => Some(WatchItem::Batch(events.iter().map(tell).collect())),
            Part::Bookmark { revision, .. } => Some(WatchItem::Bookmark(*revision)),
            Part::Workers { .. } => None,
        });
        // What came after the events were read is nobody's to judge.
        let last = events.last().map_or(0, |event| event.revision);
        let items = items.filter(|item| match item {
            WatchItem::Batch(batch) => batch.first().is_some_and(|event| event.revision <= last),
            WatchItem::Bookmark(revision) => *revision <= last,
            WatchItem::From(_) | WatchItem::Compacted(_) => true,
        });
        let items: Vec<_> = std::iter::once(WatchItem::From(0)).chain(items).collect();
        ensure!(items.len() > 1, "the watcher was sent nothing");
        let endings = workers.iter().map(|worker| Ending {
            worker: worker.name.clone(),
            state: condition(worker.state()),
            cordoned: worker.cordon.is_some(),
            agent_alive: true,
            holder_alive: true,
        });
        let history = History {
            to_revision: last,
            events: events.iter().map(tell).collect(),
            ops: self.ops.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            watches: vec![Watch { name: "from the first".into(), prefix: String::new(), items }],
            endings: endings.collect(),
            ..History::default()
        };
        let verdicts: Vec<_> = JUDGES.iter().map(|judge| judge(&history)).collect();
        let bad: Vec<_> = verdicts.iter().filter(|verdict| !verdict.holds()).collect();
        ensure!(bad.is_empty(), "{bad:#?}");
        let idle = verdicts.iter().find(|verdict| verdict.judged == 0 && verdict.promise != "resumed_return");
        ensure!(history.ops.is_empty() || idle.is_none(), "{idle:?} judged nothing");
        Ok(())
    }
}

fn from_the_first(no_follow: bool) -> WatchOptions {
    WatchOptions { from: From::Revision(1), no_follow, ..Default::default() }
}

/// Every event there is.
pub(crate) async fn all_events(client: &Client) -> Result<Vec<v1::Event>> {
    let mut watch = client.watch(from_the_first(true));
    let mut all = Vec::new();
    while let Some(part) = watch.next().await {
        if let Part::Events { events, .. } = part? {
            all.extend(events);
        }
    }
    Ok(all)
}

/// What happens once per lease, run or return is told once.
fn each_once(events: &[v1::Event]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for event in events {
        let token = match event.kind.as_str() {
            "WORKER_LEASED" => event.epoch.to_string(),
            "WORKER_RETURNING" | "WORKER_CLEANED" | "RUN_REPLACED" | "RUN_FAILED" => event.run.to_string(),
            "RETURN_ENDED" => event.return_name.clone(),
            _ => continue,
        };
        ensure!(seen.insert((&event.kind, &event.worker, token)), "told twice: {event:?}");
    }
    Ok(())
}

/// An event in the judges' words.
fn told(event: &v1::Event, agents: &BTreeMap<&str, &str>) -> Event {
    let moves = MOVES.contains(&event.kind.as_str());
    let session = event.detail.strip_prefix("agent ").and_then(|rest| rest.split_once(','));
    let agent = match (event.kind.as_str(), session) {
        ("SESSION_OPENED" | "SESSION_ENDED", Some((agent, _))) => agent,
        _ => agents.get(event.worker.as_str()).copied().unwrap_or_default(),
    };
    Event {
        revision: event.revision,
        ordinal: event.ordinal,
        term: event.term,
        log_time: event.log_time_ms,
        kind: camel(&event.kind),
        worker: event.worker.clone(),
        from: moves.then(|| condition(event.from())).flatten(),
        to: moves.then(|| condition(event.to())).flatten(),
        cause: camel(&event.cause),
        epoch: event.epoch,
        run: event.run,
        attempt: event.attempt,
        job: event.job_id.clone(),
        agent: agent.to_owned(),
        verdict: event.detail.split("; ").next().map(camel).unwrap_or_default(),
        deadline: 0,
    }
}

/// `SESSION_OPENED` as `SessionOpened`.
fn camel(word: &str) -> String {
    let mut made = String::with_capacity(word.len());
    for part in word.split('_') {
        let mut letters = part.chars();
        made.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        made.extend(letters.map(|letter| letter.to_ascii_lowercase()));
    }
    made
}

fn condition(state: v1::worker::State) -> Option<Condition> {
    match state {
        v1::worker::State::Unspecified => None,
        v1::worker::State::Cleaning => Some(Condition::Cleaning),
        v1::worker::State::Ready => Some(Condition::Ready),
        v1::worker::State::Available => Some(Condition::Available),
        v1::worker::State::Busy => Some(Condition::Busy),
        v1::worker::State::Maintenance => Some(Condition::Maintenance),
        v1::worker::State::Lost => Some(Condition::Lost),
        v1::worker::State::Retired => Some(Condition::Retired),
    }
}
