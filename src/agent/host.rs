//! What the agent owns on its host: a folder and a group per worker and lease, whose names follow from both.
//!
//! Whatever a lease leaves behind is found again by name after any restart: its folder, its TMPDIR, its cgroup, and its
//! mark, an environment variable that every process of the lease inherits. The mark begins with an id drawn once per state
//! folder, since several agents may share a host and call their workers alike.
//!
//! ```text
//! <state>/host.json                          the id, and the folder that the cgroups are in
//! <state>/workers/<pool.worker>/leases/<epoch>/{work, home, ...records}      tmp/<epoch>      aside/<what is being removed>
//!                               kept/        what must outlive cleaning; everything else here belongs to a lease
//! ```
//!
//! Invariants
//! * Paths are canonical: mounts, marks and open files are compared with them.
//! * Two workers never share a folder, nor two leases.
//!
//! Never here: starting and ending anything.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::capability::Capabilities;
use crate::capability::Switches;
use crate::cgroup;
use crate::cgroup::Cgroup;
use crate::supervisor::Launcher;
use crate::supervisor::record;

/// The variable by which processes of a lease, or of a cleaning run, are known.
pub const MARK: &str = "REMUDA_LEASE_MARK";

/// This host, as one agent uses it.
#[derive(Debug)]
pub struct Host {
    state: PathBuf,
    capabilities: Capabilities,
    launcher: Launcher,
    record: Record,
}

/// What must be the same after a restart.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// Random, tells this agent's leases from another's.
    instance: String,
    /// Where this agent's cgroups are.
    #[serde(default)]
    groups: Option<PathBuf>,
}

impl Host {
    /// Makes or finds what the agent keeps below `state`, and tries what the host can do.
    ///
    /// Only one agent at a time may have a state folder open; holding the lock is the caller's.
    pub fn open(state: &Path, switches: &Switches, launcher: Launcher) -> io::Result<Arc<Self>> {
        fs::create_dir_all(state.join("workers"))?;
        let state = fs::canonicalize(state)?;
        let file = state.join("host.json");
        let mut record = match record::read::<Record>(&file)? {
            Some(record) => record,
            None => Record { instance: uuid::Uuid::new_v4().simple().to_string(), groups: None },
        };
        let before = record.groups.as_deref().and_then(Path::parent);
        let capabilities = Capabilities::detect(switches, before);
        if let Some(base) = &capabilities.cgroup {
            let groups = base.join(format!("remuda-{}", record.instance));
            fs::create_dir_all(&groups)?;
            record.groups = Some(groups);
        }
        record::write(&file, &record)?;
        Ok(Arc::new(Self { state, capabilities, launcher, record }))
    }

    /// What it can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The folders of `worker` (`pools/{pool}/workers/{worker}`), made if they are absent.
    pub fn roots(self: &Arc<Self>, worker: &str) -> io::Result<Roots> {
        let name = folder_name(worker);
        let roots = Roots { host: Arc::clone(self), worker: worker.into(), name: name.into() };
        for part in ["leases", "tmp", "aside", "kept"] {
            fs::create_dir_all(roots.folder().join(part))?;
        }
        Ok(roots)
    }

    /// Removes the cgroups that are empty. For an agent that leaves; best effort.
    pub fn dissolve(&self) {
        let Some(groups) = &self.record.groups else { return };
        for name in cgroup::groups_in(groups).unwrap_or_default() {
            let group = Cgroup::at(groups.join(name));
            if matches!(group.populated(), Ok(false)) {
                let _ = group.remove();
            }
        }
        let _ = fs::remove_dir(groups);
    }

    pub(crate) fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// The folder in which new groups are made; none where the host has no usable cgroup v2.
    fn groups_for_new(&self) -> Option<&Path> {
        self.capabilities.cgroup.as_ref().and(self.record.groups.as_deref())
    }
}

/// What belongs to one worker.
#[derive(Debug, Clone)]
pub struct Roots {
    host: Arc<Host>,
    worker: Arc<str>,
    name: Arc<str>,
}

impl Roots {
    /// The worker, `pools/{pool}/workers/{worker}`.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// The host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The folder that holds everything of the worker.
    pub fn folder(&self) -> PathBuf {
        self.host.state.join("workers").join(&*self.name)
    }

    /// For what must outlive cleaning.
    pub fn kept(&self) -> PathBuf {
        self.folder().join("kept")
    }

    /// Where folders are moved to before they are removed.
    pub fn aside(&self) -> PathBuf {
        self.folder().join("aside")
    }

    /// The folder of the leases' folders.
    pub fn leases(&self) -> PathBuf {
        self.folder().join("leases")
    }

