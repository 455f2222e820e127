//! The replica's sense of log time and of its contact with the leader.
//!
//! The leader accumulates log time: each tick adds the monotonic time since the last one, at most the leader lease, and
//! nothing while the last quorum acknowledgement is older than that. So lease clocks stand still when a quorum cannot
//! hear renewals, wall clocks do not matter, and log time never runs faster than real time. Followers repeat what the
//! leader's last accepted frame said.
//!
//! ```text
//!   first entry of the term applied ── start at the state's log time ── +tick +tick · (gap: +0) · +tick ──> stamps
//! ```
//!
//! Invariants
//! * Stamps of one term never go back.
//! * What is added up to any moment is at most the real time since the start.
//!
//! Never here: openraft; proposing (`node`'s driver does).

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use remuda_registry::LogTime;

/// How often the accumulator moves, and the driver looks around.
pub const TICK: Duration = Duration::from_millis(100);

/// "No quorum ever acknowledged": far beyond every limit on an age, and fits its field.
const NEVER: Duration = Duration::from_secs(3600);

/// Log time and contact of one replica.
#[derive(Debug)]
pub struct Clock {
    lease: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    leading: Option<Leading>,
    heard: Option<Heard>,
}

/// The accumulator of a term in which this replica leads.
#[derive(Debug)]
struct Leading {
    term: u64,
    elapsed: Duration,
    ticked_at: Instant,
    acked_at: Option<Instant>,
    stamped_at: Instant,
    /// The accumulator stood still since the last frame.
    gap: bool,
}

/// The last frame that was accepted from a leader.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    quorum_age: Duration,
    log_time: LogTime,
}

/// What a frame is stamped with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The accumulator.
    pub time: LogTime,
    /// The accumulator stood still since the term's last frame.
    pub gap: bool,
}

impl Clock {
    /// A clock that adds nothing while the quorum's acknowledgement is older than `lease`.
    pub fn new(lease: Duration) -> Clock {
        Clock { lease, inner: Mutex::default() }
    }

    /// Log time as far as this replica knows: the accumulator where it leads, else what the leader last said.
    pub fn now(&self) -> LogTime {
        let inner = self.inner.lock();
        match (&inner.leading, inner.heard) {
            (Some(leading), _) => leading.time(),
            (None, Some(heard)) => heard.log_time,
            (None, None) => LogTime::default(),
        }
    }

    /// How old this replica's knowledge of a working quorum is; `None` if it never had any. On the leader the time
    /// since the quorum's last acknowledgement was asked for; on a follower the time since a frame was accepted, plus
    /// the age that the frame carried.
    pub fn contact_age(&self) -> Option<Duration> {
        let inner = self.inner.lock();
        match (&inner.leading, inner.heard) {
            (Some(leading), _) => leading.acked_at.map(|at| at.elapsed()),
            (None, heard) => heard.map(|heard| heard.at.elapsed() + heard.quorum_age),
        }
    }

    /// True on a leader whose last quorum acknowledgement is younger than its lease.
    pub fn has_quorum(&self) -> bool {
        let inner = self.inner.lock();
        inner.leading.as_ref().is_some_and(|leading| leading.acked_at.is_some_and(|at| at.elapsed() < self.lease))
    }

    /// The term in which the accumulator runs here.
    pub fn leads_in(&self) -> Option<u64> {
        self.inner.lock().leading.as_ref().map(|leading| leading.term)
    }

    /// The stamp for a frame of `term`; `None` if this replica's accumulator does not run in it.
    pub fn stamp(&self, term: u64) -> Option<Stamp> {
        let mut inner = self.inner.lock();
        let leading = inner.leading.as_mut().filter(|leading| leading.term == term)?;
        leading.stamped_at = Instant::now();
        Some(Stamp { time: leading.time(), gap: std::mem::take(&mut leading.gap) })
    }

    /// The frame that was to tell of a gap did not make it into the log: the next one tells.
    pub fn tell_gap_again(&self, term: u64) {
        if let Some(leading) = self.inner.lock().leading.as_mut().filter(|leading| leading.term == term) {
            leading.gap = true;
        }
    }

    /// How long ago the last frame was stamped; `None` where this replica does not lead.
    pub fn since_stamp(&self) -> Option<Duration> {
        self.inner.lock().leading.as_ref().map(|leading| leading.stamped_at.elapsed())
    }

    /// What append frames carry: the age of the leader's last quorum acknowledgement, and its accumulator.
    pub(crate) fn carried(&self) -> (Duration, LogTime) {
        let inner = self.inner.lock();
        let acked_at = inner.leading.as_ref().and_then(|leading| leading.acked_at);
        let time = inner.leading.as_ref().map_or(LogTime::default(), Leading::time);
        (acked_at.map_or(NEVER, |at| at.elapsed()), time)
    }

