//! The layers that settings come from, and the place of each value.
//!
//! The file is parsed twice: once with the places of its values, for unknown keys and for messages, and once by the
//! `config` crate, which lays file, environment and flags over each other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat};
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::ENVIRONMENT_PREFIX;
use super::keys::{self, Form, KEYS};

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Settings are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<Problem>),
    /// The layers contradict the schema; a defect of this program.
    #[error("settings: {0}")]
    Schema(#[from] config::ConfigError),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was set.
    pub origin: Origin,
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Variable(String),
    /// A flag.
    Flag,
    /// Set nowhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
            Self::Default => f.write_str("settings"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.key, self.problem)
    }
}

/// A value as text, and where it stands. Lists are joined by spaces.
struct Found {
    value: String,
    origin: Origin,
    scalar: bool,
}

pub(super) struct Layers {
    file: Option<(PathBuf, String)>,
    environment: BTreeMap<String, String>,
    flags: Vec<(String, String)>,
    found: BTreeMap<String, Found>,
}

impl Layers {
    pub(super) fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let file = match file {
            None => None,
            Some(path) => {
                let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
                Some((path.to_owned(), std::fs::read_to_string(path).map_err(unreadable)?))
            }
        };
        let environment = environment.into_iter().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
        let mut layers = Self { file, environment, flags: flags.to_vec(), found: BTreeMap::new() };
        layers.find()?;
        fail_on(layers.check())?;
        Ok(layers)
    }

    /// Notes every value with its place, later layers over earlier ones.
    fn find(&mut self) -> Result<(), ConfigError> {
        if let Some((path, text)) = &self.file {
            let line = |at: usize| text[..at.min(text.len())].bytes().filter(|b| *b == b'\n').count() + 1;
            let table = DeTable::parse(text).map_err(|error| {
                let origin = Origin::File { path: path.clone(), line: line(error.span().map_or(0, |span| span.start)) };
                let (key, problem) = ("TOML".to_owned(), error.message().to_owned());
                ConfigError::Problems(vec![Problem { origin, key, problem }])
            })?;
            let place = |at: usize| Origin::File { path: path.clone(), line: line(at) };
            flatten("", table.get_ref(), &place, &mut self.found);
        }
        for (name, value) in &self.environment {
            let key = name[ENVIRONMENT_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            let origin = Origin::Variable(name.clone());
            self.found.insert(key, Found { value: value.clone(), origin, scalar: true });
        }
        for (key, value) in &self.flags {
            self.found.insert(key.clone(), Found { value: value.clone(), origin: Origin::Flag, scalar: true });
        }
        Ok(())
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (path, found) in &self.found {
            let checked = match keys::find(path) {
                None => Err(unknown(path)),
                Some(_) if !found.scalar && !is_list(path) => Err("must be a single value".to_owned()),
                Some(key) => key.check(&found.value),
            };
            if let Err(problem) = checked {
                problems.push(Problem { origin: found.origin.clone(), key: path.clone(), problem });
            }
        }
        for key in KEYS {
            if key.default.is_none() && !self.found.contains_key(key.path) {
                let problem = format!("must be set: {}", key.meaning);
                problems.push(Problem { origin: self.whole(), key: key.path.to_owned(), problem });
            }
        }
        problems
    }

    /// Lays the layers over each other.
    pub(super) fn build<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut builder = Config::builder();
        for key in KEYS {
            if let Some(default) = key.default {
                builder = builder.set_default(key.path, default)?;
            }
        }
        if let Some((_, text)) = &self.file {
            builder = builder.add_source(File::from_str(text, FileFormat::Toml));
        }
        let variables = self.environment.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let environment = Environment::with_prefix("REMUDA_SERVER").prefix_separator("__").separator("__");
        builder = builder.add_source(environment.source(Some(variables)));
        for (key, value) in &self.flags {
            builder = builder.set_override(key, value.as_str())?;
        }
        Ok(builder.build()?.try_deserialize()?)
    }

    /// A problem with the value of `key`, wherever it was set.
    pub(super) fn problem(&self, key: &str, problem: String) -> Problem {
        let origin = self.found.get(key).map_or_else(|| self.whole(), |found| found.origin.clone());
        Problem { origin, key: key.to_owned(), problem }
    }

    fn whole(&self) -> Origin {
        self.file.as_ref().map_or(Origin::Default, |(path, _)| Origin::File { path: path.clone(), line: 1 })
    }
}

/// Fails where there is a problem.
pub(super) fn fail_on(problems: Vec<Problem>) -> Result<(), ConfigError> {
    if problems.is_empty() { Ok(()) } else { Err(ConfigError::Problems(problems)) }
}

fn is_list(path: &str) -> bool {
    keys::find(path).is_some_and(|key| key.form == Form::Members)
}

fn unknown(path: &str) -> String {
    let last = path.rsplit('.').next().unwrap_or(path);
    let near = KEYS.iter().find(|key| key.path.ends_with(last) || path.starts_with(key.path));
    near.map_or_else(|| "is not a setting".to_owned(), |key| format!("is not a setting; is it `{}`?", key.path))
}

fn flatten(prefix: &str, table: &DeTable<'_>, place: &dyn Fn(usize) -> Origin, found: &mut BTreeMap<String, Found>) {
    for (key, value) in table.iter() {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        let origin = place(key.span().start);
        match value.get_ref() {
            DeValue::Table(table) => flatten(&path, table, place, found),
            DeValue::Array(items) => {
                let value = items.iter().map(|item| scalar(item.get_ref())).collect::<Vec<_>>().join(" ");
                found.insert(path, Found { value, origin, scalar: false });
            }
            single => {
                found.insert(path, Found { value: scalar(single), origin, scalar: true });
            }
        }
    }
}

fn scalar(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().replace('_', ""),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(moment) => moment.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => "a nested value".to_owned(),
    }
}
