//! Jobs: started under a supervisor of their own, watched and spoken to through the lease's folder.
//!
//! The supervisor is this binary, executed again. It and the agent share nothing but files, so either may die or be
//! replaced without the other noticing: output and exit status are in the folder, input and signals come through it.
//!
//! ```text
//! leases/<epoch>/  spec.json   what to run; written by the agent before it starts the supervisor
//!                  lease.json  who supervises it; written by the supervisor before it starts the job
//!                  exit.json   how it ended, by tmp, rename and sync
//!                  stop        the lease is at its end: nothing is started any more   lock   taken to write stop and lease.json
//!                  control     a fifo: a byte is a signal's number, or 0 for "there is input"
//!                  out, err, in    streams (see spool)      work, home    the job's own
//! ```
//!
//! Invariants
//! * One execution per lease, whoever asks how often.
//! * After `stop` was written, a job is either on record or will never start.
//!
//! Never here: whether the caller holds the lease.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Deserialize;
use serde::Serialize;

use crate::failpoint;
use crate::host::Lease;
use crate::host::MARK;
use crate::mounts;
use crate::process;
use crate::process::Id;

mod launch;
pub(crate) mod record;
mod serve;
mod signals;
mod spool;
mod streams;

pub(crate) use launch::Errand;
pub use launch::HIDDEN;
pub use launch::Launcher;
pub use launch::supervisor_main;
pub use spool::Chunk;
pub use streams::Stream;
pub use streams::output_len;
pub use streams::read_output;
pub use streams::write_input;

/// Ends a lease's processes; see there.
pub use crate::clean::stop;

mod limits {
    use std::time::Duration;

    /// What is kept of each output stream: enough for any log that people read, little enough for a full host.
    pub(super) const OUTPUT: u64 = 64 << 20;
    /// Output is dropped in pieces of this size.
    pub(super) const OUTPUT_SEGMENT: u64 = 8 << 20;
    /// Input is removed in pieces of this size once the job has read it.
    pub(super) const INPUT_SEGMENT: u64 = 1 << 20;
    /// Input that the job has not read yet; past it the writer must wait.
    pub(super) const INPUT_BEHIND: u64 = 16 << 20;
    /// A supervisor that has not taken the job on by then will not.
    pub(super) const START: Duration = Duration::from_secs(10);
    /// How often files are looked at by those who wait for them: first, and at most.
    pub(super) const LOOK_FIRST: Duration = Duration::from_millis(1);
    pub(super) const LOOK_LAST: Duration = Duration::from_millis(25);
}

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct JobSpec {
    /// The job's id.
    pub job: String,
    /// The command and its arguments, run without a shell.
    pub command: Vec<String>,
    /// Environment beside what every job has; `REMUDA_*` and TMPDIR in it are passed over.
    pub env: BTreeMap<String, String>,
    /// Whether input will be written; else it is empty.
    pub input: bool,
    /// The pool's further folders, as the pool names them.
    pub folders: Vec<String>,
}

/// What came of [`start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The job was started.
    New,
    /// This lease has an execution already.
    Existing,
}

/// Why a job was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The lease is at its end; nothing is started for it any more.
    #[error("the lease has ended")]
    Stopped,
    /// The system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a lease's execution stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Nothing was started.
    None,
    /// It runs.
    Running {
        /// Since when.
        since: SystemTime,
    },
    /// It ended, and how is on record.
    Ended(Exit),
    /// It was started, and its end will never be known.
    Lost {
        /// How that is known.
        why: String,
    },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its status; 126 or 127 when it could not be started.
    pub code: i32,
    /// The signal that ended it; zero for none.
    pub signal: i32,
    /// Why it could not be started, beginning with NOT_FOUND or NOT_EXECUTABLE where it is one of these; else empty.
    pub failure: String,
    /// How long it ran.
    pub took: Duration,
    /// Bytes of standard output in all.
    pub stdout_bytes: u64,
    /// Bytes of standard error in all.
    pub stderr_bytes: u64,
}

