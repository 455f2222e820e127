//! The process dies at every failpoint of the log, and by kill -9 at any moment: nothing acknowledged is missing.
//!
//! The parent runs this test binary again with one test chosen, [`child`], and a failpoint in its environment. The child
//! runs a script against a new log and notes in a file how many requests it submitted and how many were acknowledged. The
//! parent opens the log after the child's death: it must stand where the model stands after some number of requests
//! between the two. Then it goes on with the script, as a restarted replica would.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::workload::{self, Model, Op};
use super::{identity, open, runtime};
use crate::failpoint;
use crate::raft::log::LogStore;

/// Set for a child only: the folder that it works in.
const FOLDER: &str = "REMUDA_TEST_LOG_FOLDER";
const SEED: &str = "REMUDA_TEST_LOG_SEED";
const OPS: usize = 400;

const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;

/// What the child does. Without its environment it is an empty test.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let mut store = open(&folder.join("log")).unwrap();
    runtime().block_on(async {
        let mut notes = fs::File::create(folder.join("notes")).unwrap();
        let mut acks = notes.try_clone().unwrap();
        let ops = workload::script(seed, OPS);
        workload::run_noting(
            &mut store,
            &ops,
            |submitted| writeln!(notes, "submit {submitted}").unwrap(),
            |acknowledged| writeln!(acks, "ack {acknowledged}").unwrap(),
        )
        .await;
    });
    drop(store);
    fs::write(folder.join("finished"), "").unwrap();
}

struct Run {
    folder: TempDir,
    seed: u64,
    process: Child,
}

impl Run {
    /// Starts a child on a new log.
    fn start(seed: u64, failpoints: &str) -> Run {
        let folder = tempfile::tempdir().unwrap();
        LogStore::create(&folder.path().join("log"), identity()).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "raft::log::tests::crash::child", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(SEED, seed.to_string())
            .env("REMUDA_FAILPOINTS", failpoints)
            .env("REMUDA_FAILPOINT_MARKS", folder.path().join("marks"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Run { folder, seed, process }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Submitted and acknowledged requests, as far as the child could note them.
    fn notes(&self) -> (usize, usize) {
        let text = fs::read_to_string(self.path("notes")).unwrap_or_default();
        let highest = |word: &str| {
            let numbers = text.lines().filter_map(|line| line.strip_prefix(word)?.trim().parse().ok());
            numbers.max().unwrap_or(0)
        };
        (highest("submit"), highest("ack"))
    }

    /// Waits until `condition` holds or the child has ended.
    fn wait_until(&mut self, condition: impl Fn(&Run) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.process.try_wait().unwrap().is_none() && !condition(self) {
            assert!(Instant::now() < deadline, "the child does not come so far: {:?}", self.notes());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn wait(&mut self) -> ExitStatus {
        self.wait_until(|_| false);
        self.process.wait().unwrap()
    }

    /// Opens the log and compares it with the model; returns the number of requests that it holds.
    fn check(&self, what: &str) -> usize {
        let ops = workload::script(self.seed, OPS);
        let (submitted, acknowledged) = self.notes();
        let mut store = open(&self.path("log")).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = runtime().block_on(Model::of(&mut store));
        let held = (acknowledged..=submitted).rev().find(|&held| Model::after(&ops[..held]) == found);
        let held = held.unwrap_or_else(|| {
            let closest = Model::after(&ops[..acknowledged]);
            panic!(
                "{what}: {acknowledged} of {submitted} requests were acknowledged.\nFound {found:?}\nnot {closest:?}"
            )
        });
        // A replica that comes back goes on from what it finds.
        runtime().block_on(workload::run(&mut store, &ops[held..], |_| {}));
        drop(store);
        let mut store = open(&self.path("log")).unwrap();
        assert_eq!(runtime().block_on(Model::of(&mut store)), Model::after(&ops), "{what}: grown on after the crash");
        held
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Only a failed test leaves it running.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn marks(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("marks")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

/// Dies at the given hit of the place, and checks what is left.
fn die_at(name: &str, action: &str, hit: u64) {
    let what = format!("{name}={action}*{hit}");
    let mut run = Run::start(hit, &what);
    let status = run.wait();
    assert_eq!(status.signal(), Some(SIGABRT), "{what}: the process dies there, not {status:?}");
    assert_eq!(marks(run.folder.path()), [format!("{name} {action}")], "{what}: hit once");
    assert!(!run.path("finished").exists(), "{what}");
    let held = run.check(&what);
    println!("{what}: {:?} submitted and acknowledged, {held} held", run.notes());
}

#[test]
fn nothing_acknowledged_is_lost_at_any_failpoint() {
    let names: Vec<&str> = failpoint::NAMES.iter().copied().filter(|name| name.starts_with("log.")).collect();
    assert!(names.len() > 10, "the log has its places: {names:?}");
    for name in names {
        // The first time, and once in full run; seals are synced ten times a second, and a script is short.
        let hits: &[u64] = if name == "log.seal.after_sync" { &[1] } else { &[1, 6] };
        for &hit in hits {
            die_at(name, "abort", hit);
        }
    }
}

#[test]
fn a_failed_write_or_sync_ends_the_process() {
    for hit in [1, 2, 30] {
        die_at("log.write", "error", hit);
        die_at("log.sync", "error", hit);
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    for seed in 0..8 {
        let mut run = Run::start(seed, "");
        let enough = 1 + 40 * seed as usize;
        run.wait_until(|run| run.notes().1 >= enough);
        let _ = run.process.kill();
        let status = run.wait();
        let what = format!("kill -9 after {enough} acknowledgements");
        assert!(status.signal() == Some(SIGKILL) || run.path("finished").exists(), "{what}: {status:?}");
        run.check(&what);
    }
}

#[test]
fn without_a_failpoint_the_script_runs_to_its_end() {
    let mut run = Run::start(1, "");
    assert!(run.wait().success());
    assert!(run.path("finished").exists());
    let ops = workload::script(1, OPS);
    assert!(ops.iter().any(|op| matches!(op, Op::Truncate(_))) && ops.iter().any(|op| matches!(op, Op::Purge(_))));
    assert_eq!(run.check("no failpoint"), OPS);
}
