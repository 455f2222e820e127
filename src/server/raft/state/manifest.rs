//! A snapshot on disk: a folder of files, and the manifest that says what they must be.
//!
//! The manifest is JSON, so that a person with a damaged folder can read it: format version, cluster, entry, and each
//! file with its length and checksum. It is written last and synced before the folder gets its final name: a folder
//! named `snap-…` is complete.
//!
//! Invariants
//! * A folder is removed only when it is superseded and nobody reads it any more.
//!
//! Never here: how files travel (`net`), how they become a database (`install`).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::database;
use super::folder::{Folder, write_atomically};
use crate::raft::types::SnapshotMeta;

/// The manifest's name in its folder.
pub const MANIFEST: &str = "MANIFEST.json";

const FORMAT: u32 = 1;

/// Bytes hashed and sent at a time.
pub const CHUNK_BYTES: usize = 256 << 10;

/// What a snapshot folder must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// The cluster's id; empty before bootstrap.
    pub cluster: String,
    /// Index of the last entry contained.
    pub revision: u64,
    /// Its term.
    pub term: u64,
    /// The files, sorted by name.
    pub files: Vec<FileEntry>,
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name, without folders.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// BLAKE3 of its bytes, in hex.
    pub blake3: String,
}

impl Manifest {
    /// Describes the files that lie in `path` now.
    ///
    /// # Errors
    /// Any of the file system.
    pub fn describe(path: &Path, cluster: String, revision: u64, term: u64) -> io::Result<Manifest> {
        let mut files = Vec::new();
        for item in fs::read_dir(path)? {
            let item = item?;
            let name = item.file_name().to_string_lossy().into_owned();
            if !item.file_type()?.is_file() || is_litter(&name) {
                continue;
            }
            let (length, blake3) = hash(&item.path())?;
            files.push(FileEntry { name, length, blake3 });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Manifest { format: FORMAT, cluster, revision, term, files })
    }

    /// The manifest's bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest is plain data")
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// `InvalidData` if this build does not know it, or a file's name would leave the folder.
    pub fn decode(bytes: &[u8]) -> io::Result<Manifest> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|error| invalid(format!("{MANIFEST}: {error}")))?;
        if manifest.format != FORMAT {
            return Err(invalid(format!("{MANIFEST}: format {} is unknown", manifest.format)));
        }
        match manifest.files.iter().find(|file| file.name.contains('/') || file.name.starts_with('.')) {
            Some(file) => Err(invalid(format!("{MANIFEST}: file name `{}`", file.name))),
            None => Ok(manifest),
        }
    }

    /// Writes the manifest into its folder, synced.
    ///
    /// # Errors
    /// Any of the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_atomically(&path.join(MANIFEST), &self.encode())
    }

    /// Checks every file in `path` against the manifest.
    ///
    /// # Errors
    /// `InvalidData` naming the first file that differs.
    pub fn verify(&self, path: &Path) -> io::Result<()> {
        for file in &self.files {
            let found = hash(&path.join(&file.name))?;
            if found != (file.length, file.blake3.clone()) {
                let text = format!("snapshot file {} has {} bytes, hash {}", file.name, found.0, found.1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(())
    }
}

/// What RocksDB leaves in a folder by merely opening it.
fn is_litter(name: &str) -> bool {
    name == MANIFEST || name == "LOCK" || name == "LOG" || name.starts_with("LOG.old")
}

fn hash(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut length = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((length, hasher.finalize().to_hex().to_string()));
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
    }
}

/// A handle to a snapshot's folder. The last handle to a superseded one removes it.
#[derive(Debug, Clone)]
pub struct SnapshotDir {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    manifest: Manifest,
    meta: SnapshotMeta,
    superseded: AtomicBool,
}

impl SnapshotDir {
    /// The snapshot in `path`. One that was received and not yet kept is `temporary`: it goes with its last handle.
    pub fn new(path: PathBuf, manifest: Manifest, meta: SnapshotMeta, temporary: bool) -> SnapshotDir {
        SnapshotDir { inner: Arc::new(Inner { path, manifest, meta, superseded: AtomicBool::new(temporary) }) }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What it must hold.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// What it claims to openraft, read from its own rows.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.inner.meta
    }

    /// Has the folder removed as soon as nobody reads it.
    pub fn supersede(&self) {
        self.inner.superseded.store(true, Ordering::Release);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.superseded.load(Ordering::Acquire)
            && self.path.exists()
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an old snapshot stays until the next start");
        }
    }
}

/// The newest snapshot in `folder`; older and unreadable ones are removed.
///
/// # Errors
/// Any of the file system.
pub fn newest(folder: &Folder) -> io::Result<Option<SnapshotDir>> {
    let mut newest = None;
    for path in folder.snapshots()? {
        match open(&path) {
            Ok(snapshot) if newest.is_none() => newest = Some(snapshot),
            Ok(_) => fs::remove_dir_all(&path)?,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "removing a snapshot that cannot be read");
                fs::remove_dir_all(&path)?;
            }
        }
    }
    Ok(newest)
}

/// Opens a kept snapshot; its meta comes from its own rows.
///
/// # Errors
/// Any of the file system; `InvalidData` where the content is not understood.
pub fn open(path: &Path) -> io::Result<SnapshotDir> {
    let manifest = Manifest::decode(&fs::read(path.join(MANIFEST))?)?;
    let meta = read_meta(path)?;
    Ok(SnapshotDir::new(path.to_owned(), manifest, meta, false))
}

/// What the rows in `path` stand at.
///
/// # Errors
/// What RocksDB says.
pub fn read_meta(path: &Path) -> io::Result<SnapshotMeta> {
    let db = database::open_checkpoint(path)?;
    Ok(database::read_applied(&db)?.meta())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_notices_every_kind_of_damage() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("1.sst");
        fs::write(&file, [7; 1000]).unwrap();
        fs::write(temporary.path().join("LOG"), "noise").unwrap();
        let manifest = Manifest::describe(temporary.path(), "c".into(), 9, 2).unwrap();
        assert_eq!(manifest.files.len(), 1, "RocksDB's own log is no part of a snapshot");
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
        manifest.verify(temporary.path()).unwrap();
        for damaged in [vec![7; 999], vec![7; 1001], [vec![7; 500], vec![8], vec![7; 499]].concat()] {
            fs::write(&file, damaged).unwrap();
            assert!(manifest.verify(temporary.path()).is_err());
        }
        fs::remove_file(&file).unwrap();
        assert!(manifest.verify(temporary.path()).is_err());
        let mut escaping = manifest;
        escaping.files[0].name = "../store".into();
        assert!(Manifest::decode(&escaping.encode()).is_err());
    }
}
