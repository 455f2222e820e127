//! Building a snapshot: a RocksDB checkpoint of the live database, described and given its name.
//!
//! Runs beside apply. The checkpoint flushes memory to files and links them, so the rows it claims are durable before
//! anybody purges the log on its account; what it claims is read from the checkpoint itself.
//!
//! ```text
//!   building-<n>/  ── checkpoint ── manifest ── sync ──rename──>  snap-<index>-<term>/
//! ```
//!
//! Invariants
//! * After a kill at any point the folder holds the old snapshot, or the new one whole.

use std::fs;
use std::io;
use std::sync::Arc;

use openraft::storage::RaftSnapshotBuilder;
use rocksdb::checkpoint::Checkpoint;

use super::database::storage;
use super::folder::{sync_files, sync_folder};
use super::manifest::{Manifest, SnapshotDir, read_meta};
use super::shared::Shared;
use crate::failpoint;
use crate::raft::types::{TypeConfig, term_of};

/// Builds one snapshot of the state.
pub struct Builder {
    shared: Arc<Shared>,
}

impl Builder {
    pub(super) fn new(shared: Arc<Shared>) -> Builder {
        Builder { shared }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotDir;

    async fn build_snapshot(&mut self) -> Result<openraft::alias::SnapshotOf<TypeConfig, SnapshotDir>, io::Error> {
        let _exclusive = self.shared.snapshots.lock().await;
        let shared = Arc::clone(&self.shared);
        let built = tokio::task::spawn_blocking(move || build(&shared)).await.map_err(io::Error::other)?;
        let snapshot = built?;
        let meta = snapshot.meta().clone();
        Ok(openraft::alias::SnapshotOf::<TypeConfig, SnapshotDir> { meta, snapshot })
    }
}

fn build(shared: &Shared) -> io::Result<SnapshotDir> {
    let started = std::time::Instant::now();
    let building = shared.folder.building(shared.next_attempt());
    if building.exists() {
        fs::remove_dir_all(&building)?;
    }
    let database = Arc::clone(&shared.open.read().database);
    Checkpoint::new(database.db()).map_err(storage)?.create_checkpoint(&building).map_err(storage)?;
    failpoint::hit("state.snapshot.after_checkpoint");
    let meta = read_meta(&building)?;
    let (revision, term) = meta.last_log_id.as_ref().map_or((0, 0), |id| (id.index, term_of(id)));
    let cluster = shared.read(super::shared::cluster_of);
    let manifest = Manifest::describe(&building, cluster, revision, term)?;
    manifest.write(&building)?;
    sync_files(&building)?;
    failpoint::hit("state.snapshot.before_rename");
    let kept = match &meta.last_log_id {
        Some(id) => shared.folder.snapshot(id),
        None => shared.folder.snapshot(&crate::raft::types::log_id(0, 0)),
    };
    let current = shared.newest.lock().clone();
    if let Some(current) = current.filter(|current| current.path() == kept) {
        // Nothing was applied since the last one: it is the same state, and somebody may be reading it.
        fs::remove_dir_all(&building)?;
        return Ok(current);
    }
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    fs::rename(&building, &kept)?;
    sync_folder(shared.folder.root())?;
    failpoint::hit("state.snapshot.after_rename");
    let snapshot = SnapshotDir::new(kept, manifest, meta, false);
    replace_newest(shared, snapshot.clone());
    tracing::info!(revision, term, took_ms = started.elapsed().as_millis() as u64, "built a snapshot");
    Ok(snapshot)
}

/// Makes `snapshot` the one to send; its predecessor goes when nobody sends it any more.
pub(super) fn replace_newest(shared: &Shared, snapshot: SnapshotDir) {
    let mut newest = shared.newest.lock();
    if newest.as_ref().is_some_and(|newest| newest.path() == snapshot.path()) {
        return;
    }
    if let Some(old) = newest.replace(snapshot) {
        old.supersede();
    }
}
