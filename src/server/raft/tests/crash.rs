//! The process dies at every failpoint outside the log, three replicas in it, and starts again on what is left.
//!
//! A child process (this test binary, told to run [`child`]) bootstraps three replicas, writes, leaves one behind, and
//! has it caught up by a snapshot; each acknowledged revision goes to a file first. It is killed at one place; then a
//! second child without failpoints starts on the same folders, must find every acknowledged revision on all replicas
//! under one digest, and goes through the same script to its end.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command as Process, ExitStatus, Stdio};

use openraft::async_runtime::watch::WatchReceiver;
use remuda_registry::{Command, Revision};
use tempfile::TempDir;

use super::cluster::{Cluster, commit, eventually};
use super::ports::Ports;
use crate::failpoint;
use crate::raft::Node;

const SIGABRT: i32 = 6;
const FOLDER: &str = "REMUDA_TEST_CRASH_FOLDER";
const PORT: &str = "REMUDA_TEST_CRASH_PORT";

/// Writes `entries` entries, and each acknowledged revision into `file` as soon as it is known.
async fn write(cluster: &Cluster, entries: usize, file: &Path) {
    let node = cluster.nodes[&cluster.leader().await].clone();
    let mut acknowledged = OpenOptions::new().create(true).append(true).open(file).unwrap();
    for _ in 0..entries {
        let committed = commit(&node, Command::Tick).await;
        writeln!(acknowledged, "{}", committed.revision).unwrap();
    }
}

fn acknowledged(file: &Path) -> Revision {
    let text = fs::read_to_string(file).unwrap_or_default();
    // The last line may be cut.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    Revision(whole.lines().map(|line| line.parse().unwrap()).max().unwrap_or(0))
}

/// The script. Only a child process runs it.
#[test]
#[ignore = "run by the tests of this file, in a process of its own"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (folder, port) = (Path::new(&folder), std::env::var(PORT).unwrap().parse().unwrap());
    let file = folder.join("acknowledged");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::at(folder, port, 100);
        cluster.start(&[1, 2, 3]).await;
        cluster.agree(acknowledged(&file)).await;
        write(&cluster, 20, &file).await;
        let behind = cluster.follower().await;
        cluster.kill(behind).await;
        let before = cluster.nodes[&cluster.leader().await].status().own.applied;
        write(&cluster, 350, &file).await;
        let leader = cluster.nodes[&cluster.leader().await].clone();
        eventually("a snapshot covers what the follower lacks", || leader.status().own.snapshot > before + 100).await;
        eventually("the log no longer has what the follower lacks", || purged(&leader) > before).await;
        cluster.start(&[behind]).await;
        write(&cluster, 1, &file).await;
        cluster.agree(acknowledged(&file)).await;
    });
    fs::write(folder.join("finished"), "").unwrap();
}

/// The last index that the log of `node` has given up.
fn purged(node: &Node) -> u64 {
    node.inner.raft.metrics().borrow_watched().purged.map_or(0, |id| id.index)
}

fn run(folder: &Path, port: u16, failpoints: &str) -> ExitStatus {
    let mut process = Process::new(std::env::current_exe().unwrap());
    process.args(["raft::tests::crash::child", "--exact", "--ignored"]);
    process.env(FOLDER, folder).env(PORT, port.to_string());
    process.env("REMUDA_FAILPOINTS", failpoints).env("REMUDA_FAILPOINT_MARKS", folder.join("marks"));
    process.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
}

fn die_at(name: &str, hit: u64) {
    let (folder, ports) = (TempDir::new().unwrap(), Ports::take());
    let what = format!("{name}=abort*{hit}");
    let status = run(folder.path(), ports.first(), &what);
    assert_eq!(status.signal(), Some(SIGABRT), "{what}: the process dies there, not {status:?}");
    let marks = fs::read_to_string(folder.path().join("marks")).unwrap();
    assert!(marks.lines().count() == 1 && marks.starts_with(&format!("{name} abort ")), "{what}: hit once: {marks}");
    assert!(!folder.path().join("finished").exists(), "{what}");
    let held = acknowledged(&folder.path().join("acknowledged"));
    let status = run(folder.path(), ports.first(), "");
    assert!(status.success() && folder.path().join("finished").exists(), "{what}: after {held}: {status:?}");
}

fn names(prefixes: &[&str]) -> Vec<&'static str> {
    let all = failpoint::NAMES.iter().copied();
    let names: Vec<_> = all.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))).collect();
    assert!(!names.is_empty());
    names
}

#[test]
fn a_death_while_the_folder_is_made_or_the_cluster_begins_is_repaired() {
    names(&["identity.", "bootstrap."]).into_iter().for_each(|name| die_at(name, 1));
}

#[test]
fn nothing_acknowledged_is_lost_by_a_death_around_proposing_and_applying() {
    for name in names(&["propose.", "state.apply."]) {
        die_at(name, 40);
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_death_while_a_snapshot_is_built_sent_or_installed() {
    names(&["state.snapshot.", "state.install.", "net."]).into_iter().for_each(|name| die_at(name, 1));
}
