//! What may be typed: every word, flag and variable. Scripts rely on these words.
//!
//! Never here: what the words do.

mod daemons;
mod holders;
mod operators;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use remuda_client::Client;

use crate::failure::Failure;
use crate::output::Format;
pub(crate) use daemons::{AgentArgs, DevArgs, ServerArgs};
pub(crate) use holders::{AcquireArgs, OutcomeWord, RenewArgs, ReturnArgs, RunArgs};
pub(crate) use operators::{
    ApplyArgs, ClusterCommand, EventsArgs, ExplainArgs, PoolCommand, PoolWriteArgs, ReturnGetArgs, ReturnsCommand,
    StateWord, ThenWord, WorkerCommand, WorkerListArgs, WorkerOrderArgs,
};

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
