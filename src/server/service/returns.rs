//! Returns as they stand in the durable copy: one, awaited or not, and lists.

use std::time::{Duration, Instant};

use remuda_registry::refusal::Refusal;
use remuda_registry::row::{self, ReturnRow, RunRow, Table};
use remuda_registry::worker::{Cleaning, StateKind, Step};
use remuda_registry::{Fact, Revision, Token, WorkerId};
use remuda_wire::convert::Violations;
use remuda_wire::convert::returns::{Parts, return_out};
use remuda_wire::name::{self, Parent};
use remuda_wire::{reasons, v1};

use super::list::{range, start};
use super::status::Failure;
use super::{Replica, broken, pages};
use crate::raft::Rows;
use crate::watch::Key;

/// Bounds of calls about returns.
mod limits {
    use std::time::Duration;

    /// Longest wait for a return's end.
    pub(super) const WAIT: Duration = Duration::from_secs(600);
    /// A waiting call answers this much before its deadline.
    pub(super) const MARGIN: Duration = Duration::from_millis(20);
    /// How often a waiting call looks whether the leader is still heard of.
    pub(super) const LOOK: Duration = Duration::from_millis(250);
    /// Rows read at once.
    pub(super) const CHUNK: usize = 2_000;
    /// Runs of one return: attempts and replacements.
    pub(super) const RUNS: usize = 2_000;
    /// Events of one revision.
    pub(super) const EVENTS: usize = 20_000;
}

/// One return; with `wait`, once it has ended or the wait is over.
///
/// # Errors
/// RETURN_NOT_FOUND and what reads can fail for.
pub async fn get(
    replica: &Replica,
    request: v1::GetReturnRequest,
    deadline: Instant,
) -> Result<v1::GetReturnResponse, Failure> {
    let mut found = Violations::default();
    let named = found.take("name", name::return_(&request.name));
    let wait =
        found.duration("wait", request.wait.as_ref()).map_or(Duration::ZERO, |wait| Duration::from_millis(wait.0));
    found.require(wait <= limits::WAIT, "wait", "must be at most ten minutes");
    let (worker, token) = found.finish(named)?;
    let until = (Instant::now() + wait).min(deadline.checked_sub(limits::MARGIN).unwrap_or(deadline));
    let inbox = replica.hub.inbox(vec![Key::Worker(worker.clone())]);
    let freshness = replica.fresh(request.read.as_ref(), deadline).await?;
    loop {
        let rows = replica.node.rows().await?;
        let ret = read(replica, &rows, &worker, token).await?;
        let over = ret.ended_revision > 0 || Instant::now() >= until;
        if over {
            return Ok(v1::GetReturnResponse { header: Some(replica.read_header(freshness)), ret: Some(ret) });
        }
        wait_for_end(replica, &inbox, (&worker, token), until).await?;
    }
}

/// Waits until something happened after which the worker is not in the return, or the time is over.
async fn wait_for_end(
    replica: &Replica,
    inbox: &crate::watch::Inbox,
    (worker, token): (&WorkerId, Token),
    until: Instant,
) -> Result<(), Failure> {
    loop {
        replica.in_contact()?;
        tokio::select! {
            // Inboxes are told after the rows are written: what is read next has what woke us.
            _ = inbox.next() => {}
            () = replica.closed() => return Err(Failure::new(reasons::SHUTTING_DOWN, "this replica is stopping")),
            () = tokio::time::sleep_until((Instant::now() + limits::LOOK).min(until).into()) => {}
        }
        let open = replica.node.read(|state| {
            let cleaning = state.worker(worker).and_then(|worker| worker.cleaning());
            cleaning.is_some_and(|cleaning| cleaning.return_id == token)
        });
        if !open || Instant::now() >= until {
            return Ok(());
        }
    }
}