    /// The folder of the leases' TMPDIRs.
    pub fn temporaries(&self) -> PathBuf {
        self.folder().join("tmp")
    }

    /// The lease with this epoch; nothing of it need exist.
    pub fn lease(&self, epoch: u64) -> Lease {
        Lease { roots: self.clone(), epoch }
    }

    /// Epochs of the leases that have a folder, sorted.
    pub fn epochs(&self) -> io::Result<Vec<u64>> {
        let mut epochs = Vec::new();
        for entry in fs::read_dir(self.leases())? {
            epochs.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Where a further folder of the pool's is for this worker: `{worker}` in it becomes the worker's id.
    pub fn further(&self, folder: &str) -> PathBuf {
        let id = self.worker.rsplit('/').next().unwrap_or(&self.worker);
        PathBuf::from(folder.replace("{worker}", id))
    }

    /// The groups of this worker that exist, each with the token (an epoch or a run) in its name.
    pub(crate) fn groups(&self) -> io::Result<Vec<(u64, Cgroup)>> {
        let Some(base) = self.host.record.groups.as_deref() else { return Ok(Vec::new()) };
        let token = |name: &str| name.strip_prefix(&*self.name)?.strip_prefix('-')?.parse::<u64>().ok();
        let names = cgroup::groups_in(base)?;
        let mut groups: Vec<_> =
            names.iter().filter_map(|name| Some((token(name)?, Cgroup::at(base.join(name))))).collect();
        groups.sort_unstable_by_key(|(token, _)| *token);
        Ok(groups)
    }

    /// The group of a token; none where the host has no usable cgroup v2.
    pub(crate) fn group(&self, token: u64) -> Option<Cgroup> {
        let base = self.host.groups_for_new()?;
        Some(Cgroup::at(base.join(format!("{}-{token}", self.name))))
    }

    /// The mark of a token (an epoch or a run).
    pub(crate) fn mark(&self, token: u64) -> String {
        format!("{}/{}/{token}", self.host.record.instance, self.name)
    }

    /// What the environment entry of each of this worker's marks begins with.
    pub(crate) fn mark_prefix(&self) -> Vec<u8> {
        format!("{MARK}={}/{}/", self.host.record.instance, self.name).into_bytes()
    }
}

/// What belongs to one lease.
#[derive(Debug, Clone)]
pub struct Lease {
    roots: Roots,
    epoch: u64,
}

impl Lease {
    /// The lease's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The worker's.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The lease's folder: records, output, and the job's own folders in it.
    pub fn folder(&self) -> PathBuf {
        self.roots.leases().join(self.epoch.to_string())
    }

    /// The job's working folder.
    pub fn work(&self) -> PathBuf {
        self.folder().join("work")
    }

    /// The job's HOME.
    pub fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// The job's TMPDIR; outside the lease's folder, since another step removes it.
    pub fn tmp(&self) -> PathBuf {
        self.roots.temporaries().join(self.epoch.to_string())
    }

    pub(crate) fn group(&self) -> Option<Cgroup> {
        self.roots.group(self.epoch)
    }

    pub(crate) fn mark(&self) -> String {
        self.roots.mark(self.epoch)
    }
}

/// `pools/{pool}/workers/{worker}` as a file name: `pool.worker`, with every byte escaped that could mean something else.
fn folder_name(worker: &str) -> String {
    let short = worker.strip_prefix("pools/").unwrap_or(worker).replacen("/workers/", ".", 1);
    let mut name = String::with_capacity(short.len());
    for (place, byte) in short.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if place > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
pub(crate) mod trial;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_have_names_of_their_own() {
        assert_eq!(folder_name("pools/ci/workers/w-1"), "ci.w-1");
        assert_eq!(folder_name("../../etc"), "%2e.%2f..%2fetc");
        assert_ne!(folder_name("pools/a/workers/b/c"), folder_name("pools/a/workers/b%2fc"));
    }

    #[test]
    fn the_instance_survives_and_differs() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |folder: &Path| Host::open(folder, &Switches::default(), Launcher::own()).unwrap();
        let worker = "pools/ci/workers/w-1";
        let marks = [one.path(), one.path(), two.path()].map(|folder| {
            let host = open(folder);
            let roots = host.roots(worker).unwrap();
            assert!(roots.epochs().unwrap().is_empty());
            assert_eq!(roots.further("/cache/{worker}/x"), Path::new("/cache/w-1/x"));
            host.dissolve();
            roots.mark(7)
        });
        assert_eq!(marks[0], marks[1]);
        assert_ne!(marks[0], marks[2]);
    }
}
