//! Executions with real supervisors, on a whole agent against a registry made for the test.

use std::collections::HashMap;

use remuda_wire::agent::v1::execution_service_client::ExecutionServiceClient;
use remuda_wire::v1;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use super::*;
use crate::fake::{Rig, Whole};

const W1: &str = "pools/ci/workers/w-1";
const SECRET: &[u8] = b"the holder's secret";

type Client = ExecutionServiceClient<Channel>;

fn proof(epoch: u64) -> Option<LeaseProof> {
    Some(LeaseProof { worker: W1.into(), epoch, secret: SECRET.into(), granted_revision: 0 })
}

fn shell(epoch: u64, script: &str) -> ExecuteRequest {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    ExecuteRequest { lease: proof(epoch), command, env: HashMap::new(), input: false }
}

fn attach(epoch: u64, stdout_offset: u64, stderr_offset: u64) -> AttachExecutionRequest {
    AttachExecutionRequest { lease: proof(epoch), stdout_offset, stderr_offset }
}

/// The typed reason of an error of domain `remuda`.
fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "remuda");
    assert!(info.metadata.contains_key("outcome"), "{info:?}");
    info.reason
}

/// Everything that an attachment tells, to its end.
async fn told(client: &mut Client, request: AttachExecutionRequest) -> (String, String, ExitStatus) {
    let mut stream = client.attach_execution(request).await.unwrap().into_inner();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        match message.part.unwrap() {
            Part::Stdout(chunk) => stdout.extend(chunk.data),
            Part::Stderr(chunk) => stderr.extend(chunk.data),
            Part::Exit(exit) => {
                assert!(stream.message().await.unwrap().is_none(), "nothing follows the end");
                return (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), exit);
            }
        }
    }
    panic!("an attachment ends with the exit status");
}

/// An agent with one worker under a lease.
async fn leased() -> (Rig, Whole, Client, u64) {
    let rig = Rig::new(1).await;
    let agent = rig.whole(&rig.config(&["w-1"])).await;
    let epoch = rig.registry.lease(W1, SECRET);
    let client = agent.executions().await;
    (rig, agent, client, epoch)
}

#[tokio::test]
async fn a_job_runs_once_and_tells_its_output_and_its_end() {
    let (_rig, agent, mut client, epoch) = leased().await;
    let job = shell(epoch, "echo out; echo err >&2; echo $REMUDA_JOB; exit 7");
    assert!(!client.execute(job.clone()).await.unwrap().into_inner().attached);
    let (stdout, stderr, exit) = told(&mut client, attach(epoch, 0, 0)).await;
    assert_eq!((stdout.as_str(), stderr.as_str(), exit.code, exit.signal), ("out\njob-1\n", "err\n", 7, 0));
    // The same again attaches; another is refused; from an offset on only the rest is told.
    assert!(client.execute(job).await.unwrap().into_inner().attached);
    let another = client.execute(shell(epoch, "echo other")).await.unwrap_err();
    assert_eq!(reason(&another), "EXECUTION_EXISTS");
    let (stdout, stderr, _) = told(&mut client, attach(epoch, 4, 4)).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("job-1\n", ""));
    let stands = client.get_execution(GetExecutionRequest { lease: proof(epoch) }).await.unwrap().into_inner();
    assert_eq!((stands.running, stands.stdout_bytes, stands.exit.unwrap().code), (false, 10, 7));
    agent.stop().await;
}

#[tokio::test]
async fn who_does_not_hold_the_lease_is_refused_with_a_reason() {
    let (_rig, agent, mut client, epoch) = leased().await;
    client.execute(shell(epoch, "sleep 60")).await.unwrap();
    let with = |lease| ExecuteRequest { lease, ..shell(epoch, "true") };
    let wrong = LeaseProof { secret: b"guessed".into(), ..proof(epoch).unwrap() };
    let elsewhere = LeaseProof { worker: "pools/ci/workers/w-9".into(), ..proof(epoch).unwrap() };
    let cases = [
        (with(Some(wrong.clone())), Code::PermissionDenied, "WRONG_SECRET"),
        (with(proof(epoch - 1)), Code::FailedPrecondition, "STALE_LEASE"),
        (with(Some(elsewhere)), Code::NotFound, "WORKER_NOT_FOUND"),
        (with(None), Code::InvalidArgument, "INVALID_FIELD"),
        (ExecuteRequest { command: vec![], ..shell(epoch, "") }, Code::InvalidArgument, "INVALID_FIELD"),
        (ExecuteRequest { command: vec!["a\0b".into()], ..shell(epoch, "") }, Code::InvalidArgument, "INVALID_FIELD"),
    ];
    for (request, code, expected) in cases {
        let status = client.execute(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (code, expected));
    }
    // The other calls prove their caller too.
    let status = client.attach_execution(AttachExecutionRequest { lease: Some(wrong.clone()), ..attach(epoch, 0, 0) });
    assert_eq!(reason(&status.await.unwrap_err()), "WRONG_SECRET");
    let status = client.signal_execution(SignalExecutionRequest { lease: Some(wrong.clone()), signal: 9 });
    assert_eq!(reason(&status.await.unwrap_err()), "WRONG_SECRET");
    let write = WriteInputRequest { lease: Some(wrong.clone()), offset: 0, data: vec![1], end: false };
    assert_eq!(reason(&client.write_input(write).await.unwrap_err()), "WRONG_SECRET");
    let status = client.get_execution(GetExecutionRequest { lease: Some(wrong) });
    assert_eq!(reason(&status.await.unwrap_err()), "WRONG_SECRET");
    agent.orphaned.cancel();
    agent.ended().await;
}

