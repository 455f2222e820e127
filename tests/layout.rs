//! The layout as a test: who may import whom, what each file opens with, and what must not be pulled in.
//!
//! The arrows are the design's. `cargo metadata` says which crates depend on which, `cargo tree` what a crate pulls in
//! in the end, and a scan of the sources what cargo cannot know.
//!
//! Never here: style that rustfmt and clippy can hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our crates each of our crates may depend on.
const ARROWS: [(&str, &[&str]); 8] = [
    ("remuda-registry", &[]),
    ("remuda-wire", &["remuda-registry"]),
    ("remuda-client", &["remuda-wire"]),
    ("remuda-agent", &["remuda-client", "remuda-wire"]),
    ("remuda-server", &["remuda-registry", "remuda-wire"]),
    ("remuda", &["remuda-agent", "remuda-client", "remuda-server", "remuda-wire"]),
    ("remuda-tests", &["remuda-agent", "remuda-client", "remuda-registry", "remuda-wire"]),
    ("remuda-demo", &["remuda-client", "remuda-wire"]),
];
/// What the pure domain may use.
const REGISTRY_USES: [&str; 4] = ["blake3", "postcard", "serde", "thiserror"];
/// The only folder that may name openraft.
const RAFT: &str = "src/server/raft/";
/// Folders with our sources.
const SOURCES: [&str; 4] = ["src", "tests", "cluster", "jepsen"];

fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo, or .ci/test, says where the package is");
    Path::new(&package).parent().expect("the package is a folder of the workspace").to_path_buf()
}

/// What cargo says; it needs no network.
fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).arg("--offline").current_dir(root()).output();
    let output = output.expect("cargo can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {}: {errors}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("cargo writes text")
}

/// Each member's dependencies that are not for tests only.
fn members() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("cargo writes JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let members = list(&metadata["packages"]).into_iter().map(|package| {
        let uses = list(&package["dependencies"]).into_iter().filter(|dependency| text(&dependency["kind"]) != "dev");
        (text(&package["name"]), uses.map(|dependency| text(&dependency["name"])).collect())
    });
    members.collect()
}

/// All of our Rust files, relative to the root.
fn sources() -> Vec<String> {
    let root = root();
    let mut folders: Vec<PathBuf> = SOURCES.iter().map(|folder| root.join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a folder of ours can be read").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).expect("it is below the root");
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    assert!(found.len() > 100, "only {} sources were found", found.len());
    found
}

fn read(source: &str) -> String {
    fs::read_to_string(root().join(source)).expect("a source can be read")
}

#[test]
fn crates_depend_along_the_arrows() {
    let members = members();
    let ours: BTreeSet<&str> = members.keys().map(String::as_str).collect();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    for (member, uses) in &members {
        let allowed = arrows.get(member.as_str()).unwrap_or_else(|| panic!("{member} has no arrows here"));
        for used in uses.iter().filter(|used| ours.contains(used.as_str())) {
            assert!(allowed.contains(&used.as_str()), "{member} must not depend on {used}");
        }
    }
    for (member, _) in ARROWS {
        assert!(ours.contains(member), "{member} is gone");
    }
}

#[test]
fn the_domain_is_pure() {
    let members = members();
    for used in &members["remuda-registry"] {
        assert!(REGISTRY_USES.contains(&used.as_str()), "remuda-registry must not depend on {used}");
    }
    let banned = ["std::time", "std::fs", "std::net", "std::thread", "std::env", "HashMap", "HashSet", "SystemTime"];
    for source in sources().iter().filter(|source| source.starts_with("src/registry/") && !source.contains("/tests")) {
        let text = read(source);
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let found = banned.iter().find(|word| line.contains(*word));
            assert!(found.is_none(), "{source} uses {found:?}: {line}");
        }
    }
}

#[test]
fn only_the_raft_folder_names_openraft() {
    let mut named = 0;
    for source in sources().iter().filter(|source| *source != "tests/layout.rs") {
        let text = read(source);
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let names = code.filter(|line| line.contains("openraft::") || line.contains("openraft_")).count();
        if source.starts_with(RAFT) {
            named += names;
        } else {
            assert_eq!(names, 0, "{source} names openraft");
        }
    }
    assert!(named > 0, "nothing in {RAFT} names openraft: the scan is broken");
}

#[test]
fn the_judges_use_nothing_of_the_product() {
    for source in sources().iter().filter(|source| source.starts_with("tests/guarantees/")) {
        let text = read(source);
        let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        assert!(code.all(|line| !line.contains("remuda_")), "{source} imports from the product");
    }
}

#[test]
fn every_file_says_what_it_is() {
    let silent = |source: &String| {
        let text = read(source);
        let first = text.lines().next().unwrap_or_default().to_owned();
        let speaks = first.starts_with("//! ") && first.len() > 12;
        (!speaks).then(|| format!("{source} opens with {first:?}"))
    };
    let silent: Vec<String> = sources().iter().filter_map(silent).collect();
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

#[test]
fn the_client_pulls_in_neither_storage_nor_raft() {
    let tree = cargo(&["tree", "-p", "remuda-client", "--edges", "normal,build", "--prefix", "none"]);
    assert!(tree.contains("tonic v"), "the tree is broken:\n{tree}");
    for banned in ["rocksdb", "librocksdb-sys", "openraft", "remuda-server"] {
        let found = tree.lines().find(|line| line.starts_with(banned));
        assert!(found.is_none(), "remuda-client pulls in {found:?}");
    }
}

/// Our crates that are built with the feature `chaos` when `remuda` is built with these arguments.
fn chaotic(arguments: &[&str]) -> Vec<String> {
    let shape = ["--edges", "normal,build", "--prefix", "none", "--format", "{p} features={f}"];
    let tree = cargo(&[&["tree", "-p", "remuda"], arguments, &shape[..]].concat());
    assert!(tree.contains("remuda-server v"), "the tree is broken:\n{tree}");
    let with =
        |line: &&str| line.starts_with("remuda") && line.split("features=").nth(1).unwrap_or("").contains("chaos");
    tree.lines().filter(with).map(str::to_owned).collect()
}

#[test]
fn remuda_holds_no_failpoints() {
    assert_eq!(chaotic(&[]), [""; 0], "remuda is built with failpoints");
    let on = chaotic(&["--features", "chaos"]);
    assert!(on.iter().any(|line| line.starts_with("remuda-server")), "chaos reaches nothing: {on:?}");
    assert!(on.iter().any(|line| line.starts_with("remuda-agent")), "chaos reaches no agent: {on:?}");
}
