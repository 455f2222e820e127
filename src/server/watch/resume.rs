//! Resume tokens of event streams: opaque, and tied to their cluster.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use remuda_registry::Revision;
use serde::{Deserialize, Serialize};

/// Longest token.
const BYTES_MAX: usize = 256;
/// Version of a token's bytes, the first of them.
const FORMAT: u8 = 1;
/// The only group that there is; tokens name it so that pools can be placed on several one day.
const GROUP: u32 = 0;

#[derive(Serialize, Deserialize)]
struct Token {
    cluster: String,
    group: u32,
    revision: u64,
}

/// Why a token leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeError {
    /// It is no token.
    Malformed,
    /// It is one of another cluster: what it points at is not here.
    Foreign,
}

/// The token that resumes after `revision`.
pub fn token(cluster: &str, revision: Revision) -> String {
    let token = Token { cluster: cluster.to_owned(), group: GROUP, revision: revision.0 };
    URL_SAFE_NO_PAD.encode(postcard::to_extend(&token, vec![FORMAT]).expect("a token holds only plain fields"))
}

/// The revision after which a token resumes.
///
/// # Errors
/// [`ResumeError`].
pub fn read(cluster: &str, text: &str) -> Result<Revision, ResumeError> {
    let bytes = Some(text).filter(|text| text.len() <= BYTES_MAX);
    let bytes = bytes.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or(ResumeError::Malformed)?;
    let body = bytes.strip_prefix(&[FORMAT]).ok_or(ResumeError::Malformed)?;
    let (token, rest) = postcard::take_from_bytes::<Token>(body).map_err(|_| ResumeError::Malformed)?;
    if !rest.is_empty() {
        return Err(ResumeError::Malformed);
    }
    let ours = token.cluster == cluster && token.group == GROUP;
    if ours { Ok(Revision(token.revision)) } else { Err(ResumeError::Foreign) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_resumes_in_its_own_cluster_only() {
        let text = token("a", Revision(7));
        assert_eq!(read("a", &text), Ok(Revision(7)));
        assert_eq!(read("b", &text), Err(ResumeError::Foreign));
        for wrong in ["", "x", "====", "AAAA", &"A".repeat(1000)] {
            assert_eq!(read("a", wrong), Err(ResumeError::Malformed), "{wrong:?}");
        }
    }
}
