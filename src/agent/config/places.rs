//! Where each key of a configuration stands.
//!
//! The file is walked once against the schema, before any value is read: that finds unknown keys and values of a wrong
//! kind with their lines, all of them, where reading into a struct would stop at the first and know no line.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{KEYS, Kind, Violation};

/// The place of every key.
#[derive(Debug, Default)]
pub(super) struct Places {
    file: String,
    known: BTreeMap<String, String>,
}

impl Places {
    /// Walks a file's text: its places, and what is wrong with its keys and kinds.
    pub(super) fn of_file(text: &str, path: &Path) -> (Places, Vec<Violation>) {
        let mut places = Places { file: path.display().to_string(), known: BTreeMap::new() };
        let mut wrong = Vec::new();
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            let place = format!("{}:{line}", places.file);
            wrong.push(Violation { place, key: String::new(), reason: error.message().to_owned() });
        }
        places.walk(text, table.get_ref(), "", "", &mut wrong);
        (places, wrong)
    }

    /// Notes that a key is set from elsewhere.
    pub(super) fn set(&mut self, key: &str, place: String) {
        self.known.insert(key.to_owned(), place);
    }

    /// A violation at the place of `key`, or of the nearest key around it, or in the file as a whole.
    pub(super) fn violation(&self, key: &str, reason: String) -> Violation {
        let mut around = key;
        let place = loop {
            if let Some(place) = self.known.get(around) {
                break place.clone();
            }
            match around.rfind(['.', '[']) {
                Some(end) => around = &around[..end],
                None => break self.file.clone(),
            }
        };
        Violation { place, key: key.to_owned(), reason }
    }

    /// Walks a table. `schema` is its path in the schema, `path` the same with indices.
    fn walk(&mut self, text: &str, table: &DeTable<'_>, schema: &str, path: &str, wrong: &mut Vec<Violation>) {
        let dot = if path.is_empty() { "" } else { "." };
        for (name, value) in table {
            let key = format!("{path}{dot}{}", name.get_ref());
            let place = format!("{}:{}", self.file, line_of(text, name.span().start));
            self.known.insert(key.clone(), place.clone());
            let entry = KEYS.iter().find(|entry| entry.path == format!("{schema}{dot}{}", name.get_ref()));
            let Some(entry) = entry else {
                wrong.push(Violation { place, key, reason: "unknown key".into() });
                continue;
            };
            if let (Kind::Tables, DeValue::Array(items)) = (entry.kind, value.get_ref()) {
                for (i, item) in items.iter().enumerate() {
                    let path = format!("{key}[{i}]");
                    self.known.insert(path.clone(), format!("{}:{}", self.file, line_of(text, item.span().start)));
                    match item.get_ref() {
                        DeValue::Table(table) => {
                            self.walk(text, table, entry.path, &path, wrong);
                            self.require(&path, entry.path, table, wrong);
                        }
                        _ => wrong.push(self.violation(&path, "a table is needed".into())),
                    }
                }
            } else if let Err(reason) = fits(entry.kind, value.get_ref()) {
                wrong.push(Violation { place, key, reason });
            }
        }
    }

    /// Names what a table of a list lacks: its keys of kind text have no default.
    fn require(&self, path: &str, schema: &str, table: &DeTable<'_>, wrong: &mut Vec<Violation>) {
        let needed = KEYS.iter().filter(|key| key.kind == Kind::Text);
        for name in needed.filter_map(|key| key.path.strip_prefix(schema)?.strip_prefix('.')) {
            if !table.keys().any(|key| key.get_ref() == name) {
                wrong.push(self.violation(&format!("{path}.{name}"), "is missing".into()));
            }
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Whether a value is of the kind.
fn fits(kind: Kind, value: &DeValue<'_>) -> Result<(), String> {
    let fault = |needed: &str| Err(format!("{needed} is needed, this is {}", article(value.type_str())));
    match (kind, value) {
        (Kind::Text | Kind::Path, DeValue::String(_)) | (Kind::Flag, DeValue::Boolean(_)) => Ok(()),
        (Kind::Address, DeValue::String(text)) => match text.parse::<std::net::SocketAddr>() {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("`{text}`: {error}")),
        },
        (Kind::Word(words), DeValue::String(text)) if words.contains(&text.as_ref()) => Ok(()),
        (Kind::Word(words), DeValue::String(text)) => Err(format!("`{text}` is none of {}", words.join(", "))),
        (Kind::Count, DeValue::Integer(number)) => {
            let digits = u32::from_str_radix(number.as_str(), number.radix());
            digits.map(|_| ()).map_err(|_| format!("`{number}` is not a whole number from 0 to {}", u32::MAX))
        }
        (Kind::Texts, DeValue::Array(items)) if items.iter().all(|item| is_text(item.get_ref())) => Ok(()),
        (Kind::Table, DeValue::Table(table)) if table.values().all(|value| is_text(value.get_ref())) => Ok(()),
        (Kind::Text | Kind::Path | Kind::Address | Kind::Word(_), _) => fault("a string"),
        (Kind::Flag, _) => fault("true or false"),
        (Kind::Count, _) => fault("a whole number"),
        (Kind::Texts, _) => fault("a list of strings"),
        (Kind::Table, _) => fault("a table of strings"),
        (Kind::Tables, _) => fault("a list of tables"),
    }
}

fn is_text(value: &DeValue<'_>) -> bool {
    matches!(value, DeValue::String(_))
}

fn article(kind: &str) -> String {
    let an = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{an} {kind}")
}
