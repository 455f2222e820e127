//! Damage to the files of a closed log: it refuses to open, or every acknowledged entry is there. Never anything between.
//!
//! A log of small groups is written one batch at a time, so that the place of each batch in RocksDB's write-ahead log is
//! known. Then, each time on a fresh copy, something is broken and the copy is opened.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::workload::{Model, Op, entry, run};
use super::{new_store, open, runtime};
use crate::raft::log::{LogOptions, LogStore, Problem};
use crate::raft::types::{Vote, log_id};

/// RocksDB frames its write-ahead log in blocks of this size.
const WAL_BLOCK: u64 = 32 << 10;
const PAGE: u64 = 4096;

/// A closed log, what it held, and where its batches lie in the write-ahead log.
struct Specimen {
    folder: TempDir,
    model: Model,
    /// Ends of the batches in the write-ahead log, the first at 0.
    ends: Vec<u64>,
}

/// What opening damaged copies came to.
#[derive(Debug, Default)]
struct Verdicts {
    /// Copies that opened with everything in them.
    whole: usize,
    /// Copies refused because RocksDB found something.
    by_rocksdb: usize,
    /// Copies refused because RocksDB would have hung.
    by_framing: usize,
    /// Copies that RocksDB opened without complaint, refused because of the seal.
    by_seal: usize,
    /// Copies that RocksDB opened without complaint, refused because of the head row or the chain.
    by_chain: usize,
}

impl Verdicts {
    fn refused(&self) -> usize {
        self.by_rocksdb + self.by_framing + self.by_seal + self.by_chain
    }

    fn note(&mut self, problem: &Problem) {
        let count = match problem {
            Problem::Database(_) => &mut self.by_rocksdb,
            Problem::Framing { .. } => &mut self.by_framing,
            Problem::BatchesLost { .. } => &mut self.by_seal,
            Problem::RowMissing(_) | Problem::Row { .. } | Problem::WrongVote | Problem::ChainBroken { .. } => {
                &mut self.by_chain
            }
            Problem::Missing | Problem::Occupied | Problem::Io(_) | Problem::Seal(_) | Problem::ForeignSeal { .. } => {
                panic!("the damage was elsewhere: {problem}")
            }
        };
        *count += 1;
    }
}

impl Specimen {
    /// Writes each of `ops` as a batch of its own.
    fn new(ops: &[Op]) -> Specimen {
        let (folder, mut store) = new_store();
        let mut ends = vec![0];
        for op in ops {
            runtime().block_on(run(&mut store, std::slice::from_ref(op), |_| {}));
            wait_written(&store);
            ends.push(fs::metadata(wal(folder.path())).unwrap().len());
        }
        drop(store);
        assert!(ends.is_sorted_by(|a, b| a < b), "one batch each: {ends:?}");
        Specimen { folder, model: Model::after(ops), ends }
    }

    /// The bytes of the last `count` batches.
    fn last(&self, count: usize) -> Range<u64> {
        self.ends[self.ends.len() - 1 - count]..self.ends[self.ends.len() - 1]
    }

    /// Breaks a copy with `damage` and opens it. A copy that opens must hold everything, and still grow.
    fn try_open(&self, what: &str, verdicts: &Mutex<Verdicts>, damage: impl FnOnce(&Path)) {
        let copy = scratch();
        copy_files(self.folder.path(), copy.path());
        damage(copy.path());
        match open(copy.path()) {
            Ok(mut store) => {
                verdicts.lock().whole += 1;
                let found = runtime().block_on(Model::of(&mut store));
                assert_eq!(found, self.model, "{what}: it opened without complaint");
            }
            Err(error) => {
                verdicts.lock().note(&error.problem);
                assert!(error.to_string().len() > 30, "{what}: the error says what is the matter: {error}");
                assert!(open(copy.path()).is_err(), "{what}: refused once, refused always");
            }
        }
    }
}

/// Waits for the requests that nobody acknowledges too.
fn wait_written(store: &LogStore) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.handle().stalled_for().is_some() {
        assert!(Instant::now() < deadline, "the writer does not finish: {:?}", store.handle().progress());
        std::thread::yield_now();
    }
}

/// Copies need no disk that remembers.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn wal(folder: &Path) -> PathBuf {
    let mut logs: Vec<PathBuf> = fs::read_dir(folder.join("rows")).unwrap().map(|item| item.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|e| e == "log"));
    logs.sort();
    logs.pop().expect("an open database has a write-ahead log")
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("rows")).unwrap();
    fs::copy(from.join("seal"), to.join("seal")).unwrap();
    for item in fs::read_dir(from.join("rows")).unwrap() {
        let item = item.unwrap();
        if item.file_name() != "LOG" {
            fs::copy(item.path(), to.join("rows").join(item.file_name())).unwrap();
        }
    }
}

fn overwrite(path: &Path, at: u64, change: impl FnOnce(&mut [u8]), length: usize) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, at).unwrap();
}

fn in_parallel<T: Sync>(items: &[T], each: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    each(item);
                }
            });
        }
    });
}

