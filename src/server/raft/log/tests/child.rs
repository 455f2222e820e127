//! A child process that writes a script to a log until it is told to die, and what its parent finds afterwards.
//!
//! The parent runs this test binary again with one test chosen, [`child`], and says through the environment what the child
//! works on. The child notes in a file how many requests it submitted and how many were acknowledged. After its death the
//! log must stand where the model stands after some number of requests between the two. Then the parent goes on with the
//! script, as a restarted replica would.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::workload::{self, Model, Op};
use super::{identity, open, runtime};
use crate::raft::log::LogStore;

/// Set for a child only: the folder that it works in.
const FOLDER: &str = "REMUDA_TEST_LOG_FOLDER";
const SEED: &str = "REMUDA_TEST_LOG_SEED";
const OPS: &str = "REMUDA_TEST_LOG_OPS";

/// By signal number, as [`ExitStatus`] tells them.
pub(super) const SIGABRT: i32 = 6;

/// What the child does. Without its environment it is an empty test.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let number = |name| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let ops = workload::script(number(SEED) as u64, number(OPS));
    let mut store = open(&folder.join("log")).unwrap();
    let mut notes = fs::File::create(folder.join("notes")).unwrap();
    let mut acks = notes.try_clone().unwrap();
    runtime().block_on(workload::run_noting(
        &mut store,
        &ops,
        |submitted| writeln!(notes, "submit {submitted}").unwrap(),
        |acknowledged| writeln!(acks, "ack {acknowledged}").unwrap(),
    ));
    drop(store);
    fs::write(folder.join("finished"), "").unwrap();
}

/// A child and what it works on.
pub(super) struct Run {
    pub(super) folder: TempDir,
    pub(super) ops: Vec<Op>,
    process: Child,
}

impl Run {
    /// Starts a child on a new log with a script of `length` requests. `wrap` may set more of its environment, or run it
    /// inside another command.
    pub(super) fn start(seed: u64, length: usize, wrap: impl FnOnce(Command) -> Command) -> Run {
        let folder = tempfile::tempdir().unwrap();
        LogStore::create(&folder.path().join("log"), identity()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "raft::log::tests::child::child", "--nocapture"]);
        let mut command = wrap(command);
        command.env(FOLDER, folder.path()).env(SEED, seed.to_string()).env(OPS, length.to_string());
        command.env("REMUDA_FAILPOINT_MARKS", folder.path().join("marks"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Run { folder, ops: workload::script(seed, length), process }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Submitted and acknowledged requests, as far as the child could note them.
    pub(super) fn notes(&self) -> (usize, usize) {
        let text = fs::read_to_string(self.path("notes")).unwrap_or_default();
        let highest = |word: &str| {
            let numbers = text.lines().filter_map(|line| line.strip_prefix(word)?.trim().parse().ok());
            numbers.max().unwrap_or(0)
        };
        (highest("submit"), highest("ack"))
    }

    /// Waits until `condition` holds or the child has ended.
    pub(super) fn wait_until(&mut self, condition: impl Fn(&Run) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.process.try_wait().unwrap().is_none() && !condition(self) {
            assert!(Instant::now() < deadline, "the child does not come so far: {:?}", self.notes());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the child's end.
    pub(super) fn wait(&mut self) -> ExitStatus {
        self.wait_until(|_| false);
        self.process.wait().unwrap()
    }

    /// Ends the child by kill -9.
    #[cfg(feature = "chaos")]
    pub(super) fn kill(&mut self) {
        // It may have come to its end by itself.
        let _ = self.process.kill();
    }

    /// Opens the log and compares it with the model; returns the number of requests that it holds.
    pub(super) fn check(&self, what: &str) -> usize {
        let ops = &self.ops;
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
        assert_eq!(runtime().block_on(Model::of(&mut store)), Model::after(ops), "{what}: grown on after the crash");
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
