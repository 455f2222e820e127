//! The agent's configuration: one TOML file, then `REMUDA_AGENT__KEY` from the environment, then flags.
//!
//! A later source replaces what an earlier one says. Everything wrong is told at once, each with its file, line and key,
//! or with the variable it comes from. [`KEYS`] lists every key with its kind, so that a test can try bad values in all.
//!
//! Invariants
//! * A key that is not in [`KEYS`] is refused, wherever it stands.
//! * A listener off loopback is refused unless `insecure` says that plain text is meant.
//!
//! Never here: IO other than reading the file and the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

mod places;
#[cfg(test)]
mod tests;

use places::Places;

/// Bounds of the configuration.
pub mod limits {
    /// Workers of one agent: what one session may carry.
    pub const WORKERS_MAX: usize = 1_000;
    /// Runs at work at once: more would only fight for the disk.
    pub const PARALLEL_CLEANS_MAX: u32 = 256;
    /// Endpoints: a cluster has at most nine replicas.
    pub const ENDPOINTS_MAX: usize = 9;
    /// Bytes of a worker's or a pool's id.
    pub const ID_MAX: usize = 63;
}

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// `host:port` with a numeric host.
    Address,
    /// A path of the filesystem.
    Path,
    /// A whole number above zero.
    Count,
    /// true or false.
    Flag,
    /// One of a few words.
    Word(&'static [&'static str]),
    /// A list of strings.
    Texts,
    /// A table of strings.
    Table,
    /// A list of tables; its keys follow in [`KEYS`] with its name and a dot before them.
    Tables,
}

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its path from the top of the file.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it means.
    pub about: &'static str,
}

const fn key(path: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { path, kind, about }
}

/// Every key there is.
pub const KEYS: &[Key] = &[
    key("endpoints", Kind::Texts, "client endpoints of the replicas, host:port or http://host:port; required"),
    key("state_dir", Kind::Path, "the agent's own folder, for one agent only; required"),
    key("listen", Kind::Address, "where executions are served; 127.0.0.1:0 by default"),
    key("advertise", Kind::Text, "the address of `listen` as others reach it, http://host:port"),
    key("admin", Kind::Address, "where /metrics, /livez and /readyz are served; nowhere by default"),
    key("insecure", Kind::Flag, "listen off loopback without TLS"),
    key("max_parallel_cleans", Kind::Count, "cleaning runs at work at once; 4 by default"),
    key("cgroup", Kind::Word(&["auto", "off"]), "whether jobs run in cgroups where the host has them"),
    key("exit_with_parent", Kind::Flag, "end jobs and stop at the end of standard input"),
    key("drain", Kind::Flag, "end jobs when the agent stops"),
    key("supervisor", Kind::Path, "the program that is run as a job's supervisor; this one by default"),
    key("workers", Kind::Tables, "the workers of this host"),
    key("workers.pool", Kind::Text, "the worker's pool; required"),
    key("workers.name", Kind::Text, "the worker's name, unique among this agent's; required"),
    key("workers.labels", Kind::Table, "what selectors match"),
    key("workers.annotations", Kind::Table, "what is unique to it"),
];

/// Whether jobs run in cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    /// Where the host has a usable cgroup v2.
    #[default]
    Auto,
    /// Never: process trees only.
    Off,
}

/// One worker of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Its pool's id.
    pub pool: String,
    /// Its name, unique among this agent's workers.
    pub name: String,
    /// What selectors match.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is unique to it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// The configuration; the fields are [`KEYS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// Client endpoints of the replicas.
    pub endpoints: Vec<String>,
    /// The agent's own folder.
    pub state_dir: PathBuf,
    /// Where executions are served.
    pub listen: SocketAddr,
    /// The same as others reach it; none takes the address that was bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Where metrics are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// Listening off loopback without TLS is meant.
    pub insecure: bool,
    /// Cleaning runs at work at once.
    pub max_parallel_cleans: u32,
    /// Whether jobs run in cgroups.
    pub cgroup: CgroupMode,
    /// Standard input is the parent's pipe: at its end jobs are ended and the agent stops.
    pub exit_with_parent: bool,
    /// Jobs are ended when the agent stops; otherwise they go on and the next agent finds them.
    pub drain: bool,
    /// The program run as a job's supervisor; none takes this executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<PathBuf>,
    /// The workers of this host.
    pub workers: Vec<WorkerConfig>,
}

