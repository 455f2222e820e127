//! Leases: acquire, renew, return.

use remuda_registry::command::AcquireWorker;
use remuda_registry::lease::{JobOutcome, Renewal};
use remuda_registry::outcome::Renewed;
use remuda_registry::selector::Labels;
use remuda_registry::worker::Worker;
use remuda_registry::{Command, JobId, LogTime, Millis, RefusalCode, SecretHash, Token};

use super::{Violations, duration, limits, map_of, timestamp};
use crate::name::limits::JOB_BYTES_MAX;
use crate::{name, reasons, selector, v1};

/// What a renewal may grant at most; a pool may be stricter.
const TTL_MAX: Millis = Millis::hours(24);
/// Fractions of a TTL: renew at a third.
const RENEW_AT: u64 = 3;

/// The acquire of a request.
///
/// # Errors
/// All violations.
pub fn acquire_in(request: &v1::AcquireWorkerRequest) -> Result<AcquireWorker, Violations> {
    let mut found = Violations::default();
    let pool = found.take("pool", name::pool(&request.pool));
    let selector = found.take("selector", selector::parse(&request.selector));
    let secret: Option<[u8; 32]> = request.secret_sha256.as_slice().try_into().ok();
    found.require(secret.is_some(), "secret_sha256", "must have 32 bytes");
    let ttl = ttl_in(&mut found, "ttl", request.ttl.as_ref());
    let wait = found.duration("wait", request.wait.as_ref()).unwrap_or(Millis(0));
    let most = remuda_registry::limits::WAIT_MAX;
    found.require(wait <= most, "wait", "must be at most one hour");
    let named = request.request.as_ref().is_some_and(|options| !options.request_id.is_empty());
    found.require(wait == Millis(0) || named, "request.request_id", "must be set where wait is");
    let job = job_in(&mut found, "job_id", &request.job_id);
    let job_labels: Labels = found.labels("job_labels", &request.job_labels);
    let made = pool.zip(selector).zip(secret).map(|((pool, selector), secret)| AcquireWorker {
        pool,
        selector,
        name: None,
        job,
        job_labels,
        holder: "".into(),
        secret: SecretHash(secret),
        ttl,
        wait,
        priority: request.priority,
    });
    found.finish(made)
}

fn job_in(found: &mut Violations, field: &str, job: &str) -> JobId {
    found.require(job.len() <= JOB_BYTES_MAX, field, "must have at most 128 bytes");
    JobId(found.needed_text(field, job, JOB_BYTES_MAX))
}

fn ttl_in(found: &mut Violations, field: &str, ttl: Option<&prost_types::Duration>) -> Option<Millis> {
    let ttl = found.duration(field, ttl)?;
    found.require((Millis::secs(1)..=TTL_MAX).contains(&ttl), field, "must be from 1 s to 24 h");
    Some(ttl)
}

/// The renewals of a request.
///
/// # Errors
/// All violations.
pub fn renewals_in(request: &v1::RenewLeasesRequest) -> Result<Vec<Renewal>, Violations> {
    let mut found = Violations::default();
    let count = request.renewals.len();
    found.require(count > 0, "renewals", "must not be empty");
    found.require(count <= limits::RENEWALS_MAX, "renewals", "must have at most 1000 entries");
    let mut renewals = Vec::with_capacity(count.min(limits::RENEWALS_MAX));
    for (at, renewal) in request.renewals.iter().take(limits::RENEWALS_MAX).enumerate() {
        let field = format!("renewals[{at}]");
        let worker = found.take(&format!("{field}.worker"), name::worker(&renewal.worker));
        let epoch = epoch_in(&mut found, &format!("{field}.epoch"), renewal.epoch);
        let secret = found.secret(&format!("{field}.secret"), &renewal.secret);
        let ttl = ttl_in(&mut found, &format!("{field}.ttl"), renewal.ttl.as_ref());
        renewals.extend(worker.map(|worker| Renewal { worker, epoch, secret, ttl }));
    }
    found.finish(Some(renewals))
}

fn epoch_in(found: &mut Violations, field: &str, epoch: u64) -> Token {
    found.require(epoch > 0, field, "must be set");
    Token(epoch)
}

