//! The way to the replicas: connections, whose turn it is, and when to try again.
//!
//! Any replica serves any call of an agent, so an agent does not look for the leader: each of its loops keeps a
//! [`Route`], stays with a replica as long as that answers, and goes on to the next when it does not. Routes begin at a
//! random place, so that many agents spread over the replicas.
//!
//! An answer is one of three: what was asked, a refusal (the same call again would get the same answer), or neither, in
//! which case the call may have had its effect and is sent again; sessions, runs and incarnations fence a second effect.
//!
//! Never here: what the calls mean.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use remuda_wire::v1;
use remuda_wire::v1::agent_service_client::AgentServiceClient;
use remuda_wire::v1::lease_service_client::LeaseServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

#[cfg(test)]
mod tests;

/// Bounds of the link.
pub mod limits {
    use std::time::Duration;

    /// A call unanswered for this long goes to another replica: half of the time after which an agent may count as
    /// silent, less the time of a second try.
    pub const CALL: Duration = Duration::from_millis(1_500);
    /// A connection on a local network takes milliseconds.
    pub const CONNECT: Duration = Duration::from_secs(1);
    /// A silent connection is asked this often whether it lives, so that a dead host is noticed under an open watch.
    pub const PING: Duration = Duration::from_secs(1);
    /// A connection that does not answer a ping for this long is dropped.
    pub const PONG: Duration = Duration::from_secs(2);
    /// The first pause between tries: below what a person notices.
    pub const PAUSE_MIN: Duration = Duration::from_millis(50);
    /// The longest pause: an election takes about a second, and an agent must not sleep through the next leader.
    pub const PAUSE_MAX: Duration = Duration::from_secs(1);
    /// The longest pause after a refusal that only an operator can lift.
    pub const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(30);
}

/// The replicas of the cluster.
#[derive(Debug)]
pub struct Link {
    replicas: Vec<(String, Channel)>,
}

impl Link {
    /// Connections to these endpoints, made when they are first used. Needs a tokio runtime.
    pub fn new(endpoints: &[String]) -> anyhow::Result<Arc<Link>> {
        anyhow::ensure!(!endpoints.is_empty(), "no endpoints");
        let connect = |url: &String| {
            let channel = Endpoint::from_shared(url.clone())?
                .connect_timeout(limits::CONNECT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(limits::PING)
                .keep_alive_timeout(limits::PONG)
                .connect_lazy();
            anyhow::Ok((url.clone(), channel))
        };
        Ok(Arc::new(Link { replicas: endpoints.iter().map(connect).collect::<Result<_, _>>()? }))
    }

    /// How many replicas there are.
    #[allow(clippy::len_without_is_empty, reason = "a link has at least one replica")]
    pub fn len(&self) -> usize {
        self.replicas.len()
    }

    /// A route that begins at a random replica.
    pub fn route(self: &Arc<Self>) -> Route {
        Route { at: rand::random_range(0..self.replicas.len()), link: Arc::clone(self) }
    }
}

/// Which replica a loop talks to.
#[derive(Clone, Debug)]
pub struct Route {
    link: Arc<Link>,
    at: usize,
}

impl Route {
    /// The replica's endpoint.
    pub fn url(&self) -> &str {
        &self.link.replicas[self.at].0
    }

    /// The agents' service there.
    pub fn agents(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.link.replicas[self.at].1.clone())
    }

    /// The leases' service there.
    pub fn leases(&self) -> LeaseServiceClient<Channel> {
        LeaseServiceClient::new(self.link.replicas[self.at].1.clone())
    }

    /// Goes on to the next replica.
    pub fn next(&mut self) {
        self.at = (self.at + 1) % self.link.replicas.len();
    }
}

/// Pauses that grow, each a random part of its bound, so that those who failed together do not return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    bound: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// For calls that failed.
    pub fn of_calls() -> Backoff {
        Backoff { bound: limits::PAUSE_MIN, min: limits::PAUSE_MIN, max: limits::PAUSE_MAX }
    }

    /// For what is refused until somebody does something.
    pub fn of_refusals() -> Backoff {
        let min = Duration::from_secs(1);
        Backoff { bound: min, min, max: limits::REFUSED_PAUSE_MAX }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.bound.mul_f64(rand::random_range(0.0..=1.0));
        self.bound = (self.bound * 2).min(self.max);
        pause
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.bound = self.min;
    }
}

/// Why a call gave no answer.
#[derive(Debug)]
pub enum Failure {
    /// The registry said no; the same call again would get the same.
    Refused {
        /// The typed reason; the gRPC code's name where none was given.
        reason: String,
        /// In words.
        detail: String,
        /// The facts of the refusal.
        facts: std::collections::HashMap<String, String>,
    },
    /// Nothing is known of the effect, or it is absent for now: send it again, elsewhere.
    Again(String),
}

impl Failure {
    /// Sorts a status: what a replica decided is a refusal, the rest is not an answer.
    pub fn of(status: &Status) -> Failure {
        let (reason, facts) = match status.get_details_error_info() {
            Some(info) => (info.reason, info.metadata),
            None => (format!("{:?}", status.code()), Default::default()),
        };
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => Failure::Refused { reason, detail: status.message().to_owned(), facts },
            _ => Failure::Again(format!("{reason}: {}", status.message())),
        }
    }

    /// Whether the session under which the call was made has ended.
    pub fn session_ended(&self) -> bool {
        matches!(self, Failure::Refused { reason, .. } if reason == "SESSION_ENDED")
    }
}

/// Waits for an answer for as long as a call may take.
pub async fn call<T>(answer: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Failure> {
    match tokio::time::timeout(limits::CALL, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::of(&status)),
        Err(_) => Err(Failure::Again(format!("no answer within {:?}", limits::CALL))),
    }
}

/// A request with the deadline of a call, so that a replica does not work for nobody.
pub fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limits::CALL);
    request
}

/// Protobuf's duration as ours; none where it is absent or negative.
pub fn duration(wire: Option<&prost_types::Duration>) -> Option<Duration> {
    wire.and_then(|wire| Duration::try_from(*wire).ok())
}

/// The revision and term of an answer.
pub fn stood_at(header: Option<&v1::ResponseHeader>) -> (u64, u64) {
    header.map_or((0, 0), |header| (header.revision, header.term))
}
