//! What every call passes first: its deadline, and the count of how it ended.
//!
//! tonic answers an expired deadline with CANCELLED and drops the handler. Here the deadline is handed to the handler
//! and, when it passes, answered with DEADLINE_EXCEEDED; a command that was handed over by then goes on, and the retry
//! with the same request id finds its answer.
//!
//! Never here: the meaning of any call.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tonic::body::Body;
use tower::Service;

use super::Replica;
use super::status::Failure;
use crate::metrics::Metrics;

/// Bounds of deadlines.
mod limits {
    use std::time::Duration;

    /// A call that names no deadline has this one; waiting calls add their wait.
    pub(super) const DEFAULT: Duration = Duration::from_secs(15);
    /// The handler's own deadline lies this much before the call's, so that it can answer with details.
    pub(super) const MARGIN: Duration = Duration::from_millis(20);
    /// No deadline lies further ahead.
    pub(super) const MAX: Duration = Duration::from_secs(24 * 3_600);
}

/// A call's deadline, in the extensions of its request.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    named: bool,
}

impl Deadline {
    /// The deadline of a request; `wait` is added where the caller named none.
    pub fn of<T>(request: &tonic::Request<T>, wait: Duration) -> Instant {
        match request.extensions().get::<Self>() {
            Some(deadline) if deadline.named => deadline.at,
            Some(deadline) => deadline.at + wait,
            None => Instant::now() + limits::DEFAULT + wait,
        }
    }
}

/// The layer's service around the routes.
#[derive(Clone)]
pub struct Front<S> {
    inner: S,
    replica: Arc<Replica>,
}

impl<S> Front<S> {
    /// Around `inner`.
    pub fn new(inner: S, replica: Arc<Replica>) -> Self {
        Self { inner, replica }
    }
}

impl<S, B> Service<Request<B>> for Front<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<Counted>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let begun = Instant::now();
        let named = timeout_of(request.headers());
        let left = named.map_or(limits::DEFAULT, |timeout| timeout.saturating_sub(limits::MARGIN.min(timeout / 4)));
        request.extensions_mut().insert(Deadline { at: begun + left, named: named.is_some() });
        let count = Count { metrics: self.replica.metrics.clone(), method: request.uri().path().to_owned(), begun };
        // The clone that was polled ready must be the one that is called.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let replica = self.replica.clone();
        Box::pin(async move {
            let answered = match named {
                None => inner.call(request).await,
                Some(timeout) => match tokio::time::timeout(timeout, inner.call(request)).await {
                    Ok(answered) => answered,
                    Err(_) => Ok(replica.status(Failure::deadline(true)).into_http()),
                },
            };
            let response = answered?;
            let known = code_of(response.headers());
            Ok(response.map(|body| Counted { body, count: Some(count), known }))
        })
    }
}

/// The timeout that a caller names: digits and a unit.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.min(limits::MAX))
}

fn code_of(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

struct Count {
    metrics: Arc<Metrics>,
    method: String,
    begun: Instant,
}

/// A body whose end is counted.
pub struct Counted {
    body: Body,
    count: Option<Count>,
    known: Option<i32>,
}

impl Counted {
    fn end(&mut self, code: Option<i32>) {
        if let Some(count) = self.count.take() {
            // A body dropped before its trailers was cancelled by the caller.
            let code = tonic::Code::from_i32(code.or(self.known).unwrap_or(tonic::Code::Cancelled as i32));
            count.metrics.handled(&count.method, code, count.begun.elapsed());
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            let code = code_of(trailers);
            self.end(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let timeout = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout_of(&headers)
        };
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("99999999H"), Some(limits::MAX));
        for wrong in ["", "S", "5", "5s", "-5S", "999999999S", "5 S", "é"] {
            assert_eq!(wrong.parse().ok().and_then(|_: http::HeaderValue| timeout(wrong)), None, "{wrong:?}");
        }
    }
}
