//! The walker: removes a tree that somebody hostile may have prepared, and may still be changing.
//!
//! It holds folders by descriptor and names by single component, so nothing that is swapped meanwhile leads it elsewhere:
//! the kernel resolves each step beneath the folder, without symlinks, magic links and mounts (`openat2`); where the
//! kernel has no openat2, `O_NOFOLLOW` and the mount id of what was opened say the same. It keeps a stack of its own. Deep
//! in a tree only the innermost folders stay open; the way back is `..`, believed only if it is the folder it was.
//!
//! ```text
//! pass over a folder: read a batch ─> unlink, or go down ─> ... ─> end ─> again, until a pass finds nothing (done)
//!                                                                        or removes nothing (left)
//! ```
//!
//! Invariants
//! * No component is followed, no mount is entered; only entries of folders below the top are unlinked.
//! * No error ends the walk: what cannot be removed is counted as left, with its reason.
//! * Open descriptors and memory do not grow with the tree's depth or width, beyond a name and two numbers per level.
//!
//! Never here: deciding what is to be removed.

use std::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::IFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawDir;
use rustix::fs::ResolveFlags;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::control::Control;
use super::control::Halt;
use super::evidence::Evidence;
use super::level::Level;
use super::level::Pass;
use super::level::push;
use super::open::identity;
use super::open::mount_of;
use super::open::proc_path;
use super::open::reason;
use super::open::reopen;
use super::open::reopen_above;
use crate::failpoint;

mod limits {
    /// Bytes of folder entries read at once: some 2000 names.
    pub(super) const BATCH: usize = 64 << 10;
    /// Passes over one folder that go on growing while it is emptied.
    pub(super) const PASSES: u32 = 1000;
    /// Tries of an openat2 that a concurrent rename disturbs.
    pub(super) const DISTURBED: u32 = 64;
}

/// What the walker may use, and what it saw.
pub(crate) struct Walker<'a> {
    control: &'a Control,
    openat2: bool,
    /// What was seen.
    pub(crate) evidence: Evidence,
    /// Entries removed.
    pub(crate) removed: u64,
    /// Entries that could not be removed.
    pub(crate) left: u64,
    buffer: Vec<MaybeUninit<u8>>,
}

/// What became of an entry.
enum Fate {
    Gone,
    Enter,
    Stuck(String),
}

impl<'a> Walker<'a> {
    /// A walker that has removed nothing yet.
    pub(crate) fn new(control: &'a Control, openat2: bool) -> Self {
        let buffer = vec![MaybeUninit::uninit(); limits::BATCH];
        Self { control, openat2, evidence: Evidence::default(), removed: 0, left: 0, buffer }
    }

    /// Removes all entries of `top`, not `top` itself. Errors only out of time or cancelled; else see `left`.
    pub(crate) fn empty(&mut self, top: OwnedFd) -> Result<(), Halt> {
        let identity = identity(top.as_fd())?;
        let mount = if self.openat2 { 0 } else { mount_of(top.as_fd())? };
        let mut stack = vec![Level::new(CString::default(), top, identity)];
        while let Some(level) = stack.last_mut() {
            self.control.check()?;
            match self.next_entry(level)? {
                Some((name, kind)) => {
                    failpoint::hit("agent.files.unlink");
                    let folder = level.folder.as_ref().expect("the innermost folder is open");
                    match self.remove(folder.as_fd(), &name, kind) {
                        Fate::Gone => {
                            level.pass.removed += 1;
                            self.removed += 1;
                        }
                        Fate::Stuck(reason) => level.stuck(name, reason),
                        Fate::Enter => match self.enter(folder.as_fd(), &name, mount) {
                            Ok((folder, identity)) => push(&mut stack, Level::new(name, folder, identity)),
                            Err(reason) => level.stuck(name, reason),
                        },
                    }
                }
                None if stack.len() == 1 => self.settle(stack.pop()),
                None => self.leave(&mut stack)?,
            }
        }
        Ok(())
    }

    /// The next entry of a folder, over as many passes as it takes; none when it is empty or nothing more can be removed.
    fn next_entry(&mut self, level: &mut Level) -> Result<Option<(CString, FileType)>, Halt> {
        loop {
            if let Some(entry) = level.batch.pop() {
                if level.skipped.contains(&entry.0) {
                    continue;
                }
                return Ok(Some(entry));
            }
            let folder = level.folder.as_ref().expect("the innermost folder is open").as_fd();
            if !level.pass.ended {
                level.pass.ended = !self.read_batch(folder, &mut level.batch)?;
                continue;
            }
            if level.pass.removed == 0 || level.passes >= limits::PASSES {
                return Ok(None);
            }
            self.control.check()?;
            rustix::fs::seek(folder, SeekFrom::Start(0)).map_err(io::Error::from)?;
            level.pass = Pass::default();
            level.passes += 1;
        }
    }

