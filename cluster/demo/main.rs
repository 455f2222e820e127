//! The demonstration: the whole way of a worker, with the leader lost in the middle of it.
//!
//! It starts `remuda dev` with three replicas and four workers and runs twelve jobs that leave dirt of every kind the
//! first plan knows. One job leaves a process that ignores TERM, so that its worker is Cleaning for the whole grace;
//! in that time the leader is killed with -9. What the cluster then says of itself is printed and judged, and at last
//! the machine is looked at from outside: no process and no file of any job may be left.
//!
//! ```text
//!   before ──> remuda dev ──> 12 jobs ──> job 7 Cleaning ──> kill -9 leader ──> all Available ──> stop ──> after
//!     └───────────────────────────── the same processes, the same folders ───────────────────────────────────┘
//! ```
//!
//! Everything it knows of the cluster comes from the command line's JSON, as a script would see it. Exit status 0 only
//! if every line of the verdict holds.
//!
//! Never here: the registry's own types; a judgement that asks the agent whether it cleaned.

mod answers;
mod cluster;
mod figures;
mod jobs;
mod outside;
mod report;
mod story;

use std::process::{Command, ExitCode};

/// Tells the inner process that it runs in a process namespace of its own.
const INSIDE: &str = "REMUDA_DEMO_INSIDE";

fn main() -> ExitCode {
    if let Some(code) = in_own_process_namespace() {
        return code;
    }
    let wanted = std::env::args().nth(1);
    let result = match wanted.as_deref() {
        None => story::tell(),
        Some("figures") => figures::measure(),
        Some(other) => {
            eprintln!("usage: remuda-demo [figures]; there is no {other:?}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// As root, runs this program again in a process namespace of its own, where the process table holds nothing but us:
/// the look from outside is then exact, and nothing outlives the demonstration even if it is killed. Elsewhere the
/// table of the whole machine is compared, and `None` is the answer.
fn in_own_process_namespace() -> Option<ExitCode> {
    if std::env::var_os(INSIDE).is_some() || !rustix::process::geteuid().is_root() {
        return None;
    }
    let works = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "--kill-child", "true"]).output();
    if !works.is_ok_and(|o| o.status.success()) {
        return None;
    }
    let me = std::env::current_exe().ok()?;
    let status = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(me)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .ok()?;
    Some(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
}
