//! `run`: lease a worker, run a command on it as if it ran here, and return the worker, whatever happens.
//!
//! ```text
//!   acquire ──> execute ──> attach ──exit──> return ──commit──> the job's status
//!                  ▲           │  ▲ stdout, stderr               └─ --wait-clean: when the receipt is accepted
//!      stdin ──────┘           └──┴─ re-attached by offset when the agent or the way to it breaks
//! ```
//!
//! A first SIGINT, SIGTERM or SIGHUP goes to the job; when it has not ended after a while, or at the second one, the
//! worker is returned with the job still running: cleaning stops it. A failure of our own is status 125.
//!
//! Never here: cleaning up on the worker; that is what the return does.

use std::collections::HashMap;
use std::io::{Read as _, Write};
use std::process::ExitCode;
use std::sync::Arc;

use remuda_client::execution::{Execution, Output};
use remuda_client::{Acquire, Client, Lease};
use remuda_wire::agent::v1::ExitStatus;
use remuda_wire::v1::JobOutcome;
use tokio::sync::mpsc;

use crate::args::{Context, RunArgs};
use crate::failure::Failure;
use crate::names;
use crate::signals::Signals;

/// Bounds of a run.
mod limits {
    use std::time::Duration;

    /// After a signal the job has this long to end by itself.
    pub(super) const AFTER_SIGNAL: Duration = Duration::from_secs(5);
    /// With `--wait-clean`: all the attempts that a pool makes by default, with their pauses.
    pub(super) const CLEAN: Duration = Duration::from_secs(5 * 60);
    /// Bytes of standard input read at once.
    pub(super) const INPUT: usize = 64 * 1024;
    /// Reads of standard input that wait to be sent.
    pub(super) const INPUT_AHEAD: usize = 4;
}

/// Statuses as shells have them.
const OURS: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NO_COMMAND: u8 = 127;
const SIGPIPE: i32 = 13;

/// How the job went, as far as this process saw.
enum End {
    /// It ended.
    Exited(ExitStatus),
    /// It was given up after this signal to us.
    Signalled(i32),
}

pub(crate) async fn run(context: &Context, args: RunArgs) -> ExitCode {
    match run_and_return(context, args).await {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            failure.say();
            ExitCode::from(OURS)
        }
    }
}

async fn run_and_return(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    let env = environment(&args.env)?;
    let mut signals = Signals::new()?;
    let client = context.client()?;
    let job = args.job.clone().unwrap_or_else(|| format!("run-{}", uuid::Uuid::new_v4().simple())).parse()?;
    let mut asked = Acquire::new(names::pool(&args.pool), job).wait(args.wait).selector(args.selector.clone());
    (asked.ttl, asked.priority) = (args.ttl, args.priority);
    let lease = tokio::select! {
        lease = client.acquire(&asked) => lease?,
        signal = signals.next() => {
            tokio::time::sleep(crate::signals::GOODBYE).await;
            return Ok(signalled(signal));
        }
    };
    let end = execute(&client, lease.clone(), args.command, env, &mut signals).await;
    let outcome = match &end {
        Ok(End::Exited(exit)) if status(exit) == 0 => JobOutcome::Success,
        Ok(_) | Err(_) => JobOutcome::Failure,
    };
    let returned = give_back(&client, &lease, outcome, args.wait_clean).await;
    // What went wrong first is what the user needs to know; a failed return is told as well.
    match (end, returned) {
        (Ok(_), Err(failure)) => Err(failure),
        (Ok(End::Exited(exit)), Ok(())) => {
            explain(&exit);
            Ok(status(&exit))
        }
        (Ok(End::Signalled(signal)), Ok(())) => Ok(signalled(signal)),
        (Err(failure), returned) => {
            if let Err(second) = returned {
                second.say();
            }
            Err(failure)
        }
    }
}

async fn give_back(client: &Client, lease: &Lease, outcome: JobOutcome, wait_clean: bool) -> Result<(), Failure> {
    let name = client.begin_return(lease.key(), outcome).await?;
    if wait_clean {
        client.finish_return(&name, limits::CLEAN).await?;
    }
    Ok(())
}

async fn execute(
    client: &Client,
    mut lease: Lease,
    command: Vec<String>,
    env: HashMap<String, String>,
    signals: &mut Signals,
) -> Result<End, Failure> {
    let execution = Arc::new(client.execution(lease.key())?);
    tokio::select! {
        started = execution.start(command, env, true) => started?,
        signal = signals.next() => return Ok(End::Signalled(signal)),
    };
    tokio::spawn(pass_input(Arc::clone(&execution)));
    let mut attachment = execution.attach();
    let mut screen = Screen { execution: &execution, broken: false };
    let (mut received, mut patience) = (0, None);
    loop {
        tokio::select! {
            output = attachment.next() => match output {
                Some(Ok(Output::Exit(exit))) => return Ok(End::Exited(exit)),
                Some(Ok(output)) => screen.show(&output).await,
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::other("the job's output ended without its status")),
            },
            signal = signals.next() => {
                if received != 0 {
                    return Ok(End::Signalled(received));
                }
                received = signal;
                patience = Some(tokio::time::Instant::now() + limits::AFTER_SIGNAL);
                let execution = Arc::clone(&execution);
                tokio::spawn(async move { execution.signal(signal).await });
            }
            () = until(patience) => return Ok(End::Signalled(received)),
            failure = lost(&mut lease) => return Err(failure),
        }
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Ends when the job can no longer be ours: the lease is no more, or the job is known to be gone.
async fn lost(lease: &mut Lease) -> Failure {
    loop {
        let standing = lease.standing();
        if let Some(ended) = standing.ended {
            return Failure::other(format!(
                "{} was taken from the job: {}: {}",
                lease.worker(),
                ended.reason,
                ended.detail
            ));
        }
        if standing.interrupted {
            return Failure::other(format!("the job on {} was interrupted: INTERRUPTED", lease.worker()));
        }
        lease.changed().await;
    }
}

/// Where the job's output goes.
struct Screen<'a> {
    execution: &'a Arc<Execution>,
    /// Nobody reads our standard output any more.
    broken: bool,
}

