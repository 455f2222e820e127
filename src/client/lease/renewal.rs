//! Background renewal: one task per client that renews all its leases in one call whenever one of them is due.
//!
//! The task holds the client weakly, so that it ends with the last handle. A call that nobody answered leaves every
//! lease as it was: the holder's belief runs out by itself, and the next try follows soon.
//!
//! Never here: judging how long a lease lasts; that is in the answers.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use remuda_wire::v1::{RenewLeasesRequest, RenewLeasesResponse, Renewal, RenewalResult};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Held, Lease, LeaseKey};
use crate::client::{Client, Inner};
use crate::error::Error;
use crate::retry::{Answered, Patience};

/// Bounds of renewing.
mod limits {
    use std::time::Duration;

    /// Leases in one call, as the API has it.
    pub(super) const LEASES: usize = 1_000;
    /// All attempts of one renewal: short, so that the next begins with all leases that became due meanwhile.
    pub(super) const PATIENCE: Duration = Duration::from_secs(5);
    /// After a renewal that nobody answered.
    pub(super) const AGAIN: Duration = Duration::from_millis(200);
}

impl Client {
    /// Holds a lease from now on: it is renewed in the background until it is returned or lost. For a lease that this
    /// client acquired itself that is the case already.
    pub fn hold(&self, key: LeaseKey) -> Lease {
        let lease = self.inner.leases.add(key);
        let mut renewing = self.inner.leases.renewing.lock();
        if !*renewing {
            *renewing = true;
            let added = Arc::clone(&self.inner.leases.added);
            tokio::spawn(renew_all(Arc::downgrade(&self.inner), added, self.inner.closed.clone()));
        }
        lease
    }

    /// Stops renewing a lease without returning the worker; the lease runs out.
    pub fn let_go(&self, lease: &Lease) {
        self.inner.leases.remove(lease.worker(), lease.epoch(), "LET_GO", "the holder let it go");
    }

    /// Renews one lease once, whoever holds it.
    ///
    /// # Errors
    /// That nobody answered. A refusal is in the result.
    pub async fn renew(&self, key: &LeaseKey, ttl: Option<Duration>) -> Result<RenewalResult, Error> {
        let mut renewal = renewal_of(key);
        renewal.ttl = ttl.and_then(|ttl| ttl.try_into().ok());
        let answered = self.send_renewals(vec![renewal]).await?;
        answered.answer.results.into_iter().next().ok_or_else(|| Error::bad_answer("result"))
    }

    /// Renews a held lease now and takes the answer, as the background would.
    pub(crate) async fn renew_held(&self, lease: &Lease) -> Result<(), Error> {
        let answered = self.send_renewals(vec![renewal_of(lease.key())]).await?;
        self.take_results(&[Arc::clone(&lease.held)], &answered);
        Ok(())
    }

    async fn send_renewals(&self, renewals: Vec<Renewal>) -> Result<Answered<RenewLeasesResponse>, Error> {
        let patience = Patience::within(limits::PATIENCE).with_effect();
        self.ask_with(patience, RenewLeasesRequest { renewals }).await
    }

    fn take_results(&self, leases: &[Arc<Held>], answered: &Answered<RenewLeasesResponse>) {
        let now = Instant::now();
        for (held, result) in leases.iter().zip(&answered.answer.results) {
            if result.epoch == held.key.epoch && held.take(result, answered.sent, now) {
                tracing::warn!(worker = %held.key.worker, epoch = held.key.epoch, reason = result.refused,
                    detail = result.detail, "the lease is no more");
                self.inner.leases.remove(&held.key.worker, held.key.epoch, &result.refused, &result.detail);
            }
        }
    }
}

fn renewal_of(key: &LeaseKey) -> Renewal {
    Renewal { worker: key.worker.to_string(), epoch: key.epoch, secret: key.secret.bytes().to_vec(), ttl: None }
}

async fn renew_all(client: Weak<Inner>, added: Arc<Notify>, closed: CancellationToken) {
    loop {
        let due = {
            let Some(inner) = client.upgrade() else { return };
            inner.leases.all().iter().map(|held| *held.renew_at.lock()).min()
        };
        tokio::select! {
            () = closed.cancelled() => return,
            () = added.notified() => continue,
            () = sleep_until(due) => {}
        }
        let Some(inner) = client.upgrade() else { return };
        renew_once(&Client { inner }).await;
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

async fn renew_once(client: &Client) {
    for leases in client.inner.leases.all().chunks(limits::LEASES) {
        let renewals = leases.iter().map(|held| renewal_of(&held.key)).collect();
        match client.send_renewals(renewals).await {
            Ok(answered) => client.take_results(leases, &answered),
            Err(error) => {
                tracing::warn!(%error, leases = leases.len(), "renewal failed; trying again");
                let again = Instant::now() + limits::AGAIN;
                for held in leases {
                    *held.renew_at.lock() = again;
                }
            }
        }
    }
}
