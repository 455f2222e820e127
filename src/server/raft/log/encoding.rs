//! The bytes of a log entry, a log id, a vote and a membership, as they stand on disk.
//!
//! The format is ours and versioned by the row that holds it: openraft's serde derives may change with any release, the
//! bytes written yesterday may not. Numbers are little-endian and of fixed width, so that every field can be found with a
//! hex dump; what varies in length is preceded by its length.
//!
//! ```text
//! entry        term u64 · index u64 · kind u8 (0 blank, 1 frame, 2 membership) · length u32 · body
//! membership   configs u16 · { ids u16 · id u64 … } … · nodes u16 · { id u64 · peer text · client text · store u128 } …
//! log id       0u8, or 1u8 · term u64 · index u64
//! vote         term u64 · node u64 · committed u8
//! text         length u16 · UTF-8
//! ```
//!
//! Invariants
//! * What is decoded and encoded again gives the same bytes.
//! * A decoder never panics and never allocates more than its input is long, whatever the input.
//!
//! Never here: checksums and versions (rows have them), IO.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes};
use thiserror::Error;

use crate::raft::types::{Entry, EntryPayload, LogId, Member, Membership, Payload, StoreId, Vote, log_id, term_of};

const BLANK: u8 = 0;
const FRAME: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Bytes before an entry's body.
const ENTRY_HEADER: usize = 8 + 8 + 1 + 4;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The input ends inside the named field.
    #[error("the bytes end inside {0}")]
    Short(&'static str),
    /// The named field holds a value that no writer of this version writes.
    #[error("{what} {value} is unknown")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A text is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotText(&'static str),
    /// openraft does not accept the membership.
    #[error("membership: {0}")]
    Membership(String),
    /// Bytes are left over.
    #[error("{0} bytes are left over")]
    Trailing(usize),
}

/// Length of `entry` when encoded; what byte limits count. Memberships, which are rare, are estimated.
pub fn entry_size(entry: &Entry) -> usize {
    let body = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(payload) => payload.bytes().len(),
        EntryPayload::Membership(_) => 1024,
    };
    ENTRY_HEADER + body
}

/// Appends the bytes of `entry` to `out`.
pub fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.extend_from_slice(&term_of(&entry.log_id).to_le_bytes());
    out.extend_from_slice(&entry.log_id.index.to_le_bytes());
    match &entry.payload {
        EntryPayload::Blank => put_body(out, BLANK, &[]),
        EntryPayload::Normal(payload) => put_body(out, FRAME, payload.bytes()),
        EntryPayload::Membership(membership) => {
            let mut body = Vec::new();
            put_membership(&mut body, membership);
            put_body(out, MEMBERSHIP, &body);
        }
    }
}

fn put_body(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let length = u32::try_from(body.len()).expect("requests are bounded far below 4 GiB");
    out.push(kind);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(body);
}

/// Takes one entry off the front of `input`. A frame's bytes share `input`'s memory.
///
/// # Errors
/// [`DecodeError`] if the front of `input` is not a whole entry; `input` is then left somewhere inside it.
pub fn take_entry(input: &mut Bytes) -> Result<Entry, DecodeError> {
    let id = log_id(take_u64(input, "an entry's term")?, take_u64(input, "an entry's index")?);
    let kind = take_u8(input, "an entry's kind")?;
    let length = take_u32(input, "an entry's length")? as usize;
    if input.remaining() < length {
        return Err(DecodeError::Short("an entry's body"));
    }
    let mut body = input.split_to(length);
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        FRAME => EntryPayload::Normal(Payload(body.split_off(0))),
        MEMBERSHIP => EntryPayload::Membership(take_membership(&mut body)?),
        value => return Err(DecodeError::Unknown { what: "entry kind", value: value.into() }),
    };
    if !matches!(kind, FRAME) {
        finish(&body)?;
    }
    Ok(Entry { log_id: id, payload })
}

