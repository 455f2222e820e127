//! One process of a cluster: its configuration, its log, its failpoints, and the signals it is sent.
//!
//! Its standard input is a pipe that only this test process holds, so that it ends when the test process dies.
//! Failpoints are given per start; they act once the gate is open, and what acted is read from the marks.
//!
//! Invariants
//! * A process that was started is waited for, also when the test fails.
//!
//! Never here: what the process is for.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::program;

/// Between two looks at a process or a file.
pub(crate) const LOOK: Duration = Duration::from_millis(5);
/// Lines of a log that are told after a failure.
const TAIL: usize = 60;

/// A process, running or not.
#[derive(Debug)]
pub(crate) struct Process {
    /// `replica-1`, `agent-1`.
    pub(crate) name: String,
    folder: PathBuf,
    arguments: Vec<String>,
    running: Option<(Child, ChildStdin)>,
}

impl Process {
    /// A process that will run `remuda-chaos {word} --config {file}`, with log, gate and marks in `folder`.
    pub(crate) fn new(name: String, folder: &Path, word: &str, config: &Path) -> Self {
        let arguments = [word, "--config", &config.display().to_string(), "--exit-with-parent"].map(str::to_owned);
        Self { name, folder: folder.to_owned(), arguments: arguments.to_vec(), running: None }
    }

    /// Starts it, with orders for failpoints or none. The gate is closed.
    pub(crate) fn start(&mut self, failpoints: &str) -> Result<()> {
        ensure!(self.running.is_none(), "{} runs already", self.name);
        self.close_gate();
        let log = OpenOptions::new().create(true).append(true).open(self.file("log"))?;
        let mut child = Command::new(program::path())
            .args(&self.arguments)
            .env("REMUDA_FAILPOINTS", failpoints)
            .env("REMUDA_FAILPOINT_MARKS", self.file("marks"))
            .env("REMUDA_FAILPOINT_GATE", self.file("gate"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program::path().display()))?;
        let stdin = child.stdin.take().context("stdin was piped")?;
        self.running = Some((child, stdin));
        Ok(())
    }

    /// Runs the same command beside this one to its end; its status and what it wrote.
    pub(crate) async fn run_double(&self, limit: Duration) -> Result<(ExitStatus, String)> {
        let mut command = Command::new(program::path());
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let ended = wait(&mut child, limit).await;
        if ended.is_err() {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        drop(stdin);
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        ended.with_context(|| format!("a second {}: {text}", self.name))?;
        Ok((output.status, text))
    }

    /// From now on failpoints act.
    pub(crate) fn open_gate(&self) -> Result<()> {
        Ok(std::fs::write(self.file("gate"), "")?)
    }

    fn close_gate(&self) {
        let _ = std::fs::remove_file(self.file("gate"));
    }

    /// What acted, in all lives of the process: `name action`.
    pub(crate) fn marks(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file("marks")).unwrap_or_default();
        text.lines().map(|line| line.rsplit_once(' ').map_or(line, |(what, _pid)| what).to_owned()).collect()
    }

    /// Waits until so many failpoints have acted.
    pub(crate) async fn marked(&self, count: usize, limit: Duration) -> Result<()> {
        let began = Instant::now();
        while self.marks().len() < count {
            ensure!(began.elapsed() < limit, "{}: {:?} instead of {count} marks", self.name, self.marks());
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until a failpoint's `abort` has ended it.
    pub(crate) async fn aborted(&mut self, limit: Duration) -> Result<()> {
        let status = self.ended(limit).await?;
        ensure!(status.signal() == Some(Signal::ABORT.as_raw()), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let (child, _) = self.running.as_mut().with_context(|| format!("{} does not run", self.name))?;
        let status = wait(child, limit).await.with_context(|| format!("waiting for the end of {}", self.name))?;
        self.running = None;
        Ok(status)
    }

    /// Kill -9, and waits.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some((mut child, _stdin)) = self.running.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let (child, _) = self.running.as_ref().with_context(|| format!("{} does not run", self.name))?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Time that it has spent on the processors.
    pub(crate) fn busy(&self) -> Result<Duration> {
        let (child, _) = self.running.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let stat = procfs::process::Process::new(i32::try_from(child.id())?)?.stat()?;
        Ok(Duration::from_millis((stat.utime + stat.stime) * 1000 / procfs::ticks_per_second()))
    }

    /// Whether it was started and not ended by the test.
    pub(crate) fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read_to_string(self.file("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

async fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if began.elapsed() > limit {
            bail!("it had not ended after {limit:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}
