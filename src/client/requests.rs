//! Request ids: what makes every write of this client safe to send again.
//!
//! An id is `<client id>/<sequence>`. The cluster keeps an answer for each until the client says that it has been
//! answered, by `answered_below`: the lowest sequence still open. A [`Ticket`] keeps its sequence open while it lives.
//!
//! Invariants
//! * No sequence at or above a call's `answered_below` has been closed while its ticket lives.
//! * A ticket's `not_after` never changes: it is part of the request's identity.
//!
//! Never here: sending.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use remuda_wire::v1::RequestOptions;

use crate::clock::millis;

/// Bounds of requests.
pub(crate) mod limits {
    use std::time::Duration;

    /// How long after its making a request may be executed. Far longer than any call tries, far shorter than the ten
    /// minutes that the cluster permits.
    pub(crate) const WINDOW: Duration = Duration::from_secs(60);
    /// Characters of a client id: with a `/` and 19 digits within the 36 that a request id may have.
    pub(crate) const CLIENT_ID_CHARS: usize = 16;
}

/// The sequence of one client.
#[derive(Debug)]
pub(crate) struct Requests {
    client_id: String,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    next: u64,
    open: BTreeSet<u64>,
}

impl Requests {
    /// A sequence under a new random client id.
    pub(crate) fn new() -> Arc<Self> {
        let mut client_id = uuid::Uuid::new_v4().simple().to_string();
        client_id.truncate(limits::CLIENT_ID_CHARS);
        Arc::new(Self { client_id, open: Mutex::new(Open { next: 1, open: BTreeSet::new() }) })
    }

    /// Opens the next sequence for a request made at log time `now_ms`.
    pub(crate) fn ticket(self: &Arc<Self>, now_ms: u64, window: Duration) -> Ticket {
        let mut open = self.open.lock();
        let sequence = open.next;
        open.next += 1;
        open.open.insert(sequence);
        Ticket { requests: Arc::clone(self), sequence, not_after_ms: now_ms.saturating_add(millis(window)) }
    }

    /// The lowest sequence that may still be asked for.
    fn answered_below(&self) -> u64 {
        let open = self.open.lock();
        open.open.first().copied().unwrap_or(open.next)
    }
}

/// One write, from before its first send until it is answered or given up.
#[derive(Debug)]
pub(crate) struct Ticket {
    requests: Arc<Requests>,
    sequence: u64,
    not_after_ms: u64,
}

impl Ticket {
    /// The request's id.
    pub(crate) fn request_id(&self) -> String {
        format!("{}/{}", self.requests.client_id, self.sequence)
    }

    /// Log time after which it is refused.
    pub(crate) fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }

    /// What the `attempt`-th send carries, counted from 1.
    pub(crate) fn options(&self, attempt: u32) -> RequestOptions {
        assert!(attempt > 0, "attempts are counted from 1; zero would count as a retry");
        RequestOptions {
            request_id: self.request_id(),
            not_after_ms: self.not_after_ms,
            attempt,
            answered_below: self.requests.answered_below(),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.requests.open.lock().open.remove(&self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_enough_and_grow_by_one() {
        let requests = Requests::new();
        let (a, b) = (requests.ticket(5, limits::WINDOW), requests.ticket(5, limits::WINDOW));
        let sequence = |t: &Ticket| t.request_id().split_once('/').map(|(_, s)| s.to_owned());
        assert_eq!((sequence(&a).as_deref(), sequence(&b).as_deref()), (Some("1"), Some("2")));
        assert_eq!(a.not_after_ms(), 60_005);
        let longest = Ticket { requests: Arc::clone(&requests), sequence: 9_999_999_999_999_999_999, not_after_ms: 0 };
        assert!(longest.request_id().len() <= 36, "{}", longest.request_id());
    }

    #[test]
    fn a_retry_repeats_id_and_not_after() {
        let requests = Requests::new();
        let ticket = requests.ticket(7, limits::WINDOW);
        let (first, second) = (ticket.options(1), ticket.options(2));
        assert_eq!((&first.request_id, first.not_after_ms), (&second.request_id, second.not_after_ms));
        assert_eq!((first.attempt, second.attempt), (1, 2));
    }

    #[test]
    fn answered_below_waits_for_the_oldest_open_request() {
        let requests = Requests::new();
        let (a, b) = (requests.ticket(0, limits::WINDOW), requests.ticket(0, limits::WINDOW));
        assert_eq!(b.options(1).answered_below, 1);
        drop(a);
        assert_eq!(b.options(2).answered_below, 2);
        drop(b);
        let c = requests.ticket(0, limits::WINDOW);
        assert_eq!(c.options(1).answered_below, 3);
    }
}
