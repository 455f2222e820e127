//! A watch that goes on: events in order, each once, whatever happens to the replica that served them.
//!
//! Every part of the stream carries a token that resumes after it. When the stream breaks, the watch is opened again
//! elsewhere with the last token; what is no longer kept ends it with `REVISION_COMPACTED`, so that nothing is ever
//! skipped in silence. A watch "from now on" first asks where now is, since a stream that breaks before its first part
//! would otherwise begin later than the caller asked for.
//!
//! Invariants
//! * Revisions of events only grow.
//!
//! Never here: keeping events; filtering, which the cluster does.

use std::time::{Duration, Instant};

use remuda_wire::v1::event_service_client::EventServiceClient;
use remuda_wire::v1::{Event, ListPoolsRequest, WatchEventsRequest, WatchEventsResponse, Worker};
use tonic::{Code, Request, Streaming};

use crate::client::Client;
use crate::error::{Error, Outcome, reason};

/// Bounds of a watch.
mod limits {
    use std::time::Duration;

    /// Bookmarks come this often, so that a token is never older.
    pub(super) const PROGRESS: Duration = Duration::from_secs(2);
    /// A stream that sends neither events nor bookmarks for this long is dead, whatever its connection says.
    pub(super) const SILENT: Duration = Duration::from_secs(8);
    /// Nobody serves the watch for this long: it is given up.
    pub(super) const GIVE_UP: Duration = Duration::from_secs(60);
    /// The pause after every replica was tried.
    pub(super) const PAUSE: Duration = Duration::from_millis(200);
    /// The answer to the opening call.
    pub(super) const OPEN: Duration = Duration::from_secs(5);
}

/// Where a watch begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum From {
    /// With what happens after the call.
    #[default]
    Now,
    /// With this revision.
    Revision(u64),
    /// After the part that carried this token.
    Token(String),
    /// With every worker as it is, then what follows.
    Workers,
}

/// What a watch shows.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// `pools/{pool}`, `pools/{pool}/workers/{worker}`, or empty for all.
    pub parent: String,
    /// Only workers whose labels match.
    pub selector: String,
    /// Where it begins.
    pub from: From,
    /// Ends after the events that exist when the call is made.
    pub no_follow: bool,
    /// Nobody serves the watch for this long: it is given up. None for a minute.
    pub give_up: Option<Duration>,
}

/// A part of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// All events of one revision that passed the filter.
    Events {
        /// The events, by ordinal.
        events: Vec<Event>,
        /// Resumes after them.
        token: String,
    },
    /// Workers as they are at one revision; only with [`From::Workers`].
    Workers {
        /// The workers of this part.
        workers: Vec<Worker>,
        /// True for the first part: forget what an earlier, broken one showed.
        first: bool,
    },
    /// Everything up to this revision has been shown.
    Bookmark {
        /// The revision.
        revision: u64,
        /// Resumes after it.
        token: String,
    },
}

/// A watch in progress.
#[derive(Debug)]
pub struct Changes {
    client: Client,
    options: WatchOptions,
    stream: Option<(String, Streaming<WatchEventsResponse>)>,
    /// Resumes after the last part given out.
    token: Option<String>,
    /// The last revision whose events were given out, or that a bookmark passed.
    passed: u64,
    first_workers: bool,
    tried: Vec<String>,
    last_contact: Instant,
    over: bool,
}

impl Client {
    /// Watches events. Nothing is sent before the first [`Changes::next`].
    pub fn watch(&self, options: WatchOptions) -> Changes {
        Changes {
            client: self.clone(),
            options,
            stream: None,
            token: None,
            passed: 0,
            first_workers: true,
            tried: Vec::new(),
            last_contact: Instant::now(),
            over: false,
        }
    }
}

