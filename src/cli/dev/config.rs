//! What each child is started with: its configuration file, as one would write it by hand.
//!
//! Never here: starting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::POOL;
use super::ports::Ports;
use crate::failure::Failure;

/// A child to start.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// `replica` or `agent`.
    pub(super) role: &'static str,
    /// Its id among its kind.
    pub(super) id: u16,
    /// Where it serves what.
    pub(super) endpoints: BTreeMap<&'static str, String>,
    /// What follows the executable.
    pub(super) arguments: Vec<String>,
}

/// The id of the worker that agent `id` serves.
pub(super) fn worker(id: u16) -> String {
    format!("w-{id}")
}

/// A replica of `replicas`, with its file.
pub(super) fn replica(folder: &Path, ports: &Ports, id: u16, replicas: u16) -> Result<Plan, Failure> {
    let cluster = (1..=replicas).map(|i| format!("{i}={},{}", ports.peer(i), ports.client(i)));
    let endpoints =
        BTreeMap::from([("client", ports.client(id)), ("peer", ports.peer(id)), ("admin", ports.admin(id))]);
    let listen = endpoints.iter().map(|(key, address)| ((*key).to_owned(), text(address))).collect::<Table>();
    let mut table = Table::new();
    table.insert("replica_id".to_owned(), Value::Integer(i64::from(id)));
    table.insert("data_dir".to_owned(), text(&folder.join(format!("replica-{id}")).display()));
    table.insert("cluster".to_owned(), Value::Array(cluster.map(Value::String).collect()));
    table.insert("listen".to_owned(), Value::Table(listen));
    let file = write(folder, &format!("replica-{id}.toml"), &table)?;
    Ok(Plan { role: "replica", id, endpoints, arguments: arguments("server", &file) })
}

/// An agent with one worker, with its file.
pub(super) fn agent(folder: &Path, ports: &Ports, id: u16, replicas: &[String]) -> Result<Plan, Failure> {
    let endpoints = BTreeMap::from([("execution", ports.executions(id))]);
    let labels = [("arch", std::env::consts::ARCH), ("os", std::env::consts::OS)];
    let mut served = Table::new();
    served.insert("pool".to_owned(), text(&POOL));
    served.insert("name".to_owned(), text(&worker(id)));
    served
        .insert("labels".to_owned(), Value::Table(labels.map(|(k, v)| (k.to_owned(), text(&v))).into_iter().collect()));
    let mut table = Table::new();
    let urls = replicas.iter().map(|endpoint| text(&format!("http://{endpoint}")));
    table.insert("endpoints".to_owned(), Value::Array(urls.collect()));
    table.insert("state_dir".to_owned(), text(&folder.join(format!("agent-{id}")).display()));
    table.insert("listen".to_owned(), text(&ports.executions(id)));
    table.insert("workers".to_owned(), Value::Array(vec![Value::Table(served)]));
    let file = write(folder, &format!("agent-{id}.toml"), &table)?;
    let mut arguments = arguments("agent", &file);
    arguments.push("--drain".to_owned());
    Ok(Plan { role: "agent", id, endpoints, arguments })
}

fn arguments(word: &str, file: &Path) -> Vec<String> {
    [word, "--config", &file.display().to_string(), "--exit-with-parent"].map(str::to_owned).to_vec()
}

fn text(value: &dyn std::fmt::Display) -> Value {
    Value::String(value.to_string())
}

fn write(folder: &Path, name: &str, table: &Table) -> Result<PathBuf, Failure> {
    let path = folder.join("config").join(name);
    let bad = |e: &dyn std::fmt::Display| Failure::other(format!("cannot write {}: {e}", path.display()));
    std::fs::create_dir_all(folder.join("config")).map_err(|e| bad(&e))?;
    let text = toml::to_string(table).map_err(|e| bad(&e))?;
    std::fs::write(&path, text).map_err(|e| bad(&e))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_agents_accept_what_they_are_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = Ports::take(7400).expect("a good base");
        let plan = replica(folder.path(), &ports, 2, 3).expect("written");
        let file = folder.path().join("config/replica-2.toml");
        assert_eq!(plan.arguments[..3], ["server".to_owned(), "--config".to_owned(), file.display().to_string()]);
        let config = remuda_server::config::ServerConfig::load(Some(&file), [], &[]).expect("good settings");
        assert_eq!((config.replica_id, config.cluster.len()), (2, 3));
        assert_eq!(config.client_endpoint(), "127.0.0.1:7410");

        agent(folder.path(), &ports, 1, &["127.0.0.1:7400".to_owned()]).expect("written");
        let file = folder.path().join("config/agent-1.toml");
        let config = remuda_agent::config::AgentConfig::load(Some(&file), &Default::default()).expect("good settings");
        assert_eq!((config.workers[0].pool.as_str(), config.workers[0].name.as_str()), ("default", "w-1"));
        assert_eq!(config.listen.port(), 7501);
    }
}
