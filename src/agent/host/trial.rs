//! A host to try things on: real processes, folders and groups, in a folder of its own.
//!
//! The tests' executable serves as the binary that is executed again: [`helper`] is a test that does nothing, unless the
//! last argument is an errand.
//!
//! Invariants
//! * What a test started has ended, and its groups are gone, when its bench is dropped.
//!
//! Never here: product code.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::clean;
use crate::process::Pid;
use crate::supervisor;
use crate::supervisor::JobSpec;
use crate::supervisor::Standing;

/// How long anything may take here before it counts as never.
pub(crate) const NEVER: Duration = Duration::from_secs(30);

#[test]
fn helper() {
    if std::env::args().next_back().is_some_and(|last| last.starts_with('{')) {
        // A libtest process has nothing to say at its end.
        let ended = supervisor::supervisor_main();
        std::process::exit(if ended == std::process::ExitCode::SUCCESS { 0 } else { 1 });
    }
}

/// One worker on a host of its own.
pub(crate) struct Bench {
    /// Outside the state folder; for what must stay untouched.
    pub(crate) outside: PathBuf,
    pub(crate) roots: Roots,
    folder: Option<TempDir>,
}

impl Bench {
    /// A host on which these facilities are taken as absent.
    pub(crate) fn without(names: &[&str]) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), names)
    }

    /// The same, in memory if the host has a place for that: for trees whose making would wait for the disk.
    pub(crate) fn in_memory_without(names: &[&str]) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self::in_folder(folder.unwrap(), names)
    }

    fn in_folder(folder: TempDir, names: &[&str]) -> Self {
        let outside = fs::canonicalize(folder.path()).unwrap().join("outside");
        fs::create_dir(&outside).unwrap();
        let switches = Switches::without(names.iter().copied()).unwrap();
        let launcher = Launcher::new(
            std::env::current_exe().unwrap(),
            ["--exact", "host::trial::helper", "--nocapture", "--test-threads=1"],
        );
        let host = Host::open(&folder.path().join("state"), &switches, launcher).unwrap();
        let roots = host.roots("pools/ci/workers/w-1").unwrap();
        Self { outside, roots, folder: Some(folder) }
    }

    /// The same host with groups and without; only the latter where there are none, which in CI must not be.
    pub(crate) fn with_and_without_groups() -> Vec<Self> {
        let mut benches = vec![Self::without(&["cgroup"])];
        let grouped = Self::without(&[]);
        if grouped.roots.host().capabilities().cgroup.is_some() {
            benches.push(grouped);
        } else {
            skip("no usable cgroup v2");
        }
        benches
    }

    pub(crate) async fn start(&self, epoch: u64, script: &str) -> Lease {
        let lease = self.roots.lease(epoch);
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let spec = JobSpec { job: "j-1".to_owned(), command, ..JobSpec::default() };
        supervisor::start(&lease, &spec).await.unwrap();
        lease
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        clean::end_all_in_a_test(&self.roots);
        self.roots.host().dissolve();
        if let Some(groups) = &self.roots.host().record.groups {
            assert!(std::thread::panicking() || !groups.exists(), "groups are left at {}", groups.display());
        }
        self.folder.take().map(TempDir::close);
    }
}

/// Skips a test for a reason; in CI, as root, nothing is skipped.
pub(crate) fn skip(why: &str) {
    let strict = std::env::var_os("CI").is_some() && rustix::process::geteuid().is_root();
    assert!(!strict, "may not be skipped here: {why}");
    eprintln!("skipped: {why}");
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + NEVER;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for a pid that a job writes into a file.
pub(crate) async fn pid_in(file: &Path) -> Pid {
    let read = || fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'));
    until(&format!("{}", file.display()), || read().is_some()).await;
    read().unwrap().trim().parse().unwrap()
}

pub(crate) async fn ended(lease: &Lease) -> supervisor::Exit {
    until("the job's end", || !matches!(supervisor::standing(lease).unwrap(), Standing::Running { .. })).await;
    match supervisor::standing(lease).unwrap() {
        Standing::Ended(exit) => exit,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn lives(pid: Pid) -> bool {
    matches!(crate::process::read(pid), Ok(Some(process)) if process.is_alive())
}
