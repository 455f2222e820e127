//! An execution is attached to again where its output broke off, and is given every byte of input once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use remuda_client::execution::Output;
use remuda_client::wire::agent::v1::attach_execution_response::Part;
use remuda_client::wire::agent::v1::execution_service_server::{ExecutionService, ExecutionServiceServer};
use remuda_client::wire::agent::v1::*;
use remuda_client::{Client, LeaseKey, Secret};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

type Parts = Vec<Result<AttachExecutionResponse, Status>>;

/// What the agent was asked, and what it answers.
#[derive(Default)]
struct Agent {
    attaches: Vec<AttachExecutionRequest>,
    answers: Vec<Parts>,
    input: Vec<u8>,
    /// How much of each write is taken.
    takes: usize,
    started: u32,
    /// Starts that fail before one succeeds.
    start_failures: Vec<Status>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Agent>>);

#[tonic::async_trait]
impl ExecutionService for Fake {
    type AttachExecutionStream = Pin<Box<dyn Stream<Item = Result<AttachExecutionResponse, Status>> + Send>>;

    async fn execute(&self, _: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        let mut agent = self.0.lock().unwrap();
        agent.started += 1;
        match agent.start_failures.pop() {
            Some(failure) => Err(failure),
            None => Ok(Response::new(ExecuteResponse { attached: agent.started > 1 })),
        }
    }

    async fn attach_execution(
        &self,
        request: Request<AttachExecutionRequest>,
    ) -> Result<Response<Self::AttachExecutionStream>, Status> {
        let mut agent = self.0.lock().unwrap();
        agent.attaches.push(request.into_inner());
        if agent.answers.is_empty() {
            return Err(Status::internal("no more answers are scripted"));
        }
        let parts = agent.answers.remove(0);
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn write_input(&self, request: Request<WriteInputRequest>) -> Result<Response<WriteInputResponse>, Status> {
        let (request, mut agent) = (request.into_inner(), self.0.lock().unwrap());
        let known = agent.input.len() - usize::try_from(request.offset).unwrap();
        let takes = agent.takes;
        agent.input.extend(request.data.iter().skip(known).take(takes));
        Ok(Response::new(WriteInputResponse { accepted: agent.input.len() as u64 }))
    }

    async fn signal_execution(
        &self,
        _: Request<SignalExecutionRequest>,
    ) -> Result<Response<SignalExecutionResponse>, Status> {
        Ok(Response::new(SignalExecutionResponse {}))
    }

    async fn get_execution(&self, _: Request<GetExecutionRequest>) -> Result<Response<GetExecutionResponse>, Status> {
        Err(Status::unimplemented("no test asks for this"))
    }
}

async fn serve(fake: Fake) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(ExecutionServiceServer::new(fake));
    // Ends with the test's runtime.
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// A client of a cluster that is not there, and the key of a lease on the agent.
fn holder(agent: SocketAddr) -> (Client, LeaseKey) {
    let key = LeaseKey {
        worker: "pools/ci/workers/w-1".parse().unwrap(),
        job: "j".parse().unwrap(),
        epoch: 7,
        secret: Secret::random(),
        granted_revision: 1,
        execution_endpoint: agent.to_string(),
    };
    (Client::new(["127.0.0.1:1"]).unwrap(), key)
}

fn out(offset: u64, data: &str) -> Result<AttachExecutionResponse, Status> {
    let chunk = OutputChunk { offset, data: data.as_bytes().to_vec() };
    Ok(AttachExecutionResponse { part: Some(Part::Stdout(chunk)) })
}

fn err(offset: u64, data: &str) -> Result<AttachExecutionResponse, Status> {
    let chunk = OutputChunk { offset, data: data.as_bytes().to_vec() };
    Ok(AttachExecutionResponse { part: Some(Part::Stderr(chunk)) })
}

fn exit(code: i32) -> Result<AttachExecutionResponse, Status> {
    Ok(AttachExecutionResponse { part: Some(Part::Exit(ExitStatus { code, ..Default::default() })) })
}

async fn everything(answers: Vec<Parts>) -> (Vec<Output>, Vec<(u64, u64)>) {
    let fake = Fake::default();
    fake.0.lock().unwrap().answers = answers;
    let (client, key) = holder(serve(fake.clone()).await);
    let execution = client.execution(&key).unwrap();
    let mut attachment = execution.attach();
    let mut seen = Vec::new();
    let all = async {
        while let Some(output) = attachment.next().await {
            seen.push(output.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("the job ends");
    let attaches = fake.0.lock().unwrap().attaches.iter().map(|a| (a.stdout_offset, a.stderr_offset)).collect();
    (seen, attaches)
}

#[tokio::test]
async fn a_broken_attachment_goes_on_at_its_offsets() {
    let (seen, attaches) = everything(vec![
        vec![out(0, "abc"), err(0, "x"), Err(Status::unavailable("the agent is stopping"))],
        // Also one that begins too early loses and repeats nothing.
        vec![out(1, "bcd"), exit(3)],
    ])
    .await;
    let text = |t: &str| t.as_bytes().to_vec();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[..3], [Output::Stdout(text("abc")), Output::Stderr(text("x")), Output::Stdout(text("d"))]);
    assert!(matches!(&seen[3], Output::Exit(exit) if exit.code == 3));
    assert_eq!(attaches, [(0, 0), (3, 1)]);
}

#[tokio::test]
async fn what_the_agent_dropped_is_told_before_what_follows() {
    let (seen, _) = everything(vec![vec![out(10, "late"), exit(0)]]).await;
    assert_eq!(seen[..2], [Output::Dropped(10), Output::Stdout(b"late".to_vec())]);
}

#[tokio::test]
async fn an_attachment_that_ends_without_a_status_is_opened_again() {
    let (seen, attaches) = everything(vec![vec![out(0, "a")], vec![exit(0)]]).await;
    assert_eq!((seen.len(), attaches), (2, vec![(0, 0), (1, 0)]));
}

#[tokio::test]
async fn input_arrives_once_however_little_is_taken_at_a_time() {
    let fake = Fake::default();
    fake.0.lock().unwrap().takes = 5;
    let (client, key) = holder(serve(fake.clone()).await);
    let execution = client.execution(&key).unwrap();
    assert_eq!(execution.write(0, b"hello, world", false).await.unwrap(), 12);
    assert_eq!(execution.write(12, b"", true).await.unwrap(), 12);
    assert_eq!(fake.0.lock().unwrap().input, b"hello, world");
}

#[tokio::test]
async fn a_start_is_tried_again_until_the_agent_has_seen_the_grant_and_a_refusal_is_final() {
    let refusal = |code, reason: &str| {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, "remuda", HashMap::new());
        Status::with_error_details(code, reason, details)
    };
    let fake = Fake::default();
    fake.0.lock().unwrap().start_failures = vec![refusal(Code::Unavailable, "GRANT_NOT_SEEN")];
    let (client, key) = holder(serve(fake.clone()).await);
    let execution = client.execution(&key).unwrap();
    let start = || execution.start(vec!["true".to_owned()], HashMap::new(), false);
    start().await.unwrap();
    assert_eq!(fake.0.lock().unwrap().started, 2);
    fake.0.lock().unwrap().start_failures = vec![refusal(Code::FailedPrecondition, "STALE_LEASE")];
    assert!(start().await.unwrap_err().is("STALE_LEASE"));
    assert_eq!(fake.0.lock().unwrap().started, 3);
}
