//! The bytes in which replicas speak Raft: our own, versioned, and not openraft's serde by accident.
//!
//! Every body begins with a version. Parts that also stand in the log (entries, votes, log ids) have the log's encoding.
//!
//! ```text
//! append     1 · vote · previous log id · commit log id · count u32 · entries
//! appended   1 · 0 · log id  |  1 · 1 · conflicting log id  |  1 · 2 · higher vote
//! ask        1 · vote · last log id · transfer u8
//! voted      1 · vote · granted u8 · last log id
//! hand over  1 · vote · to u64 · last log id
//! handed     1 · 0  |  1 · 1 · vote · vote  |  1 · 2 · log id · log id
//! ```
//!
//! Invariants
//! * What is decoded and encoded again gives the same bytes; damage is an error, never a panic.
//!
//! Never here: the network.

use bytes::{Buf, Bytes};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::raft::log::encoding::{
    DecodeError, finish, put_entry, put_log_id, put_vote, take_entry, take_log_id, take_vote,
};
use crate::raft::types::{LogId, TypeConfig, Vote};

const VERSION: u8 = 1;

/// Encodes an append.
pub fn put_append(request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    let mut out = vec![VERSION];
    put_vote(&mut out, &request.vote);
    put_log_id(&mut out, request.prev_log_id.as_ref());
    put_log_id(&mut out, request.leader_commit.as_ref());
    let count = u32::try_from(request.entries.len()).expect("openraft sends at most max_payload_entries");
    out.extend_from_slice(&count.to_le_bytes());
    request.entries.iter().for_each(|entry| put_entry(&mut out, entry));
    out.into()
}

/// Decodes an append.
///
/// # Errors
/// [`DecodeError`] if the bytes are none of this version.
pub fn take_append(body: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let mut input = versioned(body)?;
    let vote = take_vote(&mut input)?;
    let prev_log_id = take_log_id(&mut input)?;
    let leader_commit = take_log_id(&mut input)?;
    let count = input.try_get_u32_le().map_err(|_| DecodeError::Short("the number of entries"))?;
    // Not reserved: a damaged count must not allocate.
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(take_entry(&mut input)?);
    }
    finish(&input)?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

/// Encodes the answer to an append.
pub fn put_appended(result: &StreamAppendResult<TypeConfig>) -> Bytes {
    let mut out = vec![VERSION];
    match result {
        Ok(last) => {
            out.push(0);
            put_log_id(&mut out, last.as_ref());
        }
        Err(StreamAppendError::Conflict(id)) => {
            out.push(1);
            put_log_id(&mut out, Some(id));
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.push(2);
            put_vote(&mut out, vote);
        }
    }
    out.into()
}

/// Decodes the answer to an append.
///
/// # Errors
/// [`DecodeError`] if the bytes are none of this version.
pub fn take_appended(body: Bytes) -> Result<StreamAppendResult<TypeConfig>, DecodeError> {
    let mut input = versioned(body)?;
    let result = match take_kind(&mut input)? {
        0 => Ok(take_log_id(&mut input)?),
        1 => Err(StreamAppendError::Conflict(take_some_log_id(&mut input)?)),
        2 => Err(StreamAppendError::HigherVote(take_vote(&mut input)?)),
        value => return Err(DecodeError::Unknown { what: "append answer", value: value.into() }),
    };
    finish(&input)?;
    Ok(result)
}

/// Encodes a request for a vote.
pub fn put_ask(request: &VoteRequest<TypeConfig>) -> Bytes {
    let mut out = vec![VERSION];
    put_vote(&mut out, &request.vote);
    put_log_id(&mut out, request.last_log_id.as_ref());
    out.push(request.leadership_transfer.into());
    out.into()
}

