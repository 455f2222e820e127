//! The look from outside: the process table and the folders, by this program's own eyes.
//!
//! In a process namespace of our own every process that was not there before is dirt. On a shared machine other people
//! start processes too; there a new process counts if it sleeps with the demonstration's mark, descends from us, or
//! has a file of ours open as its working folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

/// One process: its pid and the time it started, which together name it for good.
type Process = (i32, u64);

/// What was there.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    processes: BTreeMap<Process, String>,
    files: BTreeSet<PathBuf>,
}

impl Look {
    /// Looks at the whole process table and at everything below `folders`.
    pub(crate) fn now(folders: &[&Path]) -> Result<Self> {
        let mut processes = BTreeMap::new();
        for process in procfs::process::all_processes()?.flatten() {
            let Ok(stat) = process.stat() else { continue };
            let line = process.cmdline().map(|c| c.join(" ")).unwrap_or_default();
            let line = if line.is_empty() { format!("[{}]", stat.comm) } else { line };
            processes.insert((stat.pid, stat.starttime), line);
        }
        let mut files = BTreeSet::new();
        for folder in folders {
            gather(folder, &mut files);
        }
        Ok(Self { processes, files })
    }

    /// How many processes there were.
    pub(crate) fn process_count(&self) -> usize {
        self.processes.len()
    }

    /// The processes that `before` did not have and that are ours by the rule above.
    pub(crate) fn new_processes(&self, before: &Self, exact: bool, ours: &Path) -> Vec<String> {
        let new = self.processes.iter().filter(|(p, _)| !before.processes.contains_key(p));
        let dirt = new.filter(|((pid, _), line)| exact || line.contains(crate::jobs::SLEEP_MARK) || inside(*pid, ours));
        dirt.map(|((pid, _), line)| format!("{pid} {line}")).collect()
    }

    /// The files that `before` did not have.
    pub(crate) fn new_files<'a>(&'a self, before: &'a Self) -> Vec<&'a Path> {
        self.files.difference(&before.files).map(PathBuf::as_path).collect()
    }

    /// The files whose names begin with one of `starts`.
    pub(crate) fn named(&self, starts: &[&str]) -> Vec<&Path> {
        let matches = |p: &&PathBuf| {
            let name = p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            starts.iter().any(|s| name.starts_with(s))
        };
        self.files.iter().filter(matches).map(PathBuf::as_path).collect()
    }
}

/// Whether the process works below `folder`.
fn inside(pid: i32, folder: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
}

/// Every path below `folder`; what cannot be read is named by itself.
fn gather(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            gather(&path, into);
        }
        into.insert(path);
    }
}
