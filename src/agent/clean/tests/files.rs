//! Trees that somebody hostile prepared.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rustix::fs::IFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use super::*;
use crate::host::trial::skip;

/// With the kernel's way of resolving names, and with our own.
fn benches() -> [Bench; 2] {
    [Bench::without(&["cgroup"]), Bench::without(&["cgroup", "openat2"])]
}

/// A lease's folder without a job.
fn prepared(bench: &Bench) -> PathBuf {
    let work = bench.roots.lease(7).work();
    fs::create_dir_all(&work).unwrap();
    work
}

async fn assert_removed(bench: &Bench) -> CleaningReceipt {
    let receipt = clean(bench, 8, &plan(&ALL)).await;
    assert_clean(bench, &receipt);
    receipt
}

/// A folder outside that must stay as it is.
fn guarded(bench: &Bench) -> PathBuf {
    let guarded = bench.outside.join("guarded");
    fs::create_dir_all(guarded.join("inner")).unwrap();
    fs::write(guarded.join("inner/file"), "precious").unwrap();
    guarded
}

#[track_caller]
fn assert_untouched(guarded: &Path) {
    assert_eq!(fs::read_to_string(guarded.join("inner/file")).unwrap(), "precious");
    let entries = |folder: &Path| fs::read_dir(folder).unwrap().count();
    assert_eq!((entries(guarded), entries(&guarded.join("inner"))), (1, 1), "nothing was put there");
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

#[tokio::test]
async fn ten_thousand_levels() {
    for without in [["cgroup"].as_slice(), &["cgroup", "openat2"]] {
        let bench = Bench::in_memory_without(without);
        let mut folder = open(&prepared(&bench));
        for _ in 0..10_000 {
            rustix::fs::mkdirat(&folder, "d", Mode::RWXU).unwrap();
            folder = rustix::fs::openat(&folder, "d", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
        drop(folder);
        let receipt = assert_removed(&bench).await;
        assert!(step(&receipt, "files").removed > 10_000);
    }
}

#[tokio::test]
async fn a_hundred_thousand_entries_in_one_folder() {
    let bench = Bench::in_memory_without(&["cgroup"]);
    let folder = open(&prepared(&bench));
    for number in 0..100_000 {
        rustix::fs::symlinkat("x", &folder, format!("{number}")).unwrap();
    }
    let receipt = assert_removed(&bench).await;
    assert!(step(&receipt, "files").removed >= 100_000);
}

#[tokio::test]
async fn names_and_kinds_of_all_sorts() {
    for bench in benches() {
        let work = prepared(&bench);
        fs::write(work.join(OsStr::from_bytes(b"\xff\xfe\n not text")), "x").unwrap();
        fs::create_dir_all(work.join(OsStr::from_bytes(b"\x80/\x81/\x82"))).unwrap();
        fs::write(work.join("-rf"), "x").unwrap();
        fs::write(work.join("n".repeat(255)), "x").unwrap();
        rustix::fs::mkfifoat(open(&work), "fifo", Mode::RUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(work.join("socket")).unwrap();
        fs::hard_link(guarded(&bench).join("inner/file"), work.join("hard-link")).unwrap();
        assert_removed(&bench).await;
        assert_untouched(&guarded(&bench));
    }
}

#[tokio::test]
async fn symlinks_are_removed_and_not_followed() {
    for bench in benches() {
        let (work, guarded) = (prepared(&bench), guarded(&bench));
        symlink(&guarded, work.join("link")).unwrap();
        symlink("..", work.join("up")).unwrap();
        symlink("/proc/self/cwd", work.join("magic")).unwrap();
        fs::create_dir(work.join("d")).unwrap();
        symlink(guarded.join("inner"), work.join("d/link")).unwrap();
        // Also where the agent's own folders are expected.
        let tmp = bench.roots.temporaries();
        fs::remove_dir(&tmp).unwrap();
        symlink(&guarded, &tmp).unwrap();
        symlink(&guarded, bench.roots.leases().join("5")).unwrap();
        assert_removed(&bench).await;
        assert_untouched(&guarded);
    }
}

#[tokio::test]
async fn symlinks_swapped_in_while_it_walks_lead_nowhere() {
    for bench in benches() {
        let (work, guarded) = (prepared(&bench), guarded(&bench));
        // Holds the work folder open, so that it reaches it also when it was moved aside.
        let folder = Arc::new(open(&work));
        let done = Arc::new(AtomicBool::new(false));
        let swapper = std::thread::spawn({
            let (folder, done, guarded) = (folder.clone(), done.clone(), guarded.clone());
            move || {
                let mut swaps = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let at = folder.as_fd();
                    let _ = rustix::fs::mkdirat(at, "inner", Mode::RWXU);
                    let _ = rustix::fs::symlinkat(&guarded, at, "spare");
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    swaps += u64::from(rustix::fs::renameat_with(at, "inner", at, "spare", exchange).is_ok());
                }
                swaps
            }
        });
        let limit = std::time::Instant::now() + Duration::from_millis(400);
        let control = Control::new(Duration::from_secs(30), &CancellationToken::new());
        let openat2 = bench.roots.host().capabilities().openat2;
        while std::time::Instant::now() < limit {
            let mut walker = walk::Walker::new(&control, openat2);
            walker.empty(open(&work)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(swapper.join().unwrap() > 10, "there was a race");
        assert_untouched(&guarded);
        assert_removed(&bench).await;
        assert_untouched(&guarded);
    }
}

#[tokio::test]
async fn closed_folders_are_opened() {
    for bench in benches() {
        let work = prepared(&bench);
        for name in ["a", "a/b", "a/b/c"] {
            fs::create_dir(work.join(name)).unwrap();
            fs::write(work.join(name).join("file"), "x").unwrap();
        }
        for name in ["a/b/c", "a/b", "a"] {
            fs::set_permissions(work.join(name), fs::Permissions::from_mode(0o000)).unwrap();
        }
        fs::set_permissions(bench.roots.lease(7).folder(), fs::Permissions::from_mode(0o100)).unwrap();
        assert_removed(&bench).await;
    }
}

#[tokio::test]
async fn flags_against_removal_are_cleared() {
    for bench in benches() {
        let work = prepared(&bench);
        fs::create_dir(work.join("d")).unwrap();
        fs::write(work.join("d/file"), "x").unwrap();
        fs::write(work.join("log"), "x").unwrap();
        let set = |name: &str, flag: IFlags| {
            let file = open(&work.join(name));
            rustix::fs::ioctl_setflags(&file, rustix::fs::ioctl_getflags(&file)? | flag)
        };
        if set("d/file", IFlags::IMMUTABLE).is_err() {
            return skip("no right, or no filesystem, to set the immutable flag");
        }
        set("d", IFlags::APPEND).unwrap();
        set("log", IFlags::APPEND).unwrap();
        set("", IFlags::IMMUTABLE).unwrap();
        let receipt = assert_removed(&bench).await;
        assert!(step(&receipt, "files").evidence.contains("flags-cleared="), "{receipt:#?}");
    }
}

#[tokio::test]
async fn mounts_are_taken_away_and_never_walked_into() {
    for bench in benches() {
        let (work, guarded) = (prepared(&bench), guarded(&bench));
        let point = work.join("a mount");
        fs::create_dir(&point).unwrap();
        if rustix::mount::mount_bind(&guarded, &point).is_err() {
            return skip("no right to mount");
        }
        let files_only = clean(&bench, 8, &plan(&[("files", Kind::Files)])).await;
        let files = step(&files_only, "files");
        assert_eq!(files.outcome(), Outcome::Failed);
        assert!(files.left > 0 && files.evidence.contains("mount="), "{files:?}");
        assert_untouched(&guarded);
        let receipt = clean(&bench, 9, &plan(&ALL)).await;
        assert_clean(&bench, &receipt);
        assert_eq!(step(&receipt, "mounts").removed, 1, "{receipt:#?}");
        assert_untouched(&guarded);
    }
}

#[tokio::test]
async fn a_mount_over_the_folder_itself_and_a_busy_one() {
    let bench = Bench::without(&["cgroup"]);
    let (work, guarded) = (prepared(&bench), guarded(&bench));
    let folder = bench.roots.lease(7).folder();
    fs::create_dir(work.join("busy")).unwrap();
    if rustix::mount::mount_bind(&guarded, work.join("busy")).is_err() {
        return skip("no right to mount");
    }
    let _busy = open(&work.join("busy/inner/file"));
    rustix::mount::mount_bind(&guarded, &folder).unwrap();
    let receipt = assert_removed(&bench).await;
    assert_eq!(step(&receipt, "mounts").removed, 2, "{receipt:#?}");
    assert_untouched(&guarded);
}

#[tokio::test]
async fn an_operators_mount_stays_and_a_jobs_does_not() {
    let bench = Bench::without(&["cgroup"]);
    let (cache, guarded) = (bench.outside.join("cache"), guarded(&bench));
    let [operators, jobs] = ["operators", "jobs"].map(|name| cache.join(name));
    fs::create_dir_all(&operators).unwrap();
    fs::create_dir_all(&jobs).unwrap();
    if rustix::mount::mount_bind(&guarded, &operators).is_err() {
        return skip("no right to mount");
    }
    let mut plan = plan(&[("mounts", Kind::Mounts)]);
    plan.folders = vec![cache.display().to_string()];
    let first = clean(&bench, 1, &plan).await.steps.remove(0);
    assert_eq!((first.outcome(), first.removed), (Outcome::Done, 0), "{first:?}");
    rustix::mount::mount_bind(&guarded, &jobs).unwrap();
    let second = clean(&bench, 2, &plan).await.steps.remove(0);
    assert_eq!((second.outcome(), second.removed), (Outcome::Done, 1), "{second:?}");
    let points: Vec<_> = crate::mounts::below(&[cache]).unwrap().into_iter().map(|mount| mount.point).collect();
    rustix::mount::unmount(&operators, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(points, [operators]);
    assert_untouched(&guarded);
}

#[tokio::test]
async fn further_folders_are_emptied_and_stay() {
    for bench in benches() {
        let cache = bench.outside.join("cache-w-1");
        fs::create_dir_all(cache.join("deep/er")).unwrap();
        fs::write(cache.join("deep/er/file"), "x").unwrap();
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o1777)).unwrap();
        fs::create_dir_all(bench.roots.lease(7).tmp().join("x")).unwrap();
        let mut plan = plan(&ALL);
        let named = |name: &str| bench.outside.join(name).display().to_string();
        plan.folders = vec![named("cache-{worker}"), named("not-there")];
        let receipt = clean(&bench, 8, &plan).await;
        assert_clean(&bench, &receipt);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
        assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o7777, 0o1777);
        assert_eq!(step(&receipt, "temp").removed, 5, "{receipt:#?}");
    }
}

#[tokio::test]
async fn a_further_folder_that_is_a_symlink_is_refused() {
    for bench in benches() {
        let guarded = guarded(&bench);
        symlink(&guarded, bench.outside.join("cache")).unwrap();
        let mut plan = plan(&ALL);
        plan.folders = vec![bench.outside.join("cache").display().to_string()];
        let temp = clean(&bench, 8, &plan).await.steps.remove(4);
        assert_eq!(temp.outcome(), Outcome::Failed, "{temp:?}");
        assert!(temp.evidence.contains("cache"), "{temp:?}");
        assert_untouched(&guarded);
    }
}

#[tokio::test]
async fn files_that_grow_while_it_works() {
    let bench = Bench::without(&["cgroup"]);
    let work = prepared(&bench);
    let (folder, done) = (open(&work), Arc::new(AtomicBool::new(false)));
    let grower = std::thread::spawn({
        let done = done.clone();
        move || {
            for number in 0..20_000 {
                let _ = rustix::fs::symlinkat("x", &folder, format!("{number}"));
            }
            done.store(true, Ordering::Relaxed);
        }
    });
    let receipt = clean(&bench, 8, &plan(&ALL)).await;
    grower.join().unwrap();
    assert!(done.load(Ordering::Relaxed));
    let files = step(&receipt, "files");
    assert!(files.outcome() == Outcome::Done || files.left > 0, "{files:?}");
    let receipt = clean(&bench, 9, &plan(&ALL)).await;
    assert_clean(&bench, &receipt);
}
