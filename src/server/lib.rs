//! One Remuda replica.

pub mod raft;
