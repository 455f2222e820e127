//! Places where a test may make this replica die, hang or fail.
//!
//! Product code names a place with `failpoint::hit("log.append.before_write")`. Without the feature `chaos` the call is an
//! empty inline function and no name reaches the executable. With it, the environment decides what happens where:
//!
//! ```text
//! REMUDA_FAILPOINTS="name=action[*N][;...]"      actions: abort | error | pause | sleep(MILLISECONDS)
//! REMUDA_FAILPOINT_MARKS=FILE                    each acting hit appends a line `name action pid` to FILE
//! REMUDA_FAILPOINT_GATE=FILE                     hits count only while FILE exists; without the variable always
//! ```
//!
//! `*N` acts at the N-th hit alone, else every hit acts. `abort` ends the process like kill -9 would, `pause` blocks the
//! calling thread for good, `error` acts only where the place asks [`fails`], and `hit` passes it over.
//!
//! Invariants
//! * `NAMES` holds every place exactly once, and each place stands at one line of the code (a test compares).
//! * A mark is in the file before the action happens.
//!
//! Never here: a decision that product code depends on.

/// Every place of this crate, sorted. A suite that kills the process everywhere iterates over this list.
#[cfg(feature = "chaos")]
pub const NAMES: &[&str] = &[
    "bootstrap.before_command",
    "bootstrap.before_initialize",
    "identity.after_log",
    "identity.after_state",
    "identity.before_rename",
    "log.append.after_callbacks",
    "log.append.after_sync",
    "log.append.after_write",
    "log.append.before_write",
    "log.committed.after_write",
    "log.purge.after_write",
    "log.purge.before_write",
    "log.seal.after_sync",
    "log.seal.after_write",
    "log.seal.before_write",
    "log.sync",
    "log.truncate.after_write",
    "log.truncate.before_write",
    "log.vote.after_sync",
    "log.vote.after_write",
    "log.vote.before_write",
    "log.write",
    "net.snapshot.mid_receive",
    "net.snapshot.mid_send",
    "propose.after_commit",
    "propose.before_write",
    "state.apply.after_write",
    "state.apply.before_write",
    "state.install.after_keep",
    "state.install.after_switch",
    "state.install.before_keep",
    "state.install.before_switch",
    "state.snapshot.after_checkpoint",
    "state.snapshot.after_rename",
    "state.snapshot.before_rename",
];

/// Passes the place `name`: does nothing, unless the environment orders an action here.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn hit(_name: &'static str) {}

/// Whether the place `name` shall behave as if its operation had failed. Always false without the feature `chaos`.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn fails(_name: &'static str) -> bool {
    false
}

#[cfg(feature = "chaos")]
pub use armed::fails;
#[cfg(feature = "chaos")]
pub use armed::hit;