    /// A frame from the leader was accepted.
    pub(crate) fn heard(&self, at: Instant, quorum_age: Duration, log_time: LogTime) {
        let mut inner = self.inner.lock();
        // Of two channels the fresher word counts, and log time never goes back.
        let (before, floor) = inner.heard.map_or((None, LogTime::default()), |heard| (Some(heard), heard.log_time));
        let fresher =
            before.is_none_or(|before| at.checked_sub(quorum_age) >= before.at.checked_sub(before.quorum_age));
        let (at, quorum_age) = match before {
            Some(before) if !fresher => (before.at, before.quorum_age),
            Some(_) | None => (at, quorum_age),
        };
        inner.heard = Some(Heard { at, quorum_age, log_time: log_time.max(floor) });
    }

    /// This replica leads in `term`, the first entry of which is applied: log time goes on from the state's.
    pub(crate) fn begin(&self, term: u64, log_time: LogTime) {
        let mut inner = self.inner.lock();
        if inner.leading.as_ref().is_some_and(|leading| leading.term == term) {
            return;
        }
        let now = Instant::now();
        let elapsed = Duration::from_millis(log_time.0);
        let fresh = Leading { term, elapsed, ticked_at: now, acked_at: None, stamped_at: now, gap: false };
        inner.leading = Some(fresh);
    }

    /// This replica does not lead.
    pub(crate) fn end(&self) {
        let mut inner = self.inner.lock();
        if let Some(leading) = inner.leading.take() {
            // What was stamped here must not be seen to go back before the next leader is heard.
            let quorum_age = leading.acked_at.map_or(NEVER, |at| at.elapsed());
            let floor = leading.time().max(inner.heard.map_or(LogTime::default(), |heard| heard.log_time));
            inner.heard = Some(Heard { at: Instant::now(), quorum_age, log_time: floor });
        }
    }

    /// One tick of the leader, who knows when the request was sent that a quorum answered last.
    pub(crate) fn tick(&self, acked_at: Option<Instant>) {
        let mut inner = self.inner.lock();
        if let Some(leading) = inner.leading.as_mut() {
            leading.tick(Instant::now(), acked_at, self.lease);
        }
    }
}

impl Leading {
    fn time(&self) -> LogTime {
        LogTime(u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    fn tick(&mut self, now: Instant, acked_at: Option<Instant>, lease: Duration) {
        let passed = now.saturating_duration_since(self.ticked_at);
        self.ticked_at = now;
        self.acked_at = acked_at;
        if acked_at.is_some_and(|at| now.saturating_duration_since(at) <= lease) {
            self.elapsed += passed.min(lease);
        } else {
            self.gap = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(600);

    fn leading(at: Instant) -> Leading {
        let elapsed = Duration::from_secs(5);
        Leading { term: 3, elapsed, ticked_at: at, acked_at: None, stamped_at: at, gap: false }
    }

    #[test]
    fn time_adds_up_while_a_quorum_answers() {
        let start = Instant::now();
        let mut clock = leading(start);
        for tick in 1..=20 {
            let now = start + TICK * tick;
            clock.tick(now, Some(now - TICK), LEASE);
        }
        assert_eq!((clock.time(), clock.gap), (LogTime(7_000), false));
    }

    #[test]
    fn time_stands_still_without_a_quorum_and_a_stop_adds_at_most_the_lease() {
        let start = Instant::now();
        let mut clock = leading(start);
        clock.tick(start + TICK, None, LEASE);
        assert_eq!((clock.time(), clock.gap), (LogTime(5_000), true));
        clock.tick(start + Duration::from_secs(10), Some(start + TICK), LEASE);
        assert_eq!(clock.time(), LogTime(5_000), "the acknowledgement is older than the lease");
        let resumed = start + Duration::from_secs(20);
        clock.tick(resumed, Some(resumed), LEASE);
        assert_eq!(clock.time(), LogTime(5_600), "a stopped process does not catch up");
    }

    #[test]
    fn a_gap_is_told_once_and_again_if_its_frame_was_lost() {
        let clock = Clock::new(LEASE);
        assert_eq!(clock.stamp(4), None);
        clock.begin(4, LogTime(100));
        clock.tick(None);
        assert_eq!(clock.stamp(3), None, "another term");
        assert_eq!(clock.stamp(4).map(|stamp| stamp.gap), Some(true));
        assert_eq!(clock.stamp(4).map(|stamp| stamp.gap), Some(false));
        clock.tell_gap_again(4);
        assert_eq!(clock.stamp(4).map(|stamp| stamp.gap), Some(true));
    }

    #[test]
    fn a_follower_repeats_the_leader_and_ages_its_word() {
        let clock = Clock::new(LEASE);
        assert_eq!(clock.contact_age(), None);
        clock.heard(Instant::now(), Duration::from_secs(3), LogTime(50));
        assert!(clock.contact_age().unwrap() >= Duration::from_secs(3));
        assert_eq!(clock.now(), LogTime(50));
        clock.heard(Instant::now(), Duration::from_secs(9), LogTime(40));
        assert!(clock.contact_age().unwrap() < Duration::from_secs(8), "an older word does not replace a fresher one");
        assert_eq!(clock.now(), LogTime(50));
    }
}
