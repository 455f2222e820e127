//! Ending what leases started: TERM, grace, KILL, and nothing left.
//!
//! First every lease of the scope is closed, so that nothing new begins. TERM (and CONT, for those that are stopped) goes
//! to the job's processes, not to the supervisor, which is to record how the job ended. What is left after the grace is
//! killed, group by group where there are groups. The supervisor then ends by itself; if it does not, it is killed too.
//!
//! ```text
//! forbid ──> TERM, CONT ──grace──> KILL ──> supervisors ──> groups removed ──> observed: none
//! ```
//!
//! Invariants
//! * Each process is told TERM once, also one that appeared during the grace.
//! * "Stopped" is said only of a scope that was looked at after the last signal, and had no living process.
//!
//! Never here: strays that left the group and the tree; see `strays`.

use std::collections::HashSet;
use std::io;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;

use super::control::Control;
use super::control::Halt;
use super::control::Patience;
use super::evidence::Evidence;
use super::evidence::Tally;
use super::suspects::Found;
use super::suspects::Scope;
use crate::failpoint;
use crate::process;
use crate::process::Id;
use crate::supervisor;

mod limits {
    use std::time::Duration;

    /// What a supervisor may take to record an end whose processes are gone: one sync.
    pub(super) const RECORDING: Duration = Duration::from_millis(1500);
}

/// Ends all leases of the scope. `ended` says at any time what was done so far.
pub(crate) fn stop(scope: &Scope, grace: Duration, control: &Control, ended: &mut Tally) -> Result<(), Halt> {
    for epoch in scope.epochs()? {
        supervisor::forbid(&scope.roots.lease(epoch))?;
    }
    for group in scope.groups()? {
        group.thaw()?;
    }
    let mut stopping =
        Stopping { scope, control, ended, told: HashSet::new(), killed: HashSet::new(), met: HashSet::new() };
    stopping.ask(grace)?;
    failpoint::hit("agent.stop.after_term");
    stopping.kill()?;
    failpoint::hit("agent.stop.after_kill");
    stopping.wait_for_supervisors()?;
    stopping.observe()
}

struct Stopping<'a> {
    scope: &'a Scope,
    control: &'a Control,
    ended: &'a mut Tally,
    /// Those that were told TERM.
    told: HashSet<Id>,
    /// Those that were killed, one by one or with their group.
    killed: HashSet<Id>,
    /// Those that were found at all, supervisors left out.
    met: HashSet<Id>,
}

impl Stopping<'_> {
    /// TERM and CONT, and patience.
    fn ask(&mut self, grace: Duration) -> Result<(), Halt> {
        let until = Instant::now() + grace;
        let mut patience = Patience::new();
        loop {
            let found = self.look()?;
            if found.processes.is_empty() || Instant::now() >= until {
                return Ok(());
            }
            for (process, _) in &found.processes {
                if self.told.insert(process.id) {
                    self.send(process.id, Signal::TERM)?;
                    self.send(process.id, Signal::CONT)?;
                }
            }
            patience.wait(self.control)?;
        }
    }

    /// KILL until none of the job's processes is left.
    fn kill(&mut self) -> Result<(), Halt> {
        let at_once = self.scope.roots.host().capabilities().cgroup_kill;
        let mut patience = Patience::new();
        loop {
            let found = self.look()?;
            if found.processes.is_empty() {
                return Ok(());
            }
            for group in self.scope.groups()? {
                group.child("job").kill(at_once)?;
            }
            for (process, _) in &found.processes {
                self.send(process.id, Signal::KILL)?;
                if self.killed.insert(process.id) {
                    self.ended.evidence.note("killed", process.shown());
                }
            }
            patience.wait(self.control)?;
        }
    }

    /// A supervisor ends once it has no child; one that does not is killed with its group.
    fn wait_for_supervisors(&mut self) -> Result<(), Halt> {
        let at_once = self.scope.roots.host().capabilities().cgroup_kill;
        let until = Instant::now() + limits::RECORDING;
        let mut patience = Patience::new();
        loop {
            let supervisors = self.look()?.supervisors;
            if supervisors.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                for group in self.scope.groups()? {
                    group.kill(at_once)?;
                }
                for id in supervisors {
                    self.send(id, Signal::KILL)?;
                    self.ended.evidence.count("supervisors-killed", 1);
                }
            }
            patience.wait(self.control)?;
        }
    }

    /// The post-condition: groups empty and removed, nobody descends from a supervisor.
    fn observe(&mut self) -> Result<(), Halt> {
        let at_once = self.scope.roots.host().capabilities().cgroup_kill;
        let mut patience = Patience::new();
        loop {
            let found = self.look()?;
            let mut empty = found.processes.is_empty() && found.supervisors.is_empty();
            for group in self.scope.groups()? {
                if group.populated()? {
                    group.kill(at_once)?;
                    empty = false;
                } else if group.remove().is_err() {
                    // A process entered between the two looks, or is not quite gone yet.
                    empty = false;
                }
            }
            if empty {
                return Ok(());
            }
            patience.wait(self.control)?;
        }
    }

    fn look(&mut self) -> Result<Found, Halt> {
        self.control.check()?;
        let found = self.scope.family()?;
        self.met.extend(found.processes.iter().map(|(process, _)| process.id));
        self.ended.left = found.processes.len() as u64 + found.supervisors.len() as u64;
        self.ended.removed = (self.met.len() as u64).saturating_sub(found.processes.len() as u64);
        Ok(found)
    }

    fn send(&mut self, id: Id, signal: Signal) -> Result<bool, Halt> {
        send(self.scope, id, signal, &mut self.ended.evidence)
    }
}

/// Sends a signal; what must not be signalled is noted, not an error: the post-condition will tell.
pub(super) fn send(scope: &Scope, id: Id, signal: Signal, evidence: &mut Evidence) -> Result<bool, Halt> {
    match process::signal(id, signal, scope.roots.host().capabilities().pidfd) {
        Ok(sent) => Ok(sent),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            evidence.note("not-permitted", id.pid.to_string());
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
