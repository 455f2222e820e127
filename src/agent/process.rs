//! Processes of this host as /proc shows them, and signals that cannot hit the wrong one.
//!
//! A pid says nothing lasting; a pid with its start time names one process until the next boot. Signals go through a pidfd
//! that is opened first and whose start time is compared then, so that a pid reused in between is not hit.
//!
//! Invariants
//! * Kernel threads (by flag, not by name), this process and its ancestors are never signalled.
//! * What cannot be read for lack of rights is counted, never taken for innocent in silence.
//!
//! Never here: deciding which process is a leftover; see `clean::suspects`.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::process::PidfdFlags;
use rustix::process::Signal;
use serde::Deserialize;
use serde::Serialize;

/// A process id, as the kernel prints it.
pub type Pid = i32;

/// Flag in /proc/pid/stat of a kernel thread (PF_KTHREAD).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// A process for as long as this boot lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    /// Its pid.
    pub pid: Pid,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Which one.
    pub id: Id,
    /// Its parent.
    pub parent: Pid,
    /// Its name, at most 15 bytes, as it likes to be called.
    pub name: Vec<u8>,
    /// Its state: `R`, `S`, `D`, `T`, `Z`, ...
    pub state: u8,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
}

impl Process {
    /// Whether it can still do anything: a zombie cannot, it only waits for its parent.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// `name(pid)` for evidence.
    pub fn shown(&self) -> String {
        format!("{}({})", self.name.escape_ascii(), self.id.pid)
    }
}

/// This boot's id.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// This process.
pub fn own() -> io::Result<Id> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    read(pid)?.map(|process| process.id).ok_or_else(|| io::Error::other("/proc does not show this process"))
}

/// The process with this pid, if there is one.
pub fn read(pid: Pid) -> io::Result<Option<Process>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(parse(&stat)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether this very process still lives.
pub fn is_alive(id: Id) -> bool {
    matches!(read(id.pid), Ok(Some(process)) if process.id == id && process.is_alive())
}

/// Every process but kernel threads.
pub fn all() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<Pid>().ok()) else { continue };
        if let Some(process) = read(pid)?
            && !process.kernel
        {
            found.push(process);
        }
    }
    Ok(found)
}

/// This process and those it descends from; they are nobody's leftovers.
pub fn own_line(all: &[Process]) -> HashSet<Pid> {
    let parents: HashMap<Pid, Pid> = all.iter().map(|process| (process.id.pid, process.parent)).collect();
    let mut line = HashSet::new();
    let mut pid = rustix::process::getpid().as_raw_nonzero().get();
    while pid > 0 && line.insert(pid) {
        pid = parents.get(&pid).copied().unwrap_or(0);
    }
    line
}

