//! The replicas that a client may call: lazily made connections, who leads, and who failed of late.
//!
//! Any replica serves any call, so the leader is only the shortest way. It is learned from the hints that answers and
//! errors carry; a hint may name an endpoint that was not configured, which is then added.
//!
//! Invariants
//! * A hint of an older term never replaces a newer one.
//! * The set is bounded, whatever hints say.
//!
//! Never here: sending, or deciding when to try again.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;

/// Bounds of the set and of its connections.
mod limits {
    use std::time::Duration;

    /// Endpoints in all, configured and learned: clusters have seven voters at most.
    pub(super) const ENDPOINTS: usize = 32;
    /// A connection on a local network takes milliseconds; one that takes longer goes to a dead host.
    pub(super) const CONNECT: Duration = Duration::from_secs(1);
    /// While calls are open, a silent peer is asked this often whether it lives: a waiting call must move to another
    /// replica within the 10 s after which its waiter is dropped.
    pub(super) const PING: Duration = Duration::from_secs(2);
    /// A peer that does not answer a ping for this long is gone.
    pub(super) const PONG: Duration = Duration::from_secs(3);
    /// An endpoint that failed is passed over for this long while there are others: about one election.
    pub(super) const PASSED_OVER: Duration = Duration::from_secs(1);
}

/// The endpoints of one cluster.
#[derive(Debug)]
pub struct Endpoints {
    set: Mutex<Set>,
}

#[derive(Debug)]
struct Set {
    members: Vec<Member>,
    /// The leader's place in `members`, and the term of the hint. The term stays when the place is forgotten.
    leader: Option<usize>,
    leader_term: u64,
    /// Where the next choice without a leader begins.
    next: usize,
}

#[derive(Debug)]
struct Member {
    url: String,
    channel: Channel,
    failed: Option<Instant>,
}

/// An endpoint chosen for one attempt.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Its URL.
    pub url: String,
    /// Its connection.
    pub channel: Channel,
}

impl Endpoints {
    /// A set of `host:port` or `http://host:port`. Needs a tokio runtime; connects to nothing yet.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an empty set, for too many, and for one that is no URL.
    pub fn new<S: AsRef<str>>(endpoints: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let mut members = Vec::new();
        for endpoint in endpoints {
            let url = normal(endpoint.as_ref());
            if members.iter().all(|m: &Member| m.url != url) {
                members.push(Member { channel: channel(&url)?, url, failed: None });
            }
        }
        if members.is_empty() || members.len() > limits::ENDPOINTS {
            let count = members.len();
            return Err(Error::invalid(format!("{count} endpoints; there must be 1 to {}", limits::ENDPOINTS)));
        }
        let next = rand::random_range(0..members.len());
        Ok(Self { set: Mutex::new(Set { members, leader: None, leader_term: 0, next }) })
    }

    /// The URLs, configured and learned.
    pub fn urls(&self) -> Vec<String> {
        self.set.lock().members.iter().map(|m| m.url.clone()).collect()
    }

    /// The leader's URL as the newest hint has it, unless it has failed since.
    pub fn leader(&self) -> Option<String> {
        let set = self.set.lock();
        set.leader.and_then(|i| set.members.get(i)).map(|m| m.url.clone())
    }

    /// Chooses among those whose URL is not in `tried`: the leader, else in turn one that has not failed of late, else
    /// one that has. None when all were tried.
    pub fn choose(&self, tried: &[String]) -> Option<Chosen> {
        self.choose_at(tried, Instant::now())
    }

    fn choose_at(&self, tried: &[String], now: Instant) -> Option<Chosen> {
        let mut set = self.set.lock();
        let untried = |m: &Member| !tried.contains(&m.url);
        let well = |m: &Member| m.failed.is_none_or(|f| now.saturating_duration_since(f) > limits::PASSED_OVER);
        let count = set.members.len();
        let in_turn = |i: usize| (set.next + i) % count;
        let place = set
            .leader
            .filter(|&i| set.members.get(i).is_some_and(|m| untried(m) && well(m)))
            .or_else(|| (0..count).map(in_turn).find(|&i| untried(&set.members[i]) && well(&set.members[i])))
            .or_else(|| (0..count).map(in_turn).find(|&i| untried(&set.members[i])))?;
        if set.leader != Some(place) {
            set.next = (place + 1) % count;
        }
        let member = &set.members[place];
        Some(Chosen { url: member.url.clone(), channel: member.channel.clone() })
    }

    /// The endpoint with this URL, if it is in the set.
    pub fn at(&self, url: &str) -> Option<Chosen> {
        let set = self.set.lock();
        let member = set.members.iter().find(|m| m.url == url)?;
        Some(Chosen { url: member.url.clone(), channel: member.channel.clone() })
    }

