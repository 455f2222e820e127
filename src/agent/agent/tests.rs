//! The whole agent: how it starts, what it serves, and how it ends.

use std::time::Duration;

use remuda_wire::agent::v1::{ExecuteRequest, GetExecutionRequest, LeaseProof};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::fake::{Rig, Whole, eventually};

const W1: &str = "pools/ci/workers/w-1";

/// Starts a job that ignores nothing and ends by itself only after a minute; returns its pid.
async fn job(rig: &Rig, agent: &Whole) -> u32 {
    let epoch = rig.registry.lease(W1, b"s");
    let pid = rig.home.path().join("pid");
    let command = vec!["sh".into(), "-c".into(), format!("echo $$ > {}; exec sleep 60", pid.display())];
    let lease = LeaseProof { worker: W1.into(), epoch, secret: b"s".into(), granted_revision: 0 };
    let request = ExecuteRequest { lease: Some(lease), command, ..Default::default() };
    agent.executions().await.execute(request).await.unwrap();
    let read = || std::fs::read_to_string(&pid).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
    eventually("the pid", || read().is_some()).await;
    read().unwrap()
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test]
async fn a_second_agent_on_the_same_folder_is_refused() {
    let rig = Rig::new(1).await;
    let config = rig.config(&["w-1"]);
    let first = rig.whole(&config).await;
    let refused = run(config, CancellationToken::new()).await.unwrap_err();
    assert!(refused.to_string().contains("in use by another agent process"), "{refused}");
    assert_eq!(rig.registry.memory.lock().opens.len(), 1, "it did not come as far as opening a session");
    first.stop().await;
}

#[tokio::test]
async fn a_stop_leaves_jobs_running_and_drain_ends_them() {
    let rig = Rig::new(1).await;
    let agent = rig.whole(&rig.config(&["w-1"])).await;
    let pid = job(&rig, &agent).await;
    agent.stop().await;
    assert!(lives(pid), "an agent that is replaced leaves the job alone");
    let drained = rig.whole(&AgentConfig { drain: true, ..rig.config(&["w-1"]) }).await;
    drained.stop().await;
    assert!(!lives(pid), "also a job that an earlier process started");
}

#[tokio::test]
async fn an_orphaned_agent_ends_its_jobs_and_stops() {
    let rig = Rig::new(1).await;
    let agent = rig.whole(&rig.config(&["w-1"])).await;
    let pid = job(&rig, &agent).await;
    let mut client = agent.executions().await;
    agent.orphaned.cancel();
    agent.ended().await;
    assert!(!lives(pid));
    let gone = client.get_execution(GetExecutionRequest::default()).await;
    assert!(gone.is_err(), "nothing is served any more");
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let rig = Rig::new(1).await;
    let agent = rig.whole(&rig.config(&["w-1"])).await;
    let address = agent.endpoint.strip_prefix("http://").unwrap().to_owned();
    let _idle = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), agent.stop()).await.expect("in time");
}

#[tokio::test]
async fn health_is_served_and_follows_the_session() {
    let rig = Rig::new(1).await;
    let agent = rig.whole(&rig.config(&["w-1"])).await;
    let endpoint = tonic::transport::Endpoint::from_shared(agent.endpoint.clone()).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    let mut stream = health
        .watch(HealthCheckRequest { service: "remuda.agent.v1.ExecutionService".into() })
        .await
        .unwrap()
        .into_inner();
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while stream.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    });
    waited.await.expect("SERVING once a session is live");
    agent.stop().await;
}

#[tokio::test]
async fn metrics_are_served_and_count_runs_and_heartbeats() {
    let rig = Rig::new(1).await;
    let metrics = Metrics::new();
    let stop = CancellationToken::new();
    let bound = metrics::serve(([127, 0, 0, 1], 0).into(), Arc::clone(&metrics), || false, stop.clone()).await.unwrap();
    metrics.heartbeat_answered();
    metrics.run_began();
    let step = v1::Step { name: "stop".into(), kind: v1::step::Kind::Stop.into(), ..Default::default() };
    let probe = v1::Probe {
        name: "port".into(),
        action: Some(v1::probe::Action::Tcp(Default::default())),
        ..Default::default()
    };
    let plan = v1::CleaningPlan { steps: vec![step], probes: vec![probe], ..Default::default() };
    let result =
        v1::StepResult { observed: true, outcome: v1::step_result::Outcome::Done.into(), ..Default::default() };
    let failed = v1::ProbeResult { name: "port".into(), ..Default::default() };
    let receipt = v1::CleaningReceipt { steps: vec![result], probes: vec![failed], ..Default::default() };
    metrics.run_ended(&plan, Some(&receipt));
    let text = get(bound, "/metrics").await;
    for line in [
        "remuda_agent_runs_total{result=\"observed\"} 1",
        "remuda_agent_step_seconds_count{step=\"stop\",outcome=\"done\"} 1",
        "remuda_agent_probe_failures_total{type=\"tcp\"} 1",
        "remuda_agent_runs_at_work 0",
        "remuda_agent_heartbeat_age_seconds ",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(get(bound, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get(bound, "/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(get(bound, "/other").await.starts_with("HTTP/1.1 404"));
    stop.cancel();
    drop(rig);
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[test]
fn a_worker_stays_in_its_pool_until_it_is_retired_there() {
    let home = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(home.path()).unwrap();
    let worker = |pool: &str| WorkerConfig {
        pool: pool.into(),
        name: "w-1".into(),
        labels: Default::default(),
        annotations: Default::default(),
    };
    let first = record(&folder, &worker("ci")).unwrap();
    assert_eq!((first.pool.as_str(), &first.facts), ("ci", &Facts::default()));
    folder.save_worker("w-1", &WorkerRecord::new("ci", Facts { seen: 9, ..Facts::default() })).unwrap();
    let moved = record(&folder, &worker("build")).unwrap();
    assert_eq!((moved.pool.as_str(), moved.facts.seen), ("ci", 9));
    let retired = Facts { seen: 9, retired: Some("OPERATOR".into()), ..Facts::default() };
    folder.save_worker("w-1", &WorkerRecord::new("ci", retired)).unwrap();
    assert!(record(&folder, &worker("ci")).unwrap().facts.retired.is_some(), "there it may not come back");
    let moved = record(&folder, &worker("build")).unwrap();
    assert_eq!((moved.pool.as_str(), &moved.facts), ("build", &Facts::default()));
}
