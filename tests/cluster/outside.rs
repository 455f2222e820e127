//! A client that nobody here wrote: `buf curl`, which learns the API from the cluster by reflection.
//!
//! `make check` and `make test` install buf; it is looked for there and on the PATH. Without it this test says so and
//! tries nothing; with `CI` set it fails.
//!
//! Never here: this project's client.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use remuda_client::Secret;
use remuda_wire::json::to_json;
use remuda_wire::v1;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::{Cluster, Shape, limits, tried, until};

/// `buf`, where this machine has it.
fn buf() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let ours = cache.map(|cache| cache.join("remuda/tools/bin/buf"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known = std::env::split_paths(&path).map(|folder| folder.join("buf"));
    ours.into_iter().chain(known).find(|path| path.is_file())
}

/// Calls `method` at some replica; the messages of the answer, or the error as buf prints it.
async fn call(cluster: &Cluster, method: &str, request: &Value) -> Result<Result<Vec<Value>, String>> {
    let program = buf().context("buf was there a moment ago")?;
    let url = format!("http://{}/{method}", cluster.endpoint(0));
    let call = Command::new(program)
        .args(["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", &request.to_string(), &url])
        .current_dir(std::env::temp_dir())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(limits::WAIT, call).await.with_context(|| format!("{method}: no end"))??;
    if !output.status.success() {
        return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let messages = serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>()?;
    Ok(Ok(messages))
}

/// The one message of a successful answer.
async fn ask(cluster: &Cluster, method: &str, request: &Value) -> Result<Value> {
    match call(cluster, method, request).await? {
        Ok(mut messages) if messages.len() == 1 => Ok(messages.remove(0)),
        Ok(messages) => bail!("{method}: {messages:?}"),
        Err(error) => bail!("{method}: {error}"),
    }
}

/// A number that canonical JSON writes as a string.
fn number(value: &Value) -> Result<u64> {
    value.as_str().with_context(|| format!("{value} is no 64-bit number"))?.parse().map_err(Into::into)
}

#[test]
fn buf_curl_leases_and_returns_a_worker_by_reflection() {
    if buf().is_none() {
        assert!(std::env::var_os("CI").is_none(), "there is no buf; `.ci/deps check` installs it");
        eprintln!("skipped: there is no buf on this machine; `make check` installs it");
        return;
    }
    tried(Shape { agents: &[1], ..Shape::default() }, async |cluster| {
        let health = ask(cluster, "grpc.health.v1.Health/Check", &json!({})).await?;
        ensure!(health["status"] == "SERVING", "{health}");

        let time = ask(cluster, "remuda.v1.ClusterService/GetTime", &json!({})).await?;
        let not_after_ms = number(&time["header"]["logTimeMs"])? + 60_000;
        let options = |id: &str| {
            Some(v1::RequestOptions { request_id: format!("curl/{id}"), not_after_ms, attempt: 1, answered_below: 0 })
        };
        let secret = Secret::random();
        let acquire = v1::AcquireWorkerRequest {
            pool: "pools/default".into(),
            job_id: "by-hand".into(),
            secret_sha256: secret.sha256(),
            request: options("1"),
            ..Default::default()
        };
        let acquire = to_json("remuda.v1.AcquireWorkerRequest", &acquire).context("a public message")?;
        let granted = ask(cluster, "remuda.v1.LeaseService/AcquireWorker", &acquire).await?;
        let worker = granted["lease"]["worker"].as_str().context("a lease")?;
        let again = ask(cluster, "remuda.v1.LeaseService/AcquireWorker", &acquire).await?;
        ensure!(again["lease"]["epoch"] == granted["lease"]["epoch"], "the retry got {again}, at first {granted}");

        let missing = json!({"name": "pools/default/workers/nobody"});
        let error = call(cluster, "remuda.v1.WorkerService/GetWorker", &missing).await?;
        let error = error.err().context("a worker that is not there was found")?;
        ensure!(error.contains("not_found") && error.contains("google.rpc.ErrorInfo"), "no details: {error}");

        let giving_back = v1::ReturnWorkerRequest {
            worker: worker.to_owned(),
            job_id: "by-hand".into(),
            epoch: number(&granted["lease"]["epoch"])?,
            secret: secret.bytes().to_vec(),
            outcome: v1::JobOutcome::Success.into(),
            request: options("2"),
        };
        let giving_back = to_json("remuda.v1.ReturnWorkerRequest", &giving_back).context("a public message")?;
        let returned = ask(cluster, "remuda.v1.LeaseService/ReturnWorker", &giving_back).await?;
        let name = &returned["returnName"];
        let wait = json!({"name": name, "wait": "20s"});
        until("the end of the return", limits::WAIT, async || {
            let ended = ask(cluster, "remuda.v1.LeaseService/GetReturn", &wait).await?;
            Ok((ended["ret"]["result"] == "RESULT_ACCEPTED").then_some(()))
        })
        .await?;

        let watch = json!({"startRevision": "1", "noFollow": true});
        let parts = call(cluster, "remuda.v1.EventService/WatchEvents", &watch).await?;
        let parts = parts.map_err(anyhow::Error::msg)?;
        let events: Vec<&Value> = parts.iter().filter_map(|part| part["events"].as_array()).flatten().collect();
        for kind in ["WORKER_LEASED", "WORKER_RETURNING"] {
            let told = events.iter().filter(|event| event["kind"] == kind && event["worker"] == worker).count();
            ensure!(told == 1, "{kind} is told {told} times");
        }
        Ok(())
    });
}
