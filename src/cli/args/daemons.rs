//! What may be typed to start processes: dev, server, agent.
//!
//! Never here: what the words do.

use std::path::PathBuf;

use clap::Args;

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
