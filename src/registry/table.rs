//! A hot table: rows in key order, with the hash that each row has in the digest.
//!
//! The first change of a row within an entry notes its old hash; [`Table::flush`] encodes each changed row once, moves
//! the digest, and hands out the bytes. So an entry costs what it changed, however often it changed it.
//!
//! Invariants
//! * After a flush the digest holds exactly the hashes of the rows that are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::id::{AgentId, ClientId, PoolId, RequestId, Revision, WaiterId, WorkerId};
use crate::row::{Key, Table as Tag, encode};

/// Hash of a row; zero stands for "no row".
pub(crate) type RowHash = u128;

/// A key that knows its bytes.
pub(crate) trait RowKey: Ord + Clone {
    /// The row's key in the durable copy.
    fn bytes(&self, tag: Tag) -> Vec<u8>;
}

/// A row in memory. Its hash is kept as bytes: as a number it would pad every row to 16 bytes.
#[derive(Debug, Clone)]
pub(crate) struct Slot<V> {
    value: V,
    hash: [u8; 16],
    changed: bool,
}

/// Rows of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Table<K, V> {
    tag: Tag,
    rows: BTreeMap<K, Slot<V>>,
    /// Rows changed since the last flush, with the hash that they had.
    changed: BTreeMap<K, RowHash>,
}

impl<K: RowKey, V: Serialize> Table<K, V> {
    pub(crate) fn new(tag: Tag) -> Self {
        Self { tag, rows: BTreeMap::new(), changed: BTreeMap::new() }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key).map(|slot| &slot.value)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter().map(|(key, slot)| (key, &slot.value))
    }

    pub(crate) fn range<R: std::ops::RangeBounds<K>>(&self, range: R) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.range(range).map(|(key, slot)| (key, &slot.value))
    }

    /// The row, to be changed.
    pub(crate) fn edit(&mut self, key: &K) -> Option<&mut V> {
        let slot = self.rows.get_mut(key)?;
        if !slot.changed {
            slot.changed = true;
            self.changed.insert(key.clone(), u128::from_le_bytes(slot.hash));
        }
        Some(&mut slot.value)
    }

    /// Puts a row, whether there was one or not.
    pub(crate) fn put(&mut self, key: K, value: V) {
        if let Some(old) = self.edit(&key) {
            *old = value;
        } else {
            self.changed.entry(key.clone()).or_insert(0);
            self.rows.insert(key, Slot { value, hash: [0; 16], changed: true });
        }
    }

    /// Removes a row.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.rows.remove(key)?;
        if !slot.changed {
            self.changed.insert(key.clone(), u128::from_le_bytes(slot.hash));
        }
        Some(slot.value)
    }

    /// Encodes what changed: calls `write(key, value)` per row and returns the movement of the digest.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(Vec<u8>, Option<Vec<u8>>)) -> u128 {
        let mut moved: u128 = 0;
        for (key, before) in std::mem::take(&mut self.changed) {
            let key_bytes = key.bytes(self.tag);
            let slot = self.rows.get_mut(&key);
            let value = slot.as_ref().map(|slot| encode(&slot.value));
            let after = value.as_ref().map_or(0, |value| row_hash(&key_bytes, value));
            if let Some(slot) = slot {
                slot.hash = after.to_le_bytes();
                slot.changed = false;
            }
            moved = moved.wrapping_sub(before).wrapping_add(after);
            if before != after {
                write(key_bytes, value);
            }
        }
        moved
    }

    /// The sum of all rows' hashes, computed anew.
    pub(crate) fn sum(&self) -> u128 {
        let hash = |(key, slot): (&K, &Slot<V>)| row_hash(&key.bytes(self.tag), &encode(&slot.value));
        self.rows.iter().map(hash).fold(0, u128::wrapping_add)
    }
}

/// The hash of a row.
pub(crate) fn row_hash(key: &[u8], value: &[u8]) -> RowHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let hash = hasher.finalize();
    let (first, _) = hash.as_bytes().split_first_chunk::<16>().expect("a hash has 32 bytes");
    u128::from_le_bytes(*first)
}

impl RowKey for () {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        Key::new(tag).done()
    }
}

impl RowKey for PoolId {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        Key::new(tag).text(self.as_str()).done()
    }
}

impl RowKey for (PoolId, u64) {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        Key::new(tag).text(self.0.as_str()).number(self.1).done()
    }
}

impl RowKey for (PoolId, u32) {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        Key::new(tag).text(self.0.as_str()).ordinal(self.1).done()
    }
}

impl RowKey for AgentId {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        Key::new(tag).text(self.as_str()).done()
    }
}

impl RowKey for WorkerId {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        Key::new(tag).worker(self).done()
    }
}

impl RowKey for WaiterId {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        Key::new(tag).number(self.0).done()
    }
}

impl RowKey for Revision {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        Key::new(tag).number(self.0).done()
    }
}

impl RowKey for ClientId {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        Key::new(tag).text(self.as_str()).done()
    }
}

impl RowKey for RequestId {
    fn bytes(&self, tag: Tag) -> Vec<u8> {
        match self {
            Self::Numbered { client, seq } => Key::new(tag).number(0).text(client.as_str()).number(*seq).done(),
            Self::Named(name) => Key::new(tag).number(1).text(name).done(),
        }
    }
}

/// Reads a key's parts back, in the order in which [`Key`] wrote them.
pub(crate) struct KeyParts<'a>(pub(crate) &'a [u8]);

impl KeyParts<'_> {
    pub(crate) fn text(&mut self) -> Option<Arc<str>> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(&self.0[..end]).ok()?.into();
        self.0 = &self.0[end + 1..];
        Some(text)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    pub(crate) fn ordinal(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    pub(crate) fn worker(&mut self) -> Option<WorkerId> {
        Some(WorkerId { pool: crate::id::PoolId(self.text()?), name: self.text()? })
    }
}
