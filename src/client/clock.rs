//! Two clocks of a client: the cluster's log time as it was heard, and the boot clock that beliefs are counted on.
//!
//! Log time never runs faster than real time, so what was heard plus the time since is never behind it by more than
//! the way of the answer; it may be ahead after an election, by as long as log time stood still. A `not_after` made
//! from it is therefore late at worst, never in the past.
//!
//! Never here: wall clock.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// Bounds of what is heard.
mod limits {
    use std::time::Duration;

    /// Log time heard longer ago is asked for again: the difference of two machines' clock rates stays negligible.
    pub(super) const HEARD_FOR: Duration = Duration::from_secs(30);
}

/// Log time as the cluster's answers tell it.
#[derive(Debug, Default)]
pub(crate) struct LogClock {
    heard: Mutex<Option<(u64, Instant)>>,
}

impl LogClock {
    /// Takes note of an answer's log time; zero means that the replica does not know it.
    pub(crate) fn hear(&self, log_time_ms: u64, at: Instant) {
        if log_time_ms > 0 {
            *self.heard.lock() = Some((log_time_ms, at));
        }
    }

    /// Log time now in milliseconds, if it was heard recently enough.
    pub(crate) fn now(&self, at: Instant) -> Option<u64> {
        let (heard, when) = (*self.heard.lock())?;
        let since = at.saturating_duration_since(when);
        (since <= limits::HEARD_FOR).then(|| heard.saturating_add(millis(since)))
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An instant of CLOCK_BOOTTIME, which goes on while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        Self(Duration::new(seconds, nanos))
    }

    /// This much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// Time from `now` until this instant; zero when it has passed.
    pub fn left(self, now: Self) -> Duration {
        self.0.saturating_sub(now.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_goes_on_by_our_own_clock_for_a_while() {
        let clock = LogClock::default();
        let start = Instant::now();
        assert_eq!(clock.now(start), None);
        clock.hear(1_000, start);
        assert_eq!(clock.now(start + Duration::from_secs(2)), Some(3_000));
        assert_eq!(clock.now(start + Duration::from_secs(30)), Some(31_000));
        assert_eq!(clock.now(start + Duration::from_millis(30_001)), None);
    }

    #[test]
    fn a_replica_that_does_not_know_the_time_is_not_heard() {
        let clock = LogClock::default();
        clock.hear(0, Instant::now());
        assert_eq!(clock.now(Instant::now()), None);
    }

    #[test]
    fn the_boot_clock_goes_forward() {
        let first = BootInstant::now();
        assert!(BootInstant::now() >= first);
        assert_eq!(first.after(Duration::from_secs(1)).left(first), Duration::from_secs(1));
        assert_eq!(first.left(first.after(Duration::from_secs(1))), Duration::ZERO);
    }
}