#[tokio::test]
async fn a_grant_not_seen_yet_is_waited_for() {
    let (rig, agent, mut client, epoch) = leased().await;
    client.execute(shell(epoch, "true")).await.unwrap();
    rig.lag(true);
    let next = rig.registry.lease(W1, SECRET);
    let granted = LeaseProof { granted_revision: rig.registry.memory.lock().revision, ..proof(next).unwrap() };
    let asked = ExecuteRequest { lease: Some(granted), ..shell(next, "true") };
    let waiting = tokio::spawn(async move { client.execute(asked).await });
    // Let the call arrive while the watch lags.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "neither refused nor believed");
    rig.lag(false);
    assert!(!waiting.await.unwrap().unwrap().into_inner().attached);
    agent.stop().await;
}

#[tokio::test]
async fn an_epoch_that_the_watch_never_shows_is_read_from_the_registry() {
    let (rig, agent, mut client, epoch) = leased().await;
    client.execute(shell(epoch, "true")).await.unwrap();
    let future = LeaseProof { granted_revision: 1, ..proof(epoch + 50).unwrap() };
    let asked = ExecuteRequest { lease: Some(future), ..shell(epoch, "true") };
    // The registry knows of no such lease: the caller is wrong.
    assert_eq!(reason(&client.execute(asked.clone()).await.unwrap_err()), "STALE_LEASE");
    // It knows of it: this agent is behind, and says so.
    let lease = v1::Lease { worker: W1.into(), epoch: epoch + 50, ..Default::default() };
    rig.registry.change(|memory| memory.leases.insert(W1.into(), lease));
    let status = client.execute(asked).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "GRANT_NOT_SEEN"));
    agent.stop().await;
}

#[tokio::test]
async fn input_is_taken_once_whatever_is_repeated() {
    let (_rig, agent, mut client, epoch) = leased().await;
    client.execute(ExecuteRequest { input: true, ..shell(epoch, "cat") }).await.unwrap();
    let write = |offset, data: &[u8], end| WriteInputRequest { lease: proof(epoch), offset, data: data.into(), end };
    assert_eq!(client.write_input(write(0, b"abc", false)).await.unwrap().into_inner().accepted, 3);
    assert_eq!(client.write_input(write(0, b"abc", false)).await.unwrap().into_inner().accepted, 3);
    assert_eq!(client.write_input(write(2, b"cde", true)).await.unwrap().into_inner().accepted, 5);
    let (stdout, _, exit) = told(&mut client, attach(epoch, 0, 0)).await;
    assert_eq!((stdout.as_str(), exit.code), ("abcde", 0));
    agent.stop().await;
}

#[tokio::test]
async fn a_signal_reaches_the_job_and_a_bad_one_is_refused() {
    let (_rig, agent, mut client, epoch) = leased().await;
    let absent = client.signal_execution(SignalExecutionRequest { lease: proof(epoch), signal: 15 }).await.unwrap_err();
    assert_eq!(reason(&absent), "EXECUTION_NOT_FOUND");
    client.execute(shell(epoch, "echo up; exec sleep 60")).await.unwrap();
    let mut stream = client.attach_execution(attach(epoch, 0, 0)).await.unwrap().into_inner();
    assert!(matches!(stream.message().await.unwrap().unwrap().part, Some(Part::Stdout(_))));
    let bad = client.signal_execution(SignalExecutionRequest { lease: proof(epoch), signal: 999 }).await.unwrap_err();
    assert_eq!(reason(&bad), "INVALID_FIELD");
    client.signal_execution(SignalExecutionRequest { lease: proof(epoch), signal: 15 }).await.unwrap();
    let Some(Part::Exit(exit)) = stream.message().await.unwrap().unwrap().part else { panic!("the end") };
    assert_eq!(exit.signal, 15);
    agent.stop().await;
}

