//! Real clusters: three `remuda-chaos server` processes and real agents, killed, stopped and continued.
//!
//! ```text
//!   a test ── cluster.rs ──┬─ permit.rs   so many clusters at once as the machine bears, over all test processes
//!                          ├─ ports.rs    a block of ports, held for the cluster's life
//!                          ├─ program.rs  the executable with failpoints
//!                          └─ process.rs  one process: configuration, log, failpoints with gate and marks, signals
//!   after each test: every worker Available, all replicas alike, and history.rs hands what was asked, answered,
//!   watched and committed to the promises' judges
//! ```
//!
//! A test arms a failpoint behind a gate: nothing is counted before the gate opens, so that the process dies at the
//! very command that the test sends next.
//!
//! Never here: a cluster in this process; knowledge of a replica's insides beyond its ports.

mod cluster;
mod dying;
mod history;
mod load;
mod outside;
mod permit;
mod ports;
mod process;
mod program;
mod restarts;
mod stopped;
