//! `acquire`, `renew` and `return`: a lease across several commands, kept in a file.
//!
//! Never here: running anything on the worker, see `run/`.

use remuda_client::{Acquire, Error, JobId, Outcome, WorkerReturnError};
use remuda_wire::v1::{GetLeaseResponse, GetReturnResponse, JobOutcome, RenewLeasesResponse, ReturnWorkerResponse};
use tonic::Code;

use crate::args::{AcquireArgs, Context, OutcomeWord, RenewArgs, ReturnArgs};
use crate::failure::Failure;
use crate::{lease_file, names, output};

/// How long `return` waits for the receipt; `--no-wait` and `returns get --wait` are for other needs.
const RECEIPT: std::time::Duration = std::time::Duration::from_secs(5 * 60);

pub(crate) async fn acquire(context: &Context, args: AcquireArgs) -> Result<(), Failure> {
    let client = context.client()?;
    let job: JobId = args.job.parse()?;
    let mut asked = Acquire::new(names::pool(&args.pool), job).wait(args.wait).selector(args.selector);
    (asked.ttl, asked.priority) = (args.ttl, args.priority);
    let (key, lease) = client.acquire_unheld(&asked).await?;
    let path = lease_file::write(args.file.lease_file.as_deref(), &key)?;
    eprintln!("lease: {}", path.display());
    output::print(context.output, &GetLeaseResponse { header: None, lease: Some(lease) })
}

pub(crate) async fn renew(context: &Context, args: RenewArgs) -> Result<(), Failure> {
    let (path, key) = lease_file::find(args.file.lease_file.as_deref(), args.worker.as_deref())?;
    let result = context.client()?.renew(&key, args.ttl).await?;
    if !result.refused.is_empty() {
        lease_file::remove(&path);
        let message = format!("{}: {}", key.worker, result.detail);
        return Err(Error::own(&result.refused, Code::FailedPrecondition, Outcome::Absent, message).into());
    }
    output::print(context.output, &RenewLeasesResponse { header: None, results: vec![result] })
}

pub(crate) async fn give_back(context: &Context, args: ReturnArgs) -> Result<(), Failure> {
    let (path, key) = lease_file::find(args.file.lease_file.as_deref(), args.worker.as_deref())?;
    if args.job.as_ref().is_some_and(|job| job != key.job.as_str()) {
        return Err(Failure::usage(format!("{} is the lease of job {}", path.display(), key.job)));
    }
    let outcome = match args.outcome {
        OutcomeWord::Success => JobOutcome::Success,
        OutcomeWord::Failure => JobOutcome::Failure,
        OutcomeWord::Broken => JobOutcome::Broken,
    };
    let client = context.client()?;
    let begun = client.begin_return(&key, outcome).await;
    if begun.is_ok() || matches!(begun, Err(WorkerReturnError::Stale(_))) {
        lease_file::remove(&path);
    }
    let return_name = begun?;
    if args.no_wait {
        return output::print(context.output, &ReturnWorkerResponse { header: None, return_name });
    }
    let ret = match client.finish_return(&return_name, RECEIPT).await {
        // That is where a worker declared broken is meant to go.
        Err(WorkerReturnError::Maintenance { .. }) if outcome == JobOutcome::Broken => {
            client.wait_return(&return_name, RECEIPT).await?
        }
        ended => ended?,
    };
    output::print(context.output, &GetReturnResponse { header: None, ret: Some(ret) })
}
