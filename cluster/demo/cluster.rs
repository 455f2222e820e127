//! The cluster under demonstration: `remuda dev` as a child, and the `remuda` command to ask it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;

/// Time for three replicas to elect and four workers to be cleaned for the first time, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// `remuda dev` stops its agents and then its replicas, each within 15 s.
const STOPPED_WITHIN: Duration = Duration::from_secs(45);

/// One child of `remuda dev`, as `dev.json` names it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DevChild {
    /// `replica` or `agent`.
    pub(crate) role: String,
    /// Its id among its kind.
    pub(crate) id: String,
    /// Its process.
    pub(crate) pid: u32,
}

#[derive(Deserialize)]
struct DevFile {
    children: Vec<DevChild>,
}

/// A running `remuda dev`.
pub(crate) struct Cluster {
    remuda: PathBuf,
    dev: Child,
    data: PathBuf,
    /// Client endpoints of the replicas, comma-separated.
    pub(crate) endpoints: String,
    /// How long it took from start to `ready`.
    pub(crate) ready_after: Duration,
}

impl Cluster {
    /// Starts the cluster with its data in `data` and waits for `ready`.
    pub(crate) fn start(data: &Path, workers: u32) -> Result<Self> {
        let remuda = beside_me("remuda")?;
        let began = Instant::now();
        let mut dev = Command::new(&remuda)
            .args(["dev", "--replicas", "3", "--base-port", "0", "--workers", &workers.to_string(), "--data-dir"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(data.with_extension("stderr"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", remuda.display()))?;
        let stdout = dev.stdout.take().context("stdout was piped")?;
        let (lines_in, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines_in.send(line).is_err() {
                    break;
                }
            }
        });
        let mut cluster =
            Self { remuda, dev, data: data.to_owned(), endpoints: String::new(), ready_after: began.elapsed() };
        let mut endpoints = Vec::new();
        loop {
            let left = READY_WITHIN.saturating_sub(began.elapsed());
            match lines.recv_timeout(left) {
                Ok(line) if line == "ready" => break,
                Ok(line) => endpoints.push(line),
                Err(_) => bail!("remuda dev was not ready within {READY_WITHIN:?}:\n{}", cluster.last_words()),
            }
        }
        cluster.endpoints = endpoints.join(",");
        cluster.ready_after = began.elapsed();
        Ok(cluster)
    }

    /// The end of what `remuda dev` wrote to stderr, for error messages.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.data.with_extension("stderr")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The `remuda` command with the cluster's endpoints.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.remuda);
        command.args(args).env("REMUDA_ENDPOINTS", &self.endpoints).stdin(Stdio::null());
        command
    }

    /// Runs `remuda` and fails unless it exits with 0.
    pub(crate) fn run(&self, args: &[&str]) -> Result<Output> {
        let out = self.command(args).output()?;
        if !out.status.success() {
            bail!("remuda {}: {}\n{}", args.join(" "), out.status, String::from_utf8_lossy(&out.stderr));
        }
        Ok(out)
    }

    /// Runs `remuda` with `-o json` and parses what it prints.
    pub(crate) fn ask(&self, args: &[&str]) -> Result<Value> {
        let out = self.run(&[args, &["-o", "json"]].concat())?;
        serde_json::from_slice(&out.stdout).with_context(|| format!("remuda {} printed no JSON", args.join(" ")))
    }

    /// Runs `remuda` with `-o jsonl` and parses each line.
    pub(crate) fn ask_lines(&self, args: &[&str]) -> Result<Vec<Value>> {
        let out = self.run(&[args, &["-o", "jsonl"]].concat())?;
        let text = String::from_utf8(out.stdout)?;
        text.lines().map(|l| serde_json::from_str(l).with_context(|| format!("not JSON: {l}"))).collect()
    }

    /// The children, as `dev.json` has them now.
    pub(crate) fn children(&self) -> Result<Vec<DevChild>> {
        let file: DevFile = serde_json::from_reader(File::open(self.data.join("dev.json"))?)?;
        Ok(file.children)
    }

    /// The child that is replica `id`.
    pub(crate) fn replica(&self, id: &str) -> Result<DevChild> {
        let children = self.children()?;
        children.into_iter().find(|c| c.role == "replica" && c.id == id).ok_or_else(|| anyhow!("no replica {id}"))
    }

    /// The leader's replica id, as the cluster says, within `limit`.
    pub(crate) fn leader(&self, limit: Duration) -> Result<String> {
        wait_for("a leader", limit, || {
            let status = self.ask(&["cluster", "status"])?;
            let id = status["leaderId"].as_str().unwrap_or("0").to_owned();
            Ok((id != "0").then_some(id))
        })
    }

    /// Ends the cluster with SIGTERM and waits for it.
    pub(crate) fn stop(mut self) -> Result<Duration> {
        let began = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.dev);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        while began.elapsed() < STOPPED_WITHIN {
            if let Some(status) = self.dev.try_wait()? {
                if !status.success() {
                    bail!("remuda dev ended with {status}:\n{}", self.last_words());
                }
                return Ok(began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("remuda dev did not stop within {STOPPED_WITHIN:?}")
    }
}

impl Drop for Cluster {
    /// A demonstration that fails leaves no cluster behind; the children end when their parent does.
    fn drop(&mut self) {
        if matches!(self.dev.try_wait(), Ok(None)) {
            let _ = self.dev.kill();
            let _ = self.dev.wait();
        }
    }
}

/// The executable of that name in this program's folder.
pub(crate) fn beside_me(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let path = me.parent().context("an executable has a folder")?.join(name);
    if !path.exists() {
        bail!("{} is missing; build it with `cargo build --workspace --bins`", path.display());
    }
    Ok(path)
}

/// Asks again and again until there is an answer, at most for `limit`. An error counts as no answer yet, and is what
/// is told if none comes.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    let mut last = None;
    while began.elapsed() < limit {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => last = None,
            Err(e) => last = Some(e),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let why = last.map(|e| format!(": {e:#}")).unwrap_or_default();
    bail!("waited {limit:?} for {what}{why}")
}
