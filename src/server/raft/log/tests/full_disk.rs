//! A disk that takes no more: the process ends, and what it had acknowledged is there when there is room again.
//!
//! The room is taken away by a limit on the size of any file, which needs no privileges: a shell sets it, ignores the
//! signal that comes with it, and becomes the child. The write-ahead log then stops growing in the middle of a batch.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::child::{Run, SIGABRT};

/// In blocks of 512 bytes: above RocksDB's own text log, far below what the script writes.
const LIMIT: u32 = 400;

fn with_little_room(command: Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {LIMIT}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

#[test]
fn a_full_disk_ends_the_process_and_loses_nothing_acknowledged() {
    for seed in 0..3 {
        let what = format!("full disk, script {seed}");
        let mut run = Run::start(seed, 3000, with_little_room);
        let status = run.wait();
        assert_eq!(status.signal(), Some(SIGABRT), "{what}: the process ends itself, not {status:?}");
        assert!(!run.path("finished").exists(), "{what}");
        let (submitted, acknowledged) = run.notes();
        assert!(acknowledged > 100 && submitted < 3000, "{what}: in the middle: {acknowledged} of {submitted}");
        let held = run.check(&what);
        println!("{what}: {submitted} submitted, {acknowledged} acknowledged, {held} held");
    }
}
