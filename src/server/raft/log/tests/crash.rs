//! The process dies at every failpoint of the log, and by kill -9 at any moment: nothing acknowledged is missing.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use super::child::{Run, SIGABRT};
use super::workload::Op;
use crate::failpoint;

const OPS: usize = 400;
const SIGKILL: i32 = 9;

fn start(seed: u64, failpoints: &str) -> Run {
    Run::start(seed, OPS, |mut command| {
        command.env("REMUDA_FAILPOINTS", failpoints);
        command
    })
}

fn marks(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("marks")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

/// Dies at the given hit of the place, and checks what is left.
fn die_at(name: &str, action: &str, hit: u64) {
    let what = format!("{name}={action}*{hit}");
    let mut run = start(hit, &what);
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
        let mut run = start(seed, "");
        let enough = 1 + 40 * seed as usize;
        run.wait_until(|run| run.notes().1 >= enough);
        run.kill();
        let status = run.wait();
        let what = format!("kill -9 after {enough} acknowledgements");
        assert!(status.signal() == Some(SIGKILL) || run.path("finished").exists(), "{what}: {status:?}");
        run.check(&what);
    }
}

#[test]
fn without_a_failpoint_the_script_runs_to_its_end() {
    let mut run = start(1, "");
    assert!(run.wait().success());
    assert!(run.path("finished").exists());
    let ops = &run.ops;
    assert!(ops.iter().any(|op| matches!(op, Op::Truncate(_))) && ops.iter().any(|op| matches!(op, Op::Purge(_))));
    assert_eq!(run.check("no failpoint"), OPS);
}
