//! What this host lets the agent do, found out by trying.
//!
//! Each facility has a name. What is there is reported as a capability of the session, what is not as a missing one, also
//! in every receipt, together with the way in which the agent makes up for it. A facility can be declared absent with
//! `REMUDA_WITHOUT=cgroup,openat2`, so that the ways round are tried on hosts that have everything.
//!
//! Invariants
//! * A capability is present only if a probe of it succeeded in this process.
//! * The lists are sorted; their union is always [`NAMES`].
//!
//! Never here: deciding what to do about it; that is the plan's.

use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::process::PidfdFlags;

use crate::cgroup;

/// Every capability, sorted.
pub const NAMES: &[&str] = &["cgroup", "cgroup-kill", "openat2", "pidfd", "root", "subreaper"];

/// Facilities that are to be taken as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switches {
    without: Vec<String>,
}

impl Switches {
    /// Takes these facilities as absent; unknown names are an error that names them.
    pub fn without<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let without: Vec<String> = names.into_iter().map(str::to_owned).collect();
        match without.iter().find(|name| !NAMES.contains(&name.as_str())) {
            Some(unknown) => Err(format!("`{unknown}` is no capability; known are {}", NAMES.join(", "))),
            None => Ok(Self { without }),
        }
    }

    /// Reads `REMUDA_WITHOUT`, a list separated by commas.
    pub fn from_env() -> Result<Self, String> {
        let text = std::env::var("REMUDA_WITHOUT").unwrap_or_default();
        Self::without(text.split(',').map(str::trim).filter(|name| !name.is_empty()))
    }

    fn allows(&self, name: &str) -> bool {
        !self.without.iter().any(|absent| absent == name)
    }
}

/// What this host lets the agent do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The agent runs as root.
    pub root: bool,
    /// A folder of cgroup v2 in which the agent can make groups.
    pub cgroup: Option<PathBuf>,
    /// A group is killed by one write (Linux 5.14).
    pub cgroup_kill: bool,
    /// Paths are opened beneath a folder and without symlinks by the kernel (Linux 5.6).
    pub openat2: bool,
    /// Processes are signalled through a handle, so that a reused pid is never hit (Linux 5.3).
    pub pidfd: bool,
    /// Orphans of a job fall to its supervisor.
    pub subreaper: bool,
}

impl Capabilities {
    /// Tries everything that `switches` allows. `base` is the cgroup folder chosen before, if there was one.
    pub fn detect(switches: &Switches, base: Option<&Path>) -> Self {
        let cgroup = switches.allows("cgroup").then(|| cgroup::usable_base(base)).flatten();
        let kill = cgroup.as_deref().is_some_and(cgroup::has_kill);
        Self {
            root: switches.allows("root") && rustix::process::geteuid().is_root(),
            cgroup_kill: switches.allows("cgroup-kill") && kill,
            cgroup,
            openat2: switches.allows("openat2") && has_openat2(),
            pidfd: switches.allows("pidfd") && has_pidfd(),
            subreaper: switches.allows("subreaper") && rustix::process::child_subreaper().is_ok(),
        }
    }

    /// Names of what the host can do, sorted.
    pub fn present(&self) -> Vec<String> {
        self.listed(true)
    }

    /// Names of what the host cannot do, sorted.
    pub fn missing(&self) -> Vec<String> {
        self.listed(false)
    }

    /// What is missing with the way in which it is made up for, one line each, sorted; for receipts.
    pub fn shortfalls(&self) -> Vec<String> {
        let shortfalls = self.missing().into_iter().map(|name| match substitute(&name) {
            Some(substitute) => format!("{name}: {substitute}"),
            None => name,
        });
        shortfalls.collect()
    }

    fn listed(&self, wanted: bool) -> Vec<String> {
        let all = [
            ("cgroup", self.cgroup.is_some()),
            ("cgroup-kill", self.cgroup_kill),
            ("openat2", self.openat2),
            ("pidfd", self.pidfd),
            ("root", self.root),
            ("subreaper", self.subreaper),
        ];
        debug_assert!(all.iter().map(|(name, _)| name).eq(NAMES), "one entry per name, in order");
        all.iter().filter(|(_, present)| *present == wanted).map(|(name, _)| (*name).to_owned()).collect()
    }
}

fn substitute(name: &str) -> Option<&'static str> {
    match name {
        "cgroup" => Some("process tree, start time and environment mark"),
        "cgroup-kill" => Some("signals until none is left"),
        "openat2" => Some("single names without symlinks, device compared"),
        "pidfd" => Some("start time compared before each signal"),
        "root" => Some("own processes and files only"),
        "subreaper" => Some("environment mark"),
        _ => None,
    }
}

fn has_openat2() -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let Ok(root) = rustix::fs::open("/", flags, Mode::empty()) else { return false };
    rustix::fs::openat2(&root, ".", flags, Mode::empty(), resolve).is_ok()
}

fn has_pidfd() -> bool {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_and_missing_make_up_all_names() {
        let found = Capabilities::detect(&Switches::default(), None);
        let mut all = found.present();
        all.extend(found.missing());
        all.sort();
        assert_eq!(all, NAMES);
    }

    #[test]
    fn switches_take_facilities_away() {
        let switches = Switches::without(NAMES.iter().copied()).unwrap();
        let found = Capabilities::detect(&switches, None);
        assert_eq!(found.missing(), NAMES);
        assert!(found.shortfalls().iter().all(|line| line.contains(": ")), "each shortfall says what is done instead");
        assert!(Switches::without(["cgruop"]).unwrap_err().contains("cgruop"));
    }
}
