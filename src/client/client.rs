//! The client: one handle for everything that may be asked of a cluster.
//!
//! It is cheap to clone; clones share connections, what is known of the leader and of log time, the request sequence,
//! and the leases held. When the last clone goes, renewal stops and the leases run out.
//!
//! Never here: what any one call means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_wire::v1::{GetTimeRequest, GetTimeResponse};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::clock::LogClock;
use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::lease::Leases;
use crate::requests::{self, Requests, Ticket};
use crate::retry::{self, Answered, Attempt, Headed, Patience};
use crate::rpc::{Call, Paged, Write};

/// How often a list is begun anew because its pages expired, before the error is given back.
const LIST_ANEW: u32 = 3;

/// A handle on a cluster.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) endpoints: Endpoints,
    pub(crate) clock: LogClock,
    pub(crate) requests: Arc<Requests>,
    pub(crate) leases: Leases,
    /// Ends the background renewal.
    pub(crate) closed: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Client {
    /// A client of the cluster with these endpoints, `host:port` or `http://host:port`; one that answers suffices. Must
    /// be called within a tokio runtime; connects when first used.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an empty list and for what is no endpoint.
    pub fn new<S: AsRef<str>>(endpoints: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let inner = Inner {
            endpoints: Endpoints::new(endpoints)?,
            clock: LogClock::default(),
            requests: Requests::new(),
            leases: Leases::default(),
            closed: CancellationToken::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The replicas that this client knows.
    pub fn endpoints(&self) -> &Endpoints {
        &self.inner.endpoints
    }

    /// Asks, with the usual patience.
    ///
    /// # Errors
    /// What the cluster decided, or that nobody answered.
    pub async fn ask<R: Call>(&self, request: R) -> Result<R::Answer, Error> {
        Ok(self.ask_with(Patience::default(), request).await?.answer)
    }

    /// Asks, with patience of the caller's choice.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn ask_with<R: Call>(&self, patience: Patience, request: R) -> Result<Answered<R::Answer>, Error> {
        self.call(&patience, |attempt| request.clone().send(attempt.channel, attempt.timeout)).await
    }

    /// Writes, with the usual patience. However often it is sent, it has one effect.
    ///
    /// # Errors
    /// What the cluster decided, or that nobody answered; then [`Error::outcome`] says whether it may have happened.
    pub async fn write<R: Write>(&self, request: R) -> Result<R::Answer, Error> {
        Ok(self.write_with(Patience::default(), request).await?.answer)
    }

    /// Writes, with patience of the caller's choice.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub async fn write_with<R: Write>(&self, patience: Patience, request: R) -> Result<Answered<R::Answer>, Error> {
        let deadline = Instant::now() + patience.total;
        let ticket = self.ticket(requests::limits::WINDOW.max(patience.total)).await?;
        let total = deadline.saturating_duration_since(Instant::now());
        self.write_under(&ticket, Patience { total, ..patience }, &request).await
    }

    /// Writes under a ticket that the caller keeps.
    pub(crate) async fn write_under<R: Write>(
        &self,
        ticket: &Ticket,
        patience: Patience,
        request: &R,
    ) -> Result<Answered<R::Answer>, Error> {
        self.call(&patience.with_effect(), |attempt| {
            let mut request = request.clone();
            request.stamp(ticket.options(attempt.number));
            request.send(attempt.channel, attempt.timeout)
        })
        .await
    }

    /// A whole list, all its pages together.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn list<R: Paged>(&self, request: R) -> Result<R::Answer, Error> {
        let mut begun = 0;
        loop {
            begun += 1;
            match self.list_once(request.clone()).await {
                // The replica that kept the pages is gone or forgot them: the list begins anew elsewhere.
                Err(e) if e.is("PAGE_EXPIRED") && begun < LIST_ANEW => {}
                done => return done,
            }
        }
    }

    async fn list_once<R: Paged>(&self, mut request: R) -> Result<R::Answer, Error> {
        let first = self.ask_with(Patience::default(), request.clone()).await?;
        let (mut whole, url) = (first.answer, first.url);
        while !R::next_page(&whole).is_empty() {
            request.at_page(R::next_page(&whole).to_owned());
            // A page token belongs to the replica that made it.
            let patience = Patience { first: Some(url.clone()), ..Patience::default() };
            let page = self.ask_with(patience, request.clone()).await?;
            R::join(&mut whole, page.answer);
        }
        Ok(whole)
    }

    /// Tries any call until it is answered, refused or out of time; for callers whose calls this crate does not know.
    ///
    /// # Errors
    /// What was decided, or that nobody answered.
    pub async fn call<T, F, Fut>(&self, patience: &Patience, send: F) -> Result<Answered<T>, Error>
    where
        T: Headed,
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        retry::call(&self.inner.endpoints, &self.inner.clock, patience, send).await
    }

    /// A new request id, good for `window` of log time from now on.
    pub(crate) async fn ticket(&self, window: Duration) -> Result<Ticket, Error> {
        let now = match self.inner.clock.now(Instant::now()) {
            Some(now) => now,
            None => self.log_time().await?,
        };
        Ok(self.inner.requests.ticket(now, window))
    }

    /// Asks for log time; a replica that does not know it is passed over.
    async fn log_time(&self) -> Result<u64, Error> {
        let known =
            |r: &tonic::Response<GetTimeResponse>| r.get_ref().header.as_ref().is_some_and(|h| h.log_time_ms > 0);
        let answered = self
            .call(&Patience::default(), |attempt| async move {
                let response = GetTimeRequest {}.send(attempt.channel, attempt.timeout).await?;
                if known(&response) {
                    Ok(response)
                } else {
                    Err(Status::unavailable("the replica does not know log time"))
                }
            })
            .await?;
        answered.answer.header.map(|h| h.log_time_ms).ok_or_else(|| Error::bad_answer("log time"))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.inner.endpoints.urls()).finish_non_exhaustive()
    }
}
