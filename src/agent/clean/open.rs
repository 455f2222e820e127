//! Opening for the walker: by descriptor, by one name, and with proof of what was opened.
//!
//! Never here: removing.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

/// The folder above, if it still is the one we came from.
pub(super) fn reopen_above(inner: BorrowedFd<'_>, expected: (u64, u64)) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(inner, "..", flags, Mode::empty()).map_err(reason)?;
    match identity(folder.as_fd()) {
        Ok(found) if found == expected => Ok(folder),
        Ok(_) => Err("another folder".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn identity(folder: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let status = rustix::fs::fstat(folder)?;
    Ok((status.st_dev, status.st_ino))
}

/// The mount that a descriptor is in; tells bind mounts of the same filesystem apart, which the device does not.
pub(super) fn mount_of(file: BorrowedFd<'_>) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("no mount id"))
}

pub(super) fn proc_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Opens for reading what a handle stands for.
pub(super) fn reopen(handle: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(proc_path(handle), OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty())
}

/// A system error as one word for evidence.
pub(super) fn reason(error: Errno) -> String {
    match error {
        Errno::PERM => "not-permitted".to_owned(),
        Errno::ACCESS => "no-access".to_owned(),
        Errno::ROFS => "read-only".to_owned(),
        other => format!("error-{}", other.raw_os_error()),
    }
}

/// Opens a folder by its whole path, which must have no symlink in it. `None`: it is not there.
pub(crate) fn open_folder(path: &Path, openat2: bool) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = if openat2 {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve)
    } else {
        rustix::fs::open(path, flags, Mode::empty())
    };
    match opened {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
