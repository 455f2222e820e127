//! Installing a snapshot: a folder of verified files becomes the state, in one atomic step.
//!
//! ```text
//!   incoming-<n>/ ──verify, rename──> snap-<index>-<term>/ ──link──> db-<n+1>/ ──pointer──> the state
//!       (1)                                 (2)                        (3)        (4)
//! ```
//!
//! Killed before (4), the replica starts with its old database; if (2) was reached, openraft finds a snapshot ahead of
//! the state and installs it then. Killed after (4), it starts with the new one. The checkpoint's files are linked, not
//! moved, so that the snapshot can be sent on; files that RocksDB would append to are copied.
//!
//! Invariants
//! * Memory, database and `applied` change together as seen through `Shared`: readers wait for the swap.
//! * What is installed says of itself exactly what its sender claimed.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use remuda_registry::{Revision, State};

use super::checkpoint::replace_newest;
use super::database::Database;
use super::folder::{sync_files, sync_folder};
use super::manifest::{MANIFEST, SnapshotDir, read_meta};
use super::record::AppliedRecord;
use super::shared::{Applied, Open, Shared, cluster_of};
use crate::failpoint;
use crate::raft::types::{SnapshotMeta, term_of};

/// Replaces the state by `snapshot`; durable when it returns.
///
/// # Errors
/// `InvalidData` where the files are not what the manifest and `meta` say; the old state then stands.
pub(super) async fn install(
    shared: &Arc<Shared>,
    meta: &SnapshotMeta,
    snapshot: SnapshotDir,
) -> io::Result<AppliedRecord> {
    let _exclusive = shared.snapshots.lock().await;
    let (worker, meta) = (Arc::clone(shared), meta.clone());
    let done = tokio::task::spawn_blocking(move || install_now(&worker, &meta, snapshot)).await;
    done.map_err(io::Error::other)?
}

fn install_now(shared: &Shared, meta: &SnapshotMeta, snapshot: SnapshotDir) -> io::Result<AppliedRecord> {
    let started = std::time::Instant::now();
    if snapshot.meta() != meta {
        return Err(invalid(format!("the snapshot stands at {:?}, not {meta:?}", snapshot.meta().last_log_id)));
    }
    let kept = keep(shared, snapshot)?;
    let number = shared.open.read().number + 1;
    let path = shared.folder.database(number);
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    link(kept.path(), &path)?;
    // Before it is opened: an open database drops files of its own accord. What it writes from here on it syncs itself.
    sync_files(&path)?;
    let database = Arc::new(Database::open(&path, false)?);
    database.set_identity(&shared.identity)?;
    let (state, record) = database.load()?;
    if record.meta() != *meta {
        return Err(invalid("the database differs from the snapshot's meta".to_owned()));
    }
    sync_folder(shared.folder.root())?;
    failpoint::hit("state.install.before_switch");
    shared.folder.switch(number)?;
    failpoint::hit("state.install.after_switch");
    swap(shared, Open::new(number, database)?, state, &record);
    replace_newest(shared, kept);
    let revision = record.revision();
    tracing::info!(revision, took_ms = started.elapsed().as_millis() as u64, "installed a snapshot");
    Ok(record)
}

/// Verifies the files and gives the folder its lasting name.
fn keep(shared: &Shared, snapshot: SnapshotDir) -> io::Result<SnapshotDir> {
    let ours = shared.read(cluster_of);
    let manifest = snapshot.manifest().clone();
    if !ours.is_empty() && manifest.cluster != ours {
        return Err(invalid(format!("the snapshot is of cluster `{}`, this is `{ours}`", manifest.cluster)));
    }
    manifest.verify(snapshot.path())?;
    let id = snapshot.meta().last_log_id.ok_or_else(|| invalid("the snapshot is of nothing".to_owned()))?;
    let place = shared.folder.snapshot(&id);
    if place == snapshot.path() {
        return Ok(snapshot);
    }
    manifest.write(snapshot.path())?;
    sync_files(snapshot.path())?;
    failpoint::hit("state.install.before_keep");
    if place.exists() {
        // The same entry, so the same state. Its folder may be in the middle of being sent: it stays.
        return super::manifest::open(&place);
    }
    fs::rename(snapshot.path(), &place)?;
    sync_folder(shared.folder.root())?;
    failpoint::hit("state.install.after_keep");
    let meta = read_meta(&place)?;
    Ok(SnapshotDir::new(place, manifest, meta, false))
}

/// Makes a database folder out of a checkpoint's: table files are never changed and can be shared.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let name = item.file_name();
        if name == MANIFEST {
            continue;
        }
        if item.path().extension().is_some_and(|extension| extension == "sst") {
            fs::hard_link(item.path(), to.join(name))?;
        } else {
            fs::copy(item.path(), to.join(name))?;
        }
    }
    Ok(())
}

fn swap(shared: &Shared, open: Open, state: State, record: &AppliedRecord) {
    let mut hot = shared.hot.write();
    let old = std::mem::replace(&mut *shared.open.write(), open);
    let revision = Revision(record.revision());
    *hot = state;
    *shared.stands_at.lock() = revision;
    drop(hot);
    old.database.retire();
    let term = record.last_applied.as_ref().map_or(0, term_of);
    shared.sink.jumped(revision);
    shared.applied.send_replace(Applied { revision, term });
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
