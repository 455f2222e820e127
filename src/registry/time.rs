//! Log time and durations, in whole milliseconds.
//!
//! Log time is a register of the state that only entries move. It is not wall time: it stands still in elections and
//! without a quorum, and never runs faster than real time. Here time is data.
//!
//! Never here: reading a clock.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

use crate::id::Revision;

/// A point of log time: milliseconds since the cluster was bootstrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogTime(pub u64);

/// When something happened: the point in the log, and the times that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Moment {
    /// Log time.
    pub at: LogTime,
    /// The leader's wall clock, for people.
    pub wall_ms: u64,
    /// The entry.
    pub revision: Revision,
    /// The term of the entry.
    pub term: u64,
}

/// A moment without its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Log time.
    pub at: LogTime,
    /// The leader's wall clock, for people.
    pub wall_ms: u64,
}

/// A duration in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Millis(pub u64);

/// How far the wall clock may differ from log time to be believed for a duration: log time moves in ticks of 100 ms.
const WALL_TRUST: Millis = Millis(200);

impl Moment {
    /// The moment without its entry.
    pub const fn stamp(self) -> Stamp {
        Stamp { at: self.at, wall_ms: self.wall_ms }
    }

    /// The duration since `earlier`, for people and statistics, never for decisions: log time moves in ticks, so where
    /// one leader stamped both and its wall clock agrees with log time, the wall clock tells the milliseconds.
    pub fn since(self, earlier: Self) -> Millis {
        let log = self.at.since(earlier.at);
        match self.wall_ms.checked_sub(earlier.wall_ms) {
            Some(wall) if self.term == earlier.term && wall.abs_diff(log.0) <= WALL_TRUST.0 => Millis(wall),
            Some(_) | None => log,
        }
    }
}

impl LogTime {
    /// The end of time: the deadline of what nobody owes.
    pub const MAX: Self = Self(u64::MAX);

    /// The duration since `earlier`; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl Millis {
    /// The sum of two durations.
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Whole seconds.
    pub const fn secs(seconds: u64) -> Self {
        Self(seconds * 1_000)
    }

    /// Whole minutes.
    pub const fn mins(minutes: u64) -> Self {
        Self::secs(minutes * 60)
    }

    /// Whole hours.
    pub const fn hours(hours: u64) -> Self {
        Self::mins(hours * 60)
    }
}

impl Add<Millis> for LogTime {
    type Output = Self;

    fn add(self, duration: Millis) -> Self {
        Self(self.0.saturating_add(duration.0))
    }
}

impl Sub<Millis> for LogTime {
    type Output = Self;

    fn sub(self, duration: Millis) -> Self {
        Self(self.0.saturating_sub(duration.0))
    }
}

impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_of_the_wall_clock_only_where_it_is_plausible() {
        let moment = |at, wall_ms, term| Moment { at: LogTime(at), wall_ms, revision: Revision(1), term };
        let since = |later: Moment| later.since(moment(1_000, 50_000, 3)).0;
        assert_eq!(since(moment(1_100, 50_042, 3)), 42, "finer than a tick");
        assert_eq!(since(moment(1_000, 50_017, 3)), 17, "within a tick");
        assert_eq!(since(moment(1_100, 50_042, 4)), 100, "another leader's clock");
        assert_eq!(since(moment(1_100, 49_000, 3)), 100, "set back");
        assert_eq!(since(moment(1_100, 3_600_000, 3)), 100, "set forward");
    }
}