/// Appends the bytes of `membership` to `out`.
pub fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_count(out, configs.len());
    for config in configs {
        put_count(out, config.len());
        config.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    }
    let nodes: Vec<_> = membership.nodes().collect();
    put_count(out, nodes.len());
    for (id, member) in nodes {
        out.extend_from_slice(&id.to_le_bytes());
        put_text(out, &member.peer);
        put_text(out, &member.client);
        out.extend_from_slice(&member.store_id.0.to_le_bytes());
    }
}

/// Takes a membership off the front of `input`.
///
/// # Errors
/// [`DecodeError`] if the bytes are no membership that openraft accepts.
pub fn take_membership(input: &mut Bytes) -> Result<Membership, DecodeError> {
    let mut configs = Vec::new();
    for _ in 0..take_u16(input, "the number of voter sets")? {
        let mut voters = BTreeSet::new();
        for _ in 0..take_u16(input, "the number of voters")? {
            voters.insert(take_u64(input, "a voter's id")?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..take_u16(input, "the number of members")? {
        let id = take_u64(input, "a member's id")?;
        let peer = take_text(input, "a member's peer endpoint")?;
        let client = take_text(input, "a member's client endpoint")?;
        let store_id = StoreId(take_u128(input, "a member's store id")?);
        nodes.insert(id, Member { peer, client, store_id });
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| DecodeError::Membership(error.to_string()))
}

/// Appends the bytes of an optional log id to `out`.
pub fn put_log_id(out: &mut Vec<u8>, id: Option<&LogId>) {
    out.push(u8::from(id.is_some()));
    if let Some(id) = id {
        out.extend_from_slice(&term_of(id).to_le_bytes());
        out.extend_from_slice(&id.index.to_le_bytes());
    }
}

/// Takes an optional log id off the front of `input`.
///
/// # Errors
/// [`DecodeError`] if the bytes are none.
pub fn take_log_id(input: &mut Bytes) -> Result<Option<LogId>, DecodeError> {
    match take_u8(input, "a log id's presence")? {
        0 => Ok(None),
        1 => Ok(Some(log_id(take_u64(input, "a log id's term")?, take_u64(input, "a log id's index")?))),
        value => Err(DecodeError::Unknown { what: "log id presence", value: value.into() }),
    }
}

/// Appends the bytes of `vote` to `out`.
pub fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    out.extend_from_slice(&vote.leader_id.voted_for.to_le_bytes());
    out.push(u8::from(vote.committed));
}

/// Takes a vote off the front of `input`.
///
/// # Errors
/// [`DecodeError`] if the bytes are none.
pub fn take_vote(input: &mut Bytes) -> Result<Vote, DecodeError> {
    let (term, node) = (take_u64(input, "a vote's term")?, take_u64(input, "a vote's node")?);
    match take_u8(input, "a vote's committed mark")? {
        0 => Ok(Vote::new(term, node)),
        1 => Ok(Vote::new_committed(term, node)),
        value => Err(DecodeError::Unknown { what: "committed mark", value: value.into() }),
    }
}

/// Appends `text` with its length to `out`; longer texts than 64 KiB are cut, no endpoint is that long.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(u16::MAX.into());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_count(out, end);
    out.extend_from_slice(&text.as_bytes()[..end]);
}

/// Takes a text off the front of `input`; `what` names it in the error.
///
/// # Errors
/// [`DecodeError`] if the bytes end early or are not UTF-8.
pub fn take_text(input: &mut Bytes, what: &'static str) -> Result<String, DecodeError> {
    let length = usize::from(take_u16(input, what)?);
    if input.remaining() < length {
        return Err(DecodeError::Short(what));
    }
    String::from_utf8(input.split_to(length).to_vec()).map_err(|_| DecodeError::NotText(what))
}

/// Checks that nothing is left of `input`.
///
/// # Errors
/// [`DecodeError::Trailing`] if there is.
pub fn finish(input: &Bytes) -> Result<(), DecodeError> {
    if input.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(input.len())) }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("memberships and texts are cut to 65535 before");
    out.extend_from_slice(&count.to_le_bytes());
}