impl Screen<'_> {
    async fn show(&mut self, output: &Output) {
        // Writing may block for as long as our reader likes; other tasks (renewal) go on meanwhile.
        let written = tokio::task::block_in_place(|| match output {
            Output::Stdout(data) if !self.broken => write(std::io::stdout().lock(), data),
            Output::Stderr(data) => write(std::io::stderr().lock(), data).or(Ok(())),
            Output::Dropped(bytes) => write(std::io::stderr().lock(), lost_note(*bytes).as_bytes()).or(Ok(())),
            Output::Stdout(_) | Output::Exit(_) => Ok(()),
        });
        if written.is_err() {
            // The job is told what it would have been told here.
            self.broken = true;
            let _ = self.execution.signal(SIGPIPE).await;
        }
    }
}

fn lost_note(bytes: u64) -> String {
    format!("remuda: {bytes} bytes of output were dropped before they could be read\n")
}

fn write(mut to: impl Write, data: &[u8]) -> std::io::Result<()> {
    to.write_all(data)?;
    to.flush()
}

/// Passes our standard input to the job. The reading thread ends with the process: a read cannot be cancelled.
async fn pass_input(execution: Arc<Execution>) {
    let (send, mut pieces) = mpsc::channel::<Vec<u8>>(limits::INPUT_AHEAD);
    std::thread::spawn(move || {
        let mut buffer = vec![0; limits::INPUT];
        while let Ok(n) = std::io::stdin().read(&mut buffer) {
            if n == 0 || send.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut offset = 0;
    while let Some(piece) = pieces.recv().await {
        match execution.write(offset, &piece, false).await {
            Ok(after) => offset = after,
            // The job has ended or does not read any more; its status says the rest.
            Err(_) => return,
        }
    }
    let _ = execution.write(offset, &[], true).await;
}

fn environment(sets: &[String]) -> Result<HashMap<String, String>, Failure> {
    let one = |set: &String| match set.split_once('=') {
        Some(("", _)) => Err(Failure::usage(format!("--env {set}: must be NAME=VALUE or NAME"))),
        Some((name, value)) => Ok(Some((name.to_owned(), value.to_owned()))),
        None => Ok(std::env::var(set).ok().map(|value| (set.clone(), value))),
    };
    sets.iter().filter_map(|set| one(set).transpose()).collect()
}

fn explain(exit: &ExitStatus) {
    if !exit.failure.is_empty() {
        eprintln!("remuda: the job could not be started: {}", exit.failure);
    }
}

fn status(exit: &ExitStatus) -> u8 {
    if exit.failure.starts_with("NOT_FOUND") {
        return NO_COMMAND;
    }
    if exit.failure.starts_with("NOT_EXECUTABLE") {
        return NOT_EXECUTABLE;
    }
    if !exit.failure.is_empty() {
        return OURS;
    }
    if exit.signal != 0 { signalled(exit.signal) } else { u8::try_from(exit.code & 0xff).unwrap_or(OURS) }
}

fn signalled(signal: i32) -> u8 {
    u8::try_from(128 + (signal & 0x7f)).unwrap_or(OURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_shells() {
        let exit = |code, signal, failure: &str| ExitStatus { code, signal, failure: failure.into(), took: None };
        assert_eq!(status(&exit(0, 0, "")), 0);
        assert_eq!(status(&exit(3, 0, "")), 3);
        assert_eq!(status(&exit(255, 0, "")), 255);
        assert_eq!(status(&exit(0, 9, "")), 137);
        assert_eq!(status(&exit(0, 15, "")), 143);
        assert_eq!(status(&exit(127, 0, "NOT_FOUND: nosuch")), 127);
        assert_eq!(status(&exit(126, 0, "NOT_EXECUTABLE: /etc/passwd")), 126);
        assert_eq!(status(&exit(0, 0, "no space left")), 125);
        assert_eq!(signalled(2), 130);
    }

    #[test]
    fn variables_are_given_or_passed_on() {
        let sets = ["A=1".to_owned(), "B=x=y".to_owned(), "PATH".to_owned(), "REMUDA_NO_SUCH_VARIABLE".to_owned()];
        let env = environment(&sets).expect("good settings");
        assert_eq!((env["A"].as_str(), env["B"].as_str(), env.len()), ("1", "x=y", 3));
        assert!(env.contains_key("PATH"));
        assert!(environment(&["=1".to_owned()]).is_err());
    }
}
