//! Acquires whose calls are open here: what this replica vouches for.
//!
//! Each second one message tells the leader all of them. Where that goes unanswered for three seconds the calls end, so
//! that their clients go elsewhere while their waiters still have their places.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Calls end when nobody was told of them for this long: below the ten seconds after which a waiter is dropped.
const UNTOLD_MAX: Duration = Duration::from_secs(3);

/// The open calls of a replica.
pub struct Waiting {
    calls: Mutex<HashMap<String, usize>>,
    told: Mutex<Instant>,
}

/// One open call; its end is its drop.
pub struct Open {
    waiting: Arc<Waiting>,
    request: String,
    since: Instant,
}

impl Waiting {
    /// No calls.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { calls: Mutex::default(), told: Mutex::new(Instant::now()) })
    }

    /// A call waits for the acquire with this request id.
    pub fn open(self: &Arc<Self>, request: String) -> Open {
        *self.calls.lock().entry(request.clone()).or_default() += 1;
        Open { waiting: self.clone(), request, since: Instant::now() }
    }

    /// The request ids of all open calls.
    pub fn list(&self) -> Vec<String> {
        self.calls.lock().keys().cloned().collect()
    }

    /// The leader was told of them.
    pub fn vouched(&self) {
        *self.told.lock() = Instant::now();
    }
}

impl Open {
    /// Whether the leader was told lately, or the call is young.
    pub fn is_vouched_for(&self) -> bool {
        let told = *self.waiting.told.lock();
        told.max(self.since).elapsed() <= UNTOLD_MAX
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut calls = self.waiting.calls.lock();
        if let Some(count) = calls.get_mut(&self.request) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.request);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_vouched_for_until_its_last_call_ends() {
        let waiting = Waiting::new();
        let first = waiting.open("a/1".to_owned());
        let second = waiting.open("a/1".to_owned());
        assert_eq!(waiting.list(), ["a/1"]);
        drop(first);
        assert_eq!(waiting.list(), ["a/1"]);
        assert!(second.is_vouched_for());
        drop(second);
        assert!(waiting.list().is_empty());
    }
}
