//! The executable under test: `remuda-chaos`, the product with failpoints.
//!
//! Cargo does not build another package's executable for a test, so it is built here before its first use, with the
//! same profile and into the same target folder. `REMUDA_TEST_TARGET` names a folder with one that is known to be
//! current.
//!
//! Never here: running it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The executable's name.
const NAME: &str = "remuda-chaos";
/// The features that put failpoints in, the same list everywhere so that cargo builds each crate once.
const FEATURES: &str = "remuda-server/chaos,remuda-agent/chaos,remuda/chaos";

/// Where the executable is.
pub(crate) fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("REMUDA_TEST_TARGET") {
        Some(folder) => Path::new(&folder).join(NAME),
        None => build(),
    })
}

fn build() -> PathBuf {
    let me = std::env::current_exe().expect("a test knows its executable");
    let profile = me.parent().and_then(Path::parent).expect("TARGET/PROFILE/deps/test");
    let target = profile.parent().expect("TARGET/PROFILE");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the workspace");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--workspace", "--features", FEATURES, "--bin", NAME]).current_dir(root);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let built = command.env("CARGO_TARGET_DIR", target).output().expect("cargo can be run");
    assert!(built.status.success(), "{NAME} cannot be built: {}", String::from_utf8_lossy(&built.stderr));
    profile.join(NAME)
}
