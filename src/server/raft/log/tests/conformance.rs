//! openraft's own storage suite on this log, beside a state machine in memory.
//!
//! The suite tries what openraft relies on while a replica lives; it knows neither crashes nor damage.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::machine::Machine;
use super::{new_store, runtime};
use crate::raft::log::LogStore;
use crate::raft::types::TypeConfig;

struct Fresh;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let (folder, store) = new_store();
        Ok((folder, store, Machine::default()))
    }
}

#[test]
fn openrafts_storage_suite_is_green() {
    runtime().block_on(Suite::test_all(Fresh)).unwrap();
}
