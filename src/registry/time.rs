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

/// A duration in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Millis(pub u64);

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