#[tokio::test]
async fn what_cannot_be_started_is_an_end_and_not_an_error() {
    let (_rig, agent, mut client, epoch) = leased().await;
    let command = vec!["/no/such/program".to_owned()];
    client.execute(ExecuteRequest { command, ..shell(epoch, "") }).await.unwrap();
    let (_, _, exit) = told(&mut client, attach(epoch, 0, 0)).await;
    assert_eq!(exit.code, 127);
    assert!(exit.failure.starts_with("NOT_FOUND"), "{exit:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_job_outlives_the_agent_and_the_next_one_serves_it() {
    let (rig, agent, mut client, epoch) = leased().await;
    let gate = rig.home.path().join("gate");
    let wait = format!("for i in $(seq 1000); do [ -e {} ] && break; sleep 0.01; done", gate.display());
    let script = format!("echo one; {wait}; echo two; exit 3");
    client.execute(shell(epoch, &script)).await.unwrap();
    let mut stream = client.attach_execution(attach(epoch, 0, 0)).await.unwrap().into_inner();
    assert!(matches!(stream.message().await.unwrap().unwrap().part, Some(Part::Stdout(_))));
    agent.stop().await;
    let ended = stream.message().await;
    assert!(ended.is_err(), "the attachment ends without an exit status: {ended:?}");

    let agent = rig.whole(&rig.config(&["w-1"])).await;
    {
        let memory = rig.registry.memory.lock();
        let told = &memory.opens.last().unwrap().workers[0];
        assert_eq!((told.epoch, told.job()), (epoch, v1::session_worker::Job::Alive));
        assert_eq!(told.labels["os"], "linux");
    }
    let mut client = agent.executions().await;
    assert!(client.execute(shell(epoch, &script)).await.unwrap().into_inner().attached);
    std::fs::write(&gate, "").unwrap();
    let (stdout, _, exit) = told(&mut client, attach(epoch, 4, 0)).await;
    assert_eq!((stdout.as_str(), exit.code), ("two\n", 3));
    agent.stop().await;
}

#[tokio::test]
async fn a_job_whose_folder_is_gone_is_told_as_lost_and_not_started_again() {
    let (rig, agent, mut client, epoch) = leased().await;
    client.execute(shell(epoch, "true")).await.unwrap();
    told(&mut client, attach(epoch, 0, 0)).await;
    agent.stop().await;
    let leases = rig.home.path().join("state/workers");
    std::fs::remove_dir_all(leases).unwrap();

    let agent = rig.whole(&rig.config(&["w-1"])).await;
    let job = rig.registry.memory.lock().opens.last().unwrap().workers[0].job();
    assert_eq!(job, v1::session_worker::Job::Lost);
    let mut client = agent.executions().await;
    // Before the registry has marked it, and after.
    assert_eq!(reason(&client.execute(shell(epoch, "true")).await.unwrap_err()), "INTERRUPTED");
    rig.registry.change(|memory| {
        memory.assignments.get_mut(W1).unwrap().lease.as_mut().unwrap().interrupted = true;
    });
    let marked = rig.registry.memory.lock().revision;
    rig.registry.until("the mark", |memory| memory.heartbeats.last().is_some_and(|b| b.watch_revision >= marked)).await;
    assert_eq!(reason(&client.execute(shell(epoch, "true")).await.unwrap_err()), "INTERRUPTED");
    agent.stop().await;
}

#[tokio::test]
async fn a_return_stops_the_job_cleans_and_fences_its_holder() {
    let (rig, agent, mut client, epoch) = leased().await;
    let script = "touch $TMPDIR/x left; setsid sleep 60 & trap '' TERM; sleep 60";
    client.execute(shell(epoch, script)).await.unwrap();
    let run = rig.registry.assign(W1);
    rig.registry.until("a clean report", |memory| memory.accepted.contains(&run)).await;
    let receipt = rig.registry.memory.lock().reports.last().unwrap().receipt.clone().unwrap();
    assert!(receipt.steps.iter().all(|step| step.observed), "{receipt:#?}");
    let status = client.execute(shell(epoch, script)).await.unwrap_err();
    assert_eq!(reason(&status), "STALE_LEASE");
    let write = WriteInputRequest { lease: proof(epoch), offset: 0, data: vec![1], end: false };
    assert_eq!(reason(&client.write_input(write).await.unwrap_err()), "STALE_LEASE");
    agent.orphaned.cancel();
    agent.ended().await;
}

#[test]
fn every_reason_given_here_is_one_that_explain_knows() {
    for reason in [
        "WRONG_SECRET",
        "STALE_LEASE",
        "WORKER_NOT_FOUND",
        "INVALID_FIELD",
        "EXECUTION_EXISTS",
        "EXECUTION_NOT_FOUND",
        "GRANT_NOT_SEEN",
        "INTERRUPTED",
        "SHUTTING_DOWN",
        "INTERNAL",
    ] {
        assert!(remuda_wire::reasons::find(reason).is_some(), "{reason}");
    }
}
