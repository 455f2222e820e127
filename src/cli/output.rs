//! How results are printed: a table for people, or the response as canonical protobuf JSON for programs.
//!
//! JSON is made from the message's bytes and the descriptors that the wire crate carries, so that it is what any other
//! client of the protocol would print: camel case, enums by name, 64-bit numbers as strings, defaults left out.
//!
//! Never here: errors, which go to stderr.

use std::io::Write as _;
use std::sync::LazyLock;

use clap::ValueEnum;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use remuda_wire::v1;
use serde_json::Value;

use crate::failure::Failure;
use crate::tables::Tabular;

/// A form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people; not stable
    Table,
    /// One JSON document
    Json,
    /// One JSON document per line: of a list, one per item
    Jsonl,
    /// The same as json, in YAML
    Yaml,
}

/// A message with the name that its descriptor has.
pub(crate) trait Named: Message {
    /// Its full name.
    const NAME: &'static str;
    /// The JSON name of the field that holds the items, where it is a list.
    const ITEMS: Option<&'static str> = None;
}

macro_rules! named {
    ($($message:ident $(= $items:literal)?),+ $(,)?) => {$(
        impl Named for v1::$message {
            const NAME: &'static str = concat!("remuda.v1.", stringify!($message));
            $(const ITEMS: Option<&'static str> = Some($items);)?
        }
    )+};
}

named! {
    PoolSpec, Event,
    CreatePoolResponse, UpdatePoolResponse, DeletePoolResponse, GetPoolResponse, GetPoolStatsResponse,
    ListPoolsResponse = "pools",
    GetWorkerResponse, CordonWorkerResponse, UncordonWorkerResponse, DrainWorkerResponse, SetMaintenanceResponse,
    ResumeWorkerResponse, RetireWorkerResponse, ReleaseWorkerResponse,
    ListWorkersResponse = "workers",
    GetLeaseResponse, ReturnWorkerResponse, GetReturnResponse,
    RenewLeasesResponse = "results",
    ListReturnsResponse = "returns",
    WatchEventsResponse = "events",
    GetClusterStatusResponse, TransferLeaderResponse,
}

/// The descriptors of the public protocol.
pub(crate) static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(remuda_wire::FILE_DESCRIPTOR_SET).expect("the descriptors were made with the code")
});

/// A message as canonical JSON.
pub(crate) fn json<M: Named>(message: &M) -> Value {
    let descriptor = DESCRIPTORS.get_message_by_name(M::NAME).expect("each named message is in the descriptors");
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("what was encoded by the code is decoded by its own descriptors");
    let options = SerializeOptions::new();
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).expect("messages are JSON")
}

/// Prints a response.
pub(crate) fn print<M: Named + Tabular>(format: Format, message: &M) -> Result<(), Failure> {
    if format == Format::Table { line(&message.table()) } else { value(format, &json(message), M::ITEMS) }
}

/// Prints a document; as lines, one per item of its list `items`, if it has one.
pub(crate) fn value(format: Format, value: &Value, items: Option<&str>) -> Result<(), Failure> {
    match format {
        Format::Table | Format::Json => line(&pretty(value)?),
        Format::Jsonl => lines(value, items),
        Format::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(|e| Failure::other(e.to_string()))?;
            line(text.trim_end())
        }
    }
}

fn lines(value: &Value, items: Option<&str>) -> Result<(), Failure> {
    let Some(key) = items else { return line(&value.to_string()) };
    let Some(Value::Array(items)) = value.get(key) else { return Ok(()) };
    items.iter().try_for_each(|item| line(&item.to_string()))
}

fn pretty(value: &Value) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|e| Failure::other(e.to_string()))
}

/// Writes one line to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::other(format!("cannot write to stdout: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers() -> v1::ListWorkersResponse {
        let state = v1::worker::State::Available.into();
        let worker = v1::Worker { name: "pools/p/workers/w".into(), state, uses: 7, ..Default::default() };
        v1::ListWorkersResponse { workers: vec![worker], ..Default::default() }
    }

    #[test]
    fn json_is_the_canonical_one() {
        let value = json(&workers());
        assert_eq!(
            value,
            serde_json::json!({"workers": [
                {"name": "pools/p/workers/w", "state": "STATE_AVAILABLE", "uses": "7"}
            ]})
        );
    }

    #[test]
    fn durations_and_times_are_words() {
        let status = v1::GetClusterStatusResponse {
            leader_id: 2,
            replicas: vec![v1::Replica {
                id: 2,
                last_contact: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
                ..Default::default()
            }],
            ..Default::default()
        };
        let value = json(&status);
        assert_eq!(value["leaderId"], "2");
        assert_eq!(value["replicas"][0]["lastContact"], "1.500s");
    }

    #[test]
    fn every_named_message_has_a_descriptor() {
        assert_eq!(json(&v1::ReturnWorkerResponse::default()), serde_json::json!({}));
        assert_eq!(json(&v1::PoolSpec::default()), serde_json::json!({}));
        assert_eq!(json(&v1::WatchEventsResponse::default()), serde_json::json!({}));
    }

    #[test]
    fn yaml_says_the_same() {
        let text = serde_saphyr::to_string(&json(&workers())).expect("yaml");
        let back: Value = serde_saphyr::from_str(&text).expect("yaml");
        assert_eq!(back, json(&workers()));
    }
}
