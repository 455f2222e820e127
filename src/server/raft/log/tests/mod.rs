//! Tests of the log on a real disk.
//!
//! What they share: stores in temporary folders, a script of requests with a model of what it must leave behind
//! (`workload`), and a state machine in memory (`machine`). The crash and full-disk tests run this test binary again as a
//! child (`child`), which dies where it is told to.

mod child;
mod conformance;
#[cfg(feature = "chaos")]
mod crash;
mod damage;
mod full_disk;
mod lost_tail;
mod machine;
mod recovery;
mod workload;

use std::path::Path;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{LogOptions, LogStore, OpenError};
use crate::raft::types::{Identity, StoreId};

/// A runtime for one test: the threads of the log are its own.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn identity() -> Identity {
    Identity { replica: 1, store: StoreId(0xfeed) }
}

/// A new, empty log in a folder that lives as long as the guard.
fn new_store() -> (TempDir, LogStore) {
    let folder = tempfile::tempdir().unwrap();
    LogStore::create(folder.path(), identity()).unwrap();
    let store = open(folder.path()).unwrap();
    (folder, store)
}

fn open(folder: &Path) -> Result<LogStore, OpenError> {
    LogStore::open(folder, &LogOptions::default())
}
