//! Pool settings in TOML: the fields of `PoolSpec` by their names, with durations and enum values as words.
//!
//! The descriptors decide what a key may be, so that a setting added to the protocol is known here at once, and a key
//! that is none is an error with its line.
//!
//! ```toml
//! [[pool]]
//! name = "ci"
//! [pool.lease]
//! ttl = "45s"
//! [[pool.cleaning.steps]]
//! name = "wipe"
//! kind = "hook"
//! command = ["/usr/local/bin/wipe", "--all"]
//! ```
//!
//! Never here: which values are sensible; the cluster judges them.

use std::fmt;

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};
use remuda_wire::v1::PoolSpec;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::output::{DESCRIPTORS, Named as _};

const DURATION: &str = "google.protobuf.Duration";

/// Something wrong in a file or on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Counted from 1; none on the command line.
    pub(crate) line: Option<usize>,
    /// The key's path.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{line}: {}: {}", self.key, self.what),
            None => write!(f, "{}: {}", self.key, self.what),
        }
    }
}

/// A pool as a file wants it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    /// `pools/{pool}`.
    pub(crate) name: String,
    /// Its settings.
    pub(crate) spec: PoolSpec,
}

/// Reads a pools file.
pub(crate) fn file(text: &str) -> Result<Vec<Wanted>, Vec<Problem>> {
    let mut reader = Reader { text: Some(text), problems: Vec::new() };
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let line = error.span().map(|span| reader.line(span.start)).unwrap_or_default();
            return Err(vec![Problem { line, key: "TOML".to_owned(), what: error.message().to_owned() }]);
        }
    };
    let mut wanted = Vec::new();
    for (key, value) in root.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("pool", DeValue::Array(pools)) => wanted.extend(pools.iter().filter_map(|p| reader.pool(p))),
            ("pool", _) => reader.wrong(value.span().start, "pool", "must be [[pool]] tables"),
            (other, _) => reader.wrong(key.span().start, other, "is no setting; a pools file has [[pool]] tables"),
        }
    }
    for (i, pool) in wanted.iter().enumerate() {
        if wanted.iter().take(i).any(|earlier: &Wanted| earlier.name == pool.name) {
            reader.problems.push(Problem { line: None, key: pool.name.clone(), what: "stands twice".to_owned() });
        }
    }
    if reader.problems.is_empty() { Ok(wanted) } else { Err(reader.problems) }
}

/// Reads `KEY=VALUE` settings. Gives the spec and the keys, which make an update mask.
pub(crate) fn settings(sets: &[String]) -> Result<(PoolSpec, Vec<String>), Vec<Problem>> {
    let mut message = empty_spec();
    let (mut mask, mut reader) = (Vec::new(), Reader { text: None, problems: Vec::new() });
    for set in sets {
        let Some((key, value)) = set.split_once('=') else {
            reader.wrong(0, set, "must be KEY=VALUE");
            continue;
        };
        // What is no TOML value is a text without its quotes.
        let quoted = format!("v = {}", toml::Value::String(value.to_owned()));
        let plain = format!("v = {value}");
        let table = DeTable::parse(&plain).or_else(|_| DeTable::parse(&quoted));
        let Ok(table) = table else { continue };
        let Some(value) = table.get_ref().get("v") else { continue };
        reader.set(&mut message, key, key, value);
        mask.push(key.to_owned());
    }
    if reader.problems.is_empty() { Ok((spec_of(&message), mask)) } else { Err(reader.problems) }
}

fn empty_spec() -> DynamicMessage {
    let spec = DESCRIPTORS.get_message_by_name(PoolSpec::NAME).expect("the spec is in the descriptors");
    DynamicMessage::new(spec)
}

fn spec_of(message: &DynamicMessage) -> PoolSpec {
    message.transcode_to().expect("a message of the spec's descriptor is a spec")
}

