//! Pages of lists: rows of one revision, and the tokens that go on in them.
//!
//! A list reads one snapshot of the durable copy, held for a minute. A token is opaque: it names cluster, replica, this
//! run of it, the held snapshot, what was asked, and the last key; anything else than this replica and this run, or a
//! later time, is PAGE_EXPIRED.
//!
//! Invariants
//! * All pages of one list show the same revision.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use remuda_wire::convert::Violations;
use remuda_wire::reasons;
use serde::{Deserialize, Serialize};

use super::status::Failure;
use crate::raft::Rows;

/// Bounds of lists.
pub mod limits {
    use std::time::Duration;

    /// A held snapshot keeps disk space that compaction would free.
    pub const HELD_FOR: Duration = Duration::from_secs(60);
    /// Snapshots held at once; the oldest goes first.
    pub const HELD_MAX: usize = 256;
    /// Rows looked at for one page, so that a selector that fits nothing does not hold a call for ever.
    pub const LOOKED_AT_MAX: usize = 20_000;
    /// Longest token.
    pub const TOKEN_BYTES_MAX: usize = 1_024;
}

/// The snapshots held for tokens.
#[derive(Default)]
pub struct Pages {
    held: Mutex<HashMap<u64, (Instant, Rows)>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Token {
    cluster: String,
    replica: u64,
    run: u64,
    snapshot: u64,
    asked: u64,
    after: Vec<u8>,
}

/// Whose tokens: those of this run of this replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The cluster.
    pub cluster: String,
    /// The replica.
    pub replica: u64,
    /// Drawn at each start.
    pub run: u64,
}

/// A list under way.
pub struct Page {
    /// The rows of one revision.
    pub rows: Rows,
    /// The key after which this page begins; empty at the start.
    pub after: Vec<u8>,
    snapshot: u64,
    asked: u64,
}

/// A number for what was asked, to tie a token to it.
pub fn asked(parts: &[&str]) -> u64 {
    let hash = blake3::hash(parts.join("\u{0}").as_bytes());
    u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("eight bytes of thirty-two"))
}

impl Pages {
    /// The first page of a list of `rows`.
    pub fn first(&self, rows: Rows, asked: u64) -> Page {
        Page { rows, after: Vec::new(), snapshot: rand::random(), asked }
    }

    /// The page that a token names.
    ///
    /// # Errors
    /// INVALID_FIELD where it is no token or one of another question; PAGE_EXPIRED where its rows are not held.
    pub fn next(&self, issuer: &Issuer, token: &str, asked: u64) -> Result<Page, Failure> {
        let bytes = Some(token).filter(|token| token.len() <= limits::TOKEN_BYTES_MAX);
        let bytes = bytes.and_then(|token| URL_SAFE_NO_PAD.decode(token).ok());
        let Some(token) = bytes.and_then(|bytes| postcard::from_bytes::<Token>(&bytes).ok()) else {
            return Err(invalid("is not a token of this service"));
        };
        let expired = || Failure::new(reasons::PAGE_EXPIRED, "the page token has expired, or is another replica's");
        if (&token.cluster, token.replica, token.run) != (&issuer.cluster, issuer.replica, issuer.run) {
            return Err(expired());
        }
        if token.asked != asked {
            return Err(invalid("was given for another question; the other fields must stay the same"));
        }
        let mut held = self.held.lock();
        held.retain(|_, (since, _)| since.elapsed() < limits::HELD_FOR);
        let (_, rows) = held.get(&token.snapshot).ok_or_else(expired)?;
        Ok(Page { rows: rows.clone(), after: token.after, snapshot: token.snapshot, asked })
    }

    /// The token of the page after `page`, which ended with the row `last`.
    pub fn token(&self, issuer: &Issuer, page: &Page, last: Vec<u8>) -> String {
        let mut held = self.held.lock();
        held.retain(|_, (since, _)| since.elapsed() < limits::HELD_FOR);
        while held.len() >= limits::HELD_MAX {
            let oldest = held.iter().min_by_key(|(_, (since, _))| *since).map(|(snapshot, _)| *snapshot);
            held.remove(&oldest.expect("the table is not empty"));
        }
        held.entry(page.snapshot).or_insert_with(|| (Instant::now(), page.rows.clone()));
        let Issuer { cluster, replica, run } = issuer.clone();
        let token = Token { cluster, replica, run, snapshot: page.snapshot, asked: page.asked, after: last };
        URL_SAFE_NO_PAD.encode(postcard::to_allocvec(&token).expect("a token holds only plain fields"))
    }

    /// Lets go of what nobody can ask for any more.
    pub fn sweep(&self) {
        self.held.lock().retain(|_, (since, _)| since.elapsed() < limits::HELD_FOR + Duration::from_secs(1));
    }
}

fn invalid(why: &str) -> Failure {
    let mut found = Violations::default();
    found.add("page_token", why);
    found.into()
}
