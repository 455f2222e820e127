//! Which processes belong to leases that are over.
//!
//! Four kinds of proof, strongest first: the lease's group; descent from its supervisor, which is reaper of all its
//! orphans; the lease's mark in the environment that the process was started with; a cwd, root, executable or file open
//! for writing in the lease's folders, by a process that is younger than the lease. A process with only the last kind
//! that is older than the lease is somebody else looking in: counted, not touched.
//!
//! Invariants
//! * Nothing of a token above the scope's is ever among them, nor this process, its ancestors, or a kernel thread.
//! * What could not be read is counted.
//!
//! Never here: signals.

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::cgroup::Cgroup;
use crate::host::Roots;
use crate::process;
use crate::process::Id;
use crate::process::Process;
use crate::supervisor;
use crate::supervisor::Taken;

/// The leases (and runs) of a worker by their tokens.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    /// Whose.
    pub(crate) roots: Roots,
    /// Which of them.
    pub(crate) tokens: RangeInclusive<u64>,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Living processes that belong to the scope, with the proof.
    pub(crate) processes: Vec<(Process, &'static str)>,
    /// Supervisors of the scope that live.
    pub(crate) supervisors: Vec<Id>,
    /// Older processes that only look in.
    pub(crate) bystanders: Vec<Process>,
    /// Processes whose environment could not be read.
    pub(crate) unreadable: u64,
}

impl Scope {
    /// The groups of the scope that exist.
    pub(crate) fn groups(&self) -> io::Result<Vec<Cgroup>> {
        let groups = self.roots.groups()?.into_iter();
        Ok(groups.filter(|(token, _)| self.tokens.contains(token)).map(|(_, group)| group).collect())
    }

    /// Epochs of the scope that have a folder.
    pub(crate) fn epochs(&self) -> io::Result<Vec<u64>> {
        Ok(self.roots.epochs()?.into_iter().filter(|epoch| self.tokens.contains(epoch)).collect())
    }

    /// By group and by descent: cheap, and all there is for most jobs.
    pub(crate) fn family(&self) -> io::Result<Found> {
        Search::new(self)?.family()
    }

    /// By every kind of proof.
    pub(crate) fn everyone(&self) -> io::Result<Found> {
        Search::new(self)?.everyone()
    }

    /// Records of the leases that were taken on in this boot.
    fn taken(&self) -> io::Result<Vec<Taken>> {
        let boot = process::boot_id()?;
        let mut found = Vec::new();
        for epoch in self.epochs()? {
            // A record that cannot be read leaves the other kinds of proof.
            let taken = supervisor::taken(&self.roots.lease(epoch)).ok().flatten();
            found.extend(taken.filter(|taken| taken.boot_id == boot));
        }
        Ok(found)
    }
}

/// One look at the whole host.
struct Search<'a> {
    scope: &'a Scope,
    all: Vec<Process>,
    spared: HashSet<process::Pid>,
    taken: Vec<Taken>,
    found: Found,
    seen: HashSet<Id>,
}

impl<'a> Search<'a> {
    fn new(scope: &'a Scope) -> io::Result<Self> {
        let taken = scope.taken()?;
        // Read after the records: a process that these speak of is then in the list, or gone.
        let all = process::all()?;
        let spared = process::own_line(&all);
        Ok(Self { scope, all, spared, taken, found: Found::default(), seen: HashSet::new() })
    }

    fn family(mut self) -> io::Result<Found> {
        self.look_at_supervisors();
        self.look_at_groups()?;
        self.look_at_descent();
        Ok(self.found)
    }

    fn everyone(mut self) -> io::Result<Found> {
        self.look_at_supervisors();
        self.look_at_groups()?;
        self.look_at_descent();
        self.look_at_marks();
        self.look_at_ties();
        Ok(self.found)
    }

    fn look_at_supervisors(&mut self) {
        let living: HashSet<Id> =
            self.all.iter().filter(|process| process.is_alive()).map(|process| process.id).collect();
        self.found.supervisors.extend(self.taken.iter().map(|taken| taken.supervisor).filter(|id| living.contains(id)));
        self.seen.extend(self.found.supervisors.iter().copied());
    }

    fn look_at_groups(&mut self) -> io::Result<()> {
        let by_pid: HashMap<process::Pid, Process> =
            self.all.iter().map(|process| (process.id.pid, process.clone())).collect();
        for group in self.scope.groups()? {
            for pid in group.processes()? {
                if let Some(process) = by_pid.get(&pid) {
                    self.add(process.clone(), "cgroup");
                } else if let Some(process) = process::read(pid)? {
                    self.add(process, "cgroup");
                }
            }
        }
        Ok(())
    }

    fn look_at_descent(&mut self) {
        let roots: Vec<Id> =
            self.taken.iter().flat_map(|taken| [Some(taken.supervisor), taken.main]).flatten().collect();
        let descendants = process::descendants(&self.all, &roots);
        let mains: HashSet<Id> = self.taken.iter().filter_map(|taken| taken.main).collect();
        for process in self.all.clone() {
            if descendants.contains(&process.id) || mains.contains(&process.id) {
                self.add(process, "tree");
            }
        }
    }

    fn look_at_marks(&mut self) {
        let prefix = self.scope.roots.mark_prefix();
        for process in self.all.clone() {
            match process::environment_entry(process.id.pid, &prefix) {
                Ok(Some(token)) => {
                    let token = std::str::from_utf8(&token).ok().and_then(|token| token.parse().ok());
                    if token.is_some_and(|token| self.scope.tokens.contains(&token)) {
                        self.add(process, "mark");
                    }
                }
                Ok(None) => {}
                Err(_) => self.found.unreadable += 1,
            }
        }
    }

    fn look_at_ties(&mut self) {
        for taken in std::mem::take(&mut self.taken) {
            let lease = self.scope.roots.lease(taken.epoch);
            let folders: [PathBuf; 3] = [lease.work(), lease.home(), lease.tmp()];
            for process in self.all.clone() {
                if self.seen.contains(&process.id) || !process.is_alive() {
                    continue;
                }
                let Some(tie) = process::ties(process.id.pid, &folders) else { continue };
                if process.id.start >= taken.supervisor.start {
                    self.add(process, tie);
                } else if !self.spared.contains(&process.id.pid) {
                    self.found.bystanders.push(process);
                }
            }
        }
    }

    fn add(&mut self, process: Process, proof: &'static str) {
        let counts = process.is_alive() && !process.kernel && !self.spared.contains(&process.id.pid);
        if counts && self.seen.insert(process.id) {
            self.found.processes.push((process, proof));
        }
    }
}
