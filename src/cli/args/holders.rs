//! What holders of leases may type: run, acquire, renew, return.
//!
//! Never here: what the words do.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The pool
    #[arg(long)]
    pub(crate) pool: String,
    /// The job's id; a random one by default
    #[arg(long)]
    pub(crate) job: Option<String>,
    /// Labels that the worker must have, such as os=linux,arch in (x86,arm)
    #[arg(long, default_value = "")]
    pub(crate) selector: String,
    /// Wait this long for a worker
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
    /// Time to live of the lease, renewed in the background; the pool's by default
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// Priority among those who wait
    #[arg(long, default_value_t = 0)]
    pub(crate) priority: u32,
    /// A variable for the job, NAME=VALUE, or NAME to pass on its value here
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Return only when the worker is known to be clean again
    #[arg(long)]
    pub(crate) wait_clean: bool,
    /// The command and its arguments; run without a shell
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LeaseFileArgs {
    /// The lease's file; by default one per worker below $XDG_STATE_HOME/remuda/leases
    #[arg(long, env = "REMUDA_LEASE", value_name = "FILE")]
    pub(crate) lease_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AcquireArgs {
    /// The pool
    #[arg(long)]
    pub(crate) pool: String,
    /// The job's id
    #[arg(long)]
    pub(crate) job: String,
    /// Labels that the worker must have, such as os=linux,arch in (x86,arm)
    #[arg(long, default_value = "")]
    pub(crate) selector: String,
    /// Wait this long for a worker; do not wait by default
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
    /// Time to live; the pool's by default. Nobody renews the lease but `remuda renew`
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// Priority among those who wait
    #[arg(long, default_value_t = 0)]
    pub(crate) priority: u32,
    #[command(flatten)]
    pub(crate) file: LeaseFileArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// The worker: its full name, or its id where that is unique
    #[arg(long)]
    pub(crate) worker: Option<String>,
    /// A new time to live; unchanged by default
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,
    #[command(flatten)]
    pub(crate) file: LeaseFileArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OutcomeWord {
    /// The job succeeded
    Success,
    /// The job failed; the worker is thought to be well
    Failure,
    /// The worker is broken: it is stopped and goes to Maintenance
    Broken,
}

#[derive(Debug, Args)]
pub(crate) struct ReturnArgs {
    /// The worker: its full name, or its id where that is unique
    #[arg(long)]
    pub(crate) worker: Option<String>,
    /// The job that holds it; checked against the lease's file
    #[arg(long)]
    pub(crate) job: Option<String>,
    /// How the job ended
    #[arg(long, default_value = "success")]
    pub(crate) outcome: OutcomeWord,
    /// Do not wait until the worker is clean
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) file: LeaseFileArgs,
}
