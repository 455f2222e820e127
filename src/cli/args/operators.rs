//! What operators may type: pools, workers, events, returns, the cluster.
//!
//! Never here: what the words do.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create a pool
    Create(PoolWriteArgs),
    /// Create or update the pools of a file, so that they are as it says
    Apply(ApplyArgs),
    /// All pools
    List,
    /// One pool
    Get(PoolArgs),
    /// Change some settings of a pool
    Update(PoolWriteArgs),
    /// Remove a pool that has no workers other than retired ones
    Delete(PoolArgs),
    /// A pool's counts, and how well its returns go
    Stats(PoolArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PoolArgs {
    /// The pool
    pub(crate) pool: String,
}

#[derive(Debug, Args)]
pub(crate) struct PoolWriteArgs {
    /// The pool
    pub(crate) pool: String,
    /// A setting as in a pools file, such as lease.ttl=45s or cleaning.attempts=5
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Check only; print what would be
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The pools file (TOML)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Check only; print what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Workers of one pool, or of all
    List(WorkerListArgs),
    /// One worker
    Get(WorkerArgs),
    /// No new leases; a lease held goes on
    Cordon(WorkerOrderArgs),
    /// End a cordon or a drain
    Uncordon(WorkerOrderArgs),
    /// Cordon, and end a lease at a deadline
    Drain(DrainArgs),
    /// Take out of use: at once when free, else after the return
    Maintenance(MaintenanceArgs),
    /// End maintenance: the worker is cleaned and checked like any other
    Resume(WorkerOrderArgs),
    /// Never use again: at once when free, else after the return
    Retire(RetireArgs),
    /// Let another agent register a lost worker's name
    Release(WorkerOrderArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The worker: its full name, or its id where that is unique
    pub(crate) worker: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum StateWord {
    Cleaning,
    Ready,
    Available,
    Busy,
    Maintenance,
    Lost,
    Retired,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerListArgs {
    /// Only this pool's
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// Only those with these labels
    #[arg(long, default_value = "")]
    pub(crate) selector: String,
    /// Only those in these states
    #[arg(long, value_delimiter = ',')]
    pub(crate) state: Vec<StateWord>,
    /// Take whatever the replica that answers has
    #[arg(long)]
    pub(crate) stale: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerOrderArgs {
    /// The worker: its full name, or its id where that is unique
    pub(crate) worker: String,
    /// Why; others are shown it
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Who asks; this user by default
    #[arg(long)]
    pub(crate) actor: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ThenWord {
    /// Stay Ready, cordoned
    Ready,
    /// To Maintenance
    Maintenance,
    /// Retire
    Retired,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub(crate) order: WorkerOrderArgs,
    /// The lease ends after this long
    #[arg(long, value_parser = humantime::parse_duration, required_unless_present = "now", conflicts_with = "now")]
    pub(crate) deadline: Option<Duration>,
    /// The lease ends now
    #[arg(long)]
    pub(crate) now: bool,
    /// What follows
    #[arg(long, default_value = "ready")]
    pub(crate) then: ThenWord,
}

#[derive(Debug, Args)]
pub(crate) struct MaintenanceArgs {
    #[command(flatten)]
    pub(crate) order: WorkerOrderArgs,
    /// End a lease or a run first
    #[arg(long)]
    pub(crate) now: bool,
    /// Stop the job and keep everything else as it is, for looking
    #[arg(long)]
    pub(crate) hold: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    #[command(flatten)]
    pub(crate) order: WorkerOrderArgs,
    /// End a lease or a run first
    #[arg(long)]
    pub(crate) now: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Begin with this revision, or after this token
    #[arg(long, value_name = "REVISION|TOKEN")]
    pub(crate) since: Option<String>,
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only this pool's
    #[arg(long, conflicts_with = "worker")]
    pub(crate) pool: Option<String>,
    /// Only this worker's
    #[arg(long)]
    pub(crate) worker: Option<String>,
    /// Only of workers with these labels
    #[arg(long, default_value = "")]
    pub(crate) selector: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReturnsCommand {
    /// Returns, newest first
    List(ReturnsListArgs),
    /// One return with its steps and the last receipt
    Get(ReturnGetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ReturnsListArgs {
    /// Only this pool's
    #[arg(long, conflicts_with = "worker")]
    pub(crate) pool: Option<String>,
    /// Only this worker's
    #[arg(long)]
    pub(crate) worker: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReturnGetArgs {
    /// The return, pools/P/workers/W/returns/R; or a worker, whose last return is meant
    pub(crate) name: String,
    /// Wait this long for its end
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// The replicas, as the leader knows them
    Status(StatusArgs),
    /// Hand leadership to another replica
    Transfer(TransferArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Exit with 10 unless there is a leader and every replica is reached
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// To this replica; by default the one that is furthest
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) to: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The reason, such as STALE_LEASE; without one all are listed
    pub(crate) reason: Option<String>,
}