    /// Reads some entries; false at the end of the folder.
    fn read_batch(&mut self, folder: BorrowedFd<'_>, batch: &mut Vec<(CString, FileType)>) -> Result<bool, Halt> {
        let mut entries = RawDir::new(folder, &mut self.buffer);
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => batch.push((entry.file_name().to_owned(), entry.file_type())),
                // The folder was removed under us: it holds nothing any more.
                Err(Errno::NOENT) => return Ok(false),
                Err(error) => return Err(io::Error::from(error).into()),
            }
            if entries.is_buffer_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes one entry, or says that it is a folder with something in it.
    fn remove(&mut self, folder: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Fate {
        let mut as_folder = kind == FileType::Directory;
        let mut helped = false;
        // Turns: it was another kind than it seemed; rights were in the way; both at once by a race.
        for _ in 0..4 {
            let flags = if as_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match rustix::fs::unlinkat(folder, name, flags) {
                Ok(()) | Err(Errno::NOENT) => return Fate::Gone,
                Err(Errno::NOTEMPTY | Errno::EXIST) if as_folder => return Fate::Enter,
                Err(Errno::ISDIR) => as_folder = true,
                Err(Errno::NOTDIR) => as_folder = false,
                Err(Errno::BUSY) => return Fate::Stuck("mount".to_owned()),
                Err(error @ (Errno::PERM | Errno::ACCESS)) if !helped => {
                    helped = true;
                    if !self.help(folder, name) {
                        return Fate::Stuck(reason(error));
                    }
                }
                Err(error) => return Fate::Stuck(reason(error)),
            }
        }
        Fate::Stuck("changes".to_owned())
    }

    /// Takes what may be in the way: flags of the entry and of its folder, and the folder's closed mode.
    pub(crate) fn help(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> bool {
        let mut changed = self.clear_flags(folder);
        if let Ok(entry) = self.handle(folder, name)
            && let Ok(status) = rustix::fs::fstat(&entry)
            // Never opened: devices, whose opening may do something, and what is followed.
            && matches!(FileType::from_raw_mode(status.st_mode), FileType::RegularFile | FileType::Directory)
            && let Ok(file) = reopen(entry.as_fd(), OFlags::NONBLOCK)
        {
            changed |= self.clear_flags(file.as_fd());
        }
        changed | self.open_mode(folder)
    }

    /// Takes what may be in the way inside a folder that is to be moved: its closed mode.
    pub(crate) fn help_inside(&mut self, above: BorrowedFd<'_>, name: &CStr) {
        if let Ok(handle) = self.handle(above, name)
            && rustix::fs::fstat(&handle)
                .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
            && rustix::fs::chmod(proc_path(handle.as_fd()), Mode::RWXU).is_ok()
        {
            self.evidence.count("opened", 1);
        }
    }

    /// Gives a closed folder's owner all rights; true if they were missing.
    fn open_mode(&mut self, folder: BorrowedFd<'_>) -> bool {
        let Ok(status) = rustix::fs::fstat(folder) else { return false };
        let mode = Mode::from_raw_mode(status.st_mode);
        let opened = !mode.contains(Mode::RWXU) && rustix::fs::fchmod(folder, mode | Mode::RWXU).is_ok();
        self.evidence.count("opened", u64::from(opened));
        opened
    }

    /// Clears the immutable and the append-only flag; true if one was set and is not any more.
    fn clear_flags(&mut self, file: BorrowedFd<'_>) -> bool {
        let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
        let Ok(flags) = rustix::fs::ioctl_getflags(file) else { return false };
        let cleared = flags.intersects(fixed) && rustix::fs::ioctl_setflags(file, flags - fixed).is_ok();
        self.evidence.count("flags-cleared", u64::from(cleared));
        cleared
    }

    /// Opens a folder to walk into; the error is the reason why it stays.
    fn enter(&mut self, above: BorrowedFd<'_>, name: &CStr, mount: u64) -> Result<(OwnedFd, (u64, u64)), String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut opened = self.open(above, name, flags);
        if matches!(opened, Err(Errno::ACCESS)) {
            let handle = self.handle(above, name).map_err(reason)?;
            rustix::fs::chmod(proc_path(handle.as_fd()), Mode::RWXU).map_err(reason)?;
            self.evidence.count("opened", 1);
            opened = self.open(above, name, flags);
        }
        let folder = opened.map_err(|error| if error == Errno::XDEV { "mount".to_owned() } else { reason(error) })?;
        if !self.openat2 && mount_of(folder.as_fd()).map_err(|error| error.to_string())? != mount {
            return Err("mount".to_owned());
        }
        let identity = identity(folder.as_fd()).map_err(|error| error.to_string())?;
        Ok((folder, identity))
    }

    /// A descriptor that stands for the entry without opening it.
    fn handle(&self, folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
        self.open(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)
    }

    fn open(&self, folder: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !self.openat2 {
            return rustix::fs::openat(folder, name, flags, Mode::empty());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        // A handle may stand for a symlink itself; nothing else may even end in one.
        let resolve = if flags.contains(OFlags::PATH) { resolve } else { resolve | ResolveFlags::NO_SYMLINKS };
        let mut opened = Err(Errno::AGAIN);
        for _ in 0..limits::DISTURBED {
            opened = rustix::fs::openat2(folder, name, flags, Mode::empty(), resolve);
            if !matches!(opened, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        opened
    }

    /// Removes one entry of `folder` with all that is in it.
    pub(crate) fn remove_entry(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> Result<(), Halt> {
        let mut reason = match self.remove(folder, name, FileType::Unknown) {
            Fate::Gone => {
                self.removed += 1;
                return Ok(());
            }
            Fate::Stuck(reason) => reason,
            Fate::Enter => String::new(),
        };
        if reason.is_empty() {
            let mount = if self.openat2 { 0 } else { mount_of(folder)? };
            match self.enter(folder, name, mount) {
                Ok((inner, _)) => {
                    self.empty(inner)?;
                    match self.remove(folder, name, FileType::Directory) {
                        Fate::Gone => {
                            self.removed += 1;
                            return Ok(());
                        }
                        Fate::Stuck(why) => reason = why,
                        Fate::Enter => reason = "not-empty".to_owned(),
                    }
                }
                Err(why) => reason = why,
            }
        }
        self.left += 1;
        self.evidence.note(&reason, name.to_bytes().escape_ascii().to_string());
        Ok(())
    }

    /// Goes back up from a folder that is done with, and removes it from the one above.
    fn leave(&mut self, stack: &mut Vec<Level>) -> Result<(), Halt> {
        let Some(mut done) = stack.pop() else { return Ok(()) };
        let above = stack.last_mut().expect("the top is never left");
        let again = above.folder.is_none();
        if again {
            let inner = done.folder.as_ref().expect("the innermost folder is open").as_fd();
            match reopen_above(inner, above.identity) {
                // A fresh descriptor reads from the start, so the pass begins anew.
                Ok(folder) => above.reopened(folder),
                Err(reason) => {
                    self.lost_way(stack, &reason);
                    return Ok(());
                }
            }
        }
        let name = std::mem::take(&mut done.name);
        let left_inside = done.left() > 0;
        self.settle(Some(done));
        let above = stack.last_mut().expect("the top is never left");
        let folder = above.folder.as_ref().expect("reopened above").as_fd();
        let reason = match self.remove(folder, &name, FileType::Directory) {
            Fate::Gone => {
                above.pass.removed += 1;
                self.removed += 1;
                return Ok(());
            }
            // What is in it is counted already.
            Fate::Enter if left_inside => "not-empty".to_owned(),
            Fate::Enter => "filled-again".to_owned(),
            Fate::Stuck(reason) => reason,
        };
        if again {
            self.evidence.note(&reason, name.to_bytes().escape_ascii().to_string());
            above.skipped.insert(name);
        } else {
            above.stuck(name, reason);
        }
        Ok(())
    }

    /// Somebody moved a folder that we are in: everything between it and the top waits for the next walk.
    fn lost_way(&mut self, stack: &mut Vec<Level>, reason: &str) {
        self.evidence.note("moved-away", reason);
        while stack.len() > 1 {
            stack.pop();
            self.left += 1;
        }
        if let Some(top) = stack.last_mut()
            && top.folder.is_none()
        {
            // The top is held open for the whole walk; see `push`.
            self.left += 1;
            stack.clear();
        }
    }

    /// Takes over what a folder's last pass could not remove.
    fn settle(&mut self, level: Option<Level>) {
        let Some(level) = level else { return };
        self.left += level.left();
        for (name, reason) in level.pass.stuck {
            self.evidence.note(&reason, name.to_bytes().escape_ascii().to_string());
        }
    }
}
