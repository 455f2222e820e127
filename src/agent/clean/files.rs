//! The folders of leases that are over: moved aside, removed, observed gone.
//!
//! A rename takes a folder out of everybody's way at once: whoever still knows its name finds nothing. What is aside is
//! then walked, together with what earlier, interrupted runs left there. Beside the leases' folders, anything in the
//! worker's folder that the agent did not put there goes the same way.
//!
//! ```text
//! workers/<w>/{leases/<epoch>, tmp/<epoch>, <anything else>} ──rename──> aside/<run>-<n> ──walk──> gone
//! ```
//!
//! Invariants
//! * A lease newer than the run keeps its folders.
//! * "Gone" is said after the folders were listed anew.
//!
//! Never here: how a tree is removed; see `walk`.

use std::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::control::Control;
use super::control::Halt;
use super::evidence::Tally;
use super::folders;
use super::open;
use super::walk::Walker;
use crate::failpoint;
use crate::host::Roots;

/// What the agent itself puts into a worker's folder.
const KNOWN: [&[u8]; 5] = [b"leases", b"tmp", b"aside", b"kept", b"baseline.json"];

/// Removes the lease folders up to `run`, and what else is in the worker's folder.
pub(crate) fn remove_leases(roots: &Roots, run: u64, control: &Control, tally: &mut Tally) -> Result<(), Halt> {
    let mut removal = Removal::begin(roots, run, control)?;
    let strangers = |name: &CStr| !KNOWN.contains(&name.to_bytes());
    removal.set_aside_of(None, &strangers, tally)?;
    removal.set_aside_part("leases", tally)?;
    failpoint::hit("agent.files.after_aside");
    removal.finish(Some("leases"), &strangers, tally)
}

/// Removes the TMPDIRs up to `run`, and empties the pool's further folders.
pub(crate) fn remove_temporaries(
    roots: &Roots,
    run: u64,
    folders: &[PathBuf],
    control: &Control,
    tally: &mut Tally,
) -> Result<(), Halt> {
    let mut removal = Removal::begin(roots, run, control)?;
    removal.set_aside_part("tmp", tally)?;
    removal.finish(Some("tmp"), &|_| false, tally)?;
    for folder in folders {
        empty(roots, folder, control, tally)?;
    }
    Ok(())
}

/// Empties a folder where it is, and looks at it anew.
fn empty(roots: &Roots, folder: &Path, control: &Control, tally: &mut Tally) -> Result<(), Halt> {
    let openat2 = roots.host().capabilities().openat2;
    folders::check(folder, roots)?;
    let look = || open::open_folder(folder, openat2).map_err(|error| named(folder, error));
    let Some(top) = look()? else { return Ok(()) };
    let mut walker = Walker::new(control, openat2);
    let walked = walker.empty(top);
    take_over(walker, tally);
    walked?;
    if let Some(top) = look()? {
        tally.left += names(top.as_fd())?.len() as u64;
    }
    Ok(())
}

fn named(folder: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
}

fn take_over(walker: Walker<'_>, tally: &mut Tally) {
    tally.evidence.merge(walker.evidence);
    tally.removed += walker.removed;
}

/// One removal from a worker's folder, by descriptors.
struct Removal<'a> {
    worker: OwnedFd,
    aside: OwnedFd,
    run: u64,
    control: &'a Control,
    openat2: bool,
    moved: u32,
}

impl<'a> Removal<'a> {
    fn begin(roots: &Roots, run: u64, control: &'a Control) -> Result<Self, Halt> {
        let openat2 = roots.host().capabilities().openat2;
        let missing = || io::Error::new(io::ErrorKind::NotFound, "the worker's folder is gone");
        let worker = open::open_folder(&roots.folder(), openat2)?.ok_or_else(missing)?;
        let aside = part(worker.as_fd(), "aside", control, openat2)?;
        Ok(Self { worker, aside, run, control, openat2, moved: 0 })
    }

