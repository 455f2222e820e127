//! The schema of the settings: every key with its form, default and meaning.
//!
//! Invariants
//! * Each field of [`ServerConfig`](super::ServerConfig) has exactly one row here.

use std::collections::BTreeMap;

use super::{MemberAddress, endpoint, member};

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its path, for example `raft.heartbeat_ms`.
    pub path: &'static str,
    /// What its value must look like.
    pub form: Form,
    /// Its default as text; `None`: it must be set.
    pub default: Option<&'static str>,
    /// What it means.
    pub meaning: &'static str,
}

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A whole number within bounds.
    Number {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// `true` or `false`.
    Flag,
    /// A path, not empty.
    Path,
    /// `ip:port`.
    Address,
    /// `host:port`, or empty.
    Endpoint,
    /// A list of `id=host:port[,[host:]port]`; in flags and environment separated by spaces.
    Members,
}

const fn number(path: &'static str, default: &'static str, min: u64, max: u64, meaning: &'static str) -> Key {
    Key { path, form: Form::Number { min, max }, default: Some(default), meaning }
}

const fn text(path: &'static str, form: Form, default: Option<&'static str>, meaning: &'static str) -> Key {
    Key { path, form, default, meaning }
}

/// All settings.
pub const KEYS: &[Key] = &[
    text("replica_id", Form::Number { min: 1, max: u32::MAX as u64 }, None, "this replica's id, one of `cluster`"),
    text("data_dir", Form::Path, None, "folder of everything durable; belongs to this replica alone"),
    text("cluster", Form::Members, None, "all members, the same on each: id=host:peerport[,[host:]clientport]"),
    text("insecure", Form::Flag, Some("false"), "listen off loopback without TLS"),
    text("reflection", Form::Flag, Some("true"), "serve gRPC reflection on the client port"),
    text("listen.client", Form::Address, Some("127.0.0.1:7400"), "gRPC for clients and agents"),
    text("listen.peer", Form::Address, Some("127.0.0.1:7401"), "gRPC for peers"),
    text("listen.admin", Form::Address, Some("127.0.0.1:7402"), "HTTP for operators: metrics, health, digest, log"),
    text("advertise.client", Form::Endpoint, Some(""), "where clients reach this replica; empty: from `cluster`"),
    text("advertise.peer", Form::Endpoint, Some(""), "where peers reach this replica; empty: from `cluster`"),
    number("raft.heartbeat_ms", "100", 10, 10_000, "the leader's sign of life"),
    number("raft.election_min_ms", "300", 50, 60_000, "least silence before a follower stands for election"),
    number("raft.election_max_ms", "600", 60, 120_000, "most of it; also the leader's lease"),
    number("raft.snapshot_entries", "200000", 10, 100_000_000, "a snapshot after this many entries"),
    number("raft.log_keep_entries", "100000", 0, 100_000_000, "entries kept after a snapshot"),
    number(
        "storage.disk_reserve_bytes",
        "268435456",
        0,
        1 << 50,
        "free space below which acquire, register and wait are refused",
    ),
    number("agents.heartbeat_min_ms", "1000", 100, 60_000, "shortest heartbeat interval given to agents"),
    number("agents.heartbeat_max_ms", "10000", 100, 600_000, "longest heartbeat interval given to agents"),
    number("watch.ring_events", "100000", 16, 10_000_000, "recent events kept in memory"),
    number("watch.lag_messages_max", "1024", 16, 1_000_000, "a watcher further behind is ended"),
    number("shutdown.transfer_ms", "5000", 0, 60_000, "for handing leadership over at the end"),
    number("shutdown.deadline_ms", "15000", 100, 600_000, "for the whole shutdown"),
];

/// The key of this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

impl Key {
    /// What is wrong with `value`, if anything.
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        let found = |expected: String| Err(format!("must be {expected}, not {value:?}"));
        match self.form {
            Form::Number { min, max } => match value.parse::<u64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                Ok(_) | Err(_) => found(format!("a whole number from {min} to {max}")),
            },
            Form::Flag if matches!(value, "true" | "false") => Ok(()),
            Form::Flag => found("true or false".to_owned()),
            Form::Path if !value.is_empty() && !value.contains('\0') => Ok(()),
            Form::Path => found("a path".to_owned()),
            Form::Address if value.parse::<std::net::SocketAddr>().is_ok() => Ok(()),
            Form::Address => found("an address of the form ip:port".to_owned()),
            Form::Endpoint if value.is_empty() || endpoint(value).is_some() => Ok(()),
            Form::Endpoint => found("an endpoint of the form host:port".to_owned()),
            Form::Members => member_list(value.split_whitespace()).map(|_| ()),
        }
    }
}

/// The members of a list; each id once.
pub(super) fn member_list<S: AsRef<str>>(
    list: impl IntoIterator<Item = S>,
) -> Result<BTreeMap<u64, MemberAddress>, String> {
    let mut members = BTreeMap::new();
    for text in list {
        let (id, address) = member(text.as_ref())?;
        if members.insert(id, address).is_some() {
            return Err(format!("member {id} is listed twice"));
        }
    }
    if members.is_empty() { Err("must name at least one member".to_owned()) } else { Ok(members) }
}