/// Decodes a request for a vote.
///
/// # Errors
/// [`DecodeError`] if the bytes are none of this version.
pub fn take_ask(body: Bytes) -> Result<VoteRequest<TypeConfig>, DecodeError> {
    let mut input = versioned(body)?;
    let mut request = VoteRequest::new(take_vote(&mut input)?, take_log_id(&mut input)?);
    request.leadership_transfer = take_flag(&mut input, "transfer mark")?;
    finish(&input)?;
    Ok(request)
}

/// Encodes the answer to a request for a vote.
pub fn put_voted(response: &VoteResponse<TypeConfig>) -> Bytes {
    let mut out = vec![VERSION];
    put_vote(&mut out, &response.vote);
    out.push(response.vote_granted.into());
    put_log_id(&mut out, response.last_log_id.as_ref());
    out.into()
}

/// Decodes the answer to a request for a vote.
///
/// # Errors
/// [`DecodeError`] if the bytes are none of this version.
pub fn take_voted(body: Bytes) -> Result<VoteResponse<TypeConfig>, DecodeError> {
    let mut input = versioned(body)?;
    let vote = take_vote(&mut input)?;
    let granted = take_flag(&mut input, "granted mark")?;
    let last = take_log_id(&mut input)?;
    finish(&input)?;
    Ok(VoteResponse::new(vote, last, granted))
}

/// Encodes a leader's wish to hand over.
pub fn put_hand_over(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let mut out = vec![VERSION];
    put_vote(&mut out, request.from_leader());
    out.extend_from_slice(&request.to_node_id().to_le_bytes());
    put_log_id(&mut out, request.last_log_id());
    out.into()
}

/// Decodes a leader's wish to hand over.
///
/// # Errors
/// [`DecodeError`] if the bytes are none of this version.
pub fn take_hand_over(body: Bytes) -> Result<TransferLeaderRequest<TypeConfig>, DecodeError> {
    let mut input = versioned(body)?;
    let vote = take_vote(&mut input)?;
    let to = input.try_get_u64_le().map_err(|_| DecodeError::Short("the successor"))?;
    let last = take_log_id(&mut input)?;
    finish(&input)?;
    Ok(TransferLeaderRequest::new(vote, to, last))
}