    /// Takes note that an endpoint answered.
    pub fn succeeded(&self, url: &str) {
        if let Some(member) = self.set.lock().members.iter_mut().find(|m| m.url == url) {
            member.failed = None;
        }
    }

    /// Takes note that an endpoint did not serve a call.
    pub fn failed(&self, url: &str) {
        let mut set = self.set.lock();
        if let Some(place) = set.members.iter().position(|m| m.url == url) {
            set.members[place].failed = Some(Instant::now());
            if set.leader == Some(place) {
                set.leader = None;
            }
        }
    }

    /// Takes note of who leads, unless the hint is of an older term than the newest.
    pub fn hint(&self, endpoint: &str, term: u64) {
        let mut set = self.set.lock();
        if endpoint.is_empty() || term < set.leader_term {
            return;
        }
        let url = normal(endpoint);
        let known = set.members.iter().position(|m| m.url == url);
        let place = known.or_else(|| {
            let channel = if set.members.len() < limits::ENDPOINTS { channel(&url).ok()? } else { return None };
            set.members.push(Member { url, channel, failed: None });
            Some(set.members.len() - 1)
        });
        if place.is_some() {
            set.leader = place;
            set.leader_term = term;
        }
    }
}

fn normal(endpoint: &str) -> String {
    let endpoint = endpoint.trim();
    let endpoint = if endpoint.ends_with("://") { endpoint } else { endpoint.trim_end_matches('/') };
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") }
}

/// A connection to `url`, made when it is first used. Needs a tokio runtime.
///
/// # Errors
/// `INVALID_FIELD` where `url` is none.
pub fn channel(url: &str) -> Result<Channel, Error> {
    let url = normal(url);
    let bad = |why: &dyn std::fmt::Display| Error::invalid(format!("{url:?} is not an endpoint: {why}"));
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|e| bad(&e))?;
    if endpoint.uri().host().is_none_or(str::is_empty) || endpoint.uri().scheme_str() != Some("http") {
        return Err(bad(&"it must be host:port or http://host:port"));
    }
    Ok(endpoint
        .connect_timeout(limits::CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(limits::PING)
        .keep_alive_timeout(limits::PONG)
        .keep_alive_while_idle(false)
        .connect_lazy())
}

/// How long an endpoint that failed is passed over.
pub const PASSED_OVER: Duration = limits::PASSED_OVER;

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Endpoints {
        Endpoints::new(["a:1", "http://b:1", "c:1"]).expect("three good endpoints")
    }

    #[tokio::test]
    async fn a_hint_of_an_older_term_changes_nothing() {
        let set = three();
        set.hint("http://b:1", 5);
        set.hint("http://c:1", 4);
        assert_eq!(set.leader().as_deref(), Some("http://b:1"));
        set.hint("c:1", 5);
        assert_eq!(set.leader().as_deref(), Some("http://c:1"), "one of the same term is newer knowledge");
        set.hint("", 9);
        assert_eq!(set.leader().as_deref(), Some("http://c:1"), "who knows no leader says nothing");
    }

    #[tokio::test]
    async fn the_leader_is_chosen_until_it_fails() {
        let set = three();
        set.hint("b:1", 5);
        assert_eq!(set.choose(&[]).map(|c| c.url).as_deref(), Some("http://b:1"));
        set.failed("http://b:1");
        assert_eq!(set.leader(), None);
        set.hint("b:1", 5);
        let other = set.choose(&[]).map(|c| c.url);
        assert_ne!(other.as_deref(), Some("http://b:1"), "a follower that still believes in the dead leader");
        let later = Instant::now() + limits::PASSED_OVER * 2;
        assert_eq!(set.choose_at(&[], later).map(|c| c.url).as_deref(), Some("http://b:1"));
        set.hint("d:1", 4);
        assert_eq!(set.urls().len(), 3, "an old hint does not even add its endpoint");
    }

    #[tokio::test]
    async fn each_is_tried_once_and_then_none_is_left() {
        let set = three();
        let mut tried = Vec::new();
        while let Some(chosen) = set.choose(&tried) {
            set.failed(&chosen.url);
            tried.push(chosen.url);
        }
        tried.sort();
        assert_eq!(tried, ["http://a:1", "http://b:1", "http://c:1"]);
    }

    #[tokio::test]
    async fn hints_cannot_fill_memory() {
        let set = three();
        for i in 0..100 {
            set.hint(&format!("h{i}:1"), i);
        }
        assert_eq!(set.urls().len(), limits::ENDPOINTS);
    }

    #[tokio::test]
    async fn what_is_no_endpoint_is_refused() {
        for bad in ["", "ftp://x:1", "http://", "a b"] {
            assert!(Endpoints::new([bad]).is_err(), "{bad:?}");
        }
        assert!(Endpoints::new(Vec::<&str>::new()).is_err());
    }
}
