//! The agent on a worker's host.