impl Changes {
    /// The next part; None at the end of a watch that does not follow. Dropping this future loses nothing.
    ///
    /// # Errors
    /// `REVISION_COMPACTED` when events that were asked for are no longer kept; `UNREACHABLE` and the like when nobody
    /// served the watch for a minute. After that error the next call tries again.
    pub async fn next(&mut self) -> Option<Result<Part, Error>> {
        while !self.over {
            if self.stream.is_none()
                && let Err(error) = self.open().await
            {
                match self.broken(&error).await {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(error)),
                }
            }
            let Some((_, stream)) = &mut self.stream else { continue };
            let message = match tokio::time::timeout(limits::SILENT, stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) if self.options.no_follow => {
                    self.over = true;
                    return None;
                }
                Ok(Ok(None)) => {
                    self.leave();
                    continue;
                }
                Ok(Err(status)) => {
                    let error = Error::from_status(&status);
                    match self.broken(&error).await {
                        Ok(()) => continue,
                        Err(error) => return Some(Err(error)),
                    }
                }
                Err(_) => {
                    self.leave();
                    continue;
                }
            };
            self.last_contact = Instant::now();
            self.tried.clear();
            if let Some(part) = self.take(message) {
                return Some(Ok(part));
            }
        }
        None
    }

    /// The token that resumes after the last part given out.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    fn take(&mut self, message: WatchEventsResponse) -> Option<Part> {
        let revision = message.header.as_ref().map_or(0, |h| h.revision);
        if let Some(header) = &message.header {
            self.client.inner.endpoints.hint(&header.leader_endpoint, header.leader_term);
            self.client.inner.clock.hear(header.log_time_ms, Instant::now());
        }
        if !message.initial.is_empty() {
            let first = std::mem::replace(&mut self.first_workers, false);
            return Some(Part::Workers { workers: message.initial, first });
        }
        if let Some(event) = message.events.first() {
            if event.revision <= self.passed {
                // A replica that shows a revision again is wrong; the caller must not see it twice.
                tracing::warn!(revision = event.revision, passed = self.passed, "a watch showed a revision twice");
                return None;
            }
            self.passed = event.revision;
            self.token = Some(message.resume_token.clone());
            return Some(Part::Events { events: message.events, token: message.resume_token });
        }
        self.passed = self.passed.max(revision);
        self.token = Some(message.resume_token.clone());
        Some(Part::Bookmark { revision, token: message.resume_token })
    }

    async fn open(&mut self) -> Result<(), Error> {
        if self.options.from == From::Now && self.token.is_none() && !self.options.no_follow {
            let now = self.client.ask(ListPoolsRequest { page_size: 1, ..Default::default() }).await?;
            let revision = now.header.map(|h| h.revision).ok_or_else(|| Error::bad_answer("header"))?;
            self.options.from = From::Revision(revision + 1);
        }
        let Some(chosen) = self.client.inner.endpoints.choose(&self.tried) else {
            tokio::time::sleep(limits::PAUSE).await;
            self.tried.clear();
            return Ok(());
        };
        self.tried.push(chosen.url.clone());
        let request = Request::new(self.request());
        let mut service = EventServiceClient::new(chosen.channel);
        let opened = tokio::time::timeout(limits::OPEN, service.watch_events(request)).await;
        let failed = match opened {
            Ok(Ok(response)) => {
                self.stream = Some((chosen.url, response.into_inner()));
                return Ok(());
            }
            Ok(Err(status)) => Error::from_status(&status),
            Err(_) => {
                let message = format!("{} did not answer within {:?}", chosen.url, limits::OPEN);
                Error::own(reason::DEADLINE_PASSED, Code::DeadlineExceeded, Outcome::Absent, message)
            }
        };
        self.client.inner.endpoints.failed(&chosen.url);
        Err(failed)
    }

    fn request(&self) -> WatchEventsRequest {
        let mut request = WatchEventsRequest {
            parent: self.options.parent.clone(),
            selector: self.options.selector.clone(),
            progress_interval: limits::PROGRESS.try_into().ok(),
            no_follow: self.options.no_follow,
            min_revision: self.passed,
            ..Default::default()
        };
        match (&self.token, &self.options.from) {
            (Some(token), _) | (None, From::Token(token)) => request.resume_token.clone_from(token),
            (None, From::Revision(revision)) => request.start_revision = *revision,
            (None, From::Workers) => request.send_initial = true,
            (None, From::Now) => {}
        }
        request
    }

    /// Leaves a stream that says nothing more.
    fn leave(&mut self) {
        if let Some((url, _)) = self.stream.take() {
            self.client.inner.endpoints.failed(&url);
            self.first_workers = true;
        }
    }

    /// Goes on elsewhere after an error, unless it is one that would be the same everywhere.
    async fn broken(&mut self, error: &Error) -> Result<(), Error> {
        tracing::debug!(%error, "a watch broke off");
        self.leave();
        if error.is("SLOW_CONSUMER") {
            self.tried.clear();
            return Ok(());
        }
        let mended = match error.code() {
            Code::Unavailable | Code::DeadlineExceeded => true,
            Code::Cancelled | Code::Unknown | Code::Internal | Code::ResourceExhausted => !error.said_by_cluster(),
            _ => false,
        };
        if !mended {
            self.over = true;
            return Err(error.clone().with_outcome(Outcome::Absent));
        }
        if self.last_contact.elapsed() > self.options.give_up.unwrap_or(limits::GIVE_UP) {
            self.last_contact = Instant::now();
            return Err(error.clone().with_outcome(Outcome::Absent));
        }
        Ok(())
    }
}
