//! The walker's stack: the folders between the top of a tree and where it is.
//!
//! Invariants
//! * The top and the innermost folders are open; those between can be found again by `..` and their identity.
//!
//! Never here: removing.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;

mod limits {
    /// Folders held open, innermost first; far below the usual limit of 1024 descriptors.
    pub(super) const OPEN: usize = 32;
    /// Entries that stay and are named in the evidence, per folder.
    pub(super) const NAMED: usize = 8;
}

/// A folder on the way.
pub(super) struct Level {
    /// Its name in the folder above; empty for the top.
    pub(super) name: CString,
    /// Open while it is among the innermost.
    pub(super) folder: Option<OwnedFd>,
    pub(super) identity: (u64, u64),
    pub(super) batch: Vec<(CString, FileType)>,
    pub(super) pass: Pass,
    pub(super) passes: u32,
    /// Folders that stayed and were so deep that this one had to be opened again; its passes leave them out.
    pub(super) skipped: HashSet<CString>,
}

/// What the current pass over a folder met.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) removed: u64,
    pub(super) stuck: Vec<(CString, String)>,
    pub(super) stuck_count: u64,
    pub(super) ended: bool,
}

impl Level {
    pub(super) fn new(name: CString, folder: OwnedFd, identity: (u64, u64)) -> Self {
        Self {
            name,
            folder: Some(folder),
            identity,
            batch: Vec::new(),
            pass: Pass::default(),
            passes: 0,
            skipped: HashSet::new(),
        }
    }

    pub(super) fn left(&self) -> u64 {
        self.pass.stuck_count + self.skipped.len() as u64
    }

    pub(super) fn stuck(&mut self, name: CString, reason: String) {
        self.pass.stuck_count += 1;
        if self.pass.stuck.len() < limits::NAMED {
            self.pass.stuck.push((name, reason));
        }
    }

    pub(super) fn reopened(&mut self, folder: OwnedFd) {
        self.folder = Some(folder);
        self.batch.clear();
        self.pass = Pass::default();
    }
}

/// Adds an inner folder, and closes one further out that can be found again; the top stays open.
pub(super) fn push(stack: &mut Vec<Level>, level: Level) {
    stack.push(level);
    if let Some(index) = stack.len().checked_sub(limits::OPEN + 1)
        && index > 0
    {
        stack[index].folder = None;
        stack[index].batch = Vec::new();
    }
}
