//! The bytes in which the leader answers forwarded proposals.
//!
//! A version, then postcard of types that stand here for nothing else: what the registry answered keeps the registry's
//! own serialized form.
//!
//! Never here: deciding what is absent and what unknown.

use bytes::Bytes;
use remuda_registry::{Outcome, Refusal, ReplicaId, Revision};
use serde::{Deserialize, Serialize};

use crate::propose::{Committed, LeaderHint, ProposeError, Proposed};

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
enum Answer {
    Committed { revision: u64, term: u64, ordinal: u32, result: Result<Outcome, Refusal> },
    NoLeader { hint: Option<(u64, String, u64)> },
    NotAccepted { reason: String },
    Unknown { reason: String },
}

/// Encodes one answer.
pub fn encode(answer: Proposed) -> Bytes {
    let answer = match answer {
        Ok(Committed { revision, term, ordinal, result }) => {
            Answer::Committed { revision: revision.0, term, ordinal, result }
        }
        Err(ProposeError::NoLeader { hint }) => {
            Answer::NoLeader { hint: hint.map(|hint| (hint.id.0, hint.client, hint.term)) }
        }
        Err(ProposeError::NotAccepted { reason }) => Answer::NotAccepted { reason },
        Err(ProposeError::Unknown { reason }) => Answer::Unknown { reason },
    };
    postcard::to_extend(&answer, vec![VERSION]).expect("answers hold only types that postcard can encode").into()
}

/// Decodes one answer. Bytes that are not understood say nothing about the effect.
pub fn decode(bytes: &[u8]) -> Proposed {
    let unknown = |reason: String| ProposeError::Unknown { reason };
    let body = match bytes.split_first() {
        Some((&VERSION, body)) => body,
        _ => return Err(unknown("the leader answers in a version that is not understood".to_owned())),
    };
    match postcard::from_bytes(body).map_err(|error| unknown(format!("the leader's answer: {error}")))? {
        Answer::Committed { revision, term, ordinal, result } => {
            Ok(Committed { revision: Revision(revision), term, ordinal, result })
        }
        Answer::NoLeader { hint } => {
            let hint = hint.map(|(id, client, term)| LeaderHint { id: ReplicaId(id), client, term });
            Err(ProposeError::NoLeader { hint })
        }
        Answer::NotAccepted { reason } => Err(ProposeError::NotAccepted { reason }),
        Answer::Unknown { reason } => Err(unknown(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_they_went() {
        let committed = |result| Ok(Committed { revision: Revision(9), term: 2, ordinal: 3, result });
        let hint = Some(LeaderHint { id: ReplicaId(2), client: "h:1".into(), term: 4 });
        let answers = [
            committed(Ok(Outcome::Ticked)),
            committed(Err(Refusal::NotBootstrapped)),
            Err(ProposeError::NoLeader { hint }),
            Err(ProposeError::NotAccepted { reason: "full".into() }),
            Err(ProposeError::Unknown { reason: "late".into() }),
        ];
        for answer in answers {
            assert_eq!(decode(&encode(answer.clone())), answer);
        }
        assert!(matches!(decode(&[9, 9]), Err(ProposeError::Unknown { .. })));
    }
}
