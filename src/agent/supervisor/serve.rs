//! The supervisor: one process per job, between the job and its folder.
//!
//! It outlives the agent and needs nothing of it. It begins a session, enters the lease's group, becomes reaper of every
//! orphan below it, says so in `lease.json`, starts the job, and then moves bytes and signals until the job ended and no
//! child is left. Daemons of the job therefore stay below it, where they are found when the lease ends.
//!
//! Invariants
//! * `exit.json` is written once, when everything that the job's first process wrote is in the streams.
//! * It does not start a job whose lease was stopped before.
//!
//! Never here: deciding when a job ends; killing anything unasked.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::time::Instant;
use std::time::SystemTime;

use rustix::process::WaitOptions;
use rustix::process::WaitStatus;
use tokio::net::unix::pipe;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use super::Exit;
use super::Spec;
use super::Taken;
use super::launch::NOT_EXECUTABLE;
use super::launch::NOT_FOUND;
use super::record;
use super::signals::Signals;
use super::signals::known_signal;
use super::spool;
use crate::cgroup::Cgroup;
use crate::failpoint;
use crate::process;

mod limits {
    use std::time::Duration;

    /// Read from a pipe and moved to a stream at once.
    pub(super) const CHUNK: usize = 64 << 10;
    /// Input is looked for this often even if nobody says that there is some: the agent may die before it does.
    pub(super) const INPUT_LOOK: Duration = Duration::from_secs(1);
}

/// Runs the supervisor of the lease whose folder this is.
pub(super) fn supervise(folder: &Path) -> ExitCode {
    let ended = begin(folder).and_then(|begun| match begun {
        Some((spec, taken, control)) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(async { Supervisor::start(folder, spec, taken)?.run(control).await }),
        None => Ok(()),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("supervisor of {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// Takes the job on, if nobody has and nothing forbids it.
fn begin(folder: &Path) -> io::Result<Option<(Spec, Taken, File)>> {
    let _ = rustix::process::setsid();
    let _lock = super::lock(folder)?;
    let settled = ["stop", "lease.json", "exit.json"].into_iter().any(|name| folder.join(name).exists());
    let Some(spec) = record::read::<Spec>(&folder.join("spec.json"))? else { return Ok(None) };
    if settled {
        return Ok(None);
    }
    // Open before the record is there: from then on signals and input are sent.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let control = OpenOptions::new().read(true).write(true).custom_flags(flags).open(folder.join("control"))?;
    // Without rights to either, orphans go to the host's first process; the environment mark still finds them.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let grouped = spec.group.as_deref().is_some_and(|path| match groups(path) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("{}: {error}; going on without a group", path.display());
            false
        }
    });
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let taken = Taken {
        worker: spec.worker.clone(),
        epoch: spec.epoch,
        job: spec.job.clone(),
        boot_id: process::boot_id()?,
        supervisor: process::own()?,
        main: None,
        since_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        grouped,
    };
    record::write_unsynced(&folder.join("lease.json"), &taken)?;
    failpoint::hit("agent.supervisor.after_record");
    Ok(Some((spec, taken, control)))
}

fn groups(path: &Path) -> io::Result<()> {
    let lease = Cgroup::at(path.to_path_buf());
    lease.child("job").create()?;
    lease.child("self").create()?;
    lease.child("self").enter()
}

struct Supervisor {
    folder: PathBuf,
    begun: Instant,
    /// The job's first process; none when it could not be started.
    main: Option<rustix::process::Pid>,
    out: Pump,
    err: Pump,
    input: Input,
    exited: bool,
}

impl Supervisor {
    fn start(folder: &Path, spec: Spec, mut taken: Taken) -> io::Result<Self> {
        let mut this = Self {
            folder: folder.to_path_buf(),
            begun: Instant::now(),
            main: None,
            out: Pump::new(&folder.join("out"))?,
            err: Pump::new(&folder.join("err"))?,
            input: Input { folder: folder.to_path_buf(), pipe: None, offset: 0, pending: Vec::new() },
            exited: false,
        };
        match spawn(&spec, taken.grouped) {
            Ok(mut child) => {
                this.out.pipe = child.stdout.take().map(|pipe| receiver(pipe.into())).transpose()?;
                this.err.pipe = child.stderr.take().map(|pipe| receiver(pipe.into())).transpose()?;
                let stdin = child.stdin.take().map(|pipe| pipe::Sender::from_owned_fd(pipe.into()));
                this.input.pipe = stdin.transpose()?;
                let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
                this.main = rustix::process::Pid::from_raw(pid);
                taken.main = process::read(pid)?.map(|process| process.id);
                record::write_unsynced(&folder.join("lease.json"), &taken)?;
                failpoint::hit("agent.supervisor.after_spawn");
            }
            Err(error) => this.refused(&error)?,
        }
        Ok(this)
    }

    /// Moves what there is to move until the job and all its descendants have ended.
    async fn run(mut self, control: File) -> io::Result<()> {
        let mut children = signal(SignalKind::child())?;
        let mut control = pipe::Receiver::from_owned_fd(control.into())?;
        let mut signals = Signals::listen()?;
        let mut look = tokio::time::interval(limits::INPUT_LOOK);
        loop {
            if self.reap()? {
                return Ok(());
            }
            tokio::select! {
                _ = children.recv() => {}
                () = self.out.step(), if self.out.pipe.is_some() => {}
                () = self.err.step(), if self.err.pipe.is_some() => {}
                () = self.input.step(), if self.input.has_pending() => {}
                poked = read_byte(&mut control) => match poked {
                    0 => self.input.look(),
                    number => self.pass_on(number),
                },
                number = signals.next() => self.pass_on(number),
                _ = look.tick(), if self.input.pipe.is_some() => self.input.look(),
            }
        }
    }

    /// Collects ended children; true once the job ended and none is left.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.main => self.ended(status)?,
                Ok(Some(_)) => {}
                Ok(None) => return Ok(false),
                Err(rustix::io::Errno::CHILD) => return Ok(self.exited),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn ended(&mut self, status: WaitStatus) -> io::Result<()> {
        self.main = None;
        self.input.pipe = None;
        self.out.drain();
        self.err.drain();
        let (code, signal) = (status.exit_status().unwrap_or(0), status.terminating_signal().unwrap_or(0));
        self.record(code, signal, String::new())
    }

    fn refused(&mut self, error: &io::Error) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::NotFound => self.record(i32::from(NOT_FOUND), 0, format!("NOT_FOUND: {error}")),
            _ => self.record(i32::from(NOT_EXECUTABLE), 0, format!("NOT_EXECUTABLE: {error}")),
        }
    }

    fn record(&mut self, code: i32, signal: i32, failure: String) -> io::Result<()> {
        assert!(!self.exited, "a job ends once");
        self.exited = true;
        failpoint::hit("agent.supervisor.before_exit_record");
        let took = self.begun.elapsed();
        let (stdout_bytes, stderr_bytes) = (self.out.spool.end(), self.err.spool.end());
        let exit = Exit { code, signal, failure, took, stdout_bytes, stderr_bytes };
        record::write(&self.folder.join("exit.json"), &exit)
    }

    /// Sends a signal to the job's process group. Its leader is not reaped yet, so the number is still its own.
    fn pass_on(&mut self, number: u8) {
        if let (Some(main), Some(signal)) = (self.main, known_signal(number)) {
            let _ = rustix::process::kill_process_group(main, signal);
        }
    }
}

