//! One call, tried until it is answered, refused, or out of time.
//!
//! Every call of ours may be sent twice: reads have no effect, writes carry a request id, renewals and reports are
//! fenced by what they name. So whatever goes wrong on the way is tried again, at once at every other endpoint, and
//! once all were tried after a pause with full jitter. What a replica decided (a refusal, a bad field) is final.
//!
//! ```text
//!   send ──answer──────────────────────────────> done            pause: 0 .. min(500 ms, 20 ms * 2^round)
//!    │└────a decision: NOT_FOUND, STALE_LEASE ──> error
//!    └─────UNAVAILABLE, timeout, broken stream ─> next endpoint ──none left──> pause ──> all again
//! ```
//!
//! Invariants
//! * Each attempt has a deadline, and all of them together have one.
//! * An error says `absent` only where every attempt that was not answered is known to have had no effect.
//!
//! Never here: what is sent.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use remuda_wire::v1::ResponseHeader;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::clock::{BootInstant, LogClock};
use crate::endpoints::{Chosen, Endpoints};
use crate::error::{Error, Outcome, reason};

/// Bounds of trying again.
mod limits {
    use std::time::Duration;

    /// The whole of a call that does not wait for anything: several elections.
    pub(super) const TOTAL: Duration = Duration::from_secs(10);
    /// One attempt of such a call: a replica that does not answer for this long is stopped or cut off.
    pub(super) const ATTEMPT: Duration = Duration::from_millis(2_500);
    /// The first pause: a leader that was stopped properly has a successor by then.
    pub(super) const PAUSE_MIN: Duration = Duration::from_millis(20);
    /// The longest pause: a killed leader has a successor within about a second; longer pauses would only add to it.
    pub(super) const PAUSE_MAX: Duration = Duration::from_millis(500);
    /// What a waiting call gets beyond its wait, for the way there and back and one election.
    pub(super) const BEYOND_WAIT: Duration = Duration::from_secs(5);
}

/// How long a call is tried.
#[derive(Debug, Clone)]
pub struct Patience {
    /// All attempts together.
    pub total: Duration,
    /// One attempt.
    pub attempt: Duration,
    /// Whether it can have an effect, so that a failure leaves it unknown whether it had.
    pub effect: bool,
    /// The URL to try first, such as the replica that made a page token.
    pub first: Option<String>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { total: limits::TOTAL, attempt: limits::ATTEMPT, effect: false, first: None }
    }
}

impl Patience {
    /// For a call that the replica holds open for up to `wait`.
    pub fn waiting(wait: Duration) -> Self {
        let total = wait.saturating_add(limits::BEYOND_WAIT);
        Self { total, attempt: total, ..Self::default() }
    }

    /// For all attempts together, one of which gets at most a quarter but not less than it needs.
    pub fn within(total: Duration) -> Self {
        Self { total, attempt: (total / 4).clamp(limits::ATTEMPT.min(total), limits::ATTEMPT * 2), ..Self::default() }
    }

    /// The same for a call that can have an effect.
    #[must_use]
    pub fn with_effect(mut self) -> Self {
        self.effect = true;
        self
    }
}

/// What an answer says about where and when it was made.
pub trait Headed {
    /// Field 1 of every response.
    fn header(&self) -> Option<&ResponseHeader>;
}

/// One attempt, for the closure that sends.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The connection to send on.
    pub channel: Channel,
    /// Its URL.
    pub url: String,
    /// The deadline to set.
    pub timeout: Duration,
    /// Counted from 1.
    pub number: u32,
}

/// An answer, and what its holder may need of its way.
#[derive(Debug)]
pub struct Answered<T> {
    /// The answer.
    pub answer: T,
    /// Who gave it.
    pub url: String,
    /// When the attempt that was answered was sent.
    pub sent: BootInstant,
    /// Which attempt it was.
    pub attempt: u32,
}

/// Tries until answered, refused or out of time.
pub(crate) async fn call<T, F, Fut>(
    endpoints: &Endpoints,
    clock: &LogClock,
    patience: &Patience,
    mut send: F,
) -> Result<Answered<T>, Error>
where
    T: Headed,
    F: FnMut(Attempt) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let mut trying = Trying::new(patience);
    loop {
        let Some(chosen) = trying.choose(endpoints) else {
            trying.pause().await?;
            continue;
        };
        let attempt = trying.begin(&chosen)?;
        let (number, timeout, sent) = (attempt.number, attempt.timeout, BootInstant::now());
        match tokio::time::timeout(timeout, send(attempt)).await {
            Ok(Ok(response)) => {
                let answer = response.into_inner();
                endpoints.succeeded(&chosen.url);
                if let Some(header) = answer.header() {
                    endpoints.hint(&header.leader_endpoint, header.leader_term);
                    clock.hear(header.log_time_ms, Instant::now());
                }
                return Ok(Answered { answer, url: chosen.url, sent, attempt: number });
            }
            Ok(Err(status)) => trying.failed(endpoints, &chosen, Error::from_status(&status))?,
            Err(_) => trying.failed(endpoints, &chosen, silent(&chosen, timeout))?,
        }
    }
}