struct Reader<'a> {
    text: Option<&'a str>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> Option<usize> {
        self.text.map(|text| text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1)
    }

    fn wrong(&mut self, at: usize, key: &str, what: impl Into<String>) {
        let line = self.line(at);
        self.problems.push(Problem { line, key: key.to_owned(), what: what.into() });
    }

    fn pool(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Wanted> {
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong(value.span().start, "pool", "must be a table");
            return None;
        };
        let name = match table.get("name").map(Spanned::get_ref) {
            Some(DeValue::String(name)) => crate::names::pool(name),
            Some(_) | None => {
                self.wrong(value.span().start, "pool.name", "must be set to the pool's id");
                return None;
            }
        };
        let mut message = empty_spec();
        for (key, value) in table.iter().filter(|(key, _)| key.get_ref() != "name") {
            self.field(&mut message, key.get_ref(), &format!("pool.{}", key.get_ref()), key.span().start, value);
        }
        Some(Wanted { name, spec: spec_of(&message) })
    }

    fn table(&mut self, descriptor: &MessageDescriptor, path: &str, table: &DeTable<'_>) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for (key, value) in table {
            self.field(&mut message, key.get_ref(), &format!("{path}.{}", key.get_ref()), key.span().start, value);
        }
        message
    }

    /// Sets one field of `message` by its name.
    fn field(&mut self, message: &mut DynamicMessage, name: &str, path: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        let descriptor = message.descriptor();
        let Some(field) = descriptor.get_field_by_name(name) else {
            let known: Vec<String> = descriptor.fields().map(|f| f.name().to_owned()).collect();
            return self.wrong(at, path, format!("is no setting; there are {}", known.join(", ")));
        };
        if let Some(read) = self.value(&field, path, value) {
            message.set_field(&field, read);
        }
    }

    /// Sets the field at a dotted path, making the messages above it.
    fn set(&mut self, message: &mut DynamicMessage, rest: &str, path: &str, value: &Spanned<DeValue<'_>>) {
        let Some((first, rest)) = rest.split_once('.') else {
            return self.field(message, rest, path, 0, value);
        };
        match message.descriptor().get_field_by_name(first) {
            Some(field) if matches!(field.kind(), Kind::Message(_)) && !field.is_list() => {
                if let Value::Message(inner) = message.get_field_mut(&field) {
                    self.set(inner, rest, path, value);
                }
            }
            Some(_) => self.wrong(0, path, format!("{first} has no settings below it")),
            None => self.wrong(0, path, format!("{first} is no setting")),
        }
    }

    fn value(&mut self, field: &FieldDescriptor, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        if !field.is_list() {
            return self.single(&field.kind(), path, value);
        }
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(value.span().start, path, "must be a list");
            return None;
        };
        Some(Value::List(self.list(&field.kind(), path, items)))
    }

    fn list(&mut self, kind: &Kind, path: &str, items: &DeArray<'_>) -> Vec<Value> {
        let one = |(i, item)| self.single(kind, &format!("{path}[{i}]"), item);
        items.iter().enumerate().filter_map(one).collect()
    }

    fn single(&mut self, kind: &Kind, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        let read = match (kind, value.get_ref()) {
            (Kind::String, DeValue::String(text)) => Ok(Value::String(text.to_string())),
            (Kind::String, _) => Err("must be a text".to_owned()),
            (Kind::Uint32, DeValue::Integer(number)) => whole(number).map(Value::U32),
            (Kind::Uint64, DeValue::Integer(number)) => whole(number).map(Value::U64),
            (Kind::Uint32 | Kind::Uint64, _) => Err("must be a whole number".to_owned()),
            (Kind::Bool, DeValue::Boolean(flag)) => Ok(Value::Bool(*flag)),
            (Kind::Bool, _) => Err("must be true or false".to_owned()),
            (Kind::Enum(words), DeValue::String(text)) => word(words, text),
            (Kind::Enum(words), _) => Err(format!("must be one of {}", words_of(words))),
            (Kind::Message(message), DeValue::String(text)) if message.full_name() == DURATION => {
                duration(message, text)
            }
            (Kind::Message(message), _) if message.full_name() == DURATION => {
                Err("must be a duration such as \"4s\" or \"2m 30s\"".to_owned())
            }
            (Kind::Message(message), DeValue::Table(table)) => Ok(Value::Message(self.table(message, path, table))),
            (Kind::Message(_), _) => Err("must be a table".to_owned()),
            (_, _) => Err("cannot be set in a file".to_owned()),
        };
        read.map_err(|what| self.wrong(value.span().start, path, what)).ok()
    }
}

fn whole<T: TryFrom<u64>>(number: &toml::de::DeInteger<'_>) -> Result<T, String> {
    let wide = u64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
    let fitting = wide.ok().and_then(|n| T::try_from(n).ok());
    fitting.ok_or_else(|| format!("{} is not a whole number in range", number.as_str()))
}

fn duration(message: &MessageDescriptor, text: &str) -> Result<Value, String> {
    let read = humantime::parse_duration(text).map_err(|e| format!("{text:?} is not a duration such as 4s: {e}"))?;
    let proto = prost_types::Duration::try_from(read).map_err(|e| format!("{text:?}: {e}"))?;
    let mut value = DynamicMessage::new(message.clone());
    value.set_field_by_name("seconds", Value::I64(proto.seconds));
    value.set_field_by_name("nanos", Value::I32(proto.nanos));
    Ok(Value::Message(value))
}

/// The prefix that all values of an enum have, such as `CHOICE_`.
fn prefix(words: &EnumDescriptor) -> String {
    let zero = words.default_value();
    zero.name().strip_suffix("UNSPECIFIED").unwrap_or_default().to_owned()
}

