//! Executions: starting a lease's job on its worker, and staying attached to it.
//!
//! The agent keeps the job's output in bounded files, so that attaching is resumable: a broken stream is opened again at
//! the offsets already seen, also after the agent was restarted, whose new endpoint the registry knows. Input carries
//! offsets as well, so that bytes sent twice arrive once.
//!
//! Never here: the job's meaning; returning the worker.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use remuda_wire::agent::v1::execution_service_client::ExecutionServiceClient;
use remuda_wire::agent::v1::{
    AttachExecutionRequest, AttachExecutionResponse, ExecuteRequest, ExitStatus, GetExecutionRequest,
    GetExecutionResponse, LeaseProof, SignalExecutionRequest, WriteInputRequest, attach_execution_response::Part,
};
use remuda_wire::v1::GetLeaseRequest;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::client::Client;
use crate::endpoints;
use crate::error::{Error, Outcome, reason};
use crate::lease::LeaseKey;
use crate::retry::Patience;

/// Bounds of executions.
mod limits {
    use std::time::Duration;

    /// One call; the agent itself waits up to 5 s for the grant's revision, and up to 10 s for the job's start.
    pub(super) const CALL: Duration = Duration::from_secs(20);
    /// The pause before the first further try.
    pub(super) const PAUSE_MIN: Duration = Duration::from_millis(50);
    /// The longest pause.
    pub(super) const PAUSE_MAX: Duration = Duration::from_secs(1);
    /// For the question where the agent is served by now; output must not wait for it.
    pub(super) const ASK: Duration = Duration::from_secs(2);
    /// Bytes of input in one call.
    pub(super) const INPUT: usize = 64 * 1024;
    /// Longer than the agent's own pause between two looks at an idle job.
    pub(super) const OPEN: Duration = Duration::from_secs(10);
}

/// How long an agent may be out of reach before a call or an attachment gives up: an agent's restart and more. The
/// job itself runs on meanwhile.
pub const OUT_OF_REACH: Duration = Duration::from_secs(60);

/// What an attachment shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Bytes of standard output.
    Stdout(Vec<u8>),
    /// Bytes of standard error.
    Stderr(Vec<u8>),
    /// The agent's bounded files have dropped this many bytes before the next ones.
    Dropped(u64),
    /// The job has ended; nothing follows.
    Exit(ExitStatus),
}

/// The execution of one lease.
#[derive(Debug)]
pub struct Execution {
    client: Client,
    key: LeaseKey,
    reach: Mutex<Reach>,
    give_up: Duration,
}

/// Where the agent is; nowhere while it is silent.
#[derive(Debug)]
struct Reach {
    endpoint: String,
    channel: Option<Channel>,
}

impl Reach {
    fn new(endpoint: String) -> Result<Self, Error> {
        let channel = if endpoint.is_empty() { None } else { Some(endpoints::channel(&endpoint)?) };
        Ok(Self { endpoint, channel })
    }
}

impl Client {
    /// The execution of a lease. Nothing is sent yet.
    ///
    /// # Errors
    /// `INVALID_FIELD` where what the lease names is no endpoint.
    pub fn execution(&self, key: &LeaseKey) -> Result<Execution, Error> {
        let reach = Mutex::new(Reach::new(key.execution_endpoint.clone())?);
        Ok(Execution { client: self.clone(), key: key.clone(), reach, give_up: OUT_OF_REACH })
    }
}

impl Execution {
    /// Starts the job; true when this lease had one already, to which attaching then leads.
    ///
    /// # Errors
    /// What the agent decided, or that it was out of reach.
    pub async fn start(&self, command: Vec<String>, env: HashMap<String, String>, input: bool) -> Result<bool, Error> {
        let request = ExecuteRequest { lease: Some(self.proof()), command, env, input };
        let answer = self.call(&request, async |mut agent, r| agent.execute(r).await).await?;
        Ok(answer.attached)
    }

    /// How it stands.
    ///
    /// # Errors
    /// What the agent decided, or that it was out of reach.
    pub async fn standing(&self) -> Result<GetExecutionResponse, Error> {
        let request = GetExecutionRequest { lease: Some(self.proof()) };
        self.call(&request, async |mut agent, r| agent.get_execution(r).await).await
    }

