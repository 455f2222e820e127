//! The agent's presence: one session after another, each with its watch and its heartbeats.
//!
//! ```text
//!   open ──session──> ┌ watch:      assignments ──> the workers' tasks; a mark each second │
//!     ^               └ heartbeats: runs taken on, retired workers, how far the watch is   ┘ ──SESSION_ENDED──┐
//!     └───────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Opening is retried under the same incarnation until it is answered, because an open whose answer was lost may have
//! happened; a new incarnation is counted up, and synced, for each new open. The watch moves to another replica when it
//! is silent, or more than two seconds behind what the leader's answers to heartbeats have shown; a heartbeat that is
//! not answered in time goes to another replica at once.
//!
//! Invariants
//! * No incarnation is used for two opens that differ.
//! * A watch never shows a revision below one that an earlier watch of the session has passed.
//!
//! Never here: what an assignment means for a worker, see `job.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use remuda_wire::v1;
use tokio_util::sync::CancellationToken;

use crate::failpoint;
use crate::folder::{FolderError, Identity};
use crate::job::{Assigned, Input};
use crate::link::{Backoff, Failure, call, duration, request, stood_at};
use crate::runner::Crew;

#[cfg(test)]
mod tests;

/// Bounds of a session.
mod limits {
    use std::time::Duration;

    /// Marks come each second; a watch that shows nothing for this long is dropped.
    pub(super) const WATCH_SILENT: Duration = Duration::from_secs(2);
    /// A watch that has not shown for this long what the leader is known to have applied is dropped.
    pub(super) const WATCH_BEHIND: Duration = Duration::from_secs(2);
    /// How often a watch is held against these.
    pub(super) const WATCH_CHECK: Duration = Duration::from_millis(200);
    /// A session that lived for this long was a good one: the next is opened without delay.
    pub(super) const LASTING: Duration = Duration::from_secs(10);
    /// Heartbeats are never sent more often than this, whatever an answer says.
    pub(super) const INTERVAL_MIN: Duration = Duration::from_millis(100);
    /// Nor less often: beyond it the agent would count as silent under any configuration.
    pub(super) const INTERVAL_MAX: Duration = Duration::from_secs(10);
}

/// What the agent says of itself in each open.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// The host's machine id.
    pub machine_id: String,
    /// The host's boot id.
    pub boot_id: String,
    /// Where executions are served.
    pub execution_endpoint: String,
    /// What the host can do, sorted.
    pub capabilities: Vec<String>,
    /// What it cannot do, sorted.
    pub missing_capabilities: Vec<String>,
}

/// The agent's presence.
pub struct Presence {
    /// The agent's id and key.
    pub identity: Identity,
    /// What it says of its host.
    pub introduction: Introduction,
    /// Its workers.
    pub crew: Arc<Crew>,
    /// What it says of each worker at the moment it is asked; those retired for good are left out.
    pub workers: Arc<dyn Fn() -> Vec<v1::SessionWorker> + Send + Sync>,
    /// Whether a session is live, for `/readyz` and the health service.
    pub live: tokio::sync::watch::Sender<bool>,
}

/// An open session.
#[derive(Debug)]
struct Opened {
    session: u64,
    revision: u64,
    interval: Duration,
    refused: usize,
}

/// Why a session's loops ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The registry ended it.
    Ended,
    /// Workers whose registration was refused are to be tried again.
    TryRefused,
    /// The agent stops.
    Stopped,
}

/// What watch and heartbeats of one session tell each other.
#[derive(Debug)]
struct Lag {
    /// The last revision and term that the watch has passed.
    passed: (u64, u64),
    /// A revision of the leader's that the watch has not passed, and since when it is known.
    missing: Option<(u64, Instant)>,
}

impl Lag {
    fn watch_passed(&mut self, revision: u64, term: u64) {
        self.passed = self.passed.max((revision, term));
        self.missing = self.missing.filter(|(needed, _)| revision < *needed);
    }

    fn leader_at(&mut self, revision: u64, now: Instant) {
        if revision > self.passed.0 && self.missing.is_none() {
            self.missing = Some((revision, now));
        }
    }

    fn behind(&self, now: Instant) -> bool {
        self.missing.is_some_and(|(_, since)| now.duration_since(since) > limits::WATCH_BEHIND)
    }
}

