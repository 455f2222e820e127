//! The public protocol: generated code, and the conversions between it and the registry.
//!
//! This is the only crate that knows both shapes. Selectors and resource names are parsed here, so that the registry
//! sees syntax trees and ids, and every other crate sees either messages or the registry's own types.
//!
//! Never here: decisions, IO, clocks.

pub mod convert;
pub mod json;
pub mod name;
pub mod reasons;
pub mod selector;

/// The public API, `remuda.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("remuda.v1");
}

/// What agents serve.
pub mod agent {
    /// Executions, `remuda.agent.v1`.
    #[allow(missing_docs, clippy::all, unreachable_pub)]
    pub mod v1 {
        tonic::include_proto!("remuda.agent.v1");
    }
}

/// What replicas say to each other.
pub mod raft {
    /// Peers only, `remuda.raft.v1`.
    #[allow(missing_docs, clippy::all, unreachable_pub)]
    pub mod v1 {
        tonic::include_proto!("remuda.raft.v1");
    }
}

/// The descriptors of `remuda.v1` and `remuda.agent.v1` with their imports, for reflection and for JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/remuda.bin"));