    /// Sends a signal to the job.
    ///
    /// # Errors
    /// What the agent decided, or that it was out of reach.
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        let request = SignalExecutionRequest { lease: Some(self.proof()), signal };
        self.call(&request, async |mut agent, r| agent.signal_execution(r).await).await?;
        Ok(())
    }

    /// Writes all of `data` at `offset` of the job's input, and ends it with `end`. Gives the offset after it.
    ///
    /// # Errors
    /// What the agent decided, or that it was out of reach.
    pub async fn write(&self, mut offset: u64, data: &[u8], end: bool) -> Result<u64, Error> {
        let until = offset + data.len() as u64;
        let mut left = data;
        loop {
            let piece = &left[..left.len().min(limits::INPUT)];
            let last = piece.len() == left.len();
            let request =
                WriteInputRequest { lease: Some(self.proof()), offset, data: piece.to_vec(), end: end && last };
            let accepted = self.call(&request, async |mut agent, r| agent.write_input(r).await).await?.accepted;
            if accepted >= until && last {
                return Ok(until);
            }
            let taken = accepted.saturating_sub(offset).min(piece.len() as u64);
            if taken == 0 {
                // The job has not read what it was given; its end shows on the attachment.
                tokio::time::sleep(limits::PAUSE_MAX).await;
            }
            offset += taken;
            left = &left[usize::try_from(taken).unwrap_or(left.len())..];
        }
    }

    /// Attaches from the beginning of the output.
    pub fn attach(&self) -> Attachment<'_> {
        Attachment {
            execution: self,
            stream: None,
            stdout: 0,
            stderr: 0,
            pending: None,
            pause: limits::PAUSE_MIN,
            contact: Instant::now(),
            ended: false,
        }
    }

    fn proof(&self) -> LeaseProof {
        LeaseProof {
            worker: self.key.worker.to_string(),
            epoch: self.key.epoch,
            secret: self.key.secret.bytes().to_vec(),
            granted_revision: self.key.granted_revision,
        }
    }

    fn agent(&self) -> Result<ExecutionServiceClient<Channel>, Error> {
        let channel = self.reach.lock().channel.clone();
        channel.map(ExecutionServiceClient::new).ok_or_else(|| {
            let message = format!("the agent of {} is silent", self.key.worker);
            Error::own(reason::UNREACHABLE, Code::Unavailable, Outcome::Absent, message)
        })
    }

    /// Calls until the agent answers or is out of reach for too long. Every call may be repeated: Execute attaches to
    /// what it finds, input has offsets, and a signal sent twice is a signal.
    async fn call<Q, A, F>(&self, request: &Q, send: F) -> Result<A, Error>
    where
        Q: Clone,
        F: AsyncFn(ExecutionServiceClient<Channel>, Request<Q>) -> Result<tonic::Response<A>, Status>,
    {
        let until = Instant::now() + self.give_up;
        let mut pause = limits::PAUSE_MIN;
        loop {
            let mut sent = Request::new(request.clone());
            sent.set_timeout(limits::CALL);
            let error = match self.agent() {
                Err(error) => error,
                Ok(agent) => match tokio::time::timeout(limits::CALL, send(agent, sent)).await {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) => Error::from_status(&status),
                    Err(_) => silent(&self.reach.lock().endpoint),
                },
            };
            if !may_be_mended(&error) || Instant::now() >= until {
                return Err(error);
            }
            self.again(&mut pause, &error).await;
        }
    }

    /// Waits a little, and asks the registry whether the agent is served elsewhere by now.
    async fn again(&self, pause: &mut Duration, error: &Error) {
        tracing::debug!(worker = %self.key.worker, %error, "the agent is out of reach");
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        *pause = (*pause * 2).min(limits::PAUSE_MAX);
        let request = GetLeaseRequest { worker: self.key.worker.to_string(), read: None };
        let asked = self.client.ask_with(Patience::within(limits::ASK), request).await;
        let found = asked.ok().and_then(|answered| answered.answer.lease);
        let Some(lease) = found.filter(|l| l.epoch == self.key.epoch) else { return };
        let mut reach = self.reach.lock();
        if lease.execution_endpoint != reach.endpoint
            && let Ok(found) = Reach::new(lease.execution_endpoint)
        {
            *reach = found;
        }
    }
}

