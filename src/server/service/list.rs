//! Lists: pages of rows of one kind, filtered as they are read.

use std::collections::HashMap;
use std::sync::Arc;

use remuda_registry::agent::Agent;
use remuda_registry::plan::Evidence;
use remuda_registry::row::{self, Table};
use remuda_registry::selector::{Labels, Selector};
use remuda_registry::worker::{StateKind, Worker, WorkerState};
use remuda_registry::{LogTime, PoolId};
use remuda_wire::convert::worker::{Beside, worker_out};
use remuda_wire::name::Parent;
use remuda_wire::v1;

use super::pages::limits::LOOKED_AT_MAX;
use super::status::Failure;
use super::{Replica, broken};
use crate::raft::Rows;

/// Rows read at once.
const CHUNK: usize = 500;

/// A list of workers.
pub struct Workers<'a> {
    replica: &'a Replica,
    parent: &'a Parent,
    selector: &'a Selector,
    states: &'a [StateKind],
}

/// The range of keys of a table, or of the part of it that begins with `prefix`.
pub fn range(table: Table, prefix: Option<Vec<u8>>) -> (Vec<u8>, Vec<u8>) {
    let from = prefix.unwrap_or_else(|| vec![table as u8]);
    let mut until = from.clone();
    // The last byte of a prefix is a zero or a table's tag, so it can be counted up.
    if let Some(last) = until.last_mut() {
        *last += 1;
    }
    (from, until)
}

/// The first key after `after`, or `from` where there is none.
pub fn start(from: Vec<u8>, after: Vec<u8>) -> Vec<u8> {
    if after.is_empty() {
        return from;
    }
    let mut next = after;
    next.push(0);
    next
}

impl Replica {
    /// Workers below `parent` whose labels match, in these states (none: all).
    pub fn workers_of<'a>(
        &'a self,
        parent: &'a Parent,
        selector: &'a Selector,
        states: &'a [StateKind],
    ) -> Workers<'a> {
        Workers { replica: self, parent, selector, states }
    }

    /// One worker as it is in memory, with the evidence of its Maintenance from its row.
    ///
    /// # Errors
    /// Where the row cannot be read.
    pub async fn worker_message(&self, id: &remuda_registry::WorkerId) -> Result<Option<v1::Worker>, Failure> {
        let now = self.node.clock().now();
        let found = self.node.read(|state| {
            let worker = state.worker(id)?.clone();
            let labels = state.labels(&worker).clone();
            let agent = state.agent(&worker.agent).cloned();
            Some((worker, labels, agent))
        });
        let Some((worker, labels, agent)) = found else { return Ok(None) };
        let mut evidence = String::new();
        if matches!(worker.state, WorkerState::Maintenance(_)) {
            let rows = self.node.rows().await?;
            evidence = evidence_of(&rows, &worker).await?;
        }
        let beside = beside(&worker, agent.as_ref(), labels, evidence, now);
        Ok(Some(worker_out(&worker, beside)))
    }
}

impl Workers<'_> {
    /// The next page after the key `after`: at most `size` workers, and the last key where there may be more.
    ///
    /// # Errors
    /// Where a row cannot be read.
    pub async fn page(
        &self,
        rows: &Rows,
        after: Vec<u8>,
        size: usize,
    ) -> Result<(Vec<v1::Worker>, Option<Vec<u8>>), Failure> {
        let (from, until) = match self.parent {
            Parent::All => range(Table::Worker, None),
            Parent::Pool(pool) => range(Table::Worker, Some(row::worker_prefix(pool))),
            Parent::Worker(worker) => {
                let key = row::worker_key(worker);
                let mut until = key.clone();
                until.push(0);
                (key, until)
            }
        };
        let mut made = Vec::new();
        let mut labels = HashMap::new();
        let (mut next, mut looked_at) = (start(from, after), 0);
        loop {
            let chunk = rows.scan(next.clone(), until.clone(), CHUNK).await.map_err(broken)?;
            let last = chunk.len() < CHUNK;
            for (key, value) in chunk {
                looked_at += 1;
                let worker = row::decode_worker(&value).map_err(broken)?;
                if let Some(message) = self.message(rows, &worker, &mut labels).await? {
                    made.push(message);
                }
                if made.len() >= size || looked_at >= LOOKED_AT_MAX {
                    return Ok((made, Some(key)));
                }
                next = start(Vec::new(), key);
            }
            if last {
                return Ok((made, None));
            }
        }
    }

    async fn message(
        &self,
        rows: &Rows,
        worker: &Worker,
        cache: &mut HashMap<(PoolId, u32), Arc<Labels>>,
    ) -> Result<Option<v1::Worker>, Failure> {
        if !self.states.is_empty() && !self.states.contains(&worker.state.kind()) {
            return Ok(None);
        }
        let class = (worker.id.pool.clone(), worker.class);
        let labels = match cache.get(&class) {
            Some(labels) => labels.clone(),
            None => {
                let value = rows.get(row::class_key(&class.0, class.1)).await.map_err(broken)?;
                let labels =
                    value.map(|value| row::decode_class(&value)).transpose().map_err(broken)?.unwrap_or_default();
                cache.insert(class, labels.clone());
                labels
            }
        };
        if !self.selector.matches(&labels) {
            return Ok(None);
        }
        let evidence = match worker.state {
            WorkerState::Maintenance(_) => evidence_of(rows, worker).await?,
            WorkerState::Cleaning(_)
            | WorkerState::Ready { .. }
            | WorkerState::Available { .. }
            | WorkerState::Busy(_)
            | WorkerState::Lost { .. }
            | WorkerState::Retired { .. } => String::new(),
        };
        Ok(Some(worker_out(worker, self.beside(worker, labels, evidence))))
    }

    /// What is not in the worker's row. The agent is read from memory: its endpoint is of use only as it is now.
    fn beside(&self, worker: &Worker, labels: Arc<Labels>, evidence: String) -> Beside {
        let now: LogTime = self.replica.node.clock().now();
        self.replica.node.read(|state| beside(worker, state.agent(&worker.agent), labels, evidence, now))
    }
}

fn beside(worker: &Worker, agent: Option<&Agent>, labels: Arc<Labels>, evidence: String, now: LogTime) -> Beside {
    let texts = |list: &[Arc<str>]| list.iter().map(ToString::to_string).collect();
    Beside {
        labels,
        capabilities: agent.map(|agent| texts(&agent.capabilities)).unwrap_or_default(),
        missing_capabilities: agent.map(|agent| texts(&agent.missing_capabilities)).unwrap_or_default(),
        endpoint: agent.filter(|_| worker.session.is_some()).map(|a| a.endpoint.to_string()).unwrap_or_default(),
        evidence,
        now,
    }
}

async fn evidence_of(rows: &Rows, worker: &Worker) -> Result<String, Failure> {
    let value = rows.get(row::evidence_key(&worker.id)).await.map_err(broken)?;
    let evidence: Option<Evidence> = value.map(|value| row::decode_evidence(&value)).transpose().map_err(broken)?;
    Ok(evidence.unwrap_or_default().0)
}
