//! What tests put in place of the cluster and of the host.
//!
//! Never here: product code.

use std::time::Duration;

mod idler;
mod registry;
mod rig;

pub(crate) use registry::{Memory, Registry};
pub(crate) use rig::{Rig, Whole};

/// Waits until `wanted` holds, for at most ten seconds.
pub(crate) async fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {what}");
}
