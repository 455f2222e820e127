//! Which further folders a pool may have emptied.
//!
//! A pool's owner names folders by text. One wrong text (`/`, or a parent of the agent's own state) would take the host
//! down with the worker, so a step looks at all of them before it acts on any.
//!
//! Invariants
//! * No allowed folder holds a folder that the system, or the agent, lives in.
//!
//! Never here: touching a folder.

use std::io;
use std::path::Component;
use std::path::Path;

use crate::host::Roots;

/// What no further folder may hold or be.
const SYSTEM: [&str; 14] = [
    "/bin", "/boot", "/dev/pts", "/dev/shm", "/etc", "/home", "/lib", "/proc", "/root", "/run", "/sbin", "/sys",
    "/usr", "/var/lib",
];
/// What no further folder may lie in: not made of files.
const KERNEL: [&str; 2] = ["/proc", "/sys"];

/// Refuses a folder that is not absolute and plain, or that holds what the host or the agent needs.
pub(crate) fn check(folder: &Path, roots: &Roots) -> io::Result<()> {
    let plain = folder.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let state = roots.folder();
    let reason = if !folder.is_absolute() || !plain {
        "is not an absolute path without `..`"
    } else if SYSTEM.iter().any(|system| Path::new(system).starts_with(folder)) {
        "holds folders of the system"
    } else if KERNEL.iter().any(|kernel| folder.starts_with(kernel)) {
        "is the kernel's"
    } else if state.starts_with(folder) || folder.starts_with(&state) {
        "is, holds or lies in the agent's own folder"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} {reason}; not touched", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::trial::Bench;

    // Only the check itself: nothing here may ever reach a step.
    #[test]
    fn what_the_host_needs_is_refused() {
        let bench = Bench::without(&["cgroup"]);
        let own = bench.roots.folder();
        let parent = own.parent().unwrap().to_path_buf();
        let wrong = [
            "/",
            "/usr",
            "/var",
            "/dev",
            "/dev/shm",
            "/home",
            "/proc/1",
            "/sys/fs/cgroup",
            "relative",
            "",
            "/tmp/../etc",
        ];
        for folder in wrong.iter().map(Path::new).chain([own.as_path(), &parent, &own.join("tmp")]) {
            assert!(check(folder, &bench.roots).is_err(), "{}", folder.display());
        }
        for folder in ["/var/cache/ci", "/home/ci/cache", "/opt/ci", "/dev/shm/ci", "/usr/local/ci", "/tmp/ci"] {
            assert!(check(Path::new(folder), &bench.roots).is_ok(), "{folder}");
        }
    }
}
