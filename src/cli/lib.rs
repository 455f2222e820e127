//! The command line: one binary for replicas, agents, a whole cluster on one machine, and everything one asks of it.
//!
//! A library, so that the product and the build with failpoints are the same program. Results go to stdout and all else
//! to stderr; what went wrong decides the exit status, see `failure.rs`.
//!
//! Never here: the protocol, which is the client's; anything that a script could not rely on.

mod apply;
mod args;
mod cluster;
mod daemon;
mod dev;
mod events;
mod failure;
mod lease_file;
mod leases;
mod names;
mod output;
mod pools;
mod returns;
mod run;
mod signals;
mod spec;
mod tables;
mod workers;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use args::{Cli, Command};
use failure::Failure;

/// For a replica's tasks to let go of its databases at the end. Dropping them takes milliseconds.
const CLOSE: Duration = Duration::from_secs(2);

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // A job's supervisor is this binary again. It comes first: no runtime, no logging, no parsing.
    if std::env::args_os().nth(1).is_some_and(|a| a == remuda_agent::HIDDEN) {
        return remuda_agent::supervisor_main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with 0, errors to stderr with 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    daemon::start_logging(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::other(format!("cannot start: {error}")).tell(),
    };
    let serves = matches!(cli.command, Command::Server(_));
    let code = runtime.block_on(run(cli));
    if serves {
        // RocksDB aborts a process that ends while a task still has a database open.
        runtime.shutdown_timeout(CLOSE);
    } else {
        // A thread may be stuck in a read of standard input; it must not hold up the end.
        runtime.shutdown_background();
    }
    code
}

async fn run(cli: Cli) -> ExitCode {
    let context = args::Context { endpoints: cli.endpoints, output: cli.output };
    let done = match cli.command {
        Command::Run(args) => return run::run(&context, args).await,
        Command::Dev(args) => return dev::dev(args).await,
        Command::Server(args) => daemon::server(args).await,
        Command::Agent(args) => daemon::agent(args).await,
        Command::Acquire(args) => interruptible(leases::acquire(&context, args)).await,
        Command::Renew(args) => interruptible(leases::renew(&context, args)).await,
        Command::Return(args) => interruptible(leases::give_back(&context, args)).await,
        Command::Pool(command) => interruptible(pools::pool(&context, command)).await,
        Command::Worker(command) => interruptible(workers::worker(&context, command)).await,
        Command::Events(args) => interruptible(events::events(&context, args)).await,
        Command::Returns(command) => interruptible(returns::returns(&context, command)).await,
        Command::Cluster(command) => interruptible(cluster::cluster(&context, command)).await,
        Command::Explain(args) => cluster::explain(&args),
        Command::Completions(args) => args::completions(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// Ends a command at SIGINT or SIGTERM. Dropping the command gives up what it had asked for.
async fn interruptible(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut signals = signals::Signals::new()?;
    tokio::select! {
        done = command => done,
        _ = signals.next() => {
            // What was given up is cancelled in the background; that takes one call.
            tokio::time::sleep(signals::GOODBYE).await;
            Err(Failure::Interrupted)
        }
    }
}