/// Returns below a parent, newest first.
///
/// # Errors
/// What reads can fail for.
pub async fn list(
    replica: &Replica,
    request: v1::ListReturnsRequest,
    deadline: Instant,
) -> Result<v1::ListReturnsResponse, Failure> {
    let mut found = Violations::default();
    let parent = found.take("parent", name::parent(&request.parent));
    let size = found.page_size("page_size", request.page_size);
    let parent = found.finish(parent)?;
    let asked = pages::asked(&["returns", &request.parent]);
    let page = if request.page_token.is_empty() {
        replica.fresh(request.read.as_ref(), deadline).await?;
        replica.pages.first(replica.node.rows().await?, asked)
    } else {
        replica.pages.next(&replica.issuer, &request.page_token, asked)?
    };
    let before = page.after.as_slice().try_into().map_or(u64::MAX, u64::from_be_bytes);
    let keys = newest(&page.rows, &parent, before).await?;
    let mut returns = Vec::new();
    let mut last = None;
    for (token, key) in keys.iter().take(size) {
        let value = page.rows.get(key.clone()).await.map_err(broken)?;
        let Some(value) = value else { continue };
        let row = row::decode_return(&value).map_err(broken)?;
        returns.push(message(replica, &page.rows, &row).await?);
        last = Some(*token);
    }
    let more = last.filter(|_| keys.len() > size).map(|last| last.to_be_bytes().to_vec());
    let token = more.map(|last| replica.pages.token(&replica.issuer, &page, last)).unwrap_or_default();
    let header = Some(replica.header(page.rows.revision(), super::pool::is_stale(request.read.as_ref())));
    Ok(v1::ListReturnsResponse { header, returns, next_page_token: token })
}

/// The keys of returns with a token below `before`, newest first: tokens grow with time.
async fn newest(rows: &Rows, parent: &Parent, before: u64) -> Result<Vec<(u64, Vec<u8>)>, Failure> {
    let (from, until) = match parent {
        Parent::All => range(Table::Return, None),
        Parent::Pool(pool) => range(Table::Return, Some(row::return_prefix(pool))),
        Parent::Worker(worker) => (row::return_key(worker, Token(0)), row::return_key(worker, Token(u64::MAX))),
    };
    let mut keys = Vec::new();
    let mut next = from;
    loop {
        let chunk = rows.scan(next.clone(), until.clone(), limits::CHUNK).await.map_err(broken)?;
        let last = chunk.len() < limits::CHUNK;
        for (key, _) in chunk {
            let token = key.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            next = start(Vec::new(), key.clone());
            if token < before {
                keys.push((token, key));
            }
        }
        if last {
            break;
        }
    }
    keys.sort_unstable_by(|a, b| b.cmp(a));
    Ok(keys)
}

async fn read(replica: &Replica, rows: &Rows, worker: &WorkerId, token: Token) -> Result<v1::Return, Failure> {
    let value = rows.get(row::return_key(worker, token)).await.map_err(broken)?;
    let Some(value) = value else {
        let known = replica.node.read(|state| state.worker(worker).is_some());
        if !known {
            return Err(Refusal::WorkerNotFound { worker: worker.clone() }.into());
        }
        let failure = Failure::new(reasons::RETURN_NOT_FOUND, format!("worker {worker} has no return {token}"));
        return Err(failure.about("remuda.v1.Return", name::return_name(worker, token)));
    };
    let row = row::decode_return(&value).map_err(broken)?;
    message(replica, rows, &row).await
}

async fn message(replica: &Replica, rows: &Rows, row: &ReturnRow) -> Result<v1::Return, Failure> {
    let from = row::run_prefix(&row.worker, row.return_id);
    let until = row::run_prefix(&row.worker, Token(row.return_id.0 + 1));
    let found = rows.scan(from, until, limits::RUNS).await.map_err(broken)?;
    let runs = found.iter().map(|(_, value)| row::decode_run(value)).collect::<Result<Vec<RunRow>, _>>();
    let runs = runs.map_err(broken)?;
    let mut open: Option<Cleaning> = None;
    let mut admitted = None;
    match &row.end {
        None => {
            let cleaning = |state: &remuda_registry::State| state.worker(&row.worker)?.cleaning().cloned();
            open = replica.node.read(cleaning);
        }
        Some(end) => admitted = admission(rows, &row.worker, end.ended.revision).await?,
    }
    let now = replica.node.clock().now();
    Ok(return_out(Parts { row, runs: &runs, open: open.as_ref(), admitted, now }))
}

/// When the worker became Available in the entry that ended its return.
async fn admission(rows: &Rows, worker: &WorkerId, ended: Revision) -> Result<Option<(Revision, u64)>, Failure> {
    let (from, until) = (row::event_key(ended, 0), row::event_key(Revision(ended.0 + 1), 0));
    for (_, value) in rows.scan(from, until, limits::EVENTS).await.map_err(broken)? {
        let event = row::decode_event(&value).map_err(broken)?;
        if let Fact::Worker(moved) = &event.fact
            && moved.worker == *worker
            && moved.step == Some(Step::Admit)
            && moved.to == Some(StateKind::Available)
        {
            return Ok(Some((ended, event.term)));
        }
    }
    Ok(None)
}
