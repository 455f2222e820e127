//! Golden scripts: what each command answers, what it tells watchers, and what it changes.
//!
//! A script in `testscripts/<area>/<scenario>` holds commands and, below `---`, what came of them: the answer at its
//! revision, each event (`*`), and each worker's row where it changed (`=`, or `-` where it is gone).
//! `UPDATE_GOLDENFILES=1` writes the outputs anew; read them before you believe them.
//!
//! Invariants
//! * Every pair of state and step in the transition table has a script: legal pairs are taken somewhere, illegal ones
//!   are tried somewhere and never taken.
//! * After each script the state loads from its rows and replays from its log to the same digest.

#[path = "../bench/mod.rs"]
mod bench;
mod parse;
mod script;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use remuda_registry::worker::{StateKind, Step, next};
use script::Script;

/// All scripts, sorted.
fn scripts() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).expect("the folder of scripts can be read");
        entries.map(|entry| entry.expect("its entries too").path()).collect::<Vec<_>>()
    };
    let mut scripts: Vec<_> = entries(&root).iter().flat_map(|area| entries(area)).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", root.display());
    scripts
}

/// Runs one script; `Err` says where its output differs. With `update` its output is written anew instead.
fn run(path: &Path, update: bool) -> Result<Script, String> {
    let name = format!("{}", path.display());
    let expected = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let mut script = Script::new();
    let output = goldenscript::generate(&mut script, &expected).map_err(|error| format!("{name}: {error}"))?;
    if update {
        fs::write(path, &output).map_err(|error| format!("{name}: {error}"))?;
    } else if output != expected {
        let differs = |(left, right): &(&str, &str)| left != right;
        let lines = expected.lines().chain([""]).zip(output.lines().chain([""]));
        let (number, (expected, found)) =
            lines.enumerate().find(|(_, pair)| differs(pair)).unwrap_or((0, ("its length", "another length")));
        return Err(format!("{name}:{}:\n    expected {expected}\n    found    {found}", number + 1));
    }
    Ok(script)
}

#[test]
fn scripts_say_what_they_said() {
    let update = std::env::var_os("UPDATE_GOLDENFILES").is_some();
    let failed: Vec<String> = scripts().iter().filter_map(|path| run(path, update).err()).collect();
    assert!(failed.is_empty(), "{} scripts differ:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn every_pair_of_state_and_step_has_a_script() {
    let (mut taken, mut denied) = (BTreeSet::new(), BTreeSet::new());
    for script in scripts().iter().filter_map(|path| run(path, false).ok()) {
        taken.extend(script.bench.taken);
        denied.extend(script.bench.denied);
    }
    let mut missing = Vec::new();
    for state in StateKind::ALL {
        for step in Step::ALL {
            match next(state, step) {
                Some(to) if !taken.contains(&(state, step)) => missing.push(format!("{step} takes {state} to {to}")),
                None if taken.contains(&(state, step)) => panic!("{step} was taken in {state}, which is illegal"),
                None if !denied.contains(&(state, step)) => missing.push(format!("{step} is refused in {state}")),
                Some(_) | None => {}
            }
        }
    }
    assert!(missing.is_empty(), "{} pairs lack a script:\n{}", missing.len(), missing.join("\n"));
}
