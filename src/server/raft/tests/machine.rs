//! The state machine alone: openraft's storage suite over it and our log, restart, snapshot and install.

use std::sync::Arc;

use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::cluster::Recorder;
use crate::raft::identity::DataFolder;
use crate::raft::log::{LogOptions, LogStore};
use crate::raft::state::folder::Folder;
use crate::raft::state::{Shared, StateMachine};
use crate::raft::types::TypeConfig;

struct Fresh;

/// Keeps the folder for as long as the stores.
struct Guard {
    _folder: DataFolder,
    _temporary: TempDir,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Guard> for Fresh {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine), openraft::StorageError<TypeConfig>> {
        let temporary = TempDir::new().unwrap();
        let folder = DataFolder::open(temporary.path(), 1).unwrap();
        let log = LogStore::open(&folder.log(), &LogOptions::default()).unwrap();
        let (marks, _) = mpsc::unbounded_channel();
        let sink = Arc::new(Recorder::default());
        let (shared, record) = Shared::open(Folder::new(folder.state()), folder.identity, sink, marks).unwrap();
        Ok((Guard { _folder: folder, _temporary: temporary }, log, StateMachine::new(shared, record)))
    }
}

#[test]
fn openrafts_suite_holds_on_our_log_and_state() {
    TypeConfig::run(async { Suite::test_all(Fresh).await }).unwrap();
}
