//! Groups of processes in cgroup v2: one per lease, below a folder that the agent makes.
//!
//! A group catches every descendant, also one that forked twice and made its own session, and is killed at once. Only the
//! core files are used (`cgroup.procs`, `cgroup.events`, `cgroup.kill`, `cgroup.freeze`), which need no controller, so a
//! hybrid host with v2 at /sys/fs/cgroup/unified does as well. The mount is looked up in /proc/self/mountinfo.
//!
//! ```text
//! <mount>/<own group>/remuda-<instance>/<pool.worker>-<epoch>/{self, job}      self: the supervisor; job: what it started
//! ```
//!
//! Invariants
//! * A group that is gone counts as empty.
//! * Nothing is ever moved into a group but by itself.
//!
//! Never here: deciding which group may be killed.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Access;

use crate::mounts;
use crate::process::Pid;

mod limits {
    /// Groups looked at below one group; a job that nests deeper or wider is listed no further, and is killed as a whole
    /// all the same.
    pub(super) const GROUPS: usize = 4096;
    /// Rounds of reading and signalling where the kernel has no `cgroup.kill`; a fork bomb loses within a few.
    pub(super) const KILL_ROUNDS: u32 = 50;
}

/// A folder in which this process can make groups: `preferred` if it still can, its own group, else the root of the mount.
pub fn usable_base(preferred: Option<&Path>) -> Option<PathBuf> {
    let own = own_group();
    let mounts = mounts::read().ok()?;
    let points = mounts.iter().filter(|mount| mount.kind == b"cgroup2").map(|mount| mount.point.clone());
    let mut candidates: Vec<PathBuf> = preferred.map(Path::to_path_buf).into_iter().collect();
    for point in points {
        if let Some(own) = &own {
            candidates.push(point.join(own));
        }
        candidates.push(point);
    }
    candidates.into_iter().find(|base| can_make_groups(base))
}

/// Whether groups in `base` can be killed by one write.
pub fn has_kill(base: &Path) -> bool {
    with_trial(base, |trial| trial.join("cgroup.kill").exists())
}

fn can_make_groups(base: &Path) -> bool {
    // Moving a process asks for write access at the common ancestor of its old and its new group.
    let entry = rustix::fs::access(base.join("cgroup.procs"), Access::WRITE_OK).is_ok();
    entry && with_trial(base, |trial| trial.join("cgroup.events").exists())
}

fn with_trial(base: &Path, look: impl FnOnce(&Path) -> bool) -> bool {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let trial = base.join(format!("remuda-trial-{}-{count}", std::process::id()));
    if fs::create_dir(&trial).is_err() {
        return false;
    }
    let found = look(&trial);
    fs::remove_dir(&trial).is_ok() && found
}

/// This process's group in v2, relative to the mount.
fn own_group() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let relative = path.trim_start_matches('/');
    // A group outside this namespace reads as `/..`; it cannot be reached through the mount.
    (!relative.is_empty() && !relative.starts_with("..")).then(|| PathBuf::from(relative))
}

/// One group; it need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The group at `path`, a folder in a cgroup v2 mount.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A group inside this one.
    pub fn child(&self, name: &str) -> Self {
        Self { path: self.path.join(name) }
    }

    /// Makes it, with those above it.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.path)
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Moves this process into it, with all its threads.
    pub fn enter(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0")
    }

    /// Whether a process lives in it or below. Zombies do not count.
    pub fn populated(&self) -> io::Result<bool> {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The processes in it and below.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let mut found = Vec::new();
        for group in self.with_groups_below()? {
            match fs::read_to_string(group.join("cgroup.procs")) {
                Ok(text) => {
                    found.extend(text.lines().filter_map(|line| line.parse::<Pid>().ok()).filter(|pid| *pid > 0))
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Kills everything in it and below, at once where `at_once` says that the kernel can.
    pub fn kill(&self, at_once: bool) -> io::Result<()> {
        self.thaw()?;
        if at_once {
            return ignore_gone(fs::write(self.path.join("cgroup.kill"), "1"));
        }
        for _ in 0..limits::KILL_ROUNDS {
            let processes = self.processes()?;
            if processes.is_empty() {
                break;
            }
            for pid in processes {
                // The pid was just read from the group; one reused within these microseconds is the price of an old kernel.
                crate::process::kill_pid(pid);
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Lets a frozen group go on, so that it can hear signals.
    pub fn thaw(&self) -> io::Result<()> {
        for group in self.with_groups_below()? {
            ignore_gone(fs::write(group.join("cgroup.freeze"), "0"))?;
        }
        Ok(())
    }

    /// Removes it and the groups below. Fails (busy) while a process is in one of them.
    pub fn remove(&self) -> io::Result<()> {
        for group in self.with_groups_below()?.iter().rev() {
            ignore_gone(fs::remove_dir(group))?;
        }
        Ok(())
    }

    /// It and the groups below, outer ones first; empty if it is gone.
    fn with_groups_below(&self) -> io::Result<Vec<PathBuf>> {
        let mut groups = Vec::new();
        if !self.exists() {
            return Ok(groups);
        }
        groups.push(self.path.clone());
        let mut next = 0;
        while next < groups.len() && groups.len() < limits::GROUPS {
            let entries = match fs::read_dir(&groups[next]) {
                Ok(entries) => entries,
                Err(error) if is_gone(&error) => {
                    next += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    groups.push(entry.path());
                }
            }
            next += 1;
        }
        Ok(groups)
    }
}

/// The groups directly below `base`, by name.
pub fn groups_in(base: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// A group's files vanish with ENOENT before the lookup and with ENODEV after it.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_not_there_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let group = Cgroup::at(folder.path().join("none"));
        assert!(!group.populated().unwrap());
        assert!(group.processes().unwrap().is_empty());
        group.kill(true).unwrap();
        group.remove().unwrap();
    }

    #[test]
    fn groups_are_made_listed_and_removed() {
        let Some(base) = usable_base(None) else {
            assert!(std::env::var_os("CI").is_none(), "CI must have cgroup v2");
            eprintln!("skipped: no usable cgroup v2");
            return;
        };
        let group = Cgroup::at(base.join(format!("remuda-test-{}", std::process::id())));
        group.child("a").child("b").create().unwrap();
        assert!(!group.populated().unwrap());
        assert_eq!(group.with_groups_below().unwrap().len(), 3);
        group.remove().unwrap();
        assert!(!group.exists());
    }
}
