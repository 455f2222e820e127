//! The rows of the log's database: their keys, and the bytes of those that are not groups of entries.
//!
//! ```text
//! "head"              number of the last batch, checksum of the vote, last purged id, anchor, last log id, chain value
//! "vote"              the vote
//! "committed"         the last commit index heard of; a hint, written without a sync
//! "identity"          which replica's log this is, in which data folder
//! "g" · first u64     a group: the entries of one batch, from index `first` on; see [`super::chain`]
//! ```
//!
//! Every small row is version u8 · body · crc32 over key, version and body. RocksDB has checksums too, but its recovery
//! may pass over what they find; ours tell a wrong row whatever the way it came here.
//!
//! Invariants
//! * Group keys sort by first index, and every group key sorts within ["g", "h").
//!
//! Never here: when a row is written, and in which batch.

use bytes::Bytes;
use thiserror::Error;

use super::chain::{Anchor, ChainValue};
use super::encoding::{
    DecodeError, finish, put_log_id, put_vote, take_log_id, take_u32, take_u64, take_u128, take_vote,
};
use crate::raft::types::{Identity, LogId, StoreId, Vote};

/// Version of all rows' bytes.
pub(super) const FORMAT: u8 = 1;

/// Key of the head row.
pub(super) const HEAD: &[u8] = b"head";
/// Key of the vote row.
pub(super) const VOTE: &[u8] = b"vote";
/// Key of the committed row.
pub(super) const COMMITTED: &[u8] = b"committed";
/// Key of the identity row.
pub(super) const IDENTITY: &[u8] = b"identity";
/// Before all group keys.
pub(super) const GROUPS_BEGIN: &[u8] = b"g";
/// After all group keys.
pub(super) const GROUPS_END: &[u8] = b"h";

/// Key of the group whose first entry has index `first`.
pub(super) fn group_key(first: u64) -> [u8; 9] {
    let mut key = [b'g'; 9];
    key[1..].copy_from_slice(&first.to_be_bytes());
    key
}

/// The first index that a group key names; `None` if it is no group key.
pub(super) fn group_first(key: &[u8]) -> Option<u64> {
    let digits = key.strip_prefix(b"g")?;
    Some(u64::from_be_bytes(digits.try_into().ok()?))
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RowError {
    /// Written by another version of this software.
    #[error("format {0} is unknown, this build knows {FORMAT}")]
    Format(u8),
    /// The bytes changed after they were written.
    #[error("checksum does not match")]
    Checksum,
    /// Right checksum, but no sense: a bug of the writer.
    #[error(transparent)]
    Content(#[from] DecodeError),
}

/// The row that every batch writes, so that a lost batch can be told by it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// Counts the batches of this store, from 1; never reset.
    pub(super) number: u64,
    /// Checksum of the vote row, 0 before the first vote.
    pub(super) vote_sum: u32,
    /// All entries up to this one are gone.
    pub(super) purged: Option<LogId>,
    /// Where the chain of groups begins.
    pub(super) anchor: Anchor,
    /// Id of the last entry, or of the last purged one.
    pub(super) last: Option<LogId>,
    /// Chain value of the last group, or the anchor's.
    pub(super) chain: ChainValue,
}

impl Head {
    /// The row's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        sealed(HEAD, |out| {
            out.extend_from_slice(&self.number.to_le_bytes());
            out.extend_from_slice(&self.vote_sum.to_le_bytes());
            put_log_id(out, self.purged.as_ref());
            out.extend_from_slice(&self.anchor.first.to_le_bytes());
            out.extend_from_slice(&self.anchor.chain.0.to_le_bytes());
            put_log_id(out, self.last.as_ref());
            out.extend_from_slice(&self.chain.0.to_le_bytes());
        })
    }

    /// The head of these bytes.
    pub(super) fn decode(row: &[u8]) -> Result<Head, RowError> {
        let mut body = opened(HEAD, row)?;
        let head = Head {
            number: take_u64(&mut body, "the batch number")?,
            vote_sum: take_u32(&mut body, "the vote's checksum")?,
            purged: take_log_id(&mut body)?,
            anchor: Anchor {
                first: take_u64(&mut body, "the anchor's index")?,
                chain: ChainValue(take_u128(&mut body, "the anchor's value")?),
            },
            last: take_log_id(&mut body)?,
            chain: ChainValue(take_u128(&mut body, "the chain value")?),
        };
        finish(&body)?;
        Ok(head)
    }
}

/// The vote row's bytes.
pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    sealed(VOTE, |out| put_vote(out, vote))
}

