//! ExecutionService: a lease's holder starts its job here and attaches to it, also again and from elsewhere.
//!
//! The job runs under a supervisor of its own, and its output, input and exit status are files in the lease's folder, so
//! this service keeps nothing: it checks who asks, and moves bytes between those files and the caller.
//!
//! ```text
//!   epoch = the open lease's ──> secret's SHA-256 matches? ──> served
//!   epoch below what was seen ─> STALE_LEASE, naming what is newer
//!   epoch above what was seen ─> wait (at most 5 s) for the watch to show it
//!                                └─ still not: a linearizable GetLease; same epoch there: UNAVAILABLE (the watch is
//!                                   behind), another: STALE_LEASE. Neither refused nor believed unread.
//! ```
//!
//! Invariants
//! * A job is started only after its worker's duties admitted it and that is synced, and only while the lease is open.
//! * Nothing is told or done under a secret that does not match the lease's hash.
//!
//! Never here: deciding whether a worker may serve, see `job.rs`; processes, see `supervisor`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use remuda_wire::agent::v1::execution_service_server::ExecutionService;
use remuda_wire::agent::v1::{
    AttachExecutionRequest, AttachExecutionResponse, ExecuteRequest, ExecuteResponse, ExitStatus, GetExecutionRequest,
    GetExecutionResponse, LeaseProof, OutputChunk, SignalExecutionRequest, SignalExecutionResponse, WriteInputRequest,
    WriteInputResponse, attach_execution_response::Part,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::failpoint;
use crate::host::{Host, Lease};
use crate::job::{Facts, JobFact, JobVerdict, LeaseOrder};
use crate::runner::{Crew, Member};
use crate::supervisor::{self, Exit, JobSpec, Standing, StartError, Started, Stream};

mod grant;
mod refusal;
#[cfg(test)]
mod tests;

use refusal::{failed, refused};

/// Bounds of executions.
mod limits {
    /// Bytes of one part of the output: well below the 4 MiB that gRPC's receivers take.
    pub(super) const CHUNK: usize = 64 << 10;
    /// Parts on their way to a slow reader; the rest waits in the files.
    pub(super) const PARTS: usize = 4;
    /// Bytes of a command with its environment: what the system takes is about 2 MiB.
    pub(super) const COMMAND: usize = 1 << 20;
    /// Bytes of one piece of input.
    pub(super) const INPUT: usize = 1 << 20;
}

/// The service.
#[derive(Clone)]
pub struct Executions {
    /// The workers.
    pub crew: Arc<Crew>,
    /// Where leases' folders are.
    pub host: Arc<Host>,
    /// This host's boot id.
    pub boot_id: String,
    /// No new job is started any more.
    pub closing: CancellationToken,
    /// Ends open attachments when the agent stops.
    pub stop: CancellationToken,
}

/// Whether the job begun under the facts' epoch is gone: its boot or its folder is, or its supervisor without a record.
/// A job that was never begun, runs, or ended with a recorded status, is not.
pub fn job_lost(facts: &Facts, lease: &Lease, boot_id: &str) -> io::Result<bool> {
    let Some(job) = facts.job.as_ref().filter(|job| job.epoch == lease.epoch()) else { return Ok(false) };
    Ok(match supervisor::standing(lease)? {
        Standing::Running { .. } | Standing::Ended(_) => false,
        Standing::Lost { .. } => true,
        // The folder is made before the fact is written, so its absence means that it was taken away.
        Standing::None => job.boot_id != boot_id || !lease.folder().is_dir(),
    })
}

impl Executions {
    fn member(&self, proof: &LeaseProof) -> Result<&Member, Status> {
        let absent =
            || refused(Code::NotFound, "WORKER_NOT_FOUND", "no such worker here", &[("worker", &proof.worker)]);
        self.crew.member(&proof.worker).ok_or_else(absent)
    }

    fn lease(&self, worker: &str, epoch: u64) -> Result<Lease, Status> {
        let roots = self.host.roots(worker).map_err(|error| failed(&error))?;
        Ok(roots.lease(epoch))
    }

    /// The lease that is open now, proven to be the caller's.
    async fn open(&self, proof: &LeaseProof) -> Result<(&Member, LeaseOrder), Status> {
        let member = self.member(proof)?;
        let order = grant::wait(&self.crew, member, proof).await?;
        prove(proof, &order)?;
        if order.interrupted {
            return Err(interrupted(proof));
        }
        Ok((member, order))
    }

    /// The lease that is open, or that was open last: what its job left may still be read.
    async fn readable(&self, proof: &LeaseProof) -> Result<Lease, Status> {
        let member = self.member(proof)?;
        let last = member.view().borrow().last.clone().filter(|last| last.epoch == proof.epoch);
        let order = match last {
            Some(order) => order,
            None => grant::wait(&self.crew, member, proof).await?,
        };
        prove(proof, &order)?;
        self.lease(&member.name, proof.epoch)
    }

    /// Starts the job, if the worker's duties admit it and it has not been started.
    async fn start(&self, asked: ExecuteRequest) -> Result<Started, Status> {
        let proof = asked.lease.as_ref().ok_or_else(no_lease)?;
        validate(&asked)?;
        if self.closing.is_cancelled() {
            return Err(refusal::stopping());
        }
        let (member, order) = self.open(proof).await?;
        let lease = self.lease(&member.name, order.epoch)?;
        let _gate = member.gate().await;
        let facts = member.view().borrow().facts.clone();
        if job_lost(&facts, &lease, &self.boot_id).map_err(|error| failed(&error))? {
            return Err(interrupted(proof));
        }
        // Made before the fact that a job was begun, so that a missing folder means a lost one.
        std::fs::create_dir_all(lease.folder()).map_err(|error| failed(&error))?;
        let job = JobFact { epoch: order.epoch, boot_id: self.boot_id.clone(), asked: digest(&asked) };
        match member.ask_job(job).await {
            // Begun is not yet started, if the agent died between the two; starting twice is the supervisor's to prevent.
            JobVerdict::Admitted | JobVerdict::Begun => {}
            JobVerdict::Another => {
                let words = "another execution was started under this lease, which has one only";
                return Err(refused(Code::AlreadyExists, "EXECUTION_EXISTS", words, &[("worker", &proof.worker)]));
            }
            JobVerdict::Interrupted => return Err(interrupted(proof)),
            JobVerdict::Stale { seen } => return Err(grant::stale(proof, seen)),
            JobVerdict::NotYet => return Err(grant::not_seen(proof)),
        }
        failpoint::hit("agent.job.after_admitted");
        let spec = JobSpec {
            job: order.job_id,
            command: asked.command,
            env: asked.env.into_iter().collect(),
            input: asked.input,
            folders: order.folders,
        };
        match supervisor::start(&lease, &spec).await {
            Ok(started) => Ok(started),
            Err(StartError::Stopped) => Err(grant::stale(&asked.lease.unwrap_or_default(), order.epoch)),
            Err(StartError::Io(error)) => Err(failed(&error)),
        }
    }
}

#[tonic::async_trait]
impl ExecutionService for Executions {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        let asked = request.into_inner();
        let (worker, epoch) = asked.lease.as_ref().map(|l| (l.worker.clone(), l.epoch)).unwrap_or_default();
        // A task of its own: a caller that breaks off must not leave a job half started.
        let (service, tracker) = (self.clone(), self.crew.shared().tasks.clone());
        let starting = tracker.spawn(async move { service.start(asked).await });
        let started = starting.await.map_err(|error| failed(&io::Error::other(error)))??;
        let attached = started == Started::Existing;
        if !attached {
            self.crew.shared().metrics.job_started();
            tracing::info!(worker, epoch, "job started");
        }
        Ok(Response::new(ExecuteResponse { attached }))
    }

    type AttachExecutionStream = ReceiverStream<Result<AttachExecutionResponse, Status>>;

    async fn attach_execution(
        &self,
        request: Request<AttachExecutionRequest>,
    ) -> Result<Response<Self::AttachExecutionStream>, Status> {
        let asked = request.into_inner();
        let proof = asked.lease.as_ref().ok_or_else(no_lease)?;
        let lease = self.readable(proof).await?;
        if standing(&lease).await? == Standing::None {
            return Err(not_found(proof));
        }
        let (parts, stream) = mpsc::channel(limits::PARTS);
        let (stop, proof) = (self.stop.clone(), proof.clone());
        tokio::spawn(async move {
            let told = tokio::select! {
                told = tell(&lease, asked.stdout_offset, asked.stderr_offset, &parts) => told,
                () = parts.closed() => return,
                () = stop.cancelled() => Err(refusal::stopping()),
            };
            let last = match told {
                Ok(Some(exit)) => Ok(AttachExecutionResponse { part: Some(Part::Exit(exit)) }),
                Ok(None) => Err(not_found(&proof)),
                Err(status) => Err(status),
            };
            // A reader that has gone needs no end.
            let _ = parts.send(last).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn write_input(&self, request: Request<WriteInputRequest>) -> Result<Response<WriteInputResponse>, Status> {
        let asked = request.into_inner();
        let proof = asked.lease.as_ref().ok_or_else(no_lease)?;
        if asked.data.len() > limits::INPUT {
            return Err(refusal::invalid(&[("data", format!("more than {} bytes", limits::INPUT))]));
        }
        let (member, order) = self.open(proof).await?;
        let lease = self.lease(&member.name, order.epoch)?;
        if standing(&lease).await? == Standing::None {
            return Err(not_found(proof));
        }
        let accepted = blocking(move || supervisor::write_input(&lease, asked.offset, &asked.data, asked.end)).await?;
        Ok(Response::new(WriteInputResponse { accepted }))
    }

    async fn signal_execution(
        &self,
        request: Request<SignalExecutionRequest>,
    ) -> Result<Response<SignalExecutionResponse>, Status> {
        let asked = request.into_inner();
        let proof = asked.lease.as_ref().ok_or_else(no_lease)?;
        let (member, order) = self.open(proof).await?;
        let lease = self.lease(&member.name, order.epoch)?;
        if standing(&lease).await? == Standing::None {
            return Err(not_found(proof));
        }
        // One that has ended needs no signal.
        blocking(move || supervisor::signal(&lease, asked.signal)).await?;
        Ok(Response::new(SignalExecutionResponse {}))
    }

    async fn get_execution(
        &self,
        request: Request<GetExecutionRequest>,
    ) -> Result<Response<GetExecutionResponse>, Status> {
        let asked = request.into_inner();
        let proof = asked.lease.as_ref().ok_or_else(no_lease)?;
        let lease = self.readable(proof).await?;
        let (running, exit) = match standing(&lease).await? {
            Standing::None => return Err(not_found(proof)),
            Standing::Lost { why } => return Err(lost(&why)),
            Standing::Running { .. } => (true, None),
            Standing::Ended(exit) => (false, Some(status_of(&exit))),
        };
        let lengths = move || {
            let stdout = supervisor::output_len(&lease, Stream::Stdout)?;
            Ok((stdout, supervisor::output_len(&lease, Stream::Stderr)?))
        };
        let (stdout_bytes, stderr_bytes) = blocking(lengths).await?;
        Ok(Response::new(GetExecutionResponse { running, exit, stdout_bytes, stderr_bytes }))
    }
}

/// Sends output from these offsets on until the job has ended and all of it is told; then how it ended, or none when
/// what it left was removed meanwhile.
async fn tell(
    lease: &Lease,
    mut stdout: u64,
    mut stderr: u64,
    parts: &mpsc::Sender<Result<AttachExecutionResponse, Status>>,
) -> Result<Option<ExitStatus>, Status> {
    loop {
        // Asked before the output is read: what had ended by now has written all that it ever will.
        let standing = standing(lease).await?;
        while let Some(part) = read(lease, Stream::Stdout, &mut stdout).await? {
            send(parts, Part::Stdout(part)).await;
        }
        while let Some(part) = read(lease, Stream::Stderr, &mut stderr).await? {
            send(parts, Part::Stderr(part)).await;
        }
        match standing {
            Standing::Running { .. } => supervisor::changed(lease, stdout, stderr).await,
            Standing::Ended(exit) => return Ok(Some(status_of(&exit))),
            Standing::Lost { why } => return Err(lost(&why)),
            Standing::None => return Ok(None),
        }
    }
}

async fn send(parts: &mpsc::Sender<Result<AttachExecutionResponse, Status>>, part: Part) {
    // When the reader has gone, the task that called this is dropped at its next wait.
    let _ = parts.send(Ok(AttachExecutionResponse { part: Some(part) })).await;
}

/// The next bytes of a stream; moves the offset past them.
async fn read(lease: &Lease, stream: Stream, offset: &mut u64) -> Result<Option<OutputChunk>, Status> {
    let (lease, from) = (lease.clone(), *offset);
    let chunk = blocking(move || supervisor::read_output(&lease, stream, from, limits::CHUNK)).await?;
    Ok(chunk.map(|chunk| {
        assert!(chunk.offset >= from, "output is never told twice");
        *offset = chunk.offset + chunk.data.len() as u64;
        OutputChunk { offset: chunk.offset, data: chunk.data }
    }))
}

async fn standing(lease: &Lease) -> Result<Standing, Status> {
    let lease = lease.clone();
    blocking(move || supervisor::standing(&lease)).await
}

/// Work on files, away from the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(refusal::invalid(&[("signal", error.to_string())]))
        }
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&io::Error::other(error))),
    }
}

