//! PoolService.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remuda_registry::refusal::Refusal;
use remuda_registry::row::{self, Table};
use remuda_registry::{Command, Outcome, PoolId, Revision};
use remuda_wire::convert::pool::{counts_out, create_in, merged, pool_out, spec_out, update_in};
use remuda_wire::convert::{Violations, duration, word};
use remuda_wire::{name, reasons, v1};
use tonic::{Request, Response, Status};

use super::front::Deadline;
use super::status::Failure;
use super::{Done, Replica, broken, list, pages, unexpected};

/// How often an update whose pool changed meanwhile is merged anew, where the caller named no etag.
const MERGES: u32 = 5;

/// Pools and their settings.
pub struct PoolService {
    replica: Arc<Replica>,
}

impl PoolService {
    /// The service of a replica.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    fn pool(&self, id: &PoolId) -> Result<v1::Pool, Failure> {
        self.replica.node.read(|state| {
            let pool = state.pool(id).ok_or_else(|| Refusal::PoolNotFound { pool: id.clone() })?;
            let counts = state.pool_counts(id).unwrap_or_default();
            let by_state = counts.by_state.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
            Ok(pool_out(pool, by_state, u32::try_from(counts.waiting).unwrap_or(u32::MAX)))
        })
    }

    async fn create(
        &self,
        request: v1::CreatePoolRequest,
        deadline: Instant,
    ) -> Result<v1::CreatePoolResponse, Failure> {
        let (pool, spec) = create_in(&request)?;
        if request.validate_only {
            self.replica.fresh(None, deadline).await?;
            if self.replica.node.read(|state| state.pool(&pool).is_some()) {
                return Err(Refusal::PoolExists { pool }.into());
            }
            let would = v1::Pool { name: name::pool_name(&pool), spec: Some(spec_out(&spec)), ..Default::default() };
            let header = self.replica.header(self.replica.node.applied().borrow().revision, false);
            return Ok(v1::CreatePoolResponse { header: Some(header), pool: Some(would) });
        }
        let command = Command::CreatePool { pool: pool.clone(), spec: Box::new(spec), actor: "".into() };
        let done = self.replica.write("CreatePool", request.request.as_ref(), command, deadline).await?;
        let revision = saved(&done)?;
        let made = self.after(&pool, revision, deadline).await?;
        Ok(v1::CreatePoolResponse { header: Some(self.replica.header(revision, false)), pool: Some(made) })
    }

    /// The pool once this replica has applied what changed it.
    async fn after(&self, pool: &PoolId, revision: Revision, deadline: Instant) -> Result<v1::Pool, Failure> {
        let waited = self.replica.node.wait_applied(revision, deadline).await;
        // The write is done; what cannot be shown must not make it look undone.
        if waited.is_err() {
            return Ok(v1::Pool { name: name::pool_name(pool), ..Default::default() });
        }
        Ok(self.pool(pool).unwrap_or_else(|_| v1::Pool { name: name::pool_name(pool), ..Default::default() }))
    }

    async fn update(
        &self,
        request: v1::UpdatePoolRequest,
        deadline: Instant,
    ) -> Result<v1::UpdatePoolResponse, Failure> {
        let (pool, etag) = update_in(&request)?;
        for merge in 1.. {
            self.replica.fresh(None, deadline).await?;
            let found = self.replica.node.read(|state| state.pool(&pool).map(|p| (p.spec.clone(), p.generation)));
            let (now, generation) = found.ok_or_else(|| Refusal::PoolNotFound { pool: pool.clone() })?;
            let spec = merged(&request, &now)?;
            let presented = etag.unwrap_or(generation);
            if request.validate_only {
                if presented != generation {
                    return Err(Refusal::EtagMismatch { presented, current: generation }.into());
                }
                let mut would = self.pool(&pool)?;
                would.spec = Some(spec_out(&spec));
                let header = self.replica.header(self.replica.node.applied().borrow().revision, false);
                return Ok(v1::UpdatePoolResponse { header: Some(header), pool: Some(would) });
            }
            // A whole replacement needs no etag; a masked one must not lose a change made meanwhile. Its identity must
            // not depend on what the pool was, so only a replacement is safe to send again under one request id.
            let whole = request.update_mask.as_ref().is_none_or(|mask| mask.paths.is_empty());
            let etag = if whole { etag } else { Some(presented) };
            let command = Command::UpdatePool { pool: pool.clone(), spec: Box::new(spec), etag, actor: "".into() };
            match self.replica.write("UpdatePool", request.request.as_ref(), command, deadline).await {
                Err(failure)
                    if failure.reason == reasons::ETAG_MISMATCH && request.request.is_none() && merge < MERGES => {}
                Err(failure) => return Err(failure),
                Ok(done) => {
                    let revision = saved(&done)?;
                    let pool = Some(self.after(&pool, revision, deadline).await?);
                    return Ok(v1::UpdatePoolResponse { header: Some(self.replica.header(revision, false)), pool });
                }
            }
        }
        unreachable!("the loop ends by returning")
    }

    async fn delete(
        &self,
        request: v1::DeletePoolRequest,
        deadline: Instant,
    ) -> Result<v1::DeletePoolResponse, Failure> {
        let mut found = Violations::default();
        let pool = found.take("name", name::pool(&request.name));
        let etag = found.etag("etag", &request.etag);
        let pool = found.finish(pool)?;
        let command = Command::DeletePool { pool, etag, actor: "".into() };
        let done = self.replica.write("DeletePool", request.request.as_ref(), command, deadline).await?;
        match done.outcome {
            Outcome::PoolDeleted { .. } => {
                Ok(v1::DeletePoolResponse { header: Some(self.replica.header(done.revision, false)) })
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn list(&self, request: v1::ListPoolsRequest, deadline: Instant) -> Result<v1::ListPoolsResponse, Failure> {
        let mut found = Violations::default();
        let size = found.page_size("page_size", request.page_size);
        let size = found.finish(Some(size))?;
        let asked = pages::asked(&["pools"]);
        let page = if request.page_token.is_empty() {
            self.replica.fresh(request.read.as_ref(), deadline).await?;
            self.replica.pages.first(self.replica.node.rows().await?, asked)
        } else {
            self.replica.pages.next(&self.replica.issuer, &request.page_token, asked)?
        };
        let (from, until) = list::range(Table::Pool, None);
        let rows = page.rows.scan(list::start(from, page.after.clone()), until, size + 1).await.map_err(broken)?;
        let more = rows.len() > size;
        let mut pools = Vec::new();
        let mut last = Vec::new();
        for (key, value) in rows.into_iter().take(size) {
            let pool = row::decode_pool(&value).map_err(broken)?;
            let counts = self.replica.node.read(|state| state.pool_counts(&pool.id).unwrap_or_default());
            let by_state = counts.by_state.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
            pools.push(pool_out(&pool, by_state, u32::try_from(counts.waiting).unwrap_or(u32::MAX)));
            last = key;
        }
        let token = if more { self.replica.pages.token(&self.replica.issuer, &page, last) } else { String::new() };
        let header = Some(self.replica.header(page.rows.revision(), is_stale(request.read.as_ref())));
        Ok(v1::ListPoolsResponse { header, pools, next_page_token: token })
    }

    async fn stats(
        &self,
        request: v1::GetPoolStatsRequest,
        deadline: Instant,
    ) -> Result<v1::GetPoolStatsResponse, Failure> {
        let pool = named(&request.name)?;
        let freshness = self.replica.fresh(request.read.as_ref(), deadline).await?;
        let stats = self.replica.node.read(|state| stats_of(state, &pool)).ok_or(Refusal::PoolNotFound { pool })?;
        Ok(v1::GetPoolStatsResponse { header: Some(self.replica.read_header(freshness)), stats: Some(stats) })
    }
}

fn saved(done: &Done) -> Result<Revision, Failure> {
    match &done.outcome {
        Outcome::PoolSaved { .. } => Ok(done.revision),
        other => Err(unexpected(other)),
    }
}

/// True where the caller asked for a stale read.
pub(super) fn is_stale(read: Option<&v1::ReadOptions>) -> bool {
    read.is_some_and(|read| read.consistency() == v1::Consistency::Stale)
}

fn named(text: &str) -> Result<PoolId, Failure> {
    let mut found = Violations::default();
    let pool = found.take("name", name::pool(text));
    Ok(found.finish(pool)?)
}

fn stats_of(state: &remuda_registry::State, pool: &PoolId) -> Option<v1::PoolStats> {
    state.pool(pool)?;
    let counts = state.pool_counts(pool).unwrap_or_default();
    let figures = state.statistics(pool).cloned().unwrap_or_default();
    let share = |part: u64, of: u64, none: u32| {
        u32::try_from((part * 1_000).checked_div(of).unwrap_or(u64::from(none))).unwrap_or(u32::MAX)
    };
    let ended = figures.returns_succeeded + figures.returns_failed;
    let failed_checks = figures.receipts_unhealthy;
    let open = figures.returns_begun.saturating_sub(ended);
    let by_reason = figures.returns_failed_by_reason.iter().map(|(reason, count)| (word(reason), *count));
    Some(v1::PoolStats {
        pool: name::pool_name(pool),
        workers: Some(counts_out(counts.by_state.map(|count| u32::try_from(count).unwrap_or(u32::MAX)))),
        waiting: u32::try_from(counts.waiting).unwrap_or(u32::MAX),
        leases: figures.leases,
        leases_reused: figures.leases_reused,
        returns_succeeded: figures.returns_succeeded,
        returns_failed: figures.returns_failed,
        returns_open: u32::try_from(open).unwrap_or(u32::MAX),
        health_passed: figures.receipts_accepted,
        health_failed: failed_checks,
        return_p50: figures.took.permille(500).map(duration),
        return_p99: figures.took.permille(990).map(duration),
        return_max: Some(duration(figures.took.max)),
        return_success_permille: share(figures.returns_succeeded, ended, 1_000),
        health_pass_permille: share(figures.receipts_accepted, figures.receipts_accepted + failed_checks, 1_000),
        reuse_permille: share(figures.leases_reused, figures.leases, 0),
        returns_failed_by_reason: by_reason.collect(),
    })
}

#[tonic::async_trait]
impl v1::pool_service_server::PoolService for PoolService {
    async fn create_pool(
        &self,
        request: Request<v1::CreatePoolRequest>,
    ) -> Result<Response<v1::CreatePoolResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.create(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn get_pool(&self, request: Request<v1::GetPoolRequest>) -> Result<Response<v1::GetPoolResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let request = request.into_inner();
        let answer = async {
            let pool = named(&request.name)?;
            let freshness = self.replica.fresh(request.read.as_ref(), deadline).await?;
            let pool = self.pool(&pool)?;
            Ok(v1::GetPoolResponse { header: Some(self.replica.read_header(freshness)), pool: Some(pool) })
        };
        answer.await.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.list(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn update_pool(
        &self,
        request: Request<v1::UpdatePoolRequest>,
    ) -> Result<Response<v1::UpdatePoolResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.update(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn delete_pool(
        &self,
        request: Request<v1::DeletePoolRequest>,
    ) -> Result<Response<v1::DeletePoolResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.delete(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }

    async fn get_pool_stats(
        &self,
        request: Request<v1::GetPoolStatsRequest>,
    ) -> Result<Response<v1::GetPoolStatsResponse>, Status> {
        let deadline = Deadline::of(&request, Duration::ZERO);
        let answer = self.stats(request.into_inner(), deadline).await;
        answer.map(Response::new).map_err(|failure| self.replica.status(failure))
    }
}
