//! The file that keeps a lease between two commands: what proves that one holds a worker.
//!
//! Only its owner can read it. It is replaced atomically, so that a crash leaves the old lease or the new one.
//!
//! Never here: deciding whether the lease still holds; the cluster knows.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use remuda_client::{LeaseKey, Secret, WorkerId};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::names;

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Content {
    worker: String,
    job: String,
    epoch: u64,
    /// Hexadecimal.
    secret: String,
    granted_revision: u64,
    execution_endpoint: String,
}

/// The folder of the leases that have no path of their own.
fn folder() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    let state = state.ok_or_else(|| Failure::usage("no place for lease files: set HOME, or give --lease-file"))?;
    Ok(state.join("remuda").join("leases"))
}

fn file_of(worker: &WorkerId) -> String {
    let pool = worker.pool().trim_start_matches("pools/");
    format!("{pool}.{}.json", worker.bare())
}

/// Writes a lease to `path`, or to the worker's own file. Gives the path.
pub(crate) fn write(path: Option<&Path>, key: &LeaseKey) -> Result<PathBuf, Failure> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => folder()?.join(file_of(&key.worker)),
    };
    let bad = |e: &dyn std::fmt::Display| Failure::other(format!("cannot write {}: {e}", path.display()));
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|e| bad(&e))?;
    let content = Content {
        worker: key.worker.to_string(),
        job: key.job.to_string(),
        epoch: key.epoch,
        secret: key.secret.bytes().iter().map(|b| format!("{b:02x}")).collect(),
        granted_revision: key.granted_revision,
        execution_endpoint: key.execution_endpoint.clone(),
    };
    let text = serde_json::to_string_pretty(&content).map_err(|e| bad(&e))?;
    // Temporary files are made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(|e| bad(&e))?;
    writeln!(file, "{text}").and_then(|()| file.as_file().sync_all()).map_err(|e| bad(&e))?;
    file.persist(&path).map_err(|e| bad(&e))?;
    Ok(path)
}

/// Finds a lease: in `path`, or in the worker's own file. Gives the path beside it.
pub(crate) fn find(path: Option<&Path>, worker: Option<&str>) -> Result<(PathBuf, LeaseKey), Failure> {
    let path = match (path, worker) {
        (Some(path), _) => path.to_owned(),
        (None, Some(worker)) => of_worker(worker)?,
        (None, None) => return Err(Failure::usage("which lease? give --worker, --lease-file or REMUDA_LEASE")),
    };
    let key = read(&path)?;
    if let Some(worker) = worker
        && worker != key.worker.as_str()
        && worker != key.worker.bare()
        && names::full_worker(worker)? != Some(key.worker.clone())
    {
        return Err(Failure::usage(format!("{} is the lease of {}, not of {worker}", path.display(), key.worker)));
    }
    Ok((path, key))
}

/// The file of a worker, by its full name or by an id that is unique among the leases.
fn of_worker(worker: &str) -> Result<PathBuf, Failure> {
    let folder = folder()?;
    if let Some(worker) = names::full_worker(worker)? {
        return Ok(folder.join(file_of(&worker)));
    }
    let end = format!(".{worker}.json");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let found: Vec<_> = entries.filter(|e| e.file_name().to_string_lossy().ends_with(&end)).map(|e| e.path()).collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::NotFound(format!("no lease of {worker} in {}", folder.display()))),
        _ => Err(Failure::usage(format!("several leases of a worker {worker}; give its full name"))),
    }
}

fn read(path: &Path) -> Result<LeaseKey, Failure> {
    let bad = |e: &dyn std::fmt::Display| Failure::other(format!("{}: {e}", path.display()));
    let text = fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Failure::NotFound(format!("no lease file {}", path.display())),
        _ => bad(&e),
    })?;
    let mode = fs::metadata(path).map_err(|e| bad(&e))?.permissions().mode();
    if mode & 0o077 != 0 {
        eprintln!("warning: {} can be read by others (mode {:o})", path.display(), mode & 0o777);
    }
    let content: Content = serde_json::from_str(&text).map_err(|e| bad(&e))?;
    Ok(LeaseKey {
        worker: content.worker.parse()?,
        job: content.job.parse()?,
        epoch: content.epoch,
        secret: secret(&content.secret).ok_or_else(|| bad(&"the secret is not 64 hexadecimal digits"))?,
        granted_revision: content.granted_revision,
        execution_endpoint: content.execution_endpoint,
    })
}

fn secret(hex: &str) -> Option<Secret> {
    let digits: Vec<u8> =
        hex.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, d| byte << 4 | d)).collect();
    if digits.len() != 64 { None } else { Some(Secret::from_bytes(bytes.try_into().ok()?)) }
}

/// Removes a file whose lease has ended.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("warning: cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> LeaseKey {
        LeaseKey {
            worker: "pools/ci/workers/w-1".parse().expect("a good name"),
            job: "j".parse().expect("a good id"),
            epoch: 1 << 60,
            secret: Secret::random(),
            granted_revision: 4,
            execution_endpoint: "http://127.0.0.1:1".into(),
        }
    }

    #[test]
    fn a_lease_comes_back_as_it_was_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/lease.json");
        let key = key();
        assert_eq!(write(Some(&path), &key).expect("written"), path);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        for worker in [None, Some("w-1"), Some("ci/w-1"), Some("pools/ci/workers/w-1")] {
            assert_eq!(find(Some(&path), worker).expect("found").1, key);
        }
        assert_eq!(find(Some(&path), Some("w-2")).expect_err("another worker").status(), 2);
        remove(&path);
        assert_eq!(find(Some(&path), None).expect_err("gone").status(), 3);
    }

    #[test]
    fn a_damaged_file_is_said_to_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lease.json");
        for text in ["", "{}", "{\"worker\":1}"] {
            fs::write(&path, text).expect("written");
            assert_eq!(find(Some(&path), None).expect_err("damaged").status(), 1);
        }
        assert!(secret("zz").is_none() && secret(&"0".repeat(63)).is_none() && secret(&"f".repeat(64)).is_some());
    }
}