fn words_of(words: &EnumDescriptor) -> String {
    let prefix = prefix(words);
    let names = words.values().filter(|v| v.number() != 0);
    names.map(|v| v.name().trim_start_matches(&prefix).to_lowercase()).collect::<Vec<_>>().join(", ")
}

fn word(words: &EnumDescriptor, text: &str) -> Result<Value, String> {
    let name = format!("{}{}", prefix(words), text.to_uppercase().replace('-', "_"));
    let found = words.get_value_by_name(&name).or_else(|| words.get_value_by_name(text));
    found.map(|v| Value::EnumNumber(v.number())).ok_or_else(|| format!("{text:?} is none of {}", words_of(words)))
}

#[cfg(test)]
mod tests {
    use remuda_wire::v1::{Choice, probe::Action, step};

    use super::*;

    const GOOD: &str = r#"
[[pool]]
name = "ci"
description = "builds"
choice = "most_recently_used"
max_uses = 1_000
[pool.lease]
ttl = "45s"
[pool.cleaning]
attempts = 5
folders = ["/srv/scratch"]
[[pool.cleaning.steps]]
name = "wipe"
kind = "hook"
command = ["wipe", "--all"]
timeout = "1m 30s"
[pool.health]
disk_free_permille = 0
[[pool.health.probes]]
name = "web"
http = { port = 80, path = "/up" }

[[pool]]
name = "pools/gpu"
"#;

    #[test]
    fn a_file_is_read_field_by_field() {
        let wanted = file(GOOD).expect("a good file");
        assert_eq!(wanted.iter().map(|w| w.name.as_str()).collect::<Vec<_>>(), ["pools/ci", "pools/gpu"]);
        let spec = &wanted[0].spec;
        assert_eq!(
            (spec.description.as_str(), spec.choice(), spec.max_uses),
            ("builds", Choice::MostRecentlyUsed, 1000)
        );
        assert_eq!(spec.lease.as_ref().and_then(|l| l.ttl).map(|d| d.seconds), Some(45));
        let cleaning = spec.cleaning.as_ref().expect("set");
        assert_eq!((cleaning.attempts, cleaning.folders.len()), (5, 1));
        assert_eq!(cleaning.steps[0].kind(), step::Kind::Hook);
        assert_eq!(cleaning.steps[0].timeout.map(|d| d.seconds), Some(90));
        let health = spec.health.as_ref().expect("set");
        assert_eq!(health.disk_free_permille, Some(0), "zero that is written is not unset");
        assert_eq!(health.disk_free_bytes, None);
        assert!(matches!(&health.probes[0].action, Some(Action::Http(http)) if http.port == 80));
    }

    #[test]
    fn everything_wrong_is_told_with_line_and_key() {
        let bad = "[[pool]]\nname = \"ci\"\ncolour = 1\n[pool.lease]\nttl = 45\n[pool.cleaning]\nattempts = -1\n\
                   [[pool.cleaning.steps]]\nkind = \"burn\"\n[[pools]]\n";
        let problems = file(bad).expect_err("a bad file");
        let told: Vec<_> = problems.iter().map(|p| (p.line, p.key.as_str())).collect();
        for expected in [
            (Some(3), "pool.colour"),
            (Some(5), "pool.lease.ttl"),
            (Some(7), "pool.cleaning.attempts"),
            (Some(9), "pool.cleaning.steps[0].kind"),
            (Some(10), "pools"),
        ] {
            assert!(told.contains(&expected), "{expected:?} is not among {told:?}");
        }
        assert_eq!(file("x = [").expect_err("no TOML")[0].line, Some(1));
        assert_eq!(file("[[pool]]\n").expect_err("no name")[0].key, "pool.name");
        assert_eq!(file("[[pool]]\nname=\"a\"\n[[pool]]\nname=\"a\"\n").expect_err("twice")[0].key, "pools/a");
    }

    #[test]
    fn settings_make_a_spec_and_its_mask() {
        let sets = ["lease.ttl=45s", "cleaning.attempts=5", "description=two words", "cleaning.folders=[\"/a\"]"];
        let (spec, mask) = settings(&sets.map(str::to_owned)).expect("good settings");
        assert_eq!(mask, ["lease.ttl", "cleaning.attempts", "description", "cleaning.folders"]);
        assert_eq!(spec.lease.and_then(|l| l.ttl).map(|d| d.seconds), Some(45));
        assert_eq!(spec.description, "two words");
        assert_eq!(spec.cleaning.map(|c| (c.attempts, c.folders)), Some((5, vec!["/a".to_owned()])));
        for bad in ["lease", "lease.colour=1", "colour.x=1", "max_uses=many", "description.x=1"] {
            assert!(settings(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