#[cfg(feature = "chaos")]
mod armed {
    use std::collections::HashMap;
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Abort,
        Error,
        Pause,
        Sleep(u64),
    }

    /// What is ordered at one place.
    #[derive(Debug)]
    pub(super) struct Order {
        pub(super) action: Action,
        /// The only hit that acts, counted from 1; all of them if absent.
        pub(super) only: Option<u64>,
        hits: AtomicU64,
    }

    /// Passes the place `name`: acts as the environment orders.
    pub fn hit(name: &'static str) {
        if let Some(action) = due(name) {
            perform(name, action);
        }
    }

    /// Passes the place `name`; true if its operation shall be taken as failed (action `error`).
    pub fn fails(name: &'static str) -> bool {
        match due(name) {
            Some(Action::Error) => {
                mark(name, Action::Error);
                true
            }
            Some(action) => {
                perform(name, action);
                false
            }
            None => false,
        }
    }

    fn due(name: &'static str) -> Option<Action> {
        static ORDERS: OnceLock<HashMap<String, Order>> = OnceLock::new();
        let orders = ORDERS.get_or_init(|| {
            let text = std::env::var("REMUDA_FAILPOINTS").unwrap_or_default();
            parse(&text).unwrap_or_else(|reason| panic!("REMUDA_FAILPOINTS: {reason}"))
        });
        let order = orders.get(name)?;
        // A hit before the gate is there passes as if nothing were ordered.
        if std::env::var_os("REMUDA_FAILPOINT_GATE").is_some_and(|gate| !std::path::Path::new(&gate).exists()) {
            return None;
        }
        let hits = order.hits.fetch_add(1, Ordering::Relaxed) + 1;
        order.only.is_none_or(|only| only == hits).then_some(order.action)
    }

    fn perform(name: &'static str, action: Action) {
        match action {
            Action::Error => {}
            Action::Abort => {
                mark(name, action);
                std::process::abort();
            }
            Action::Pause => {
                mark(name, action);
                loop {
                    std::thread::park();
                }
            }
            Action::Sleep(millis) => {
                mark(name, action);
                std::thread::sleep(Duration::from_millis(millis));
            }
        }
    }

    fn mark(name: &str, action: Action) {
        let Some(path) = std::env::var_os("REMUDA_FAILPOINT_MARKS") else { return };
        let word = match action {
            Action::Abort => "abort",
            Action::Error => "error",
            Action::Pause => "pause",
            Action::Sleep(_) => "sleep",
        };
        let line = format!("{name} {word} {}\n", std::process::id());
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            panic!("REMUDA_FAILPOINT_MARKS: {}: {error}", path.display());
        }
    }

    pub(super) fn parse(text: &str) -> Result<HashMap<String, Order>, String> {
        let items = text.split(';').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| parse_item(item).map_err(|reason| format!("`{item}`: {reason}"))).collect()
    }

    fn parse_item(item: &str) -> Result<(String, Order), String> {
        let (name, rest) = item.split_once('=').ok_or("expected name=action")?;
        if !super::NAMES.contains(&name) {
            return Err("no failpoint has this name".to_owned());
        }
        let (word, only) = match rest.split_once('*') {
            Some((word, n)) => (word, Some(n.parse().map_err(|_| "expected a number after `*`")?)),
            None => (rest, None),
        };
        let action = match word {
            "abort" => Action::Abort,
            "error" => Action::Error,
            "pause" => Action::Pause,
            _ => {
                let millis = word.strip_prefix("sleep(").and_then(|rest| rest.strip_suffix(')'));
                let millis = millis.and_then(|millis| millis.parse().ok());
                Action::Sleep(millis.ok_or("expected abort, error, pause or sleep(MILLISECONDS)")?)
            }
        };
        Ok((name.to_owned(), Order { action, only, hits: AtomicU64::new(0) }))
    }
}

#[cfg(all(test, feature = "chaos"))]
mod tests {
    use std::path::Path;

    use super::NAMES;
    use super::armed::{Action, parse};

    /// The names in all calls of `hit` and `fails` below `folder`.
    fn names_in(folder: &Path, found: &mut Vec<String>) {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                names_in(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("failpoint.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for call in ["failpoint::hit(\"", "failpoint::fails(\""] {
                    let names = text.split(call).skip(1).filter_map(|rest| rest.split('"').next());
                    found.extend(names.map(str::to_owned));
                }
            }
        }
    }

    #[test]
    fn the_list_names_every_place_once() {
        let mut found = Vec::new();
        names_in(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
        found.sort();
        assert_eq!(found, NAMES, "left: in the code; right: failpoint::NAMES");
        assert!(NAMES.is_sorted_by(|a, b| a < b), "sorted and unique");
    }

    #[test]
    fn orders_are_read_as_documented() {
        let orders = parse("log.sync=error*3; log.write=sleep(250);log.seal.after_sync=abort").unwrap();
        assert_eq!((orders["log.sync"].action, orders["log.sync"].only), (Action::Error, Some(3)));
        assert_eq!((orders["log.write"].action, orders["log.write"].only), (Action::Sleep(250), None));
        assert_eq!(orders["log.seal.after_sync"].action, Action::Abort);
        assert!(parse("").unwrap().is_empty());
        for wrong in ["log.sync", "log.sync=", "log.sync=fall", "log.sync=sleep(x)", "log.sync=abort*", "no.such=abort"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
