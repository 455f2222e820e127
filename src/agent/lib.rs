//! The agent on a worker's host.

pub mod config;
pub mod folder;
pub mod job;