impl Default for AgentConfig {
    fn default() -> Self {
        AgentConfig {
            endpoints: Vec::new(),
            state_dir: PathBuf::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            admin: None,
            insecure: false,
            max_parallel_cleans: 4,
            cgroup: CgroupMode::Auto,
            exit_with_parent: false,
            drain: false,
            supervisor: None,
            workers: Vec::new(),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Violation>);

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The file with the line, the environment, or the flags.
    pub place: String,
    /// The key's path; empty when the text is not TOML at all.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.place, self.reason),
            key => write!(f, "{}: {key}: {}", self.place, self.reason),
        }
    }
}

/// Where configuration comes from beside the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Variables of the environment; those that begin with `REMUDA_AGENT__` count.
    pub env: BTreeMap<String, String>,
    /// Keys given by flags; lists are separated by commas.
    pub flags: Vec<(String, String)>,
}

impl Overrides {
    /// This process's environment and these flags.
    pub fn from_process(flags: Vec<(String, String)>) -> Overrides {
        // Variables that are not UTF-8 cannot be ours.
        let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Overrides { env: env.collect(), flags }
    }
}

const ENV_PREFIX: &str = "REMUDA_AGENT__";

impl AgentConfig {
    /// Loads a file with what overrides it.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<AgentConfig, ConfigError> {
        let Some(path) = file else { return AgentConfig::parse("", Path::new("(no file)"), overrides) };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let place = path.display().to_string();
            ConfigError(vec![Violation { place, key: String::new(), reason: error.to_string() }])
        })?;
        AgentConfig::parse(&text, path, overrides)
    }

    /// Reads a file's text with what overrides it; `path` is for messages.
    pub fn parse(text: &str, path: &Path, overrides: &Overrides) -> Result<AgentConfig, ConfigError> {
        let (mut places, mut wrong) = Places::of_file(text, path);
        let mut builder = config::Config::builder();
        if wrong.is_empty() {
            builder = builder.add_source(config::File::from_str(text, config::FileFormat::Toml));
        }
        let ours = overrides.env.iter().filter_map(|(name, value)| {
            let key = name.strip_prefix(ENV_PREFIX)?.to_lowercase().replace("__", ".");
            Some((key, value, format!("environment {name}")))
        });
        let flags = overrides
            .flags
            .iter()
            .map(|(key, value)| (key.clone(), value, format!("flag --{}", key.replace(['_', '.'], "-"))));
        for (key, value, place) in ours.chain(flags) {
            match overriding(&key, value) {
                Ok(value) => {
                    places.set(&key, place);
                    builder = builder.set_override(&key, value).expect("keys of the schema are paths");
                }
                Err(reason) => wrong.push(Violation { place, key, reason }),
            }
        }
        if !wrong.is_empty() {
            return Err(ConfigError(wrong));
        }
        let read = builder.build().and_then(config::Config::try_deserialize::<AgentConfig>);
        let mut config = read.map_err(|error| {
            let place = path.display().to_string();
            ConfigError(vec![Violation { place, key: String::new(), reason: error.to_string() }])
        })?;
        for endpoint in config.endpoints.iter_mut().filter(|endpoint| !endpoint.contains("://")) {
            endpoint.insert_str(0, "http://");
        }
        config.check(&places)?;
        Ok(config)
    }

    /// What no single value's type can say. All violations, not the first.
    fn check(&self, places: &Places) -> Result<(), ConfigError> {
        let mut wrong = Vec::new();
        let mut refuse = |key: &str, reason: String| wrong.push(places.violation(key, reason));
        if self.endpoints.is_empty() || self.endpoints.len() > limits::ENDPOINTS_MAX {
            refuse("endpoints", format!("1 to {} endpoints are needed", limits::ENDPOINTS_MAX));
        }
        for (i, endpoint) in self.endpoints.iter().enumerate().filter(|(_, endpoint)| !is_endpoint(endpoint)) {
            refuse(&format!("endpoints[{i}]"), format!("`{endpoint}` is not http://host:port"));
        }
        if self.state_dir.as_os_str().is_empty() {
            refuse("state_dir", "a folder is needed".into());
        }
        for (key, address) in [("listen", Some(self.listen)), ("admin", self.admin)] {
            if address.is_some_and(|address| !address.ip().is_loopback()) && !self.insecure {
                refuse(key, "off loopback without TLS needs `insecure`".into());
            }
        }
        if self.advertise.as_deref().is_some_and(|advertise| !is_endpoint(advertise)) {
            refuse("advertise", "not http://host:port".into());
        }
        if self.advertise.is_none() && self.listen.ip().is_unspecified() {
            refuse("advertise", "is needed when `listen` is a wildcard address".into());
        }
        if !(1..=limits::PARALLEL_CLEANS_MAX).contains(&self.max_parallel_cleans) {
            refuse("max_parallel_cleans", format!("1 to {} is possible", limits::PARALLEL_CLEANS_MAX));
        }
        if self.workers.is_empty() || self.workers.len() > limits::WORKERS_MAX {
            refuse("workers", format!("1 to {} workers are needed", limits::WORKERS_MAX));
        }
        self.check_workers(&mut refuse);
        if wrong.is_empty() { Ok(()) } else { Err(ConfigError(wrong)) }
    }

    fn check_workers(&self, refuse: &mut impl FnMut(&str, String)) {
        let mut names = std::collections::BTreeSet::new();
        for (i, worker) in self.workers.iter().enumerate() {
            for (field, id) in [("pool", &worker.pool), ("name", &worker.name)] {
                if !is_id(id) {
                    let form = "is lower-case letters, digits and dashes, begins with a letter";
                    refuse(
                        &format!("workers[{i}].{field}"),
                        format!("`{id}`: an id {form}, has 1 to {} bytes", limits::ID_MAX),
                    );
                }
            }
            if !names.insert(&worker.name) {
                refuse(&format!("workers[{i}].name"), format!("`{}` stands twice", worker.name));
            }
        }
    }
}