/// Takes one byte; `what` names it in the error.
pub(super) fn take_u8(input: &mut Bytes, what: &'static str) -> Result<u8, DecodeError> {
    input.try_get_u8().map_err(|_| DecodeError::Short(what))
}

/// Takes a 16-bit number; `what` names it in the error.
pub(super) fn take_u16(input: &mut Bytes, what: &'static str) -> Result<u16, DecodeError> {
    input.try_get_u16_le().map_err(|_| DecodeError::Short(what))
}

/// Takes a 32-bit number; `what` names it in the error.
pub(super) fn take_u32(input: &mut Bytes, what: &'static str) -> Result<u32, DecodeError> {
    input.try_get_u32_le().map_err(|_| DecodeError::Short(what))
}

/// Takes a 64-bit number; `what` names it in the error.
pub(super) fn take_u64(input: &mut Bytes, what: &'static str) -> Result<u64, DecodeError> {
    input.try_get_u64_le().map_err(|_| DecodeError::Short(what))
}

/// Takes a 128-bit number; `what` names it in the error.
pub(super) fn take_u128(input: &mut Bytes, what: &'static str) -> Result<u128, DecodeError> {
    input.try_get_u128_le().map_err(|_| DecodeError::Short(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u128) -> Member {
        Member { peer: format!("10.0.0.{n}:7401"), client: format!("host-{n}:7400"), store_id: StoreId(n << 70) }
    }

    fn entries() -> Vec<Entry> {
        let joint = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])];
        let nodes = BTreeMap::from([(1, member(1)), (2, member(2)), (3, member(3)), (4, member(4)), (5, member(5))]);
        let membership = Membership::new(joint, nodes).unwrap();
        vec![
            Entry { log_id: log_id(0, 0), payload: EntryPayload::Blank },
            Entry { log_id: log_id(3, 9), payload: EntryPayload::Membership(membership) },
            Entry { log_id: log_id(3, 10), payload: EntryPayload::Normal(Payload::from(vec![0xa5; 300])) },
            Entry { log_id: log_id(u64::MAX, u64::MAX), payload: EntryPayload::Normal(Payload::from(Vec::new())) },
            Entry { log_id: log_id(4, 11), payload: EntryPayload::Membership(Membership::default()) },
        ]
    }

    #[test]
    fn entries_come_back_as_they_went() {
        let mut bytes = Vec::new();
        entries().iter().for_each(|entry| put_entry(&mut bytes, entry));
        let mut input = Bytes::from(bytes);
        for expected in entries() {
            assert_eq!(take_entry(&mut input), Ok(expected));
        }
        assert_eq!(finish(&input), Ok(()));
    }

    #[test]
    fn a_cut_entry_is_an_error_at_every_length() {
        for entry in entries() {
            let mut bytes = Vec::new();
            put_entry(&mut bytes, &entry);
            for length in 0..bytes.len() {
                let mut input = Bytes::copy_from_slice(&bytes[..length]);
                assert!(take_entry(&mut input).is_err(), "{entry:?} cut to {length}");
            }
        }
    }

    #[test]
    fn votes_and_log_ids_come_back_as_they_went() {
        for vote in [Vote::new(0, 0), Vote::new(7, 3), Vote::new_committed(u64::MAX, 2)] {
            let mut bytes = Vec::new();
            put_vote(&mut bytes, &vote);
            assert_eq!(take_vote(&mut Bytes::from(bytes)), Ok(vote));
        }
        for id in [None, Some(log_id(0, 0)), Some(log_id(5, u64::MAX))] {
            let mut bytes = Vec::new();
            put_log_id(&mut bytes, id.as_ref());
            assert_eq!(take_log_id(&mut Bytes::from(bytes)), Ok(id));
        }
    }

    #[test]
    fn the_bytes_of_version_1_stay_as_they_are() {
        let mut bytes = Vec::new();
        put_entry(
            &mut bytes,
            &Entry { log_id: log_id(2, 7), payload: EntryPayload::Normal(Payload::from(vec![9, 8])) },
        );
        assert_eq!(bytes, [2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 9, 8]);
    }
}
