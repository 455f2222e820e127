//! Tests of the state machine, and of three replicas that speak over real TCP.

mod cluster;
#[cfg(feature = "chaos")]
mod crash;
mod machine;
mod ports;
mod replicas;
mod snapshots;
