//! The cluster's answers in canonical protobuf JSON, as far as the demonstration reads them.
//!
//! 64-bit numbers are strings there, durations end in `s`, and what has its default value is absent.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::Value;

/// A worker of `remuda worker list`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) state: String,
    #[serde(deserialize_with = "number")]
    pub(crate) uses: u64,
    pub(crate) last_return: String,
}

/// A return of `remuda returns list` or `get`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Return {
    pub(crate) name: String,
    pub(crate) worker: String,
    pub(crate) job_id: String,
    pub(crate) cause: String,
    pub(crate) result: String,
    pub(crate) took: String,
    pub(crate) steps: Vec<ReturnStep>,
    pub(crate) receipt: Receipt,
    #[serde(deserialize_with = "number")]
    pub(crate) began_revision: u64,
    #[serde(deserialize_with = "number")]
    pub(crate) ended_revision: u64,
}

/// A step of a return, as the log has it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ReturnStep {
    pub(crate) name: String,
    #[serde(deserialize_with = "number")]
    pub(crate) term: u64,
    #[serde(deserialize_with = "number")]
    pub(crate) revision: u64,
    pub(crate) after: String,
}

/// What the agent observed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Receipt {
    pub(crate) steps: Vec<StepResult>,
}

/// One step of a receipt.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StepResult {
    pub(crate) name: String,
    pub(crate) outcome: String,
    pub(crate) observed: bool,
    pub(crate) took: String,
    #[serde(deserialize_with = "number")]
    pub(crate) removed: u64,
    pub(crate) evidence: String,
}

/// One event.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Event {
    #[serde(deserialize_with = "number")]
    pub(crate) revision: u64,
    pub(crate) ordinal: u32,
    #[serde(deserialize_with = "number")]
    pub(crate) term: u64,
    pub(crate) kind: String,
    pub(crate) worker: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) cause: String,
    #[serde(deserialize_with = "number")]
    pub(crate) run: u64,
    #[serde(deserialize_with = "number")]
    pub(crate) epoch: u64,
    pub(crate) job_id: String,
    pub(crate) elapsed: String,
}

/// A replica of `remuda cluster status`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Replica {
    #[serde(deserialize_with = "number")]
    pub(crate) id: u64,
    pub(crate) role: String,
    #[serde(deserialize_with = "number")]
    pub(crate) applied: u64,
    pub(crate) digest: String,
}

/// `remuda pool stats`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PoolStats {
    #[serde(deserialize_with = "number")]
    pub(crate) leases: u64,
    #[serde(deserialize_with = "number")]
    pub(crate) returns_succeeded: u64,
    #[serde(deserialize_with = "number")]
    pub(crate) returns_failed: u64,
    pub(crate) return_success_permille: u32,
    pub(crate) health_pass_permille: u32,
    pub(crate) reuse_permille: u32,
    pub(crate) return_p50: String,
    pub(crate) return_p99: String,
    pub(crate) return_max: String,
}

/// The list under `key`; absent means empty.
pub(crate) fn list<T: DeserializeOwned>(answer: &Value, key: &str) -> Result<Vec<T>> {
    match answer.get(key) {
        None => Ok(Vec::new()),
        Some(items) => serde_json::from_value(items.clone()).with_context(|| format!("unexpected {key}: {items}")),
    }
}

/// The message under `key`.
pub(crate) fn one<T: DeserializeOwned>(answer: &Value, key: &str) -> Result<T> {
    let item = answer.get(key).with_context(|| format!("no {key} in {answer}"))?;
    serde_json::from_value(item.clone()).with_context(|| format!("unexpected {key}: {item}"))
}

/// A 64-bit number, which JSON may carry as a string.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Number(n) => n.as_u64().ok_or_else(|| serde::de::Error::custom("not an unsigned number")),
        Value::String(s) => s.parse().map_err(serde::de::Error::custom),
        other => Err(serde::de::Error::custom(format!("not a number: {other}"))),
    }
}

/// The last part of a resource name.
pub(crate) fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// A state or result without its prefix.
pub(crate) fn word(value: &str) -> &str {
    value.strip_prefix("STATE_").or_else(|| value.strip_prefix("RESULT_")).unwrap_or(value)
}
