//! Names as people type them: in full, or bare where that is unique.
//!
//! Never here: names in answers; those are always full.

use remuda_client::{Client, WorkerId};
use remuda_wire::v1;

use crate::failure::Failure;

/// `p` or `pools/p` as `pools/p`.
pub(crate) fn pool(text: &str) -> String {
    if text.starts_with("pools/") { text.to_owned() } else { format!("pools/{text}") }
}

/// `pools/p/workers/w` or `p/w` as it is; a bare `w` is looked up.
pub(crate) async fn worker(client: &Client, text: &str) -> Result<WorkerId, Failure> {
    if let Some(id) = full_worker(text)? {
        return Ok(id);
    }
    let workers = client.list(v1::ListWorkersRequest { page_size: 1000, ..Default::default() }).await?.workers;
    let names = workers.iter().map(|w| w.name.as_str());
    unique(text, names)
}

/// The worker, where the text alone says which.
pub(crate) fn full_worker(text: &str) -> Result<Option<WorkerId>, Failure> {
    if text.starts_with("pools/") {
        return Ok(Some(text.parse()?));
    }
    match text.split_once('/') {
        Some((pool, worker)) => Ok(Some(format!("pools/{pool}/workers/{worker}").parse()?)),
        None => Ok(None),
    }
}

/// The one name among these whose last part is `bare`.
pub(crate) fn unique<'a>(bare: &str, names: impl Iterator<Item = &'a str>) -> Result<WorkerId, Failure> {
    let found: Vec<&str> = names.filter(|name| name.rsplit('/').next() == Some(bare)).collect();
    match found.as_slice() {
        [] => Err(Failure::NotFound(format!("no worker has the id {bare}"))),
        [one] => Ok(one.parse()?),
        several => Err(Failure::usage(format!("{bare} is not unique: {}", several.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_id_must_be_unique() {
        let names = ["pools/a/workers/w-1", "pools/b/workers/w-1", "pools/b/workers/w-2"];
        assert_eq!(unique("w-2", names.into_iter()).map(|w| w.to_string()).ok().as_deref(), Some(names[2]));
        assert_eq!(unique("w-1", names.into_iter()).map_err(|e| e.status()).err(), Some(2));
        assert_eq!(unique("w-3", names.into_iter()).map_err(|e| e.status()).err(), Some(3));
        assert_eq!(unique("1", names.into_iter()).map_err(|e| e.status()).err(), Some(3));
    }

    #[test]
    fn names_can_be_typed_short() {
        assert_eq!(pool("ci"), "pools/ci");
        assert_eq!(pool("pools/ci"), "pools/ci");
        let full = |text| full_worker(text).ok().flatten().map(|w| w.to_string());
        assert_eq!(full("ci/w"), full("pools/ci/workers/w"));
        assert_eq!(full("w"), None);
        assert!(full_worker("pools/ci").is_err());
    }
}
