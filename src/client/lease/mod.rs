//! Held leases: the proof of holding a worker, what its holder may believe, and the table of all that a client holds.
//!
//! The client makes the secret; the cluster sees it only as a hash until it is presented. A lease is in the table from
//! its grant until it is returned or lost, and whoever holds a [`Lease`] is told of every change by [`Lease::changed`].
//!
//! Invariants
//! * A lease leaves the table when the cluster said that it ended, never because the cluster was silent.
//! * `held_until` is set only by an applied renewal.
//!
//! Never here: asking for a lease, see `acquire.rs`; renewing in the background, see `renewal.rs`.

mod renewal;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use remuda_wire::v1;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, watch};

use crate::clock::BootInstant;
use crate::name::{JobId, WorkerId};

/// Bounds of what a holder may believe.
mod limits {
    use std::time::Duration;

    /// Taken off what was granted: one tick of the leader's log time, by which a stamp may lag.
    pub(super) const TICK: Duration = Duration::from_millis(100);
    /// And one part in this many, for two clocks that do not run alike.
    pub(super) const RATE: u32 = 100;
}

/// The lease's secret. Not shown, not logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new random one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// One that was made before.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for presenting or for a file that only its owner can read.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the cluster keeps of it.
    pub fn sha256(&self) -> Vec<u8> {
        Sha256::digest(self.0).to_vec()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What proves that one holds a worker: enough to renew, return and execute, also from another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseKey {
    /// The worker.
    pub worker: WorkerId,
    /// The job that holds it.
    pub job: JobId,
    /// The fencing token.
    pub epoch: u64,
    /// The secret.
    pub secret: Secret,
    /// The revision that granted it.
    pub granted_revision: u64,
    /// Where its executions are served.
    pub execution_endpoint: String,
}

/// How a lease stands, as far as its holder knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// Until then no deadline has ended the lease. None before the first renewal was applied. Past it the holder does
    /// not know: it goes on renewing, keeps its job, and touches nothing outside that does not check the epoch.
    pub held_until: Option<BootInstant>,
    /// The worker's agent is silent; the job may be running.
    pub agent_silent: bool,
    /// The job is known to be gone: return the worker.
    pub interrupted: bool,
    /// A drain will end the lease: by whom and why.
    pub draining: Option<v1::Cordon>,
    /// Set once the cluster said that the lease is no more.
    pub ended: Option<Ended>,
}

/// Why a lease is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// LEASE_ENDED, STALE_LEASE, WRONG_SECRET or NOT_FOUND; RETURNED after a return by this client.
    pub reason: String,
    /// What superseded it, in words.
    pub detail: String,
}

/// A held worker. Clones speak of the same lease; letting them go does not return the worker.
#[derive(Clone)]
pub struct Lease {
    held: Arc<Held>,
    seen: watch::Receiver<Standing>,
}

impl Lease {
    /// The proof of holding it.
    pub fn key(&self) -> &LeaseKey {
        &self.held.key
    }

    /// The worker.
    pub fn worker(&self) -> &WorkerId {
        &self.held.key.worker
    }

    /// The job.
    pub fn job(&self) -> &JobId {
        &self.held.key.job
    }

    /// The fencing token, for everything outside that can check one.
    pub fn epoch(&self) -> u64 {
        self.held.key.epoch
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        self.held.standing.borrow().clone()
    }

    /// Waits until it stands otherwise than when this was last asked, and says how.
    pub async fn changed(&mut self) -> Standing {
        // The sender lives in `held`, so that this cannot fail.
        let _ = self.seen.changed().await;
        self.seen.borrow_and_update().clone()
    }

    /// Waits until the cluster said that the lease is no more.
    pub async fn ended(&mut self) -> Ended {
        loop {
            if let Some(ended) = self.seen.borrow_and_update().ended.clone() {
                return ended;
            }
            let _ = self.seen.changed().await;
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("key", &self.held.key).field("standing", &self.standing()).finish()
    }
}

/// One lease of the table.
pub(crate) struct Held {
    pub(crate) key: LeaseKey,
    standing: watch::Sender<Standing>,
    renew_at: Mutex<Instant>,
}

impl Held {
    fn new(key: LeaseKey) -> Arc<Self> {
        let standing = watch::Sender::new(Standing::default());
        Arc::new(Self { key, standing, renew_at: Mutex::new(Instant::now()) })
    }

    /// Takes the cluster's answer to a renewal that was sent at `sent`. True when the lease is no more.
    fn take(&self, result: &v1::RenewalResult, sent: BootInstant, now: Instant) -> bool {
        if !result.refused.is_empty() {
            self.end(&result.refused, &result.detail);
            return true;
        }
        let granted = duration(result.granted);
        let renew_after = duration(result.renew_after).min(granted / 2);
        *self.renew_at.lock() = now + renew_after;
        self.standing.send_if_modified(|standing| {
            let before = standing.clone();
            standing.held_until = standing.held_until.max(Some(believed_until(sent, granted)));
            standing.agent_silent = result.agent_silent;
            standing.interrupted = result.interrupted;
            standing.draining.clone_from(&result.draining);
            // A later deadline alone is no news.
            (&before.agent_silent, &before.interrupted, &before.draining, before.held_until.is_some())
                != (&standing.agent_silent, &standing.interrupted, &standing.draining, true)
        });
        false
    }

