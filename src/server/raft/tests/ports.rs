//! Ports for tests that run side by side: blocks below the ephemeral range, each locked by a file while it is used.
//!
//! A port that the kernel hands out freely may be handed out again while a restarted replica is down; one in a locked
//! block may not.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;

const FIRST: u16 = 21_000;
const BLOCK: u16 = 10;
const BLOCKS: u16 = 500;

/// A block of ports that is ours until dropped.
#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    path: PathBuf,
    _lock: File,
}

impl Ports {
    /// Takes the first block that nobody holds and in which nothing listens.
    pub(super) fn take() -> Ports {
        let folder = std::env::temp_dir().join("remuda-test-ports");
        fs::create_dir_all(&folder).unwrap();
        let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap();
        for number in (0..BLOCKS).map(|step| (start + step) % BLOCKS) {
            let first = FIRST + number * BLOCK;
            let path = folder.join(format!("{first}.lock"));
            let Ok(lock) = File::create(&path) else { continue };
            if lock.try_lock().is_ok()
                && (first..first + BLOCK).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
            {
                return Ports { first, path, _lock: lock };
            }
        }
        panic!("no free block of ports");
    }

    /// The first port of the block; the nine after it belong to it.
    pub(super) fn first(&self) -> u16 {
        self.first
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
