//! A replica's settings: their schema, where they come from, and what is wrong with them.
//!
//! Every setting stands once in [`KEYS`] with its default, its form and its meaning; the file, the environment and the
//! flags are read against that table, so that an unknown key is an error in each of them and all errors are told at
//! once. Precedence: flag, then `REMUDA_SERVER__SECTION__KEY`, then file, then default.
//!
//! Invariants
//! * [`ServerConfig::load`] either gives settings that satisfy every rule here, or names every violation with its place.
//!
//! Never here: touching the network or the data folder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

mod keys;
mod layers;

pub use keys::{Form, KEYS, Key};
pub use layers::{ConfigError, Origin, Problem};

/// The prefix of environment variables: `REMUDA_SERVER__RAFT__HEARTBEAT_MS` sets `raft.heartbeat_ms`.
pub const ENVIRONMENT_PREFIX: &str = "REMUDA_SERVER__";

/// All settings of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// This replica's id; one of `cluster`.
    pub replica_id: u64,
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// The members, the same text on every replica.
    #[serde(deserialize_with = "members")]
    pub cluster: BTreeMap<u64, MemberAddress>,
    /// Listen off loopback without TLS.
    pub insecure: bool,
    /// Serve gRPC reflection on the client port.
    pub reflection: bool,
    /// Where this replica listens.
    pub listen: Listen,
    /// What this replica tells others about itself.
    pub advertise: Advertise,
    /// Replication.
    pub raft: RaftSettings,
    /// Disk.
    pub storage: StorageSettings,
    /// Agents' sessions.
    pub agents: AgentSettings,
    /// Watches.
    pub watch: WatchSettings,
    /// The end.
    pub shutdown: ShutdownSettings,
}

/// One member of the cluster as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    /// `host:port` for peers.
    pub peer: String,
    /// `host:port` for clients, where it is given.
    pub client: Option<String>,
}

/// Listeners.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// gRPC for clients and agents.
    pub client: SocketAddr,
    /// gRPC for peers.
    pub peer: SocketAddr,
    /// HTTP for operators.
    pub admin: SocketAddr,
}

/// Endpoints that others are told; empty ones follow from `cluster` and `listen`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advertise {
    /// `host:port` for clients.
    pub client: String,
    /// `host:port` for peers.
    pub peer: String,
}

/// Replication.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaftSettings {
    /// The leader's sign of life.
    pub heartbeat_ms: u64,
    /// A follower stands for election after at least this long without one.
    pub election_min_ms: u64,
    /// And after at most this long; the leader's lease.
    pub election_max_ms: u64,
    /// A snapshot after this many entries.
    pub snapshot_entries: u64,
    /// Entries kept after a snapshot, for followers that are a little behind.
    pub log_keep_entries: u64,
}

/// Disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageSettings {
    /// Below this much free space acquires, registrations and waits are refused.
    pub disk_reserve_bytes: u64,
}

/// Agents' sessions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    /// The shortest heartbeat interval that agents are given.
    pub heartbeat_min_ms: u64,
    /// The longest.
    pub heartbeat_max_ms: u64,
}

/// Watches.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchSettings {
    /// Recent events kept in memory.
    pub ring_events: usize,
    /// A watcher this many messages behind is ended.
    pub lag_messages_max: usize,
}

/// The end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownSettings {
    /// For handing leadership over.
    pub transfer_ms: u64,
    /// For everything, the transfer included.
    pub deadline_ms: u64,
}

