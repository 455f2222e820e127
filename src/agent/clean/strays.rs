//! Leftover processes, wherever they went: found by every kind of proof, and killed.
//!
//! A daemon that forked twice and began its own session is still in the lease's group, or below its supervisor. One that
//! left both (moved itself to another group, or survived the supervisor) still has the lease's mark, or a foot in its
//! folder. The job was asked to end before this step, so a stray is not asked again.
//!
//! Invariants
//! * The last look comes after the last signal, and found none.
//!
//! Never here: processes of leases newer than the run.

use std::collections::HashSet;

use rustix::process::Signal;

use super::control::Control;
use super::control::Halt;
use super::control::Patience;
use super::evidence::Tally;
use super::stop::send;
use super::suspects::Scope;

/// Kills what is left of the scope's leases.
pub(crate) fn end_strays(scope: &Scope, control: &Control, ended: &mut Tally) -> Result<(), Halt> {
    let mut met = HashSet::new();
    let mut bystanders = HashSet::new();
    let mut patience = Patience::new();
    let mut unreadable = 0;
    loop {
        control.check()?;
        let found = scope.everyone()?;
        unreadable = unreadable.max(found.unreadable);
        for process in &found.bystanders {
            if bystanders.insert(process.id) {
                ended.evidence.note("bystander", process.shown());
            }
        }
        for (process, proof) in &found.processes {
            if met.insert(process.id) {
                ended.evidence.note(&format!("stray-by-{proof}"), process.shown());
            }
            send(scope, process.id, Signal::KILL, &mut ended.evidence)?;
        }
        for id in &found.supervisors {
            met.insert(*id);
            send(scope, *id, Signal::KILL, &mut ended.evidence)?;
        }
        ended.left = found.processes.len() as u64 + found.supervisors.len() as u64;
        ended.removed = (met.len() as u64).saturating_sub(ended.left);
        if ended.left == 0 {
            ended.evidence.count("unreadable", unreadable);
            return Ok(());
        }
        patience.wait(control)?;
    }
}
