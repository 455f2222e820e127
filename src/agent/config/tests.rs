//! The configuration alone: sources, kinds, places, and every key with a bad value.

use super::*;

const GOOD: &str = r#"
endpoints = ["http://127.0.0.1:7400", "http://127.0.0.1:7410"]
state_dir = "/var/lib/remuda"
cgroup = "off"

[[workers]]
pool = "ci"
name = "w-1"
labels = { os = "linux" }

[[workers]]
pool = "ci"
name = "w-2"
"#;

fn parse(text: &str) -> Result<AgentConfig, ConfigError> {
    AgentConfig::parse(text, Path::new("agent.toml"), &Overrides::default())
}

fn lines(text: &str) -> Vec<String> {
    parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_file_is_read_with_its_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.cgroup, CgroupMode::Off);
    assert_eq!(config.max_parallel_cleans, 4);
    assert_eq!(config.workers[0].labels["os"], "linux");
    assert_eq!(config.workers[1].name, "w-2");
}

#[test]
fn what_is_written_out_is_read_back() {
    let config = parse(GOOD).unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(parse(&text).unwrap(), config);
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let env =
        [("REMUDA_AGENT__MAX_PARALLEL_CLEANS", "7"), ("REMUDA_AGENT__ENDPOINTS", "a:1, http://b:2"), ("HOME", "/")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let overrides = Overrides { env, flags: vec![("max_parallel_cleans".into(), "9".into())] };
    let config = AgentConfig::parse(GOOD, Path::new("agent.toml"), &overrides).unwrap();
    assert_eq!(config.max_parallel_cleans, 9);
    assert_eq!(config.endpoints, ["http://a:1", "http://b:2"]);
}

#[test]
fn everything_wrong_is_told_with_file_line_and_key() {
    let text = "endpoints = [\"ftp://x\"]\nstate_dir = \"\"\nlisten = \"0.0.0.0:1\"\n[[workers]]\npool = \"CI\"\nname = \"w\"\n";
    let told = lines(text);
    for expected in [
        "agent.toml:1: endpoints[0]: `ftp://x` is not http://host:port",
        "agent.toml:2: state_dir: a folder is needed",
        "agent.toml:3: listen: off loopback",
        "agent.toml: advertise: is needed when",
        "agent.toml:5: workers[0].pool: `CI`",
    ] {
        assert!(told.iter().any(|line| line.starts_with(expected)), "{expected} in {told:#?}");
    }
    assert_eq!(told.len(), 5, "{told:#?}");
}

#[test]
fn unknown_keys_and_wrong_kinds_are_told_together() {
    let text =
        "endpoint = 1\ncgroup = \"maybe\"\nlisten = 7\n[[workers]]\nname = \"w\"\nfolder = 3\nlabels = { a = 1 }\n";
    let told = lines(text);
    assert_eq!(
        told,
        [
            "agent.toml:2: cgroup: `maybe` is none of auto, off",
            "agent.toml:1: endpoint: unknown key",
            "agent.toml:3: listen: a string is needed, this is an integer",
            "agent.toml:6: workers[0].folder: unknown key",
            "agent.toml:7: workers[0].labels: a table of strings is needed, this is a table",
            "agent.toml:4: workers[0].pool: is missing",
        ]
    );
    assert!(lines("endpoints = [\n")[0].starts_with("agent.toml:"), "a syntax error has a line");
}

#[test]
fn bad_variables_and_flags_are_told_with_their_names() {
    let env = [("REMUDA_AGENT__CGROUPS", "off"), ("REMUDA_AGENT__LISTEN", "here")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let overrides = Overrides { env, flags: vec![("workers.pool".into(), "x".into())] };
    let told = AgentConfig::parse(GOOD, Path::new("agent.toml"), &overrides).unwrap_err().to_string();
    assert!(told.contains("environment REMUDA_AGENT__CGROUPS: cgroups: unknown key"), "{told}");
    assert!(told.contains("environment REMUDA_AGENT__LISTEN: listen: `here`"), "{told}");
    assert!(told.contains("flag --workers-pool: workers.pool: can only be given in the file"), "{told}");
}

#[test]
fn every_key_refuses_a_value_of_another_kind_and_names_its_line() {
    for key in KEYS {
        let bad = match key.kind {
            Kind::Flag | Kind::Count | Kind::Texts | Kind::Table | Kind::Tables => "\"text\"",
            Kind::Text | Kind::Address | Kind::Path | Kind::Word(_) => "[1]",
        };
        let (text, line) = match key.path.strip_prefix("workers.") {
            Some(name) => (format!("[[workers]]\n{name} = {bad}\n"), 2),
            None => (format!("{} = {bad}\n", key.path), 1),
        };
        let told = lines(&text);
        let field = key.path.replace("workers.", "workers[0].");
        let expected = format!("agent.toml:{line}: {field}: ");
        assert!(told.iter().any(|said| said.starts_with(&expected)), "{expected} in {told:#?}");
    }
}

#[test]
fn the_schema_is_the_struct() {
    let worker = WorkerConfig {
        pool: "p".into(),
        name: "n".into(),
        labels: [("a".into(), "b".into())].into(),
        annotations: [("a".into(), "b".into())].into(),
    };
    let config = AgentConfig {
        advertise: Some("http://h:1".into()),
        admin: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
        supervisor: Some("/bin/x".into()),
        workers: vec![worker],
        ..AgentConfig::default()
    };
    let json = serde_json::to_value(&config).unwrap();
    let mut fields: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
    fields.extend(json["workers"][0].as_object().unwrap().keys().map(|name| format!("workers.{name}")));
    let mut keys: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
    fields.sort();
    keys.sort_unstable();
    assert_eq!(fields, keys);
}
