//! The services: thin. Each call is validated, translated, proposed or read, and answered.
//!
//! [`Replica`] is what they share: the node, the hub and the helpers that stand beside it, and the two ways to answer,
//! a header for successes and a [`status::Failure`] for the rest.
//!
//! Never here: decisions about workers; those are the registry's.

pub mod agent;
pub mod cluster;
pub mod event;
pub mod front;
pub mod lease;
pub mod list;
pub mod pages;
pub mod pool;
pub mod returns;
pub mod status;
pub mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_registry::{Command, Outcome, Request, Revision};
use remuda_wire::convert::request::mark_in;
use remuda_wire::convert::{Violations, word};
use remuda_wire::{reasons, v1};
use tokio::sync::watch;
use tonic::Status;

use crate::config::ServerConfig;
use crate::liveness::Liveness;
use crate::metrics::Metrics;
use crate::propose::{Committed, Propose};
use crate::raft::Node;
use crate::renewals::Renewals;
use crate::waiting::Waiting;
use crate::watch::Hub;

use pages::{Issuer, Pages};
use status::Failure;

/// One running replica as its services see it.
pub struct Replica {
    /// Replication.
    pub node: Node,
    /// What is applied.
    pub hub: Arc<Hub>,
    /// Agents' sessions.
    pub liveness: Arc<Liveness>,
    /// Renewals of this tick.
    pub renewals: Arc<Renewals>,
    /// Acquires that wait here.
    pub waiting: Arc<Waiting>,
    /// Lists under way.
    pub pages: Pages,
    /// Whose tokens they are.
    pub issuer: Issuer,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub settings: ServerConfig,
    /// True once the replica stops accepting.
    pub closing: watch::Receiver<bool>,
}

/// A write that the registry took.
pub struct Done {
    /// Its revision.
    pub revision: Revision,
    /// What it did.
    pub outcome: Outcome,
}

impl Replica {
    /// The header of an answer that reflects `revision`.
    pub fn header(&self, revision: Revision, stale: bool) -> v1::ResponseHeader {
        let leadership = self.node.leadership().borrow().clone();
        let leader = leadership.leader.as_ref();
        v1::ResponseHeader {
            cluster_id: self.node.cluster_id(),
            revision: revision.0,
            term: leadership.term,
            served_by: self.node.replica_id().0,
            leader_endpoint: leader.map(|leader| leader.client.clone()).unwrap_or_default(),
            leader_term: leader.map_or(0, |leader| leader.term),
            log_time_ms: self.node.clock().now().0,
            stale,
        }
    }

    /// The status of a failure, as made here and now.
    pub fn status(&self, failure: Failure) -> Status {
        let revision = self.node.applied().borrow().revision;
        failure.status(&self.header(revision, false))
    }

    /// Fails where the leader has not been heard of for two election timeouts.
    ///
    /// # Errors
    /// NO_LEADER.
    pub fn in_contact(&self) -> Result<(), Failure> {
        let lost = self.node.clock().contact_age().is_none_or(|age| age > self.settings.contact_lost_after());
        if lost {
            Err(Failure::new(reasons::NO_LEADER, "no contact with a leader for two election timeouts"))
        } else {
            Ok(())
        }
    }

    /// Resolves once the replica stops accepting.
    pub async fn closed(&self) {
        let mut closing = self.closing.clone();
        // A sender that is gone has closed too.
        let _ = closing.wait_for(|closing| *closing).await;
    }

    /// Makes sure that what is read next is as fresh as asked, and says at which revision it is at least.
    ///
    /// # Errors
    /// NO_LEADER, LOG_BEHIND.
    pub async fn fresh(&self, options: Option<&v1::ReadOptions>, deadline: Instant) -> Result<Freshness, Failure> {
        let options = options.copied().unwrap_or_default();
        let stale = options.consistency() == v1::Consistency::Stale;
        if v1::Consistency::try_from(options.consistency).is_err() {
            let mut found = Violations::default();
            found.add("read.consistency", "must be LINEARIZABLE or STALE");
            return Err(found.into());
        }
        if !stale {
            self.node.read_index(deadline).await?;
        }
        self.node.wait_applied(Revision(options.min_revision), deadline).await?;
        Ok(Freshness { stale })
    }

    /// The header of a read that [`fresh`](Self::fresh) allowed.
    pub fn read_header(&self, freshness: Freshness) -> v1::ResponseHeader {
        self.header(self.node.applied().borrow().revision, freshness.stale)
    }

    /// Proposes one command with its mark and waits for the registry's answer.
    ///
    /// # Errors
    /// Violations of the mark, the registry's refusal, or why there is no answer.
    pub async fn write(
        &self,
        method: &'static str,
        options: Option<&v1::RequestOptions>,
        command: Command,
        deadline: Instant,
    ) -> Result<Done, Failure> {
        let request = marked(method, options, command)?;
        self.propose(request, deadline).await
    }

    /// Proposes one request.
    ///
    /// # Errors
    /// The registry's refusal, or why there is no answer.
    pub async fn propose(&self, request: Request, deadline: Instant) -> Result<Done, Failure> {
        if Instant::now() >= deadline {
            return Err(Failure::deadline(false));
        }
        let command = request.command.name();
        let mut answers = self.node.propose(vec![request], deadline).await;
        let answer = answers
            .pop()
            .unwrap_or_else(|| Err(crate::propose::ProposeError::Unknown { reason: "no answer".to_owned() }));
        match answer {
            Ok(Committed { revision, result: Ok(outcome), .. }) => Ok(Done { revision, outcome }),
            Ok(Committed { result: Err(refusal), .. }) => {
                self.metrics.refused(command, &refusal);
                Err(refusal.into())
            }
            Err(error) => {
                self.metrics.unanswered(&error);
                let late = Instant::now() >= deadline;
                Err(if late { Failure::deadline(!error.is_absent()) } else { error.into() })
            }
        }
    }

    /// Fails where the disk is below its reserve: for what makes the state grow.
    ///
    /// # Errors
    /// DISK_LOW.
    pub fn room(&self) -> Result<(), Failure> {
        if self.node.disk_is_low() {
            return Err(Failure::new(reasons::DISK_LOW, "the disk of this replica is below its reserve"));
        }
        Ok(())
    }
}

/// How fresh a read was asked to be.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    stale: bool,
}

/// The request of a command with its mark.
///
/// # Errors
/// Violations of the request's options.
pub fn marked(
    method: &'static str,
    options: Option<&v1::RequestOptions>,
    command: Command,
) -> Result<Request, Failure> {
    let mut found = Violations::default();
    let mark = mark_in(&mut found, "request", options, method, &command);
    let request = found.finish(Some(Request { mark, command }))?;
    Ok(request)
}

/// An answer that the registry cannot give to this command.
pub fn unexpected(outcome: &Outcome) -> Failure {
    tracing::error!(%outcome, "an outcome of another command");
    Failure::new(reasons::INTERNAL, "an outcome of another command").with("outcome_kind", word(&outcome.to_string()))
}

/// A row or message that does not read.
pub fn broken(error: impl std::fmt::Display) -> Failure {
    tracing::error!(%error, "a row cannot be read");
    Failure::new(reasons::INTERNAL, format!("a row cannot be read: {error}"))
}

/// How long a call may take at most beside its wait.
pub const PATIENCE: Duration = Duration::from_secs(15);