/// The vote of these bytes.
pub(super) fn decode_vote(row: &[u8]) -> Result<Vote, RowError> {
    let mut body = opened(VOTE, row)?;
    let vote = take_vote(&mut body)?;
    finish(&body)?;
    Ok(vote)
}

/// What head remembers of a vote row; never 0, which stands for "no vote yet". The row's own checksum is left out: a CRC
/// over bytes and their CRC is the same for all of them.
pub(super) fn vote_sum(row: &[u8]) -> u32 {
    let content = row.split_last_chunk::<4>().map_or(row, |(content, _)| content);
    crc32fast::hash(content).max(1)
}

/// The committed row's bytes.
pub(super) fn encode_committed(committed: Option<&LogId>) -> Vec<u8> {
    sealed(COMMITTED, |out| put_log_id(out, committed))
}

/// The committed id of these bytes.
pub(super) fn decode_committed(row: &[u8]) -> Result<Option<LogId>, RowError> {
    let mut body = opened(COMMITTED, row)?;
    let committed = take_log_id(&mut body)?;
    finish(&body)?;
    Ok(committed)
}

/// The identity row's bytes.
pub(super) fn encode_identity(identity: &Identity) -> Vec<u8> {
    sealed(IDENTITY, |out| {
        out.extend_from_slice(&identity.store.0.to_le_bytes());
        out.extend_from_slice(&identity.replica.to_le_bytes());
    })
}

/// The identity of these bytes.
pub(super) fn decode_identity(row: &[u8]) -> Result<Identity, RowError> {
    let mut body = opened(IDENTITY, row)?;
    let store = StoreId(take_u128(&mut body, "the store id")?);
    let replica = take_u64(&mut body, "the replica id")?;
    finish(&body)?;
    Ok(Identity { replica, store })
}

fn sealed(key: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut row = vec![FORMAT];
    write(&mut row);
    let sum = checksum(key, &row);
    row.extend_from_slice(&sum.to_le_bytes());
    row
}

fn opened(key: &[u8], row: &[u8]) -> Result<Bytes, RowError> {
    let Some((content, sum)) = row.split_last_chunk::<4>() else { return Err(RowError::Checksum) };
    if u32::from_le_bytes(*sum) != checksum(key, content) {
        return Err(RowError::Checksum);
    }
    match content.split_first() {
        Some((&FORMAT, body)) => Ok(Bytes::copy_from_slice(body)),
        Some((&other, _)) => Err(RowError::Format(other)),
        None => Err(RowError::Checksum),
    }
}

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(content);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::log_id;

    fn head() -> Head {
        Head {
            number: 77,
            vote_sum: 5,
            purged: Some(log_id(1, 9)),
            anchor: Anchor { first: 10, chain: ChainValue(1 << 100) },
            last: Some(log_id(2, 12)),
            chain: ChainValue(3),
        }
    }

    #[test]
    fn rows_come_back_as_they_went() {
        assert_eq!(Head::decode(&head().encode()), Ok(head()));
        assert_eq!(Head::decode(&Head::default().encode()), Ok(Head::default()));
        let vote = Vote::new(4, 2);
        assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        for committed in [None, Some(log_id(3, 4))] {
            assert_eq!(decode_committed(&encode_committed(committed.as_ref())), Ok(committed));
        }
        let identity = Identity { replica: 2, store: StoreId(u128::MAX - 3) };
        assert_eq!(decode_identity(&encode_identity(&identity)), Ok(identity));
    }

    #[test]
    fn votes_have_different_sums() {
        let votes = [Vote::new(1, 1), Vote::new(1, 2), Vote::new(2, 1), Vote::new_committed(2, 1)];
        let mut sums = votes.map(|vote| vote_sum(&encode_vote(&vote))).to_vec();
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), votes.len());
    }

    #[test]
    fn a_changed_row_is_told() {
        let row = head().encode();
        for at in 0..row.len() {
            let mut changed = row.clone();
            changed[at] ^= 0x10;
            assert!(Head::decode(&changed).is_err(), "byte {at}");
            assert!(Head::decode(&row[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(decode_vote(&row), Err(RowError::Checksum), "a row under another key");
    }

    #[test]
    fn group_keys_sort_by_index() {
        let keys = [0, 1, 255, 256, u64::MAX].map(group_key);
        assert!(keys.is_sorted());
        assert!(keys.iter().all(|key| GROUPS_BEGIN < &key[..] && &key[..] < GROUPS_END));
        assert_eq!(keys.map(|key| group_first(&key)), [Some(0), Some(1), Some(255), Some(256), Some(u64::MAX)]);
        assert_eq!(group_first(HEAD), None);
    }
}
