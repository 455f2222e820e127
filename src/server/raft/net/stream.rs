//! The append stream: requests out, acknowledgements in, in the same order, with a stall timeout of our own.
//!
//! A stream lives for as long as the leader does. HTTP/2 notices a dead connection, but not a follower that took a
//! request and never answers; so the oldest unanswered request is timed here, and an overdue one ends the stream.
//! openraft then opens another. Its pause after an error lies in the stream of requests, before the first of them; so
//! that request is awaited before the connection, else a dead follower would be called again without any pause.
//!
//! Never here: the follower's side (`service`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::AnyError;
use openraft::errors::{NetworkError, RPCError, Unreachable};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use parking_lot::Mutex;
use remuda_wire::raft::v1 as peer;
use tonic::{Code, Status, Streaming};

use super::channel::PeerClient;
use super::frame;
use crate::raft::clock::Clock;
use crate::raft::types::TypeConfig;

type Error = RPCError<TypeConfig>;

/// When the requests that are on their way were sent.
type Outstanding = Arc<Mutex<VecDeque<Instant>>>;

/// Sends `input` over one stream and returns the acknowledgements.
///
/// # Errors
/// Where no stream can be opened within `stall`.
pub async fn append<S>(
    mut client: PeerClient,
    caller: peer::Caller,
    clock: Arc<Clock>,
    mut input: S,
    stall: Duration,
) -> Result<impl Stream<Item = Result<StreamAppendResult<TypeConfig>, Error>> + Send + 'static, Error>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let outstanding = Outstanding::default();
    let sent = Arc::clone(&outstanding);
    let mut caller = Some(caller);
    let first = input.next().await;
    let requests = stream::iter(first).chain(input).map(move |request| {
        sent.lock().push_back(Instant::now());
        let (age, time) = clock.carried();
        peer::AppendRequest {
            caller: caller.take(),
            body: frame::put_append(&request),
            quorum_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            log_time_ms: time.0,
        }
    });
    let opened = tokio::time::timeout(stall, client.append(requests)).await;
    let responses = opened.map_err(|_| overdue(stall))?.map_err(|status| refused(&status))?.into_inner();
    let state = Some(Answers { responses, outstanding, stall });
    Ok(stream::unfold(state, |state| async move {
        let mut answers = state?;
        match answers.next().await {
            Ok(Some(result)) => Some((Ok(result), Some(answers))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

struct Answers {
    responses: Streaming<peer::AppendResponse>,
    outstanding: Outstanding,
    stall: Duration,
}

impl Answers {
    async fn next(&mut self) -> Result<Option<StreamAppendResult<TypeConfig>>, Error> {
        loop {
            let oldest = self.outstanding.lock().front().copied();
            let deadline = oldest.unwrap_or_else(Instant::now) + self.stall;
            match tokio::time::timeout_at(deadline.into(), self.responses.message()).await {
                Ok(Ok(Some(response))) => return self.take(response.body).map(Some),
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(status)) => return Err(refused(&status)),
                // Nothing was on its way when the wait began, or that was answered: wait on.
                Err(_) if self.outstanding.lock().front().is_none_or(|at| at.elapsed() < self.stall) => {}
                Err(_) => return Err(overdue(self.stall)),
            }
        }
    }

    fn take(&self, body: Bytes) -> Result<StreamAppendResult<TypeConfig>, Error> {
        self.outstanding.lock().pop_front();
        frame::take_appended(body).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }
}

fn overdue(stall: Duration) -> Error {
    let text = format!("no acknowledgement within {} ms", stall.as_millis());
    RPCError::Network(NetworkError::new(&AnyError::error(text)))
}

/// What a failed call means to openraft: one that cannot succeed soon asks for a pause before the next.
pub fn refused(status: &Status) -> Error {
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition | Code::Unimplemented => {
            RPCError::Unreachable(Unreachable::new(&AnyError::error(text(status))))
        }
        _ => RPCError::Network(NetworkError::new(&AnyError::error(text(status)))),
    }
}

fn text(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
