//! A look through RocksDB's log files before RocksDB reads them.
//!
//! RocksDB 11.8.1 never returns from opening a database if a record of its write-ahead log or manifest carries one of the
//! types that only recycled log files have (`Reader::ReadPhysicalRecord` answers "bad record" without going on, and
//! `ReadRecord` asks again, for ever). A single flipped bit makes such a type of an ordinary one. We never recycle log
//! files, so such a record is damage, and a replica must say so and stop instead of hanging.
//!
//! ```text
//! file    blocks of 32 KiB, each: record · record · … · less than 7 bytes of padding
//! record  crc32c u32 · length u16 · type u8 · data
//! ```
//!
//! Checksums are RocksDB's to verify; only the walk from header to header is repeated here, with its rule that a length
//! that leaves the block, or an all-zero header, ends the block.
//!
//! Never here: any other judgement. A torn tail is no damage.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;

/// A record that hangs RocksDB.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hanging {
    pub(super) file: PathBuf,
    pub(super) offset: u64,
    pub(super) kind: u8,
}

/// Looks through all log files of the database in `folder`; returns the first record that RocksDB would not survive.
pub(super) fn find_hanging(folder: &Path) -> io::Result<Option<Hanging>> {
    let mut files = Vec::new();
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".log") || name.starts_with("MANIFEST-") {
            files.push(path);
        }
    }
    files.sort();
    for file in files {
        if let Some((offset, kind)) = scan(File::open(&file)?)? {
            return Ok(Some(Hanging { file, offset, kind }));
        }
    }
    Ok(None)
}

fn scan(mut file: impl Read) -> io::Result<Option<(u64, u8)>> {
    let mut block = Vec::with_capacity(BLOCK);
    let mut begin = 0;
    loop {
        block.clear();
        let length = file.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        if let Some((at, kind)) = scan_block(&block) {
            return Ok(Some((begin + at as u64, kind)));
        }
        if length < BLOCK {
            return Ok(None);
        }
        begin += BLOCK as u64;
    }
}

fn scan_block(block: &[u8]) -> Option<(usize, u8)> {
    let mut at = 0;
    while let Some(&[_, _, _, _, low, high, kind]) = block.get(at..).and_then(|rest| rest.first_chunk::<HEADER>()) {
        if is_recycled(kind) {
            return Some((at, kind));
        }
        let length = usize::from(u16::from_le_bytes([low, high]));
        if kind == 0 && length == 0 {
            return None;
        }
        at += HEADER + length;
    }
    None
}

/// Full, first, middle and last fragments of recycled files, their timestamp sizes, and what they say of their
/// predecessor (RocksDB's `log_format.h`).
fn is_recycled(kind: u8) -> bool {
    matches!(kind, 5..=8 | 11 | 131)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, length: u16) -> Vec<u8> {
        let mut bytes = vec![0xaa; 4];
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.push(kind);
        bytes.resize(bytes.len() + usize::from(length), 5);
        bytes
    }

    #[test]
    fn finds_the_types_of_recycled_files_and_no_others() {
        for kind in 0..=u8::MAX {
            let file = [record(1, 300), record(kind, 20), record(4, 9)].concat();
            let found = scan(&file[..]).unwrap();
            let hangs = [5, 6, 7, 8, 11, 131].contains(&kind);
            assert_eq!(found, hangs.then_some((307, kind)), "type {kind}");
        }
    }

    #[test]
    fn walks_block_by_block() {
        let mut file = record(2, (BLOCK - HEADER) as u16);
        file.extend(record(4, 100));
        let end = file.len() as u64;
        file.extend(record(6, 1));
        assert_eq!(scan(&file[..]).unwrap(), Some((end, 6)));
        let padded = [record(1, (BLOCK - HEADER - 6) as u16), vec![5; 6], record(1, 50)].concat();
        assert_eq!(scan(&padded[..]).unwrap(), None, "padding is no record");
    }

    #[test]
    fn a_torn_or_zeroed_tail_is_nothing() {
        let file = [record(1, 300), record(1, 200)].concat();
        for length in 0..file.len() {
            assert_eq!(scan(&file[..length]).unwrap(), None, "cut to {length}");
        }
        let zeroed = [record(1, 300), vec![0; 100]].concat();
        assert_eq!(scan(&zeroed[..]).unwrap(), None);
    }
}