    fn end(&self, reason: &str, detail: &str) {
        self.standing.send_if_modified(|standing| {
            let first = standing.ended.is_none();
            if first {
                standing.ended = Some(Ended { reason: reason.to_owned(), detail: detail.to_owned() });
            }
            first
        });
    }
}

/// Until when a holder knows that no deadline has ended its lease, from when it sent the renewal that was acknowledged
/// and what the answer granted.
pub fn believed_until(sent: BootInstant, granted: Duration) -> BootInstant {
    let margin = limits::TICK + granted / limits::RATE;
    sent.after(granted.saturating_sub(margin))
}

/// A duration of the API; negative and absent ones are zero.
pub(crate) fn duration(d: Option<prost_types::Duration>) -> Duration {
    d.and_then(|d| Duration::try_from(d).ok()).unwrap_or_default()
}

/// All leases that a client holds, by worker.
#[derive(Default)]
pub(crate) struct Leases {
    table: Mutex<BTreeMap<WorkerId, Arc<Held>>>,
    /// Woken when a lease was added, so that the renewal looks at the table again.
    added: Arc<Notify>,
    /// Whether the background renewal has been started.
    renewing: Mutex<bool>,
}

impl Leases {
    /// Adds a lease that was granted. One of the same worker is older, and no more.
    fn add(&self, key: LeaseKey) -> Lease {
        let held = Held::new(key);
        let lease = Lease { seen: held.standing.subscribe(), held: Arc::clone(&held) };
        let older = self.table.lock().insert(held.key.worker.clone(), held);
        if let Some(older) = older {
            older.end("STALE_LEASE", "this client was granted the worker anew");
        }
        self.added.notify_one();
        lease
    }

    /// The lease of this worker by this job.
    pub(crate) fn find(&self, worker: &WorkerId, job: &JobId) -> Option<Arc<Held>> {
        self.table.lock().get(worker).filter(|held| held.key.job == *job).cloned()
    }

    /// Takes a lease out, if it is still the one of this epoch.
    pub(crate) fn remove(&self, worker: &WorkerId, epoch: u64, reason: &str, detail: &str) {
        let mut table = self.table.lock();
        if table.get(worker).is_some_and(|held| held.key.epoch == epoch)
            && let Some(held) = table.remove(worker)
        {
            held.end(reason, detail);
        }
    }

    fn all(&self) -> Vec<Arc<Held>> {
        self.table.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(epoch: u64) -> LeaseKey {
        LeaseKey {
            worker: "pools/ci/workers/w".parse().expect("a good name"),
            job: "j".parse().expect("a good id"),
            epoch,
            secret: Secret::random(),
            granted_revision: 1,
            execution_endpoint: String::new(),
        }
    }

    fn granted(seconds: i64) -> v1::RenewalResult {
        v1::RenewalResult {
            granted: Some(prost_types::Duration { seconds, nanos: 0 }),
            renew_after: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn belief_is_counted_from_the_send_less_a_tick_and_a_hundredth() {
        let sent = BootInstant::now();
        let until = believed_until(sent, Duration::from_secs(30));
        assert_eq!(until.left(sent), Duration::from_millis(30_000 - 100 - 300));
        assert_eq!(believed_until(sent, Duration::from_millis(50)), sent, "never before the send");
    }

    #[tokio::test]
    async fn only_an_applied_renewal_gives_belief_and_it_never_goes_back() {
        let leases = Leases::default();
        let lease = leases.add(key(1));
        assert_eq!(lease.standing().held_until, None);
        let sent = BootInstant::now();
        let held = leases.find(lease.worker(), lease.job()).expect("held");
        assert!(!held.take(&granted(30), sent, Instant::now()));
        let first = lease.standing().held_until.expect("believed");
        assert!(!held.take(&granted(10), sent, Instant::now()));
        assert_eq!(lease.standing().held_until, Some(first));
        let due = held.renew_at.lock().saturating_duration_since(Instant::now());
        assert!(due <= Duration::from_secs(5), "never later than half of what was granted: {due:?}");
    }

    #[tokio::test]
    async fn the_holder_is_told_of_the_end_once() {
        let leases = Leases::default();
        let mut lease = leases.add(key(1));
        let newer = leases.add(key(2));
        assert_eq!(lease.ended().await.reason, "STALE_LEASE");
        leases.remove(newer.worker(), 1, "RETURNED", "");
        assert_eq!(newer.standing().ended, None, "the older epoch's end is not the newer one's");
        leases.remove(newer.worker(), 2, "RETURNED", "");
        leases.remove(newer.worker(), 2, "LEASE_ENDED", "");
        assert_eq!(newer.standing().ended.map(|e| e.reason).as_deref(), Some("RETURNED"));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let key = key(1);
        let shown = format!("{key:?}");
        assert!(shown.contains("Secret(..)"), "{shown}");
    }
}
