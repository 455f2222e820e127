//! Permission to run a cluster: one for every two cores, shared by all test processes through file locks.
//!
//! Four processes with fsync and elections on one core would test the scheduler.
//!
//! Never here: which test goes first.

use std::fs::{File, OpenOptions};
use std::thread::available_parallelism;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// A look at all locks is cheap, and a cluster's life is long.
const LOOK: Duration = Duration::from_millis(100);

/// Permission, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _lock: File,
}

impl Permit {
    /// Waits for permission. The test runner's patience is its bound.
    pub(crate) fn take() -> Self {
        let permits = available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        loop {
            for number in 0..permits {
                let path = std::env::temp_dir().join(format!("remuda-test-cluster-{number}.lock"));
                // Not removed at the end: a lock on a removed file would be no lock.
                let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
                let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    return Self { _lock: file };
                }
            }
            std::thread::sleep(LOOK);
        }
    }
}
