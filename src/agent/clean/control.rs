//! The bounds of a step: its deadline and the token that cancels it.
//!
//! Steps are blocking code on threads of their own. They ask [`Control::check`] at every turn of every loop, so that a
//! cancelled run has ended soon after, and whoever cancelled it can wait for that.
//!
//! Invariants
//! * No step sleeps otherwise than through [`Control::pause`].
//!
//! Never here: what a step does.

use std::io;
use std::time::Duration;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

mod limits {
    use std::time::Duration;

    /// A sleeping step looks at its token this often.
    pub(super) const LOOK: Duration = Duration::from_millis(10);
}

/// Why a step stopped before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Halt {
    /// Something newer took its place.
    #[error("cancelled")]
    Cancelled,
    /// Its time is over.
    #[error("out of time")]
    TimedOut,
    /// The system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A step's bounds.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    deadline: Instant,
    cancel: CancellationToken,
}

impl Control {
    /// Bounds that end in `timeout`.
    pub(crate) fn new(timeout: Duration, cancel: &CancellationToken) -> Self {
        let far = Duration::from_secs(365 * 24 * 3600);
        Self { deadline: Instant::now() + timeout.min(far), cancel: cancel.clone() }
    }

    /// Whether to go on.
    pub(crate) fn check(&self) -> Result<(), Halt> {
        match (self.cancel.is_cancelled(), Instant::now() >= self.deadline) {
            (true, _) => Err(Halt::Cancelled),
            (false, true) => Err(Halt::TimedOut),
            (false, false) => Ok(()),
        }
    }

    /// Sleeps this long, or until the bounds are reached.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), Halt> {
        let until = Instant::now() + time;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(limits::LOOK));
        }
    }

    /// Time until the deadline.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The token.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.cancel
    }
}

/// Sleeps that begin short and grow, for waiting on what mostly happens at once.
#[derive(Debug)]
pub(crate) struct Patience {
    next: Duration,
}

impl Patience {
    /// Begins anew.
    pub(crate) fn new() -> Self {
        Self { next: Duration::from_micros(500) }
    }

    /// One sleep.
    pub(crate) fn wait(&mut self, control: &Control) -> Result<(), Halt> {
        let time = self.next;
        self.next = (time * 2).min(Duration::from_millis(20));
        control.pause(time)
    }
}