impl Presence {
    /// Keeps the agent present until `stop`. Fails only when the state folder does.
    pub async fn keep(&self, stop: &CancellationToken) -> Result<(), FolderError> {
        let (mut refusals, mut endings) = (Backoff::of_refusals(), Backoff::of_calls());
        loop {
            let opened = tokio::select! {
                opened = self.open() => opened?,
                () = stop.cancelled() => return Ok(()),
            };
            let began = Instant::now();
            if opened.refused == 0 {
                refusals.reset();
            }
            self.live.send_replace(true);
            let end = tokio::select! {
                end = self.live_through(&opened, &mut refusals) => end,
                () = stop.cancelled() => End::Stopped,
            };
            self.live.send_replace(false);
            match end {
                End::Ended => tracing::warn!(session = opened.session, "session ended by the registry"),
                End::TryRefused => tracing::info!(session = opened.session, "trying refused workers again"),
                End::Stopped => return Ok(()),
            }
            if began.elapsed() > limits::LASTING {
                endings.reset();
            }
            // Sessions that end as soon as they are opened must not become a storm of entries.
            tokio::select! {
                () = tokio::time::sleep(endings.pause()) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Opens a session, however long it takes.
    async fn open(&self) -> Result<Opened, FolderError> {
        let (mut route, mut calls, mut refusals) =
            (self.crew.shared().link.route(), Backoff::of_calls(), Backoff::of_refusals());
        let mut floor = 0;
        loop {
            let message = self.introduce(self.count_up(floor).await?);
            failpoint::hit("agent.session.after_incarnation");
            let refusal = loop {
                match call(route.agents().open_session(request(message.clone()))).await {
                    Ok(answer) => {
                        failpoint::hit("agent.session.after_open");
                        return Ok(self.opened(&message, &answer));
                    }
                    Err(Failure::Refused { reason, detail, facts }) => break (reason, detail, facts),
                    // It may have happened: the same incarnation gets its answer.
                    Err(Failure::Again(why)) => {
                        tracing::debug!(replica = route.url(), why, "open not answered");
                        route.next();
                        tokio::time::sleep(calls.pause()).await;
                    }
                }
            };
            let (reason, detail, facts) = refusal;
            let pause = refusals.pause();
            tracing::error!(reason, detail, incarnation = message.incarnation, ?pause, "session refused");
            // A folder put back from a backup counts from too low; the refusal says where the registry stands.
            floor = facts.get("last_incarnation").and_then(|last| last.parse().ok()).unwrap_or(0);
            tokio::time::sleep(pause).await;
        }
    }

    async fn count_up(&self, floor: u64) -> Result<u64, FolderError> {
        let folder = Arc::clone(&self.crew.shared().folder);
        let counted = tokio::task::spawn_blocking(move || folder.incarnation_above(floor)).await;
        counted.expect("writing a number does not panic")
    }

    fn introduce(&self, incarnation: u64) -> v1::OpenSessionRequest {
        let host = self.introduction.clone();
        v1::OpenSessionRequest {
            agent_id: self.identity.id.clone(),
            agent_key: self.identity.key.to_vec(),
            incarnation,
            machine_id: host.machine_id,
            boot_id: host.boot_id,
            execution_endpoint: host.execution_endpoint,
            capabilities: host.capabilities,
            missing_capabilities: host.missing_capabilities,
            workers: (self.workers)(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Tells each worker of its session, and the log of each that was refused.
    fn opened(&self, asked: &v1::OpenSessionRequest, answer: &v1::OpenSessionResponse) -> Opened {
        let (revision, term) = stood_at(answer.header.as_ref());
        let session = answer.session;
        let mut refused = 0;
        for result in &answer.workers {
            let (worker, reason, detail) = (&result.name, &result.refused, &result.detail);
            // Retired for good while this agent was away: the watch will show why, and there is nothing to try again.
            let retired = reason == "WORKER_RETIRED";
            if !reason.is_empty() {
                tracing::error!(worker, reason, detail, "registration refused");
            }
            if !reason.is_empty() && !retired {
                refused += 1;
            } else if let Some(member) = self.crew.member(worker) {
                member.tell(Input::SessionOpened { session, revision });
            }
        }
        self.crew.shared().metrics.session_opened();
        let incarnation = asked.incarnation;
        tracing::info!(session, incarnation, revision, term, workers = asked.workers.len(), refused, "session opened");
        let interval = duration(answer.heartbeat_interval.as_ref()).unwrap_or(limits::INTERVAL_MAX);
        Opened { session, revision, interval, refused }
    }

    /// Lives through one session, to its end.
    async fn live_through(&self, opened: &Opened, refusals: &mut Backoff) -> End {
        let lag = Mutex::new(Lag { passed: (opened.revision, 0), missing: None });
        let mut ended = self.crew.shared().ended.subscribe();
        let told = async {
            match ended.wait_for(|ended| *ended >= opened.session).await {
                Ok(_) => End::Ended,
                Err(_) => End::Stopped,
            }
        };
        let retry = async {
            if opened.refused == 0 {
                return std::future::pending().await;
            }
            tokio::time::sleep(refusals.pause()).await;
            // A new session replaces open runs: better not while there are any.
            while self.crew.cleaning() {
                tokio::time::sleep(limits::WATCH_CHECK).await;
            }
            End::TryRefused
        };
        tokio::select! {
            end = self.beat(opened, &lag) => end,
            end = self.watch(opened, &lag) => end,
            end = told => end,
            end = retry => end,
        }
    }

    /// Sends heartbeats until the session has ended.
    async fn beat(&self, opened: &Opened, lag: &Mutex<Lag>) -> End {
        let (mut route, mut backoff) = (self.crew.shared().link.route(), Backoff::of_calls());
        let mut interval = opened.interval;
        loop {
            let (watch_revision, watch_term) = lag.lock().passed;
            let message = v1::HeartbeatRequest {
                agent_id: self.identity.id.clone(),
                session: opened.session,
                progress: self.crew.progress(),
                watch_revision,
                watch_term,
                retired: self.crew.retired(),
            };
            match call(route.agents().heartbeat(request(message))).await {
                Ok(answer) => {
                    self.crew.shared().metrics.heartbeat_answered();
                    lag.lock().leader_at(stood_at(answer.header.as_ref()).0, Instant::now());
                    interval = duration(answer.heartbeat_interval.as_ref()).unwrap_or(interval);
                    backoff.reset();
                    tokio::time::sleep(interval.clamp(limits::INTERVAL_MIN, limits::INTERVAL_MAX)).await;
                }
                Err(failure) if failure.session_ended() => return End::Ended,
                Err(failure) => {
                    tracing::warn!(replica = route.url(), ?failure, "heartbeat not answered");
                    route.next();
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Watches the session's assignments until it has ended, at one replica after another.
    async fn watch(&self, opened: &Opened, lag: &Mutex<Lag>) -> End {
        let (mut route, mut backoff) = (self.crew.shared().link.route(), Backoff::of_calls());
        loop {
            let before = lag.lock().passed;
            let failure = self.watch_at(&route, opened, lag).await;
            if failure.session_ended() {
                return End::Ended;
            }
            tracing::info!(replica = route.url(), ?failure, "watch dropped");
            if lag.lock().passed > before {
                backoff.reset();
            }
            // The next replica gets as long to show what is missing as this one had.
            if let Some((_, since)) = &mut lag.lock().missing {
                *since = Instant::now();
            }
            route.next();
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// One watch at one replica, until it ends, is silent or falls behind.
    async fn watch_at(&self, route: &crate::link::Route, opened: &Opened, lag: &Mutex<Lag>) -> Failure {
        let message = v1::WatchAssignmentsRequest {
            agent_id: self.identity.id.clone(),
            session: opened.session,
            min_revision: lag.lock().passed.0.max(opened.revision),
        };
        // No deadline of the call's own: the stream lives as long as it speaks.
        let mut stream = match call(route.agents().watch_assignments(message)).await {
            Ok(stream) => stream,
            Err(failure) => return failure,
        };
        let mut heard = Instant::now();
        let mut check = tokio::time::interval(limits::WATCH_CHECK);
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        heard = Instant::now();
                        self.take(opened, lag, &message);
                    }
                    Ok(None) => return Failure::Again("the watch was closed".into()),
                    Err(status) => return Failure::of(&status),
                },
                _ = check.tick() => {
                    if heard.elapsed() > limits::WATCH_SILENT {
                        return Failure::Again("the watch is silent".into());
                    }
                    if lag.lock().behind(Instant::now()) {
                        return Failure::Again("the watch is behind the leader".into());
                    }
                }
            }
        }
    }

    fn take(&self, opened: &Opened, lag: &Mutex<Lag>, message: &v1::WatchAssignmentsResponse) {
        let (revision, term) = stood_at(message.header.as_ref());
        for assignment in &message.assignments {
            let Some(member) = self.crew.member(&assignment.worker) else {
                tracing::warn!(worker = assignment.worker, "assignment of a worker that is not served here");
                continue;
            };
            let assigned = Assigned::from_wire(assignment);
            tracing::debug!(worker = member.name, revision, token = assigned.token, "assignment seen");
            member.tell(Input::Assigned { session: opened.session, revision, assigned });
        }
        lag.lock().watch_passed(revision, term);
        self.crew.shared().passed.send_if_modified(|passed| {
            let newer = revision > *passed;
            *passed = (*passed).max(revision);
            newer
        });
    }
}
