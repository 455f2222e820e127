//! What is closed and opened again is what it was; what is not a whole log does not open.

use std::fs;
use std::path::Path;

use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use rocksdb::DB;

use super::workload::{Model, Op, entry, run, script};
use super::{identity, new_store, open, runtime};
use crate::raft::log::{LogOptions, LogStore, OpenError, Problem, row};
use crate::raft::types::{Identity, StoreId, Vote, log_id};

#[test]
fn a_log_reopens_as_it_was_closed() {
    for seed in 0..12 {
        let ops = script(seed, 300);
        let (folder, mut store) = new_store();
        for part in [0..100, 100..101, 101..300] {
            runtime().block_on(run(&mut store, &ops[part.clone()], |_| {}));
            drop(store);
            store = open(folder.path()).unwrap();
            let found = runtime().block_on(Model::of(&mut store));
            assert_eq!(found, Model::after(&ops[..part.end]), "seed {seed} after {}", part.end);
        }
        assert_eq!(store.identity(), identity());
    }
}

#[test]
fn entries_that_left_memory_are_read_from_disk() {
    let (folder, store) = new_store();
    drop(store);
    let small = LogOptions { tail_bytes: 2000, write_buffer: 64 << 10 };
    runtime().block_on(async {
        let mut store = LogStore::open(folder.path(), &small).unwrap();
        let ops: Vec<Op> = (0..400).map(|n| Op::Append(vec![entry(1, 2 * n, 300), entry(1, 2 * n + 1, 300)])).collect();
        run(&mut store, &ops, |_| {}).await;
        let expected = Model::after(&ops);
        assert_eq!(Model::of(&mut store).await, expected);
        assert!(store.handle().metrics().cold_reads.get() > 700, "most of them came from disk");
        let mut reader = store.get_log_reader().await;
        for (from, to) in [(0, 1), (3, 9), (397, 405), (790, 800), (799, 800)] {
            let found = reader.limited_get_log_entries(from, to).await.unwrap();
            assert!(found.iter().eq(expected.entries.range(from..to).map(|(_, entry)| entry)), "{from}..{to}");
        }
        // Truncated and purged in the cold part, and grown again: no dropped entry comes back.
        let mut ops = ops;
        let more = [Op::Truncate(log_id(1, 301)), Op::Append(vec![entry(2, 302, 10)]), Op::Purge(log_id(1, 100))];
        for op in more {
            run(&mut store, std::slice::from_ref(&op), |_| {}).await;
            ops.push(op);
            assert_eq!(Model::of(&mut store).await, Model::after(&ops));
        }
        drop((store, reader));
        let mut store = LogStore::open(folder.path(), &small).unwrap();
        assert_eq!(Model::of(&mut store).await, Model::after(&ops));
    });
}

#[test]
fn the_commit_hint_never_passes_the_log() {
    let (folder, mut store) = new_store();
    runtime().block_on(async {
        run(&mut store, &[Op::Append(vec![entry(1, 0, 5), entry(1, 1, 5)])], |_| {}).await;
        store.save_committed(Some(log_id(1, 9))).await.unwrap();
    });
    drop(store);
    let mut store = open(folder.path()).unwrap();
    assert_eq!(runtime().block_on(store.read_committed()).unwrap(), Some(log_id(1, 1)));
}

#[test]
fn only_a_fresh_log_is_empty() {
    let (folder, mut store) = new_store();
    assert!(store.is_empty());
    runtime().block_on(run(&mut store, &script(7, 12), |_| {}));
    assert!(!store.is_empty());
    drop(store);
    assert!(!open(folder.path()).unwrap().is_empty());
    assert!(LogStore::create(folder.path(), identity()).is_err(), "a log is never made over another");
}

