//! A command of the pool's, a hook or a probe, kept on a short lead.
//!
//! It runs in a session of its own, in the group and under the mark of the run that needs it. When it ended, ran out of
//! time or was cancelled, everything in that group or with that mark is killed, before the answer is given: a hook leaves
//! no daemon, and a hung probe does not pile up.
//!
//! Invariants
//! * When [`run`] returns, nothing that it started lives, or `left` says how many do.
//! * Output is read to the end and kept up to a bound, so the command never blocks on it.
//!
//! Never here: what its status means.

use std::io;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::Target;
use super::control::Control;
use super::control::Halt;
use super::evidence::Tally;
use super::strays;
use super::suspects::Scope;
use crate::host::MARK;
use crate::supervisor::Errand;

mod limits {
    use std::time::Duration;

    /// Kept of a command's output: its last bytes, where the reason of a failure mostly stands.
    pub(super) const OUTPUT: usize = 512;
    /// What ending the command's processes may take.
    pub(super) const ENDING: Duration = Duration::from_secs(5);
    /// Output that is still in the pipe when its writers were killed.
    pub(super) const DRAIN: Duration = Duration::from_millis(200);
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its status; none if it was killed for its time or was cancelled.
    pub(crate) status: Option<ExitStatus>,
    /// Its last words.
    pub(crate) output: String,
    /// Processes that it had left behind and that were killed.
    pub(crate) removed: u64,
    /// Processes that could not be killed.
    pub(crate) left: u64,
}

/// Runs a command for a run, for at most `timeout`.
pub(crate) async fn run(
    command: &[String],
    env: &[(String, String)],
    target: &Target,
    timeout: Duration,
    cancel: &CancellationToken,
) -> io::Result<Ran> {
    let group = target.roots.group(target.run).map(|group| group.child("job"));
    if let Some(group) = &group {
        group.create()?;
    }
    let errand = Errand::Enter { group: group.map(|group| group.path().to_path_buf()), command: command.to_vec() };
    let mut started = tokio::process::Command::from(target.roots.host().launcher().command(&errand)?);
    started.env(MARK, target.roots.mark(target.run)).envs(env.iter().cloned()).current_dir("/");
    started.env_remove("REMUDA_FAILPOINTS").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = started.kill_on_drop(true).spawn()?;
    let out = tokio::spawn(tail(child.stdout.take()));
    let err = tokio::spawn(tail(child.stderr.take()));

    let status = tokio::select! {
        status = child.wait() => Some(status?),
        () = tokio::time::sleep(timeout) => None,
        () = cancel.cancelled() => None,
    };
    let kept = sweep(target).await;
    if status.is_none() {
        // Its group and its mark may not have been there yet.
        let _ = child.start_kill();
        child.wait().await?;
    }
    let itself = u64::from(status.is_none());
    let output = format!("{}{}", last_words(out).await, last_words(err).await).trim().to_owned();
    Ok(Ran { status, output, removed: kept.removed.saturating_sub(itself), left: kept.left })
}

/// Kills what is in the run's group or has its mark, and removes the group.
async fn sweep(target: &Target) -> Tally {
    let scope = Scope { roots: target.roots.clone(), tokens: target.run..=target.run };
    let swept = tokio::task::spawn_blocking(move || {
        // Not cancelled with the run: whoever cancels it waits for exactly this.
        let control = Control::new(limits::ENDING, &CancellationToken::new());
        let mut tally = Tally::default();
        let ended = strays::end_strays(&scope, &control, &mut tally).and_then(|()| remove_groups(&scope));
        if let Err(error) = ended {
            tracing::warn!(worker = scope.roots.worker(), %error, "a command's processes could not be ended");
            tally.left = tally.left.max(1);
        }
        tally
    });
    swept.await.unwrap_or_else(|_| Tally { left: 1, ..Tally::default() })
}

fn remove_groups(scope: &Scope) -> Result<(), Halt> {
    for group in scope.groups()? {
        group.remove()?;
    }
    Ok(())
}

async fn last_words(tail: tokio::task::JoinHandle<Vec<u8>>) -> String {
    let abort = tail.abort_handle();
    match tokio::time::timeout(limits::DRAIN, tail).await {
        Ok(Ok(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        Ok(Err(_)) | Err(_) => {
            abort.abort();
            String::new()
        }
    }
}

/// Reads to the end; keeps the last bytes.
async fn tail(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return kept };
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut piece).await {
        kept.extend_from_slice(&piece[..count]);
        let surplus = kept.len().saturating_sub(limits::OUTPUT);
        kept.drain(..surplus);
    }
    kept
}
