//! The state folder on disk: its names, the pointer to the database that counts, and the litter of crashes.
//!
//! Invariants
//! * After a power cut `CURRENT` names either the old or the new database, and that one is complete: what a pointer
//!   names is synced, folder and all, before the pointer is.
//!
//! Never here: what is inside a database.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::raft::types::{LogId, term_of};

const POINTER: &str = "CURRENT";

/// The state folder of one replica.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder at `root`, which exists.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A database's folder.
    pub fn database(&self, number: u64) -> PathBuf {
        self.root.join(format!("db-{number:08}"))
    }

    /// The folder of the snapshot at `id`; its name sorts by index.
    pub fn snapshot(&self, id: &LogId) -> PathBuf {
        self.root.join(format!("snap-{:020}-{:020}", id.index, term_of(id)))
    }

    /// A folder for a snapshot being received.
    pub fn incoming(&self, number: u64) -> PathBuf {
        self.root.join(format!("incoming-{number:08}"))
    }

    /// A folder for a snapshot being made.
    pub fn building(&self, number: u64) -> PathBuf {
        self.root.join(format!("building-{number:08}"))
    }

    /// The database that counts; `None` in a folder that was never switched.
    ///
    /// # Errors
    /// When the pointer cannot be read, or names nothing.
    pub fn current(&self) -> io::Result<Option<u64>> {
        let text = match fs::read_to_string(self.root.join(POINTER)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let number = text.trim().strip_prefix("db-").and_then(|digits| digits.parse().ok());
        let number = number.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{POINTER} holds `{}`, not db-<number>", text.trim()))
        })?;
        Ok(Some(number))
    }

    /// Makes `number` the database that counts. Its folder must be synced.
    ///
    /// # Errors
    /// Any of the file system; the old pointer then still stands.
    pub fn switch(&self, number: u64) -> io::Result<()> {
        write_atomically(&self.root.join(POINTER), format!("db-{number:08}\n").as_bytes())
    }

    /// Snapshots on disk, the newest first.
    ///
    /// # Errors
    /// Any of the file system.
    pub fn snapshots(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = self.named("snap-")?;
        found.sort();
        found.reverse();
        Ok(found)
    }

    /// Removes what a crash left: unfinished snapshots, and databases that do not count.
    ///
    /// # Errors
    /// Any of the file system.
    pub fn sweep(&self, current: u64) -> io::Result<()> {
        let mut litter = self.named("incoming-")?;
        litter.extend(self.named("building-")?);
        litter.extend(self.named("db-")?.into_iter().filter(|path| *path != self.database(current)));
        litter.into_iter().try_for_each(fs::remove_dir_all)
    }

    fn named(&self, prefix: &str) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for item in fs::read_dir(&self.root)? {
            let item = item?;
            if item.file_name().to_string_lossy().starts_with(prefix) {
                found.push(item.path());
            }
        }
        Ok(found)
    }
}

/// Replaces a file so that a power cut leaves the old bytes or the new ones.
///
/// # Errors
/// Any of the file system.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder(path.parent().expect("a file has a folder"))
}

/// Makes a folder's names durable.
///
/// # Errors
/// Any of the file system.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the files of a folder, and then its names, durable.
///
/// # Errors
/// Any of the file system.
pub fn sync_files(path: &Path) -> io::Result<()> {
    for item in fs::read_dir(path)? {
        let item = item?;
        if item.file_type()?.is_file() {
            File::open(item.path())?.sync_all()?;
        }
    }
    sync_folder(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::log_id;

    #[test]
    fn the_pointer_is_replaced_and_litter_goes() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::new(temporary.path());
        assert_eq!(folder.current().unwrap(), None);
        for number in [1, 2] {
            fs::create_dir(folder.database(number)).unwrap();
            folder.switch(number).unwrap();
            assert_eq!(folder.current().unwrap(), Some(number));
        }
        for path in
            [folder.incoming(1), folder.building(9), folder.snapshot(&log_id(2, 7)), folder.snapshot(&log_id(1, 10))]
        {
            fs::create_dir(path).unwrap();
        }
        folder.sweep(2).unwrap();
        assert!(!folder.database(1).exists() && !folder.incoming(1).exists() && !folder.building(9).exists());
        assert_eq!(folder.snapshots().unwrap(), [folder.snapshot(&log_id(1, 10)), folder.snapshot(&log_id(2, 7))]);
        fs::write(folder.root().join(POINTER), "db-x").unwrap();
        assert!(folder.current().is_err(), "a damaged pointer is not taken for a fresh folder");
    }
}