/// `spec.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    worker: String,
    epoch: u64,
    job: String,
    boot_id: String,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    input: bool,
    work: PathBuf,
    /// The group to make and to enter; none where the host has none.
    group: Option<PathBuf>,
}

/// `lease.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) worker: String,
    pub(crate) epoch: u64,
    pub(crate) job: String,
    pub(crate) boot_id: String,
    pub(crate) supervisor: Id,
    /// The job's first process, once it was started.
    pub(crate) main: Option<Id>,
    /// When, in milliseconds since 1970.
    pub(crate) since_unix_ms: u64,
    /// Whether it is in a group of its own.
    pub(crate) grouped: bool,
}

/// Starts a lease's job. Returns once its supervisor has taken it on; to be repeated after any failure or crash.
pub async fn start(lease: &Lease, job: &JobSpec) -> Result<Started, StartError> {
    let folder = lease.folder();
    if let Some(settled) = settled(&folder)? {
        return settled;
    }
    for made in [&folder, &lease.work(), &lease.home(), &lease.tmp()] {
        fs::create_dir_all(made)?;
    }
    make_fifo(&folder.join("control"))?;
    failpoint::hit("agent.start.after_folder");
    record::write(&folder.join("spec.json"), &spec(lease, job)?)?;

    let errand = Errand::Supervise { folder: folder.clone() };
    let log = File::create(folder.join("supervisor.log"))?;
    let mut command = tokio::process::Command::from(lease.roots().host().launcher().command(&errand)?);
    command.env(MARK, lease.mark()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut supervisor = command.spawn()?;
    failpoint::hit("agent.start.after_spawn");

    let deadline = Instant::now() + limits::START;
    let mut look = limits::LOOK_FIRST;
    loop {
        let ended = supervisor.try_wait()?;
        match settled(&folder)? {
            // The one that took it on need not be ours: an earlier attempt's may have been faster.
            Some(Ok(_)) => return Ok(Started::New),
            Some(stopped) => return stopped,
            None => {}
        }
        if let Some(status) = ended {
            let words = fs::read_to_string(folder.join("supervisor.log")).unwrap_or_default();
            return Err(io::Error::other(format!("the supervisor ended ({status}): {}", words.trim())).into());
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the supervisor did not begin").into());
        }
        tokio::time::sleep(look).await;
        look = (look * 2).min(limits::LOOK_LAST);
    }
}

/// Whether starting is settled: it was stopped, or somebody took it on.
fn settled(folder: &Path) -> io::Result<Option<Result<Started, StartError>>> {
    if folder.join("lease.json").try_exists()? {
        return Ok(Some(Ok(Started::Existing)));
    }
    let stopped = folder.join("stop").try_exists()?;
    Ok(stopped.then_some(Err(StartError::Stopped)))
}

fn spec(lease: &Lease, job: &JobSpec) -> io::Result<Spec> {
    let ours = |name: &str| name.starts_with("REMUDA_") || name == "TMPDIR";
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    let mut env = BTreeMap::from([("PATH".to_owned(), path), ("HOME".to_owned(), text(&lease.home())?)]);
    env.extend(job.env.iter().filter(|(name, _)| !ours(name)).map(|(name, value)| (name.clone(), value.clone())));
    let folders: Result<Vec<String>, _> =
        job.folders.iter().map(|folder| text(&lease.roots().further(folder))).collect();
    env.extend([
        ("TMPDIR".to_owned(), text(&lease.tmp())?),
        ("REMUDA_WORKER".to_owned(), lease.roots().worker().to_owned()),
        ("REMUDA_EPOCH".to_owned(), lease.epoch().to_string()),
        ("REMUDA_JOB".to_owned(), job.job.clone()),
        ("REMUDA_FOLDER".to_owned(), text(&lease.work())?),
        ("REMUDA_FOLDERS".to_owned(), folders?.join(":")),
        (MARK.to_owned(), lease.mark()),
    ]);
    Ok(Spec {
        worker: lease.roots().worker().to_owned(),
        epoch: lease.epoch(),
        job: job.job.clone(),
        boot_id: process::boot_id()?,
        command: job.command.clone(),
        env,
        input: job.input,
        work: lease.work(),
        group: lease.group().map(|group| group.path().to_path_buf()),
    })
}

fn text(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a folder's name is not UTF-8"));
    text.map(str::to_owned)
}

fn make_fifo(path: &Path) -> io::Result<()> {
    match rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How a lease's execution stands.
pub fn standing(lease: &Lease) -> io::Result<Standing> {
    let folder = lease.folder();
    let boot = process::boot_id()?;
    let rebooted = || Standing::Lost { why: "the host was restarted".to_owned() };
    if let Some(exit) = exit(&folder)? {
        return Ok(Standing::Ended(exit));
    }
    let Some(taken) = taken(lease)? else {
        let spec = record::read::<Spec>(&folder.join("spec.json"))?;
        return Ok(if spec.is_some_and(|spec| spec.boot_id != boot) { rebooted() } else { Standing::None });
    };
    if taken.boot_id != boot {
        return Ok(rebooted());
    }
    if process::is_alive(taken.supervisor) {
        return Ok(Standing::Running { since: SystemTime::UNIX_EPOCH + Duration::from_millis(taken.since_unix_ms) });
    }
    // It may have ended between the two looks; then its record is there now.
    Ok(match exit(&folder)? {
        Some(exit) => Standing::Ended(exit),
        None => Standing::Lost { why: "its supervisor is gone and left no record".to_owned() },
    })
}

fn exit(folder: &Path) -> io::Result<Option<Exit>> {
    record::read(&folder.join("exit.json"))
}

/// Who supervises a lease's job, if it was taken on.
pub(crate) fn taken(lease: &Lease) -> io::Result<Option<Taken>> {
    record::read(&lease.folder().join("lease.json"))
}

/// Says that nothing is to be started for this lease any more. Afterwards a job of it is on record, or never starts.
pub(crate) fn forbid(lease: &Lease) -> io::Result<()> {
    // The job put a mount over its folder: what is there is not the lease's, and must stay as it is. That job is on
    // record, and none begins behind a mount.
    if mounts::read()?.iter().any(|mount| mount.point == lease.folder()) {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::open(lease.folder(), flags, Mode::empty()) {
        Ok(folder) => folder,
        // Gone, or something else under its name: no supervisor ever begins there.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let stopped = lock_in(&folder).and_then(|_lock| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&folder, "stop", flags, Mode::RUSR | Mode::WUSR).map(drop)
    });
    match stopped {
        // The job closed its folder or made it immutable. Whoever cannot write there cannot take a job on there either.
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Ok(()),
        other => Ok(other?),
    }
}

fn lock(folder: &Path) -> io::Result<OwnedFd> {
    Ok(lock_in(File::open(folder)?)?)
}

fn lock_in(folder: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, "lock", flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Sends a signal to the job's process group. False: it has ended, or was never started.
pub fn signal(lease: &Lease, signal: i32) -> io::Result<bool> {
    match u8::try_from(signal) {
        Ok(number) if signals::known_signal(number).is_some() => poke(lease, number),
        Ok(_) | Err(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{signal} is no signal"))),
    }
}

/// Writes a byte to the supervisor's fifo. False: nobody reads it.
fn poke(lease: &Lease, byte: u8) -> io::Result<bool> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let fifo = OpenOptions::new().write(true).custom_flags(flags).open(lease.folder().join("control"));
    match fifo.and_then(|mut fifo| fifo.write_all(&[byte])) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(false),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::BrokenPipe) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until there is output beyond these offsets, or the job does not run. May be dropped at any time.
pub async fn changed(lease: &Lease, stdout: u64, stderr: u64) {
    let mut look = limits::LOOK_FIRST;
    loop {
        let more = |stream, seen| output_len(lease, stream).map_or(true, |end| end > seen);
        let runs = matches!(standing(lease), Ok(Standing::Running { .. }));
        if !runs || more(Stream::Stdout, stdout) || more(Stream::Stderr, stderr) {
            return;
        }
        tokio::time::sleep(look).await;
        look = (look * 2).min(limits::LOOK_LAST);
    }
}

#[cfg(test)]
mod tests;
