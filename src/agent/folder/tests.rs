//! The state folder alone, on a temporary folder.

use super::*;
use crate::job::JobFact;

fn facts(seen: u64) -> Facts {
    Facts {
        seen,
        finished: seen - 1,
        epoch: seen,
        job: Some(JobFact { epoch: seen, boot_id: "b".into(), asked: "a".into() }),
        retired: None,
    }
}

#[test]
fn a_second_opener_is_refused_and_told_who_holds_it() {
    let home = tempfile::tempdir().unwrap();
    let first = StateFolder::open(home.path()).unwrap();
    let refused = StateFolder::open(home.path()).unwrap_err();
    assert!(matches!(&refused, FolderError::InUse { pid: Some(pid), .. } if *pid == std::process::id()), "{refused}");
    assert!(refused.to_string().contains("in use by another agent process"), "{refused}");
    drop(first);
    StateFolder::open(home.path()).expect("the lock goes with its holder");
}

#[test]
fn the_identity_is_made_once_and_kept_from_other_users() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    let first = StateFolder::open(home.path()).unwrap().identity().unwrap();
    let again = StateFolder::open(home.path()).unwrap().identity().unwrap();
    assert_eq!((&first.id, first.key), (&again.id, again.key));
    assert_ne!(first.key, [0; 32]);
    assert!((8..=64).contains(&first.id.len()));
    let mode = fs::metadata(home.path().join("agent.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!format!("{first:?}").contains("key"), "the key is never printed");
}

#[test]
fn incarnations_only_grow() {
    let home = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(home.path()).unwrap();
    assert_eq!(folder.next_incarnation().unwrap(), 1);
    assert_eq!(folder.next_incarnation().unwrap(), 2);
    assert_eq!(folder.incarnation_above(40).unwrap(), 41);
    assert_eq!(folder.incarnation_above(7).unwrap(), 42);
    drop(folder);
    assert_eq!(StateFolder::open(home.path()).unwrap().next_incarnation().unwrap(), 43);
}

#[test]
fn facts_come_back_as_they_were_written() {
    let home = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(home.path()).unwrap();
    assert_eq!(folder.worker("w-1").unwrap(), None);
    for seen in 5..9 {
        folder.save_worker("w-1", &WorkerRecord::new("ci", facts(seen))).unwrap();
    }
    drop(folder);
    let folder = StateFolder::open(home.path()).unwrap();
    assert_eq!(folder.worker("w-1").unwrap(), Some(WorkerRecord::new("ci", facts(8))));
    let names: Vec<_> = fs::read_dir(home.path().join("facts")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["w-1.json"], "nothing is left aside");
}

#[test]
fn a_write_cut_short_leaves_the_old_content() {
    let home = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(home.path()).unwrap();
    folder.save_worker("w-1", &WorkerRecord::new("ci", facts(5))).unwrap();
    // What a crash between writing aside and renaming leaves behind.
    fs::write(home.path().join("facts/w-1.json.new"), b"{\"format\":1,\"po").unwrap();
    assert_eq!(folder.worker("w-1").unwrap(), Some(WorkerRecord::new("ci", facts(5))));
    folder.save_worker("w-1", &WorkerRecord::new("ci", facts(6))).unwrap();
    assert_eq!(folder.worker("w-1").unwrap(), Some(WorkerRecord::new("ci", facts(6))));
}

#[test]
fn a_damaged_or_foreign_file_is_an_error_and_not_a_fresh_start() {
    let home = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(home.path()).unwrap();
    folder.next_incarnation().unwrap();
    for bad in ["", "{", "{\"format\":2,\"incarnation\":9}", "{\"format\":1}"] {
        fs::write(home.path().join("incarnation.json"), bad).unwrap();
        let error = folder.next_incarnation().unwrap_err();
        assert!(matches!(error, FolderError::Damaged { .. }), "{bad:?}: {error}");
        assert!(error.to_string().contains("incarnation.json"), "{error}");
    }
}
