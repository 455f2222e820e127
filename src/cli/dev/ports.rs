//! The ports of one development cluster: a block, from a base that was given or that is free.
//!
//! A free block lies below the range from which the system gives ports to outgoing connections, and is held by a lock
//! file while this process lives, so that a child that is down for a moment finds its ports free when it comes back,
//! however many clusters run side by side.
//!
//! Never here: listening.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::failure::Failure;

/// The shape of a block.
mod limits {
    /// Replica i begins here.
    pub(super) const REPLICA: u16 = 10;
    /// Agents begin after this.
    pub(super) const AGENTS: u16 = 100;
    /// Ports in a block: nine replicas, and 64 agents after the first hundred.
    pub(super) const BLOCK: u16 = 200;
    /// The first free block.
    pub(super) const LOW: u16 = 10_000;
    /// Where the system's own range begins.
    pub(super) const HIGH: u16 = 32_768;
    /// Blocks tried before it is given up.
    pub(super) const TRIES: usize = 200;
}

/// A block of ports.
#[derive(Debug)]
pub(super) struct Ports {
    base: u16,
    _lock: Option<Lock>,
}

impl Ports {
    /// The block at `base`, or a free one for 0.
    pub(super) fn take(base: u16) -> Result<Self, Failure> {
        if base == 0 {
            return Self::free(&std::env::temp_dir());
        }
        if base.checked_add(limits::BLOCK).is_none() {
            return Err(Failure::usage(format!("--base-port {base} leaves no room for {} ports", limits::BLOCK)));
        }
        Ok(Self { base, _lock: None })
    }

    fn free(locks: &Path) -> Result<Self, Failure> {
        let blocks = (limits::HIGH - limits::LOW) / limits::BLOCK;
        for _ in 0..limits::TRIES {
            let base = limits::LOW + limits::BLOCK * rand::random_range(0..blocks);
            if let Some(lock) = Lock::take(locks, base)
                && bindable(base)
            {
                return Ok(Self { base, _lock: Some(lock) });
            }
        }
        Err(Failure::other("no free block of ports was found"))
    }

    /// Where replica `id` serves clients.
    pub(super) fn client(&self, id: u16) -> String {
        self.replica(id, 0)
    }

    /// Where replica `id` serves peers.
    pub(super) fn peer(&self, id: u16) -> String {
        self.replica(id, 1)
    }

    /// Where replica `id` serves operators.
    pub(super) fn admin(&self, id: u16) -> String {
        self.replica(id, 2)
    }

    /// Where agent `id` serves executions.
    pub(super) fn executions(&self, id: u16) -> String {
        format!("127.0.0.1:{}", self.base + limits::AGENTS + id)
    }

    fn replica(&self, id: u16, offset: u16) -> String {
        assert!(id > 0, "replicas are counted from 1");
        format!("127.0.0.1:{}", self.base + limits::REPLICA * (id - 1) + offset)
    }
}

/// Whether nobody listens in the block.
fn bindable(base: u16) -> bool {
    (base..base + limits::BLOCK).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// A locked file, removed at the end.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(folder: &Path, base: u16) -> Option<Self> {
        let path = folder.join(format!("remuda-ports-{base}.lock"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        // Its last holder may have removed the file between our opening and locking it.
        let same = std::fs::metadata(&path).ok()?.ino() == file.metadata().ok()?.ino();
        same.then_some(Self { path, _file: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_where_the_documentation_says() {
        let ports = Ports::take(7400).expect("a good base");
        assert_eq!((ports.client(1), ports.peer(1), ports.admin(1)), at([7400, 7401, 7402]));
        assert_eq!((ports.client(3), ports.peer(3), ports.admin(3)), at([7420, 7421, 7422]));
        assert_eq!(ports.executions(4), "127.0.0.1:7504");
        assert_eq!(Ports::take(65_500).expect_err("no room").status(), 2);
    }

    fn at(ports: [u16; 3]) -> (String, String, String) {
        let [a, b, c] = ports.map(|p| format!("127.0.0.1:{p}"));
        (a, b, c)
    }

    #[test]
    fn a_block_is_held_until_it_is_let_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Lock::take(folder.path(), 10_000).expect("free");
        assert!(Lock::take(folder.path(), 10_000).is_none());
        drop(first);
        assert!(Lock::take(folder.path(), 10_000).is_some());
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0, "nothing is left behind");
    }

    #[test]
    fn free_blocks_do_not_overlap() {
        let folder = tempfile::tempdir().expect("a folder");
        let taken: Vec<_> = (0..3).map(|_| Ports::free(folder.path()).expect("free")).collect();
        let mut bases: Vec<_> = taken.iter().map(|p| p.base).collect();
        bases.sort_unstable();
        bases.dedup();
        assert_eq!(bases.len(), 3);
        assert!(bases.iter().all(|b| b % limits::BLOCK == 0 && b + limits::BLOCK <= limits::HIGH));
    }
}
