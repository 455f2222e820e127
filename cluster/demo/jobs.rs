//! The jobs: what each does and what dirt it leaves.
//!
//! Every process that a job leaves sleeps for a number of seconds that occurs nowhere else, so that the look from
//! outside can tell it by its command line as well as by being new.

use std::process::{Child, Stdio};

use anyhow::Result;

use crate::cluster::Cluster;

/// How many jobs there are.
pub(crate) const COUNT: u32 = 12;
/// The job whose process ignores TERM.
pub(crate) const STUBBORN: u32 = 7;
/// The seconds that every left process sleeps for; what the look from outside searches command lines for.
pub(crate) const SLEEP_MARK: &str = "86417";

/// A job's id.
pub(crate) fn id(number: u32) -> String {
    format!("demo-{number:02}")
}

/// The shell script of one job.
fn script(number: u32) -> String {
    let common = format!(
        "set -e; echo \"job {number} on $REMUDA_WORKER\"; \
         mkdir -p build/deep/er; head -c 200000 /dev/zero > build/deep/er/object.o; \
         head -c 100000 /dev/zero > \"$TMPDIR/scratch.{number}\"; \
         echo secret-of-{number} > $REMUDA_FOLDERS/left-by-{number}; "
    );
    let dirt = match number {
        STUBBORN => format!("(trap '' TERM; while :; do sleep {SLEEP_MARK}; done) >/dev/null 2>&1 & "),
        n if n % 3 == 0 => format!("setsid sh -c '(sleep {SLEEP_MARK} &) &' >/dev/null 2>&1 </dev/null; "),
        n if n % 3 == 1 => format!("sleep {SLEEP_MARK} >/dev/null 2>&1 & "),
        _ => format!("chmod 000 build/deep; (cd / && setsid sleep {SLEEP_MARK} >/dev/null 2>&1 </dev/null &) ; "),
    };
    let end = if number == 5 { "exit 3" } else { "exit 0" };
    format!("{common}{dirt}sleep 0.2; {end}")
}

/// The exit status that a job must pass through.
pub(crate) fn status(number: u32) -> i32 {
    if number == 5 { 3 } else { 0 }
}

/// Starts `remuda run` for one job.
pub(crate) fn start(cluster: &Cluster, number: u32, wait_clean: bool) -> Result<Child> {
    let (job, script) = (id(number), script(number));
    let mut args = vec!["run", "--pool", "default", "--job", &job, "--wait", "60s"];
    if wait_clean {
        args.push("--wait-clean");
    }
    args.extend(["--", "sh", "-c", &script]);
    Ok(cluster.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}
