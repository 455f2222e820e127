//! What the settings accept, and how they say no.

use super::*;

fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

const GOOD: &str = r#"
replica_id = 1
data_dir = "/var/lib/remuda"
cluster = ["1=127.0.0.1:7401,7400", "2=127.0.0.1:7411,127.0.0.1:7410", "3=127.0.0.1:7421"]

[raft]
heartbeat_ms = 50
"#;

fn load(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<ServerConfig, ConfigError> {
    let (_folder, path) = write(text);
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let flags: Vec<_> = flags.iter().map(own).collect();
    ServerConfig::load(Some(&path), environment.iter().map(own), &flags)
}

fn problems(result: Result<ServerConfig, ConfigError>) -> Vec<Problem> {
    match result {
        Err(ConfigError::Problems(problems)) => problems,
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn a_file_environment_and_flags_lie_over_each_other() {
    let environment = [("REMUDA_SERVER__RAFT__HEARTBEAT_MS", "60"), ("REMUDA_SERVER__RAFT__ELECTION_MIN_MS", "400")];
    let config = load(GOOD, &environment, &[("raft.heartbeat_ms", "70")]).unwrap();
    assert_eq!(config.raft.heartbeat_ms, 70);
    assert_eq!(config.raft.election_min_ms, 400);
    assert_eq!(config.raft.election_max_ms, 600);
    assert_eq!(config.client_endpoint(), "127.0.0.1:7400");
    assert_eq!(config.cluster[&2].client.as_deref(), Some("127.0.0.1:7410"));
    assert_eq!(config.cluster[&3].client, None);
    assert_eq!(config.listen.admin.port(), 7402);
}

#[test]
fn members_can_come_from_a_flag() {
    let flags = [("replica_id", "7"), ("data_dir", "d"), ("cluster", "7=h:1 8=h:2,3")];
    let own: Vec<_> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let config = ServerConfig::load(None, [], &own).unwrap();
    assert_eq!(config.cluster[&8], MemberAddress { peer: "h:2".into(), client: Some("h:3".into()) });
}

#[test]
fn every_problem_is_named_with_file_line_and_key() {
    let text = "replica_id = \"x\"\ndata_dir = \"d\"\ncluster = [\"1=h:1\"]\n[raft]\nheart = 1\nheartbeat_ms = -5\n";
    let found = problems(load(text, &[("REMUDA_SERVER__NONSENSE", "1")], &[]));
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(shown.iter().any(|p| p.contains("server.toml:1: replica_id: must be a whole number")), "{shown:?}");
    assert!(shown.iter().any(|p| p.contains("server.toml:5: raft.heart: is not a setting")), "{shown:?}");
    assert!(shown.iter().any(|p| p.contains("server.toml:6: raft.heartbeat_ms: must be")), "{shown:?}");
    assert!(shown.iter().any(|p| p.starts_with("REMUDA_SERVER__NONSENSE: nonsense: is not a setting")), "{shown:?}");
    assert_eq!(shown.len(), 4, "{shown:?}");
}

#[test]
fn broken_toml_names_its_line() {
    let found = problems(load("replica_id = 1\n= 2\n", &[], &[]));
    assert!(found[0].to_string().contains("server.toml:2"), "{}", found[0]);
}

#[test]
fn rules_over_several_keys_hold() {
    for (key, value, blamed) in [
        ("replica_id", "9", "replica_id"),
        ("listen.client", "0.0.0.0:7400", "listen.client"),
        ("raft.election_min_ms", "90", "raft.election_min_ms"),
        ("raft.election_max_ms", "300", "raft.election_max_ms"),
        ("agents.heartbeat_max_ms", "500", "agents.heartbeat_max_ms"),
        ("shutdown.transfer_ms", "15000", "shutdown.transfer_ms"),
    ] {
        let found = problems(load(GOOD, &[], &[(key, value)]));
        assert!(found.iter().any(|p| p.key == blamed), "{key}={value}: {found:?}");
    }
    assert!(load(GOOD, &[], &[("listen.client", "0.0.0.0:7400"), ("insecure", "true")]).is_ok());
}

/// The text that violates each form.
fn bad(form: Form) -> Vec<String> {
    match form {
        Form::Number { min, max } => {
            let mut bad = vec!["x".to_owned(), "-1".to_owned(), "1.5".to_owned(), (max + 1).to_string()];
            bad.extend(min.checked_sub(1).map(|below| below.to_string()));
            bad
        }
        Form::Flag => vec!["yes please".to_owned()],
        Form::Path => vec![String::new()],
        Form::Address => vec!["localhost".to_owned(), "1.2.3.4".to_owned(), "1.2.3.4:99999".to_owned()],
        Form::Endpoint => vec!["http://a:1".to_owned(), "a".to_owned(), ":1".to_owned()],
        Form::Members => ["", "1", "0=a:1", "x=a:1", "1=a", "1=a:1,b:c", "1=a:1 1=b:2"].map(str::to_owned).to_vec(),
    }
}

#[test]
fn every_key_refuses_what_is_not_of_its_form() {
    for key in KEYS {
        for value in bad(key.form) {
            let found = problems(load(GOOD, &[], &[(key.path, &value)]));
            assert!(found.iter().any(|p| p.key == key.path && p.origin == Origin::Flag), "{}={value:?}", key.path);
        }
    }
}

#[test]
fn every_required_key_is_missed() {
    let found = problems(load("", &[], &[]));
    let required: Vec<_> = KEYS.iter().filter(|key| key.default.is_none()).map(|key| key.path).collect();
    let missed: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(missed, required);
}

/// The schema and the struct cannot drift apart: with all defaults the struct is filled, and it denies unknown fields.
#[test]
fn the_schema_fills_the_struct() {
    assert!(load(GOOD, &[], &[]).is_ok());
}