    /// Moves what is due in `leases` or `tmp` aside.
    fn set_aside_part(&mut self, name: &str, tally: &mut Tally) -> Result<(), Halt> {
        let folder = part(self.worker.as_fd(), name, self.control, self.openat2)?;
        let run = self.run;
        self.set_aside_of(Some(folder.as_fd()), &|name| is_due(name, run), tally)
    }

    fn set_aside_of(
        &mut self,
        folder: Option<BorrowedFd<'_>>,
        is_due: &dyn Fn(&CStr) -> bool,
        tally: &mut Tally,
    ) -> Result<(), Halt> {
        let folder = folder.map_or_else(|| rustix::io::dup(&self.worker), rustix::io::dup).map_err(io::Error::from)?;
        for name in names(folder.as_fd())?.iter().filter(|name| is_due(name)) {
            self.control.check()?;
            if let Err(error) = self.set_aside(folder.as_fd(), name, tally) {
                tally.evidence.note("not-moved-aside", format!("{} ({error})", name.to_bytes().escape_ascii()));
                let mut walker = Walker::new(self.control, self.openat2);
                let removed = walker.remove_entry(folder.as_fd(), name);
                take_over(walker, tally);
                removed?;
            }
        }
        Ok(())
    }

    fn set_aside(&mut self, folder: BorrowedFd<'_>, name: &CStr, tally: &mut Tally) -> Result<(), Errno> {
        let mut helped = false;
        loop {
            self.moved += 1;
            let there = format!("{}-{}", self.run, self.moved);
            match rustix::fs::renameat_with(folder, name, &self.aside, &there, RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // An interrupted run's; the next number may be free.
                Err(Errno::EXIST) => {}
                Err(Errno::PERM | Errno::ACCESS) if !helped => {
                    helped = true;
                    let mut walker = Walker::new(self.control, self.openat2);
                    walker.help(folder, name);
                    // A folder changes its `..` when it moves, so its own mode matters too.
                    walker.help_inside(folder, name);
                    tally.evidence.merge(walker.evidence);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Walks what is aside, and observes that nothing of what was due is left.
    fn finish(&mut self, name: Option<&str>, strangers: &dyn Fn(&CStr) -> bool, tally: &mut Tally) -> Result<(), Halt> {
        let mut walker = Walker::new(self.control, self.openat2);
        let top = part(self.worker.as_fd(), "aside", self.control, self.openat2)?;
        let walked = walker.empty(top);
        take_over(walker, tally);
        walked?;
        let fresh = part(self.worker.as_fd(), "aside", self.control, self.openat2)?;
        let mut left = names(fresh.as_fd())?.len();
        left += names(self.worker.as_fd())?.iter().filter(|name| strangers(name)).count();
        if let Some(name) = name {
            let fresh = part(self.worker.as_fd(), name, self.control, self.openat2)?;
            left += names(fresh.as_fd())?.iter().filter(|name| is_due(name, self.run)).count();
        }
        tally.left += left as u64;
        Ok(())
    }
}

/// Whether an entry of `leases` or `tmp` is of a lease up to `run`, or of none.
fn is_due(name: &CStr, run: u64) -> bool {
    let epoch = name.to_str().ok().and_then(|name| name.parse::<u64>().ok());
    epoch.is_none_or(|epoch| epoch <= run)
}

/// A folder of the agent's own in the worker's folder; whatever else has its name is replaced by an empty one.
fn part(worker: BorrowedFd<'_>, name: &str, control: &Control, openat2: bool) -> Result<OwnedFd, Halt> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..3 {
        match rustix::fs::openat(worker, name, flags, Mode::empty()) {
            Ok(folder) => return Ok(folder),
            Err(Errno::NOENT) => match rustix::fs::mkdirat(worker, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            },
            Err(Errno::NOTDIR | Errno::LOOP) => match rustix::fs::unlinkat(worker, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            },
            Err(Errno::ACCESS) => {
                let name = CString::new(name).map_err(io::Error::other)?;
                Walker::new(control, openat2).help_inside(worker, &name);
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Err(io::Error::other(format!("{name} does not stay a folder")).into())
}

/// The names in a folder, read from a descriptor of its own; only for folders that hold few.
fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            found.push(name);
        }
    }
    Ok(found)
}
