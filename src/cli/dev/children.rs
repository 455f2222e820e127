//! The children: kept running, and stopped in order, agents before replicas.
//!
//! One task per child starts it, waits for its end, and starts it again after a second. Each child leads a process group
//! of its own, so that Ctrl-C in a terminal reaches this process alone and the end keeps its order.
//!
//! Invariants
//! * `dev.json` names a child only while its process has not been waited for.
//!
//! Never here: what a child does.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::Plan;
use super::file::{self, Entry};
use super::pause;
use crate::failure::Failure;

/// Bounds of keeping children.
mod limits {
    use std::time::Duration;

    /// A child that died is started again after this long.
    pub(super) const RESTART: Duration = Duration::from_secs(1);
    /// A child that was told to stop has this long: a replica's own limit is 15 s.
    pub(super) const STOP: Duration = Duration::from_secs(20);
    /// Deaths before the cluster has ever been ready, after which it will never be.
    pub(super) const DEATHS_BEFORE_READY: u32 = 6;
}

/// All children of one cluster.
#[derive(Debug)]
pub(super) struct Children {
    folder: PathBuf,
    executable: PathBuf,
    restart: bool,
    running: Mutex<Vec<Entry>>,
    agents: Group,
    replicas: Group,
    deaths: AtomicU32,
    ready: AtomicBool,
    hopeless: Notify,
}

/// Children that are stopped together.
#[derive(Debug, Default)]
struct Group {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Children {
    /// None yet; `restart` says whether those that die are started again.
    pub(super) fn new(folder: PathBuf, restart: bool) -> Result<Self, Failure> {
        let executable = std::env::current_exe().map_err(|e| Failure::other(format!("who am I: {e}")))?;
        let children = Self {
            folder,
            executable,
            restart,
            running: Mutex::default(),
            agents: Group::default(),
            replicas: Group::default(),
            deaths: AtomicU32::new(0),
            ready: AtomicBool::new(false),
            hopeless: Notify::new(),
        };
        children.change(|_| {});
        Ok(children)
    }

    /// Starts a child and keeps it running.
    pub(super) fn start(self: &Arc<Self>, plan: Plan) {
        let children = Arc::clone(self);
        let group = self.group(&plan);
        let stop = group.stop.clone();
        group.tasks.spawn(async move { children.keep(&plan, &stop).await });
    }

    /// From now on a death is no sign that the cluster cannot work.
    pub(super) fn all_well(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Ends when the children die and die before the cluster was ever ready.
    pub(super) async fn hopeless(&self) -> Failure {
        self.hopeless.notified().await;
        Failure::Unhealthy(format!("children keep dying; see {}", self.folder.join("logs").display()))
    }

    /// Stops agents, then replicas. They end their jobs and hand over; who takes too long is killed.
    pub(super) async fn stop(&self) {
        for group in [&self.agents, &self.replicas] {
            group.stop.cancel();
            group.tasks.close();
            group.tasks.wait().await;
        }
    }

    fn group(&self, plan: &Plan) -> &Group {
        if plan.role == "agent" { &self.agents } else { &self.replicas }
    }

    async fn keep(&self, plan: &Plan, stop: &CancellationToken) {
        loop {
            match self.spawn(plan) {
                Ok(child) => {
                    if !self.attend(plan, child, stop).await {
                        return;
                    }
                }
                Err(error) => eprintln!("error: cannot start {} {}: {error}", plan.role, plan.id),
            }
            if !self.ready.load(Ordering::Relaxed)
                && self.deaths.fetch_add(1, Ordering::Relaxed) + 1 >= limits::DEATHS_BEFORE_READY
            {
                self.hopeless.notify_one();
            }
            if !self.restart || !pause(limits::RESTART, stop).await {
                return;
            }
        }
    }

    /// Waits for a child's end. False when it was told to stop.
    async fn attend(&self, plan: &Plan, mut child: Child, stop: &CancellationToken) -> bool {
        // Held here, since waiting closes what the child itself still holds.
        let pipe = child.stdin.take();
        let pid = child.id().unwrap_or_default();
        self.change(|running| running.push(entry(plan, pid)));
        let status = tokio::select! {
            status = child.wait() => Some(status),
            () = stop.cancelled() => None,
        };
        let told = status.is_none();
        if told {
            end(plan, &mut child).await;
        }
        drop(pipe);
        self.change(|running| running.retain(|entry| entry.pid != pid));
        if let Some(status) = status {
            let words = status.map_or_else(|e| e.to_string(), |s: ExitStatus| s.to_string());
            let log = log_path(&self.folder, plan);
            eprintln!("{} {} (pid {pid}) ended: {words}; its log: {}", plan.role, plan.id, log.display());
        }
        !told
    }

    fn spawn(&self, plan: &Plan) -> std::io::Result<Child> {
        let log = open_log(&self.folder, plan)?;
        Command::new(&self.executable)
            .args(&plan.arguments)
            // Nobody writes to it: its end is our end.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .env_remove("REMUDA_LEASE")
            .process_group(0)
            .spawn()
    }

    /// Changes who runs, and the file that says so.
    fn change(&self, change: impl FnOnce(&mut Vec<Entry>)) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut running);
        running.sort_by(|a, b| (b.role, a.id.len(), &a.id).cmp(&(a.role, b.id.len(), &b.id)));
        if let Err(error) = file::write(&self.folder, &running) {
            eprintln!("warning: cannot write {}: {error}", self.folder.join("dev.json").display());
        }
    }
}

fn entry(plan: &Plan, pid: u32) -> Entry {
    Entry { role: plan.role, id: plan.id.to_string(), pid, endpoints: plan.endpoints.clone() }
}

fn log_path(folder: &Path, plan: &Plan) -> PathBuf {
    folder.join("logs").join(format!("{}-{}.log", plan.role, plan.id))
}

fn open_log(folder: &Path, plan: &Plan) -> std::io::Result<File> {
    let path = log_path(folder, plan);
    std::fs::create_dir_all(folder.join("logs"))?;
    OpenOptions::new().create(true).append(true).open(path)
}

/// TERM, and KILL for who takes too long.
async fn end(plan: &Plan, child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(limits::STOP, child.wait()).await.is_err() {
        eprintln!("warning: {} {} did not stop within {:?} and is killed", plan.role, plan.id, limits::STOP);
        let _ = child.kill().await;
    }
}