fn problem(opened: Result<LogStore, OpenError>) -> Problem {
    opened.err().expect("it must not open").problem
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.path().is_dir() {
            copy(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

#[test]
fn parts_of_different_logs_or_times_do_not_open() {
    let (folder, mut store) = new_store();
    let ops = script(3, 60);
    runtime().block_on(run(&mut store, &ops[..30], |_| {}));
    drop(store);
    let earlier = tempfile::tempdir().unwrap();
    copy(folder.path(), earlier.path());
    let mut store = open(folder.path()).unwrap();
    runtime().block_on(run(&mut store, &ops[30..], |_| {}));
    drop(store);

    let mixed = tempfile::tempdir().unwrap();
    copy(earlier.path(), mixed.path());
    fs::copy(folder.path().join("seal"), mixed.path().join("seal")).unwrap();
    assert!(matches!(problem(open(mixed.path())), Problem::BatchesLost { .. }), "an old database under a newer seal");

    let other = tempfile::tempdir().unwrap();
    LogStore::create(other.path(), Identity { store: StoreId(1), ..identity() }).unwrap();
    fs::copy(other.path().join("seal"), mixed.path().join("seal")).unwrap();
    assert!(matches!(problem(open(mixed.path())), Problem::ForeignSeal { .. }));

    fs::remove_file(mixed.path().join("seal")).unwrap();
    assert!(matches!(problem(open(mixed.path())), Problem::Seal(_)));
    assert!(matches!(problem(open(&mixed.path().join("nothing"))), Problem::Missing));
    open(earlier.path()).unwrap();
}

/// Opens the rows of a closed log with RocksDB alone and changes them.
fn meddle(folder: &Path, change: impl FnOnce(&DB)) {
    let db = DB::open_default(folder.join("rows")).unwrap();
    change(&db);
}

#[test]
fn rows_changed_behind_the_logs_back_are_told() {
    let (folder, mut store) = new_store();
    let appends = (0..6).map(|n| Op::Append(vec![entry(1, 2 * n, 9), entry(1, 2 * n + 1, 9)]));
    for op in [Op::Vote(Vote::new(1, 2))].into_iter().chain(appends).chain([Op::Vote(Vote::new(2, 2))]) {
        runtime().block_on(run(&mut store, &[op], |_| {}));
    }
    runtime().block_on(run(&mut store, &[Op::Purge(log_id(1, 2)), Op::Append(vec![entry(2, 12, 9)])], |_| {}));
    drop(store);
    let changed = |what: &str, change: &dyn Fn(&DB)| {
        let copied = tempfile::tempdir().unwrap();
        copy(folder.path(), copied.path());
        meddle(copied.path(), change);
        let problem = problem(open(copied.path()));
        println!("{what}: {problem}");
        problem
    };
    let key = row::group_key;
    let group = |db: &DB, first| db.get(key(first)).unwrap().unwrap();

    let broken = |what: &str, at: u64, change: &dyn Fn(&DB)| match changed(what, change) {
        Problem::ChainBroken { index, .. } => assert_eq!(index, at, "{what}"),
        other => panic!("{what}: {other}"),
    };
    broken("the first group is gone", 4, &|db| db.delete(key(2)).unwrap());
    broken("a group in the middle is gone", 8, &|db| db.delete(key(6)).unwrap());
    broken("the last group is gone", 12, &|db| db.delete(key(12)).unwrap());
    broken("a group too many", 13, &|db| db.put(key(13), group(db, 12)).unwrap());
    broken("two groups changed places", 6, &|db| {
        let (left, right) = (group(db, 6), group(db, 8));
        db.put(key(6), right).unwrap();
        db.put(key(8), left).unwrap();
    });
    // Every eighth byte: format, chain value, and all parts of an entry.
    for at in (0..group_length(folder.path(), key(8))).step_by(8) {
        broken("a changed byte in a group", 8, &|db| {
            let mut bytes = group(db, 8);
            bytes[at] ^= 0x20;
            db.put(key(8), bytes).unwrap();
        });
    }
    let vote = |vote: &Vote| row::encode_vote(vote);
    let wrong = changed("an older vote", &|db| db.put(row::VOTE, vote(&Vote::new(1, 2))).unwrap());
    assert!(matches!(wrong, Problem::WrongVote));
    let wrong = changed("no vote", &|db| db.delete(row::VOTE).unwrap());
    assert!(matches!(wrong, Problem::RowMissing("vote")));
    let wrong = changed("no head", &|db| db.delete(row::HEAD).unwrap());
    assert!(matches!(wrong, Problem::RowMissing("head")));
    let wrong = changed("a damaged identity", &|db| db.put(row::IDENTITY, [1, 2, 3]).unwrap());
    assert!(matches!(wrong, Problem::Row { name: "identity", .. }));
    let wrong = changed("an older head", &|db| {
        let head = row::Head::decode(&db.get(row::HEAD).unwrap().unwrap()).unwrap();
        db.put(row::HEAD, row::Head { number: head.number - 1, ..head }.encode()).unwrap();
    });
    assert!(matches!(wrong, Problem::BatchesLost { .. }));
    open(folder.path()).unwrap();
}

fn group_length(folder: &Path, key: [u8; 9]) -> usize {
    let mut length = 0;
    meddle(folder, |db| length = db.get(key).unwrap().unwrap().len());
    length
}
