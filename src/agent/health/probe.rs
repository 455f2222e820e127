//! Probes: tcp, http, exec and grpc, with the fields that Kubernetes has.
//!
//! Tries follow each other until enough in a row succeeded or failed. Between tries within a return there are at most
//! 100 ms: a worker that waits ten seconds to be believed is idle for ten seconds.
//!
//! Invariants
//! * Every try ends by its timeout; what an exec probe had started is killed by then.
//! * A probe that neither passes nor fails for long has failed.
//!
//! Never here: what a failed probe means for the worker.

use std::time::Duration;
use std::time::Instant;

use remuda_wire::v1::ExecProbe;
use remuda_wire::v1::GrpcProbe;
use remuda_wire::v1::HttpProbe;
use remuda_wire::v1::Probe;
use remuda_wire::v1::ProbeResult;
use remuda_wire::v1::TcpProbe;
use remuda_wire::v1::probe::Action;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::clean::Target;
use crate::clean::command;
use crate::clean::cut;
use crate::clean::duration_or;
use crate::clean::to_wire;

mod limits {
    use std::time::Duration;

    /// Kubernetes' defaults.
    pub(super) const PERIOD: Duration = Duration::from_secs(10);
    pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
    pub(super) const SUCCESSES: u32 = 1;
    pub(super) const FAILURES: u32 = 3;
    /// The longest time between tries within a return.
    pub(super) const BETWEEN: Duration = Duration::from_millis(100);
    /// Tries of a probe that flaps.
    pub(super) const TRIES: u32 = 60;
    /// Bytes of the detail in the receipt.
    pub(super) const DETAIL: usize = 256;
    /// Bytes of an answer to read for its status line.
    pub(super) const STATUS_LINE: usize = 256;
}

/// Runs a probe of the target's plan. Returns soon when cancelled, with a failure that says so.
pub async fn probe(probe: &Probe, target: &Target, cancel: &CancellationToken) -> ProbeResult {
    let begun = Instant::now();
    let (passed, detail) = tries(probe, target, cancel).await;
    let detail = cut(&detail, limits::DETAIL).to_owned();
    ProbeResult { name: probe.name.clone(), passed, took: Some(to_wire(begun.elapsed())), detail }
}

async fn tries(probe: &Probe, target: &Target, cancel: &CancellationToken) -> (bool, String) {
    let or = |count: u32, default| if count == 0 { default } else { count };
    let wanted = or(probe.success_threshold, limits::SUCCESSES);
    let allowed = or(probe.failure_threshold, limits::FAILURES);
    let timeout = duration_or(probe.timeout.as_ref(), limits::TIMEOUT);
    let between = duration_or(probe.period.as_ref(), limits::PERIOD).min(limits::BETWEEN);
    let mut wait = duration_or(probe.initial_delay.as_ref(), Duration::ZERO);
    let (mut successes, mut failures, mut last) = (0, 0, String::new());
    for _ in 0..limits::TRIES {
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = between,
            () = cancel.cancelled() => return (false, "cancelled".to_owned()),
        }
        match attempt(probe, target, timeout, cancel).await {
            Ok(words) => {
                (successes, failures, last) = (successes + 1, 0, words);
                if successes >= wanted {
                    return (true, last);
                }
            }
            Err(words) => {
                (successes, failures, last) = (0, failures + 1, words);
                if failures >= allowed {
                    return (false, last);
                }
            }
        }
    }
    (false, format!("neither passed nor failed in {} tries; last: {last}", limits::TRIES))
}

/// One try: what was seen, as a success or a failure.
async fn attempt(
    probe: &Probe,
    target: &Target,
    timeout: Duration,
    cancel: &CancellationToken,
) -> Result<String, String> {
    let hung = || format!("{} probe hung: no answer within {timeout:?}", kind(probe));
    let tried = async {
        match &probe.action {
            Some(Action::Exec(exec)) => return exec_try(exec, target, timeout, cancel).await,
            Some(Action::Tcp(tcp)) => tcp_try(tcp).await,
            Some(Action::Http(http)) => http_try(http).await,
            Some(Action::Grpc(grpc)) => grpc_try(grpc).await,
            None => Err("a probe of a kind that this agent does not know".to_owned()),
        }
    };
    if matches!(&probe.action, Some(Action::Exec(_))) {
        // Keeps its own time, since what it started must be killed and waited for.
        return tried.await;
    }
    tokio::select! {
        result = tried => result,
        () = tokio::time::sleep(timeout) => Err(hung()),
        () = cancel.cancelled() => Err("cancelled".to_owned()),
    }
}

fn kind(probe: &Probe) -> &'static str {
    match &probe.action {
        Some(Action::Tcp(_)) => "tcp",
        Some(Action::Http(_)) => "http",
        Some(Action::Exec(_)) => "exec",
        Some(Action::Grpc(_)) => "grpc",
        None => "unknown",
    }
}

async fn connect(host: &str, port: u32) -> Result<TcpStream, String> {
    let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
    let host = host_or_local(host);
    TcpStream::connect((host, port)).await.map_err(|error| format!("connect {host}:{port}: {error}"))
}

fn host_or_local(host: &str) -> &str {
    if host.is_empty() { "127.0.0.1" } else { host }
}

/// The host as part of a URL.
fn authority(host: &str, port: u32) -> String {
    let host = host_or_local(host);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn tcp_try(tcp: &TcpProbe) -> Result<String, String> {
    connect(&tcp.host, tcp.port).await.map(|_| "connected".to_owned())
}

async fn http_try(http: &HttpProbe) -> Result<String, String> {
    let path = if http.path.is_empty() { "/" } else { &http.path };
    if path.chars().any(|c| c.is_ascii_control() || c == ' ') || !path.starts_with('/') {
        return Err(format!("{path:?} is no path"));
    }
    let mut stream = connect(&http.host, http.port).await?;
    let host = authority(&http.host, http.port);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: remuda\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < limits::STATUS_LINE {
        match stream.read_buf(&mut answer).await.map_err(|error| error.to_string())? {
            0 => break,
            _ => continue,
        }
    }
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).trim().to_owned();
    let status =
        line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).and_then(|code| code.parse().ok());
    match status {
        Some(200..=399_u16) => Ok(line),
        Some(_) => Err(line),
        None => Err(format!("no HTTP answer: {line:?}")),
    }
}

async fn grpc_try(grpc: &GrpcProbe) -> Result<String, String> {
    let endpoint = format!("http://{}", authority(&grpc.host, grpc.port));
    let endpoint = tonic::transport::Endpoint::from_shared(endpoint).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| format!("connect: {error}"))?;
    let request = HealthCheckRequest { service: grpc.service.clone() };
    let answer = HealthClient::new(channel).check(request).await;
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => Ok("SERVING".to_owned()),
        Ok(other) => Err(other.as_str_name().to_owned()),
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}

async fn exec_try(
    exec: &ExecProbe,
    target: &Target,
    timeout: Duration,
    cancel: &CancellationToken,
) -> Result<String, String> {
    let env = [("REMUDA_WORKER".to_owned(), target.roots.worker().to_owned())];
    let ran = command::run(&exec.command, &env, target, timeout, cancel).await.map_err(|error| error.to_string())?;
    let output = ran.output;
    match ran.status {
        Some(status) if status.success() => Ok(output),
        Some(status) => Err(format!("{status}: {output}")),
        None if cancel.is_cancelled() => Err("cancelled".to_owned()),
        None => Err(format!("exec probe hung: {} killed after {timeout:?} {output}", exec.command.join(" "))),
    }
}
