//! `server` and `agent`: the two long-running processes, their settings, logs, and end.
//!
//! The first SIGTERM or SIGINT begins an orderly end, the second ends the process at once. A child of `remuda dev` also
//! ends at the end of its standard input, which is a pipe that only its parent holds.
//!
//! Never here: what they do.

use std::io::Read as _;

use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::args::{AgentArgs, Command, ServerArgs};
use crate::failure::{self, Failure};
use crate::signals::Signals;

/// Logs go to stderr: of a daemon from `info` on, of other commands only errors. REMUDA_LOG says otherwise, in the form of
/// `tracing`'s filters; REMUDA_LOG_FORMAT=json makes them one JSON document per line.
pub(crate) fn start_logging(command: &Command) {
    let daemon = matches!(command, Command::Server(_) | Command::Agent(_));
    let default = if daemon { "info" } else { "error" };
    let filter = EnvFilter::try_from_env("REMUDA_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if std::env::var("REMUDA_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.init();
    }
}

pub(crate) async fn server(args: ServerArgs) -> Result<(), Failure> {
    let mut flags = flags(&args.set)?;
    if args.insecure {
        flags.push(("insecure".to_owned(), "true".to_owned()));
    }
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let config = remuda_server::config::ServerConfig::load(args.config.as_deref(), environment, &flags)
        .map_err(|e| Failure::usage(e.to_string()))?;
    let shutdown = CancellationToken::new();
    stop_at_signals(&shutdown)?;
    if args.exit_with_parent {
        stop_with_parent(&shutdown);
    }
    remuda_server::run(config, shutdown).await.map_err(|e| Failure::other(format!("{e:#}")))
}

pub(crate) async fn agent(args: AgentArgs) -> Result<(), Failure> {
    let mut flags = flags(&args.set)?;
    let switches = [(args.insecure, "insecure"), (args.drain, "drain"), (args.exit_with_parent, "exit_with_parent")];
    flags.extend(switches.iter().filter(|(on, _)| *on).map(|(_, key)| ((*key).to_owned(), "true".to_owned())));
    let overrides = remuda_agent::config::Overrides::from_process(flags);
    let config = remuda_agent::config::AgentConfig::load(args.config.as_deref(), &overrides)
        .map_err(|e| Failure::usage(e.to_string()))?;
    let shutdown = CancellationToken::new();
    stop_at_signals(&shutdown)?;
    remuda_agent::run(config, shutdown).await.map_err(|e| Failure::other(format!("{e:#}")))
}

fn flags(sets: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let split = |set: &String| {
        let (key, value) =
            set.split_once('=').ok_or_else(|| Failure::usage(format!("--set {set}: must be KEY=VALUE")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    sets.iter().map(split).collect()
}

fn stop_at_signals(shutdown: &CancellationToken) -> Result<(), Failure> {
    let (mut signals, shutdown) = (Signals::new()?, shutdown.clone());
    tokio::spawn(async move {
        signals.next().await;
        shutdown.cancel();
        signals.next().await;
        std::process::exit(i32::from(failure::INTERRUPTED));
    });
    Ok(())
}

/// A thread, since a read of standard input cannot be cancelled; it ends with the process.
fn stop_with_parent(shutdown: &CancellationToken) {
    let shutdown = shutdown.clone();
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|n| n > 0) {}
        tracing::info!("the parent has ended");
        shutdown.cancel();
    });
}
