//! What may be typed: every word, flag and variable. Scripts rely on these words.
//!
//! Never here: what the words do.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use remuda_client::Client;

use crate::failure::Failure;
use crate::output::Format;

/// Where `remuda dev` serves clients unless told otherwise.
const DEFAULT_ENDPOINTS: &str = "127.0.0.1:7400,127.0.0.1:7410,127.0.0.1:7420";

const AFTER: &str = "\
Exit status: 0 ok, 1 other, 2 usage, 3 not found, 4 conflict or wrong state, 5 no capacity, 6 auth, 7 no leader or
unreachable, 8 timed out with unknown outcome, 10 unhealthy, 130 interrupted. `run` passes the job's status on.

Try it: `remuda dev` in one terminal, then in another
    remuda run --pool default -- sh -c 'echo hello from $REMUDA_WORKER'
    remuda worker list
    remuda events --since 1";

/// A registry of reusable workers: lease one for a job, and it comes back clean.
#[derive(Debug, Parser)]
#[command(name = "remuda", version, after_help = AFTER, max_term_width = 110)]
pub(crate) struct Cli {
    /// Client endpoints of the replicas, host:port, separated by commas; any one that answers suffices
    #[arg(long, global = true, env = "REMUDA_ENDPOINTS", value_delimiter = ',', default_value = DEFAULT_ENDPOINTS)]
    pub(crate) endpoints: Vec<String>,
    /// How results are printed; json is the canonical protobuf JSON of the response
    #[arg(short, long, global = true, env = "REMUDA_OUTPUT", default_value = "table")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command about a running cluster needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) endpoints: Vec<String>,
    pub(crate) output: Format,
}

impl Context {
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.endpoints)?)
    }
}

/// The words.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lease a worker, run a command on it, and return it, whatever happens
    Run(RunArgs),
    /// Lease a worker for a job; the lease is kept in a file
    Acquire(AcquireArgs),
    /// Renew a lease once
    Renew(RenewArgs),
    /// Return a worker to its pool, and wait until it is clean
    Return(ReturnArgs),
    /// Pools: what workers of one kind share
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Workers, and what operators do with them
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// What happened, one line per transition
    Events(EventsArgs),
    /// Returns: each worker's way back after a lease
    #[command(subcommand)]
    Returns(ReturnsCommand),
    /// The replicas and their leader
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// What the reason of an error means and what to do
    Explain(ExplainArgs),
    /// A whole cluster on this machine: replicas and agents as real processes
    Dev(DevArgs),
    /// Run a replica
    Server(ServerArgs),
    /// Run the agent of this host
    Agent(AgentArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

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
    /// The return, pools/P/workers/W/returns/EPOCH; or a worker, whose last return is meant
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

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many replicas
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) replicas: u16,
    /// How many workers, each with an agent of its own
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) workers: u16,
    /// Where data and logs are kept; by default a temporary folder that is removed at the end
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Replica i uses this + 10(i-1) for clients, one more for peers, two more for operators; agent j this + 100 + j.
    /// 0 takes a free block
    #[arg(long, default_value_t = 7400)]
    pub(crate) base_port: u16,
    /// Leave a child that dies dead
    #[arg(long)]
    pub(crate) no_restart: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A setting as in the file, such as raft.heartbeat_ms=50; wins over file and environment
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Listen off loopback without TLS
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Stop at the end of standard input
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A setting as in the file, such as listen=127.0.0.1:7501; wins over file and environment
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Listen off loopback without TLS
    #[arg(long)]
    pub(crate) insecure: bool,
    /// End jobs when stopping; otherwise they run on, for an upgrade
    #[arg(long)]
    pub(crate) drain: bool,
    /// Stop at the end of standard input, jobs included
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Prints a completion script.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    clap_complete::generate(args.shell, &mut Cli::command(), "remuda", &mut std::io::stdout());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_scripts_type_is_understood() {
        for line in [
            "remuda dev --replicas 3 --workers 4 --data-dir /x --base-port 0 --no-restart",
            "remuda server --config f",
            "remuda agent --config f --drain",
            "remuda run --pool p --job j --wait 30s --wait-clean -- cmd -o json",
            "remuda acquire --pool p --job j --selector a=b --wait 5s --ttl 1m",
            "remuda renew --worker w",
            "remuda return --worker w --job j --outcome broken --no-wait",
            "remuda pool create p",
            "remuda pool apply -f f --dry-run",
            "remuda pool list",
            "remuda pool get p -o yaml",
            "remuda pool update p --set lease.ttl=4s",
            "remuda pool delete p",
            "remuda pool stats p",
            "remuda worker list -o json",
            "remuda worker get w",
            "remuda worker cordon w",
            "remuda worker uncordon w",
            "remuda worker drain w --now",
            "remuda worker drain w --deadline 5m --then retired",
            "remuda worker maintenance w --hold",
            "remuda worker resume w",
            "remuda worker retire w --now",
            "remuda worker release w",
            "remuda events --since 1 --follow -o jsonl",
            "remuda returns list",
            "remuda returns get r",
            "remuda cluster status --endpoints a:1,b:2",
            "remuda cluster transfer",
            "remuda explain STALE_LEASE",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn the_jobs_flags_are_the_jobs() {
        let cli = Cli::try_parse_from(["remuda", "run", "--pool", "p", "--", "ls", "-o", "json"]).expect("good words");
        let Command::Run(run) = cli.command else { panic!("run is run") };
        assert_eq!(run.command, ["ls", "-o", "json"]);
        assert_eq!(cli.output, Format::Table);
    }

    #[test]
    fn endpoints_are_separated_by_commas() {
        let cli = Cli::try_parse_from(["remuda", "pool", "list", "--endpoints", "a:1,b:2"]).expect("good words");
        assert_eq!(cli.endpoints, ["a:1", "b:2"]);
    }

    #[test]
    fn what_is_wrong_is_usage() {
        for line in ["remuda", "remuda run --pool p", "remuda worker drain w", "remuda bench", "remuda cluster add"] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
