//! The state digest: a sum of row hashes, kept incrementally.
//!
//! Each row (table, key and value bytes) has a 128-bit hash; the digest is their wrapping sum. Changing a row subtracts
//! the old hash and adds the new one, so an entry costs only what it changed, and the order of rows does not matter.
//!
//! Invariants
//! * Equal tables, equal digest; it covers every row but the one that holds the revision.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Digest of a state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}
