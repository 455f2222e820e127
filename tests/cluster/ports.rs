//! A cluster's ports: a block below the range from which the system takes ports for outgoing connections.
//!
//! The block is held by the same lock files as `remuda dev` uses, so that a process which is down for a moment finds
//! its ports free when it comes back.
//!
//! Never here: listening.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use rustix::fs::{FlockOperation, flock};

/// The shape of a block, the same as that of `remuda dev`.
mod limits {
    /// The first block.
    pub(super) const LOW: u16 = 10_000;
    /// Where the system's own range begins.
    pub(super) const HIGH: u16 = 32_768;
    /// Ports in a block.
    pub(super) const BLOCK: u16 = 200;
    /// Replica i begins here.
    pub(super) const REPLICA: u16 = 10;
    /// Agents begin here.
    pub(super) const AGENTS: u16 = 100;
    /// Blocks tried before it is given up.
    pub(super) const TRIES: usize = 200;
}

/// A locked block.
#[derive(Debug)]
pub(crate) struct Ports {
    base: u16,
    lock: PathBuf,
    _held: File,
}

impl Ports {
    /// A free block.
    pub(crate) fn take() -> Result<Self> {
        let blocks = (limits::HIGH - limits::LOW) / limits::BLOCK;
        for _ in 0..limits::TRIES {
            let base = limits::LOW + limits::BLOCK * rand::random_range(0..blocks);
            let lock = std::env::temp_dir().join(format!("remuda-ports-{base}.lock"));
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            // Its last holder may have removed the file between our opening and locking it.
            let same =
                std::fs::metadata(&lock).is_ok_and(|there| file.metadata().is_ok_and(|f| f.ino() == there.ino()));
            let free = (base..base + limits::BLOCK).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
            if same && free {
                return Ok(Self { base, lock, _held: file });
            }
            if same {
                let _ = std::fs::remove_file(&lock);
            }
        }
        bail!("no free block of ports was found")
    }

    /// Where replica `id` serves clients.
    pub(crate) fn client(&self, id: u16) -> String {
        self.at(limits::REPLICA * (id - 1))
    }

    /// Where replica `id` serves peers.
    pub(crate) fn peer(&self, id: u16) -> String {
        self.at(limits::REPLICA * (id - 1) + 1)
    }

    /// Where replica `id` serves operators.
    pub(crate) fn admin(&self, id: u16) -> String {
        self.at(limits::REPLICA * (id - 1) + 2)
    }

    /// Where agent `id` serves executions.
    pub(crate) fn executions(&self, id: u16) -> String {
        self.at(limits::AGENTS + id)
    }

    fn at(&self, offset: u16) -> String {
        format!("127.0.0.1:{}", self.base + offset)
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.lock);
    }
}