/// Votes, appends, a truncation and a purge; the last three batches are groups of entries.
fn small_ops() -> Vec<Op> {
    let mut ops = vec![Op::Vote(Vote::new(1, 1)), Op::Append(vec![entry(1, 0, 4), entry(1, 1, 4), entry(1, 2, 4)])];
    ops.extend([Op::Truncate(log_id(1, 1)), Op::Vote(Vote::new_committed(2, 3)), Op::Append(vec![entry(2, 2, 8)])]);
    ops.extend([Op::Purge(log_id(1, 0)), Op::Committed(log_id(2, 2))]);
    ops.extend((3..7).map(|index| Op::Append(vec![entry(2, index, 2)])));
    ops
}

#[test]
fn a_flip_anywhere_in_the_last_three_groups_is_told_or_harmless() {
    let specimen = Specimen::new(&small_ops());
    let verdicts = Mutex::new(Verdicts::default());
    let offsets: Vec<u64> = specimen.last(3).collect();
    in_parallel(&offsets, |&at| {
        let bit = 1 << (at % 8);
        let flip = |folder: &Path| overwrite(&wal(folder), at, |bytes| bytes[0] ^= bit, 1);
        specimen.try_open(&format!("offset {at} bit {bit:#04x}"), &verdicts, flip);
    });
    let verdicts = verdicts.into_inner();
    println!("{} offsets: {verdicts:?}", offsets.len());
    assert!(offsets.len() > 300, "three batches are larger than that");
    assert!(verdicts.refused() > offsets.len() * 9 / 10, "hardly a byte there is without meaning");
}

#[test]
fn a_zeroed_page_is_told_or_harmless() {
    let specimen = Specimen::new(&(0..220).map(|n| Op::Append(vec![entry(1, n, 200)])).collect::<Vec<_>>());
    let end = *specimen.ends.last().unwrap();
    assert!(end > 2 * WAL_BLOCK, "over several blocks");
    let verdicts = Mutex::new(Verdicts::default());
    let pages: Vec<u64> = (0..end.div_ceil(PAGE)).collect();
    in_parallel(&pages, |&page| {
        let length = PAGE.min(end - page * PAGE) as usize;
        let zero = |folder: &Path| overwrite(&wal(folder), page * PAGE, |bytes| bytes.fill(0), length);
        specimen.try_open(&format!("page {page}"), &verdicts, zero);
    });
    let verdicts = verdicts.into_inner();
    println!("{} pages: {verdicts:?}", pages.len());
    assert_eq!(verdicts.refused(), pages.len(), "every page holds entries");
}

#[test]
fn a_cut_is_told() {
    let specimen = Specimen::new(&small_ops());
    let verdicts = Mutex::new(Verdicts::default());
    let boundaries = &specimen.ends[..specimen.ends.len() - 1];
    let inside = boundaries.iter().flat_map(|end| [end + 1, end + 7, end + 40]);
    let cuts: Vec<u64> = boundaries.iter().copied().chain(inside).collect();
    in_parallel(&cuts, |&at| {
        let cut = |folder: &Path| fs::OpenOptions::new().write(true).open(wal(folder)).unwrap().set_len(at).unwrap();
        specimen.try_open(&format!("cut at {at}"), &verdicts, cut);
    });
    let verdicts = verdicts.into_inner();
    println!("{} cuts: {verdicts:?}", cuts.len());
    assert_eq!(verdicts.refused(), cuts.len(), "every batch was sealed");
    assert!(verdicts.by_seal > cuts.len() / 2, "to RocksDB a cut is a torn write: only the seal tells");
}

#[test]
fn a_lost_file_is_told() {
    // Small write buffers: part of the log is in table files.
    let (folder, store) = new_store();
    drop(store);
    let ops: Vec<Op> = (0..400).map(|n| Op::Append(vec![entry(1, n, 700)])).collect();
    let mut store = LogStore::open(folder.path(), &LogOptions { tail_bytes: 1 << 20, write_buffer: 64 << 10 }).unwrap();
    runtime().block_on(run(&mut store, &ops, |_| {}));
    drop(store);
    let specimen = Specimen { folder, model: Model::after(&ops), ends: Vec::new() };
    let names: Vec<String> = fs::read_dir(specimen.folder.path().join("rows"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            name.ends_with(".log") || name.ends_with(".sst") || name.starts_with("MANIFEST") || name == "CURRENT"
        })
        .collect();
    assert!(names.iter().any(|name| name.ends_with(".sst")), "{names:?}");
    let verdicts = Mutex::new(Verdicts::default());
    for name in &names {
        specimen.try_open(&format!("{name} removed"), &verdicts, |folder| {
            fs::remove_file(folder.join("rows").join(name)).unwrap();
        });
        specimen.try_open(&format!("{name} flipped"), &verdicts, |folder| {
            let path = folder.join("rows").join(name);
            let middle = fs::metadata(&path).unwrap().len() / 2;
            overwrite(&path, middle, |bytes| bytes[0] ^= 0x40, 1);
        });
    }
    let verdicts = verdicts.into_inner();
    println!("{} files: {verdicts:?}", names.len());
    assert!(verdicts.refused() >= names.len(), "a removed file is always missed");
}