/// The state of one call between its attempts.
struct Trying<'a> {
    patience: &'a Patience,
    deadline: Instant,
    attempts: u32,
    tried: Vec<String>,
    pauses: backon::ExponentialBackoff,
    /// An attempt that was not answered may have had an effect.
    unknown: bool,
    last: Option<Error>,
}

impl<'a> Trying<'a> {
    fn new(patience: &'a Patience) -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(limits::PAUSE_MIN)
            .with_max_delay(limits::PAUSE_MAX)
            .without_max_times()
            .build();
        let deadline = Instant::now() + patience.total;
        Self { patience, deadline, attempts: 0, tried: Vec::new(), pauses, unknown: false, last: None }
    }

    fn choose(&self, endpoints: &Endpoints) -> Option<Chosen> {
        let first = self.patience.first.as_ref().filter(|url| !self.tried.contains(url));
        first.and_then(|url| endpoints.at(url)).or_else(|| endpoints.choose(&self.tried))
    }

    fn begin(&mut self, chosen: &Chosen) -> Result<Attempt, Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.out_of_time());
        }
        self.attempts = self.attempts.saturating_add(1);
        Ok(Attempt {
            channel: chosen.channel.clone(),
            url: chosen.url.clone(),
            timeout: self.patience.attempt.min(left),
            number: self.attempts,
        })
    }

    /// Goes on after an error that another attempt may mend; else gives it back.
    fn failed(&mut self, endpoints: &Endpoints, chosen: &Chosen, error: Error) -> Result<(), Error> {
        let term = error.fact("leader_term").or_else(|| error.fact("term")).and_then(|t| t.parse().ok());
        if let (Some(leader), Some(term)) = (error.fact("leader_endpoint"), term) {
            endpoints.hint(leader, term);
        }
        if !may_be_mended(&error) {
            return Err(self.judged(error));
        }
        tracing::debug!(url = chosen.url, attempt = self.attempts, %error, "an attempt failed");
        endpoints.failed(&chosen.url);
        self.unknown |= error.outcome() == Outcome::Unknown;
        self.tried.push(chosen.url.clone());
        self.last = Some(error);
        Ok(())
    }

    /// Waits before another round, as long as the cluster asked or a random part of the next step.
    async fn pause(&mut self) -> Result<(), Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.out_of_time());
        }
        let step = self.pauses.next().unwrap_or(limits::PAUSE_MAX);
        let asked = self.last.as_ref().and_then(Error::retry_after);
        // What the cluster asks of all its callers alike is spread as well.
        let pause = match asked {
            Some(asked) => asked.min(limits::PAUSE_MAX).mul_f64(0.5 + rand::random::<f64>() / 2.0),
            None => step.mul_f64(rand::random::<f64>()),
        };
        tokio::time::sleep(pause.min(left)).await;
        self.tried.clear();
        Ok(())
    }

    /// A decision of the cluster. One that it can have made only because it no longer knows the request does not tell
    /// what became of earlier attempts.
    fn judged(&self, error: Error) -> Error {
        let forgotten = self.unknown && self.patience.effect && error.is("REQUEST_TOO_OLD");
        let local = self.unknown && self.patience.effect && !error.said_by_cluster();
        if forgotten || local { error.with_outcome(Outcome::Unknown) } else { error }
    }

    fn out_of_time(&mut self) -> Error {
        let outcome = if self.unknown && self.patience.effect { Outcome::Unknown } else { Outcome::Absent };
        match self.last.take() {
            Some(error) => error.with_outcome(outcome),
            None => Error::own(reason::DEADLINE_PASSED, Code::DeadlineExceeded, outcome, "the call had no time"),
        }
    }
}

/// An attempt that was not answered in its time.
fn silent(chosen: &Chosen, timeout: Duration) -> Error {
    let message = format!("{} did not answer within {timeout:?}", chosen.url);
    Error::own(reason::DEADLINE_PASSED, Code::DeadlineExceeded, Outcome::Unknown, message)
}

/// Whether another attempt can bring another answer.
fn may_be_mended(error: &Error) -> bool {
    match error.code() {
        Code::Unavailable | Code::DeadlineExceeded => true,
        // Without a reason of ours these come from the transport: a broken connection, a reset stream, load shed.
        Code::Cancelled | Code::Unknown | Code::Internal | Code::ResourceExhausted => !error.said_by_cluster(),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}
