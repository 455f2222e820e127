//! The server's own rows in the state database: who owns it, and which entry it stands at.
//!
//! Their keys begin with [`SERVER_TAG`], which no table of the registry uses. Each value begins with a format version.
//!
//! ```text
//! applied    1 · last applied (log id) · membership's log id · membership · digest of the registry (16 bytes)
//! identity   1 · replica u64 · store u128
//! ```
//!
//! Never here: the registry's rows.

use std::io;

use bytes::{Buf, Bytes};
use remuda_registry::Digest;

use crate::raft::identity::Identity;
use crate::raft::log::encoding::{DecodeError, finish, put_log_id, put_membership, take_log_id, take_membership};
use crate::raft::types::{LogId, SnapshotMeta, StoreId, StoredMembership};

/// First byte of the server's own keys.
pub const SERVER_TAG: u8 = 0;
/// The row of [`AppliedRecord`].
pub const APPLIED_KEY: &[u8] = b"\0applied";
/// The row of [`Identity`].
pub const IDENTITY_KEY: &[u8] = b"\0identity";

const FORMAT: u8 = 1;

/// The entry that the rows stand at, and what openraft wants to know of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppliedRecord {
    /// The last entry applied.
    pub last_applied: Option<LogId>,
    /// The last membership applied.
    pub membership: StoredMembership,
    /// Digest of the registry at that entry.
    pub digest: Digest,
}

impl AppliedRecord {
    /// The row's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = encode_meta(&self.meta());
        out.extend_from_slice(&self.digest.0);
        out
    }

    /// Reads the row's value.
    ///
    /// # Errors
    /// `InvalidData` if this build does not know the bytes.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut input = Bytes::copy_from_slice(bytes);
        let meta = take_meta(&mut input).map_err(invalid)?;
        let digest = input.split_off(input.len().saturating_sub(16));
        finish(&input).map_err(invalid)?;
        let digest = digest.as_ref().try_into().map_err(|_| invalid(DecodeError::Short("the digest")))?;
        Ok(Self { last_applied: meta.last_log_id, membership: meta.last_membership, digest: Digest(digest) })
    }

    /// What a snapshot at this entry claims.
    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() }
    }

    /// The index of the last entry applied; zero before any.
    pub fn revision(&self) -> u64 {
        self.last_applied.map_or(0, |id| id.index)
    }
}

/// The bytes of a snapshot's meta, as in the `applied` row and on the wire.
pub fn encode_meta(meta: &SnapshotMeta) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_log_id(&mut out, meta.last_log_id.as_ref());
    put_log_id(&mut out, meta.last_membership.log_id().as_ref());
    put_membership(&mut out, meta.last_membership.membership());
    out
}

/// Reads what [`encode_meta`] wrote.
///
/// # Errors
/// `InvalidData` if this build does not know the bytes.
pub fn decode_meta(bytes: &Bytes) -> io::Result<SnapshotMeta> {
    let mut input = bytes.clone();
    let meta = take_meta(&mut input).map_err(invalid)?;
    finish(&input).map_err(invalid)?;
    Ok(meta)
}

fn take_meta(input: &mut Bytes) -> Result<SnapshotMeta, DecodeError> {
    check_format(input)?;
    let last_log_id = take_log_id(input)?;
    let membership_id = take_log_id(input)?;
    let last_membership = StoredMembership::new(membership_id, take_membership(input)?);
    Ok(SnapshotMeta { last_log_id, last_membership })
}

/// The bytes of the identity row.
pub fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.extend_from_slice(&identity.replica.to_le_bytes());
    out.extend_from_slice(&identity.store.0.to_le_bytes());
    out
}

/// Reads the identity row.
///
/// # Errors
/// `InvalidData` if this build does not know the bytes.
pub fn decode_identity(bytes: &[u8]) -> io::Result<Identity> {
    let mut input = Bytes::copy_from_slice(bytes);
    check_format(&mut input).map_err(invalid)?;
    let short = |_| invalid(DecodeError::Short("the identity"));
    let replica = input.try_get_u64_le().map_err(short)?;
    let store = StoreId(input.try_get_u128_le().map_err(short)?);
    finish(&input).map_err(invalid)?;
    Ok(Identity { replica, store })
}

fn check_format(input: &mut Bytes) -> Result<(), DecodeError> {
    match input.try_get_u8() {
        Ok(FORMAT) => Ok(()),
        Ok(value) => Err(DecodeError::Unknown { what: "row format", value: value.into() }),
        Err(_) => Err(DecodeError::Short("the row format")),
    }
}

fn invalid(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::raft::types::{Member, Membership, log_id};

    #[test]
    fn rows_come_back_as_they_went() {
        let member = Member { peer: "a:1".into(), client: "a:2".into(), store_id: StoreId(7) };
        let membership = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, member)])).unwrap();
        let record = AppliedRecord {
            last_applied: Some(log_id(3, 9)),
            membership: StoredMembership::new(Some(log_id(1, 1)), membership),
            digest: Digest([5; 16]),
        };
        assert_eq!(AppliedRecord::decode(&record.encode()).unwrap(), record);
        assert_eq!(AppliedRecord::decode(&AppliedRecord::default().encode()).unwrap(), AppliedRecord::default());
        let identity = Identity { replica: 3, store: StoreId(1 << 100) };
        assert_eq!(decode_identity(&encode_identity(&identity)).unwrap(), identity);
    }

    #[test]
    fn a_cut_row_is_an_error_at_every_length() {
        let bytes = AppliedRecord { last_applied: Some(log_id(3, 9)), ..Default::default() }.encode();
        for length in 0..bytes.len() {
            assert!(AppliedRecord::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
    }
}