fn silent(endpoint: &str) -> Error {
    let message = format!("the agent at {endpoint} did not answer within {:?}", limits::CALL);
    Error::own(reason::DEADLINE_PASSED, Code::DeadlineExceeded, Outcome::Unknown, message)
}

fn may_be_mended(error: &Error) -> bool {
    match error.code() {
        Code::Unavailable | Code::DeadlineExceeded => true,
        Code::Cancelled | Code::Unknown | Code::Internal => !error.said_by_cluster(),
        _ => false,
    }
}

/// An attachment to an execution.
#[derive(Debug)]
pub struct Attachment<'a> {
    execution: &'a Execution,
    stream: Option<Streaming<AttachExecutionResponse>>,
    stdout: u64,
    stderr: u64,
    /// What follows a gap that was told first.
    pending: Option<Output>,
    pause: Duration,
    contact: Instant,
    ended: bool,
}

impl Attachment<'_> {
    /// What comes next; None after [`Output::Exit`]. Dropping this future loses nothing.
    ///
    /// # Errors
    /// What the agent decided, or that it was out of reach for too long; then the next call tries again.
    pub async fn next(&mut self) -> Option<Result<Output, Error>> {
        loop {
            if let Some(pending) = self.pending.take() {
                return Some(Ok(pending));
            }
            if self.ended {
                return None;
            }
            let step = match &mut self.stream {
                None => self.open().await,
                Some(stream) => stream.message().await.map_err(|status| Error::from_status(&status)),
            };
            match step {
                Ok(Some(message)) => {
                    self.contact = Instant::now();
                    self.pause = limits::PAUSE_MIN;
                    if let Some(output) = self.take(message) {
                        return Some(Ok(output));
                    }
                }
                // Just opened, or ended without an exit: then it is opened again.
                Ok(None) => self.reopen().await,
                Err(error) => {
                    self.stream = None;
                    if !may_be_mended(&error) || self.contact.elapsed() > self.execution.give_up {
                        self.contact = Instant::now();
                        return Some(Err(error));
                    }
                    let mut pause = self.pause;
                    self.execution.again(&mut pause, &error).await;
                    self.pause = pause;
                }
            }
        }
    }

    /// Opens the stream where the last one broke; its first message is still to come.
    async fn open(&mut self) -> Result<Option<AttachExecutionResponse>, Error> {
        let request = AttachExecutionRequest {
            lease: Some(self.execution.proof()),
            stdout_offset: self.stdout,
            stderr_offset: self.stderr,
        };
        let mut agent = self.execution.agent()?;
        let opened = tokio::time::timeout(limits::OPEN, agent.attach_execution(Request::new(request))).await;
        let stream = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(Error::from_status(&status)),
            Err(_) => return Err(silent(&self.execution.reach.lock().endpoint)),
        };
        let stream = self.stream.insert(stream);
        stream.message().await.map_err(|status| Error::from_status(&status))
    }

    /// A stream that ended without an exit belongs to an agent that is stopping.
    async fn reopen(&mut self) {
        self.stream = None;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(limits::PAUSE_MAX);
    }

    fn take(&mut self, message: AttachExecutionResponse) -> Option<Output> {
        let (seen, chunk, make): (&mut u64, _, fn(Vec<u8>) -> Output) = match message.part? {
            Part::Stdout(chunk) => (&mut self.stdout, chunk, Output::Stdout),
            Part::Stderr(chunk) => (&mut self.stderr, chunk, Output::Stderr),
            Part::Exit(exit) => {
                self.ended = true;
                return Some(Output::Exit(exit));
            }
        };
        let end = chunk.offset + chunk.data.len() as u64;
        if end <= *seen {
            return None;
        }
        let (gap, known) = (chunk.offset.saturating_sub(*seen), seen.saturating_sub(chunk.offset));
        *seen = end;
        let data = chunk.data[usize::try_from(known).unwrap_or(0)..].to_vec();
        if gap > 0 {
            self.pending = Some(make(data));
            return Some(Output::Dropped(gap));
        }
        Some(make(data))
    }
}
