//! What is applied, told: to the log as structured events, to the figures, to the hub, and as recent digests.
//!
//! Invariants
//! * Each transition is logged once per replica and run of its process: on the leader at info, elsewhere at debug.
//!
//! Never here: waiting; this runs in the apply task.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use remuda_registry::event::WorkerMoved;
use remuda_registry::{Digest, Event, Fact, Revision};
use remuda_wire::convert::event::{event_out, verdict_out};
use remuda_wire::convert::word;

use super::Hub;
use crate::metrics::Metrics;
use crate::raft::{Node, Published, Sink};

/// Digests of this many last revisions are kept.
const DIGESTS: usize = 10_000;

/// Tells what is applied.
pub struct Narrator {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    node: OnceLock<Node>,
    digests: Mutex<VecDeque<(Revision, Digest)>>,
}

impl Narrator {
    /// Tells `hub` and `metrics`.
    pub fn new(hub: Arc<Hub>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { hub, metrics, node: OnceLock::new(), digests: Mutex::default() })
    }

    /// Gives it the node, once there is one.
    pub fn attach(&self, node: Node) {
        // Attached once, at start.
        let _ = self.node.set(node);
    }

    /// The digest after `revision`, while it is kept.
    pub fn digest(&self, revision: Revision) -> Option<Digest> {
        let digests = self.digests.lock();
        let at = digests.binary_search_by_key(&revision, |(revision, _)| *revision).ok()?;
        digests.get(at).map(|(_, digest)| *digest)
    }

    fn leads(&self) -> bool {
        self.node.get().is_some_and(|node| node.clock().leads_in().is_some())
    }

    fn tell(&self, leads: bool, revision: Revision, ordinal: u32, event: &Event) {
        self.metrics.happened(event);
        match &event.fact {
            Fact::Worker(moved) if leads => transition(revision, ordinal, event, moved),
            Fact::Worker(moved) => quiet_transition(revision, ordinal, event, moved),
            fact => {
                let public = event_out(revision, ordinal, event);
                let (kind, term) = (public.kind.as_str(), event.term);
                if leads {
                    tracing::info!(target: "remuda::events", revision = revision.0, ordinal, term, kind, "{fact}");
                } else {
                    tracing::debug!(target: "remuda::events", revision = revision.0, ordinal, term, kind, "{fact}");
                }
            }
        }
    }
}

impl Sink for Narrator {
    fn published(&self, published: Published) {
        let leads = self.leads();
        for (ordinal, event) in (0_u32..).zip(published.events.iter()) {
            self.tell(leads, published.revision, ordinal, event);
        }
        let mut digests = self.digests.lock();
        if digests.len() == DIGESTS {
            digests.pop_front();
        }
        digests.push_back((published.revision, published.digest));
        drop(digests);
        self.hub.published(published);
    }

    fn jumped(&self, revision: Revision) {
        self.digests.lock().clear();
        self.hub.jumped(revision);
    }
}

/// A transition's fields, at the level that the macro is given.
macro_rules! log_transition {
    ($level:ident, $revision:expr, $ordinal:expr, $event:expr, $moved:expr) => {{
        let moved: &WorkerMoved = $moved;
        let name = |state: Option<remuda_registry::worker::StateKind>| {
            state.map_or_else(String::new, |state| word(&state.to_string()))
        };
        tracing::$level!(
            target: "remuda::transitions",
            worker = %moved.worker,
            from = name(moved.from),
            to = name(moved.to),
            cause = moved.cause.map(|cause| word(&cause.to_string())),
            reason = moved.reason.as_ref().map(ToString::to_string),
            verdict = moved.verdict.as_ref().map(verdict_out),
            epoch = moved.epoch.map(|epoch| epoch.0),
            run = moved.run.map(|run| run.0),
            attempt = moved.attempt,
            job = moved.job.as_ref().map(ToString::to_string),
            actor = moved.actor.as_deref(),
            revision = $revision.0,
            ordinal = $ordinal,
            term = $event.term,
            elapsed_ms = moved.elapsed.0,
            "{}",
            moved.name()
        );
    }};
}

fn transition(revision: Revision, ordinal: u32, event: &Event, moved: &WorkerMoved) {
    log_transition!(info, revision, ordinal, event, moved);
}

fn quiet_transition(revision: Revision, ordinal: u32, event: &Event, moved: &WorkerMoved) {
    log_transition!(debug, revision, ordinal, event, moved);
}