/// Reads the text of a variable or a flag as the key's kind demands.
fn overriding(path: &str, text: &str) -> Result<config::Value, String> {
    let Some(key) = KEYS.iter().find(|key| key.path == path) else { return Err("unknown key".into()) };
    let value: config::ValueKind = match key.kind {
        Kind::Text | Kind::Path => text.into(),
        Kind::Address => text.parse::<SocketAddr>().map_err(|e| format!("`{text}`: {e}"))?.to_string().into(),
        Kind::Count => i64::from(text.parse::<u32>().map_err(|e| format!("`{text}`: {e}"))?).into(),
        Kind::Flag => text.parse::<bool>().map_err(|_| format!("`{text}` is neither true nor false"))?.into(),
        Kind::Word(words) if words.contains(&text) => text.into(),
        Kind::Word(words) => return Err(format!("`{text}` is none of {}", words.join(", "))),
        Kind::Texts => text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>().into(),
        Kind::Table | Kind::Tables => return Err("can only be given in the file".into()),
    };
    if path.starts_with("workers.") {
        return Err("can only be given in the file".into());
    }
    Ok(config::Value::new(None, value))
}

fn is_endpoint(text: &str) -> bool {
    let uri = text.parse::<http::Uri>();
    uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.port_u16().is_some() && uri.path() == "/")
}

fn is_id(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    plain && text.len() <= limits::ID_MAX && text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.ends_with('-')
}
