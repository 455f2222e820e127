//! Mounts below a worker's roots, taken away from the innermost outwards.
//!
//! In the worker's own folder every mount is a leftover. In the pool's further folders operators may have mounts of their
//! own: what was there when the worker was last clean, or when it was first seen, is theirs and stays.
//!
//! Invariants
//! * Only mounts strictly below a root are touched: a root that is a mount itself is the operator's.
//! * The roots were found to be allowed before (see `further`).
//! * The last look at /proc/self/mountinfo found none that is due.
//!
//! Never here: mounts of other namespaces; they end with their last process.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::control::Control;
use super::control::Halt;
use super::control::Patience;
use super::evidence::Tally;
use crate::mounts;

mod limits {
    use std::time::Duration;

    /// A busy mount is asked for this long before it is detached: what keeps it busy mostly is a process about to end.
    pub(super) const BUSY: Duration = Duration::from_millis(300);
}

/// Unmounts everything below `roots` but what is mounted at one of the `kept` points.
pub(crate) fn unmount_below(
    roots: &[PathBuf],
    kept: &BTreeSet<String>,
    control: &Control,
    tally: &mut Tally,
) -> Result<(), Halt> {
    let since = Instant::now();
    let mut patience = Patience::new();
    loop {
        control.check()?;
        let mut found = mounts::below(roots)?;
        found.retain(|mount| !kept.contains(&mounts::shown(&mount.point)));
        tally.left = found.len() as u64;
        if found.is_empty() {
            return Ok(());
        }
        for mount in &found {
            let shown = mounts::shown(&mount.point);
            match rustix::mount::unmount(&mount.point, flags(since.elapsed())) {
                Ok(()) => {
                    tally.removed += 1;
                    tally.evidence.note("unmounted", shown);
                }
                // Busy for now, or gone with the one that it was in.
                Err(Errno::BUSY | Errno::INVAL | Errno::NOENT) => {}
                Err(error) => {
                    tally.evidence.note("left", format!("{shown} ({error})"));
                    return Ok(());
                }
            }
        }
        patience.wait(control)?;
    }
}

fn flags(waited: Duration) -> UnmountFlags {
    if waited < limits::BUSY { UnmountFlags::NOFOLLOW } else { UnmountFlags::NOFOLLOW | UnmountFlags::DETACH }
}