/// Encodes the answer to a leader's wish to hand over.
pub fn put_handed(response: &TransferLeaderResponse<TypeConfig>) -> Bytes {
    let mut out = vec![VERSION];
    match response {
        Ok(()) => out.push(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.push(1);
            put_vote(&mut out, expected);
            put_vote(&mut out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.push(2);
            put_log_id(&mut out, expected.as_ref());
            put_log_id(&mut out, actual.as_ref());
        }
    }
    out.into()
}

/// Decodes the answer to a leader's wish to hand over.
///
/// # Errors
/// [`DecodeError`] if the bytes are none of this version.
pub fn take_handed(body: Bytes) -> Result<TransferLeaderResponse<TypeConfig>, DecodeError> {
    let mut input = versioned(body)?;
    let response = match take_kind(&mut input)? {
        0 => Ok(()),
        1 => {
            let (expected, actual) = (take_vote(&mut input)?, take_vote(&mut input)?);
            Err(TransferLeaderError::VoteChanged { expected, actual })
        }
        2 => {
            let (expected, actual) = (take_log_id(&mut input)?, take_log_id(&mut input)?);
            Err(TransferLeaderError::LogNotFlushed { expected, actual })
        }
        value => return Err(DecodeError::Unknown { what: "transfer answer", value: value.into() }),
    };
    finish(&input)?;
    Ok(response)
}

/// Encodes a vote alone.
pub fn put_lone_vote(vote: &Vote) -> Bytes {
    let mut out = vec![VERSION];
    put_vote(&mut out, vote);
    out.into()
}

/// Decodes a vote alone.
///
/// # Errors
/// [`DecodeError`] if the bytes are none of this version.
pub fn take_lone_vote(body: Bytes) -> Result<Vote, DecodeError> {
    let mut input = versioned(body)?;
    let vote = take_vote(&mut input)?;
    finish(&input)?;
    Ok(vote)
}

/// Decodes the answer to a snapshot.
///
/// # Errors
/// [`DecodeError`] if the bytes are none of this version.
pub fn take_installed(body: Bytes) -> Result<SnapshotResponse<TypeConfig>, DecodeError> {
    take_lone_vote(body).map(SnapshotResponse::new)
}

fn versioned(mut body: Bytes) -> Result<Bytes, DecodeError> {
    match body.try_get_u8() {
        Ok(VERSION) => Ok(body),
        Ok(value) => Err(DecodeError::Unknown { what: "version", value: value.into() }),
        Err(_) => Err(DecodeError::Short("the version")),
    }
}

fn take_kind(input: &mut Bytes) -> Result<u8, DecodeError> {
    input.try_get_u8().map_err(|_| DecodeError::Short("the kind of answer"))
}

fn take_flag(input: &mut Bytes, what: &'static str) -> Result<bool, DecodeError> {
    match input.try_get_u8() {
        Ok(0) => Ok(false),
        Ok(1) => Ok(true),
        Ok(value) => Err(DecodeError::Unknown { what, value: value.into() }),
        Err(_) => Err(DecodeError::Short(what)),
    }
}

fn take_some_log_id(input: &mut Bytes) -> Result<LogId, DecodeError> {
    take_log_id(input)?.ok_or(DecodeError::Short("the conflicting log id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Entry, EntryPayload, Payload, log_id};

    fn append() -> AppendEntriesRequest<TypeConfig> {
        let entry = |index, payload| Entry { log_id: log_id(3, index), payload };
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 2),
            prev_log_id: Some(log_id(2, 6)),
            entries: vec![entry(7, EntryPayload::Blank), entry(8, EntryPayload::Normal(Payload::from(vec![1; 40])))],
            leader_commit: Some(log_id(2, 5)),
        }
    }

    #[test]
    fn every_message_comes_back_as_it_went() {
        let back = take_append(put_append(&append())).unwrap();
        assert_eq!(
            (back.vote, back.prev_log_id, back.leader_commit),
            (append().vote, append().prev_log_id, append().leader_commit)
        );
        assert_eq!(back.entries, append().entries);
        let (id, vote) = (log_id(4, 9), Vote::new(5, 1));
        for result in
            [Ok(None), Ok(Some(id)), Err(StreamAppendError::Conflict(id)), Err(StreamAppendError::HigherVote(vote))]
        {
            assert_eq!(take_appended(put_appended(&result)), Ok(result));
        }
        for leadership_transfer in [false, true] {
            let ask = VoteRequest { vote, last_log_id: Some(id), leadership_transfer };
            assert_eq!(take_ask(put_ask(&ask)), Ok(ask));
        }
        for granted in [false, true] {
            let voted = VoteResponse::new(vote, Some(id), granted);
            assert_eq!(take_voted(put_voted(&voted)), Ok(voted));
        }
        let hand_over = TransferLeaderRequest::new(vote, 3, Some(id));
        assert_eq!(take_hand_over(put_hand_over(&hand_over)), Ok(hand_over));
        let changed = TransferLeaderError::VoteChanged { expected: vote, actual: Vote::new_committed(6, 3) };
        let behind = TransferLeaderError::LogNotFlushed { expected: Some(id), actual: None };
        for handed in [Ok(()), Err(changed), Err(behind)] {
            assert_eq!(take_handed(put_handed(&handed)), Ok(handed));
        }
        assert_eq!(take_installed(put_lone_vote(&vote)), Ok(SnapshotResponse::new(vote)));
    }

    #[test]
    fn a_cut_message_and_one_of_another_version_are_errors() {
        let whole = put_append(&append());
        for length in 0..whole.len() {
            assert!(take_append(whole.slice(..length)).is_err(), "cut to {length}");
        }
        let mut other = whole.to_vec();
        other[0] = 2;
        assert!(take_append(other.into()).is_err());
    }
}