/// The command of a return.
///
/// # Errors
/// All violations.
pub fn return_in(request: &v1::ReturnWorkerRequest) -> Result<Command, Violations> {
    let mut found = Violations::default();
    let worker = found.take("worker", name::worker(&request.worker));
    let job = job_in(&mut found, "job_id", &request.job_id);
    let epoch = epoch_in(&mut found, "epoch", request.epoch);
    let secret = found.secret("secret", &request.secret);
    let outcome = match v1::JobOutcome::try_from(request.outcome) {
        Ok(v1::JobOutcome::Unspecified | v1::JobOutcome::Success) => JobOutcome::Success,
        Ok(v1::JobOutcome::Failure) => JobOutcome::Failure,
        Ok(v1::JobOutcome::Broken) => JobOutcome::Broken,
        Err(_) => {
            found.add("outcome", "must be SUCCESS, FAILURE or BROKEN");
            JobOutcome::Success
        }
    };
    found.finish(worker.map(|worker| Command::BeginReturn { worker, job, epoch, secret, outcome }))
}

/// The command of a cancel.
///
/// # Errors
/// All violations.
pub fn cancel_in(request: &v1::CancelAcquireRequest) -> Result<Command, Violations> {
    let mut found = Violations::default();
    let id = found.take("acquire_request_id", super::request::id_in(&request.acquire_request_id));
    found.require(request.acquire_not_after_ms > 0, "acquire_not_after_ms", "must be set");
    let not_after = LogTime(request.acquire_not_after_ms);
    found.finish(id.map(|request| Command::CancelAcquire { request, not_after }))
}

/// An outcome as a message has it.
pub const fn outcome_out(outcome: JobOutcome) -> v1::JobOutcome {
    match outcome {
        JobOutcome::Success => v1::JobOutcome::Success,
        JobOutcome::Failure => v1::JobOutcome::Failure,
        JobOutcome::Broken => v1::JobOutcome::Broken,
    }
}

/// The lease that a worker is under, as a message has it.
pub fn lease_out(worker: &Worker, endpoint: &str, now: LogTime) -> Option<v1::Lease> {
    let lease = worker.lease()?;
    let remaining = lease.deadline.since(now);
    Some(v1::Lease {
        worker: name::worker_name(&worker.id),
        epoch: lease.epoch.0,
        job_id: lease.job.to_string(),
        job_labels: map_of(&lease.job_labels),
        deadline_ms: lease.deadline.0,
        remaining: Some(duration(remaining)),
        renew_after: Some(duration(if lease.claimed { renew_after(remaining) } else { Millis(0) })),
        granted_revision: lease.granted.revision.0,
        execution_endpoint: endpoint.to_owned(),
        agent_silent: worker.agent_silent(),
        interrupted: lease.interrupted,
        unclaimed: !lease.claimed,
        granted_at: timestamp(lease.granted.wall_ms),
    })
}

/// When to renew what was granted, were the total rate no matter.
pub fn renew_after(granted: Millis) -> Millis {
    Millis(granted.0 / RENEW_AT)
}

/// A renewal that was granted, with the drain that will end the lease.
pub fn renewed_out(renewed: &Renewed, renew_after: Millis, draining: Option<v1::Cordon>) -> v1::RenewalResult {
    v1::RenewalResult {
        worker: name::worker_name(&renewed.worker),
        epoch: renewed.epoch.0,
        granted: Some(duration(renewed.granted)),
        renew_after: Some(duration(renew_after.min(Millis(renewed.granted.0 / 2)))),
        agent_silent: renewed.agent_silent,
        draining: draining.filter(|_| renewed.drain_at.is_some()),
        ..Default::default()
    }
}

/// A renewal that was refused.
pub fn unrenewed_out(renewal: &Renewal, code: RefusalCode, detail: String) -> v1::RenewalResult {
    v1::RenewalResult {
        worker: name::worker_name(&renewal.worker),
        epoch: renewal.epoch.0,
        refused: reasons::of_refusal(code).name.to_owned(),
        detail,
        interrupted: code == RefusalCode::Interrupted,
        ..Default::default()
    }
}