/// The descendants of `roots` among `all`, without the roots.
pub fn descendants(all: &[Process], roots: &[Id]) -> HashSet<Id> {
    let mut children: HashMap<Pid, Vec<Id>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process.id);
    }
    let living: HashSet<Id> = all.iter().map(|process| process.id).collect();
    let mut open: Vec<Id> = roots.iter().copied().filter(|root| living.contains(root)).collect();
    let mut found = HashSet::new();
    while let Some(parent) = open.pop() {
        for child in children.get(&parent.pid).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

/// What follows `prefix` in the first entry that begins with it of the environment that a process was started with.
pub fn environment_entry(pid: Pid, prefix: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match fs::read(format!("/proc/{pid}/environ")) {
        Ok(environment) => {
            let mut entries = environment.split(|byte| *byte == 0);
            Ok(entries.find_map(|entry| entry.strip_prefix(prefix)).map(<[u8]>::to_vec))
        }
        // A process that ends while it is read has no leftovers of its own.
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What ties a process to a path below one of `roots`: `cwd`, `root`, `exe`, or a file that it has open for writing.
pub fn ties(pid: Pid, roots: &[PathBuf]) -> Option<&'static str> {
    let below = |link: String| fs::read_link(link).is_ok_and(|path| roots.iter().any(|root| path.starts_with(root)));
    for what in ["cwd", "root", "exe"] {
        if below(format!("/proc/{pid}/{what}")) {
            return Some(what);
        }
    }
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut numbers = open.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    numbers.any(|fd| below(format!("/proc/{pid}/fd/{fd}")) && is_writable(pid, &fd)).then_some("fd")
}

/// Whether descriptor `fd` is open for writing, by the access bits of its flags.
fn is_writable(pid: Pid, fd: &str) -> bool {
    let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else { return false };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & 0o3 != 0)
}

/// Signals exactly this process. False: it is gone. `by_handle`: the kernel has pidfds.
pub fn signal(id: Id, signal: Signal, by_handle: bool) -> io::Result<bool> {
    let Some(pid) = rustix::process::Pid::from_raw(id.pid) else { return Ok(false) };
    let handle = match by_handle.then(|| rustix::process::pidfd_open(pid, PidfdFlags::empty())) {
        Some(Err(rustix::io::Errno::SRCH)) => return Ok(false),
        // EINVAL: the pid became that of a thread which is no process.
        Some(Err(rustix::io::Errno::INVAL)) => return Ok(false),
        Some(opened) => Some(opened?),
        None => None,
    };
    // The handle holds on to whatever has the pid now; only then does comparing the start time prove anything.
    match read(id.pid)? {
        Some(process) if process.id == id && !process.kernel => {}
        Some(_) | None => return Ok(false),
    }
    let sent = match handle {
        Some(handle) => rustix::process::pidfd_send_signal(handle, signal),
        None => rustix::process::kill_process(pid, signal),
    };
    match sent {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Kills whatever has this pid now; only for pids just read from a group that is to be emptied.
pub(crate) fn kill_pid(pid: Pid) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// /proc answers ENOENT before a process's end is complete and ESRCH during it.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// `pid (name) state ppid pgrp session tty tpgid flags ...`, the start time is field 22. The name may hold anything.
fn parse(stat: &[u8]) -> Option<Process> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(stat.get(..open)?).ok()?.trim().parse().ok()?;
    let name = stat.get(open + 1..close)?.to_vec();
    let fields: Vec<&str> = std::str::from_utf8(stat.get(close + 1..)?).ok()?.split_ascii_whitespace().collect();
    let state = *fields.first()?.as_bytes().first()?;
    let parent = fields.get(1)?.parse().ok()?;
    let flags: u32 = fields.get(6)?.parse().ok()?;
    let start = fields.get(19)?.parse().ok()?;
    Some(Process { id: Id { pid, start }, parent, name, state, kernel: flags & KERNEL_THREAD != 0 })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn names_may_hold_parentheses_and_spaces() {
        let stat = b"42 (a) R (b) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 1";
        let process = parse(stat).unwrap();
        assert_eq!(process.id, Id { pid: 42, start: 9876 });
        assert_eq!((process.parent, process.state, process.kernel), (7, b'S', false));
        assert_eq!(process.name, b"a) R (b");
        assert!(parse(b"").is_none() && parse(b"1 (x").is_none());
    }

    #[test]
    fn another_start_time_is_another_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = read(child.id().try_into().unwrap()).unwrap().unwrap().id;
        for by_handle in [true, false] {
            assert!(!signal(Id { start: id.start + 1, ..id }, Signal::KILL, by_handle).unwrap());
            assert!(is_alive(id));
        }
        assert!(signal(id, Signal::KILL, true).unwrap());
        child.wait().unwrap();
        assert!(!is_alive(id) && !signal(id, Signal::KILL, true).unwrap());
    }

    #[test]
    fn the_environment_and_the_line_are_seen() {
        let mut child = Command::new("sleep").arg("60").env("REMUDA_TEST_MARK", "here/1").spawn().unwrap();
        let pid = child.id().try_into().unwrap();
        // The environment is that of `sleep` only once the child has called exec.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while environment_entry(pid, b"REMUDA_TEST_MARK=here/").unwrap().as_deref() != Some(b"1") {
            assert!(std::time::Instant::now() < deadline, "never seen");
            std::thread::yield_now();
        }
        assert_eq!(environment_entry(pid, b"REMUDA_TEST_MARK=there").unwrap(), None);
        let all = all().unwrap();
        let line = own_line(&all);
        assert!(line.contains(&own().unwrap().pid) && !line.contains(&pid));
        assert!(descendants(&all, &[own().unwrap()]).iter().any(|id| id.pid == pid));
        assert!(all.iter().all(|process| !process.kernel));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
