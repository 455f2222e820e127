//! Places where a test may make the agent, or a supervisor of its, die, hang or fail.
//!
//! The twin of the server's module, with the same environment: `REMUDA_FAILPOINTS="name=action[*N][;...]"` with the
//! actions `abort`, `error`, `pause` and `sleep(MILLISECONDS)`, `REMUDA_FAILPOINT_MARKS` for the file of marks, and
//! `REMUDA_FAILPOINT_GATE` for the file without which no hit counts. One environment serves replicas and agents, so names
//! that do not begin with `agent.` are left to the others. Supervisors inherit the agent's environment and so its orders;
//! jobs do not.
//!
//! Invariants
//! * `NAMES` holds every place exactly once, and each place stands at one line of the code (a test compares).
//! * A mark is in the file before the action happens.
//!
//! Never here: a decision that product code depends on.

/// Every place of this crate, sorted. A suite that kills the agent everywhere iterates over this list.
#[cfg(feature = "chaos")]
pub const NAMES: &[&str] = &[
    "agent.clean.after_files",
    "agent.clean.after_hook",
    "agent.clean.after_mounts",
    "agent.clean.after_probes",
    "agent.clean.after_stop",
    "agent.clean.after_strays",
    "agent.clean.after_temp",
    "agent.clean.before_files",
    "agent.clean.before_hook",
    "agent.clean.before_mounts",
    "agent.clean.before_receipt",
    "agent.clean.before_stop",
    "agent.clean.before_strays",
    "agent.clean.before_temp",
    "agent.facts.after_sync",
    "agent.files.after_aside",
    "agent.files.unlink",
    "agent.job.after_admitted",
    "agent.report.after_answer",
    "agent.report.before_send",
    "agent.session.after_incarnation",
    "agent.session.after_open",
    "agent.start.after_folder",
    "agent.start.after_spawn",
    "agent.stop.after_kill",
    "agent.stop.after_term",
    "agent.supervisor.after_record",
    "agent.supervisor.after_spawn",
    "agent.supervisor.before_exit_record",
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
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Abort,
        Error,
        Pause,
        Sleep(u64),
    }

    impl Action {
        fn word(self) -> &'static str {
            match self {
                Action::Abort => "abort",
                Action::Error => "error",
                Action::Pause => "pause",
                Action::Sleep(_) => "sleep",
            }
        }
    }

    /// What is ordered at one place.
    #[derive(Debug)]
    pub(super) struct Order {
        pub(super) action: Action,
        /// The only hit that acts, counted from 1; all of them if absent.
        pub(super) only: Option<u64>,
        hits: AtomicU64,
    }

    /// Passes the place `name`: acts as the environment orders. `error` is passed over.
    pub fn hit(name: &'static str) {
        if let Some(action) = due(name)
            && action != Action::Error
        {
            perform(name, action);
        }
    }

    /// Passes the place `name`; true if its operation shall be taken as failed.
    pub fn fails(name: &'static str) -> bool {
        let Some(action) = due(name) else { return false };
        perform(name, action);
        action == Action::Error
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
        mark(name, action);
        match action {
            Action::Error => {}
            Action::Abort => std::process::abort(),
            Action::Pause => loop {
                std::thread::park();
            },
            Action::Sleep(millis) => std::thread::sleep(Duration::from_millis(millis)),
        }
    }

    fn mark(name: &str, action: Action) {
        let Some(path) = std::env::var_os("REMUDA_FAILPOINT_MARKS") else { return };
        let line = format!("{name} {} {}\n", action.word(), std::process::id());
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            panic!("REMUDA_FAILPOINT_MARKS: {}: {error}", path.display());
        }
    }

    pub(super) fn parse(text: &str) -> Result<HashMap<String, Order>, String> {
        let items = text.split(';').map(str::trim).filter(|item| item.starts_with("agent."));
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
        let sleep = word.strip_prefix("sleep(").and_then(|rest| rest.strip_suffix(')'));
        let action = match (word, sleep.map(str::parse)) {
            ("abort", _) => Action::Abort,
            ("error", _) => Action::Error,
            ("pause", _) => Action::Pause,
            (_, Some(Ok(millis))) => Action::Sleep(millis),
            (_, Some(Err(_)) | None) => return Err("expected abort, error, pause or sleep(MILLISECONDS)".to_owned()),
        };
        Ok((name.to_owned(), Order { action, only, hits: AtomicU64::new(0) }))
    }
}

#[cfg(all(test, feature = "chaos"))]
mod tests {
    use std::path::Path;

    use super::NAMES;
    use super::armed::Action;
    use super::armed::parse;

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
        let orders = parse("agent.files.unlink=error*3; log.sync=abort;agent.stop.after_term=sleep(250)").unwrap();
        assert_eq!(orders.len(), 2, "others' names are left to them");
        assert_eq!((orders["agent.files.unlink"].action, orders["agent.files.unlink"].only), (Action::Error, Some(3)));
        assert_eq!(orders["agent.stop.after_term"].action, Action::Sleep(250));
        for wrong in ["agent.files.unlink", "agent.files.unlink=", "agent.files.unlink=sleep(x)", "agent.none=abort"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
