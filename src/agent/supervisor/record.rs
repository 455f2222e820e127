//! Small records on disk: whole or not there.
//!
//! Invariants
//! * A record is replaced by rename, and synced with its folder where it must survive a power cut.
//!
//! Never here: what a record means.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a record; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a record, and returns when it would survive a power cut.
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    replace(path, record, true)
}

/// Replaces a record that means nothing after the next boot.
pub(crate) fn write_unsynced<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    replace(path, record, false)
}

fn replace<T: Serialize>(path: &Path, record: &T, synced: bool) -> io::Result<()> {
    let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
    let fresh = path.with_extension(format!("fresh-{}", std::process::id()));
    let mut file = File::create(&fresh)?;
    file.write_all(&bytes)?;
    if synced {
        file.sync_data()?;
    }
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(folder) if synced => File::open(folder)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

fn damaged(path: &Path, error: &serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
}