/// Starts the job inside its group: a child begins in its parent's, and this process has no other thread to be moved along.
fn spawn(spec: &Spec, grouped: bool) -> io::Result<Child> {
    let lease = spec.group.as_deref().filter(|_| grouped).map(|path| Cgroup::at(path.to_path_buf()));
    let (program, arguments) =
        spec.command.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no command"))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&spec.env).current_dir(&spec.work).process_group(0);
    command.stdin(if spec.input { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(lease) = &lease {
        lease.child("job").enter()?;
    }
    let child = command.spawn();
    if let Some(lease) = &lease {
        lease.child("self").enter()?;
    }
    child
}

fn receiver(pipe: OwnedFd) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(pipe)
}

/// The next byte from the fifo, which never ends since it is open for writing here too.
async fn read_byte(control: &mut pipe::Receiver) -> u8 {
    let mut byte = [0; 1];
    loop {
        let _ = control.readable().await;
        if let Ok(1) = control.try_read(&mut byte) {
            return byte[0];
        }
    }
}

/// From a pipe of the job's to a stream.
struct Pump {
    pipe: Option<pipe::Receiver>,
    spool: spool::Writer,
}

impl Pump {
    fn new(folder: &Path) -> io::Result<Self> {
        let spool = spool::Writer::open(folder, super::limits::OUTPUT_SEGMENT, super::limits::OUTPUT)?;
        Ok(Self { pipe: None, spool })
    }

    async fn step(&mut self) {
        let mut bytes = vec![0; limits::CHUNK];
        let Some(pipe) = &self.pipe else { return };
        let _ = pipe.readable().await;
        let read = pipe.try_read(&mut bytes);
        self.moved(read, &bytes);
    }

    /// Moves what is in the pipe now: at most its capacity, since others may go on writing.
    fn drain(&mut self) {
        let mut bytes = vec![0; limits::CHUNK];
        let mut moved = 0;
        while let Some(pipe) = &self.pipe {
            let capacity = rustix::pipe::fcntl_getpipe_size(pipe).unwrap_or(0);
            if moved >= capacity {
                return;
            }
            // Asks the kernel: the runtime may not have heard yet that there is something.
            let read = rustix::io::read(pipe, &mut bytes).map_err(io::Error::from);
            match self.moved(read, &bytes) {
                0 => return,
                count => moved += count,
            }
        }
    }

    /// Takes over what was read; zero when that was nothing. The pipe is closed at its end.
    fn moved(&mut self, read: io::Result<usize>, bytes: &[u8]) -> usize {
        match read {
            Ok(count @ 1..) => {
                self.spool.append(&bytes[..count]);
                return count;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(0) | Err(_) => self.pipe = None,
        }
        0
    }
}

/// From the stream of input to the job.
struct Input {
    folder: PathBuf,
    pipe: Option<pipe::Sender>,
    /// What the job has been given or is being given.
    offset: u64,
    pending: Vec<u8>,
}

impl Input {
    fn has_pending(&self) -> bool {
        self.pipe.is_some() && !self.pending.is_empty()
    }

    /// Looks for more, and for the end.
    fn look(&mut self) {
        if self.pipe.is_none() || !self.pending.is_empty() {
            return;
        }
        // The end is looked for first: whoever wrote it had written everything before.
        let ended = self.folder.join("in.end").exists();
        let stream = self.folder.join("in");
        match spool::read(&stream, self.offset, limits::CHUNK) {
            Ok(Some(chunk)) => {
                self.offset = chunk.offset + chunk.data.len() as u64;
                self.pending = chunk.data;
                let _ = spool::trim(&stream, chunk.offset);
            }
            Ok(None) if ended => self.pipe = None,
            Ok(None) | Err(_) => {}
        }
    }

    async fn step(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let _ = pipe.writable().await;
        match pipe.try_write(&self.pending) {
            Ok(count) => {
                self.pending.drain(..count);
                self.look();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The job does not read any more.
            Err(_) => self.pipe = None,
        }
    }
}
