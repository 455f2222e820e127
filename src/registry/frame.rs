//! The frame: what one log entry carries, and its bytes.
//!
//! The first byte is our format version; the rest is the postcard encoding of that version's fields.
//!
//! Invariants
//! * `decode(encode(frame)) == frame`; bytes of an unknown version, or with anything left over, are an error.

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::id::{Identity, RequestId};
use crate::limits;
use crate::time::LogTime;

/// Version of the frame's encoding.
const FORMAT: u8 = 1;

/// The content of one log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The term in which `stamp` was made; apply ignores a stamp of another term than the entry's.
    pub term: u64,
    /// The leader's log time.
    pub stamp: LogTime,
    /// The leader's wall clock in milliseconds since 1970, for people only.
    pub wall_ms: u64,
    /// The accumulator stood still for want of a quorum's acknowledgement since this leader's last frame: the grace
    /// begins anew. (A new term is seen by apply itself.)
    pub gap: bool,
    /// At most [`FRAME_COMMANDS_MAX`](crate::limits::FRAME_COMMANDS_MAX).
    pub requests: Vec<Request>,
}

/// A command and, where its caller may retry it, the mark that makes the retry the same request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `None`: fenced by its own content, or not safe to retry.
    pub mark: Option<RequestMark>,
    /// What to do.
    pub command: Command,
}

/// Makes a retried request the same request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestMark {
    /// The id.
    pub id: RequestId,
    /// Hash of method, caller, `not_after` and the fields that decide the effect.
    pub identity: Identity,
    /// After this log time the request is refused, and its outcome forgotten.
    pub not_after: LogTime,
    /// Attempt 2 or later, no attempt given, or proposed again by a server: a refusal is recorded too.
    pub retry: bool,
    /// Every seq below this has been answered to the client (numbered ids only).
    pub answered_below: u64,
}

/// Bytes that are not a frame of a known version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The version byte is missing or unknown: stop before applying it.
    #[error("frame format {0:?} is unknown; this build knows {FORMAT}")]
    UnknownFormat(Option<u8>),
    /// The rest does not decode.
    #[error("frame does not decode: {0}")]
    Malformed(String),
    /// It raises the feature level above what this build knows: stop before applying it.
    #[error("feature level {0} is unknown")]
    UnknownFeatureLevel(u32),
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![FORMAT]).expect("frames hold only types that postcard can encode")
    }

    /// The frame of these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let Some((&FORMAT, body)) = bytes.split_first() else {
            return Err(FrameError::UnknownFormat(bytes.first().copied()));
        };
        let decoded: Result<(Self, &[u8]), _> = postcard::take_from_bytes(body);
        let (frame, rest) = decoded.map_err(|error| FrameError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(FrameError::Malformed(format!("{} bytes left over", rest.len())));
        }
        frame.unknown_level().map_or(Ok(frame), |level| Err(FrameError::UnknownFeatureLevel(level)))
    }
}

impl Frame {
    /// The feature level that the frame raises to and this build does not know, if any.
    fn unknown_level(&self) -> Option<u32> {
        let raised = |request: &Request| {
            if let Command::RaiseFeatureLevel { level } = &request.command { Some(*level) } else { None }
        };
        self.requests.iter().filter_map(raised).find(|level| *level > limits::FEATURE_LEVEL)
    }

    /// The number of commands in a frame's bytes, without decoding them; `None` where they are no frame of ours.
    pub fn count(bytes: &[u8]) -> Option<usize> {
        type Head = (u64, LogTime, u64, bool, u64);
        let (&FORMAT, body) = bytes.split_first()? else { return None };
        let (head, _): (Head, &[u8]) = postcard::take_from_bytes(body).ok()?;
        usize::try_from(head.4).ok()
    }
}

impl Request {
    /// A request without a mark.
    pub fn unmarked(command: Command) -> Self {
        Self { mark: None, command }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_and_damage_is_noticed() {
        let requests = vec![Request::unmarked(Command::Tick)];
        let frame = Frame { term: 3, stamp: LogTime(7), wall_ms: 9, gap: false, requests };
        let mut bytes = frame.encode();
        assert_eq!(Frame::decode(&bytes), Ok(frame));
        assert_eq!(Frame::count(&bytes), Some(1));
        bytes.push(0);
        assert!(matches!(Frame::decode(&bytes), Err(FrameError::Malformed(_))));
        bytes[0] = 2;
        assert_eq!(Frame::decode(&bytes), Err(FrameError::UnknownFormat(Some(2))));
        assert_eq!(Frame::decode(&[]), Err(FrameError::UnknownFormat(None)));
    }
}
