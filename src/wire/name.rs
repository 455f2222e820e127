//! Resource names and ids: their text forms and nothing else.
//!
//! A name is a path of collections and ids, `pools/{pool}/workers/{worker}/returns/{return}`. The registry holds the ids
//! alone, so every name that crosses the API is taken apart or put together here.
//!
//! Invariants
//! * What [`worker`] and its sisters accept, [`worker_name`] and its sisters print again, byte for byte.
//!
//! Never here: whether the thing exists.

use remuda_registry::{PoolId, Token, WorkerId};

/// Bounds of names.
pub mod limits {
    /// Longest pool or worker id: a DNS label, so that ids can become host names.
    pub const ID_BYTES_MAX: usize = 63;
    /// Longest job id: room for a URL-like id of a CI system.
    pub const JOB_BYTES_MAX: usize = 128;
    /// Longest agent id.
    pub const AGENT_BYTES_MAX: usize = 64;
    /// Shortest agent id: shorter ones would collide by accident.
    pub const AGENT_BYTES_MIN: usize = 8;
    /// Longest request id: a UUID, or a client id and a sequence number.
    pub const REQUEST_BYTES_MAX: usize = 36;
}

/// A text that is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}")]
pub struct NameError {
    /// What was given, cut to a readable length.
    pub found: String,
    /// The form that was expected.
    pub expected: &'static str,
}

/// What a list or a watch is confined to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// Everything.
    All,
    /// One pool.
    Pool(PoolId),
    /// One worker.
    Worker(WorkerId),
}

const POOL: &str = "`pools/{pool}` with an id of the form [a-z]([a-z0-9-]{0,61}[a-z0-9])?";
const WORKER: &str = "`pools/{pool}/workers/{worker}` with ids of the form [a-z]([a-z0-9-]{0,61}[a-z0-9])?";
const RETURN: &str = "`pools/{pool}/workers/{worker}/returns/{return}` with a decimal number at its end";
const PARENT: &str = "empty, `pools/-`, `pools/{pool}` or `pools/{pool}/workers/{worker}`";
const ID: &str = "an id of the form [a-z]([a-z0-9-]{0,61}[a-z0-9])?";

fn error(text: &str, expected: &'static str) -> NameError {
    const SHOWN: usize = 80;
    NameError { found: text[..text.floor_char_boundary(SHOWN)].to_owned(), expected }
}

/// Whether `text` is an id: `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`.
pub fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=limits::ID_BYTES_MAX).contains(&bytes.len())
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|b| word(b) || *b == b'-')
}

/// A pool's id as it stands alone, for example in CreatePool.
///
/// # Errors
/// Where it has not the form of an id.
pub fn pool_id(text: &str) -> Result<PoolId, NameError> {
    if is_id(text) { Ok(PoolId::from(text)) } else { Err(error(text, ID)) }
}

/// The pool of `pools/{pool}`.
///
/// # Errors
/// Where it is anything else.
pub fn pool(text: &str) -> Result<PoolId, NameError> {
    let id = text.strip_prefix("pools/").filter(|id| is_id(id));
    id.map(PoolId::from).ok_or_else(|| error(text, POOL))
}

/// The worker of `pools/{pool}/workers/{worker}`.
///
/// # Errors
/// Where it is anything else.
pub fn worker(text: &str) -> Result<WorkerId, NameError> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["pools", pool, "workers", worker] if is_id(pool) && is_id(worker) => Ok(WorkerId::new(*pool, *worker)),
        _ => Err(error(text, WORKER)),
    }
}

/// The worker and return of `pools/{pool}/workers/{worker}/returns/{return}`.
///
/// # Errors
/// Where it is anything else; the number has no leading zero and no sign.
pub fn return_(text: &str) -> Result<(WorkerId, Token), NameError> {
    let refused = || error(text, RETURN);
    let (of, number) = text.rsplit_once("/returns/").ok_or_else(refused)?;
    let worker = worker(of).map_err(|_| refused())?;
    let token = number.parse::<u64>().ok().filter(|token| token.to_string() == number).ok_or_else(refused)?;
    Ok((worker, Token(token)))
}

/// What a list or watch is confined to.
///
/// # Errors
/// Where it is neither empty nor `pools/-` nor the name of a pool or a worker.
pub fn parent(text: &str) -> Result<Parent, NameError> {
    if text.is_empty() || text == "pools/-" {
        return Ok(Parent::All);
    }
    pool(text).map(Parent::Pool).or_else(|_| worker(text).map(Parent::Worker)).map_err(|_| error(text, PARENT))
}

/// `pools/{pool}`.
pub fn pool_name(pool: &PoolId) -> String {
    format!("pools/{pool}")
}

/// `pools/{pool}/workers/{worker}`.
pub fn worker_name(worker: &WorkerId) -> String {
    format!("pools/{}/workers/{}", worker.pool, worker.name)
}

/// `pools/{pool}/workers/{worker}/returns/{return}`.
pub fn return_name(worker: &WorkerId, token: Token) -> String {
    format!("{}/returns/{token}", worker_name(worker))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_what_they_show() {
        let id = WorkerId::new("ci", "w-1");
        assert_eq!(worker(&worker_name(&id)), Ok(id.clone()));
        assert_eq!(pool(&pool_name(&id.pool)), Ok(id.pool.clone()));
        assert_eq!(return_(&return_name(&id, Token(7))), Ok((id.clone(), Token(7))));
        assert_eq!(parent(""), Ok(Parent::All));
        assert_eq!(parent("pools/-"), Ok(Parent::All));
        assert_eq!(parent("pools/ci"), Ok(Parent::Pool(id.pool.clone())));
        assert_eq!(parent("pools/ci/workers/w-1"), Ok(Parent::Worker(id)));
    }

    #[test]
    fn malformed_names_are_refused() {
        let long = "a".repeat(64);
        for id in ["", "A", "1a", "-a", "a-", "a_b", "a b", "ä", "a/b", "a\0", long.as_str()] {
            assert!(pool_id(id).is_err(), "{id:?}");
            assert!(pool(&format!("pools/{id}")).is_err(), "{id:?}");
            assert!(worker(&format!("pools/ci/workers/{id}")).is_err(), "{id:?}");
            assert!(worker(&format!("pools/{id}/workers/w")).is_err(), "{id:?}");
        }
        for name in ["ci", "pools", "pools/", "/pools/ci", "pools/ci/", "pool/ci", "pools/ci/workers", "Pools/ci"] {
            assert!(pool(name).is_err(), "{name:?}");
            assert!(worker(name).is_err(), "{name:?}");
        }
        for number in ["", "-1", "+1", "01", "1x", "18446744073709551616", "1/"] {
            assert!(return_(&format!("pools/ci/workers/w/returns/{number}")).is_err(), "{number:?}");
        }
        assert!(parent("pools/*").is_err());
        assert!(parent("pools/ci/workers/w/returns/1").is_err());
    }

    #[test]
    fn the_longest_id_is_accepted() {
        assert!(is_id(&"a".repeat(limits::ID_BYTES_MAX)));
        assert!(is_id("a"));
    }

    #[test]
    fn an_error_shows_a_bounded_piece_of_what_was_found() {
        let refused = pool(&"ä".repeat(1000)).unwrap_err();
        assert!(refused.found.len() <= 80);
    }
}
