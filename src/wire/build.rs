//! Generates the protocol from `proto/` with protox, so that nobody needs protoc.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new("../../proto");
    let public = [
        "remuda/v1/header.proto",
        "remuda/v1/plan.proto",
        "remuda/v1/pool.proto",
        "remuda/v1/worker.proto",
        "remuda/v1/lease.proto",
        "remuda/v1/event.proto",
        "remuda/v1/agent.proto",
        "remuda/v1/cluster.proto",
        "remuda/agent/v1/execution.proto",
    ];
    let peers = ["remuda/raft/v1/raft.proto"];
    println!("cargo:rerun-if-changed={}", root.display());

    // Peers' messages are left out of the descriptor set, and so out of reflection.
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(public, [root])?;
    std::fs::write(out.join("remuda.bin"), descriptors.encode_to_vec())?;
    let config = || tonic_prost_build::configure().bytes(".remuda.raft.v1").emit_rerun_if_changed(false);
    config().compile_fds(descriptors)?;
    config().compile_fds(protox::compile(peers, [root])?)?;
    Ok(())
}