impl ServerConfig {
    /// Reads the settings from `file` (if any), `environment` and `flags` (`key` and value, in order; later ones win).
    ///
    /// # Errors
    /// Everything that is wrong, each with file and line, variable or flag, and key.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let layers = layers::Layers::read(file, environment, flags)?;
        let config: Self = layers.build()?;
        let problems = config.rules().into_iter().map(|(key, problem)| layers.problem(key, problem));
        layers::fail_on(problems.collect())?;
        Ok(config)
    }

    /// Where clients reach this replica, `host:port`.
    pub fn client_endpoint(&self) -> String {
        let listed = self.cluster.get(&self.replica_id).and_then(|member| member.client.clone());
        let told = Some(self.advertise.client.clone()).filter(|told| !told.is_empty());
        told.or(listed).unwrap_or_else(|| self.listen.client.to_string())
    }

    /// Where peers reach this replica, `host:port`.
    pub fn peer_endpoint(&self) -> String {
        let listed = self.cluster.get(&self.replica_id).map(|member| member.peer.clone());
        let told = Some(self.advertise.peer.clone()).filter(|told| !told.is_empty());
        told.or(listed).unwrap_or_else(|| self.listen.peer.to_string())
    }

    /// Two election timeouts: without contact for longer, streams and waiting calls end.
    pub fn contact_lost_after(&self) -> Duration {
        Duration::from_millis(2 * self.raft.election_max_ms)
    }

    /// Rules that concern more than one key, each with the key to blame.
    fn rules(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if !self.cluster.contains_key(&self.replica_id) {
            found.push(("replica_id", format!("{} is not among the members of `cluster`", self.replica_id)));
        }
        let mut peers: Vec<&str> = self.cluster.values().map(|member| member.peer.as_str()).collect();
        peers.sort_unstable();
        if peers.windows(2).any(|pair| pair[0] == pair[1]) {
            found.push(("cluster", "two members have the same peer endpoint".to_owned()));
        }
        for (key, address) in [
            ("listen.client", self.listen.client),
            ("listen.peer", self.listen.peer),
            ("listen.admin", self.listen.admin),
        ] {
            if !address.ip().is_loopback() && !self.insecure {
                found.push((key, format!("{address} is not a loopback address; without TLS this needs `insecure`")));
            }
        }
        let raft = &self.raft;
        if raft.election_min_ms < 2 * raft.heartbeat_ms {
            found.push(("raft.election_min_ms", "must be at least twice raft.heartbeat_ms".to_owned()));
        }
        if raft.election_max_ms <= raft.election_min_ms {
            found.push(("raft.election_max_ms", "must be above raft.election_min_ms".to_owned()));
        }
        if self.agents.heartbeat_max_ms < self.agents.heartbeat_min_ms {
            found.push(("agents.heartbeat_max_ms", "must not be below agents.heartbeat_min_ms".to_owned()));
        }
        if self.shutdown.transfer_ms >= self.shutdown.deadline_ms {
            found.push(("shutdown.transfer_ms", "must be below shutdown.deadline_ms".to_owned()));
        }
        found
    }
}

/// One member: `id=host:port` or `id=host:port,host:port` or `id=host:port,port` (peers, then clients).
pub(crate) fn member(text: &str) -> Result<(u64, MemberAddress), String> {
    let form = || format!("{text:?} is not of the form id=host:port[,[host:]port]");
    let (id, rest) = text.split_once('=').ok_or_else(form)?;
    let id: u64 = id.trim().parse().ok().filter(|id| *id > 0).ok_or_else(form)?;
    let (peer, client) = rest.split_once(',').map_or((rest, None), |(peer, client)| (peer, Some(client)));
    let peer = peer.trim().to_owned();
    let (host, _) = endpoint(&peer).ok_or_else(form)?;
    let client = match client.map(str::trim) {
        None => None,
        Some(client) if endpoint(client).is_some() => Some(client.to_owned()),
        Some(port) if port.parse::<u16>().is_ok() => Some(format!("{host}:{port}")),
        Some(_) => return Err(form()),
    };
    Ok((id, MemberAddress { peer, client }))
}

/// Host and port of `host:port`.
pub(crate) fn endpoint(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?;
    (!host.is_empty() && !host.contains(['/', ' ', '@', '='])).then_some((host, port))
}

fn members<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<u64, MemberAddress>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Text {
        Words(String),
        List(Vec<String>),
    }
    let list = match Text::deserialize(input)? {
        Text::Words(words) => words.split_whitespace().map(str::to_owned).collect(),
        Text::List(list) => list,
    };
    keys::member_list(&list).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
