//! EventService.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use remuda_registry::Revision;
use remuda_wire::convert::Violations;
use remuda_wire::{name, reasons, selector, v1};
use tonic::{Request, Response, Status};

use super::Replica;
use super::front::Deadline;
use super::status::Failure;
use crate::watch::events::{EventStream, Wanted};
use crate::watch::resume::{self, ResumeError};

/// Bounds of watches.
mod limits {
    use remuda_registry::Millis;

    /// A bookmark after this long, unless the watcher says otherwise.
    pub(super) const PROGRESS: Millis = Millis::secs(10);
    /// More often would be traffic for nothing.
    pub(super) const PROGRESS_MIN: Millis = Millis(100);
    /// Less often would hide a dead stream.
    pub(super) const PROGRESS_MAX: Millis = Millis::hours(1);
}

/// The stream of what happened.
pub struct EventService {
    replica: Arc<Replica>,
}

impl EventService {
    /// The service of a replica.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    async fn open(&self, request: v1::WatchEventsRequest, deadline: Instant) -> Result<EventStream, Failure> {
        let mut found = Violations::default();
        let parent = found.take("parent", name::parent(&request.parent));
        let selector = found.take("selector", selector::parse(&request.selector));
        let progress = found.duration("progress_interval", request.progress_interval.as_ref());
        let progress = progress.unwrap_or(limits::PROGRESS);
        let fits = (limits::PROGRESS_MIN..=limits::PROGRESS_MAX).contains(&progress);
        found.require(fits, "progress_interval", "must be from 100 ms to 1 h");
        let token = !request.resume_token.is_empty();
        let points = [token, request.start_revision > 0, request.send_initial].into_iter().filter(|set| *set).count();
        let one = "only one of start_revision, resume_token and send_initial may be set";
        found.require(points <= 1, "start_revision", one);
        let resumed = token.then(|| resume::read(&self.replica.node.cluster_id(), &request.resume_token));
        if resumed == Some(Err(ResumeError::Malformed)) {
            found.add("resume_token", "is not a token of this service");
        }
        let (parent, selector) = found.finish(parent.zip(selector))?;
        self.replica.in_contact()?;
        let floor = match resumed {
            Some(Ok(revision)) => revision,
            Some(Err(_)) => return Err(Failure::new(reasons::REVISION_COMPACTED, "the token is another cluster's")),
            None => Revision(0),
        };
        self.replica.node.wait_applied(Revision(request.min_revision).max(floor), deadline).await?;
        let now = if token || request.start_revision > 0 {
            self.replica.node.applied().borrow().revision
        } else {
            // From now on means from what was acknowledged before the call.
            self.replica.node.read_index(deadline).await?
        };
        let until = if request.no_follow { Some(self.replica.node.read_index(deadline).await?) } else { None };
        let next = match request.start_revision {
            0 if token => Revision(floor.0 + 1),
            0 => Revision(now.0 + 1),
            start => Revision(start),
        };
        let progress = Duration::from_millis(progress.0);
        let initial = request.send_initial;
        EventStream::open(self.replica.clone(), Wanted { parent, selector, next, initial, progress, until }).await
    }
}

#[tonic::async_trait]
impl v1::event_service_server::EventService for EventService {
    type WatchEventsStream = BoxStream<'static, Result<v1::WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO).min(Instant::now() + super::PATIENCE);
        let opened = self.open(request.into_inner(), deadline).await;
        let open = opened.map_err(|failure| self.replica.status(failure))?;
        let watching = self.replica.metrics.watching("events");
        let replica = self.replica.clone();
        let stream = stream::unfold((open, replica, watching), |(mut open, replica, watching)| async move {
            let message = open.next().await?;
            let message = message.map_err(|failure| replica.status(failure));
            Some((message, (open, replica, watching)))
        });
        Ok(Response::new(stream.boxed()))
    }
}
