//! What makes a write safe to send again: ids, windows, identity.

use remuda_registry::{ClientId, Command, Identity, LogTime, RequestId, RequestMark};
use sha2::{Digest as _, Sha256};

use super::Violations;
use crate::name::limits;
use crate::v1;

/// The id of a text: `<client>/<seq>` from a library, else as it stands.
///
/// # Errors
/// Where it is empty, too long, or not printable ASCII.
pub fn id_in(text: &str) -> Result<RequestId, String> {
    let length = limits::REQUEST_BYTES_MAX;
    if !(1..=length).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("must have 1 to {length} printable ASCII characters without blanks"));
    }
    let numbered = text.rsplit_once('/').and_then(|(client, seq)| {
        let number = seq.parse::<u64>().ok().filter(|number| number.to_string() == seq)?;
        (!client.is_empty()).then(|| RequestId::Numbered { client: ClientId::from(client), seq: number })
    });
    Ok(numbered.unwrap_or_else(|| RequestId::Named(text.into())))
}

/// The text of an id.
pub fn id_out(id: &RequestId) -> String {
    match id {
        RequestId::Numbered { client, seq } => format!("{client}/{seq}"),
        RequestId::Named(name) => name.to_string(),
    }
}

/// The mark of a request, or `None` for one that is not safe to retry.
pub fn mark_in(
    found: &mut Violations,
    field: &str,
    options: Option<&v1::RequestOptions>,
    method: &str,
    command: &Command,
) -> Option<RequestMark> {
    let options = options?;
    if options.request_id.is_empty() {
        let bare = options.not_after_ms == 0 && options.answered_below == 0;
        found.require(bare, &format!("{field}.request_id"), "must be set where not_after_ms or answered_below is");
        return None;
    }
    let id = found.take(&format!("{field}.request_id"), id_in(&options.request_id))?;
    let needed = "must be set with request_id";
    found.require(options.not_after_ms > 0, &format!("{field}.not_after_ms"), needed);
    let numbered = matches!(id, RequestId::Numbered { .. }) || options.answered_below == 0;
    found.require(numbered, &format!("{field}.answered_below"), "is for ids of the form client/sequence");
    if let RequestId::Numbered { seq, .. } = &id {
        let kept = options.answered_below <= *seq;
        found.require(kept, &format!("{field}.answered_below"), "must not be above this request's own sequence");
    }
    Some(RequestMark {
        id,
        identity: identity(method, options.not_after_ms, command),
        not_after: LogTime(options.not_after_ms),
        retry: options.attempt != 1,
        answered_below: options.answered_below,
    })
}

/// Hash of the method, `not_after` and the command, whose fields are those that decide the effect.
fn identity(method: &str, not_after_ms: u64, command: &Command) -> Identity {
    let mut hash = Sha256::new();
    hash.update(method.as_bytes());
    hash.update([0]);
    hash.update(not_after_ms.to_be_bytes());
    hash.update(serde_json::to_vec(command).expect("commands have only fields that JSON can hold"));
    let digest: [u8; 32] = hash.finalize().into();
    Identity(*digest.first_chunk().expect("sixteen bytes of thirty-two"))
}
