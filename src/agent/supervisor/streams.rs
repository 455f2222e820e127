//! What goes into a job and comes out of it, through the streams in its lease's folder.
//!
//! Never here: waiting.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::limits;
use super::poke;
use super::spool;
use super::spool::Chunk;
use crate::host::Lease;

/// An output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Appends to the job's input; bytes before what was accepted are dropped. Returns how many were accepted in all, which
/// is less than `offset` and the data together while the job is too far behind, or when bytes are missing before `offset`.
pub fn write_input(lease: &Lease, offset: u64, data: &[u8], end: bool) -> io::Result<u64> {
    let folder = lease.folder().join("in");
    let mut writer = spool::Writer::open(&folder, limits::INPUT_SEGMENT, u64::MAX)?;
    let accepted = writer.end();
    let (known, closed) = (accepted.saturating_sub(offset), lease.folder().join("in.end").try_exists()?);
    let fresh = usize::try_from(known).ok().and_then(|known| data.get(known..)).unwrap_or_default();
    let room = (spool::begin(&folder)? + limits::INPUT_BEHIND).saturating_sub(accepted);
    let fits = usize::try_from(room).unwrap_or(usize::MAX).min(fresh.len());
    if offset <= accepted && !closed {
        writer.append(&fresh[..fits]);
        if end && fits == fresh.len() {
            File::create(lease.folder().join("in.end"))?;
        }
    }
    poke(lease, 0)?;
    spool::end(&folder)
}

/// Up to `max` bytes of a stream from `offset` on, or from the next byte that was kept. `None`: nothing there (yet).
pub fn read_output(lease: &Lease, stream: Stream, offset: u64, max: usize) -> io::Result<Option<Chunk>> {
    spool::read(&stream.folder(lease), offset, max)
}

/// All bytes of a stream so far, kept or not.
pub fn output_len(lease: &Lease, stream: Stream) -> io::Result<u64> {
    spool::end(&stream.folder(lease))
}

impl Stream {
    fn folder(self, lease: &Lease) -> PathBuf {
        lease.folder().join(match self {
            Stream::Stdout => "out",
            Stream::Stderr => "err",
        })
    }
}
