//! What was there when a worker was last clean, and what is there beyond it.
//!
//! Only what belongs to the worker is in it: processes by group and mark, the entries of its own folders and of the
//! pool's further ones, the mounts below. The host's other processes, users and folders come and go for reasons of their
//! own, and are nobody's residue.
//!
//! Invariants
//! * A baseline is taken over only from a comparison without residue.
//!
//! Never here: removing anything.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use remuda_wire::v1::CleaningPlan;
use remuda_wire::v1::step::Kind;
use serde::Deserialize;
use serde::Serialize;

use crate::clean::Scope;
use crate::host::Roots;
use crate::mounts;
use crate::supervisor::record;

mod limits {
    /// Names kept of one folder; a cache that a hook fills may be large, and one that is larger is compared in part.
    pub(super) const NAMES: usize = 10_000;
    /// Examples of residue.
    pub(super) const EXAMPLES: usize = 6;
}

/// A worker's belongings at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    /// Entries by folder: the worker's own parts by name, the further ones by path.
    folders: BTreeMap<String, BTreeSet<String>>,
}

/// What is there beyond a baseline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Residue {
    /// How many things.
    pub count: u64,
    /// Some of them.
    pub examples: Vec<String>,
}

/// Which kinds of residue a plan's steps answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    processes: bool,
    mounts: bool,
    files: bool,
    temporaries: bool,
    further: bool,
}

impl Answered {
    /// By the kinds of its steps. Hooks may fill a further folder on purpose, so with a hook nobody answers for those.
    pub fn by(plan: &CleaningPlan) -> Self {
        let has = |kind: Kind| plan.steps.iter().any(|step| step.kind() == kind);
        Self {
            processes: has(Kind::Strays),
            mounts: has(Kind::Mounts),
            files: has(Kind::Files),
            temporaries: has(Kind::Temp),
            further: has(Kind::Temp) && !has(Kind::Hook),
        }
    }
}

/// The parts of a worker's folder whose entries count, with the rest of the worker's folder as an empty name.
const PARTS: [&str; 4] = ["", "leases", "aside", "tmp"];

impl Baseline {
    /// Looks at what belongs to the worker up to token `run`.
    pub fn take(roots: &Roots, run: u64, folders: &[PathBuf]) -> io::Result<Self> {
        let found = Scope { roots: roots.clone(), tokens: 0..=run }.everyone()?;
        let processes = found.processes.iter().map(|(process, proof)| format!("{} by {proof}", process.shown()));
        let mut below = folders.to_vec();
        below.push(roots.folder());
        let mounts = mounts::below(&below)?.iter().map(|mount| mounts::shown(&mount.point)).collect();
        let mut listed = BTreeMap::new();
        for part in PARTS {
            listed.insert(part.to_owned(), names(&roots.folder().join(part))?);
        }
        for folder in folders {
            listed.insert(mounts::shown(folder), names(folder)?);
        }
        Ok(Self { processes: processes.collect(), mounts, folders: listed })
    }

    /// What is here and not in `before`, as far as it is answered for.
    pub fn beyond(&self, before: &Self, answered: Answered) -> Residue {
        let mut residue = Residue::default();
        if answered.processes {
            residue.add("process", self.processes.difference(&before.processes));
        }
        if answered.mounts {
            residue.add("mount", self.mounts.difference(&before.mounts));
        }
        let none = BTreeSet::new();
        for (folder, names) in &self.folders {
            let counts = match folder.as_str() {
                "" | "leases" | "aside" => answered.files,
                "tmp" => answered.temporaries,
                _ => answered.further,
            };
            if counts {
                let before = before.folders.get(folder).unwrap_or(&none);
                residue.add(folder, names.difference(before));
            }
        }
        residue
    }
}

impl Residue {
    fn add<'a>(&mut self, what: &str, found: impl Iterator<Item = &'a String>) {
        for name in found {
            self.count += 1;
            if self.examples.len() < limits::EXAMPLES {
                self.examples.push(format!("{what} {name}"));
            }
        }
    }
}

/// Mounts in the pool's further folders that are the operator's: those of the last clean state. A worker that has no
/// baseline yet gets one here, with the mounts that it was given.
pub(crate) fn operators_mounts(roots: &Roots, run: u64, folders: &[PathBuf]) -> io::Result<BTreeSet<String>> {
    let file = roots.folder().join("baseline.json");
    if let Some(before) = record::read::<Baseline>(&file)? {
        return Ok(before.mounts);
    }
    let given = Baseline::take(roots, run, folders)?;
    let own = mounts::shown(&roots.folder());
    let mounts: BTreeSet<String> =
        given.mounts.into_iter().filter(|point| !Path::new(point).starts_with(&own)).collect();
    record::write(&file, &Baseline { mounts: mounts.clone(), ..pristine() })?;
    Ok(mounts)
}

/// Compares the worker with its baseline; without residue what is there now becomes the baseline.
pub fn compare_and_accept(roots: &Roots, run: u64, folders: &[PathBuf], answered: Answered) -> io::Result<Residue> {
    let file = roots.folder().join("baseline.json");
    let before = record::read::<Baseline>(&file)?.unwrap_or_else(pristine);
    let now = Baseline::take(roots, run, folders)?;
    let residue = now.beyond(&before, answered);
    if residue.count == 0 && now != before {
        record::write(&file, &now)?;
    }
    Ok(residue)
}

/// A worker that has nothing but what the agent made.
fn pristine() -> Baseline {
    let made = ["aside", "baseline.json", "kept", "leases", "tmp"].map(str::to_owned);
    Baseline { folders: BTreeMap::from([(String::new(), BTreeSet::from(made))]), ..Baseline::default() }
}

fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let names = entries.take(limits::NAMES).map(|entry| Ok(entry?.file_name().as_bytes().escape_ascii().to_string()));
    names.collect()
}

#[cfg(test)]
mod tests {
    use remuda_wire::v1::Step;

    use super::*;

    fn plan(kinds: &[Kind]) -> CleaningPlan {
        let step = |kind: &Kind| Step { kind: (*kind).into(), ..Step::default() };
        CleaningPlan { steps: kinds.iter().map(step).collect(), ..CleaningPlan::default() }
    }

    #[test]
    fn residue_counts_where_a_step_answers_for_it() {
        let before = pristine();
        let mut now = before.clone();
        now.processes.insert("sleep(7) by mark".to_owned());
        now.mounts.insert("/w/m".to_owned());
        now.folders.insert("leases".to_owned(), BTreeSet::from(["7".to_owned()]));
        now.folders.insert("/cache".to_owned(), BTreeSet::from(["warm".to_owned()]));
        let count = |kinds: &[Kind]| now.beyond(&before, Answered::by(&plan(kinds))).count;
        assert_eq!(count(&[Kind::Stop]), 0);
        assert_eq!(count(&[Kind::Strays]), 1);
        assert_eq!(count(&[Kind::Strays, Kind::Mounts, Kind::Files, Kind::Temp]), 4);
        assert_eq!(count(&[Kind::Strays, Kind::Mounts, Kind::Files, Kind::Temp, Kind::Hook]), 3);
        assert_eq!(now.beyond(&now, Answered::by(&plan(&[Kind::Strays, Kind::Files]))), Residue::default());
    }
}