fn status_of(exit: &Exit) -> ExitStatus {
    let took = prost_types::Duration::try_from(exit.took.min(Duration::from_secs(1 << 40)));
    ExitStatus { code: exit.code, signal: exit.signal, failure: exit.failure.clone(), took: took.ok() }
}

fn prove(proof: &LeaseProof, order: &LeaseOrder) -> Result<(), Status> {
    let hash: [u8; 32] = Sha256::digest(&proof.secret).into();
    if hash[..] == order.secret_sha256[..] {
        return Ok(());
    }
    let words = "the secret is not this lease's";
    Err(refused(Code::PermissionDenied, "WRONG_SECRET", words, &[("worker", &proof.worker)]))
}

/// A digest of what is asked for, without the proof: the same request again has the same.
fn digest(asked: &ExecuteRequest) -> String {
    let mut hash = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(&[u8::from(asked.input)]);
    part(&(asked.command.len() as u64).to_le_bytes());
    asked.command.iter().for_each(|word| part(word.as_bytes()));
    let sorted: std::collections::BTreeMap<_, _> = asked.env.iter().collect();
    for (name, value) in sorted {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    hash.finalize().to_hex().to_string()
}

/// All that is wrong with a request, whoever sends it.
fn validate(asked: &ExecuteRequest) -> Result<(), Status> {
    let mut wrong = Vec::new();
    if asked.command.first().is_none_or(String::is_empty) {
        wrong.push(("command", "a command is needed".to_owned()));
    }
    if asked.command.iter().any(|word| word.contains('\0')) {
        wrong.push(("command", "a word holds a zero byte".to_owned()));
    }
    let bad_name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
    if asked.env.iter().any(|(name, value)| bad_name(name) || value.contains('\0')) {
        wrong.push(("env", "a name is empty or holds `=`, or something holds a zero byte".to_owned()));
    }
    let env: usize = asked.env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if asked.command.iter().map(String::len).sum::<usize>() + env > limits::COMMAND {
        wrong.push(("command", format!("more than {} bytes with its environment", limits::COMMAND)));
    }
    if wrong.is_empty() { Ok(()) } else { Err(refusal::invalid(&wrong)) }
}

fn no_lease() -> Status {
    refusal::invalid(&[("lease", "is needed".to_owned())])
}

fn not_found(proof: &LeaseProof) -> Status {
    let words = "nothing was started under this lease, or what it left was removed";
    refused(Code::NotFound, "EXECUTION_NOT_FOUND", words, &[("worker", &proof.worker)])
}

fn interrupted(proof: &LeaseProof) -> Status {
    let words = "the job under this lease is known to be gone: return the worker";
    refused(Code::FailedPrecondition, "INTERRUPTED", words, &[("worker", &proof.worker)])
}

fn lost(why: &str) -> Status {
    refused(Code::FailedPrecondition, "INTERRUPTED", &format!("the job is gone: {why}"), &[("why", why)])
}
