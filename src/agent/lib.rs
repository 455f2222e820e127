//! The agent on a worker's host: it runs jobs, stops them, cleans up after them, checks the host, and says so.
//!
//! ```text
//!   presence:  agent ── config, folder, link, metrics
//!                └─ session ──> runner ──> job (pure)         what the registry wants of each worker
//!                └─ execution ──^                             what holders want of it
//!   this host: supervisor, clean, health ── host, cgroup, process, mounts, baseline, capability
//! ```

mod agent;
pub mod baseline;
pub mod capability;
pub mod cgroup;
pub mod clean;
pub mod config;
pub mod execution;
pub mod failpoint;
#[cfg(test)]
mod fake;
pub mod folder;
pub mod health;
pub mod host;
pub mod job;
pub mod link;
pub mod metrics;
pub mod mounts;
pub mod process;
pub mod runner;
pub mod session;
pub mod supervisor;

pub use agent::run;
pub use supervisor::HIDDEN;
pub use supervisor::supervisor_main;
