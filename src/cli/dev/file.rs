//! `dev.json`: who runs, for programs that want to kill somebody.
//!
//! Invariants
//! * A reader sees one whole state or another, never a part.
//!
//! Never here: who ought to run.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

/// A running child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    /// `replica` or `agent`.
    pub(super) role: &'static str,
    /// Its id among its kind.
    pub(super) id: String,
    /// Its process.
    pub(super) pid: u32,
    /// Where it serves what, `host:port`.
    pub(super) endpoints: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Content<'a> {
    children: &'a [Entry],
}

/// Replaces the file.
pub(super) fn write(folder: &Path, children: &[Entry]) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut file, &Content { children })?;
    writeln!(file)?;
    file.persist(folder.join("dev.json"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_documented_shape_and_no_leftovers() {
        let folder = tempfile::tempdir().expect("a folder");
        let endpoints = BTreeMap::from([("client", "127.0.0.1:7400".to_owned())]);
        let entry = Entry { role: "replica", id: "1".into(), pid: 7, endpoints };
        write(folder.path(), &[]).expect("written");
        write(folder.path(), &[entry]).expect("written again");
        let text = std::fs::read_to_string(folder.path().join("dev.json")).expect("there");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let child = serde_json::json!(
            {"role": "replica", "id": "1", "pid": 7, "endpoints": {"client": "127.0.0.1:7400"}}
        );
        assert_eq!(value, serde_json::json!({"children": [child]}));
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
    }
}
